//! Rule R15: acknowledgements of strict sessions. What holds of each leaf is `crate::acks`, which the writer runs too; here its faults
//! become rows.

use super::findings::{Ended, Findings, Refused};
use super::opening_rules::Opened;
use super::record_rules::Rooted;
use super::report::Rule;
use crate::acks::{AckFault, Acks};
use crate::intent::Durability;
use crate::rtmr::Rtmr3Event;

/// R15, in one pass over the leaves and the checkpoints between them.
pub(super) fn acks(rooted: &Rooted<'_>, opened: &Opened<'_>, findings: &mut Findings) -> Result<(), Ended> {
    let intent = &opened.opening().intent;
    if intent.durability == Durability::Relaxed {
        let reason = "relaxed: nothing waits for an acknowledgement";
        findings.not_evaluated(Rule::R15, Rule::R15.title(), reason);
        return Ok(());
    }
    let mut acks = Acks::new(intent);
    // Sizes rise (R10): each checkpoint stands before the first leaf that it does not cover.
    let mut checkpoints = rooted
        .events()
        .iter()
        .filter_map(|(_, event)| match event {
            Rtmr3Event::Checkpoint { size, root } => Some((*size, *root)),
            Rtmr3Event::Open(_) | Rtmr3Event::Sealed { .. } => None,
        })
        .peekable();
    let judged = rooted.leaves().each(|_, leaf| {
        while let Some((size, root)) = checkpoints.next_if(|(size, _)| *size <= leaf.index) {
            acks.checkpoint(size, root);
        }
        acks.see(&leaf)
    })?;
    judged.map_err(|fault| refuse(&fault, findings))?;
    findings.pass(Rule::R15, "acks name checkpoints of this log", "");
    let released = format!("{} effects", acks.released());
    findings.pass(Rule::R15, "started effects were acknowledged", released);
    Ok(())
}

fn refuse(fault: &AckFault, findings: &mut Findings) -> Refused {
    let reason = fault.to_string();
    match fault {
        AckFault::NoSuchCheckpoint { .. } => findings.refuse(Rule::R15, "acks name checkpoints of this log", reason),
        AckFault::Unacknowledged { .. } | AckFault::TooMany { .. } => {
            findings.refuse(Rule::R15, "started effects were acknowledged", reason)
        }
    }
}
