//! list: what is in a directory, and beneath it, page by page in one order.
//!
//! The order is that of the paths, component by component, which is also the order of a walk that tells a directory before
//! what is in it. So what is still to come is held as one sorted set, cut to what the page can take: a directory that was told
//! adds its names in front of all others. Memory is that of one page, whatever the tree. No path is opened: each name is opened in its
//! own directory, and no link is followed.

use super::beneath::{self, Beneath, Links};
use super::{LISTING_BYTES_MAX, LISTING_MAX, Tell, ToolError, told};
use crate::frames::tool::Report;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;

/// In place of the slash: no name holds it, and it sorts before every byte of one.
const SEPARATOR: u8 = 0;
/// What a message needs for an entry beside its path and target.
const ENTRY_BYTES: usize = 32;

/// What is asked for.
pub(super) struct Page {
    /// Components of the longest paths that are told.
    pub(super) depth: u64,
    /// Entries, at most [`LISTING_MAX`].
    pub(super) size: u64,
    /// Everything up to this path was told before.
    pub(super) after: Option<Vec<u8>>,
}

/// Tells one page of what is in a directory.
pub(super) fn list(base: &Beneath, path: &[u8], page: &Page, tell: Tell<'_>) -> Result<(), ToolError> {
    let directory = base.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Links::Follow).map_err(ToolError::path)?;
    let size = usize::try_from(page.size).unwrap_or(LISTING_MAX).min(LISTING_MAX);
    let mut walk = Walk {
        depth: page.depth,
        ahead: BTreeSet::new(),
        bytes: 0,
        room: size,
        cut: Cut::No,
        open: Vec::new(),
        unreadable: 0,
    };
    walk.start(Beneath::at(directory), page.after.as_deref())?;
    let mut last = page.after.clone();
    let (mut entries, mut bytes) = (0, 0);
    while entries < size
        && let Some(key) = walk.ahead.pop_first()
    {
        walk.bytes -= key.len();
        let shown = path_of(&key);
        let found = walk.look(&key)?;
        let Some((stat, target)) = found else {
            last = Some(shown);
            continue;
        };
        bytes += shown.len() + target.len() + ENTRY_BYTES;
        if bytes > LISTING_BYTES_MAX {
            walk.cut = Cut::Yes;
            break;
        }
        told(tell(Report::Entry(beneath::entry(&shown, &stat, target))))?;
        entries += 1;
        walk.room = size - entries;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            walk.descend(&key)?;
        }
        last = Some(shown);
    }
    if let Some(after) = last.filter(|_| walk.cut == Cut::Yes || !walk.ahead.is_empty()) {
        told(tell(Report::More { after }))?;
    }
    told(tell(Report::Done { files: entries as u64, bytes: 0, left_out: walk.unreadable }))
}

/// Whether names were left out of what is ahead.
#[derive(PartialEq, Eq)]
enum Cut {
    No,
    Yes,
}

struct Walk {
    depth: u64,
    /// The next paths, in order.
    ahead: BTreeSet<Vec<u8>>,
    /// Their bytes.
    bytes: usize,
    /// Entries that the page still takes, and one more to know that there is one.
    room: usize,
    cut: Cut,
    /// The directories above the next path, the deepest last.
    open: Vec<(Vec<u8>, Beneath)>,
    unreadable: u64,
}

impl Walk {
    /// Opens the directories down to the place that the page before came to, and reads what follows it in each.
    fn start(&mut self, root: Beneath, after: Option<&[u8]>) -> Result<(), ToolError> {
        // Names that cannot be looked at are no listing.
        root.child(b".").map_err(ToolError::path)?;
        let mut passed: Vec<&[u8]> = after.map(|path| path.split(|&byte| byte == b'/').collect()).unwrap_or_default();
        passed.reverse();
        let mut directory = (Vec::new(), root);
        loop {
            let name = passed.pop();
            let there = self.read(&directory.0, &directory.1, name)?;
            let below = match name {
                Some(name) if there && self.goes_below(&directory.0, name) => {
                    Some((joined(&directory.0, name), self.opened(&directory.1, name)?))
                }
                _ => None,
            };
            self.open.push(directory);
            match below {
                Some((key, Some(next))) => directory = (key, next),
                _ => return Ok(()),
            }
        }
    }

