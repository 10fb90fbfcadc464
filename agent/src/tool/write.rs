//! write: a file is replaced whole or not at all, and only what its writer expects is replaced.
//!
//! ```text
//!  fits? ── no ──────────────────────────────> refused
//!    │ yes
//!  content, without a name until it is whole
//!    ├─ anything may be there ─> a name beside it ─> rename over
//!    ├─ nothing may be there ──> link: the kernel refuses a name that is taken
//!    └─ one content ───────────> a name beside it ─> exchange ─> does what came out fit?
//!                                                      ▲            │ yes: it is removed
//!                                                      └── undo <───┘ no: until what came out is the older
//! ```
//! What others give the name to meanwhile is not lost: what came out unfit goes back, and what came out of that too, if it is
//! newer. Two things the kernel leaves open. What a process writes into the old file, which it still has open, after the second
//! look at it, is lost with that file. And until an undo, readers of the name find the new content: who names that content as
//! what it writes over is let through, and what was put back is lost to it. Who ends the tool in between leaves the old file
//! beside, under the name `.coffer-...`. Nothing is synced: the workspace is memory.

use super::beneath::{Beneath, Links};
use super::files::{copy, regular};
use super::{TRANSFER_MAX, Tell, ToolError, done};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;

/// How often what came out may be newer than what went in.
const TRIES: usize = 64;

/// What must have the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Anything or nothing.
    Any,
    /// Nothing.
    Nothing,
    /// A regular file with this SHA-256.
    Content([u8; 32]),
}

impl Wanted {
    pub(super) fn parse(word: &OsStr) -> Result<Self, ToolError> {
        let wrong = ToolError::new("arguments", Errno::INVAL);
        match word.to_str().ok_or(wrong)? {
            "any" => Ok(Self::Any),
            "nothing" => Ok(Self::Nothing),
            digest => {
                let mut bytes = [0; 32];
                hex::decode_to_slice(digest, &mut bytes).map(|()| Self::Content(bytes)).map_err(|_| wrong)
            }
        }
    }
}

/// Another thing has the name than was wanted; nothing is changed.
fn unfit(found: Errno) -> ToolError {
    ToolError::new("match", found)
}

/// Gives the name to what comes from `input`.
pub(super) fn write(
    base: &Beneath,
    path: &[u8],
    mode: u64,
    wanted: Wanted,
    mut input: impl io::Read,
    tell: Tell<'_>,
) -> Result<(), ToolError> {
    let (parent, last) = base.parent(path, Links::Follow).map_err(ToolError::path)?;
    // Most that do not fit do not fit now, and need not send their content.
    match wanted {
        Wanted::Any => {}
        Wanted::Nothing => match parent.child(last) {
            Err(Errno::NOENT) => {}
            Ok(_) => return Err(unfit(Errno::EXIST)),
            Err(errno) => return Err(ToolError::path(errno)),
        },
        Wanted::Content(digest) => fits(&parent, last, &digest)?,
    }
    let mode = Mode::from_raw_mode(u32::try_from(mode & 0o777).unwrap_or(0o644));
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(&parent, ".", flags, mode).map_err(ToolError::path)?);
    let bytes = copy(&mut input, &mut file)?;
    // The mode as asked, whatever the umask says.
    rustix::fs::fchmod(&file, mode).map_err(ToolError::path)?;
    match wanted {
        Wanted::Any => {
            let fresh = beside(&file, &parent)?;
            rename(&parent, fresh.as_bytes(), last, RenameFlags::empty()).map_err(|errno| {
                forget(&parent, fresh.as_bytes());
                ToolError::path(errno)
            })?;
        }
        Wanted::Nothing => link(&file, &parent, last).map_err(|errno| match errno {
            Errno::EXIST => unfit(errno),
            errno => ToolError::path(errno),
        })?,
        Wanted::Content(digest) => {
            let fresh = beside(&file, &parent)?;
            exchange(&file, &parent, fresh.as_bytes(), last, |name| fits(&parent, name, &digest))?;
        }
    }
    done(tell, 1, bytes, 0)
}

/// Gives an unnamed file a name that nobody else has.
fn beside(file: &File, parent: &Beneath) -> Result<String, ToolError> {
    let fresh = format!(".coffer-{}-{}", std::process::id(), file.as_raw_fd());
    link(file, parent, fresh.as_bytes()).map_err(ToolError::path)?;
    Ok(fresh)
}

