//! The kernel's events, as fanotify(7) lays them out, taken apart. Names in them are a tenant's bytes.

use super::kernel::{self, Handle};
use std::os::fd::OwnedFd;

/// A file was opened.
pub(super) const OPENED: u64 = libc::FAN_OPEN;
/// A file that was open for writing is closed.
pub(super) const WRITTEN: u64 = libc::FAN_CLOSE_WRITE;
/// A name was made.
pub(super) const CREATED: u64 = libc::FAN_CREATE;
/// A name was removed.
pub(super) const DELETED: u64 = libc::FAN_DELETE;
/// A name became another.
pub(super) const RENAMED: u64 = libc::FAN_RENAME;
/// It happened to a directory.
pub(super) const DIRECTORY: u64 = libc::FAN_ONDIR;

/// Bytes before what an event is about.
const METADATA: usize = 24;
/// `FANOTIFY_METADATA_VERSION`.
const VERSION: u8 = 3;

/// A place in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    /// The directory.
    pub(super) directory: Handle,
    /// The name in it.
    pub(super) name: Vec<u8>,
}

/// The same, as an event has it.
#[derive(Debug)]
pub(super) struct Named<'a> {
    /// The directory.
    pub(super) directory: Handle,
    /// The name in it.
    pub(super) name: &'a [u8],
}

impl Named<'_> {
    /// Bytes of both.
    pub(super) fn len(&self) -> usize {
        self.directory.len() + self.name.len()
    }

    /// To be kept.
    pub(super) fn keep(self) -> Spot {
        Spot { directory: self.directory, name: self.name.to_vec() }
    }
}

/// What happened.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// Events were dropped.
    Overflow,
    /// A file is about to be executed, and comes open.
    File {
        /// The process, as this process's namespace counts.
        pid: i32,
        /// The file.
        file: OwnedFd,
    },
    /// Something happened to a file by a name, or to a name.
    Name {
        /// What, a sum of the constants above.
        what: u64,
        /// The process.
        pid: i32,
        /// Which file system.
        file_system: u64,
        /// The name, or the one before.
        spot: Option<Named<'a>>,
        /// The new name of what was renamed.
        renamed: Option<Named<'a>>,
        /// What has or had the name.
        target: Option<Handle>,
    },
}

/// Why a buffer is not one of the kernel's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the kernel's events, found {0}")]
pub(super) struct NotEvents(&'static str);

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

/// Takes a buffer apart. After one that is none, descriptors that were in it are lost: so must the process be.
pub(super) fn events(mut bytes: &[u8]) -> impl Iterator<Item = Result<Event<'_>, NotEvents>> {
    std::iter::from_fn(move || {
        let first = next(bytes)?;
        bytes = first.as_ref().map_or(&[][..], |(_, rest)| *rest);
        Some(first.map(|(event, _)| event))
    })
}

/// The first event, and what follows it.
fn next(bytes: &[u8]) -> Option<Result<(Event<'_>, &[u8]), NotEvents>> {
    const SHORT: NotEvents = NotEvents("a part of an event");
    if bytes.is_empty() {
        return None;
    }
    let length = number::<4>(bytes, 0).map(|length| u32::from_ne_bytes(length) as usize);
    let parts = length.filter(|length| *length >= METADATA).and_then(|length| bytes.split_at_checked(length));
    let Some((bytes, rest)) = parts else { return Some(Err(SHORT)) };
    let event = event_of(bytes).ok_or(SHORT);
    Some(if bytes.get(4) == Some(&VERSION) {
        event.map(|event| (event, rest))
    } else {
        Err(NotEvents("another version"))
    })
}

fn event_of(event: &[u8]) -> Option<Event<'_>> {
    let information = u16::from_ne_bytes(number(event, 6)?) as usize;
    let what = u64::from_ne_bytes(number(event, 8)?);
    let (file, pid) = (i32::from_ne_bytes(number(event, 16)?), i32::from_ne_bytes(number(event, 20)?));
    let file = kernel::carried(file);
    if what & libc::FAN_Q_OVERFLOW != 0 {
        return Some(Event::Overflow);
    }
    if let Some(file) = file {
        return Some(Event::File { pid, file });
    }
    let (mut file_system, mut spot, mut renamed, mut target) = (0, None, None, None);
    let mut rest = event.get(information..)?;
    while !rest.is_empty() {
        let length = u16::from_ne_bytes(number(rest, 2)?) as usize;
        let (record, after) = rest.split_at_checked(length).filter(|_| length >= 4)?;
        rest = after;
        let kind = record.first().copied()?;
        let at = Place::parse(record)?;
        file_system = at.file_system;
        match kind {
            libc::FAN_EVENT_INFO_TYPE_FID => target = Some(at.named.directory),
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME | libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => spot = Some(at.named),
            libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => renamed = Some(at.named),
            _ => {}
        }
    }
    Some(Event::Name { what, pid, file_system, spot, renamed, target })
}

