//! Tool calls. In delegated sessions they go to `cofferd`, which relays them to the session named in the metadata.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use coffer_evidence::ids::SessionId;
use coffer_proto::guest::v1 as guest;
use coffer_proto::guest::v1::{download_response, exec_request, exec_response, upload_request};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;

use crate::connection::Client;
use crate::error::ClientError;
use crate::tree::{self, Packed, Selection};

/// The largest chunk in bytes.
pub const CHUNK: usize = 64 * 1024;
/// Messages on their way before the writer waits.
const IN_FLIGHT: usize = 16;

/// A program to run.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Below /workspace; empty is /workspace.
    pub cwd: String,
    /// Added to the fixed environment.
    pub env: HashMap<String, String>,
    /// None: the default of the session.
    pub timeout: Option<Duration>,
}

/// What an upload did.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// What the guest says.
    pub response: guest::UploadResponse,
    /// What was packed and left out here.
    pub packed: Packed,
}

fn header() -> guest::CallHeader {
    let mut salt = [0; 32];
    // Without randomness the commitment hides less, and says no less.
    let _ = getrandom::fill(&mut salt);
    guest::CallHeader {
        call_id: uuid::Uuid::new_v4().as_bytes().to_vec().into(),
        identity: String::new(),
        salt: salt.to_vec().into(),
    }
}

fn addressed<T>(session: &SessionId, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    // A UUID is always a valid header value.
    if let Ok(value) = MetadataValue::try_from(session.to_string()) {
        request.metadata_mut().insert("coffer-session", value);
    }
    request
}

fn unexpected(expected: &'static str) -> ClientError {
    ClientError::Unexpected { expected, found: "the end of the stream or another message".to_owned() }
}

impl Client {
    /// Runs a program. `stdin` is pumped to it until its end; output is written as it comes; when `cancelled` resolves
    /// the call is cancelled and its outcome still awaited.
    ///
    /// # Errors
    /// [`ClientError`]; with reason `OUTCOME_UNKNOWN` when the call was started and nobody knows how it ended.
    pub async fn exec<I, O, E>(
        &self,
        session: &SessionId,
        command: Command,
        stdin: I,
        stdout: &mut O,
        stderr: &mut E,
        cancelled: impl Future<Output = ()> + Send + 'static,
    ) -> Result<guest::Exited, ClientError>
    where
        I: AsyncRead + Send + Unpin + 'static,
        O: AsyncWrite + Unpin,
        E: AsyncWrite + Unpin,
    {
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let start = guest::ExecStart {
            header: Some(header()),
            argv: command.argv,
            cwd: command.cwd,
            env: command.env,
            timeout_ms: command.timeout.map_or(0, |t| i64::try_from(t.as_millis().max(1)).unwrap_or(i64::MAX)),
            grace_ms: 0,
            output_bytes_max: 0,
        };
        let first = guest::ExecRequest { request: Some(exec_request::Request::Start(start)) };
        // The channel is empty and its receiver alive: this cannot fail.
        let _ = sender.try_send(first);
        let pump = tokio::spawn(pump(stdin, cancelled, sender));
        let result = self.exec_responses(session, receiver, stdout, stderr).await;
        pump.abort();
        result
    }

    async fn exec_responses<O, E>(
        &self,
        session: &SessionId,
        requests: mpsc::Receiver<guest::ExecRequest>,
        stdout: &mut O,
        stderr: &mut E,
    ) -> Result<guest::Exited, ClientError>
    where
        O: AsyncWrite + Unpin,
        E: AsyncWrite + Unpin,
    {
        let request = addressed(session, ReceiverStream::new(requests));
        let mut responses = self.tools().exec(request).await?.into_inner();
        let mut exited = None;
        while let Some(message) = responses.message().await? {
            match message.response {
                Some(exec_response::Response::Started(_)) | None => {}
                Some(exec_response::Response::Stdout(output)) => {
                    stdout.write_all(&output.data).await.map_err(ClientError::file("write", "standard output"))?;
                    stdout.flush().await.map_err(ClientError::file("write", "standard output"))?;
                }
                Some(exec_response::Response::Stderr(output)) => {
                    stderr.write_all(&output.data).await.map_err(ClientError::file("write", "standard error"))?;
                    stderr.flush().await.map_err(ClientError::file("write", "standard error"))?;
                }
                Some(exec_response::Response::Exited(last)) => exited = Some(last),
            }
        }
        exited.ok_or_else(|| unexpected("an exit at the end of the call"))
    }