fn link(file: &File, parent: &Beneath, name: &[u8]) -> Result<(), Errno> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    let name = OsStr::from_bytes(name);
    rustix::fs::linkat(rustix::fs::CWD, source.as_str(), parent.as_fd(), name, AtFlags::SYMLINK_FOLLOW)
}

/// A link of the new name is replaced, not followed.
fn rename(parent: &Beneath, from: &[u8], to: &[u8], flags: RenameFlags) -> Result<(), Errno> {
    let (from, to) = (OsStr::from_bytes(from), OsStr::from_bytes(to));
    rustix::fs::renameat_with(parent.as_fd(), from, parent.as_fd(), to, flags)
}

fn forget(parent: &Beneath, name: &[u8]) {
    // What is left over is told by its name.
    let _ = rustix::fs::unlinkat(parent.as_fd(), OsStr::from_bytes(name), AtFlags::empty());
}

/// Exchanges two names and looks at what came out; puts it back when it does not fit.
fn exchange(
    file: &File,
    parent: &Beneath,
    fresh: &[u8],
    last: &[u8],
    fits: impl FnOnce(&[u8]) -> Result<(), ToolError>,
) -> Result<(), ToolError> {
    let swap = || rename(parent, fresh, last, RenameFlags::EXCHANGE);
    if let Err(errno) = swap() {
        forget(parent, fresh);
        return Err(if errno == Errno::NOENT { unfit(errno) } else { ToolError::path(errno) });
    }
    let Err(why) = fits(fresh) else {
        forget(parent, fresh);
        return Ok(());
    };
    // What was put there last, and must come out again; anything else came later than what goes in.
    let mut put = same(&rustix::fs::fstat(file).map_err(ToolError::path)?);
    for _ in 0..TRIES {
        let goes_in = same(&parent.child(fresh).map_err(ToolError::path)?);
        match swap() {
            Ok(()) => {}
            // Somebody removed what had the name, which is then gone; what came out first gets it back.
            Err(Errno::NOENT) => match rename(parent, fresh, last, RenameFlags::NOREPLACE) {
                Ok(()) => return Err(why),
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(ToolError::path(errno)),
            },
            Err(errno) => return Err(ToolError::path(errno)),
        }
        if same(&parent.child(fresh).map_err(ToolError::path)?) == put {
            forget(parent, fresh);
            return Err(why);
        }
        put = goes_in;
    }
    Err(ToolError::path(Errno::AGAIN))
}

