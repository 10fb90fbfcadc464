//! A strict reader of the names and inodes of an erofs image: what `mkfs.erofs` writes for us and nothing else. Contents
//! of files are not read (they are compressed, and the lint asks for names, modes and attributes alone).
//!
//! Format: the kernel's `fs/erofs/erofs_fs.h`. Everything in the image is hostile: offsets are checked, directories are
//! entered once each, and an image with a feature that is not known here is refused, because it could hide files.

use super::{Entry, Kind};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;

const SUPER_AT: u64 = 1024;
const SUPER_BYTES: usize = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
/// Zero padding of compressed blocks: the one incompatible feature of our images.
const FEATURE_ZERO_PADDING: u32 = 1;
const SLOT: u64 = 32;
const DIRENT: usize = 12;
const NAME_MAX: usize = 255;

/// Most of everything that is read of an image. Names of one inode are counted as often as it is named.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of a directory.
    pub directory: u64,
    /// Bytes of a path.
    pub path: u64,
    /// Bytes of all paths together.
    pub paths: u64,
    /// Bytes of the attributes of an inode.
    pub attribute_bytes: u64,
    /// Attributes of an inode.
    pub attributes: u64,
    /// Attributes of all entries together.
    pub all_attributes: u64,
}

impl Limits {
    /// Those of a guest's root.
    pub const ROOT: Self = Self {
        entries: 1 << 20,
        directory: 64 << 20,
        path: 4096,
        paths: 256 << 20,
        attribute_bytes: 64 << 10,
        attributes: 256,
        all_attributes: 1 << 16,
    };
}

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The bytes are not those of an image that we write.
    #[error(
        "expected {expected} in the erofs image at offset {offset:#x}: it is damaged, or made by another program than ours"
    )]
    Format {
        /// What the format asks for.
        expected: &'static str,
        /// Where.
        offset: u64,
    },
    /// More than is read.
    #[error("expected at most {most} {what} in the erofs image, found more")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much is read.
        most: u64,
    },
    /// Reading.
    #[error("reading the erofs image")]
    Io(#[from] io::Error),
}

/// Bytes that can be read anywhere.
pub trait Source {
    /// Fills `buffer` from `offset`; an error where there are not as many bytes.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl Source for fs::File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl Source for [u8] {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = start.checked_add(buffer.len()).and_then(|end| self.get(start..end));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn at_most(found: u64, most: u64, what: &'static str) -> Result<(), ErofsError> {
    if found <= most { Ok(()) } else { Err(ErofsError::TooMuch { what, most }) }
}

/// Every entry of the image, parents before what is in them, the root first.
pub fn entries(image: &(impl Source + ?Sized), limits: Limits) -> Result<Vec<Entry>, ErofsError> {
    let image = Image::open(image, limits)?;
    let root = image.inode(image.root)?;
    if Kind::of_mode(root.mode) != Some(Kind::Directory) {
        return Err(ErofsError::Format { expected: "a root directory", offset: root.at });
    }
    let mut found = vec![image.entry(String::new(), &root)?];
    let mut pending = vec![(String::new(), root)];
    let mut entered = HashSet::from([image.root]);
    let (mut paths, mut attributes) = (0, found[0].attributes.len() as u64);
    while let Some((path, directory)) = pending.pop() {
        for (name, number) in image.names(&directory)? {
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            let inode = image.inode(number)?;
            at_most(path.len() as u64, limits.path, "bytes in a path")?;
            paths += path.len() as u64;
            at_most(paths, limits.paths, "bytes in all paths together")?;
            at_most(found.len() as u64 + 1, limits.entries, "entries")?;
            let entry = image.entry(path.clone(), &inode)?;
            attributes += entry.attributes.len() as u64;
            at_most(attributes, limits.all_attributes, "extended attributes in all")?;
            found.push(entry);
            if Kind::of_mode(inode.mode) == Some(Kind::Directory) {
                if !entered.insert(number) {
                    return Err(ErofsError::Format { expected: "each directory under one name", offset: inode.at });
                }
                pending.push((path, inode));
            }
        }
    }
    Ok(found)
}

