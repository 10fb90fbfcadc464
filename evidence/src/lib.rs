//! The formats that a proof rests on, and their verification. Pure: no I/O, no clock, no randomness, no async.
//!
//! The layouts are fixed in `formats.cddl`; every type here says which. With feature `verifier` the crate also holds
//! the quote verifier and the rules of `docs/verifier-rules.md`; the guest agent links it without. Wrapping a key for age recipients
//! (feature `age`) is the one thing here that draws randomness.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod acks;
pub mod bundle;
pub mod call;
pub mod call_header;
pub mod cbor;
pub mod chain;
pub mod channel;
pub mod collateral;
pub mod config;
pub mod dsse;
pub mod event_log;
pub mod fields;
pub mod file_record;
pub mod git;
pub mod hash;
pub mod ids;
pub mod intent;
pub mod leaf;
pub mod link;
pub mod manifest;
pub mod note;
mod numbers;
pub mod open;
pub mod pool;
pub mod private;
pub mod qgs;
pub mod quote;
pub mod receipt;
mod request;
pub mod rtmr;
pub mod seal;
pub mod sign;
mod speaker;
pub mod statement;
pub mod tree;
#[cfg(feature = "verifier")]
pub mod verify;
pub mod writer;

/// What the tests of the rules make bundles with, for those tests that have to stand inside the crate.
#[cfg(all(test, feature = "verifier"))]
mod fixtures;
// The fixtures know this crate by its name, and each other by their places in a test.
#[cfg(all(test, feature = "verifier"))]
extern crate self as coffer_evidence;
#[cfg(all(test, feature = "verifier"))]
use fixtures::{boot_log, der, platform};

pub use config::{admit, boot_disk};
