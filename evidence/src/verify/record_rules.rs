//! Rules R10, R11 and R13 on the action log: the leaves, the roots that RTMR3 and the note pin, and the order of calls.

use std::collections::BTreeMap;

use super::findings::{Claim, Findings, Refused};
use super::opening_rules::Opened;
use super::report::Rule;
use crate::ids::{CallId, Digest256, Identity};
use crate::leaf::{LEAVES_MAX, Leaf, LeafKind, Public};
use crate::note::open_note;
use crate::numbers::Method;
use crate::rtmr::{EVENTS_MAX, Rtmr3Event};
use crate::tree::{Tree, leaf_hash};

/// At most this many calls are listed by name in a reason.
const LISTED_CALLS: usize = 8;

/// The record as parsed (R2): each leaf beside its bytes, each event with its index.
pub(super) struct Record<'a> {
    pub(super) leaves: Vec<(&'a [u8], Leaf)>,
    pub(super) events: Vec<(u64, Rtmr3Event)>,
    pub(super) note: &'a str,
}

/// A record whose leaves are exactly what the events pin (R10).
pub(super) struct Rooted<'a> {
    record: Record<'a>,
    size: u64,
    root: Digest256,
}

impl<'a> Rooted<'a> {
    pub(super) fn leaves(&self) -> &[(&'a [u8], Leaf)] {
        &self.record.leaves
    }

    pub(super) fn events(&self) -> &[(u64, Rtmr3Event)] {
        &self.record.events
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn root(&self) -> Digest256 {
        self.root
    }

    /// The root over the first `size` leaves, when there are so many.
    pub(super) fn root_at(&self, size: u64) -> Option<Digest256> {
        let count = usize::try_from(size).ok()?;
        let mut tree = Tree::new();
        for (bytes, _) in self.record.leaves.get(..count)? {
            tree.append(leaf_hash(bytes));
        }
        Some(tree.root())
    }
}

/// R10.
pub(super) fn roots<'a>(
    record: Record<'a>,
    opened: &Opened<'_>,
    findings: &mut Findings,
) -> Result<Rooted<'a>, Refused> {
    if let Err(reason) = judge_leaves(&record, opened) {
        return Err(findings.refuse(Rule::R10, "leaves in order", reason));
    }
    findings.pass(Rule::R10, "leaves in order", format!("{} leaves", record.leaves.len()));
    match judge_events(&record, opened) {
        Ok((size, root)) => {
            findings.pass(Rule::R10, "root at each event", format!("{} events", record.events.len()));
            Ok(Rooted { record, size, root })
        }
        Err(reason) => Err(findings.refuse(Rule::R10, "root at each event", reason)),
    }
}

fn judge_leaves(record: &Record<'_>, opened: &Opened<'_>) -> Result<(), String> {
    let session = opened.opening().intent.session;
    let quote = Digest256::of(opened.opening().bytes.quote);
    let mut expected = 0u64;
    let mut monotonic = 0u64;
    for (_, leaf) in &record.leaves {
        if expected >= LEAVES_MAX {
            return Err(format!("more than {LEAVES_MAX} leaves"));
        }
        if leaf.index != expected {
            return Err(format!("leaf {expected} says that it is leaf {}", leaf.index));
        }
        if leaf.session != session {
            return Err(format!("leaf {expected} belongs to session {}", leaf.session));
        }
        if leaf.monotonic_ns < monotonic {
            return Err(format!("leaf {expected} is older than the leaf before it"));
        }
        let genuine = Public::Open { instance: opened.instance(), opening_quote: quote };
        if (expected == 0) != (leaf.kind() == LeafKind::Open) || (expected == 0 && leaf.public != genuine) {
            return Err(format!("leaf {expected}: only leaf 0 opens the log, with this instance and opening quote"));
        }
        monotonic = leaf.monotonic_ns;
        expected = expected.saturating_add(1);
    }
    Ok(())
}

/// Size and root of the last event; every leaf is covered by it.
fn judge_events(record: &Record<'_>, opened: &Opened<'_>) -> Result<(u64, Digest256), String> {
    let mut tree = Tree::new();
    let mut leaves = record.leaves.iter();
    let mut sealed = false;
    let mut expected = 0u64;
    for (index, event) in &record.events {
        if *index != expected || expected >= EVENTS_MAX {
            return Err(format!("event {expected} says that it is event {index}"));
        }
        if sealed {
            return Err(format!("event {expected} follows the sealed event"));
        }
        match event {
            Rtmr3Event::Open(open) if expected == 0 => {
                if **open != opened.opening().open {
                    return Err("event 0 is not open.cbor".to_owned());
                }
            }
            Rtmr3Event::Open(_) => return Err(format!("event {expected} opens the log again")),
            Rtmr3Event::Checkpoint { .. } | Rtmr3Event::Sealed { .. } if expected == 0 => {
                return Err("event 0 does not open the log".to_owned());
            }
            Rtmr3Event::Checkpoint { size, root } => {
                if *size <= tree.size() {
                    return Err(format!("event {expected}: size {size} does not rise"));
                }
                grow(&mut tree, &mut leaves, *size)?;
                if tree.root() != *root {
                    return Err(format!("event {expected}: the first {size} leaves do not have its root"));
                }
            }
            Rtmr3Event::Sealed { size, root } => {
                if *size != tree.size() || *root != tree.root() {
                    return Err(format!("event {expected}: the sealed event is not the last checkpoint's"));
                }
                sealed = true;
            }
        }
        expected = expected.saturating_add(1);
    }
    if expected == 0 {
        return Err("there is no event".to_owned());
    }
    match leaves.len() {
        0 => Ok((tree.size(), tree.root())),
        uncovered => Err(format!("{uncovered} leaves after the last event are covered by nothing")),
    }
}

