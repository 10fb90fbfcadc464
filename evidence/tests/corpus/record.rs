//! R10 to R15: leaves, events, note, calls. Everything after a change is made anew: roots, events, note, seal and statement.

use coffer_evidence::bundle::Parts;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{CallId, Digest256, InstanceId, SessionId};
use coffer_evidence::intent::{Authority, Durability};
use coffer_evidence::leaf::{CauseClass, Leaf, LimitKind, Method, Public};
use coffer_evidence::quote::Quote;
use coffer_evidence::rtmr::Rtmr3Event;
use coffer_evidence::verify::Rule;
use p256::ecdsa::Signature;

use crate::certificates::negated;
use crate::opening::sealed;
use crate::session::{Ending, Recipe, key, opening, parts, plain};
use crate::vector::{Flag, Vector, of};

/// Where r and s of the attestation key's signature stand in a version 4 quote.
const SIGNATURE: std::ops::Range<usize> = 636..700;

/// The quote with its signature in the second form, r and n - s.
pub(crate) fn second_form(quote: &mut [u8]) {
    let other = negated(&Signature::from_slice(&quote[SIGNATURE]).expect("a signature"));
    quote[SIGNATURE].copy_from_slice(&other.to_bytes());
    assert!(Quote::parse(quote).is_ok());
}

pub(crate) fn vectors() -> Vec<Vector> {
    [leaves(), roots(), events(), note(), calls(), unsigned()].concat()
}

type OfLeaves = (&'static str, &'static str, fn(&mut Vec<Leaf>));

fn made(rule: Rule, check: &'static str, (name, change, leaves): OfLeaves) -> Vector {
    of(name, change, &sealed(&Recipe { leaves, ..Recipe::default() })).refused(rule, check)
}

fn leaves() -> Vec<Vector> {
    let changes: [OfLeaves; 9] = [
        ("leaves-swapped", "leaves 1 and 2 are swapped", |leaves| leaves.swap(1, 2)),
        ("leaf-index", "leaf 2 says that it is leaf 7", |leaves| leaves[2].index = 7),
        ("leaf-missing", "leaf 3 is missing", |leaves| drop(leaves.remove(3))),
        ("leaf-session", "leaf 2 is another session's", |leaves| leaves[2].session = SessionId::new([1; 16])),
        ("leaf-time", "leaf 3 is older than leaf 2", |leaves| leaves[3].monotonic_ns = 1),
        ("leaf-0-kind", "leaf 0 does not open the log", |leaves| {
            leaves[0].public = Public::Limit { which: LimitKind::Idle };
        }),
        ("leaf-0-quote", "leaf 0 names another opening quote", |leaves| {
            let Public::Open { opening_quote, .. } = &mut leaves[0].public else { panic!("leaf 0 opens") };
            *opening_quote = Digest256::of(b"another");
        }),
        ("leaf-0-instance", "leaf 0 names another instance", |leaves| {
            let Public::Open { instance, .. } = &mut leaves[0].public else { panic!("leaf 0 opens") };
            *instance = InstanceId::new([1; 32]);
        }),
        ("opened-twice", "leaf 3 opens the log again", |leaves| {
            leaves[3] = Leaf { index: 3, monotonic_ns: leaves[3].monotonic_ns, ..leaves[0].clone() };
        }),
    ];
    let order = "leaves in order";
    let mut vectors: Vec<Vector> = changes.into_iter().map(|change| made(Rule::R10, order, change)).collect();
    let mut second = sealed(&Recipe::default());
    second_form(&mut second.open_quote);
    let change = "s of the opening quote's signature is n - s";
    vectors.push(of("opening-quote-second-form", change, &second).refused(Rule::R10, order));
    vectors
}

fn roots() -> Vec<Vector> {
    let changed = |name: &str, change: &str, by: fn(&mut Parts)| {
        let mut parts = sealed(&Recipe::default());
        by(&mut parts);
        of(name, change, &parts).refused(Rule::R10, "root at each event")
    };
    let mut longer = parts(&Recipe::default(), Ending::Killed);
    let session = opening(&Recipe::default()).intent.session;
    let index = longer.leaves.len() as u64;
    longer.leaves.push(plain(session, index, Public::Limit { which: LimitKind::Idle }).to_bytes());
    vec![
        changed("leaf-changed", "the wall-clock hint of leaf 3, after the fact", |parts| {
            let at = parts.leaves[3].windows(2).position(|pair| pair == [9, 0]).expect("the hint");
            parts.leaves[3][at + 1] = 1;
        }),
        changed("last-leaf-missing", "the last leaf is missing", |parts| drop(parts.leaves.pop())),
        changed("all-leaves-missing", "there are no leaves", |parts| parts.leaves.clear()),
        of("leaf-uncovered", "a leaf after the last event", &longer).refused(Rule::R10, "root at each event"),
    ]
}

fn events() -> Vec<Vector> {
    type Change = (&'static str, &'static str, fn(&mut Vec<Rtmr3Event>));
    let changes: [Change; 9] = [
        ("event-0-missing", "no event opens the log", |events| drop(events.remove(0))),
        ("event-0-twice", "two events open the log", |events| events.insert(1, events[0].clone())),
        ("event-0-of-a-twin", "event 0 is a twin's", |events| {
            let Rtmr3Event::Open(open) = &mut events[0] else { panic!("event 0 opens") };
            open.random = [0x77; 32];
        }),
        ("checkpoints-swapped", "the two checkpoints are swapped", |events| events.swap(1, 2)),
        ("checkpoint-twice", "the first checkpoint is there twice", |events| events.insert(1, events[1].clone())),
        ("checkpoint-root", "the first checkpoint has another root", |events| {
            events[1] = Rtmr3Event::Checkpoint { size: 2, root: Digest256::of(b"another") };
        }),
        ("checkpoint-size", "the first checkpoint covers more leaves than there are", |events| {
            events[1] = Rtmr3Event::Checkpoint { size: 1000, root: Digest256::of(b"another") };
        }),
        ("sealed-twice", "two events seal the log", |events| events.push(events[3].clone())),
        ("sealed-root", "the sealed event has another root", |events| {
            let Rtmr3Event::Sealed { root, .. } = &mut events[3] else { panic!("event 3 seals") };
            *root = Digest256::of(b"another");
        }),
    ];
    changes
        .into_iter()
        .map(|(name, change, events)| {
            let recipe = Recipe { events, ..Recipe::default() };
            of(name, change, &sealed(&recipe)).refused(Rule::R10, "root at each event")
        })
        .collect()
}

