//! Mounts whose files belong to another: on the workspace every file is the first identity's, and each identity finds its own
//! uid there. So what an identity may do in the workspace is said by its grants, not by who made a file.
#![allow(unsafe_code, reason = "mount_setattr and a child that only waits have no safe wrapper")]

use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

/// A user namespace that only serves as a table of uids.
#[derive(Debug)]
pub struct Owners(OwnedFd);

impl Owners {
    /// Files of `inside` appear as those of `outside`, those of root as root's.
    pub fn new(inside: u32, outside: u32) -> io::Result<Self> {
        // The child must stay until its tables are written.
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (ready, ready_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // SAFETY: the child makes four system calls, none of which takes memory of another thread, and exits.
        let child = unsafe { libc::fork() };
        match child {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: as above; one byte each way in live arrays.
                unsafe {
                    let failed = libc::unshare(libc::CLONE_NEWUSER) != 0;
                    let byte = u8::from(failed);
                    libc::close(write.as_raw_fd());
                    libc::write(ready_write.as_raw_fd(), (&raw const byte).cast(), 1);
                    let mut nothing = 0_u8;
                    libc::read(read.as_raw_fd(), (&raw mut nothing).cast(), 1);
                    libc::_exit(0)
                }
            }
            child => {
                drop((read, ready_write));
                let opened = Self::open(child, &ready, inside, outside);
                drop(write);
                let mut status = 0;
                // SAFETY: the child is ours and not reaped by anybody else; `status` is a live variable.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                opened
            }
        }
    }

    fn open(child: i32, ready: &OwnedFd, inside: u32, outside: u32) -> io::Result<Self> {
        let mut byte = [1];
        if rustix::io::read(ready, &mut byte)? != 1 || byte != [0] {
            return Err(io::Error::other("no user namespace could be made"));
        }
        let table = format!("0 0 1\n{inside} {outside} 1\n");
        for name in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{child}/{name}"), &table)?;
        }
        Ok(Self(fs::File::open(format!("/proc/{child}/ns/user"))?.into()))
    }
}

/// Whether programs may write through a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// As the file system lets them.
    Possible,
    /// Not at all: not even modes and times.
    Never,
}

/// A mount of something that is mounted elsewhere, for other owners and with or without writing; not yet in any tree, and
/// leading to no further mount.
#[derive(Debug)]
pub struct Again(OwnedFd);

impl Again {
    /// Of what is open, and mounted in this namespace.
    pub fn of(from: BorrowedFd<'_>, owners: Option<&Owners>, writing: Writing) -> io::Result<Self> {
        clone(from, owners, writing).map(Self)
    }

    /// Whether it is of a directory.
    pub fn is_directory(&self) -> bool {
        let kind = |stat: rustix::fs::Stat| rustix::fs::FileType::from_raw_mode(stat.st_mode);
        rustix::fs::fstat(&self.0).is_ok_and(|stat| kind(stat).is_dir())
    }

    /// Puts it into the tree.
    pub fn put(self, to: &Path) -> io::Result<()> {
        let target = CString::new(to.as_os_str().as_encoded_bytes())?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(&self.0, "", rustix::fs::CWD, target.as_c_str(), flags)?)
    }
}

fn clone(from: BorrowedFd<'_>, owners: Option<&Owners>, writing: Writing) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(from, "", flags)?;
    // SAFETY: `mount_attr` is plain data for which all zeros is a valid value.
    let mut attributes: libc::mount_attr = unsafe { std::mem::zeroed() };
    attributes.attr_set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if writing == Writing::Never {
        attributes.attr_set |= libc::MOUNT_ATTR_RDONLY;
    }
    if let Some(Owners(table)) = owners {
        attributes.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attributes.userns_fd = table.as_fd().as_raw_fd() as u64;
    }
    let size = std::mem::size_of::<libc::mount_attr>();
    // SAFETY: the path is a constant, the structure lives until the call is over, and its size is the one that is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(tree)
}
