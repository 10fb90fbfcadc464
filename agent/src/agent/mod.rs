//! The agent: everything that speaks with the outside. It holds no key that matters, cannot log, and cannot start
//! anything; it asks the notary for the one and init for the other.
//!
//! ```text
//!  Admitted ─> hello ─> Opened ─> Ready ─> serve ──┬─ close, ttl, idle, limit ─> Closing ─> Sealed ─> off
//!     │           │        │                       │        refuse calls, end them, wait for their outcomes,
//!     └───────────┴────────┴── failed ─> Failed ───┘        seal, until the host has stored it or linger is over
//! ```

pub mod builtin;
pub mod call;
pub mod errors;
pub mod exec;
pub mod files;
pub mod git;
mod git_order;
mod judge;
pub mod life;
pub mod limits;
pub mod link;
pub mod log;
pub mod names;
pub mod outlet;
pub mod plain;
pub mod pump;
pub mod service;
pub mod session;
pub mod starter;
pub mod stream;
pub mod vanish;
pub mod watch;

use crate::channel::Channel;
use crate::fixed;
use std::fs::File;
use std::io::Read as _;
use std::process::ExitCode;

/// Runs as the agent: started by init, with its two sockets and the event log in place.
pub fn run() -> ExitCode {
    crate::inherited::harden();
    let numbers = [fixed::FD_AGENT_INIT, fixed::FD_AGENT_NOTARY, fixed::FD_AGENT_CCEL];
    let Ok([init, notary, ccel]) = crate::inherited::take(numbers) else {
        eprintln!("coffer-agent: expected the descriptors of init; this role is started by init only");
        return ExitCode::from(64);
    };
    let ccel = match event_log(File::from(ccel)) {
        Ok(ccel) => ccel,
        Err(error) => {
            eprintln!("coffer-agent: the event log cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    };
    // One thread: what a call waits for is the next process to be woken, and a second thread is one more of those.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("coffer-agent: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        life::live(
            (Channel::new(init), Channel::new(notary)),
            ccel,
            outlet::HostPort(fixed::PORT_CONTROL),
            outlet::HostPort(fixed::PORT_MIRROR),
            life::listen_vsock,
        )
        .await
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("coffer-agent: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The firmware's event log as init read it; empty means that the platform has none.
fn event_log(mut file: File) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok((!bytes.is_empty()).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_event_log_is_none_and_any_other_is_told_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        for (bytes, expected) in [(&b""[..], None), (b"\0", Some(&b"\0"[..])), (b"log", Some(b"log"))] {
            std::fs::write(dir.path().join("ccel"), bytes).unwrap();
            let log = event_log(File::open(dir.path().join("ccel")).unwrap()).unwrap();
            assert_eq!(log.as_deref(), expected);
        }
    }
}
