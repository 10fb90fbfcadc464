//! Tool calls. In delegated sessions they go to `cofferd`, which relays them to the session named in the metadata
//! `coffer-session`. What they have in common is here; each kind has its file.

pub mod command;
pub mod exec;
mod files;
mod git;
pub mod run;
mod transfer;

use coffer_evidence::ids::SessionId;
use coffer_proto::guest::v1 as guest;
use tonic::Code;
use tonic::metadata::MetadataValue;

pub use command::{Command, Event, Order, TerminalSize};
pub use exec::Exec;
pub use files::{Above, IfMatch, LISTED_MAX, Listed, Reach, Taken};
pub use git::{BranchChange, GitOperation};
pub use run::{Notice, Streams};
pub use transfer::{Downloaded, Uploaded};

use crate::connection::Client;
use crate::error::ClientError;

/// The largest chunk in bytes.
pub const CHUNK: usize = 64 * 1024;
/// Messages on their way before the writer waits.
const IN_FLIGHT: usize = 16;

/// The header of a new call.
fn header(identity: &str) -> Result<guest::CallHeader, ClientError> {
    let mut salt = [0; 32];
    getrandom::fill(&mut salt)?;
    Ok(guest::CallHeader {
        call_id: uuid::Uuid::new_v4().as_bytes().to_vec().into(),
        identity: identity.to_owned(),
        salt: salt.to_vec().into(),
    })
}

fn addressed<T>(session: &SessionId, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    // A UUID is always a valid header value.
    if let Ok(value) = MetadataValue::try_from(session.to_string()) {
        request.metadata_mut().insert("coffer-session", value);
    }
    request
}

impl Client {
    /// What is at a path of the session; `None` when nothing is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stat(&self, session: &SessionId, path: &str) -> Result<Option<guest::Entry>, ClientError> {
        let request = guest::StatRequest { header: Some(header(self.identity())?), path: path.to_owned() };
        match self.tools().stat(addressed(session, request)).await.map_err(ClientError::from) {
            Ok(response) => Ok(response.into_inner().entry),
            // The session itself can be unknown, too: only the reason tells the two apart.
            Err(error) if error.code() == Some(Code::NotFound) && error.reason() == Some("FILE_NOT_FOUND") => Ok(None),
            Err(error) => Err(error),
        }
    }
}
