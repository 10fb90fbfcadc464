//! The jail that a session's processes run in: their own uid, cgroup, session of processes, mount and net namespace, no
//! core dumps, no new privileges. `cofferd jail` is a fresh single-threaded process that puts itself in and then becomes
//! the program; nothing here runs between fork and exec of a threaded one.

pub(crate) mod enter;
mod view;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::watch;

use crate::host::process::OwnedProcess;
use crate::vmm::LaunchError;

/// The hidden subcommand.
pub(crate) const SUBCOMMAND: &str = "jail";
/// The largest specification in bytes.
const SPEC_MAX: u64 = 1024 * 1024;

/// Whether a jailed process may write to what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
}

/// A path that a jailed process must reach although a directory above it is closed to its uid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exposure {
    pub(crate) path: PathBuf,
    pub(crate) access: Access,
}

/// What to run, and how confined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JailSpec {
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
    /// Where the process writes who it is, before it becomes the program.
    pub(crate) record: PathBuf,
    /// `cgroup.procs` of its cgroup.
    pub(crate) cgroup_procs: Option<PathBuf>,
    /// uid and gid; none where `cofferd` is not root: then it stays as it is, without namespaces.
    pub(crate) uid: Option<u32>,
    /// Supplementary groups, for devices.
    pub(crate) groups: Vec<u32>,
    /// What it must reach.
    pub(crate) expose: Vec<Exposure>,
}

/// A program in its jail.
#[derive(Clone, Debug)]
pub(crate) struct Jailed {
    process: Arc<OwnedProcess>,
    status: watch::Receiver<Option<Exit>>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Status(i32),
    Signal(i32),
    /// It was started by an earlier life of this process: only its parent learns more.
    Unseen,
}

/// Why a program does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("expected the path {} to be UTF-8", .0.display())]
    Path(PathBuf),
    #[error("expected to start the jail for {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> Result<String, SpawnError> {
    path.to_str().map(str::to_owned).ok_or_else(|| SpawnError::Path(path.to_path_buf()))
}

/// A program that serves a session beside its machine, and says on stdout when it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Helper {
    /// For messages.
    pub(crate) name: &'static str,
    /// The line that it prints.
    pub(crate) ready: &'static str,
    /// The setting that names it.
    pub(crate) setting: &'static str,
}

/// How long a helper may take until it is ready: it measures files at most.
const HELPER_START: Duration = Duration::from_secs(30);
/// How long after the end of its output a helper may be ending.
const HELPER_END: Duration = Duration::from_secs(5);
/// The longest line that a helper prints, in bytes.
const HELPER_LINE_MAX: u64 = 1_024;

/// Starts a helper and waits for its line; it ends with what this returns. What it complains about goes to the session's console.
pub(crate) async fn start_helper(
    launcher: &Path,
    spec: &JailSpec,
    complaints: &Path,
    helper: Helper,
) -> Result<EndOnDrop, LaunchError> {
    let stderr = complain_to(complaints)?;
    let (jailed, stdout) = spawn(launcher, spec, Output { stdout: Stdio::piped(), stderr })?;
    let started = EndOnDrop(Some(jailed.clone()));
    let mut stdout = BufReader::new(stdout.ok_or(LaunchError::GivenUp)?.take(HELPER_LINE_MAX));
    let mut line = String::new();
    let read = tokio::time::timeout(HELPER_START, stdout.read_line(&mut line)).await;
    if matches!(read, Ok(Ok(_))) && line.trim_end() == helper.ready {
        tokio::spawn(async move {
            let exit = jailed.ended().await;
            tracing::info!(program = helper.name, pid = jailed.pid(), %exit, "a program of a session ended");
        });
        return Ok(started);
    }
    let found = match read {
        // It may have closed its output and gone on: then it is ended with this launch.
        Ok(_) if line.is_empty() => match tokio::time::timeout(HELPER_END, jailed.ended()).await {
            Ok(exit) => format!("that it ended with {exit}"),
            Err(_) => "that it closed its output".to_owned(),
        },
        Ok(_) => format!("the line {line:?}"),
        Err(_) => format!("nothing within {HELPER_START:?}"),
    };
    // What it said is on the session's console, which a failed launch writes to the diagnostics.
    Err(LaunchError::NotReady { program: helper.name, setting: helper.setting, found })
}