fn grow<'l, 'a: 'l>(
    tree: &mut Tree,
    leaves: &mut impl Iterator<Item = &'l (&'a [u8], Leaf)>,
    size: u64,
) -> Result<(), String> {
    while tree.size() < size {
        let (bytes, _) =
            leaves.next().ok_or_else(|| format!("an event covers {size} leaves, there are {}", tree.size()))?;
        tree.append(leaf_hash(bytes));
    }
    Ok(())
}

/// R11.
pub(super) fn note(rooted: &Rooted<'_>, opened: &Opened<'_>, findings: &mut Findings) -> Result<(), Refused> {
    const NAME: &str = "note is the last event's";
    let note = rooted.record.note;
    if rooted.size == 0 && note.is_empty() {
        findings.not_evaluated(Rule::R11, NAME, "no checkpoint was made");
        return Ok(());
    }
    let opening = opened.opening();
    match open_note(note, &opening.open.log_key, &opening.intent.origin()) {
        Err(error) => Err(findings.refuse(Rule::R11, NAME, error.to_string())),
        Ok(checkpoint) => {
            let same = checkpoint.size == rooted.size && checkpoint.root == rooted.root;
            findings.require(Rule::R11, NAME, same.into(), || {
                format!("the note covers {} leaves, the last event {} or another root", checkpoint.size, rooted.size)
            })
        }
    }
}

/// What R13 found in a record that holds.
pub(super) struct Calls {
    /// Calls whose intent was logged and whose outcome was not, in the order of their intents: unknown.
    pub(super) unknown: Vec<(Identity, CallId)>,
}

/// R13.
pub(super) fn calls(rooted: &Rooted<'_>, claim: Claim, findings: &mut Findings) -> Result<Calls, Refused> {
    const NAME: &str = "one intent, then one outcome";
    match judge_calls(rooted, claim) {
        Err(reason) => Err(findings.refuse(Rule::R13, NAME, reason)),
        Ok(calls) => {
            findings.pass(Rule::R13, NAME, unknown_words(&calls));
            Ok(calls)
        }
    }
}

fn unknown_words(calls: &Calls) -> String {
    if calls.unknown.is_empty() {
        return String::new();
    }
    let listed: Vec<String> =
        calls.unknown.iter().take(LISTED_CALLS).map(|(identity, call)| format!("{identity}/{call}")).collect();
    let more = calls.unknown.len().saturating_sub(LISTED_CALLS);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("outcome unknown: {}{more}", listed.join(", "))
}

enum CallState {
    Running { index: u64, method: Method },
    Over,
}

fn judge_calls(rooted: &Rooted<'_>, claim: Claim) -> Result<Calls, String> {
    let mut calls: BTreeMap<(Identity, CallId), CallState> = BTreeMap::new();
    let mut last = LeafKind::Open;
    for (_, leaf) in rooted.leaves() {
        let index = leaf.index;
        let kind = leaf.kind();
        if last == LeafKind::Seal || (last == LeafKind::Scrub && kind != LeafKind::Seal) {
            return Err(format!("leaf {index} ({kind}) follows the {last} leaf"));
        }
        if kind == LeafKind::Seal && last != LeafKind::Scrub {
            return Err(format!("leaf {index} seals without a scrub leaf before it"));
        }
        last = kind;
        if let Public::Seal { count } = leaf.public
            && count != index.saturating_add(1)
        {
            return Err(format!("the seal leaf counts {count} leaves at index {index}"));
        }
        let Some(call) = leaf.identity.clone().zip(leaf.call) else { continue };
        let name = format!("leaf {index}: call {}/{}", call.0, call.1);
        match (&leaf.public, calls.get(&call)) {
            (Public::Intent { method, .. }, None) => {
                calls.insert(call, CallState::Running { index, method: *method });
            }
            (Public::Denied { .. }, None) => {
                calls.insert(call, CallState::Over);
            }
            (Public::Intent { .. } | Public::Denied { .. }, Some(_)) => {
                return Err(format!("{name} has two decisions"));
            }
            (Public::Outcome { method, .. }, Some(CallState::Running { method: intended, .. })) => {
                if method != intended {
                    return Err(format!("{name}: intent to {intended}, outcome of {method}"));
                }
                calls.insert(call, CallState::Over);
            }
            (Public::Outcome { .. }, Some(CallState::Over)) => return Err(format!("{name} has an outcome too many")),
            (Public::Outcome { .. }, None) => return Err(format!("{name} has no intent before it")),
            _ => {}
        }
    }
    let mut running: Vec<(u64, (Identity, CallId))> = calls
        .into_iter()
        .filter_map(|(call, state)| match state {
            CallState::Running { index, .. } => Some((index, call)),
            CallState::Over => None,
        })
        .collect();
    running.sort();
    let unknown: Vec<(Identity, CallId)> = running.into_iter().map(|(_, call)| call).collect();
    if claim == Claim::Sealed {
        if last != LeafKind::Seal {
            return Err("the last leaf does not seal the log".to_owned());
        }
        if let Some((identity, call)) = unknown.first() {
            return Err(format!("call {identity}/{call} has no outcome in a sealed log"));
        }
    }
    Ok(Calls { unknown })
}
