//! The file operations that look at files or carry content: checks, the request that is logged, and the answer.

use super::builtin::{self, Input, Ran};
use super::call::{self, Call};
use super::errors::Reason;
use super::limits;
use super::session::Session;
use crate::frames::tool::{Entry, Kind};
use crate::tool::page;
use bytes::Bytes;
use coffer_evidence::call::{IfMatch, Request, StreamDigest};
use coffer_evidence::ids::Digest256;
use coffer_proto::guest::v1 as pb;
use futures_util::StreamExt as _;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// Mode of a written file when none is asked for.
const MODE_DEFAULT: u32 = 0o644;

pub(super) async fn stat(
    session: Arc<Session>,
    request: pb::StatRequest,
    gone: CancellationToken,
) -> Result<pb::StatResponse, Status> {
    let path = limits::path(&request.path)?;
    let ran = plain(&session, request.header, Request::Stat { path: path.clone() }, vec![path], None, &gone).await?;
    Ok(pb::StatResponse {
        entry: ran.entries.into_iter().next().map(entry),
        intent_index: ran.intent,
        outcome_index: ran.outcome,
    })
}

pub(super) async fn list(
    session: Arc<Session>,
    request: pb::ListDirectoryRequest,
    gone: CancellationToken,
) -> Result<pb::ListDirectoryResponse, Status> {
    let path = limits::path(&request.path)?;
    let (depth, page_size) = (limits::depth(request.depth)?, limits::page_size(request.page_size)?);
    let page_token = limits::page_token(request.page_token, &path, depth)?;
    let asked = Request::ListDirectory { path: path.clone(), depth, page_token, page_size };
    let ran = plain(&session, request.header, asked, vec![path.clone()], None, &gone).await?;
    let next = ran.more.map(|after| page::token(path.as_bytes(), depth.unwrap_or(1), &after));
    Ok(pb::ListDirectoryResponse {
        entries: ran.entries.into_iter().map(entry).collect(),
        truncated: next.is_some(),
        intent_index: ran.intent,
        outcome_index: ran.outcome,
        next_page_token: next.unwrap_or_default(),
        unreadable: ran.left_out,
    })
}

pub(super) async fn write(
    session: Arc<Session>,
    mut inbound: Streaming<pb::WriteFileRequest>,
    gone: CancellationToken,
) -> Result<pb::WriteFileResponse, Status> {
    use pb::write_file_request::Request as Inbound;
    let Some(Inbound::Start(start)) = inbound.message().await?.and_then(|message| message.request) else {
        return Err(Reason::InvalidArgument.status("expected `start` as the first message of a write"));
    };
    let path = limits::file_path(&start.path)?;
    let mode = u64::from(limits::mode(start.mode, MODE_DEFAULT)?);
    let if_match = start.precondition.map(if_match).transpose()?;
    let input = inbound.map(|message| match message?.request {
        Some(Inbound::Data(bytes)) => limits::chunk(&bytes).map(|()| bytes),
        _ => Err(Reason::InvalidArgument.status("expected `data` after `start`")),
    });
    let asked = Request::WriteFile { path: path.clone(), mode, if_match };
    let ran = plain(&session, start.header, asked, vec![path], Some(input.boxed()), &gone).await?;
    Ok(pb::WriteFileResponse {
        size: ran.input.total,
        sha256: digest(&ran.input),
        intent_index: ran.intent,
        outcome_index: ran.outcome,
    })
}

pub(super) async fn upload(
    session: Arc<Session>,
    mut inbound: Streaming<pb::UploadRequest>,
    gone: CancellationToken,
) -> Result<pb::UploadResponse, Status> {
    use pb::upload_request::Request as Inbound;
    let Some(Inbound::Start(start)) = inbound.message().await?.and_then(|message| message.request) else {
        return Err(Reason::InvalidArgument.status("expected `start` as the first message of an upload"));
    };
    let path = limits::path(&start.path)?;
    let input = inbound.map(|message| match message?.request {
        Some(Inbound::Data(bytes)) => limits::chunk(&bytes).map(|()| bytes),
        _ => Err(Reason::InvalidArgument.status("expected `data` after `start`")),
    });
    let asked = Request::Upload { path: path.clone() };
    let ran = plain(&session, start.header, asked, vec![path], Some(input.boxed()), &gone).await?;
    Ok(pb::UploadResponse {
        files: ran.files,
        bytes: ran.input.total,
        sha256: digest(&ran.input),
        intent_index: ran.intent,
        outcome_index: ran.outcome,
    })
}

