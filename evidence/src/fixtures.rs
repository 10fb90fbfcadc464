//! The fixtures of `tests/`, compiled into the unit tests of this crate. Nothing of it is in a product.
#![allow(dead_code, reason = "their own tests use all of it")]

#[path = "../tests/support/boot_log.rs"]
pub(crate) mod boot_log;
#[path = "../tests/support/booted.rs"]
pub(crate) mod booted;
#[path = "../tests/corpus/certificates.rs"]
pub(crate) mod certificates;
#[path = "../tests/sweeps/der.rs"]
pub(crate) mod der;
#[path = "../tests/rules/platform.rs"]
pub(crate) mod platform;
#[path = "../tests/rules/session.rs"]
pub(crate) mod session;
