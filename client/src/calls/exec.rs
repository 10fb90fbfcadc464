//! Running a program in a session: three streams, cancellation, and an honest end.
//!
//! ```text
//! stdin ──> pump ──┐                            ┌──> stdout, stderr
//!                  ├──> requests ──> responses ─┤
//! cancelled ───────┘                            └──> exited
//! ```
//! Two things must never keep a caller waiting: input that does not end, and a program that does not read it. So the
//! pump is a task that is aborted at the end, and the cancellation has a place of its own in the queue; when even that
//! does not bring an outcome in time, the call is dropped, which the agent takes as a cancellation.

use std::collections::HashMap;
use std::time::Duration;

use coffer_evidence::ids::SessionId;
use coffer_proto::guest::v1 as guest;
use coffer_proto::guest::v1::{exec_request, exec_response};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{CHUNK, IN_FLIGHT, addressed, header};
use crate::connection::Client;
use crate::error::ClientError;

/// How long a cancelled call may take to tell its outcome: the guest's grace, and the time to drain its output.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);

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

/// Where a program's input comes from and its output goes.
#[derive(Debug)]
pub struct Streams<I, O, E> {
    /// Pumped to the program until its end.
    pub stdin: I,
    /// Written as it comes, and flushed.
    pub stdout: O,
    /// Written as it comes, and flushed.
    pub stderr: E,
}

impl Client {
    /// Runs a program to its end. When `cancelled` resolves, the call is cancelled and its outcome still awaited, for a
    /// while. An output that cannot be written cancels the call, too.
    ///
    /// # Errors
    /// [`ClientError`]; with reason `OUTCOME_UNKNOWN` when the call was started and nobody knows how it ended;
    /// [`ClientError::File`] when an output could not be written.
    pub async fn exec<I, O, E>(
        &self,
        session: &SessionId,
        command: Command,
        streams: Streams<I, O, E>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<guest::Exited, ClientError>
    where
        I: AsyncRead + Send + Unpin + 'static,
        O: AsyncWrite + Unpin,
        E: AsyncWrite + Unpin,
    {
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let full = |_| ClientError::OutcomeUnknown { why: "the queue of requests is closed".to_owned() };
        let start = exec_request::Request::Start(start(command)?);
        sender.try_send(request(start)).map_err(|_| full(()))?;
        let cancel = sender.clone().try_reserve_owned().map_err(|_| full(()))?;
        let pump = AbortOnDropHandle::new(tokio::spawn(pump(streams.stdin, sender)));

        let broken = CancellationToken::new();
        let output = Output { stdout: streams.stdout, stderr: streams.stderr, failed: None, broken: broken.clone() };
        let responses = self.responses(session, receiver, output);
        let stop = async {
            tokio::select! {
                () = cancelled => {}
                () = broken.cancelled() => {}
            }
        };
        tokio::pin!(responses);
        tokio::select! {
            result = &mut responses => result,
            () = stop => {
                pump.abort();
                cancel.send(request(exec_request::Request::Cancel(guest::Cancel {})));
                tokio::time::timeout(CANCEL_PATIENCE, responses).await.unwrap_or_else(|_| {
                    Err(ClientError::OutcomeUnknown { why: "cancelled, and no answer to that".to_owned() })
                })
            }
        }
    }

    async fn responses<O, E>(
        &self,
        session: &SessionId,
        requests: mpsc::Receiver<guest::ExecRequest>,
        mut output: Output<O, E>,
    ) -> Result<guest::Exited, ClientError>
    where
        O: AsyncWrite + Unpin,
        E: AsyncWrite + Unpin,
    {
        let requests = addressed(session, ReceiverStream::new(requests));
        let mut responses = self.tools().exec(requests).await.map_err(ClientError::after_dispatch)?.into_inner();
        let mut exited = None;
        while let Some(message) = responses.message().await.map_err(ClientError::after_dispatch)? {
            match message.response {
                Some(exec_response::Response::Started(_)) | None => {}
                Some(exec_response::Response::Stdout(chunk)) => output.stdout(&chunk.data).await,
                Some(exec_response::Response::Stderr(chunk)) => output.stderr(&chunk.data).await,
                Some(exec_response::Response::Exited(last)) => exited = Some(last),
            }
        }
        match (output.failed, exited) {
            (Some(error), _) => Err(error),
            (None, Some(exited)) => Ok(exited),
            (None, None) => Err(ClientError::OutcomeUnknown { why: "the stream ended without an exit".to_owned() }),
        }
    }
}

fn start(command: Command) -> Result<guest::ExecStart, ClientError> {
    Ok(guest::ExecStart {
        header: Some(header()?),
        argv: command.argv,
        cwd: command.cwd,
        env: command.env,
        timeout_ms: command.timeout.map_or(0, |t| i64::try_from(t.as_millis().max(1)).unwrap_or(i64::MAX)),
        grace_ms: 0,
        output_bytes_max: 0,
    })
}

fn request(request: exec_request::Request) -> guest::ExecRequest {
    guest::ExecRequest { request: Some(request) }
}

/// Sends stdin in chunks, and its end. A read that fails is an end, too.
async fn pump<I: AsyncRead + Unpin>(mut stdin: I, sender: mpsc::Sender<guest::ExecRequest>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = tokio::select! {
            () = sender.closed() => return,
            read = stdin.read(&mut buffer) => read,
        };
        let chunk = match read {
            Ok(0) | Err(_) => {
                let _ = sender.send(request(exec_request::Request::StdinEof(guest::StdinEof {}))).await;
                return;
            }
            Ok(length) => buffer.get(..length).unwrap_or_default().to_vec(),
        };
        if sender.send(request(exec_request::Request::Stdin(chunk.into()))).await.is_err() {
            return;
        }
    }
}

/// The caller's side of the two outputs. The first failure is kept and told; after it output is dropped, while the
/// outcome is still awaited.
struct Output<O, E> {
    stdout: O,
    stderr: E,
    failed: Option<ClientError>,
    broken: CancellationToken,
}

impl<O: AsyncWrite + Unpin, E: AsyncWrite + Unpin> Output<O, E> {
    async fn stdout(&mut self, data: &[u8]) {
        if self.failed.is_none() {
            let result = deliver(&mut self.stdout, data).await;
            self.judge("standard output", result);
        }
    }

    async fn stderr(&mut self, data: &[u8]) {
        if self.failed.is_none() {
            let result = deliver(&mut self.stderr, data).await;
            self.judge("standard error", result);
        }
    }

    fn judge(&mut self, name: &'static str, result: std::io::Result<()>) {
        if let Err(source) = result {
            self.failed = Some(ClientError::File { what: "write to", path: name.into(), source });
            self.broken.cancel();
        }
    }
}

async fn deliver<W: AsyncWrite + Unpin>(writer: &mut W, data: &[u8]) -> std::io::Result<()> {
    writer.write_all(data).await?;
    writer.flush().await
}
