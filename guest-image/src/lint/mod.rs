//! `coffer-image lint`: does a built image hold what the guest must not have? It reads the root file system, the initramfs
//! and the command line as they will be booted. What it refuses is a closed list; an image without findings is one that
//! this list says nothing against, no more.

mod booted;
mod root;

use crate::inspect::erofs::{self, ErofsError, Source};
use crate::inspect::initramfs::{self, InitramfsError};
use coffer_evidence::manifest::Profile;
use serde::Serialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A command line of more bytes is not read: the kernel takes 2048.
const COMMAND_LINE_MAX: u64 = 4096;
/// An initramfs of more bytes is not read: a build refuses it.
const INITRAMFS_MAX: u64 = crate::initramfs::COMPRESSED_MAX as u64;

/// Most of everything that is read of an image and said about it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of the root file system.
    pub root: erofs::Limits,
    /// Of the initramfs.
    pub initramfs: initramfs::Limits,
    /// Findings.
    pub findings: usize,
}

impl Limits {
    /// Those of a guest's image.
    pub const IMAGE: Self = Self { root: erofs::Limits::ROOT, initramfs: initramfs::Limits::GUEST, findings: 10_000 };
}

/// What an image must not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A program that asks for a login on a terminal.
    NoGetty,
    /// An SSH server.
    NoSshd,
    /// QEMU's guest agent: it does what the host says.
    NoGuestAgent,
    /// cloud-init: it takes configuration from the host.
    NoCloudInit,
    /// A set-user-id or set-group-id bit.
    NoSetId,
    /// Something that everybody may write, but for a sticky `tmp`.
    NoWorldWritable,
    /// Something that does not belong to root.
    NoOtherOwner,
    /// A device, a pipe or a socket.
    NoSpecialFile,
    /// A file with capabilities.
    NoFileCapabilities,
    /// Another extended attribute: an access list can do what the mode bits hide.
    NoAttributes,
    /// A kernel module outside the list.
    KernelModules,
    /// A driver that makes a network device.
    NoNetworkDriver,
    /// A file that an initramfs of ours does not have.
    InitramfsFiles,
    /// The kernel's command line: every word of the hardening set, and none beside them.
    CommandLine,
}

impl Rule {
    /// Its name, as reports have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoGetty => "no-getty",
            Self::NoSshd => "no-sshd",
            Self::NoGuestAgent => "no-guest-agent",
            Self::NoCloudInit => "no-cloud-init",
            Self::NoSetId => "no-set-id",
            Self::NoWorldWritable => "no-world-writable",
            Self::NoOtherOwner => "no-other-owner",
            Self::NoSpecialFile => "no-special-file",
            Self::NoFileCapabilities => "no-file-capabilities",
            Self::NoAttributes => "no-attributes",
            Self::KernelModules => "kernel-modules",
            Self::NoNetworkDriver => "no-network-driver",
            Self::InitramfsFiles => "initramfs-files",
            Self::CommandLine => "command-line",
        }
    }
}

/// One thing that an image must not have, and where it has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// The file of the image, and the path in it where there is one.
    pub place: String,
    /// What was expected and found.
    pub found: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.rule.name(), self.place, self.found)
    }
}

/// The parts of an image that are looked at.
#[derive(Clone, Copy)]
pub struct Files<'a, S: ?Sized> {
    /// `root.erofs`.
    pub root: &'a S,
    /// `initrd.img`.
    pub initramfs: &'a [u8],
    /// `cmdline`.
    pub command_line: &'a [u8],
}

/// Why an image cannot be looked at; that is no better than a finding.
#[derive(Debug, thiserror::Error)]
pub enum LintError {
    /// See [`ErofsError`].
    #[error("looking into root.erofs")]
    Root(#[from] ErofsError),
    /// See [`InitramfsError`].
    #[error("looking into initrd.img")]
    Initramfs(#[from] InitramfsError),
    /// The command line does not say for which platform the image is.
    #[error("expected coffer.profile=tdx or coffer.profile=simulated once in cmdline, found {found}")]
    Profile {
        /// What was there.
        found: String,
    },
    /// More is wrong with it than anybody reads.
    #[error("expected an image with few findings, found more than {most}, one of them: {one}")]
    Findings {
        /// How many are told.
        most: usize,
        /// One, in words.
        one: String,
    },
    /// A file is too long.
    #[error("expected at most {most} bytes in {}, found more", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
        /// How many are read.
        most: u64,
    },
    /// A file cannot be read.
    #[error("reading {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Looks into the image in `directory`.
///
/// # Errors
/// [`LintError`] when it cannot be read.
pub fn directory(directory: &Path) -> Result<Vec<Finding>, LintError> {
    let at = |name: &str| directory.join(name);
    let open = |name: &str| fs::File::open(at(name)).map_err(|source| LintError::Io { path: at(name), source });
    let read = |name: &str, most: u64| {
        let mut bytes = Vec::new();
        let result = io::Read::read_to_end(&mut io::Read::take(open(name)?, most + 1), &mut bytes);
        result.map_err(|source| LintError::Io { path: at(name), source })?;
        if bytes.len() as u64 > most { Err(LintError::TooLong { path: at(name), most }) } else { Ok(bytes) }
    };
    let (initramfs, command_line) = (read("initrd.img", INITRAMFS_MAX)?, read("cmdline", COMMAND_LINE_MAX)?);
    lint(Files { root: &open("root.erofs")?, initramfs: &initramfs, command_line: &command_line }, Limits::IMAGE)
}

/// Everything that is wrong with the image, sorted by rule.
///
/// # Errors
/// [`LintError`] when a part cannot be read.
pub fn lint<S: Source + ?Sized>(files: Files<'_, S>, limits: Limits) -> Result<Vec<Finding>, LintError> {
    let profile = profile_of(files.command_line)?;
    let root = erofs::entries(files.root, limits.root)?;
    let mut findings: Vec<Finding> = root::findings(&root).take(limits.findings.saturating_add(1)).collect();
    findings.extend(booted::of_initramfs(&initramfs::entries(files.initramfs, limits.initramfs)?, profile));
    findings.extend(booted::of_command_line(&String::from_utf8_lossy(files.command_line), profile));
    match findings.first() {
        Some(one) if findings.len() > limits.findings => {
            return Err(LintError::Findings { most: limits.findings, one: one.to_string() });
        }
        _ => {}
    }
    findings.sort();
    Ok(findings)
}

/// What the command line says of the image's platform.
///
/// # Errors
/// [`LintError::Profile`].
pub fn profile_of(command_line: &[u8]) -> Result<Profile, LintError> {
    let text = String::from_utf8_lossy(command_line);
    let named: Vec<&str> = text.split(' ').filter_map(|word| word.strip_prefix("coffer.profile=")).collect();
    match named[..] {
        ["tdx"] => Ok(Profile::Tdx),
        ["simulated"] => Ok(Profile::Simulated),
        [] => Err(LintError::Profile { found: "none".into() }),
        ref others => Err(LintError::Profile { found: others.join(" and ") }),
    }
}