/// The session's console as somebody's stderr.
pub(crate) fn complain_to(console: &Path) -> Result<Stdio, LaunchError> {
    let failed = |source| LaunchError::Io { path: console.to_path_buf(), source };
    let file = std::fs::OpenOptions::new().write(true).open(console).map_err(failed)?;
    Ok(Stdio::from(file))
}

/// A program that ends with its owner, unless the owner lets it live on.
#[derive(Debug)]
pub(crate) struct EndOnDrop(Option<Jailed>);

impl EndOnDrop {
    /// Ends this one.
    pub(crate) fn of(jailed: Jailed) -> Self {
        Self(Some(jailed))
    }

    /// It lives on.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(jailed) = &self.0 {
            drop(jailed.kill());
        }
    }
}

/// Where the process's output goes.
pub(crate) struct Output {
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
}

/// Starts a program in a jail; `launcher` is this very executable.
///
/// Returns when the process exists, not when it has become the program.
pub(crate) fn spawn(
    launcher: &Path,
    spec: &JailSpec,
    output: Output,
) -> Result<(Jailed, Option<tokio::process::ChildStdout>), SpawnError> {
    let program = spec.argv.first().cloned().unwrap_or_default();
    let failed = |source| SpawnError::Start { program: program.clone(), source };
    let mut child = Command::new(launcher)
        .arg(OsString::from(SUBCOMMAND))
        .env_clear()
        .env("LANG", "C.UTF-8")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(output.stdout)
        .stderr(output.stderr)
        .spawn()
        .map_err(failed)?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let process = pid.ok_or_else(|| io::Error::other("it ended at once")).and_then(OwnedProcess::open);
    let process = Arc::new(process.map_err(failed)?);
    let written = serde_json::to_vec(spec).map_err(io::Error::other).and_then(|bytes| write_spec(&mut child, &bytes));
    if let Err(source) = written {
        let _ = process.kill();
        return Err(failed(source));
    }
    let stdout = child.stdout.take();
    let (ended, status) = watch::channel(None);
    tokio::spawn(async move {
        let exit = match child.wait().await {
            Ok(status) => status.signal().map_or(Exit::Status(status.code().unwrap_or(-1)), Exit::Signal),
            Err(_) => Exit::Status(-1),
        };
        let _ = ended.send(Some(exit));
    });
    Ok((Jailed { process, status }, stdout))
}

/// The pipe holds 64 KiB and the reader is already there: written in place.
fn write_spec(child: &mut tokio::process::Child, bytes: &[u8]) -> io::Result<()> {
    let stdin = child.stdin.take().ok_or_else(|| io::Error::other("no pipe to the jail"))?;
    let mut pipe = std::fs::File::from(stdin.into_owned_fd()?);
    // Blocking again, as a plain file: the jail reads at once and to the end.
    rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::empty())?;
    pipe.write_all(bytes)
}

impl Jailed {
    /// One that an earlier life of this process started.
    pub(crate) fn adopt(process: OwnedProcess) -> Self {
        let process = Arc::new(process);
        let (ended, status) = watch::channel(None);
        let waiting = Arc::clone(&process);
        tokio::spawn(async move {
            if let Err(error) = waiting.ended().await {
                tracing::error!(%error, pid = waiting.pid(), "the end of a process cannot be waited for");
            }
            let _ = ended.send(Some(Exit::Unseen));
        });
        Self { process, status }
    }

    /// SIGKILL by descriptor.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.process.kill()
    }

    /// For diagnostics.
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Its end, once; any number may wait.
    pub(crate) async fn ended(&self) -> Exit {
        let mut status = self.status.clone();
        match status.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Status(-1)),
            // The waiting task went away with the runtime.
            Err(_) => Exit::Status(-1),
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unseen => f.write_str("an exit that only an earlier life of cofferd could have seen"),
        }
    }
}