    /// Whether what is in the directory of this name is asked for.
    fn goes_below(&self, parent: &[u8], name: &[u8]) -> bool {
        components(&joined(parent, name)) < self.depth
    }

    /// Takes the names of a directory; those up to `passed` were told. Answers whether that one is among them.
    fn read(&mut self, key: &[u8], directory: &Beneath, passed: Option<&[u8]>) -> Result<bool, ToolError> {
        let mut there = false;
        for entry in rustix::fs::Dir::read_from(directory).map_err(ToolError::path)? {
            let entry = entry.map_err(ToolError::path)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." || passed.is_some_and(|passed| name < passed) {
                continue;
            }
            if passed == Some(name) {
                there = true;
                continue;
            }
            let path = joined(key, name);
            self.bytes += path.len();
            self.ahead.insert(path);
            // One more than there is room for, to know that there is one.
            while self.ahead.len() > self.room + 1 || self.bytes > LISTING_BYTES_MAX {
                let Some(last) = self.ahead.pop_last() else { break };
                self.bytes -= last.len();
                self.cut = Cut::Yes;
            }
        }
        Ok(there)
    }

    /// What is at a path; nothing when it is gone: as if it had never been there.
    fn look(&mut self, key: &[u8]) -> Result<Option<(rustix::fs::Stat, Vec<u8>)>, ToolError> {
        let (above, name) = parted(key);
        while self.open.last().is_some_and(|(open, _)| open != above) {
            self.open.pop();
        }
        let (_, directory) = self.open.last().ok_or(ToolError::path(Errno::STALE))?;
        let Ok(stat) = directory.child(name) else { return Ok(None) };
        let target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => directory.link_target(name).unwrap_or_default(),
            _ => Vec::new(),
        };
        Ok(Some((stat, target)))
    }

    /// Reads the directory that was told last, unless it is deep enough.
    fn descend(&mut self, key: &[u8]) -> Result<(), ToolError> {
        let (above, name) = parted(key);
        if !self.goes_below(above, name) {
            return Ok(());
        }
        let Some((_, parent)) = self.open.last() else { return Ok(()) };
        let parent = Beneath::at(rustix::io::dup(parent).map_err(ToolError::path)?);
        if let Some(directory) = self.opened(&parent, name)? {
            match self.read(key, &directory, None) {
                Ok(_) => {}
                // Opened, and not to be read after all: the kernel's own directories are like that.
                Err(ToolError { errno: Errno::ACCESS | Errno::PERM, .. }) => self.unreadable += 1,
                Err(ToolError { errno: Errno::NOENT | Errno::SRCH, .. }) => {}
                Err(error) => return Err(error),
            }
            self.open.push((key.to_vec(), directory));
        }
        Ok(())
    }

    /// Opens a directory for reading; nothing when it is gone, or not the identity's to read, which is counted.
    fn opened(&mut self, parent: &Beneath, name: &[u8]) -> Result<Option<Beneath>, ToolError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = parent.open(name, flags, Links::Refuse).map(Beneath::at);
        match directory.and_then(|directory| directory.child(b".").map(|_| directory)) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::ACCESS | Errno::PERM) => {
                self.unreadable += 1;
                Ok(None)
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::SRCH) => Ok(None),
            Err(errno) => Err(ToolError::path(errno)),
        }
    }
}

fn joined(above: &[u8], name: &[u8]) -> Vec<u8> {
    if above.is_empty() { name.to_vec() } else { [above, name].join(&SEPARATOR) }
}

/// The directory of a path, and its name there.
fn parted(key: &[u8]) -> (&[u8], &[u8]) {
    match key.iter().rposition(|&byte| byte == SEPARATOR) {
        Some(at) => (&key[..at], &key[at + 1..]),
        None => (&key[..0], key),
    }
}

fn components(key: &[u8]) -> u64 {
    1 + key.iter().filter(|&&byte| byte == SEPARATOR).count() as u64
}

fn path_of(key: &[u8]) -> Vec<u8> {
    key.iter().map(|&byte| if byte == SEPARATOR { b'/' } else { byte }).collect()
}
