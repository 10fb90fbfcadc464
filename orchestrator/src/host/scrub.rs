//! Removes what the host holds of a session: step by step, going on past failures, then a second look. What a step did
//! goes into the receipt; what could not be removed is shown until somebody removes it.

use std::io;
use std::path::Path;
use std::time::Duration;

use coffer_evidence::ids::SessionId;

use super::blocking::blocking;
use super::cgroup::SessionCgroup;
use super::process::ProcessRecord;
use super::session_dir::SessionDir;

/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(10);
/// Files in which the session's processes wrote who they are.
const RECORDS: [&str; 3] = ["qemu.process", "vsock.process", "simulator.process"];

/// One step and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) result: Result<(), String>,
}

/// What a session may have left.
#[derive(Clone, Debug)]
pub(crate) struct Holdings {
    pub(crate) session: SessionId,
    pub(crate) directory: SessionDir,
    pub(crate) cgroup: Option<SessionCgroup>,
    pub(crate) uid: Option<u32>,
}

/// Kills the session's processes by their records and by its cgroup, and waits until they are gone.
pub(crate) async fn end_processes(holdings: &Holdings) -> io::Result<()> {
    let mut result = Ok(());
    let recorded = |name: &&str| ProcessRecord::open_recorded(&holdings.directory.join(name));
    for process in RECORDS.iter().filter_map(recorded) {
        let ended = async {
            process.kill()?;
            let late = |error| io::Error::other(format!("process {} does not end: {error}", process.pid()));
            process.ended_within(GONE).await.map_err(late)
        };
        result = result.and(ended.await);
    }
    if let Some(cgroup) = holdings.cgroup.clone() {
        let removed = blocking(move || cgroup.remove(GONE)).await;
        result = result.and(removed.unwrap_or_else(|error| Err(io::Error::other(error))));
    }
    result
}

/// Everything.
pub(crate) async fn scrub(holdings: &Holdings) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut step = |name, result: io::Result<()>| steps.push(Step { name, result: result.map_err(|e| e.to_string()) });
    step("processes killed, cgroup removed", end_processes(holdings).await);
    let directory = holdings.directory.clone();
    let removed = blocking(move || directory.remove()).await;
    step("session directory removed", removed.unwrap_or_else(|error| Err(io::Error::other(error))));
    step("looked again, nothing left", nothing_left(holdings));
    steps
}

fn nothing_left(holdings: &Holdings) -> io::Result<()> {
    let session = holdings.session.to_string();
    let mut left = Vec::new();
    if holdings.directory.path().exists() {
        left.push(format!("directory {}", holdings.directory.path().display()));
    }
    if let Some(cgroup) = holdings.cgroup.as_ref().filter(|c| c.exists()) {
        left.push(format!("cgroup {}", cgroup.path().display()));
    }
    for table in ["/proc/self/mountinfo", "/proc/net/unix"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        left.extend(text.lines().filter(|l| l.contains(&session)).map(|l| format!("{table}: {l}")));
    }
    if let Some(uid) = holdings.uid {
        left.extend(processes_of(uid)?.into_iter().map(|pid| format!("process {pid} of uid {uid}")));
    }
    if left.is_empty() { Ok(()) } else { Err(io::Error::other(left.join("; "))) }
}

fn processes_of(uid: u32) -> io::Result<Vec<u32>> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has just ended, or a zombie that its parent has yet to collect, holds nothing.
        if entry.metadata().is_ok_and(|m| m.uid() == uid) && !is_zombie(&entry.path()) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn is_zombie(process: &Path) -> bool {
    let Ok(stat) = std::fs::read_to_string(process.join("stat")) else { return true };
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z') || rest.starts_with('X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each test has a session of its own: the second look sees the whole host.
    fn holdings(sessions: &Path, session: SessionId) -> Holdings {
        Holdings { session, directory: SessionDir::at(sessions, session, None), cgroup: None, uid: None }
    }

    #[tokio::test]
    async fn a_recorded_process_and_the_directory_go_and_the_second_look_agrees() {
        let dir = tempfile::tempdir().expect("a directory");
        let held = holdings(dir.path(), SessionId::new([0xee; 16]));
        held.directory.create().expect("create");
        let mut child = tokio::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        let pid = i32::try_from(child.id().expect("running")).expect("a pid");
        let record = ProcessRecord::of(pid).expect("running");
        std::fs::write(held.directory.join("qemu.process"), serde_json::to_vec(&record).expect("json")).expect("write");
        let (steps, status) = tokio::join!(scrub(&held), child.wait());
        assert!(steps.iter().all(|s| s.result.is_ok()), "{steps:?}");
        assert!(!status.expect("wait").success());
        assert!(!held.directory.path().exists());
        assert!(scrub(&held).await.iter().all(|s| s.result.is_ok()), "nothing to do is no failure");
    }

    #[tokio::test]
    async fn what_is_left_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let session = SessionId::new([0xef; 16]);
        let socket = dir.path().join(format!("{session}.sock"));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("listen");
        let steps = scrub(&holdings(dir.path(), session)).await;
        let last = steps.last().expect("steps").result.clone().expect_err("a socket is left");
        assert!(last.contains("/proc/net/unix"), "{last}");
    }
}