fn note() -> Vec<Vector> {
    let default = Recipe::default;
    let recipes = [
        ("note-key", "another key signed the note", Recipe { note_key: key(9), ..default() }),
        ("note-origin", "the note is of another log", Recipe { checkpoint: |note| note.origin.push('x'), ..default() }),
        ("note-size", "the note covers two leaves", Recipe { checkpoint: |note| note.size = 2, ..default() }),
        (
            "note-root",
            "the note has another root",
            Recipe { checkpoint: |note| note.root = Digest256::of(b"another"), ..default() },
        ),
    ];
    let check = "note is the last event's";
    let mut vectors: Vec<Vector> = recipes
        .into_iter()
        .map(|(name, change, recipe)| of(name, change, &sealed(&recipe)).refused(Rule::R11, check))
        .collect();
    let mut none = sealed(&default());
    none.checkpoint.clear();
    vectors.push(of("note-missing", "the note is empty", &none).refused(Rule::R11, check));
    let killed = parts(&default(), Ending::Killed);
    let (events, leaves) = (killed.events[..1].to_vec(), Vec::new());
    let early = Parts { events, leaves, disclosed: None, ..killed };
    let change = "there is no leaf yet, and a note over some";
    vectors.push(of("note-before-the-first-leaf", change, &early).flag(Flag::Prefix).refused(Rule::R11, check));
    let mut second = sealed(&default());
    let line = second.checkpoint.lines().last().expect("a signature").to_owned();
    second.checkpoint.push_str(&format!("{line}\n"));
    vectors.push(of("note-signed-twice", "the note's signature is there twice", &second).refused(Rule::R11, check));
    vectors
}

fn calls() -> Vec<Vector> {
    let changes: [OfLeaves; 10] = [
        ("two-decisions", "two intents of one call", |leaves| leaves[3].call = leaves[1].call),
        ("outcome-without-intent", "an outcome of a call that nobody ordered", |leaves| {
            leaves[4].call = Some(CallId::new([99; 16]));
        }),
        ("two-outcomes", "two outcomes of one call", |leaves| {
            leaves[3] = Leaf { index: 3, ..leaves[2].clone() };
        }),
        ("outcome-of-another-method", "an outcome of another method than its intent", |leaves| {
            let cause = CauseClass::Completed;
            leaves[2].public =
                Public::Outcome { method: Method::Stat, cause, output_steps: 0, input_steps: 0, input_covered: None };
        }),
        ("outcome-before-intent", "an outcome before its intent", |leaves| {
            leaves.swap(1, 2);
            (leaves[1].index, leaves[2].index) = (1, 2);
            (leaves[1].monotonic_ns, leaves[2].monotonic_ns) = (1_000, 2_000);
        }),
        ("denied-and-done", "an outcome of a call that was denied", |leaves| {
            leaves[1].public = Public::Denied { method: Method::Exec, rules: Vec::new(), header: None };
        }),
        ("sealed-without-outcome", "a sealed log lacks an outcome", |leaves| {
            let limit = plain(leaves[6].session, 6, Public::Limit { which: LimitKind::Idle });
            leaves[6] = limit;
        }),
        ("sealed-without-seal-leaf", "a sealed log ends with its scrub leaf", |leaves| drop(leaves.pop())),
        ("seal-count", "the seal leaf counts one leaf less", |leaves| leaves[8].public = Public::Seal { count: 8 }),
        ("seal-without-scrub", "no scrub leaf before the seal leaf", |leaves| {
            leaves[7].public = Public::Limit { which: LimitKind::Idle };
        }),
    ];
    let mut vectors: Vec<Vector> =
        changes.into_iter().map(|change| made(Rule::R13, "one intent, then one outcome", change)).collect();
    vectors.push(made(
        Rule::R13,
        "one intent, then one outcome",
        ("leaf-between-scrub-and-seal", "a leaf stands between scrub and seal", |leaves| {
            let seal = leaves.pop().expect("the seal leaf");
            leaves.push(plain(seal.session, 8, Public::Limit { which: LimitKind::Idle }));
            leaves.push(Leaf { index: 9, monotonic_ns: 9_000, public: Public::Seal { count: 10 }, ..seal });
        }),
    ));
    vectors
}

/// End-to-end and strict sessions in which nobody signed anything.
fn unsigned() -> Vec<Vector> {
    let ours = Recipe { intent: |intent| intent.authority = Authority::EndToEnd, ..Recipe::default() };
    let strict = Recipe { intent: |intent| intent.durability = Durability::Strict, ..Recipe::default() };
    vec![
        of("end-to-end", "the session is end-to-end, and its calls have no headers", &sealed(&ours))
            .refused(Rule::R12, "call headers in their leaves"),
        of("strict", "the intent asks for acknowledgements, and there are none", &sealed(&strict))
            .refused(Rule::R15, "started effects were acknowledged"),
    ]
}
