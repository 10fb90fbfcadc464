//! The rest of rule R7: the firmware's event log (CCEL) replays to the registers of the opening quote. It adds nothing to what the
//! manifest demands of those registers, but what it says of them must be true.

use super::anchor::Platform;
use super::findings::{Findings, Refused};
use super::opening_rules::differing_registers;
use super::report::Rule;
use crate::event_log::{EventLog, EventPayload};
use crate::quote::Register;

const NAME: &str = "event log (CCEL) replays";

/// Judges the log against RTMR0 to RTMR3 of the opening quote.
pub(super) fn judge(
    ccel: Option<&[u8]>,
    platform: Platform,
    rtmrs: &[Register; 4],
    findings: &mut Findings,
) -> Result<(), Refused> {
    let Some(bytes) = ccel else {
        match platform {
            Platform::Simulated => findings.not_evaluated(Rule::R7, NAME, "the simulated platform has none"),
            Platform::Tdx => findings.missing(Rule::R7, NAME, "it may be absent only on the simulated platform"),
        }
        return Ok(());
    };
    let log = match EventLog::parse(bytes) {
        Ok(log) => log,
        Err(error) => return Err(findings.refuse(Rule::R7, NAME, error.to_string())),
    };
    // RTMR3 is zero until the agent extends event 0: firmware that extended it, or says so, is not ours.
    let foreign = log.events().iter().filter(|event| event.rtmr == 3).count();
    if foreign > 0 {
        let reason = format!("RTMR3 belongs to the action log, the event log has {foreign} events for it");
        return Err(findings.refuse(Rule::R7, NAME, reason));
    }
    let [replayed0, replayed1, replayed2, _] = log.replay();
    let [rtmr0, rtmr1, rtmr2, _] = rtmrs;
    let differing = differing_registers(&[
        ("RTMR0", replayed0.as_bytes(), rtmr0),
        ("RTMR1", replayed1.as_bytes(), rtmr1),
        ("RTMR2", replayed2.as_bytes(), rtmr2),
    ]);
    if !differing.is_empty() {
        return Err(findings.refuse(Rule::R7, NAME, differing.join("; ")));
    }
    let recomputed = log.events().iter().filter(|event| matches!(event.payload, EventPayload::Recomputed(_))).count();
    findings.pass(
        Rule::R7,
        NAME,
        format!("{} events; {recomputed} payloads are what was measured", log.events().len()),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::findings::Claim;
    use crate::verify::report::Verdict;

    /// The smallest log: it declares its form and has no event, so it replays to zeros.
    fn empty_log() -> Vec<u8> {
        let mut log = vec![1, 0, 0, 0, 3, 0, 0, 0];
        log.extend([0; 20]);
        log.extend([33, 0, 0, 0]);
        log.extend(b"Spec ID Event03\0");
        log.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0c, 0, 48, 0, 0]);
        log
    }

    fn verdict(ccel: Option<&[u8]>, platform: Platform, rtmrs: &[Register; 4]) -> Verdict {
        let mut findings = Findings::default();
        let judged = judge(ccel, platform, rtmrs, &mut findings);
        assert_eq!(judged.is_err(), findings.refusal().is_some());
        findings.verdict(Some(Claim::Sealed))
    }

    #[test]
    fn under_intels_root_a_log_is_needed_and_no_garbage_stands_in_for_it() {
        let booted = [[0; 48], [0; 48], [0; 48], [7; 48]];
        let log = empty_log();
        assert_eq!(verdict(None, Platform::Tdx, &booted), Verdict::Indeterminate);
        assert_eq!(verdict(Some(&log), Platform::Tdx, &booted), Verdict::Sealed);
        assert_eq!(verdict(Some(b"garbage"), Platform::Tdx, &booted), Verdict::Invalid);
        assert_eq!(verdict(Some(&[]), Platform::Tdx, &booted), Verdict::Invalid);
        for register in 0..3 {
            let mut other = booted;
            other[register] = [1; 48];
            assert_eq!(verdict(Some(&log), Platform::Tdx, &other), Verdict::Invalid, "RTMR{register}");
        }
    }

    #[test]
    fn on_the_simulated_platform_a_log_may_be_absent_and_must_be_true() {
        let booted = [[0; 48]; 4];
        assert_eq!(verdict(None, Platform::Simulated, &booted), Verdict::Sealed);
        assert_eq!(verdict(Some(&empty_log()), Platform::Simulated, &booted), Verdict::Sealed);
        assert_eq!(verdict(Some(b"garbage"), Platform::Simulated, &booted), Verdict::Invalid);
        assert_eq!(verdict(Some(&empty_log()), Platform::Simulated, &[[1; 48]; 4]), Verdict::Invalid);
    }
}
