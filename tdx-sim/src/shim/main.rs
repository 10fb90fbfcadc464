//! SIMULATED: `/init` of the simulated image. Serves the files by which a kernel shows its TD, backed by the simulator
//! on the host, and then becomes the agent, which cannot tell the difference. Not part of any other image.
//!
//! ```text
//!   PID 1 ── mounts, modules, meanwhile starts the server and waits for it ── executes /coffer-agent
//!                                        │
//!   server: host 1025 ── registers, extend, quote ── FUSE on both places, until the machine ends
//! ```
//! Whatever fails here, or later on the way to the host, ends in a guest without registers: it powers off unsealed.

mod files;
mod measurements;
mod prepare;
mod reports;
mod simulator;

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

/// The agent in the initramfs.
const AGENT: &str = "/coffer-agent";
/// The role that is not PID 1.
const SERVER: &str = "serve";
/// What the server says once both places are mounted.
const READY: &[u8] = b"ready\n";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        let why = become_agent();
        eprintln!("coffer-shim: SIMULATED TDX: power off: {why}");
        // Refused only without the capability, which PID 1 has; ending PID 1 panics the kernel, which ends it too.
        let Err(_) = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
        return ExitCode::FAILURE;
    }
    if std::env::args_os().nth(1).is_none_or(|role| role != SERVER) {
        eprintln!("coffer-shim: SIMULATED TDX: this program is /init of a simulated Coffer guest");
        return ExitCode::from(64);
    }
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("coffer-shim: SIMULATED TDX: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Prepares the machine and executes the agent in this process; answers only why that was not possible.
fn become_agent() -> String {
    match prepare::machine(start_server) {
        Ok(()) => format!("execute {AGENT}: {}", Command::new(AGENT).arg0("coffer-agent").env_clear().exec()),
        Err(why) => why,
    }
}

/// Starts the server and waits until the files are there.
fn start_server() -> Result<(), String> {
    let started = Command::new("/proc/self/exe").arg(SERVER).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = started.map_err(|error| format!("start the server: {error}"))?;
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        // It closes its end after the word, or by dying.
        let read = stdout.take(READY.len() as u64).read_to_end(&mut said);
        read.map_err(|error| format!("hear from the server: {error}"))?;
    }
    if said == READY { Ok(()) } else { Err("the server ended before it served".into()) }
}

/// The server's life: it ends with the machine.
fn serve() -> Result<(), String> {
    // The registers must outlive every tool that eats memory.
    std::fs::write("/proc/self/oom_score_adj", "-1000").map_err(|error| format!("protect the server: {error}"))?;
    let simulator =
        Arc::new(simulator::connect().map_err(|error| format!("reach the simulator on the host: {error}"))?);
    let mounted = |place: &str, error| format!("serve {place}: {error}");
    let measurements = files::mount(prepare::MISC, measurements::Measurements::new(simulator.clone()))
        .map_err(|error| mounted(prepare::MISC, error))?;
    let reports = files::mount(prepare::REPORTS, reports::Reports::new(simulator))
        .map_err(|error| mounted(prepare::REPORTS, error))?;
    let measurements = measurements.spawn().map_err(|error| mounted(prepare::MISC, error))?;
    std::io::stdout().write_all(READY).map_err(|error| format!("say that it serves: {error}"))?;
    let result = reports.run().map_err(|error| mounted(prepare::REPORTS, error));
    drop(measurements);
    result
}