/// What tells one file from another while it is there.
fn same(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Whether a regular file of this content has the name.
fn fits(parent: &Beneath, name: &[u8], digest: &[u8; 32]) -> Result<(), ToolError> {
    let (mut file, stat) = regular(parent, name, Links::Refuse).map_err(|error| match error.errno {
        // Not a file, a link included: it has no content of its own.
        Errno::NOENT | Errno::LOOP | Errno::ISDIR | Errno::NXIO => unfit(error.errno),
        _ => error,
    })?;
    if u64::try_from(stat.st_size).unwrap_or(u64::MAX) > TRANSFER_MAX {
        return Err(unfit(Errno::FBIG));
    }
    let (mut hash, mut buffer, mut total) = (Sha256::new(), vec![0; 64 * 1024], 0);
    loop {
        let count = file.read(&mut buffer).map_err(|error| ToolError::data(&error))?;
        if count == 0 {
            break;
        }
        total += count as u64;
        // It grows while it is read.
        if total > TRANSFER_MAX {
            return Err(unfit(Errno::FBIG));
        }
        hash.update(&buffer[..count]);
    }
    if <[u8; 32]>::from(hash.finalize()) == *digest { Ok(()) } else { Err(unfit(Errno::STALE)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn digest(content: &[u8]) -> [u8; 32] {
        Sha256::digest(content).into()
    }

    fn place() -> (tempfile::TempDir, Beneath) {
        let place = tempfile::tempdir().unwrap();
        let directory = Beneath::at(File::open(place.path()).unwrap().into());
        (place, directory)
    }

    fn put(directory: &Beneath, wanted: Wanted, content: &[u8]) -> Result<(), ToolError> {
        write(directory, b"a", 0o640, wanted, content, &mut |_| Ok(()))
    }

    fn names(place: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Each kind of thing that may have the name, and what each writer makes of it.
    #[test]
    fn only_what_is_wanted_is_replaced() {
        type Make = fn(&Path);
        let rows: [(&str, Make, bool, bool); 7] = [
            ("nothing", |_| {}, true, false),
            ("the content", |at| fs::write(at, "old").unwrap(), false, true),
            ("another content", |at| fs::write(at, "other").unwrap(), false, false),
            ("an empty file", |at| fs::write(at, "").unwrap(), false, false),
            ("a directory", |at| fs::create_dir(at).unwrap(), false, false),
            ("a sparse file", |at| File::create(at).unwrap().set_len(1 << 40).unwrap(), false, false),
            (
                "a link to the content",
                |at| {
                    fs::write(at.with_file_name("b"), "old").unwrap();
                    std::os::unix::fs::symlink("b", at).unwrap();
                },
                false,
                false,
            ),
        ];
        for (what, make, absent, content) in rows {
            for (wanted, expected) in [(Wanted::Nothing, absent), (Wanted::Content(digest(b"old")), content)] {
                let (place, directory) = place();
                let at = place.path().join("a");
                make(&at);
                let before = fs::symlink_metadata(&at).ok().map(|there| (there.file_type(), there.len()));
                let result = put(&directory, wanted, b"new");
                assert_eq!(result.is_ok(), expected, "{what}, {wanted:?}: {result:?}");
                if expected {
                    assert_eq!(fs::read(&at).unwrap(), b"new", "{what}");
                } else {
                    assert_eq!(result.unwrap_err().stage, "match", "{what}, {wanted:?}");
                    let after = fs::symlink_metadata(&at).ok().map(|there| (there.file_type(), there.len()));
                    assert_eq!(after, before, "{what}, {wanted:?}");
                }
                assert!(names(place.path()).iter().all(|name| name == "a" || name == "b"), "{what}");
            }
        }
    }

    #[test]
    fn what_came_out_unfit_goes_back() {
        let (place, directory) = place();
        let at = place.path().join("a");
        // As if another writer had been there between the first look and the exchange.
        fs::write(&at, "theirs").unwrap();
        let file = File::create(place.path().join("fresh")).unwrap();
        let result = exchange(&file, &directory, b"fresh", b"a", |name| {
            assert_eq!(name, b"fresh");
            fits(&directory, name, &digest(b"old"))
        });
        assert_eq!(result.unwrap_err(), unfit(Errno::STALE));
        assert_eq!(fs::read(&at).unwrap(), b"theirs");
        assert_eq!(names(place.path()), ["a"]);
    }

    #[test]
    fn what_came_later_than_the_exchange_stays() {
        for (what, then) in [("renamed over", Some("later")), ("removed", None)] {
            let (place, directory) = place();
            let at = place.path().join("a");
            fs::write(&at, "theirs").unwrap();
            let file = File::create(place.path().join("fresh")).unwrap();
            let result = exchange(&file, &directory, b"fresh", b"a", |_| {
                // A third one, while ours has the name.
                match then {
                    Some(content) => {
                        fs::write(place.path().join("c"), content).unwrap();
                        fs::rename(place.path().join("c"), &at).unwrap();
                    }
                    None => fs::remove_file(&at).unwrap(),
                }
                Err(unfit(Errno::STALE))
            });
            assert_eq!(result.unwrap_err(), unfit(Errno::STALE), "{what}");
            assert_eq!(fs::read_to_string(&at).unwrap(), then.unwrap_or("theirs"), "{what}");
            assert_eq!(names(place.path()), ["a"], "{what}");
        }
    }

    #[test]
    fn the_words_of_what_is_wanted_are_a_closed_list() {
        let parse = |word: &str| Wanted::parse(OsStr::new(word)).ok();
        assert_eq!(parse("any"), Some(Wanted::Any));
        assert_eq!(parse("nothing"), Some(Wanted::Nothing));
        assert_eq!(parse(&"0a".repeat(32)), Some(Wanted::Content([10; 32])));
        for word in ["", "none", &"0a".repeat(31), &"zz".repeat(32)] {
            assert_eq!(parse(word), None, "{word}");
        }
    }
}