struct Image<'a, S: ?Sized> {
    source: &'a S,
    limits: Limits,
    /// Bytes of a block.
    block: u64,
    metadata: u64,
    shared: u64,
    root: u64,
}

struct Inode {
    at: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    /// Of the content, in blocks.
    start: u64,
    layout: u16,
    /// Of the attributes behind the inode, in bytes.
    attributes: u64,
    /// Of the inode alone.
    header: u64,
}

impl<'a, S: Source + ?Sized> Image<'a, S> {
    fn open(source: &'a S, limits: Limits) -> Result<Self, ErofsError> {
        let mut bytes = [0; SUPER_BYTES];
        source.read_at(SUPER_AT, &mut bytes)?;
        let refuse = |expected, at: u64| Err(ErofsError::Format { expected, offset: SUPER_AT + at });
        if u32_at(&bytes, 0) != MAGIC {
            return refuse("the magic number of erofs", 0);
        }
        if bytes[12] != 12 {
            return refuse("blocks of 4096 bytes", 12);
        }
        if u32_at(&bytes, 80) & !FEATURE_ZERO_PADDING != 0 {
            return refuse("no incompatible feature but zero padding", 80);
        }
        if bytes[90] != 0 || bytes[91] != 0 {
            return refuse("directories in single blocks and no prefixes of attribute names", 90);
        }
        let block = 1 << 12;
        let blocks = |at| u64::from(u32_at(&bytes, at)) * block;
        Ok(Self {
            source,
            limits,
            block,
            metadata: blocks(40),
            shared: blocks(44),
            root: u64::from(u16_at(&bytes, 14)),
        })
    }

    fn bytes(&self, offset: u64, length: u64) -> Result<Vec<u8>, ErofsError> {
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
        self.source.read_at(offset, &mut buffer)?;
        Ok(buffer)
    }

    fn inode(&self, number: u64) -> Result<Inode, ErofsError> {
        let outside = ErofsError::Format { expected: "an inode inside the image", offset: self.metadata };
        let at = number.checked_mul(SLOT).and_then(|offset| offset.checked_add(self.metadata)).ok_or(outside)?;
        let bytes = self.bytes(at, SLOT)?;
        let format = u16_at(&bytes, 0);
        let layout = format >> 1 & 7;
        // Bit 4: one link, or a directory without an entry for itself.
        if format & !0x1f != 0 || layout > 3 {
            return Err(ErofsError::Format { expected: "an inode of a known layout", offset: at });
        }
        let count = u64::from(u16_at(&bytes, 2));
        let attributes = if count == 0 { 0 } else { 12 + (count - 1) * 4 };
        let mode = u32::from(u16_at(&bytes, 4));
        if Kind::of_mode(mode).is_none() {
            return Err(ErofsError::Format { expected: "an inode of a known type", offset: at });
        }
        if format & 1 == 0 {
            let (uid, gid) = (u32::from(u16_at(&bytes, 24)), u32::from(u16_at(&bytes, 26)));
            let (size, start) = (u64::from(u32_at(&bytes, 8)), u64::from(u32_at(&bytes, 16)));
            return Ok(Inode { at, mode, uid, gid, size, start, layout, attributes, header: 32 });
        }
        let bytes = self.bytes(at, 64)?;
        let size = u64::from(u32_at(&bytes, 8)) | u64::from(u32_at(&bytes, 12)) << 32;
        let (start, uid, gid) = (u64::from(u32_at(&bytes, 16)), u32_at(&bytes, 24), u32_at(&bytes, 28));
        Ok(Inode { at, mode, uid, gid, size, start, layout, attributes, header: 64 })
    }

    fn entry(&self, path: String, inode: &Inode) -> Result<Entry, ErofsError> {
        let kind = Kind::of_mode(inode.mode).unwrap_or(Kind::Special);
        let attributes = self.attributes(inode)?;
        Ok(Entry { path, kind, permissions: inode.mode & 0o7777, uid: inode.uid, gid: inode.gid, attributes })
    }

