//! R12 and R15 beyond single vectors: prefixes of every length, limits, what the options and the words say. Which lie is refused where is
//! in `evidence/tests/corpus`.

use coffer_evidence::acks::{AckFault, Acks, SEEN_WINDOW};
use coffer_evidence::bundle::{self, Parts};
use coffer_evidence::call_header::{Said, Seen, Speaker};
use coffer_evidence::chain::{CHANNELS_MAX, ChainFault, Chains, REJECTED_MAX, RUNNING_MAX, Signatures};
use coffer_evidence::ids::{CallId, Digest256, Identity};
use coffer_evidence::intent::Intent;
use coffer_evidence::leaf::{Leaf, Method, Public, Rejection};
use coffer_evidence::note::{Checkpoint, sign_note};
use coffer_evidence::rtmr::{Rtmr3Event, event_bytes};
use coffer_evidence::sign::PublicKey;
use coffer_evidence::tree::{Tree, leaf_hash};
use coffer_evidence::verify::{
    AcceptPrefix, Accepted, CheckResult, EverySignature, Options, Report, Rule, Verdict, verify_bundle,
};

use crate::judging::{options, verify_parts, with_policy};
use crate::session::talk::{
    Caller, Talk, acknowledged, asked, end_to_end, end_to_end_strict, identity, identity_key, usual,
};
use crate::session::{Ending, Opening, Recipe, call_id, key, log_key, opening, owner, parts, plain};

