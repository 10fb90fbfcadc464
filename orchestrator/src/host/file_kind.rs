//! What stands at a path, in the words of a message.

use std::fs::FileType;
use std::os::unix::fs::FileTypeExt as _;

/// The kind of what stands at a path, in words.
pub(crate) fn what_it_is(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_file() {
        "a file"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}
