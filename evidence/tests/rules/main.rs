//! Each rule refuses what it must, for its own cause, on bundles that are right everywhere else.
#![cfg(feature = "verifier")]

mod acceptance;
mod admitted;
#[path = "../support/archive.rs"]
#[allow(dead_code, reason = "the sweeps use more of it")]
mod archive;
mod attacks;
#[path = "../support/boot_log.rs"]
mod boot_log;
#[path = "../support/booted.rs"]
mod booted;
mod chains;
mod encrypted;
mod event_log;
#[path = "../support/file.rs"]
mod file;
mod free;
mod judging;
mod logged;
mod names;
mod opening;
mod platform;
mod record;
mod report;
#[path = "../support/rules_page.rs"]
mod rules_page;
mod session;
mod source;
mod unbuilt;
#[path = "../support/vectors.rs"]
mod vectors;
mod verify_opening;