fn recipe(talk: fn(&mut Talk<'_>)) -> Recipe {
    Recipe { intent: end_to_end, talk: Some(talk), ..Recipe::default() }
}

fn reason(report: &Report, name: &str) -> String {
    let row = report.checks.iter().find(|check| check.name == name);
    row.unwrap_or_else(|| panic!("no row {name}\n{}", report.human())).reason.clone()
}

/// The bundle of a TD that was killed after so many leaves, with a checkpoint over them.
fn cut(whole: &Parts, recipe: &Recipe, size: usize, checkpoints: usize) -> Parts {
    let mut tree = Tree::new();
    whole.leaves[..size].iter().for_each(|leaf| tree.append(leaf_hash(leaf)));
    let (size, root) = (tree.size(), tree.root());
    let mut events = whole.events[..=checkpoints].to_vec();
    events.push(event_bytes(events.len() as u64, &Rtmr3Event::Checkpoint { size, root }));
    let checkpoint = Checkpoint { origin: opening(recipe).intent.origin(), size, root };
    Parts {
        events,
        leaves: whole.leaves[..usize::try_from(size).expect("a size")].to_vec(),
        checkpoint: sign_note(&log_key(), &checkpoint),
        disclosed: None,
        seal: None,
        ..whole.clone()
    }
}

#[test]
fn every_prefix_of_an_end_to_end_session_is_genuine() {
    let recipe = recipe(usual);
    let whole = parts(&recipe, Ending::Sealed);
    let asked = Options { accept_prefix: AcceptPrefix::Yes, every_signature: EverySignature::Yes, ..options() };
    for size in 1..=whole.leaves.len() {
        let report = verify_bundle(&bundle::write(&cut(&whole, &recipe, size, 0)), &asked);
        assert_eq!((report.verdict, report.accepted), (Verdict::Aborted, Accepted::Yes), "{size}\n{}", report.human());
    }
}

#[test]
fn every_prefix_of_a_strict_session_is_genuine() {
    let recipe = Recipe { intent: end_to_end_strict, ..recipe(acknowledged) };
    let whole = parts(&recipe, Ending::Sealed);
    let asked = Options { accept_prefix: AcceptPrefix::Yes, ..options() };
    // The two checkpoints that were seen, where they are smaller than the cut.
    let sizes: Vec<usize> = whole.events[1..3].iter().map(|event| size_of(event)).collect();
    for size in 1..=whole.leaves.len() {
        let checkpoints = sizes.iter().filter(|at| **at < size).count();
        let report = verify_bundle(&bundle::write(&cut(&whole, &recipe, size, checkpoints)), &asked);
        assert_eq!((report.verdict, report.accepted), (Verdict::Aborted, Accepted::Yes), "{size}\n{}", report.human());
    }
}

fn size_of(event: &[u8]) -> usize {
    let (_, Rtmr3Event::Checkpoint { size, .. }) = coffer_evidence::rtmr::parse_event(event).expect("an event") else {
        panic!("a checkpoint")
    };
    usize::try_from(size).expect("a size")
}

#[test]
fn the_last_signature_of_each_channel_is_verified_and_on_request_all() {
    let bytes = bundle::write(&parts(&recipe(usual), Ending::Sealed));
    let last = verify_bundle(&bytes, &options());
    assert_eq!(reason(&last, "header signatures"), "2 of 6 verified");
    let every = verify_bundle(&bytes, &Options { every_signature: EverySignature::Yes, ..options() });
    assert_eq!(reason(&every, "header signatures"), "6 of 6 verified");
}

#[test]
fn the_words_of_an_end_to_end_session_name_its_keys_only_where_the_owner_is_known() {
    let known = PublicKey::of(&owner());
    let parts = parts(&recipe(usual), Ending::Sealed);
    let bytes = bundle::write(&parts);
    let sentence = format!(
        "Every call was ordered under key {} of identity default, named by owner {known}.",
        PublicKey::of(&identity_key())
    );
    let unvouched = "Every call was ordered by keys nobody here vouches for; the host may have made them.";
    let said = |options: &Options| verify_bundle(&bytes, options).words;
    let by_policy = with_policy(&format!("anchor = \"simulated\"\nowners = [\"{known}\"]\n"));
    assert_eq!(said(&by_policy), ["Anyone can forge this.", &sentence]);
    let mut expected = options();
    expected.expect.owner = Some(known);
    assert_eq!(said(&expected), ["Anyone can forge this.", &sentence]);
    assert_eq!(said(&options()), ["Anyone can forge this.", unvouched]);
}

#[test]
fn the_words_name_every_identity_that_called() {
    fn two(intent: &mut Intent) {
        end_to_end(intent);
        let other = Identity::new("other").expect("an identity");
        intent.identities.insert(other, PublicKey::of(&key(16)));
    }
    let recipe = Recipe {
        intent: two,
        ..recipe(|talk| {
            usual(talk);
            let other = Identity::new("other").expect("an identity");
            let mut caller = talk.open(&Speaker::Identity(other.clone()), &key(16), 3);
            talk.ask(&mut caller, 3);
            talk.completed(3);
            let size = talk.leaves.len();
            talk.leaves[size - 2..].iter_mut().for_each(|leaf| leaf.identity = Some(other.clone()));
        })
    };
    let mut expected = options();
    expected.expect.owner = Some(PublicKey::of(&owner()));
    let words = verify_bundle(&bundle::write(&parts(&recipe, Ending::Sealed)), &expected).words;
    let (first, second) = (PublicKey::of(&identity_key()), PublicKey::of(&key(16)));
    let named = format!("key {first} of identity default or key {second} of identity other, named by owner");
    assert!(words.iter().any(|words| words.contains(&named)), "{words:?}");
}

/// What the guest recorded is not what its caller signed: then nothing is said of who ordered it.
#[test]
fn the_words_do_not_name_a_caller_of_what_the_caller_did_not_sign() {
    let recipe = recipe(|talk| {
        let (_, mut caller) = talk.owner_and_identity();
        let (Said::Call { call, method, .. }, Said::Call { commitment, .. }) = (asked(1), asked(2)) else { panic!() };
        let header = caller.sign(Said::Call { call, method, commitment });
        talk.intent(1, Some(header));
        talk.completed(1);
    });
    let report = verify_parts(&parts(&recipe, Ending::Sealed));
    assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::No), "{}", report.human());
    assert_eq!(report.words, ["Anyone can forge this."]);
}

#[test]
fn where_there_is_nothing_to_judge_the_rows_say_why() {
    let report = verify_parts(&parts(&Recipe::default(), Ending::Sealed));
    let row = |rule: Rule| report.checks.iter().find(|check| check.rule == rule).expect("a row");
    let (chains, acks) = (row(Rule::R12), row(Rule::R15));
    assert_eq!((chains.result, acks.result), (CheckResult::NotEvaluated, CheckResult::NotEvaluated));
    assert_eq!(chains.reason, "no headers: the host ordered these calls");
    assert_eq!(acks.reason, "relaxed: nothing waits for an acknowledgement");
}

