//! Trees of files as tar streams, both ways. Packing is in name order and never follows a link; unpacking refuses
//! whatever would leave its directory: it comes from a session that the user does not trust.

mod chunks;
mod git;
mod pack;
#[cfg(test)]
mod tests;
mod unpack;

pub use pack::{Packed, SPECIAL_NAMED_MAX, Selection};
pub use unpack::Unpacked;

pub(crate) use pack::{is_special, pack};
pub(crate) use unpack::unpack;

/// The most bytes of a tar stream that goes up: the agent takes no more.
pub const UPLOAD_MAX: u64 = 1 << 30;
/// The most bytes of content that are unpacked: an honest agent sends no more.
pub const CONTENT_MAX: u64 = 1 << 30;
/// The most entries that are unpacked, as in the agent.
pub const ENTRIES_MAX: u64 = 200_000;
/// The longest name or link target in bytes.
pub const PATH_MAX: usize = 4096;
/// The most bytes of a tar stream that comes down: content, and for each entry its blocks and a long name or two.
pub const DOWNLOAD_MAX: u64 = CONTENT_MAX + ENTRIES_MAX * (4 * 512 + 2 * PATH_MAX as u64);

/// The last component of a remote path, or `workspace`.
#[must_use]
pub fn base_name(remote: &str) -> String {
    let last = remote.split('/').rfind(|c| !c.is_empty() && *c != ".");
    last.unwrap_or("workspace").to_owned()
}
