//! The fuzz targets: everything that reads bytes of a hostile guest, host, tool or forger, as plain functions that panic
//! where a promise is broken. `libfuzzer/` runs them under libFuzzer (`scripts/fuzz`); the tests here replay the corpora,
//! and a fixed number of mutations of them, with the stable compiler.
//!
//! A target asserts more than «no panic»: what is accepted encodes to the same bytes, what is held stays within its
//! limit, what was not signed is not believed, nothing is written outside.

pub mod bundles;
pub mod fixtures;
pub mod formats;
pub mod guest_words;
pub mod mutation;
pub mod policies;
pub mod quotes;
pub mod script;
pub mod signed;
pub mod trees;
pub mod vsock_connection;
pub mod vsock_mux;
pub mod vsock_rings;

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of its corpus and of its file in `libfuzzer/fuzz_targets`.
    pub name: &'static str,
    /// Panics when the bytes break a promise.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All of them. `targets.txt` has their names and the length of their inputs, for `scripts/fuzz`.
pub const TARGETS: &[Target] = &[
    target("appraisal_policy", formats::appraisal_policy),
    target("boot_disk", formats::boot_disk),
    target("bundle", bundles::bundle),
    target("bundle_members", bundles::members),
    target("cbor", formats::cbor),
    target("checkpoint_note", signed::checkpoint_note),
    target("collateral", quotes::collateral),
    target("control_link", guest_words::control_link),
    target("dsse", signed::dsse),
    target("event_log", quotes::event_log),
    target("git_commit", signed::git_commit),
    target("link_frames", formats::link_frames),
    target("mirror_store", guest_words::mirror_store),
    target("process_frames", formats::process_frames),
    target("qgs", quotes::qgs),
    target("quote", quotes::quote),
    target("records", formats::records),
    target("session_policy", policies::session_policy),
    target("tree_download", trees::download),
    target("tree_upload", trees::upload),
    target("vsock_connection", vsock_connection::run),
    target("vsock_mux", vsock_mux::run),
    target("vsock_rings", vsock_rings::run),
];

/// Runs a target by its name.
///
/// # Panics
/// When there is none of this name, and when the bytes break a promise.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("expected the name of a target, found {name}")).run)(data);
}