    /// Unpacks a local file or tree in the session, as `remote` (a directory, made when missing; empty is /workspace).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn upload(
        &self,
        session: &SessionId,
        local: &Path,
        remote: &str,
        selection: Selection,
    ) -> Result<Uploaded, ClientError> {
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let start = guest::UploadStart { header: Some(header()), path: remote.to_owned() };
        let _ = sender.try_send(guest::UploadRequest { request: Some(upload_request::Request::Start(start)) });
        let local = local.to_owned();
        let packing = tokio::task::spawn_blocking(move || {
            tree::pack(&local, selection, |chunk| {
                let request = guest::UploadRequest { request: Some(upload_request::Request::Data(chunk.into())) };
                sender.blocking_send(request).is_ok()
            })
        });
        let response = self.tools().upload(addressed(session, ReceiverStream::new(receiver))).await;
        let packed = packing.await.map_err(|_| unexpected("a packed tree"))?;
        // A refusal by the guest explains a broken pipe here, not the other way round.
        let response = response?.into_inner();
        Ok(Uploaded { response, packed: packed? })
    }

    /// Fetches a file or tree of the session to `local`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn download(&self, session: &SessionId, remote: &str, local: &Path) -> Result<u64, ClientError> {
        let request = guest::DownloadRequest { header: Some(header()), path: remote.to_owned() };
        let mut responses = self.tools().download(addressed(session, request)).await?.into_inner();
        let (sender, receiver) = mpsc::channel::<bytes::Bytes>(IN_FLIGHT);
        let (target, name) = (local.to_owned(), tree::base_name(remote));
        let unpacking = tokio::task::spawn_blocking(move || tree::unpack(receiver, &target, &name));
        let mut trailer = None;
        while let Some(message) = responses.message().await? {
            match message.response {
                Some(download_response::Response::Data(data)) => {
                    if sender.send(data).await.is_err() {
                        break;
                    }
                }
                Some(download_response::Response::Trailer(last)) => trailer = Some(last),
                None => {}
            }
        }
        drop(sender);
        let files = unpacking.await.map_err(|_| unexpected("an unpacked tree"))??;
        trailer.ok_or_else(|| unexpected("a trailer at the end of a download"))?;
        Ok(files)
    }
}

/// Sends stdin in chunks, its end, and the cancellation.
async fn pump<I: AsyncRead + Unpin>(
    mut stdin: I,
    cancelled: impl Future<Output = ()>,
    sender: mpsc::Sender<guest::ExecRequest>,
) {
    tokio::pin!(cancelled);
    let mut buffer = vec![0; CHUNK];
    let mut open = true;
    loop {
        let request = tokio::select! {
            () = &mut cancelled => {
                let cancel = exec_request::Request::Cancel(guest::Cancel {});
                let _ = sender.send(guest::ExecRequest { request: Some(cancel) }).await;
                // The stream stays open until the outcome has come.
                return sender.closed().await;
            }
            () = sender.closed() => return,
            read = stdin.read(&mut buffer), if open => match read {
                Ok(0) | Err(_) => {
                    open = false;
                    exec_request::Request::StdinEof(guest::StdinEof {})
                }
                Ok(length) => exec_request::Request::Stdin(buffer.get(..length).unwrap_or_default().to_vec().into()),
            },
        };
        if sender.send(guest::ExecRequest { request: Some(request) }).await.is_err() {
            return;
        }
    }
}
