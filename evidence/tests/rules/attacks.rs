//! What a guest that lies, a client or somebody who writes to the file could try, beyond the vectors of the corpus.

use std::cell::Cell;

use coffer_evidence::bundle;
use coffer_evidence::call::{Disclosed, OutcomePrivate, StreamDigest};
use coffer_evidence::call_header::Said;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{CallId, Digest256, Identity};
use coffer_evidence::intent::Intent;
use coffer_evidence::leaf::{CauseClass, Opened, Public, Rejection};
use coffer_evidence::rtmr::{Rtmr3Event, event_bytes};
use coffer_evidence::sign::PublicKey;
use coffer_evidence::tree::{Tree, leaf_hash};
use coffer_evidence::verify::{
    AcceptPrefix, Accepted, EverySignature, Options, Report, Verdict, verify_bundle, verify_source,
};

use crate::judging::{options, verify_parts};
use crate::session::talk::{Talk, asked, end_to_end, usual};
use crate::session::{Ending, Recipe, key, parts, sealed};
use crate::source::Shifting;

fn recipe(talk: fn(&mut Talk<'_>)) -> Recipe {
    Recipe { intent: end_to_end, talk: Some(talk), ..Recipe::default() }
}

fn whole_and_accepted(report: &Report) -> bool {
    (report.verdict, report.accepted) == (Verdict::Sealed, Accepted::Yes)
}

/// docs: "a file that somebody writes to meanwhile ... ends the command with status 74 and no verdict".
#[test]
fn a_genuine_bundle_is_never_called_invalid_by_its_id_because_somebody_wrote_to_it() {
    let genuine = sealed(&Recipe::default());
    let other = sealed(&Recipe { open: |open| open.random = [0x0c; 32], ..Recipe::default() });
    let id = verify_bundle(&genuine, &options()).bundle_id;
    let mut wrong = Vec::new();
    for left in 0..400 {
        let source = Shifting { first: &genuine, rest: &other, left: Cell::new(left) };
        if let Ok(report) = verify_source(&source, &options())
            && report.bundle_id == id
            && report.verdict != Verdict::Sealed
        {
            let row = report.obstacles().next().expect("a row");
            wrong.push(format!(
                "after {left} readings: {:?} {:?} {}: {}",
                report.verdict, row.rule, row.name, row.reason
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// EVIDENCE section 2: "`input` commits to the bytes so far at EOF, every 64 KiB or 5 s".
#[test]
fn input_may_be_signed_at_its_end() {
    fn at_end(talk: &mut Talk<'_>) {
        let (_, mut caller) = talk.owner_and_identity();
        talk.ask(&mut caller, 1);
        talk.input(&mut caller, 1, 65_536);
        // EOF, and the last 64 KiB were signed when they were full.
        talk.input(&mut caller, 1, 65_536);
        talk.outcome(1, CauseClass::Completed, Some(65_536));
    }
    fn empty(talk: &mut Talk<'_>) {
        let (_, mut caller) = talk.owner_and_identity();
        talk.ask(&mut caller, 1);
        talk.input(&mut caller, 1, 0);
        talk.outcome(1, CauseClass::Completed, Some(0));
    }
    let reports = [at_end, empty].map(|talk| verify_parts(&parts(&recipe(talk), Ending::Sealed)));
    assert!(reports.iter().all(whole_and_accepted), "{}\n{}", reports[0].human(), reports[1].human());
}

/// EVIDENCE: "(identity, call id) is unique in the session: same commitment re-attaches, another is refused".
#[test]
fn a_signed_call_that_nobody_decided_is_noticed() {
    fn vanished(talk: &mut Talk<'_>) {
        let (_, mut caller) = talk.owner_and_identity();
        talk.say(&mut caller, asked(1));
    }
    fn swapped(talk: &mut Talk<'_>) {
        let (_, mut caller) = talk.owner_and_identity();
        // Asked for with the commitment of call 2, then with its own.
        let (Said::Call { call, method, .. }, Said::Call { commitment, .. }) = (asked(1), asked(2)) else { panic!() };
        talk.say(&mut caller, Said::Call { call, method, commitment });
        talk.ask(&mut caller, 1);
        talk.completed(1);
    }
    let reports = [vanished, swapped].map(|talk| verify_parts(&parts(&recipe(talk), Ending::Sealed)));
    assert_eq!(reports.map(|report| whole_and_accepted(&report)), [false, false], "vanished, swapped");
}

/// docs, R12: "a client or channel leaf is another identity's or call's than what it holds" is refused.
#[test]
fn a_channel_leaf_is_about_no_call_and_a_rejected_leaf_about_the_channels_speaker() {
    let with_call = Recipe {
        leaves: |leaves| {
            let channel = leaves.iter_mut().rfind(|leaf| matches!(leaf.public, Public::Channel { .. }));
            channel.expect("a channel").call = Some(CallId::new([0x77; 16]));
        },
        ..recipe(usual)
    };
    fn two(intent: &mut Intent) {
        end_to_end(intent);
        intent.identities.insert(Identity::new("other").expect("an identity"), PublicKey::of(&key(16)));
    }
    let blamed = Recipe {
        intent: two,
        ..recipe(|talk| {
            let (_, caller) = talk.owner_and_identity();
            talk.rejected(&caller, Rejection::Signature);
            talk.leaves.last_mut().expect("a leaf").identity = Some(Identity::new("other").expect("an identity"));
        })
    };
    let reports = [with_call, blamed].map(|recipe| verify_parts(&parts(&recipe, Ending::Sealed)));
    assert_eq!(reports.map(|report| whole_and_accepted(&report)), [false, false], "channel leaf, rejected leaf");
}

fn outcome_of_input(talk: &mut Talk<'_>, total: u64, sha256: Digest256) {
    let (_, mut caller) = talk.owner_and_identity();
    talk.ask(&mut caller, 1);
    talk.input(&mut caller, 1, 5000);
    talk.outcome(1, CauseClass::Completed, Some(5000));
    let private = OutcomePrivate {
        stdin: Some(StreamDigest { total, delivered: total, sha256 }),
        ..OutcomePrivate::new(CauseClass::Completed)
    };
    let private = Opened { salt: [0x33; 32], bytes: private.to_bytes() };
    let leaf = talk.leaves.last_mut().expect("an outcome");
    leaf.commitment = Some(private.commitment());
    let index = leaf.index;
    *talk.disclosed.last_mut().expect("a part") = Disclosed { index, salt: private.salt, bytes: private.bytes };
}

/// Decision 007: "An opened part that is not what the client signed is rejected." Both parts are open: what the client signed of its
/// input, and what the tool was handed.
#[test]
fn an_opened_outcome_whose_input_is_not_what_the_client_signed_is_not_accepted() {
    // 8000 bytes, of which 5000 are signed: both are two steps of 4 KiB.
    let more = recipe(|talk| outcome_of_input(talk, 8000, Digest256::of(&vec![7; 8000])));
    // 5000 bytes, other ones.
    let other = recipe(|talk| outcome_of_input(talk, 5000, Digest256::of(&vec![8; 5000])));
    let genuine = recipe(|talk| outcome_of_input(talk, 5000, Digest256::of(&vec![7; 5000])));
    assert!(whole_and_accepted(&verify_parts(&parts(&genuine, Ending::Sealed))));
    let reports = [more, other].map(|recipe| verify_parts(&parts(&recipe, Ending::Sealed)));
    assert_eq!(reports.map(|report| whole_and_accepted(&report)), [false, false], "more, other than was signed");
}

/// Nothing was signed, and the record says how much of the input signatures cover.
#[test]
fn without_headers_no_outcome_speaks_of_signed_input() {
    let recipe = Recipe {
        leaves: |leaves| {
            for leaf in leaves {
                if let Public::Outcome { input_covered, .. } = &mut leaf.public {
                    *input_covered = Some(5000);
                }
            }
        },
        ..Recipe::default()
    };
    let report = verify_parts(&parts(&recipe, Ending::Sealed));
    assert!(!whole_and_accepted(&report), "{}", report.human());
}

/// Teardown order: "refuse calls" comes first after a close.
#[test]
fn no_call_is_decided_after_a_close_by_which_a_client_closed_the_session() {
    let recipe = Recipe {
        seal: |seal| seal.closed_by = coffer_evidence::seal::ClosedBy::Client,
        ..recipe(|talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.say(&mut caller, Said::Close);
            for n in 1..4 {
                talk.ask(&mut caller, n);
                talk.completed(n);
            }
        })
    };
    let report = verify_parts(&parts(&recipe, Ending::Sealed));
    assert!(!whole_and_accepted(&report), "{}", report.human());
}

/// No quote binds the events of a prefix after event 0: only the last has a signature, that of the note. The page of rules says so.
#[test]
fn the_checkpoints_of_a_prefix_are_free_but_for_the_last() {
    let recipe = recipe(usual);
    let genuine = parts(&recipe, Ending::Killed);
    let mut invented = genuine.clone();
    let mut events = vec![genuine.events[0].clone()];
    let mut tree = Tree::new();
    for leaf in &genuine.leaves {
        tree.append(leaf_hash(leaf));
        let event = Rtmr3Event::Checkpoint { size: tree.size(), root: tree.root() };
        events.push(event_bytes(events.len() as u64, &event));
    }
    invented.events = events;
    assert_ne!(invented.events.len(), genuine.events.len());
    let asked = Options { accept_prefix: AcceptPrefix::Yes, every_signature: EverySignature::Yes, ..options() };
    let report = verify_bundle(&bundle::write(&invented), &asked);
    assert_eq!((report.verdict, report.accepted), (Verdict::Aborted, Accepted::Yes), "{}", report.human());
    // The last is not.
    invented.events.pop();
    let leaves = invented.leaves.len() - 1;
    invented.leaves.truncate(leaves);
    let report = verify_bundle(&bundle::write(&invented), &asked);
    assert_eq!(report.verdict, Verdict::Invalid, "{}", report.human());
}
