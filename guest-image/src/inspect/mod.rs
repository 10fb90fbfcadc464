//! What is in the files of a built image, read out of their bytes: the recipe that made them is not asked.

pub mod erofs;
pub mod initramfs;

/// What an entry of a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file with content.
    File,
    /// A symbolic link.
    Link,
    /// A device, a named pipe or a socket.
    Special,
}

impl Kind {
    /// By the type bits of a mode.
    #[must_use]
    pub fn of_mode(mode: u32) -> Option<Self> {
        match mode & 0o170_000 {
            0o040_000 => Some(Self::Directory),
            0o100_000 => Some(Self::File),
            0o120_000 => Some(Self::Link),
            0o010_000 | 0o020_000 | 0o060_000 | 0o140_000 => Some(Self::Special),
            _ => None,
        }
    }
}

/// One entry, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path from the root, without a leading slash; the root itself is empty.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// The twelve permission bits.
    pub permissions: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Names of its extended attributes, as `getfattr` shows them.
    pub attributes: Vec<String>,
}
