//! The end of everything that tools could write: processes first, then the file systems, then a look around.
//!
//! ```text
//!  calls_ended ─ tool_secrets ─ workspace_unmounted ─ tmp_unmounted ─ self_check
//! ```
//! Every step is taken whatever became of the one before, and its result is told to the notary as it is.

use super::cgroup::Hierarchy;
use super::mounts;
use crate::fixed;
use coffer_evidence::leaf::{ScrubStep, StepResult};
use nix::mount::{MntFlags, umount2};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// Memory file systems that tools can write to, besides the workspace.
const TEMPORARY: [&str; 2] = [fixed::TMP, "/dev/shm"];

/// Scrubs; answers each step and its result as the numbers of the action log.
pub(super) fn scrub(hierarchy: &Hierarchy) -> Vec<[u64; 2]> {
    let ended = hierarchy.kill_calls().is_ok() && hierarchy.calls_populated().is_ok_and(|populated| !populated);
    let workspace = unmount(fixed::WORKSPACE);
    let temporary = TEMPORARY.map(unmount).iter().all(|unmounted| *unmounted);
    let result = |done: bool| if done { StepResult::Done } else { StepResult::Failed };
    [
        (ScrubStep::CallsEnded, result(ended)),
        // This build gives tools no secrets.
        (ScrubStep::ToolSecrets, StepResult::NothingToDo),
        (ScrubStep::Workspace, result(workspace)),
        (ScrubStep::Temporary, result(temporary)),
        (ScrubStep::SelfCheck, result(self_check())),
    ]
    .map(|(step, result)| [step.number(), result.number()])
    .to_vec()
}

/// Unmounts, and so frees, a memory file system. True only when nobody kept it busy.
fn unmount(target: &str) -> bool {
    if umount2(target, MntFlags::empty()).is_ok() {
        return true;
    }
    // Out of sight at least, and freed with its last user; reported as failed all the same.
    let _ = umount2(target, MntFlags::MNT_DETACH);
    false
}

/// Nothing is mounted any more where tools could write, and no process of an identity is left.
fn self_check() -> bool {
    let unmounted =
        !mounts::is_mount_point(fixed::WORKSPACE) && !TEMPORARY.iter().any(|path| mounts::is_mount_point(path));
    unmounted && no_process_of_an_identity()
}

fn no_process_of_an_identity() -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit())))
        // A process that ends meanwhile is as good as gone.
        .filter_map(|entry| entry.metadata().ok())
        .all(|process| process.uid() < fixed::UID_IDENTITY)
}
