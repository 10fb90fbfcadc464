//! Where `coffer run` reads and writes. The workspace, which the session fills as it likes, has a directory of its own:
//! nothing in it can stand in the place of the evidence.

use std::path::{Path, PathBuf};

use crate::exit::{INPUT_OUTPUT, USAGE, failure};

/// Input and output, looked at before a session is made.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) input: Option<PathBuf>,
    output: Option<PathBuf>,
}

impl Places {
    pub(super) fn prepare(input: Option<PathBuf>, output: Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(input) = input.as_deref().filter(|input| !input.is_dir()) {
            return Err(failure(USAGE, format!("expected a directory for --in, found none at {}", input.display())));
        }
        if let Some(output) = &output {
            prepare_output(output)?;
        }
        Ok(Self { input, output })
    }

    /// The directory for the workspace.
    pub(super) fn workspace(&self) -> Option<PathBuf> {
        self.output.as_ref().map(|output| output.join("workspace"))
    }

    /// The bundle.
    pub(super) fn evidence(&self) -> Option<PathBuf> {
        self.output.as_ref().map(|output| output.join("session.evidence"))
    }

    /// The appraisal policy.
    pub(super) fn appraisal(&self) -> Option<PathBuf> {
        self.output.as_ref().map(|output| output.join("appraisal.toml"))
    }
}

/// Makes it, and insists that nothing of an earlier run is in it: two runs mixed would pass for one.
fn prepare_output(output: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(output)
        .map_err(|error| failure(INPUT_OUTPUT, format!("make the directory {}: {error}", output.display())))?;
    for name in ["workspace", "session.evidence", "appraisal.toml"] {
        let path = output.join(name);
        if path.symlink_metadata().is_ok() {
            let path = path.display();
            return Err(failure(
                USAGE,
                format!(
                    "expected --out without an earlier run in it, found {path}: remove it, or name another directory"
                ),
            ));
        }
    }
    Ok(())
}
