//! What another `coffer` needs to re-attach to a call that this one started: the request, its id and its salt, in
//! `$XDG_STATE_HOME/coffer/calls/SESSION/CALL`, for this user alone, and no longer than the call is known to run.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use coffer_client::calls::Exec;
use coffer_evidence::ids::{CallId, SessionId};

use crate::exit::{CONFIGURATION, INPUT_OUTPUT, USAGE, failure};

/// Bytes of a ticket: a request is smaller.
const TICKET_MAX: u64 = 1 << 20;

/// A ticket on disk.
#[derive(Debug)]
pub(super) struct Ticket {
    path: PathBuf,
}

fn directory(session: &SessionId) -> anyhow::Result<PathBuf> {
    let state = match std::env::var_os("XDG_STATE_HOME").filter(|state| !state.is_empty()) {
        Some(state) => PathBuf::from(state),
        None => match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
            Some(home) => PathBuf::from(home).join(".local/state"),
            None => return Err(failure(CONFIGURATION, "expected XDG_STATE_HOME or HOME to be set, found neither")),
        },
    };
    Ok(state.join("coffer/calls").join(session.to_string()))
}

impl Ticket {
    /// Keeps the ticket of a call.
    pub(super) fn keep(session: &SessionId, exec: &Exec) -> anyhow::Result<Self> {
        let call = exec.call_id().context("expected a call with an id, found none")?;
        let directory = directory(session)?;
        let file =
            |what: &str, path: &Path, error| failure(INPUT_OUTPUT, format!("{what} {}: {error}", path.display()));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|error| file("make the directory", &directory, error))?;
        let path = directory.join(call.to_string());
        let mut options = fs::OpenOptions::new();
        options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut opened| opened.write_all(&exec.ticket()))
            .map_err(|error| file("write", &path, error))?;
        Ok(Self { path })
    }

    /// The ticket of a call, and its bytes.
    pub(super) fn find(session: &SessionId, call: &CallId) -> anyhow::Result<(Self, Vec<u8>)> {
        use std::io::Read as _;
        let directory = directory(session)?;
        let path = directory.join(call.to_string());
        let mut bytes = Vec::new();
        match fs::File::open(&path) {
            Ok(file) => {
                let read = file.take(TICKET_MAX).read_to_end(&mut bytes);
                read.map_err(|error| failure(INPUT_OUTPUT, format!("read {}: {error}", path.display())))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(unknown(call, &directory)),
            Err(error) => return Err(failure(INPUT_OUTPUT, format!("read {}: {error}", path.display()))),
        }
        Ok((Self { path }, bytes))
    }

    /// The call is over, or never was.
    pub(super) fn discard(self) {
        // The last of a session takes the directory along.
        if fs::remove_file(&self.path).is_ok()
            && let Some(directory) = self.path.parent()
        {
            drop(fs::remove_dir(directory));
        }
    }
}

fn unknown(call: &CallId, directory: &Path) -> anyhow::Error {
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut known: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    known.sort();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    failure(
        USAGE,
        format!(
            "expected a call that this user started in the session and that was not seen to end, found none with the id {call}; there are: {known}"
        ),
    )
}