    /// The entries of a directory but for itself and its parent.
    fn names(&self, directory: &Inode) -> Result<Vec<(String, u64)>, ErofsError> {
        let refuse = |expected| ErofsError::Format { expected, offset: directory.at };
        at_most(directory.size, self.limits.directory, "bytes in a directory")?;
        let mut names = Vec::new();
        for number in 0..directory.size.div_ceil(self.block) {
            let length = (directory.size - number * self.block).min(self.block);
            let last = (number + 1) * self.block >= directory.size;
            let at = match directory.layout {
                // The last block stands behind the inode.
                2 if last => directory.at + directory.header + directory.attributes,
                0 | 2 => (directory.start + number) * self.block,
                _ => return Err(refuse("a directory that is not compressed")),
            };
            let block = self.bytes(at, length)?;
            let first = block.get(8..10).map_or(0, |bytes| usize::from(u16_at(bytes, 0)));
            if first < DIRENT || first % DIRENT != 0 || first > block.len() {
                return Err(refuse("a table of directory entries"));
            }
            for entry in (0..first).step_by(DIRENT) {
                let from = usize::from(u16_at(&block, entry + 8));
                let next = entry + DIRENT;
                let to = if next < first { usize::from(u16_at(&block, next + 8)) } else { block.len() };
                let name = block.get(from..to).ok_or_else(|| refuse("names inside their block"))?;
                // Only the last name of a block may be followed by zeros.
                let name = if next < first { name } else { name.split(|byte| *byte == 0).next().unwrap_or_default() };
                if from < first
                    || name.is_empty()
                    || name.len() > NAME_MAX
                    || name.iter().any(|b| [0, b'/'].contains(b))
                {
                    return Err(refuse("names of 1 to 255 bytes without slash"));
                }
                if name == b"." || name == b".." {
                    continue;
                }
                at_most(names.len() as u64 + 1, self.limits.entries, "entries")?;
                let number = u64::from(u32_at(&block, entry)) | u64::from(u32_at(&block, entry + 4)) << 32;
                names.push((String::from_utf8_lossy(name).into_owned(), number));
            }
        }
        Ok(names)
    }

    fn attributes(&self, inode: &Inode) -> Result<Vec<String>, ErofsError> {
        if inode.attributes == 0 {
            return Ok(Vec::new());
        }
        let refuse = |expected| ErofsError::Format { expected, offset: inode.at };
        at_most(inode.attributes, self.limits.attribute_bytes, "bytes of extended attributes of an inode")?;
        let body = self.bytes(inode.at + inode.header, inode.attributes)?;
        let shared = usize::from(body[4]);
        let mut at = 12 + shared * 4;
        let table = body.get(12..at).ok_or_else(|| refuse("shared attributes inside the inode"))?;
        let mut names = Vec::new();
        let room = |names: &Vec<String>| {
            at_most(names.len() as u64 + 1, self.limits.attributes, "extended attributes of an inode")
        };
        for number in table.chunks_exact(4) {
            room(&names)?;
            let offset = self.shared + u64::from(u32_at(number, 0)) * 4;
            let header = self.bytes(offset, 4)?;
            let name = self.bytes(offset + 4, u64::from(header[0]))?;
            names.push(attribute_name(header[1], &name).ok_or_else(|| refuse("attributes of a known kind"))?);
        }
        while at + 4 <= body.len() {
            room(&names)?;
            let (length, value) = (usize::from(body[at]), usize::from(u16_at(&body, at + 2)));
            let end = at + 4 + length;
            let name = body.get(at + 4..end).ok_or_else(|| refuse("attributes inside the inode"))?;
            names.push(attribute_name(body[at + 1], name).ok_or_else(|| refuse("attributes of a known kind"))?);
            at = (end + value).next_multiple_of(4);
        }
        Ok(names)
    }
}

fn attribute_name(prefix: u8, name: &[u8]) -> Option<String> {
    let prefix = match prefix {
        1 => "user.",
        2 => "system.posix_acl_access",
        3 => "system.posix_acl_default",
        4 => "trusted.",
        6 => "security.",
        _ => return None,
    };
    Some(format!("{prefix}{}", String::from_utf8_lossy(name)))
}

/// The caller has looked at the length.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
