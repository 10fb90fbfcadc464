//! A bundle in a file as a source, and what verifying it takes from the kernel.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use coffer_evidence::bundle::{ReadError, Source};

pub(crate) struct Bundle(pub(crate) File);

impl Source for Bundle {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = at + filled as u64;
            match self.0.read_at(&mut buffer[filled..], at) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) => return Err(ReadError::Failed { at, why: error.to_string() }),
            }
        }
        Ok(filled)
    }
}

/// Peak of the resident memory of this process, in KiB.
pub(crate) fn peak_kib() -> u64 {
    kernel_kib("VmHWM:")
}

/// A figure of this process, in KiB by the kernel's count.
pub(crate) fn kernel_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("KiB")
}
