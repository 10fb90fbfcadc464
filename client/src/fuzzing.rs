//! The door for fuzzing: what unpacks a session's files on the user's machine, without a session.

use std::path::Path;

use tokio::sync::mpsc;

use crate::error::ClientError;
use crate::tree::{self, Unpacked};

/// Unpacks an archive that came in chunks into `local`, as a download does. Not for use inside a runtime.
///
/// # Errors
/// As a download.
pub fn unpack_into(chunks: &[&[u8]], local: &Path, name: &str) -> Result<Unpacked, ClientError> {
    let (sender, receiver) = mpsc::channel(chunks.len().max(1));
    for chunk in chunks {
        // There is a place for each.
        drop(sender.try_send(bytes::Bytes::copy_from_slice(chunk)));
    }
    drop(sender);
    tree::unpack(receiver, local, name)
}
