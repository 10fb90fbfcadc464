//! Bare system calls and a bare clone, for children that run on their parent's memory until they execute a program: they may
//! use no allocator, no lock and no thread-local variable, errno included. What such a child does is in [`super::spawn`] and
//! [`super::jail::warden`].
#![allow(unsafe_code, reason = "the child of a clone may only make bare system calls")]

use std::arch::asm;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// `linux/sched.h`; the libc crate's constant has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// What a child needs, many times over, as units of 16 bytes.
const STACK: usize = 32 * 1024 / 16;

/// The stack of a child that shares this memory. It must outlive what the child does on it.
#[derive(Debug)]
pub(super) struct Stack(Vec<u128>);

impl Stack {
    /// A fresh one.
    pub(super) fn new() -> Self {
        Self(vec![0; STACK])
    }
}

/// How a child begins.
#[derive(Debug, Default)]
pub(super) struct Birth<'a> {
    /// Flags of `clone3` beside those that the fields stand for.
    pub(super) flags: i32,
    /// The cgroup to be born in; `None` stays in the parent's.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
}

/// A child: its id, and a descriptor that stays its own.
#[derive(Debug)]
pub(super) struct Child {
    /// Process id, as this process sees it.
    pub(super) pid: i32,
    /// The process, whatever becomes of its number.
    pub(super) pidfd: OwnedFd,
}

/// `clone3`; the child runs `entry` on the stack and never returns from it.
///
/// # Safety
/// `data` and `stack` outlive what the child does with them, nobody writes to `data` meanwhile, and where the flags share
/// this memory `entry` makes bare system calls only.
pub(super) unsafe fn clone<T>(
    birth: &Birth<'_>,
    stack: &Stack,
    entry: extern "C" fn(&T) -> !,
    data: &T,
) -> io::Result<Child> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: `clone_args` is plain data for which all zeros is a valid value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.flags = (birth.flags | libc::CLONE_PIDFD) as u32 as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    if let Some(directory) = &birth.cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = directory.as_raw_fd() as u64;
    }
    arguments.stack = stack.0.as_ptr() as u64;
    arguments.stack_size = std::mem::size_of_val(stack.0.as_slice()) as u64;
    let result: isize;
    // SAFETY: the child begins after `syscall` with zero in rax, on a stack of its own whose end is aligned to 16 bytes,
    // and calls `entry`, which never returns: nothing of this frame is used by it. The rest is what the caller vouches
    // for. The parent continues as after any system call.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r8",
            "call r9",
            "ud2",
            "2:",
            // By name: left to the compiler, either may be in the frame register, which the child begins without.
            in("r8") std::ptr::from_ref(data),
            in("r9") entry,
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") &raw const arguments,
            in("rsi") std::mem::size_of::<libc::clone_args>(),
            out("rcx") _,
            out("r11") _,
        );
    }
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result as i32));
    }
    // SAFETY: the kernel put a fresh descriptor there, which nobody else knows of.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid: result as i32, pidfd })
}

/// A system call, and nothing else: libc's functions write to errno, which the child would share with its parent.
///
/// # Safety
/// As for the call.
pub(super) unsafe fn call(number: libc::c_long, [a, b, c, d, e]: [usize; 5]) -> Result<usize, i32> {
    let result: isize;
    // SAFETY: the convention of x86-64 Linux; memory is what the caller vouches for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            out("rcx") _, out("r11") _,
            options(nostack),
        );
    }
    if result < 0 { Err(-result as i32) } else { Ok(result as usize) }
}

/// A number as the kernel takes it.
pub(super) const fn word(number: i32) -> usize {
    number as isize as usize
}
