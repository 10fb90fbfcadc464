//! A directory that built-in tools work in, and what they say there.

use coffer_agent::frames::Frame as _;
use coffer_agent::frames::tool::Report;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A workspace in memory, as in a guest, where the host has that.
pub(crate) struct Workspace(tempfile::TempDir);

/// How a tool ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    #[allow(dead_code, reason = "a watch puts nothing out")]
    pub(crate) output: Vec<u8>,
    pub(crate) reports: Vec<Report>,
}

impl Workspace {
    pub(crate) fn new() -> Self {
        let place = tempfile::Builder::new().prefix("coffer-tools.").tempdir_in("/dev/shm");
        Self(place.unwrap_or_else(|_| tempfile::tempdir().unwrap()))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// A tool that runs.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_coffer-agent"))
            .arg("tool")
            .args(arguments)
            .current_dir(self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let mut tool = self.start(arguments);
        // One that refuses the path does not wait for its input.
        drop(tool.stdin.take().unwrap().write_all(input));
        let ended = tool.wait_with_output().unwrap();
        let status = ended.status.code().unwrap_or(-1);
        Ended { status, output: ended.stdout, reports: reports(&ended.stderr) }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, b"")
    }
}

impl Ended {
    /// `done N`, or the stage and the error as `std` names it.
    pub(crate) fn word(&self) -> String {
        match self.reports.last() {
            Some(Report::Done { files, .. }) if self.status == 0 => format!("done {files}"),
            Some(Report::Failed { stage, errno }) if self.status == 1 => {
                let errno = i32::try_from(*errno).unwrap();
                format!("{stage}: {}", std::io::Error::from_raw_os_error(errno))
            }
            _ => format!("{self:?}"),
        }
    }
}

/// Reports as they stand one after the other.
pub(crate) fn reports(mut bytes: &[u8]) -> Vec<Report> {
    let mut reports = Vec::new();
    while let Some((length, _)) = bytes.split_first_chunk::<4>() {
        let end = 4 + usize::try_from(u32::from_le_bytes(*length)).unwrap();
        reports.push(Report::decode(&bytes[..end]).unwrap_or_else(|error| panic!("{error}: {bytes:?}")));
        bytes = &bytes[end..];
    }
    reports
}
