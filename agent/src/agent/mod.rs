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
pub mod life;
pub mod limits;
pub mod link;
pub mod log;
pub mod outlet;
pub mod pump;
pub mod service;
pub mod session;
pub mod starter;
pub mod stream;
pub mod vanish;

use crate::channel::Channel;
use crate::fixed;
use std::process::ExitCode;

/// Runs as the agent: started by init, with its two sockets in place.
pub fn run() -> ExitCode {
    crate::inherited::harden();
    let Ok([init, notary]) = crate::inherited::take([fixed::FD_AGENT_INIT, fixed::FD_AGENT_NOTARY]) else {
        eprintln!("coffer-agent: expected the sockets of init; this role is started by init only");
        return ExitCode::from(64);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("coffer-agent: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        life::live(
            Channel::new(init),
            Channel::new(notary),
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
