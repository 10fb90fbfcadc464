//! R7 on the firmware's event log: what is there must replay to the registers of the quote, on either platform.

use coffer_evidence::bundle::Parts;
use coffer_evidence::verify::{Accepted, CheckResult, Rule, Verdict};

use crate::boot_log::{EV_EFI_ACTION, Entry, log, small_boot};
use crate::booted::{booted, named};
use crate::judging::{refused, sealed_parts, verify_parts};
use crate::session::{Ending, Recipe, parts};

const NAME: &str = "event log (CCEL) replays";

/// A sealed bundle of a TD that booted as the small log says, with this log.
fn with_log(ccel: Vec<u8>) -> Parts {
    let recipe = Recipe { manifest: named, opening_td: booted, ..Recipe::default() };
    Parts { ccel: Some(ccel), ..parts(&recipe, Ending::Sealed) }
}

#[test]
fn an_event_log_that_replays_passes_and_says_what_was_recomputed() {
    let report = verify_parts(&with_log(log(&small_boot())));
    assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes), "{}", report.human());
    let row = report.checks.iter().find(|check| check.name == NAME).expect("the row");
    assert_eq!((row.rule, row.result), (Rule::R7, CheckResult::Pass));
    assert_eq!(row.reason, "5 events; 3 payloads are what was measured");
}

#[test]
fn garbage_in_place_of_an_event_log_is_refused() {
    for garbage in [b"garbage".to_vec(), Vec::new(), vec![0; 65_536], vec![0xff; 65_536]] {
        refused(&verify_parts(&Parts { ccel: Some(garbage), ..sealed_parts() }), Rule::R7, NAME);
    }
}

#[test]
fn the_event_log_of_another_boot_is_refused() {
    refused(&verify_parts(&Parts { ccel: Some(log(&small_boot())), ..sealed_parts() }), Rule::R7, NAME);
    let mut longer = small_boot();
    longer.push(Entry::measured(2, EV_EFI_ACTION, b"Exit Boot Services Returned with Success"));
    let report = verify_parts(&with_log(log(&longer)));
    refused(&report, Rule::R7, NAME);
    assert!(report.obstacles().all(|check| check.reason.starts_with("RTMR1: ")), "{}", report.human());
}

#[test]
fn an_event_log_that_speaks_of_rtmr3_is_refused() {
    let mut foreign = small_boot();
    foreign.push(Entry::measured(4, EV_EFI_ACTION, b"before the agent"));
    let report = verify_parts(&with_log(log(&foreign)));
    refused(&report, Rule::R7, NAME);
    assert!(report.human().contains("RTMR3 belongs to the action log"));
}
