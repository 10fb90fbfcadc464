//! Archives of hostile origin, unpacked for real: up into a session's workspace by the agent's tool, down onto the user's
//! machine by the client. Nothing outside the destination changes, and nothing is made that was not sent.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

const SECRET: &[u8] = b"outside";

/// A directory with something outside, and a destination inside with ways out already laid.
pub(crate) struct Ground {
    root: tempfile::TempDir,
    mode: u32,
}

impl Ground {
    pub(crate) fn new(links: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("outside")).expect("a directory");
        fs::write(root.path().join("outside/secret"), SECRET).expect("a file");
        fs::create_dir(root.path().join("inside")).expect("a directory");
        for (name, target) in links {
            symlink(target, root.path().join("inside").join(name)).expect("a link");
        }
        let mode = fs::metadata(root.path().join("outside/secret")).expect("the secret").mode();
        Self { root, mode }
    }

    pub(crate) fn inside(&self) -> PathBuf {
        self.root.path().join("inside")
    }

    /// Everything below the root but the inside of `inside`, with kind, mode and content.
    pub(crate) fn nothing_outside_changed(&self) {
        let name = |path: PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
        let list = |path: &Path| {
            let mut names: Vec<_> =
                fs::read_dir(path).expect("a directory").map(|e| name(e.expect("one").path())).collect();
            names.sort();
            names
        };
        assert_eq!(list(self.root.path()), ["inside", "outside"], "something was made beside the destination");
        let outside = self.root.path().join("outside");
        assert_eq!(list(&outside), ["secret"], "something was made outside");
        assert_eq!(fs::read(outside.join("secret")).expect("the secret"), SECRET, "the outside was written to");
        let secret = fs::symlink_metadata(outside.join("secret")).expect("the secret");
        assert_eq!((secret.nlink(), secret.mode()), (1, self.mode), "the outside was linked");
        assert!(self.inside().symlink_metadata().expect("it is there").is_dir(), "the destination is another");
    }

    /// Entries, bytes and depth of what is inside; every directory is opened for whoever cleans up.
    pub(crate) fn walk(&self) -> (usize, u64) {
        let (mut entries, mut bytes) = (0, 0);
        let mut pending = vec![self.inside()];
        while let Some(directory) = pending.pop() {
            fs::set_permissions(&directory, Permissions::from_mode(0o700)).expect("our own directory");
            for entry in fs::read_dir(&directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                let found = fs::symlink_metadata(&path).expect("it is there");
                entries += 1;
                let kind = found.file_type();
                assert!(!kind.is_fifo() && !kind.is_socket() && !kind.is_block_device() && !kind.is_char_device());
                assert!(
                    kind.is_symlink() || found.mode() & 0o7000 == 0,
                    "set-user-id or its kin on {}",
                    path.display()
                );
                if kind.is_dir() {
                    pending.push(path);
                } else if kind.is_file() {
                    bytes += found.len() / found.nlink().max(1);
                }
            }
        }
        (entries, bytes)
    }
}

/// The agent's tool `unpack`, into a workspace that holds links out of itself.
pub fn upload(data: &[u8]) {
    let links = [("out", "../outside"), ("abs", "/"), ("up", ".."), ("file", "../outside/secret")];
    let ground = Ground::new(&links);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(ground.inside(), flags, Mode::empty()).expect("the destination");
    let (path, archive) = match data.split_first() {
        Some((choice, archive)) => (["", "tree", "out", "up/outside"][usize::from(choice % 4)], archive),
        None => ("", data),
    };
    let done = coffer_agent::tool::fuzzing::unpack_into(directory, path.as_bytes(), archive);
    assert!(done.is_err() || !matches!(path, "out" | "up/outside"), "unpacked through a link that leads out");
    ground.nothing_outside_changed();
    let (entries, bytes) = ground.walk();
    // Each header of 512 bytes makes one entry and the directories on its way; content is what was sent.
    assert!(entries <= links.len() + 1 + archive.len() / 2, "{entries} entries from {} bytes", archive.len());
    assert!(bytes <= archive.len() as u64, "{bytes} bytes from {}", archive.len());
}

/// The client's unpacking of a download.
pub fn download(data: &[u8]) {
    let ground = Ground::new(&[("out", "../outside")]);
    let (choice, archive) = data.split_first().unwrap_or((&0, data));
    let chunk = [1024, 511, 65536, 77][usize::from(choice % 4)];
    let chunks: Vec<&[u8]> = archive.chunks(chunk).collect();
    let local = if choice & 4 == 0 { ground.inside() } else { ground.inside().join("new") };
    let links_before = ["out"];
    let done = coffer_client::fuzzing::unpack_into(&chunks, &local, "new");
    ground.nothing_outside_changed();
    let (entries, bytes) = ground.walk();
    assert!(entries <= 2 + archive.len() / 2 && bytes <= archive.len() as u64, "{entries} entries, {bytes} bytes");
    if let Ok(done) = done {
        assert!(done.left_out.len() + usize::try_from(done.files).unwrap_or(usize::MAX) <= archive.len() / 512);
    }
    links_lead_nowhere_else(&ground.inside(), &links_before);
}

/// No link of the archive's leads out: followed for real, and read.
fn links_lead_nowhere_else(inside: &Path, known: &[&str]) {
    let inside = inside.canonicalize().expect("the destination");
    let mut pending = vec![inside.clone()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let found = fs::symlink_metadata(&path).expect("it is there");
            if found.is_dir() {
                pending.push(path);
            } else if found.is_symlink() && !known.iter().any(|name| path == inside.join(name)) {
                let target = fs::read_link(&path).expect("a link");
                assert!(!target.is_absolute(), "{} leads to {}", path.display(), target.display());
                if let Ok(real) = path.canonicalize() {
                    let through = known.iter().any(|name| real.starts_with(inside.join(name)));
                    let by_known = target.components().any(|part| known.iter().any(|name| part.as_os_str() == *name));
                    assert!(through || by_known || real.starts_with(&inside), "{} leads out", path.display());
                }
            }
        }
    }
}
