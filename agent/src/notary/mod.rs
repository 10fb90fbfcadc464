//! The notary: the one process that holds the log key, the git key, RTMR3 and the way to a quote. It admits the config, opens the
//! instance, appends what the agent asks for in the order that the log's rules allow, and seals. One thread, no
//! network, no file but those it was started with.
//!
//! ```text
//!  boot disk ─ admit ─ registers agree ─ RTMR3 zero ─ keys ─ event 0 ─ opening quote ─ leaf 0 ─ checkpoint
//!                                                                                            │
//!        ┌───── intent, denied, outcome: append; commit: sign; checkpoint when due <─────────┘
//!        └─> seal: git key gone ─ scrub ─ scrub leaf ─ seal leaf ─ checkpoint ─ sealed ─ statement, S ─ key gone ─ final quote
//! ```
//! Anything unexpected, a foreign extend of RTMR3 above all, ends the process, and init powers off: unsealed.

pub mod admission;
pub mod heard;
pub mod keys;
pub mod live;
pub mod quotes;
pub mod recorder;
mod records;
pub mod registers;
pub mod sealing;
pub mod signing;
mod traces;

use crate::channel::Channel;
use crate::fixed;
use crate::frames::warrant;
use crate::machine::Machine;
use registers::MeasurementFiles;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::process::ExitCode;

/// Runs as the notary: started by init, with its descriptors in place, told what the machine is.
pub fn run(machine: &[OsString]) -> ExitCode {
    crate::inherited::harden();
    let first = fixed::FD_NOTARY_REGISTERS;
    let numbers = [first, first + 1, first + 2, first + 3, first + 4, first + 5, first + 6];
    let sockets = [fixed::FD_NOTARY_INIT, fixed::FD_NOTARY_AGENT, fixed::FD_NOTARY_RTMR3, fixed::FD_NOTARY_BOOT];
    let (Ok([init, agent, rtmr3, disk]), Ok(fixed)) =
        (crate::inherited::take(sockets), crate::inherited::take(numbers))
    else {
        eprintln!("coffer-agent: expected the descriptors of init; this role is started by init only");
        return ExitCode::from(64);
    };
    let init = heard::Init::new(Channel::new(init));
    let registers = MeasurementFiles { fixed: fixed.map(File::from), rtmr3: File::from(rtmr3) };
    let agent = Channel::new(agent);
    let result = start(machine, File::from(disk)).and_then(|(machine, disk)| {
        live::live(&init, &agent, registers, quotes::Reports::new(&init), (&disk, &machine), live::now)
    });
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("coffer-agent: notary: {error}");
    let failed = warrant::ToInit::Failed { stage: error.stage.to_owned(), detail: error.detail };
    // Init sees the end of this process in any case.
    drop(init.send(&failed));
    ExitCode::FAILURE
}

/// What the notary is started with besides its links.
fn start(machine: &[OsString], mut disk: File) -> Result<(Machine, Vec<u8>), live::NotaryError> {
    let machine = Machine::from_arguments(machine).map_err(|error| live::NotaryError::new("machine", error))?;
    let mut bytes = Vec::new();
    disk.read_to_end(&mut bytes).map_err(|error| live::NotaryError::new("boot disk", error))?;
    Ok((machine, bytes))
}
