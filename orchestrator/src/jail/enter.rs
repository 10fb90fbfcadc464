//! `cofferd jail`: reads a specification on stdin, confines itself step by step, and becomes the program. The order matters:
//! what needs root comes first, the record of who it is before everything, the uid last.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::process::{Resource, Rlimit, setrlimit, setsid};

use super::{JailSpec, SPEC_MAX, view};
use crate::host::process::ProcessRecord;

/// Descriptors that a jailed program may have.
const FILES_MAX: u64 = 4_096;

/// Confines this process and becomes the program; returns only when that failed.
pub(crate) fn main() -> ExitCode {
    let Err((step, error)) = enter();
    eprintln!("coffer-jail: {step}: {error}");
    ExitCode::from(125)
}

fn enter() -> Result<std::convert::Infallible, (&'static str, io::Error)> {
    let step = |name: &'static str| move |error: io::Error| (name, error);
    let mut bytes = Vec::new();
    io::stdin().take(SPEC_MAX).read_to_end(&mut bytes).map_err(step("read the specification"))?;
    let spec: JailSpec = serde_json::from_slice(&bytes).map_err(|e| ("read the specification", io::Error::other(e)))?;
    let (program, arguments) =
        spec.argv.split_first().ok_or_else(|| ("read the specification", io::Error::other("no program")))?;

    // Who it is stays true across exec: pid and start time do not change.
    write_record(&spec.record).map_err(step("write the process record"))?;
    if let Some(procs) = &spec.cgroup_procs {
        std::fs::write(procs, "0").map_err(step("join the cgroup"))?;
    }
    // Not a signal of cofferd's terminal, and not its end, may end a guest.
    setsid().map_err(|e| ("start a session of processes", e.into()))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(|e| ("switch core dumps off", e.into()))?;
    let files = Rlimit { current: Some(FILES_MAX), maximum: Some(FILES_MAX) };
    setrlimit(Resource::Nofile, files).map_err(|e| ("limit open files", e.into()))?;
    rustix::thread::set_no_new_privs(true).map_err(|e| ("set no_new_privs", e.into()))?;

    if let Some(uid) = spec.uid {
        let namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC;
        unshare(namespaces).map_err(|e| ("make namespaces", e.into()))?;
        view::apply(&spec.expose).map_err(step("arrange what it sees"))?;
        let groups: Vec<Gid> = spec.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups).map_err(|e| ("set groups", e.into()))?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
        setresgid(gid, gid, gid).map_err(|e| ("set the gid", e.into()))?;
        setresuid(uid, uid, uid).map_err(|e| ("set the uid", e.into()))?;
    }
    let error = Command::new(program).args(arguments).stdin(Stdio::null()).exec();
    Err(("start the program", error))
}

fn write_record(path: &Path) -> io::Result<()> {
    let record = serde_json::to_vec(&ProcessRecord::of_self()?)?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&record)?;
    file.sync_all()
}