/// A record by itself, without a bundle around it.
struct Record {
    opening: Opening,
    chains: Chains,
    index: u64,
}

impl Record {
    fn new() -> Self {
        let opening = opening(&recipe(usual));
        let mut chains = Chains::new(&opening.intent, opening.open.instance(), Signatures::Last);
        let first = Public::Open { instance: opening.open.instance(), opening_quote: Digest256::of(&opening.quote) };
        chains.see(&plain(opening.intent.session, 0, first)).expect("leaf 0");
        Record { opening, chains, index: 0 }
    }

    fn see(&mut self, leaf: Leaf) -> Result<(), ChainFault> {
        self.index += 1;
        self.chains.see(&Leaf { index: self.index, ..leaf })
    }

    fn channel(&mut self, n: u64) -> Result<(), ChainFault> {
        let mut exporter = [0; 32];
        exporter[..8].copy_from_slice(&n.to_le_bytes());
        let public = Public::Channel { speaker: Speaker::Owner, nonce: [0; 32], exporter };
        self.see(plain(self.opening.intent.session, 0, public))
    }

    /// What a talk makes of these hellos.
    fn greeted(&mut self) -> Caller {
        let opening = opening(&recipe(usual));
        let mut talk = Talk::new(&opening, Ending::Killed, plain(opening.intent.session, 0, Public::Seal { count: 0 }));
        let (_, caller) = talk.owner_and_identity();
        for leaf in talk.leaves.split_off(1) {
            self.see(leaf).expect("a hello");
        }
        caller
    }
}

#[test]
fn channels_end_at_their_limit() {
    let mut record = Record::new();
    for n in 0..CHANNELS_MAX as u64 {
        record.channel(n).expect("a channel");
    }
    let error = record.channel(CHANNELS_MAX as u64).expect_err("one too many");
    assert!(matches!(error, ChainFault::TooMany { what: "channels", .. }), "{error}");
}

#[test]
fn running_calls_end_at_their_limit() {
    let mut record = Record::new();
    let mut caller = record.greeted();
    let mut ask = |n: usize| {
        let mut call = [0; 16];
        call[..8].copy_from_slice(&(n as u64).to_le_bytes());
        let (call, commitment) = (CallId::new(call), Digest256::of(b"request"));
        // Nobody looks at these signatures before the end, so none is made.
        let mut header = caller.next.clone();
        header.said = Said::Call { call, method: Method::Exec, commitment };
        (caller.next.seq, caller.next.prev) = (header.seq + 1, header.digest());
        let header = coffer_evidence::call_header::SignedHeader { header, signature: [0; 64] };
        let public = Public::Intent {
            method: Method::Exec,
            rules: Vec::new(),
            request_steps: 1,
            header: Some(Box::new(header)),
        };
        let leaf = plain(record.opening.intent.session, 0, public);
        record.see(Leaf { identity: identity().identity().cloned(), call: Some(call), ..leaf })
    };
    for n in 0..RUNNING_MAX {
        ask(n).expect("a call");
    }
    let error = ask(RUNNING_MAX).expect_err("one too many");
    assert!(matches!(error, ChainFault::TooMany { what: "running calls", .. }), "{error}");
}

#[test]
fn rejected_headers_of_a_channel_end_at_their_limit() {
    let mut record = Record::new();
    let next = record.greeted().next;
    let mut reject = || {
        let public = Public::Rejected { reason: Rejection::Malformed, channel: next.channel };
        let leaf = plain(record.opening.intent.session, 0, public);
        record.see(Leaf { identity: next.speaker.identity().cloned(), ..leaf })
    };
    for _ in 0..REJECTED_MAX {
        reject().expect("a rejected header");
    }
    let error = reject().expect_err("one too many");
    assert!(matches!(error, ChainFault::TooMany { limit: REJECTED_MAX, .. }), "{error}");
}

