//! The notary's own code, whole, between an init and an agent played by the test, over the registers of a simulated TD: what it does by
//! the clock, and what it refuses. No guest is booted.

#[path = "notary/key.rs"]
mod key;
#[path = "notary/played.rs"]
mod played;

use std::time::Duration;

use coffer_agent::frames::log::{ToAgent, ToNotary};
use coffer_evidence::link::Mirror;
use coffer_evidence::seal::{ClosedBy, Reason};
use coffer_evidence::writer::CHECKPOINT_LEAVES;
use played::{Played, Tampered, record};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_checkpoint_comes_one_second_after_the_first_uncovered_leaf() {
    let mut played = Played::start(Tampered::Nothing);
    played.open();
    for calls in [1, 3] {
        let first = played.denied();
        for _ in 1..calls {
            played.denied();
        }
        let (at, covered) = played.next_note(PATIENCE);
        let waited = at - first;
        assert!(waited >= Duration::from_millis(990), "{waited:?} after the first leaf");
        assert!(waited < Duration::from_secs(3), "{waited:?} after the first leaf");
        assert_eq!(covered, calls);
    }
    played.seal().expect("a seal");
}

#[test]
fn a_checkpoint_comes_at_once_when_enough_leaves_wait() {
    let mut played = Played::start(Tampered::Nothing);
    played.open();
    let first = played.denied();
    let most = CHECKPOINT_LEAVES as usize;
    for _ in 1..most {
        played.denied();
    }
    let (at, covered) = played.next_note(PATIENCE);
    assert_eq!(covered, most);
    assert!(at - first < Duration::from_millis(990), "{:?}: it waited for its second", at - first);
    played.seal().expect("a seal");
}

#[test]
fn a_foreign_extend_ends_the_notary_before_it_says_anything_more() {
    let mut played = Played::start(Tampered::Nothing);
    played.open();
    played.denied();
    played.extend_rtmr3(&[7; 48]);
    let error = played.seal().expect_err("a seal over a register that somebody else extended");
    assert_eq!(error.stage, "rtmr3");
    assert!(error.detail.contains("a foreign extend"), "{error}");
    let mut played = Played::start(Tampered::Nothing);
    played.open();
    played.extend_rtmr3(&[7; 48]);
    played.denied();
    assert!(played.ended().detail.contains("a foreign extend"));
    let said = played.rest();
    assert!(!said.iter().any(|message| matches!(message, ToAgent::Sealed { .. })), "{said:?}");
    assert!(!said.iter().any(is_note), "a note over a register that is not ours");
}

fn is_note(message: &ToAgent) -> bool {
    matches!(record(message), Some(Mirror::Note(_)))
}

#[test]
fn a_register_that_is_not_zero_at_the_start_ends_the_notary() {
    let played = Played::start(Tampered::Nothing);
    // It has not been told to go on yet.
    let mut played = played.extended_before(&[1; 48]);
    let error = played.ended();
    assert_eq!(error.stage, "rtmr3");
    let said = played.rest();
    assert!(said.iter().all(|message| matches!(message, ToAgent::Admitted { .. })), "{said:?}");
}

#[test]
fn a_quote_that_differs_from_the_registers_in_any_of_them_is_not_used() {
    let named = [
        (Tampered::ReportData, "report data"),
        (Tampered::Mrtd, "MRTD"),
        (Tampered::MrConfigId, "MRCONFIGID"),
        (Tampered::MrOwner, "MROWNER"),
        (Tampered::MrOwnerConfig, "MROWNERCONFIG"),
        (Tampered::Rtmr(0), "RTMR0-2"),
        (Tampered::Rtmr(1), "RTMR0-2"),
        (Tampered::Rtmr(2), "RTMR0-2"),
        (Tampered::Rtmr(3), "RTMR3"),
    ];
    for (tampered, name) in named {
        let mut played = Played::start(tampered);
        let error = played.ended();
        assert_eq!(error.stage, "quote");
        assert!(error.detail.starts_with(&format!("its {name} is not that of this TD")), "{tampered:?}: {error}");
        let said = played.rest();
        assert!(!said.iter().any(|message| matches!(message, ToAgent::Opened { .. })), "{tampered:?}");
        // The final one is held against them just so.
        let mut played = Played::start_and_tamper_at_the_seal(tampered);
        played.open();
        let error = played.seal().expect_err("a seal");
        assert!(error.detail.starts_with(&format!("its {name} is not that of this TD")), "{tampered:?}: {error}");
    }
}

#[test]
fn nothing_is_accepted_after_the_seal() {
    let mut played = Played::start(Tampered::Nothing);
    played.open();
    played.seal().expect("a seal");
    let (reason, closed_by) = (Reason::UserClosed.number(), ClosedBy::Host.number());
    played.send(&ToNotary::Seal { reason, closed_by });
    assert_eq!(played.ended().stage, "log");
}
