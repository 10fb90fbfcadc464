//! The `coffer` command: its arguments, its exit status, and the runtime between them. What it does is in the modules,
//! one per command; what they share with other programs is in `coffer-client` and `coffer-evidence`.

mod command;
mod connect;
mod create;
mod doctor;
mod evidence;
mod exit;
mod file;
mod image;
mod key;
mod output;
mod policy;
mod quote;
mod run;
mod session;
mod session_policy;
mod signals;
mod stdin;
mod terminal;
mod time;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let command = match command::Coffer::try_parse() {
        Ok(command) => command,
        Err(error) => {
            // Help and version go to stdout and are no error. A closed stdout is none either.
            drop(error.print());
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::told(&anyhow::Error::from(error).context("expected to start threads")),
    };
    let status = runtime.block_on(command.carry_out()).map_or_else(|error| exit::told(&error), ExitCode::from);
    // A thread that still waits for a terminal or a full pipe must not hold up the end.
    runtime.shutdown_background();
    status
}
