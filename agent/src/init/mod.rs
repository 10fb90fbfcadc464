//! PID 1: prepares the machine, starts the notary and the agent, starts tools that the notary has logged, collects
//! what ends, and powers off. It reads no network, no config and nothing a client sent but the logged request itself.

pub mod boot;
pub mod calls;
pub mod ccel;
pub mod cgroup;
pub mod command;
pub mod console;
pub mod disks;
pub mod error;
mod grants;
pub mod harden;
pub mod jail;
pub mod leftovers;
pub mod mapper;
pub mod modules;
pub mod mounts;
pub mod power;
mod raw;
pub mod reap;
pub mod root;
pub mod scrub;
pub mod spawn;
mod steps;
pub mod supervise;
pub mod verity;
pub mod wires;

/// Runs as PID 1. Every way out is power-off.
pub fn run() -> ! {
    match boot::boot() {
        Ok(reason) => power::off(&reason),
        Err(error) => power::off(&error.line()),
    }
}
