//! What a machine says: the guest's serial console and QEMU's own complaints, gathered from a FIFO into `qemu.log`. A hostile
//! guest can write for ever, so the file has a cap: when it is full, its older half goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

/// The most that `qemu.log` holds, in bytes.
pub(crate) const LOG_MAX: u64 = 1024 * 1024;
/// What a pipe holds, in bytes.
const PIPE: usize = 64 * 1024;
/// How much of the end is shown in diagnostics, in bytes.
const TAIL: u64 = 2_048;

/// The file, never longer than its cap.
#[derive(Debug)]
pub(crate) struct BoundedLog {
    file: File,
    length: u64,
    most: u64,
}

impl BoundedLog {
    /// Makes the file.
    pub(crate) fn create(path: &Path, most: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { file, length: 0, most })
    }

    /// Goes on with the file of an earlier life of this process.
    pub(crate) fn reopen(path: &Path, most: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file, length, most })
    }

    /// Appends, and drops the older half when there is no room.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(usize::try_from(self.most / 4).unwrap_or(usize::MAX).max(1)) {
            if self.length + piece.len() as u64 > self.most {
                self.drop_older_half()?;
            }
            self.file.seek(SeekFrom::Start(self.length))?;
            self.file.write_all(piece)?;
            self.length += piece.len() as u64;
        }
        Ok(())
    }

    fn drop_older_half(&mut self) -> io::Result<()> {
        let keep = self.length.min(self.most / 2);
        let mut tail = Vec::new();
        self.file.seek(SeekFrom::Start(self.length - keep))?;
        (&self.file).take(keep).read_to_end(&mut tail)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&tail)?;
        self.file.set_len(keep)?;
        self.length = keep;
        Ok(())
    }
}

/// The last lines of a log, as text without control characters.
pub(crate) fn tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect::<String>().trim().to_owned()
}

/// Name of the FIFO that programs of a session write to.
pub(crate) const CONSOLE: &str = "console";
/// Name of the log in a session's directory.
pub(crate) const LOG: &str = "qemu.log";

/// Makes FIFO and log and gathers from one into the other until `done` is ready. `uid` may write to the FIFO.
pub(crate) fn start(
    path: &Path,
    log: &Path,
    uid: Option<u32>,
    done: impl Future<Output = ()> + Send + 'static,
) -> io::Result<tokio::task::JoinHandle<()>> {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o620))?;
    if let Some(uid) = uid {
        std::os::unix::fs::lchown(path, None, Some(uid))?;
        // chown clears nothing here, but the mode of mkfifo was cut by the umask.
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o620))?;
    }
    let log = BoundedLog::create(log, LOG_MAX)?;
    gather_from(path, log, done)
}

/// Gathers again from the FIFO of an earlier life of this process. What was written meanwhile is lost: nobody read it.
///
/// The FIFO is this process's own, in a sticky directory: the session's processes can put nothing in its place.
pub(crate) fn resume(
    path: &Path,
    log: &Path,
    done: impl Future<Output = ()> + Send + 'static,
) -> io::Result<tokio::task::JoinHandle<()>> {
    let found = std::fs::symlink_metadata(path)?;
    if !found.file_type().is_fifo() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("expected the console's own FIFO, found something else"));
    }
    gather_from(path, BoundedLog::reopen(log, LOG_MAX)?, done)
}

fn gather_from(
    path: &Path,
    log: BoundedLog,
    done: impl Future<Output = ()> + Send + 'static,
) -> io::Result<tokio::task::JoinHandle<()>> {
    // Both ends are held here, so a writer that goes away is not the end.
    let fifo = pipe::OpenOptions::new().read_write(true).open_receiver(path)?;
    Ok(tokio::spawn(gather(fifo, log, done)))
}

/// Copies from the FIFO to the log until `done` is ready and nothing is left.
async fn gather(mut fifo: pipe::Receiver, mut log: BoundedLog, done: impl Future<Output = ()>) {
    let mut buffer = vec![0_u8; 16 * 1024];
    tokio::pin!(done);
    let mut ended = false;
    while !ended {
        tokio::select! {
            biased;
            read = fifo.read(&mut buffer) => {
                let Ok(n @ 1..) = read else { return };
                // A full disk costs the words and nothing else: programs of the session end when nobody takes them.
                drop(log.append(&buffer[..n]));
            }
            () = &mut done => ended = true,
        }
    }
    // What a pipe holds, and no more: somebody may still be writing.
    for _ in 0..PIPE / buffer.len() {
        match fifo.try_read(&mut buffer) {
            Ok(n) if n > 0 && log.append(&buffer[..n]).is_ok() => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_stays_under_its_cap_and_keeps_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("qemu.log");
        let mut log = BoundedLog::create(&path, 1_000).expect("create");
        let mut all = Vec::new();
        for n in 0..500 {
            let line = format!("line {n}\n");
            all.extend_from_slice(line.as_bytes());
            log.append(line.as_bytes()).expect("append");
            let found = std::fs::read(&path).expect("read");
            assert!(found.len() <= 1_000);
            assert!(all.ends_with(&found), "what is there is the end of what was written");
        }
        drop(log);
        let mut log = BoundedLog::reopen(&path, 1_000).expect("reopen");
        log.append(&[b'x'; 5_000]).expect("more than the cap at once");
        assert!(std::fs::metadata(&path).expect("there").len() <= 1_000);
        assert!(tail(&path).ends_with("xxx"));
    }
}
