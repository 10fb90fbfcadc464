//! R10 to R15: leaves, events, note, calls, seal, prefixes.

use coffer_evidence::bundle::{self, Parts};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{CallId, Digest256, Digest384, InstanceId, SessionId};
use coffer_evidence::intent::{Authority, Durability};
use coffer_evidence::leaf::{CauseClass, Leaf, LimitKind, Method, Public};
use coffer_evidence::rtmr::{Rtmr, Rtmr3Event};
use coffer_evidence::seal::{ClosedBy, Reason, SealMap};
use coffer_evidence::verify::{AcceptPrefix, Accepted, Options, Rule, Verdict, verify_bundle};

use crate::judging::{decided, options, refused, sealed_parts, unaccepted, verify, verify_parts};
use crate::session::{Ending, Recipe, key, opening, parts, plain, with_receipt};

#[test]
fn a_changed_leaf_is_refused() {
    let mut parts = sealed_parts();
    // The wall-clock hint of leaf 3, key 9: no rule but the roots looks at it.
    let position = parts.leaves[3].windows(2).position(|pair| pair == [9, 0]).expect("the hint");
    parts.leaves[3][position + 1] = 1;
    refused(&verify_parts(&parts), Rule::R10, "root at each event");
}

#[test]
fn a_missing_last_leaf_is_refused() {
    let mut parts = sealed_parts();
    parts.leaves.pop();
    refused(&verify_parts(&parts), Rule::R10, "root at each event");
}

#[test]
fn a_leaf_too_many_is_refused() {
    let mut parts = parts(&Recipe::default(), Ending::Killed);
    let index = parts.leaves.len() as u64;
    let session = opening(&Recipe::default()).intent.session;
    parts.leaves.push(plain(session, index, Public::Limit { which: LimitKind::Idle }).to_bytes());
    refused(&verify_parts(&parts), Rule::R10, "root at each event");
}

#[test]
fn leaves_out_of_order_of_another_session_or_back_in_time_are_refused() {
    let changes: [fn(&mut Vec<Leaf>); 6] = [
        |leaves| leaves.swap(1, 2),
        |leaves| leaves[2].index = 7,
        |leaves| leaves[2].session = SessionId::new([1; 16]),
        |leaves| leaves[3].monotonic_ns = 1,
        |leaves| leaves[0].public = Public::Limit { which: LimitKind::Idle },
        |leaves| {
            let Public::Open { opening_quote, .. } = &mut leaves[0].public else { panic!("leaf 0 opens") };
            *opening_quote = Digest256::of(b"another quote");
        },
    ];
    for leaves in changes {
        refused(&verify(&Recipe { leaves, ..Recipe::default() }), Rule::R10, "leaves in order");
    }
}

#[test]
fn events_out_of_order_are_refused() {
    let changes: [fn(&mut Vec<Rtmr3Event>); 5] = [
        |events| drop(events.remove(0)),
        |events| events.insert(1, events[0].clone()),
        |events| events.swap(1, 2),
        |events| events.insert(1, events[1].clone()),
        |events| {
            let sealed = events[3].clone();
            events.push(sealed);
        },
    ];
    for events in changes {
        refused(&verify(&Recipe { events, ..Recipe::default() }), Rule::R10, "root at each event");
    }
}

#[test]
fn a_note_of_another_key_another_log_or_another_size_is_refused() {
    const NAME: &str = "note is the last event's";
    refused(&verify(&Recipe { note_key: key(9), ..Recipe::default() }), Rule::R11, NAME);
    refused(&verify(&Recipe { checkpoint: |note| note.origin.push('x'), ..Recipe::default() }), Rule::R11, NAME);
    refused(&verify(&Recipe { checkpoint: |note| note.size = 2, ..Recipe::default() }), Rule::R11, NAME);
    refused(
        &verify(&Recipe { checkpoint: |note| note.root = Digest256::of(b""), ..Recipe::default() }),
        Rule::R11,
        NAME,
    );
}

