//! The hard edges of a bundle: every byte, every length, every way to put members together, and what the verifier may use up
//! meanwhile. Each sweep has a short form, which runs with the other tests, and a long one: `COFFER_SWEEP=full`, by
//! `scripts/sweep`. Both print a line with the number of bundles that were judged.
#![cfg(feature = "verifier")]

#[path = "../support/archive.rs"]
mod archive;
#[path = "../support/boot_log.rs"]
mod boot_log;
#[path = "../support/booted.rs"]
mod booted;
mod bounds;
mod bytes;
mod crossing;
mod der;
#[path = "../support/file.rs"]
#[allow(dead_code, reason = "the tests of the rules read bundles from files")]
mod file;
mod framing;
#[path = "../rules/judging.rs"]
#[allow(dead_code, reason = "the tests of the rules use more of it")]
mod judging;
mod lengths;
#[path = "../rules/platform.rs"]
#[allow(dead_code, reason = "the tests of the rules use more of it")]
mod platform;
mod second_forms;
#[path = "../rules/session.rs"]
#[allow(dead_code, reason = "the tests of the rules use more of it")]
mod session;
mod sources;
mod spread;
