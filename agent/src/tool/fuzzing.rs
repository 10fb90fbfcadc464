//! The door for fuzzing: a built-in tool on a directory that is given, instead of the one it was started in.

use super::beneath::Beneath;
use super::{ToolError, unpack};
use std::io;
use std::os::fd::OwnedFd;

/// Unpacks a tar stream beneath `path` in this directory, as the tool `unpack` does in the workspace.
pub fn unpack_into(directory: OwnedFd, path: &[u8], stream: impl io::Read) -> Result<(), ToolError> {
    unpack::unpack(&Beneath::at(directory), path, stream, &mut |_| Ok(()))
}
