//! Git: a call whose tool runs git, and for a commit asks for its signature.
//!
//! ```text
//!  client ── request ──> agent ── intent ──> notary
//!                          │ start
//!                          ▼            commit, unsigned             is it what the request says?
//!                         tool ── report ──> agent ── sign ──> notary ── once, while the call runs
//!                          ▲                   │
//!                          └──── its stdin <───┘ signature
//!                          │ writes the object, moves the branch
//!                          └──> outcome leaf: the id of what was signed, by the notary's own word
//! ```

use super::builtin::{self, Input};
use super::call::{self, Call};
use super::git_order;
use super::session::Session;
use bytes::Bytes;
use coffer_evidence::call::Request;
use coffer_evidence::git::{Commit, GitOrder, SshSignature};
use coffer_proto::guest::v1 as pb;
use futures_util::StreamExt as _;
use pb::git_response::Response as Outbound;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

type Reply = mpsc::Sender<Result<pb::GitResponse, Status>>;

/// Works with a repository; errors go to the client as the end of its stream.
pub(super) async fn git(session: Arc<Session>, request: pb::GitRequest, reply: Reply, gone: CancellationToken) {
    if let Err(status) = working(&session, request, &reply, &gone).await {
        drop(reply.send(Err(status)).await);
    }
}

/// What the tool hears of a signature, and what was signed.
struct Answering {
    /// Dropped once there is nothing more to hear.
    to_tool: Option<mpsc::Sender<Result<Bytes, Status>>>,
    commit: Option<String>,
}

async fn working(
    session: &Arc<Session>,
    request: pb::GitRequest,
    reply: &Reply,
    gone: &CancellationToken,
) -> Result<(), Status> {
    let (asked, paths) = git_order::request(&request.path, request.operation)?;
    let header = call::header(request.header)?;
    let call = Call::begin(session, header, &asked, None, paths).await?;
    let (to_tool, from_us) = mpsc::channel(1);
    let commits = matches!(&asked, Request::Git { order: GitOrder::Commit { .. }, .. });
    // Whatever else a tool asks for, only a commit has an answer to wait for.
    let input: Option<Input> = commits.then(|| ReceiverStream::new(from_us).boxed());
    let answering = Mutex::new(Answering { to_tool: commits.then_some(to_tool), commit: None });
    let held = || answering.lock().unwrap_or_else(PoisonError::into_inner);
    let sign = call.signer();
    let answer = |commit: Vec<u8>| {
        let to_tool = held().to_tool.take();
        let signing = to_tool.as_ref().map(|_| sign(commit.clone()));
        async move {
            let (Some(to_tool), Some(signing)) = (to_tool, signing) else { return };
            let Some(armor) = signing.await else { return };
            let signature = SshSignature::parse(&armor).ok();
            held().commit = Commit::parse(&commit).ok().zip(signature).map(|(c, s)| c.with(s).id().to_string());
            drop(to_tool.send(Ok(armor.into())).await);
        }
    };
    let data = |bytes: Bytes| async move {
        reply.send(Ok(pb::GitResponse { response: Some(Outbound::Data(bytes)) })).await.is_ok()
    };
    let ran = builtin::converse(call, input, gone, answer, data).await?;
    let output = pb::Stream {
        bytes_total: ran.output.total,
        bytes_delivered: ran.output.delivered,
        sha256: Bytes::copy_from_slice(ran.output.sha256.as_bytes()),
    };
    let trailer = pb::GitTrailer {
        output: Some(output),
        said: ran.said.into(),
        commit: held().commit.take().unwrap_or_default(),
        intent_index: ran.intent,
        outcome_index: ran.outcome,
    };
    drop(reply.send(Ok(pb::GitResponse { response: Some(Outbound::Trailer(trailer)) })).await);
    Ok(())
}