#[test]
fn calls_without_their_one_intent_and_one_outcome_are_refused() {
    let changes: [fn(&mut Vec<Leaf>); 7] = [
        // Two decisions on one call.
        |leaves| leaves[3].call = leaves[1].call,
        // An outcome of a call that nobody ordered.
        |leaves| leaves[4].call = Some(CallId::new([99; 16])),
        // Two outcomes of one call.
        |leaves| {
            leaves[3] = leaves[2].clone();
            leaves[3].index = 3;
        },
        // An outcome of another method.
        |leaves| {
            let public = Public::Outcome {
                method: Method::Stat,
                cause: CauseClass::Completed,
                output_steps: 0,
                input_steps: 0,
                input_covered: None,
            };
            leaves[2].public = public;
        },
        // No outcome.
        |leaves| {
            let limit = plain(leaves[6].session, 6, Public::Limit { which: LimitKind::Idle });
            leaves[6] = Leaf { monotonic_ns: leaves[6].monotonic_ns, ..limit };
        },
        // A wrong count.
        |leaves| leaves[8].public = Public::Seal { count: 8 },
        // Seal without scrub.
        |leaves| leaves[7].public = Public::Limit { which: LimitKind::Idle },
    ];
    for (number, leaves) in changes.into_iter().enumerate() {
        let report = verify(&Recipe { leaves, ..Recipe::default() });
        assert_eq!(
            decided(&report).first().map(|check| check.0),
            Some(Rule::R13),
            "change {number}\n{}",
            report.human()
        );
    }
}

#[test]
fn another_sessions_seal_is_refused() {
    let other = Recipe { intent: |intent| intent.session = SessionId::new([0xee; 16]), ..Recipe::default() };
    let mut stolen = sealed_parts();
    stolen.seal = parts(&other, Ending::Sealed).seal;
    // The other session's TD has another configuration in its registers.
    refused(&verify_parts(&stolen), Rule::R6, "same TD and platform");
}

#[test]
fn the_seal_of_a_twin_from_the_same_configuration_is_refused() {
    let twin = Recipe { open: |open| open.random = [0x77; 32], ..Recipe::default() };
    let mut stolen = sealed_parts();
    stolen.seal = parts(&twin, Ending::Sealed).seal;
    refused(&verify_parts(&stolen), Rule::R14, "seal is the one recomputed");
}

