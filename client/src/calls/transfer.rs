//! Moving files and trees in and out of a session as tar streams.

use std::path::{Path, PathBuf};

use coffer_evidence::ids::{Digest256, SessionId};
use coffer_proto::guest::v1 as guest;
use coffer_proto::guest::v1::{download_response, upload_request};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{IN_FLIGHT, addressed, header};
use crate::connection::Client;
use crate::error::ClientError;
use crate::tree::{self, Packed, Selection, Unpacked};

/// What an upload did.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// What the guest says.
    pub response: guest::UploadResponse,
    /// What was packed and left out here.
    pub packed: Packed,
}

/// What a download did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// What was unpacked and left out here.
    pub unpacked: Unpacked,
    /// Bytes of the tar stream.
    pub bytes: u64,
    /// Pipes, sockets and devices of the session, by its word: they have no content to carry.
    pub special: u64,
}

/// Where in the session an upload goes.
struct Target {
    directory: String,
    /// For one file: its name there.
    name: PathBuf,
}

fn unfinished(expected: &'static str) -> ClientError {
    ClientError::Unexpected { expected, found: "the end of the stream".to_owned() }
}

/// The guest says which bytes it saw: others mean that something between here and there changed or lost some.
fn same_stream(said: &[u8], here: Digest256) -> Result<(), ClientError> {
    if said == here.as_bytes() {
        return Ok(());
    }
    Err(ClientError::Unexpected {
        expected: "the guest to have seen the bytes that passed here",
        found: "another digest of the stream".to_owned(),
    })
}

impl Client {
    /// Copies a local file or tree into the session. A tree becomes the directory `remote` (made when missing; empty is
    /// /workspace). A file becomes `remote`, or goes into it where that is a directory or ends with `/`. `moved` is told
    /// the bytes so far.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn upload(
        &self,
        session: &SessionId,
        local: &Path,
        remote: &str,
        selection: Selection,
        mut moved: impl FnMut(u64) + Send + 'static,
    ) -> Result<Uploaded, ClientError> {
        let target = self.target(session, local, remote).await?;
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let start = guest::UploadStart { header: Some(header(self.identity())?), path: target.directory };
        let start = guest::UploadRequest { request: Some(upload_request::Request::Start(start)) };
        sender.try_send(start).map_err(|_| unfinished("room for the first message"))?;
        // The stream must not end in good order when packing failed: what was packed so far would pass for all of it.
        let open = sender.clone();
        let local = local.to_owned();
        let mut packing = tokio::task::spawn_blocking(move || {
            let (mut hash, mut bytes) = (Sha256::new(), 0);
            let packed = tree::pack(&local, &target.name, selection, |chunk| {
                hash.update(&chunk);
                bytes += chunk.len() as u64;
                moved(bytes);
                let request = guest::UploadRequest { request: Some(upload_request::Request::Data(chunk.into())) };
                sender.blocking_send(request).is_ok()
            });
            packed.map(|packed| (packed, Digest256::new(hash.finalize().into())))
        });
        let mut tools = self.tools();
        let call = tools.upload(addressed(session, ReceiverStream::new(receiver)));
        tokio::pin!(call);
        let (packed, response) = tokio::select! {
            packed = &mut packing => {
                let packed = packed.map_err(|_| unfinished("a packed tree"))??;
                drop(open);
                (packed, call.await?.into_inner())
            }
            // A refusal by the guest explains a stream that nobody takes, not the other way round.
            response = &mut call => {
                let response = response?.into_inner();
                (packing.await.map_err(|_| unfinished("a packed tree"))??, response)
            }
        };
        let (packed, digest) = packed;
        same_stream(&response.sha256, digest)?;
        Ok(Uploaded { response, packed })
    }

    async fn target(&self, session: &SessionId, local: &Path, remote: &str) -> Result<Target, ClientError> {
        let metadata = std::fs::metadata(local).map_err(ClientError::file("read", local))?;
        // Before anything is asked of the session.
        if tree::is_special(metadata.file_type()) {
            return Err(ClientError::Special { path: local.display().to_string() });
        }
        let own = PathBuf::from(local.file_name().unwrap_or_default());
        let whole = Target { directory: remote.to_owned(), name: own };
        let trimmed = remote.trim_end_matches('/');
        if metadata.is_dir() || trimmed.len() < remote.len() || matches!(trimmed, "" | ".") {
            return Ok(whole);
        }
        let there = self.stat(session, trimmed).await?;
        if there.is_some_and(|entry| entry.kind() == guest::EntryKind::Directory) {
            return Ok(whole);
        }
        let (directory, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        Ok(Target { directory: directory.to_owned(), name: name.into() })
    }

    /// Fetches a file or tree of the session: a tree becomes the directory `local`, a file becomes `local` or goes into it
    /// where it is a directory. `moved` is told the bytes so far.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn download(
        &self,
        session: &SessionId,
        remote: &str,
        local: &Path,
        mut moved: impl FnMut(u64),
    ) -> Result<Downloaded, ClientError> {
        let request = guest::DownloadRequest { header: Some(header(self.identity())?), path: remote.to_owned() };
        let mut responses = self.tools().download(addressed(session, request)).await?.into_inner();
        let (sender, receiver) = mpsc::channel::<bytes::Bytes>(IN_FLIGHT);
        let (target, name) = (local.to_owned(), tree::base_name(remote));
        let unpacking = tokio::task::spawn_blocking(move || tree::unpack(receiver, &target, &name));
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        let mut trailer = None;
        while let Some(message) = responses.message().await? {
            match message.response {
                Some(download_response::Response::Data(data)) => {
                    hash.update(&data);
                    bytes += data.len() as u64;
                    moved(bytes);
                    // Nobody takes more: unpacking says why.
                    if sender.send(data).await.is_err() {
                        break;
                    }
                }
                Some(download_response::Response::Trailer(last)) => trailer = Some(last),
                None => {}
            }
        }
        drop(sender);
        let unpacked = unpacking.await.map_err(|_| unfinished("an unpacked tree"))??;
        let trailer = trailer.ok_or_else(|| unfinished("a trailer at the end of a download"))?;
        same_stream(&trailer.sha256, Digest256::new(hash.finalize().into()))?;
        if unpacked.entries == 0 {
            self.make_empty(session, remote, local).await?;
        }
        Ok(Downloaded { unpacked, bytes, special: trailer.special })
    }

    /// An empty archive is that of an empty directory, or of something that the guest does not pack.
    async fn make_empty(&self, session: &SessionId, remote: &str, local: &Path) -> Result<(), ClientError> {
        let trimmed = remote.trim_end_matches('/');
        if !matches!(trimmed, "" | ".") {
            let there = self.stat(session, trimmed).await?;
            if there.is_some_and(|entry| entry.kind() == guest::EntryKind::Other) {
                return Err(ClientError::Special { path: remote.to_owned() });
            }
        }
        std::fs::create_dir_all(local).map_err(ClientError::file("make", local))
    }
}
