//! `cofferd`: the control plane of one host. It makes sessions, launches their virtual machines, relays calls to them,
//! keeps their evidence and cleans up behind them. It is trusted for availability alone: what it says about a session is
//! a claim, what a bundle proves does not rest on it.
//!
//! ```text
//! api ──> session ──> ports: Vmm, Link, Store, evidence store
//!                            ^
//!                            └── vmm::qemu, link::{kernel, vhost_user}, store::{embedded, vault}: named in `serve` alone
//! ```

mod api;
mod command;
mod config;
mod endorsements;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod image;
mod jail;
mod link;
mod serve;
mod session;
mod store;
mod vmm;

pub use command::main;
