//! Finds the three disks by their serial, and reads the boot disk once.

use super::error::{BootError, Context as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const STAGE: &str = "disks";
/// How long disks may take to appear after the modules are loaded.
const PATIENCE: Duration = Duration::from_secs(20);

/// Told by the kernel when a device appears. Opened before modules are loaded, so that no event is missed.
pub struct Arrivals(OwnedFd);

impl Arrivals {
    /// Starts listening.
    pub fn listen() -> Result<Self, BootError> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(netlink::KOBJECT_UEVENT),
        )
        .context(STAGE, || "open the uevent socket".into())?;
        // Group 1 is the kernel itself.
        let address = netlink::SocketAddrNetlink::new(0, 1);
        rustix::net::bind(&socket, &address).context(STAGE, || "bind the uevent socket".into())?;
        Ok(Self(socket))
    }

    fn wait(&self, until: Instant) -> Result<(), BootError> {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        poll(&mut fds, Some(&timeout)).context(STAGE, || "wait for a disk".into())?;
        let mut sink = [0_u8; 4096];
        while rustix::net::recv(&self.0, &mut sink, rustix::net::RecvFlags::empty()).is_ok() {}
        Ok(())
    }
}

/// The device file of the disk with this serial. Waits for it to appear.
pub fn find(arrivals: &Arrivals, serial: &str) -> Result<PathBuf, BootError> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(name) = scan(Path::new("/sys/block"), serial)? {
            return Ok(Path::new("/dev").join(name));
        }
        if Instant::now() >= until {
            return Err(BootError::Unexpected {
                stage: STAGE,
                expected: format!("a virtio disk with the serial {serial}"),
                found: format!("none after {} s", PATIENCE.as_secs()),
            });
        }
        arrivals.wait(until)?;
    }
}

/// The name beneath `block` whose serial is exactly this one; two of them are refused.
fn scan(block: &Path, serial: &str) -> Result<Option<String>, BootError> {
    let mut found = None;
    for entry in fs::read_dir(block).context(STAGE, || format!("list {}", block.display()))? {
        let entry = entry.context(STAGE, || format!("list {}", block.display()))?;
        let Ok(text) = fs::read_to_string(entry.path().join("serial")) else { continue };
        if text.trim_end_matches('\n') != serial {
            continue;
        }
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if let Some(other) = found.replace(name) {
            return Err(BootError::Unexpected {
                stage: STAGE,
                expected: format!("one disk with the serial {serial}"),
                found: format!("two, one of them {other}"),
            });
        }
    }
    Ok(found)
}

/// Reads a disk of at most `most` bytes whole, once. What is used later is this buffer, never the disk.
pub fn read_once(device: &Path, most: usize) -> Result<Vec<u8>, BootError> {
    let file = File::open(device).context(STAGE, || format!("open {}", device.display()))?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX);
    file.take(limit + 1).read_to_end(&mut bytes).context(STAGE, || format!("read {}", device.display()))?;
    if bytes.len() > most {
        return Err(BootError::Unexpected {
            stage: STAGE,
            expected: format!("at most {most} bytes on {}", device.display()),
            found: "more".into(),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(disks: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, serial) in disks {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("serial"), serial).unwrap();
        }
        dir
    }

    #[test]
    fn a_disk_is_found_by_its_serial_and_not_by_its_name() {
        let dir = block(&[("vda", "coffer-boot"), ("vdb", "coffer-root\n"), ("vdc", "coffer-root-2")]);
        assert_eq!(scan(dir.path(), "coffer-root").unwrap().as_deref(), Some("vdb"));
        assert_eq!(scan(dir.path(), "coffer-verity").unwrap(), None);
    }

    #[test]
    fn two_disks_with_one_serial_are_refused() {
        let dir = block(&[("vda", "coffer-boot"), ("vdb", "coffer-boot")]);
        assert!(scan(dir.path(), "coffer-boot").is_err());
    }

    #[test]
    fn a_boot_disk_that_is_too_large_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, [7_u8; 100]).unwrap();
        assert_eq!(read_once(&path, 100).unwrap().len(), 100);
        assert!(read_once(&path, 99).is_err());
    }
}
