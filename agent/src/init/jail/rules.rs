//! What a tool may do with files, as the kernel's Landlock is told it: the image's own files for reading, the identity's own
//! places for everything but execution, and what its grants add. Nothing else exists for it, links and renames included.

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, Scope,
};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use thiserror::Error;

/// The Landlock of the guest's kernel, needed in whole: with less, something that this page promises would not hold.
pub const GUEST: ABI = ABI::V9;

/// Rules on open files and directories; they hold for what is beneath, wherever it is mounted.
#[derive(Debug)]
pub struct Rules {
    needed: ABI,
    files: Vec<(OwnedFd, BitFlags<AccessFs>)>,
}

/// Why there is no ruleset.
#[derive(Debug, Error)]
pub enum RulesError {
    /// A path could not be opened.
    #[error("expected to open {path}: {source}")]
    Open {
        /// Which.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel's Landlock.
    #[error("expected a kernel with another Landlock")]
    Landlock(#[from] RulesetError),
}

/// Looking at files and directories.
pub(super) fn read() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

/// Listing directories alone.
pub(super) fn list() -> BitFlags<AccessFs> {
    AccessFs::ReadDir.into()
}

/// Making and changing files, and talking to whoever listens at one. Replacing a file is part of it: one that may be written
/// can be emptied, too.
pub(super) fn write() -> BitFlags<AccessFs> {
    AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::MakeFifo
        | AccessFs::MakeSock
        | AccessFs::Refer
        | AccessFs::ResolveUnix
        | AccessFs::RemoveFile
}

/// Removing, directories too.
pub(super) fn delete() -> BitFlags<AccessFs> {
    AccessFs::RemoveFile | AccessFs::RemoveDir
}

/// Executing.
pub(super) fn execute() -> BitFlags<AccessFs> {
    AccessFs::Execute.into()
}

/// Using terminals and the few devices there are.
pub(super) fn devices() -> BitFlags<AccessFs> {
    read() | AccessFs::WriteFile | AccessFs::IoctlDev
}

impl Rules {
    /// None yet, of this version of Landlock.
    pub(super) fn new(needed: ABI) -> Self {
        Self { needed, files: Vec::new() }
    }

    /// Allows this on what is open.
    pub(super) fn allow(&mut self, file: OwnedFd, access: BitFlags<AccessFs>) {
        self.files.push((file, access));
    }

    /// Allows this beneath a path, when there is such a path; links in it are followed.
    pub(super) fn allow_path(&mut self, path: &Path, access: BitFlags<AccessFs>) -> Result<(), RulesError> {
        use rustix::fs::{Mode, OFlags};
        match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => self.allow(file, access),
            Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(RulesError::Open { path: path.display().to_string(), source: errno.into() }),
        }
        Ok(())
    }

    /// The ruleset of one call: these rules, and its own `/proc`.
    pub(super) fn ruleset(&self, proc: &OwnedFd) -> Result<OwnedFd, RulesError> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(self.needed))?
            .scope(Scope::from_all(self.needed))?
            .create()?;
        let proc = [(proc, devices())];
        let all = self.files.iter().map(|(file, access)| (file, *access)).chain(proc);
        for (file, access) in all {
            let known = AccessFs::from_all(self.needed);
            let fits = if is_directory(file) { known } else { AccessFs::from_file(self.needed) };
            let access = access & fits;
            // A file can be granted to be read only as a file.
            if !access.is_empty() {
                ruleset = ruleset.add_rule(PathBeneath::new(file, access))?;
            }
        }
        let created: Option<OwnedFd> = ruleset.into();
        // With a hard requirement there is one, or there was an error.
        created.ok_or_else(|| RulesError::Open {
            path: "a ruleset".into(),
            source: io::Error::from_raw_os_error(libc::EOPNOTSUPP),
        })
    }
}

fn is_directory(file: &OwnedFd) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}