#[test]
fn each_field_of_the_seal_is_recomputed() {
    type Change = (&'static str, fn(&mut SealMap));
    let changes: [Change; 9] = [
        ("session", |map| map.session = SessionId::new([1; 16])),
        ("instance", |map| map.instance = InstanceId::new([1; 32])),
        ("configuration digest", |map| map.config_digest = Digest384::of(b"")),
        ("opening quote", |map| map.opening_quote = Digest256::of(b"")),
        ("size", |map| map.size += 1),
        ("root", |map| map.root = Digest256::of(b"")),
        ("number of events", |map| map.events -= 1),
        ("RTMR3", |map| map.rtmr3 = Rtmr::ZERO),
        ("scrub leaf", |map| map.scrub_leaf = Digest256::of(b"")),
    ];
    for (field, seal) in changes {
        let report = verify(&Recipe { seal, ..Recipe::default() });
        refused(&report, Rule::R14, "seal is the one recomputed");
        assert!(report.obstacles().any(|check| check.reason.ends_with(field)), "{field}");
    }
}

#[test]
fn a_seal_that_names_a_client_without_its_signed_close_is_refused() {
    let by = |seal: fn(&mut SealMap)| verify(&Recipe { seal, ..Recipe::default() });
    let report = by(|map| map.closed_by = ClosedBy::Client);
    refused(&report, Rule::R14, "who closed it is shown");
    assert_eq!(report.closed_by, None, "nothing that was refused is reported");
    for (seal, word) in [
        ((|map| map.closed_by = ClosedBy::Agent) as fn(&mut SealMap), "agent"),
        (|map| map.closed_by = ClosedBy::Host, "host"),
    ] {
        let report = by(seal);
        assert_eq!((report.verdict, report.closed_by.as_deref()), (Verdict::Sealed, Some(word)), "{}", report.human());
    }
}

#[test]
fn a_seal_that_the_final_quote_does_not_bind_is_refused() {
    let other = Recipe { seal: |map| map.reason = Reason::TtlExpired, ..Recipe::default() };
    let mut parts = sealed_parts();
    let swapped = crate::session::parts(&other, Ending::Sealed).seal.unwrap();
    parts.seal.as_mut().unwrap().map = swapped.map;
    refused(&verify_parts(&parts), Rule::R14, "final report data binds the seal");
}

#[test]
fn a_final_register_that_is_not_the_replay_of_the_events_is_refused() {
    let recipe = Recipe { final_td: |td| td.rtmr[3][0] ^= 1, ..Recipe::default() };
    refused(&verify(&recipe), Rule::R14, "final RTMR3 is the replay of all events");
}

#[test]
fn a_seal_without_its_last_two_events_is_refused() {
    let recipe = Recipe { events: |events| drop(events.pop()), ..Recipe::default() };
    refused(&verify(&recipe), Rule::R14, "last events are checkpoint and sealed");
}

#[test]
fn a_statement_by_another_key_or_about_another_seal_is_refused() {
    refused(&verify(&Recipe { statement_key: key(9), ..Recipe::default() }), Rule::R14, "statement");
    let other = Recipe { seal: |map| map.reason = Reason::TtlExpired, ..Recipe::default() };
    let mut parts = sealed_parts();
    parts.seal.as_mut().unwrap().statement = crate::session::parts(&other, Ending::Sealed).seal.unwrap().statement;
    refused(&verify_parts(&parts), Rule::R14, "statement");
}

#[test]
fn a_killed_session_is_an_aborted_prefix_with_its_unknown_call_and_accepted_only_on_request() {
    let parts = parts(&Recipe::default(), Ending::Killed);
    let report = verify_parts(&parts);
    unaccepted(&report, Verdict::Aborted, Accepted::No, "whole record");
    assert_eq!((report.extent.as_deref(), report.outcome), (Some("prefix(6)"), Some("aborted")));
    assert_eq!((report.reason.as_deref(), report.closed_by.as_deref()), (None, None));
    assert!(
        report
            .checks
            .iter()
            .any(|check| check.rule == Rule::R13 && check.reason.starts_with("outcome unknown: default/"))
    );
    assert!(
        report
            .words
            .iter()
            .any(|words| words.starts_with("A prefix of 6 leaves is genuine; nothing is known after it;"))
    );
    let asked = Options { accept_prefix: AcceptPrefix::Yes, ..options() };
    assert_eq!(verify_bundle(&bundle::write(&parts), &asked).accepted, Accepted::Yes);
}

#[test]
fn a_sealed_bundle_stripped_of_its_seal_is_only_a_prefix_and_never_accepted() {
    let stripped = Parts { seal: None, ..sealed_parts() };
    let report = verify_parts(&stripped);
    unaccepted(&report, Verdict::Aborted, Accepted::No, "whole record");
    // Its receipt was for the whole.
    let receipted = Parts { seal: None, ..with_receipt(&Recipe::default(), sealed_parts()) };
    refused(&verify_parts(&receipted), Rule::R17, "host receipt (claim)");
}

#[test]
fn a_prefix_may_end_before_the_first_checkpoint() {
    let mut parts = parts(&Recipe::default(), Ending::Killed);
    parts.leaves.clear();
    parts.events.truncate(1);
    parts.checkpoint.clear();
    parts.disclosed = None;
    let report = verify_parts(&parts);
    assert_eq!((report.verdict, report.extent.as_deref()), (Verdict::Aborted, Some("prefix(0)")), "{}", report.human());
}

#[test]
fn sessions_in_which_nobody_signed_what_their_intent_asks_for_are_refused() {
    let recipe = Recipe { intent: |intent| intent.authority = Authority::EndToEnd, ..Recipe::default() };
    refused(&verify(&recipe), Rule::R12, "call headers in their leaves");
    let recipe = Recipe { intent: |intent| intent.durability = Durability::Strict, ..Recipe::default() };
    refused(&verify(&recipe), Rule::R15, "started effects were acknowledged");
}

/// The statement is the one that the seal's fields give, and the seal names another.
#[test]
fn a_seal_that_names_another_statement_is_refused() {
    let mut parts = crate::judging::sealed_parts();
    let seal = parts.seal.as_mut().expect("a seal");
    let mut map =
        <coffer_evidence::seal::SealMap as coffer_evidence::fields::Canonical>::parse(&seal.map).expect("a map");
    map.statement = Digest256::of(b"another");
    let mut td = crate::session::opening(&Recipe::default()).td;
    td.rtmr[3] = *map.rtmr3.as_bytes();
    seal.map = coffer_evidence::fields::Canonical::to_bytes(&map);
    seal.quote =
        crate::platform::quote_with_chain(&td, &map.report_data(), crate::platform::PCK_DER, crate::platform::ROOT_DER);
    refused(&crate::judging::verify_parts(&parts), Rule::R14, "statement");
}
