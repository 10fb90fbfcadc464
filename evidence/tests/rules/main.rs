//! Each rule refuses what it must, for its own cause, on bundles that are right everywhere else.
#![cfg(feature = "verifier")]

mod acceptance;
mod flips;
mod judging;
mod logged;
mod opening;
mod platform;
mod record;
mod report;
mod session;
#[path = "../support/vectors.rs"]
mod vectors;
mod verify_opening;
