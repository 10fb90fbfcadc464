//! Device mapper by its own ioctls: one read-only device with one target. No library, no udev.
//! Layout: `struct dm_ioctl` and `struct dm_target_spec` of `linux/dm-ioctl.h`, interface version 4.
#![allow(unsafe_code, reason = "ioctls with a buffer of variable length have no safe wrapper")]

use super::error::{BootError, Context as _};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

const STAGE: &str = "verity";
const HEADER: usize = 312;
const TARGET: usize = 40;
/// Room for one target line; the kernel's own limit is far higher.
const BUFFER: usize = 4096;

const DEV_CREATE: u64 = request(3);
const DEV_SUSPEND: u64 = request(6);
const TABLE_LOAD: u64 = request(9);

const FLAG_READ_ONLY: u32 = 1;

/// `_IOWR(0xfd, number, struct dm_ioctl)`.
const fn request(number: u64) -> u64 {
    (3 << 30) | ((HEADER as u64) << 16) | (0xfd << 8) | number
}

/// Makes a read-only device of `sectors` sectors with one target and returns its device file.
pub fn create(name: &str, target: &str, sectors: u64, parameters: &str) -> Result<PathBuf, BootError> {
    let control = File::options()
        .read(true)
        .write(true)
        .open("/dev/mapper/control")
        .context(STAGE, || "open /dev/mapper/control".into())?;
    let mut frame = frame(name, 0, None);
    call(&control, DEV_CREATE, &mut frame).context(STAGE, || format!("create the device {name}"))?;
    let device = u64_at(&frame, 40);
    // Linux packs large numbers as minor[19:8] << 12 | major << 8 | minor[7:0].
    let minor = (device & 0xff) | ((device >> 12) & !0xff);

    let mut frame = self::frame(name, FLAG_READ_ONLY, Some((target, sectors, parameters)));
    call(&control, TABLE_LOAD, &mut frame).context(STAGE, || format!("load the table {parameters:?}"))?;
    // "Suspend" without the suspend flag resumes: the table goes live.
    let mut frame = self::frame(name, 0, None);
    call(&control, DEV_SUSPEND, &mut frame).context(STAGE, || format!("start the device {name}"))?;
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

fn frame(name: &str, flags: u32, target: Option<(&str, u64, &str)>) -> Vec<u64> {
    let mut bytes = vec![0_u8; BUFFER];
    bytes[0..4].copy_from_slice(&4_u32.to_le_bytes());
    bytes[12..16].copy_from_slice(&(BUFFER as u32).to_le_bytes());
    bytes[16..20].copy_from_slice(&(HEADER as u32).to_le_bytes());
    bytes[28..32].copy_from_slice(&flags.to_le_bytes());
    bytes[48..48 + name.len()].copy_from_slice(name.as_bytes());
    if let Some((kind, sectors, parameters)) = target {
        bytes[20..24].copy_from_slice(&1_u32.to_le_bytes());
        let spec = &mut bytes[HEADER..];
        spec[8..16].copy_from_slice(&sectors.to_le_bytes());
        let end = (TARGET + parameters.len() + 1).next_multiple_of(8) as u32;
        spec[20..24].copy_from_slice(&end.to_le_bytes());
        spec[24..24 + kind.len()].copy_from_slice(kind.as_bytes());
        spec[TARGET..TARGET + parameters.len()].copy_from_slice(parameters.as_bytes());
    }
    // As words, so that the kernel sees an aligned structure.
    bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())).collect()
}

fn call(control: &File, request: u64, frame: &mut [u64]) -> io::Result<()> {
    // SAFETY: the buffer is aligned, lives for the call, and states its own length (data_size = BUFFER) in its header,
    // which is all the kernel reads and writes.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), request as libc::Ioctl, frame.as_mut_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn u64_at(frame: &[u64], at: usize) -> u64 {
    frame[at / 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_has_the_layout_of_the_kernel_header() {
        assert_eq!(DEV_CREATE, 0xc138_fd03);
        let words = frame("coffer-root", FLAG_READ_ONLY, Some(("verity", 2400, "1 a b")));
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(&bytes[48..60], b"coffer-root\0");
        assert_eq!(bytes[20], 1);
        assert_eq!(&bytes[HEADER + 8..HEADER + 16], &2400_u64.to_le_bytes());
        assert_eq!(&bytes[HEADER + 24..HEADER + 31], b"verity\0");
        assert_eq!(&bytes[HEADER + TARGET..HEADER + TARGET + 6], b"1 a b\0");
    }
}
