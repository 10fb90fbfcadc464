//! That init starts what the notary logged, and nothing else: the agent asks by real links, with and without a permit.

use super::*;
use crate::channel::pair;
use std::path::Path;

/// The other ends of init's links.
struct Others {
    notary: Channel<warrant::ToInit, warrant::ToNotary>,
    agent: Channel<start::ToInit, start::ToAgent>,
    _observer: Channel<observe::ToInit, observe::ToObserver>,
}

/// An init that has admitted one identity, and has no room to start anything in.
fn supervisor(place: &Path) -> (Supervisor, Others) {
    let (notary, notarys) = pair().unwrap();
    let (agent, agents) = pair().unwrap();
    let (observer, observers) = pair().unwrap();
    let policy = std::fs::File::open("/dev/null").unwrap().into();
    let upper = Upper::open(place.to_str().unwrap()).unwrap();
    let mut supervisor = Supervisor::new(
        Hierarchy::at(place),
        (upper, place.to_owned()),
        Child { pid: 0, link: notary },
        Child { pid: 0, link: agent },
        Child { pid: 0, link: observer },
        policy,
    );
    supervisor.identities = Identities::new(&["default".to_owned()]).unwrap();
    (supervisor, Others { notary: notarys, agent: agents, _observer: observers })
}

/// What init says when the agent asks for the starts of these requests, each for intent 7, after these permits.
fn asked(permits: &[&[u8]], starts: &[&[u8]]) -> (String, String) {
    let place = tempfile::tempdir().unwrap();
    let (mut init, others) = supervisor(place.path());
    for request in permits {
        let request = *Digest256::of(request).as_bytes();
        let permit = warrant::ToInit::Permit { intent: 7, identity: "default".into(), request };
        others.notary.send(&permit, &[], Wait::Block).unwrap();
    }
    for request in starts {
        let start = start::ToInit::Start { intent: 7, request: request.to_vec() };
        others.agent.send(&start, &[], Wait::Block).unwrap();
    }
    assert!(matches!(init.drain_agent(), Turn::Go));
    assert!(init.calls.is_empty() && init.permits.is_empty(), "something was started, or may still be");
    assert!(init.ending.is_some(), "the machine goes on");
    match others.agent.receive(Wait::Never) {
        Ok((start::ToAgent::Fatal { stage, detail }, _)) => (stage, detail),
        other => panic!("expected the reason, found {other:?}"),
    }
}

#[test]
fn what_the_notary_did_not_log_is_not_started_and_ends_the_machine() {
    let refused = |detail: &str| ("unlogged start".to_owned(), format!("intent 7: {detail}"));
    assert_eq!(asked(&[], &[b"request"]), refused("there is no permit for it"));
    let other = "the request is not the one that was logged";
    assert_eq!(asked(&[b"request"], &[b"Request"]), refused(other));
    assert_eq!(asked(&[b"request"], &[b""]), refused(other));
    // The control: with its permit a start gets as far as the room that there is none of.
    assert_eq!(asked(&[b"request"], &[b"request"]), refused("the workspace is gone"));
}

#[test]
fn a_permit_serves_one_start_and_is_given_once() {
    let place = tempfile::tempdir().unwrap();
    let (mut init, others) = supervisor(place.path());
    let request = *Digest256::of(b"request").as_bytes();
    let permit = warrant::ToInit::Permit { intent: 7, identity: "default".into(), request };
    others.notary.send(&permit, &[], Wait::Block).unwrap();
    init.drain_notary().unwrap();
    assert!(init.start(7, b"request").unwrap_err().1.contains("the workspace is gone"));
    assert!(init.start(7, b"request").unwrap_err().1.contains("there is no permit"));
    // Of one intent, of somebody who is not of the session: no permit at all.
    for _ in 0..2 {
        others.notary.send(&permit, &[], Wait::Block).unwrap();
    }
    assert!(init.drain_notary().unwrap_err().1.contains("a permit for intent 7 that cannot be one"));
    let stranger = warrant::ToInit::Permit { intent: 8, identity: "stranger".into(), request };
    others.notary.send(&stranger, &[], Wait::Block).unwrap();
    assert!(init.drain_notary().unwrap_err().1.contains("a permit for intent 8 that cannot be one"));
}
