//! Sessions, images and evidence through `cofferd`.

use std::path::Path;
use std::time::Duration;

use coffer_evidence::ids::SessionId;
use coffer_proto::control::v1 as control;
use coffer_proto::control::v1::watch_sessions_response::Event;
use tokio::io::AsyncWriteExt as _;
use tokio_stream::{Stream, StreamExt as _};

use crate::connection::Client;
use crate::error::ClientError;
use crate::intents::SignedIntent;

/// The longest that one `WaitSession` may take; longer waits are several.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// The largest page.
const PAGE: i32 = 500;

/// Which sessions to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that are not closed.
    Open,
    /// All that the host remembers.
    All,
}

/// Whether to wait for what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Until the session is closed.
    ToTheEnd,
    /// What is there now.
    Now,
}

fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn raw(id: &SessionId) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(id.as_bytes())
}

impl Client {
    /// Asks for a session; returns at once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create(&self, signed: &SignedIntent) -> Result<control::Session, ClientError> {
        let request = control::CreateSessionRequest {
            request_id: request_id(),
            intent: signed.intent.clone().into(),
            owner_sig: signed.owner_sig.to_vec().into(),
            policy: signed.policy.clone().into(),
            labels: std::collections::HashMap::new(),
        };
        Ok(self.sessions().create_session(request).await?.into_inner())
    }

    /// The session as it is now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, id: &SessionId) -> Result<control::Session, ClientError> {
        Ok(self.sessions().get_session(control::GetSessionRequest { id: raw(id) }).await?.into_inner())
    }

    /// All sessions, page by page.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self, which: Which) -> Result<Vec<control::Session>, ClientError> {
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let include_closed = which == Which::All;
            let request = control::ListSessionsRequest { page_size: PAGE, page_token, include_closed };
            let page = self.sessions().list_sessions(request).await?.into_inner();
            found.extend(page.sessions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
        }
    }

    /// Waits until the session is in the phase or can no longer reach it. The host answers on the event.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn wait(&self, id: &SessionId, phase: control::Phase) -> Result<control::Session, ClientError> {
        loop {
            let request = control::WaitSessionRequest {
                id: raw(id),
                phase: phase.into(),
                timeout_ms: i64::try_from(WAIT_MAX.as_millis()).unwrap_or(i64::MAX),
            };
            let session = self.sessions().wait_session(request).await?.into_inner();
            if session.phase() >= phase {
                return Ok(session);
            }
        }
    }

    /// The session (or all of them) now and at each change.
    ///
    /// # Errors
    /// [`ClientError`], at the start or in the stream.
    pub async fn watch(
        &self,
        id: Option<&SessionId>,
    ) -> Result<impl Stream<Item = Result<Event, ClientError>> + use<>, ClientError> {
        let request = control::WatchSessionsRequest { id: id.map(raw).unwrap_or_default() };
        let stream = self.sessions().watch_sessions(request).await?.into_inner();
        Ok(stream.filter_map(|item| match item {
            Ok(response) => response.event.map(Ok),
            Err(status) => Some(Err(status.into())),
        }))
    }

    /// Begins the orderly end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn close(&self, id: &SessionId) -> Result<control::Session, ClientError> {
        let request = control::CloseSessionRequest { request_id: request_id(), id: raw(id) };
        Ok(self.sessions().close_session(request).await?.into_inner())
    }

    /// What can be booted.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_images(&self) -> Result<Vec<control::Image>, ClientError> {
        Ok(self.images().list_images(control::ListImagesRequest {}).await?.into_inner().images)
    }

    /// The action log of an open session, as its guest has told it so far; with `follow` until the session is closed.
    ///
    /// # Errors
    /// [`ClientError`], at the start or in the stream.
    pub async fn log(
        &self,
        id: &SessionId,
        follow: Follow,
    ) -> Result<impl Stream<Item = Result<control::ReadLogResponse, ClientError>> + use<>, ClientError> {
        let request = control::ReadLogRequest { id: raw(id), follow: follow == Follow::ToTheEnd };
        let stream = self.evidence().read_log(request).await?.into_inner();
        Ok(stream.map(|item| item.map_err(ClientError::from)))
    }

    /// Writes the bundle to `path`: beside it first, then renamed, so that a half bundle never has its name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn export(&self, id: &SessionId, path: &Path) -> Result<u64, ClientError> {
        let mut stream =
            self.evidence().export_evidence(control::ExportEvidenceRequest { id: raw(id) }).await?.into_inner();
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = std::path::PathBuf::from(partial);
        let result = receive(&mut stream, &partial).await;
        match &result {
            Ok(_) => tokio::fs::rename(&partial, path).await.map_err(ClientError::file("rename to", path))?,
            // The error that counts is the first.
            Err(_) => drop(tokio::fs::remove_file(&partial).await),
        }
        result
    }
}

async fn receive(
    stream: &mut tonic::Streaming<control::ExportEvidenceResponse>,
    path: &Path,
) -> Result<u64, ClientError> {
    let mut file = tokio::fs::File::create(path).await.map_err(ClientError::file("make", path))?;
    let mut written = 0;
    while let Some(chunk) = stream.message().await? {
        file.write_all(&chunk.data).await.map_err(ClientError::file("write", path))?;
        written += chunk.data.len() as u64;
    }
    file.sync_all().await.map_err(ClientError::file("write", path))?;
    Ok(written)
}
