//! The end: the session closes sealed, the verifier accepts it, and the record holds of each call what it should.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use coffer_evidence::bundle;
use coffer_evidence::call::{OutcomePrivate, read_disclosed};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::file_record::RecordLoss;
use coffer_evidence::leaf::{CauseClass, Leaf, Public};
use coffer_tests::host::Host;

use crate::session::{Calls, Leaves};

/// Unpacks directories so deep that their paths together are more than a record holds.
pub(crate) const UNPACKS_THE_DEEPEST: &str = "odd and good";
/// Removes them: the deepest has a path that is longer than any that is told.
pub(crate) const REMOVES_THE_DEEPEST: &str = "the deepest tree is removed";
/// Removes the longest path that the API takes.
pub(crate) const REMOVES_THE_LONGEST: &str = "the longest path is removed";

/// The calls whose record misses something, and what.
const KNOWN: [(&str, RecordLoss); 3] = [
    (UNPACKS_THE_DEEPEST, RecordLoss::Size),
    (REMOVES_THE_DEEPEST, RecordLoss::Unnamed),
    (REMOVES_THE_LONGEST, RecordLoss::Unnamed),
];

/// What the record holds of a call.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    denied: usize,
    intents: usize,
    outcomes: Vec<CauseClass>,
}

pub(crate) fn holds_what_happened(host: &Host, id: &str, calls: &Calls) -> anyhow::Result<()> {
    host.ok(&["session", "close", id])?;
    let closed: serde_json::Value = serde_json::from_str(&host.ok(&["session", "get", "--json", id])?)?;
    assert_eq!((closed["phase"].as_str(), closed["outcome"].as_str()), (Some("closed"), Some("sealed")), "{closed}");
    let path = host.directory().join("session.evidence");
    host.ok(&["evidence", "export", id, &path.display().to_string()])?;
    let said = host.ok(&["evidence", "verify", "--json", "--accept-simulated", &path.display().to_string()])?;
    let verdict: serde_json::Value = serde_json::from_str(&said)?;
    assert_eq!((verdict["verdict"].as_str(), verdict["accepted"].as_str()), (Some("sealed"), Some("yes")), "{verdict}");

    let mut held: BTreeMap<[u8; 16], Held> = BTreeMap::new();
    let mut known = BTreeSet::new();
    let bundle = bundle::read(&std::fs::read(&path)?)?;
    let parts = read_disclosed(bundle.member("disclosed.cbor").context("disclosed.cbor")?)?;
    for leaf in leaves(bundle.member("leaves").context("leaves")?)? {
        let Some(call) = leaf.call else { continue };
        let held = held.entry(*call.as_bytes()).or_default();
        match leaf.public {
            Public::Denied { .. } => held.denied += 1,
            Public::Intent { .. } => held.intents += 1,
            Public::Outcome { cause, .. } => {
                held.outcomes.push(cause);
                let part = parts.iter().find(|part| part.index == leaf.index).context("an outcome's private part")?;
                let record = OutcomePrivate::parse(&part.bytes)?.record;
                let lost =
                    record.map(|record| record.read()).transpose()?.map(|record| record.lost).unwrap_or_default();
                let (what, _) = calls.get(call.as_bytes()).context("a call that was made")?;
                // A path of the API may be longer than the kernel tells whole: it is relative to the workspace.
                let is_long = what.len() > 4_000 && lost == [RecordLoss::Unnamed];
                let is_known = KNOWN.iter().any(|(call, loss)| what == call && lost == [*loss]);
                ensure!(lost.is_empty() || is_long || is_known, "{what}: its record misses something: {lost:?}");
                if is_known {
                    known.insert(what.clone());
                }
            }
            // Said with the reason by its outcome, which follows.
            Public::Incomplete { .. } => {}
            other => anyhow::bail!("a leaf of a call that is none of these: {other:?}"),
        }
    }
    println!("{} calls asked for, {} in the record", calls.len(), held.len());
    assert_eq!(known.len(), KNOWN.len(), "of these alone the record missed something: {known:?}");
    for (call, (what, expected)) in calls {
        let found = held.remove(call).unwrap_or_default();
        let holds = match expected {
            Leaves::None => found == Held::default(),
            Leaves::Denied => found == Held { denied: 1, ..Held::default() },
            Leaves::Ended(cause) => found == Held { denied: 0, intents: 1, outcomes: vec![*cause] },
            Leaves::EndedSomehow => (found.denied, found.intents, found.outcomes.len()) == (0, 1, 1),
        };
        assert!(holds, "{what}: expected {expected:?} in the record, found {found:?}");
        assert!(!found.outcomes.contains(&CauseClass::OutcomeUnknown), "{what}: its outcome is not known");
    }
    assert!(held.is_empty(), "calls that nobody made: {held:?}");
    assert_eq!(host.residue(id), Vec::<String>::new());
    Ok(())
}

fn leaves(mut framed: &[u8]) -> anyhow::Result<Vec<Leaf>> {
    let mut leaves = Vec::new();
    while let Some((length, rest)) = framed.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        ensure!(length <= rest.len(), "a leaf that is cut off");
        let (leaf, rest) = rest.split_at(length);
        leaves.push(Leaf::parse(leaf)?);
        framed = rest;
    }
    Ok(leaves)
}
