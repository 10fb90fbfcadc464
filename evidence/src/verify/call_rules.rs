//! Rule R13: each call has one decision and then one outcome, and a sealed log ends in scrub and seal. One pass; of each call a
//! few bytes are kept, because a call is never over: its name must not come again.

use std::collections::BTreeMap;
use std::convert::Infallible;

use super::findings::{Claim, Ended, Findings};
use super::record_rules::Rooted;
use super::report::Rule;
use crate::bundle::ReadError;
use crate::call_header::Said;
use crate::cbor::{Value, encode};
use crate::fields::bytes;
use crate::ids::{CallId, Digest256, Identity};
use crate::leaf::{Leaf, LeafKind, Method, Public};

/// At most this many calls are listed by name in a reason.
const LISTED_CALLS: usize = 8;
const NAME: &str = "one intent, then one outcome";

/// What R13 found in a record that holds.
pub(super) struct Calls {
    /// Calls whose intent was logged and whose outcome was not: unknown. The first of them, in the order of their intents.
    pub(super) listed: Vec<(Identity, CallId)>,
    /// How many there are.
    pub(super) unknown: u64,
}

/// R13.
pub(super) fn calls(rooted: &Rooted<'_>, claim: Claim, findings: &mut Findings) -> Result<Calls, Ended> {
    let mut order = CallOrder::default();
    let reason = match rooted.leaves().each(|_, leaf| order.see(&leaf))? {
        Err(reason) => reason,
        Ok(()) => {
            let calls = order.unknown(rooted)?;
            match ended(&order, &calls, claim) {
                Ok(()) => {
                    findings.pass(Rule::R13, NAME, unknown_words(&calls));
                    return Ok(calls);
                }
                Err(reason) => reason,
            }
        }
    };
    Err(findings.refuse(Rule::R13, NAME, reason).into())
}

fn ended(order: &CallOrder, calls: &Calls, claim: Claim) -> Result<(), String> {
    match (claim, calls.listed.first()) {
        (Claim::Aborted, _) => Ok(()),
        (Claim::Sealed, _) if order.last != Some(LeafKind::Seal) => {
            Err("the last leaf does not seal the log".to_owned())
        }
        (Claim::Sealed, Some((identity, call))) => {
            Err(format!("call {identity}/{call} has no outcome in a sealed log"))
        }
        (Claim::Sealed, None) => Ok(()),
    }
}

fn unknown_words(calls: &Calls) -> String {
    if calls.unknown == 0 {
        return String::new();
    }
    let listed: Vec<String> = calls.listed.iter().map(|(identity, call)| format!("{identity}/{call}")).collect();
    let more = calls.unknown.saturating_sub(calls.listed.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("outcome unknown: {}{more}", listed.join(", "))
}

/// A call by half of a digest of its name. Two names with one half take 2^64 tries to find, and what they buy is that one's own log
/// is refused.
type Named = [u8; 16];

fn named(identity: &Identity, call: CallId) -> Named {
    let name = Value::Array(vec![Value::Text(identity.to_string()), bytes(call)]);
    let digest = Digest256::of(&encode(&name));
    let (half, _) = digest.as_bytes().split_first_chunk().unwrap_or((&[0; 16], &[]));
    *half
}

#[derive(Clone, Copy)]
enum CallState {
    Running { index: u64, method: Method },
    Over,
}

/// The order of the leaves of all calls.
#[derive(Default)]
struct CallOrder {
    calls: BTreeMap<Named, CallState>,
    last: Option<LeafKind>,
}

impl CallOrder {
    fn see(&mut self, leaf: &Leaf) -> Result<(), String> {
        let (index, kind) = (leaf.index, leaf.kind());
        if let Some(last @ (LeafKind::Seal | LeafKind::Scrub)) = self.last
            && !(last == LeafKind::Scrub && kind == LeafKind::Seal)
        {
            return Err(format!("leaf {index} ({kind}) follows the {last} leaf"));
        }
        if kind == LeafKind::Seal && self.last != Some(LeafKind::Scrub) {
            return Err(format!("leaf {index} seals without a scrub leaf before it"));
        }
        self.last = Some(kind);
        if let Public::Seal { count } = leaf.public
            && count != index.saturating_add(1)
        {
            return Err(format!("the seal leaf counts {count} leaves at index {index}"));
        }
        match (&leaf.identity, leaf.call) {
            (Some(identity), Some(call)) => self.see_call(leaf, identity, call),
            _ => Ok(()),
        }
    }

    fn see_call(&mut self, leaf: &Leaf, identity: &Identity, call: CallId) -> Result<(), String> {
        let index = leaf.index;
        let told = |what: &str| Err(format!("leaf {index}: call {identity}/{call} {what}"));
        let key = named(identity, call);
        let state = match (&leaf.public, self.calls.get(&key)) {
            (Public::Intent { method, .. }, None) => CallState::Running { index, method: *method },
            (Public::Denied { .. }, None) => CallState::Over,
            (Public::Intent { .. } | Public::Denied { .. }, Some(_)) => return told("has two decisions"),
            (Public::Outcome { method, .. }, Some(CallState::Running { method: intended, .. })) => {
                if method != intended {
                    let name = format!("leaf {index}: call {identity}/{call}");
                    return Err(format!("{name}: intent to {intended}, outcome of {method}"));
                }
                CallState::Over
            }
            (Public::Outcome { .. }, Some(CallState::Over)) => return told("has an outcome too many"),
            (Public::Outcome { .. }, None) => return told("has no intent before it"),
            (Public::Client { header }, None) if matches!(header.header.said, Said::Call { .. }) => {
                return told("is asked for again, and was never decided");
            }
            _ => return Ok(()),
        };
        self.calls.insert(key, state);
        Ok(())
    }

    /// Calls that were running at the end; a second pass finds the names of the first of them.
    fn unknown(&self, rooted: &Rooted<'_>) -> Result<Calls, ReadError> {
        let mut first = Vec::new();
        let mut unknown = 0_u64;
        for state in self.calls.values() {
            if let CallState::Running { index, .. } = state {
                unknown = unknown.saturating_add(1);
                first.push(*index);
                first.sort_unstable();
                first.truncate(LISTED_CALLS);
            }
        }
        let mut listed = Vec::new();
        if !first.is_empty() {
            let Ok(()) = rooted.leaves().each(|_, leaf| {
                if first.contains(&leaf.index) {
                    listed.extend(leaf.identity.zip(leaf.call));
                }
                Ok::<(), Infallible>(())
            })?;
        }
        Ok(Calls { listed, unknown })
    }
}
