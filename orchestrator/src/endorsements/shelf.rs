//! Sets that were fetched, kept on disk for when the service cannot be reached: one file for each kind of platform, whole or not
//! there, readable by `cofferd` alone. What is read back is believed as little as what was fetched: the verifier judges it again.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coffer_evidence::collateral::{COLLATERAL_MAX, Collateral};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::verify::StatedPlatform;

use crate::host::session_dir::remove_if_there;

/// The most sets that are kept. A host is of one kind; its parts may be exchanged.
pub(super) const SETS_MAX: usize = 16;
const EXTENSION: &str = "collateral";

/// A set that was fetched before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) set: Collateral,
    /// When it was fetched, unix seconds.
    pub(super) fetched: u64,
}

/// The directory of sets. Made with the first of them.
#[derive(Clone, Debug)]
pub(crate) struct Shelf(PathBuf);

impl Shelf {
    pub(crate) fn at(directory: PathBuf) -> Self {
        Self(directory)
    }

    pub(super) fn file(&self, platform: &StatedPlatform) -> PathBuf {
        let name = format!("{}-{}", hex::encode_upper(platform.fmspc()), platform.authority());
        self.0.join(name).with_extension(EXTENSION)
    }

    /// The set that is kept for a platform. One that is damaged is an error, and as good as none.
    pub(super) fn read(&self, platform: &StatedPlatform) -> io::Result<Option<Kept>> {
        let path = self.file(platform);
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(found) if !found.is_file() => return Err(io::Error::other("it is not a file")),
            other => other?,
        };
        let file = File::open(&path)?;
        let fetched = seconds(file.metadata()?.modified()?);
        let mut bytes = Vec::new();
        file.take(COLLATERAL_MAX as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > COLLATERAL_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let set = Collateral::parse(&bytes).map_err(io::Error::other)?;
        Ok(Some(Kept { set, fetched }))
    }

    /// Keeps a set in place of the one before, fetched at `now` (unix seconds), and no more sets than [`SETS_MAX`].
    pub(super) fn write(&self, platform: &StatedPlatform, set: &Collateral, now: u64) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let path = self.file(platform);
        let fresh = path.with_extension("new");
        remove_if_there(&fresh)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        let written = file
            .write_all(&set.to_bytes())
            .and_then(|()| file.set_modified(UNIX_EPOCH + Duration::from_secs(now)))
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&fresh, &path));
        if written.is_err() {
            // Half a set takes room and is of no use.
            let _ = remove_if_there(&fresh);
        }
        written?;
        self.clear(&path)
    }

    /// Removes the oldest sets but this one until no more than [`SETS_MAX`] are there.
    fn clear(&self, newest: &Path) -> io::Result<()> {
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) && path != newest {
                others.push((path.symlink_metadata()?.modified()?, path));
            }
        }
        others.sort();
        let surplus = (others.len() + 1).saturating_sub(SETS_MAX);
        others.iter().take(surplus).try_for_each(|(_, path)| remove_if_there(path))
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endorsements::played::{Example, MID_NOVEMBER, simulated_platform};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_set_is_kept_whole_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let shelf = Shelf::at(dir.path().join("collateral"));
        let (platform, set) = (simulated_platform(), Example::simulated().set);
        assert_eq!(shelf.read(&platform).expect("nothing"), None);
        // Left by a write that was cut off.
        std::fs::create_dir(dir.path().join("collateral")).expect("mkdir");
        std::fs::write(shelf.file(&platform).with_extension("new"), b"half").expect("write");
        for now in [MID_NOVEMBER, MID_NOVEMBER + 1] {
            shelf.write(&platform, &set, now).expect("write");
            let kept = shelf.read(&platform).expect("read").expect("there");
            assert_eq!(kept, Kept { set: set.clone(), fetched: now });
        }
        let mode = shelf.file(&platform).metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path().join("collateral")).expect("read").count(), 1);
    }

    #[test]
    fn a_set_that_is_damaged_too_large_or_no_file_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let shelf = Shelf::at(dir.path().to_path_buf());
        let (platform, set) = (simulated_platform(), Example::simulated().set);
        shelf.write(&platform, &set, MID_NOVEMBER).expect("write");
        let path = shelf.file(&platform);
        let whole = std::fs::read(&path).expect("read");
        std::fs::write(&path, &whole[..whole.len() - 1]).expect("write");
        assert!(shelf.read(&platform).is_err());
        File::create(&path).and_then(|file| file.set_len(COLLATERAL_MAX as u64 + 1)).expect("a large file");
        assert_eq!(shelf.read(&platform).expect_err("large").kind(), io::ErrorKind::FileTooLarge);
        std::fs::remove_file(&path).expect("remove");
        std::fs::create_dir(&path).expect("mkdir");
        assert!(shelf.read(&platform).is_err());
    }

    #[test]
    fn no_more_sets_are_kept_than_the_limit_and_the_oldest_go_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let shelf = Shelf::at(dir.path().to_path_buf());
        for age in 0..SETS_MAX {
            let file = File::create(dir.path().join(format!("{age:02}.{EXTENSION}"))).expect("create");
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000 + age as u64)).expect("set");
        }
        // A set fetched by a clock that was wrong is the newest all the same.
        shelf.write(&simulated_platform(), &Example::simulated().set, 1).expect("write");
        let left = std::fs::read_dir(dir.path()).expect("read").count();
        assert_eq!(left, SETS_MAX);
        assert!(shelf.file(&simulated_platform()).exists() && !dir.path().join("00.collateral").exists());
        assert!(dir.path().join("01.collateral").exists());
    }
}
