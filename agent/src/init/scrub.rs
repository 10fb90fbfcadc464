//! The end of everything that tools could write: processes first, then the file systems, then a look around.
//!
//! ```text
//!  calls_ended ─ tool_secrets ─ workspace_unmounted ─ tmp_unmounted ─ self_check
//! ```
//! Every step is taken whatever became of the one before, and its result is told to the notary as it is: a step that
//! failed stands in the scrub leaf, and the verifier then says nothing of an erasure.

use super::cgroup::Hierarchy;
use super::jail::Jails;
use super::leftovers;
use super::mounts;
use super::root::Upper;
use crate::fixed;
use coffer_evidence::leaf::{ScrubStep, StepResult};
use nix::mount::{MntFlags, umount2};

/// Memory file systems that tools can write to, besides the workspace.
const TEMPORARY: [&str; 2] = [fixed::TMP, "/dev/shm"];

/// Scrubs; answers each step and its result as the numbers of the action log.
pub(super) fn scrub(hierarchy: &Hierarchy, upper: &Upper, jails: Option<Jails>) -> Vec<[u64; 2]> {
    let ended = hierarchy.kill_calls().is_ok() && hierarchy.calls_populated().is_ok_and(|populated| !populated);
    // What tools could write to is mounted in the rooms, too: a room that stays open keeps it.
    let rooms = jails.is_none_or(Jails::close);
    let workspace = unmount(fixed::WORKSPACE) && rooms;
    let temporary = TEMPORARY.map(unmount).iter().all(|unmounted| *unmounted) && rooms;
    let result = |done: bool| if done { StepResult::Done } else { StepResult::Failed };
    [
        (ScrubStep::CallsEnded, result(ended)),
        // This build gives tools no secrets.
        (ScrubStep::ToolSecrets, StepResult::NothingToDo),
        (ScrubStep::Workspace, result(workspace)),
        (ScrubStep::Temporary, result(temporary)),
        (ScrubStep::SelfCheck, result(self_check(upper))),
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

/// Nothing is mounted any more where tools could write, and they left nothing anywhere else: no process, no file in
/// the layer over the root, nothing in the kernel that lives on without a process. What is found is said on the
/// console, by kind alone.
fn self_check(upper: &Upper) -> bool {
    let mounted = mounts::is_mount_point(fixed::WORKSPACE) || TEMPORARY.iter().any(|path| mounts::is_mount_point(path));
    let found = mounted.then_some("a mount").or_else(|| leftovers::find(upper));
    if let Some(kind) = found {
        super::console::say(&format!("self-check: {kind} is left"));
    }
    found.is_none()
}
