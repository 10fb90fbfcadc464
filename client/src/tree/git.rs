//! What git would take of a work tree: what it tracks and what it does not ignore.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::ClientError;

/// The paths that git names, and the directories on the way to them.
#[derive(Debug, Default)]
pub(super) struct Listed {
    named: BTreeSet<PathBuf>,
    above: BTreeSet<PathBuf>,
}

/// What to do with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Take it; below it, ask again.
    Take,
    /// Take it and all below: git itself, a submodule, a repository of its own. Git does not look inside.
    TakeWhole,
    /// Git ignores it.
    Leave,
}

impl Listed {
    pub(super) fn judge(&self, path: &Path) -> Judgement {
        if path == Path::new(".git") || self.named.contains(path) {
            Judgement::TakeWhole
        } else if self.above.contains(path) {
            Judgement::Take
        } else {
            Judgement::Leave
        }
    }
}

/// Asks git about the work tree whose top is `root`; `None` when it is none. A git that refuses (another user's
/// repository, say) is an error: taking everything instead could be gigabytes that nobody asked for.
pub(super) fn listed(root: &Path) -> Result<Option<Listed>, ClientError> {
    if !root.join(".git").exists() {
        return Ok(None);
    }
    let wrong = |found: String| ClientError::Git { path: root.to_owned(), found };
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        // A hook's environment is about its own repository.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .output()
        .map_err(|error| wrong(error.to_string()))?;
    if !output.status.success() {
        return Err(wrong(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let mut listed = Listed::default();
    for name in output.stdout.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let path = PathBuf::from(OsString::from_vec(name.to_vec()));
        listed.above.extend(path.ancestors().skip(1).map(Path::to_path_buf));
        listed.named.insert(path);
    }
    Ok(Some(listed))
}