#[test]
fn an_ack_reaches_back_as_far_as_its_window() {
    let opening = opening(&Recipe { intent: end_to_end_strict, ..recipe(usual) });
    let mut acks = Acks::new(&opening.intent);
    let root = |size: u64| Digest256::of(&size.to_le_bytes());
    let window = SEEN_WINDOW as u64;
    (1..=window + 1).for_each(|size| acks.checkpoint(size, root(size)));
    let mut talk = Talk::new(&opening, Ending::Killed, plain(opening.intent.session, 0, Public::Seal { count: 0 }));
    let mut caller = talk.channel(&identity(), &identity_key(), 2);
    let mut judge = |size: u64| {
        talk.say(&mut caller, Said::Ack { seen: Seen { size, root: root(size) } });
        acks.judge(talk.leaves.last().expect("a leaf"))
    };
    assert_eq!((judge(2), judge(window + 1)), (Ok(()), Ok(())));
    assert!(matches!(judge(1), Err(AckFault::NoSuchCheckpoint { size: 1, .. })));
    assert!(matches!(judge(window + 2), Err(AckFault::NoSuchCheckpoint { .. })));
}

/// A leaf that is refused changes nothing: the right one still goes on.
#[test]
fn a_refused_leaf_leaves_the_chains_as_they_were() {
    let mut record = Record::new();
    let mut caller = record.greeted();
    let leaf = |header| {
        let public = Public::Client { header: Box::new(header) };
        Leaf { identity: identity().identity().cloned(), ..plain(opening(&recipe(usual)).intent.session, 0, public) }
    };
    let genuine = caller.sign(Said::Close);
    let mut skipped = genuine.clone();
    skipped.header.seq += 1;
    let error = record.see(leaf(skipped)).expect_err("a gap");
    assert!(matches!(error, ChainFault::Seq { expected: 1, found: 2, .. }), "{error}");
    record.see(leaf(genuine)).expect("the header that is next");
    let summary = record.chains.clone().finish().expect("chains that hold");
    assert_eq!((summary.headers, summary.channels, summary.verified), (3, 2, 2));
    assert!(summary.close.is_some() && summary.owner_hello.is_some());
}

/// The window is behind each leaf, not at the end of the log.
#[test]
fn a_strict_session_of_more_checkpoints_than_the_window_is_sealed() {
    fn long(talk: &mut Talk<'_>) {
        acknowledged(talk);
        let mut caller = talk.open(&identity(), &identity_key(), 9);
        for _ in 0..=SEEN_WINDOW {
            talk.say(&mut caller, Said::Cancel { call: CallId::new([1; 16]) });
            talk.checkpoint();
        }
    }
    let report = verify_parts(&parts(&Recipe { intent: end_to_end_strict, ..recipe(long) }, Ending::Sealed));
    assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes), "{}", report.human());
    assert_eq!(reason(&report, "started effects were acknowledged"), "2 effects");
}

#[test]
fn calls_of_unknown_outcome_are_named_up_to_a_limit_and_counted_beyond_it() {
    fn asks(talk: &mut Talk<'_>, calls: u32) {
        let (_, mut caller) = talk.owner_and_identity();
        (1..=calls).for_each(|n| talk.ask(&mut caller, n));
    }
    let told = |talk: fn(&mut Talk<'_>)| {
        let report = verify_parts(&parts(&recipe(talk), Ending::Killed));
        assert_eq!(report.verdict, Verdict::Aborted, "{}", report.human());
        reason(&report, "one intent, then one outcome")
    };
    assert_eq!(told(|talk| asks(talk, 0)), "");
    let call = |n: u32| format!("{}/{}", Identity::default_name(), call_id(n));
    assert_eq!(told(|talk| asks(talk, 1)), format!("outcome unknown: {}", call(1)));
    let eight = (1..=8).map(call).collect::<Vec<_>>().join(", ");
    assert_eq!(told(|talk| asks(talk, 8)), format!("outcome unknown: {eight}"));
    assert_eq!(told(|talk| asks(talk, 9)), format!("outcome unknown: {eight} and 1 more"));
    assert_eq!(told(|talk| asks(talk, 30)), format!("outcome unknown: {eight} and 22 more"));
}