/// A `fanotify_event_info_fid`: a file, or a directory and a name in it.
struct Place<'a> {
    file_system: u64,
    named: Named<'a>,
}

impl<'a> Place<'a> {
    fn parse(record: &'a [u8]) -> Option<Self> {
        let file_system = u64::from_ne_bytes(number(record, 4)?);
        let length = u32::from_ne_bytes(number(record, 12)?) as usize;
        let kind = i32::from_ne_bytes(number(record, 16)?);
        let (handle, name) = record.get(20..)?.split_at_checked(length)?;
        // What follows the NUL fills up.
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Self { file_system, named: Named { directory: Handle::new(kind, handle)?, name } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An event that carries no descriptor.
    fn event(what: u64, pid: i32, records: &[Vec<u8>]) -> Vec<u8> {
        let records = records.concat();
        let length = u32::try_from(METADATA + records.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([VERSION, 0]);
        bytes.extend(24_u16.to_ne_bytes());
        bytes.extend(what.to_ne_bytes());
        bytes.extend((-1_i32).to_ne_bytes());
        bytes.extend(pid.to_ne_bytes());
        bytes.extend(records);
        bytes
    }

    fn record(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let mut body = 7_u64.to_ne_bytes().to_vec();
        body.extend(u32::try_from(handle.len()).unwrap().to_ne_bytes());
        body.extend(1_i32.to_ne_bytes());
        body.extend(handle);
        body.extend(name);
        while !body.len().is_multiple_of(4) {
            body.push(0);
        }
        let length = u16::try_from(body.len() + 4).unwrap();
        [&[kind, 0][..], &length.to_ne_bytes(), &body].concat()
    }

    fn handle(bytes: &[u8]) -> Handle {
        Handle::new(1, bytes).unwrap()
    }

    #[test]
    fn a_rename_names_both_places_and_what_was_renamed() {
        let records = [
            record(libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, b"dir1", b"old\0"),
            record(libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, b"dir2", b"new name\0"),
            record(libc::FAN_EVENT_INFO_TYPE_FID, b"file", b""),
        ];
        let both = [event(RENAMED, 5, &records), event(libc::FAN_Q_OVERFLOW, 0, &[])].concat();
        let mut found: Vec<Event<'_>> = events(&both).collect::<Result<_, _>>().unwrap();
        assert!(matches!(found.pop(), Some(Event::Overflow)));
        let Some(Event::Name { what, pid, file_system, spot: before, renamed, target }) = found.pop() else {
            panic!("{found:?}")
        };
        assert_eq!((what, pid, file_system), (RENAMED, 5, 7));
        let spot = |name: Option<Named<'_>>| name.map(Named::keep);
        assert_eq!(spot(before), Some(Spot { directory: handle(b"dir1"), name: b"old".to_vec() }));
        assert_eq!(spot(renamed), Some(Spot { directory: handle(b"dir2"), name: b"new name".to_vec() }));
        assert_eq!(target, Some(handle(b"file")));
        assert!(found.is_empty());
    }

    #[test]
    fn what_is_no_event_is_refused() {
        let good = event(CREATED, 5, &[record(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, b"dir1", b"a\0")]);
        let all_are = |bytes: &[u8]| events(bytes).all(|event| event.is_ok());
        assert!(all_are(&good));
        for short in 1..good.len() {
            assert!(!all_are(&good[..short]), "{short}");
        }
        let mut other = good.clone();
        other[4] = 2;
        assert!(!all_are(&other));
        let long = event(CREATED, 5, &[record(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, &[0; 129], b"a\0")]);
        assert!(!all_are(&long));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), length in (0..50_u32).prop_map(|words| words * 4)) {
            // No descriptor of this process may be taken over.
            for at in 0..bytes.len() / 4 {
                bytes[at * 4 + 3] |= 0x80;
            }
            if bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&length.to_ne_bytes());
            }
            assert!(events(&bytes).count() <= bytes.len());
        }
    }
}
