//! Watch: a call whose tool tells what changes for as long as somebody hears it.
//!
//! ```text
//!  client <── started, changes, lagged ── tool ── inotify
//!     │                                    │
//!     └ gone ─────────> cancelled ─────────┤
//!                  timeout, idle, gone ────┴──> outcome leaf: how many changes were told ─> `ended`
//! ```
//! A client that reads slowly is felt by the tool, then by the kernel, which drops events and says so: `lagged`. A watch is
//! a call that runs: its session is not idle meanwhile.

use super::builtin::{self, News};
use super::call::{self, Call};
use super::limits;
use super::session::Session;
use crate::frames::tool::{Change, ChangeKind, Of, WatchEnd};
use coffer_evidence::call::{Reach, Request};
use coffer_proto::guest::v1 as pb;
use pb::watch_response::Response as Outbound;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

type Reply = mpsc::Sender<Result<pb::WatchResponse, Status>>;

/// Watches; errors go to the client as the end of its stream.
pub(super) async fn watch(session: Arc<Session>, request: pb::WatchRequest, reply: Reply, gone: CancellationToken) {
    if let Err(status) = watching(&session, request, &reply, &gone).await {
        drop(reply.send(Err(status)).await);
    }
}

async fn watching(
    session: &Arc<Session>,
    request: pb::WatchRequest,
    reply: &Reply,
    gone: &CancellationToken,
) -> Result<(), Status> {
    let path = limits::path(&request.path)?;
    let timeout_ms =
        limits::bounded("timeout_ms", request.timeout_ms, limits::TIMEOUT_DEFAULT_MS, limits::TIMEOUT_MAX_MS)?;
    let header = call::header(request.header)?;
    let reach = if request.recursive { Reach::Tree } else { Reach::One };
    let asked = Request::Watch { path: path.clone(), reach, timeout_ms };
    let call = Call::begin(session, header, &asked, None, vec![path]).await?;
    let intent_index = call.intent;
    let hear = |news| {
        let response = match news {
            News::Started => Outbound::Started(pb::WatchStarted { intent_index }),
            News::Change(change) => Outbound::Change(told(change)),
            News::Lagged => Outbound::Lagged(pb::Lagged {}),
        };
        async move { reply.send(Ok(pb::WatchResponse { response: Some(response) })).await.is_ok() }
    };
    let ran = builtin::follow(call, gone, hear).await?;
    let end = match ran.watch_end {
        Some(WatchEnd::Timeout) => pb::WatchEnd::Timeout,
        Some(WatchEnd::Idle) => pb::WatchEnd::Idle,
        Some(WatchEnd::Gone) => pb::WatchEnd::Gone,
        None => pb::WatchEnd::Unspecified,
    };
    let ended = pb::WatchEnded { end: end.into(), changes: ran.files, outcome_index: ran.outcome };
    drop(reply.send(Ok(pb::WatchResponse { response: Some(Outbound::Ended(ended)) })).await);
    Ok(())
}

fn told(change: Change) -> pb::Change {
    let kind = match change.kind {
        ChangeKind::Created => pb::ChangeKind::Created,
        ChangeKind::Modified => pb::ChangeKind::Modified,
        ChangeKind::Deleted => pb::ChangeKind::Deleted,
        ChangeKind::Moved => pb::ChangeKind::Moved,
    };
    pb::Change {
        kind: kind.into(),
        path: change.path.into(),
        moved_from: change.from.into(),
        directory: change.of == Of::Directory,
    }
}