/// Reads a file; errors go to the client as the end of its stream.
pub(super) async fn read(
    session: Arc<Session>,
    request: pb::ReadFileRequest,
    reply: mpsc::Sender<Result<pb::ReadFileResponse, Status>>,
    gone: CancellationToken,
) {
    use pb::read_file_response::Response as Outbound;
    let send = async |response| reply.send(Ok(pb::ReadFileResponse { response: Some(response) })).await.is_ok();
    let reading = async {
        let path = limits::file_path(&request.path)?;
        limits::offset(request.offset)?;
        let header = call::header(request.header)?;
        let asked = Request::ReadFile { path: path.clone(), offset: request.offset, length: request.length };
        let call = Call::begin(&session, header, &asked, None, vec![path]).await?;
        let intent_index = call.intent;
        // The tool tells the entry before the first byte, but through another pipe.
        let told = CancellationToken::new();
        let (told, send, reply) = (&told, &send, &reply);
        let head = move |found: Entry| async move {
            let header = pb::FileHeader { entry: Some(entry(found)), intent_index };
            send(Outbound::Header(header)).await;
            told.cancel();
            None
        };
        let data = move |bytes: Bytes| async move {
            told.cancelled().await;
            reply.send(Ok(pb::ReadFileResponse { response: Some(Outbound::Data(bytes)) })).await.is_ok()
        };
        let ran = builtin::run(call, None, &gone, head, data).await?;
        let trailer =
            pb::FileTrailer { size: ran.output.total, sha256: digest(&ran.output), outcome_index: ran.outcome };
        send(Outbound::Trailer(trailer)).await;
        Ok(())
    };
    if let Err(status) = reading.await {
        drop(reply.send(Err(status)).await);
    }
}

/// Packs a file or directory; errors go to the client as the end of its stream.
pub(super) async fn download(
    session: Arc<Session>,
    request: pb::DownloadRequest,
    reply: mpsc::Sender<Result<pb::DownloadResponse, Status>>,
    gone: CancellationToken,
) {
    use pb::download_response::Response as Outbound;
    let downloading = async {
        let path = limits::path(&request.path)?;
        let header = call::header(request.header)?;
        let asked = Request::Download { path: path.clone() };
        let call = Call::begin(&session, header, &asked, None, vec![path]).await?;
        let reply = &reply;
        let data = move |bytes: Bytes| async move {
            reply.send(Ok(pb::DownloadResponse { response: Some(Outbound::Data(bytes)) })).await.is_ok()
        };
        let ran = builtin::run(call, None, &gone, |_| std::future::ready(None), data).await?;
        let trailer = pb::DownloadTrailer {
            size: ran.output.total,
            sha256: digest(&ran.output),
            outcome_index: ran.outcome,
            special: ran.left_out,
        };
        let end = pb::DownloadResponse { response: Some(Outbound::Trailer(trailer)) };
        drop(reply.send(Ok(end)).await);
        Ok(())
    };
    if let Err(status) = downloading.await {
        drop(reply.send(Err(status)).await);
    }
}

/// What must have the name, as the request is logged.
fn if_match(precondition: pb::write_file_start::Precondition) -> Result<IfMatch, Status> {
    use pb::write_file_start::Precondition;
    match precondition {
        Precondition::MustNotExist(_) => Ok(IfMatch::Nothing),
        Precondition::IfMatch(digest) => match digest.as_ref().try_into() {
            Ok(digest) => Ok(IfMatch::Content(Digest256::new(digest))),
            Err(_) => {
                let text = format!("expected a SHA-256 of 32 bytes as `if_match`, found {} bytes", digest.len());
                Err(Reason::InvalidArgument.status(text))
            }
        },
    }
}

/// An operation whose answer comes at its end.
pub(super) async fn plain(
    session: &Arc<Session>,
    header: Option<pb::CallHeader>,
    request: Request,
    paths: Vec<String>,
    input: Option<Input>,
    gone: &CancellationToken,
) -> Result<Ran, Status> {
    let header = call::header(header)?;
    let call = Call::begin(session, header, &request, None, paths).await?;
    builtin::run(call, input, gone, |entry| std::future::ready(Some(entry)), |_| std::future::ready(false)).await
}

fn digest(stream: &StreamDigest) -> Bytes {
    Bytes::copy_from_slice(stream.sha256.as_bytes())
}

fn entry(entry: Entry) -> pb::Entry {
    let kind = match entry.kind {
        Kind::File => pb::EntryKind::File,
        Kind::Directory => pb::EntryKind::Directory,
        Kind::Symlink => pb::EntryKind::Symlink,
        Kind::Other => pb::EntryKind::Other,
    };
    pb::Entry {
        name: entry.name.into(),
        kind: kind.into(),
        size: entry.size,
        mode: u32::try_from(entry.mode).unwrap_or(0),
        modified_at_ms: i64::try_from(entry.modified_ms).unwrap_or(i64::MAX),
        symlink_target: entry.target.into(),
    }
}
