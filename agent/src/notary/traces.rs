//! Work with a key that leaves nothing of it behind: what it put on the stack, and what the compiler moved there, is overwritten.

use std::hint::black_box;
use zeroize::Zeroize as _;

/// Bytes below the caller that are overwritten: a signature takes a tenth of them.
const DEPTH: usize = 256 * 1024;

/// Does the work, and overwrites the stack that it used.
pub(super) fn without_traces<T>(work: impl FnOnce() -> T) -> T {
    let result = apart(work);
    overwrite();
    result
}

/// In a frame of its own, which is dead afterwards.
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

/// Takes the place of that frame and of all that were below it.
#[inline(never)]
fn overwrite() {
    let mut below = black_box([0_u8; DEPTH]);
    below.zeroize();
    black_box(&below);
}
