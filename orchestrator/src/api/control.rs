//! The three control services: sessions, evidence, images.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_evidence::ids::{Digest256, SessionId};
use coffer_evidence::seal::Reason;
use coffer_proto::control::v1 as pb;
use coffer_proto::control::v1::evidence_service_server::EvidenceService;
use coffer_proto::control::v1::image_service_server::ImageService;
use coffer_proto::control::v1::session_service_server::SessionService;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tonic::{Code, Request, Response, Status};

use super::errors::{RequestError, status};
use super::{message, watch};
use crate::session::machine::Evidence;
use crate::session::perform::chain;
use crate::session::record::SessionRecord;
use crate::session::registry::{Registry, SessionError};
use crate::session::types::{Ending, Phase};
use crate::session::{admission, log};

/// Sessions on one page.
const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 500;
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Bytes of a bundle in one message.
const CHUNK: usize = 64 * 1024;

/// The services over one registry.
#[derive(Clone)]
pub(super) struct Control {
    registry: Arc<Registry>,
    default_image: Option<Digest256>,
}

impl Control {
    pub(super) fn new(registry: Arc<Registry>, default_image: Option<Digest256>) -> Self {
        Self { registry, default_image }
    }
}

/// Where a page of sessions, oldest first, goes on: after this one.
fn page(all: Vec<SessionRecord>, token: &str, size: i32) -> Result<(Vec<SessionRecord>, String), RequestError> {
    let field = |field, expected| RequestError::Field { field, expected };
    let size = match size {
        0 => PAGE_DEFAULT,
        n => usize::try_from(n).map_err(|_| field("page_size", "0 to 500"))?.min(PAGE_MAX),
    };
    let after = match token {
        "" => None,
        token => {
            let parsed = token
                .split_once('.')
                .and_then(|(at, id)| Some((u64::from_str_radix(at, 16).ok()?, id.parse::<SessionId>().ok()?)));
            Some(parsed.ok_or_else(|| field("page_token", "the token of an earlier page"))?)
        }
    };
    let place = |record: &SessionRecord| (record.created_at.0, record.id);
    let mut rest = all.into_iter().filter(|record| after.is_none_or(|after| place(record) > after));
    let sessions: Vec<SessionRecord> = rest.by_ref().take(size).collect();
    let more = rest.next().is_some();
    let next = sessions.last().filter(|_| more).map(|last| format!("{:x}.{}", last.created_at.0, last.id));
    Ok((sessions, next.unwrap_or_default()))
}

#[tonic::async_trait]
impl SessionService for Control {
    type WatchSessionsStream = BoxStream<'static, Result<pb::WatchSessionsResponse, Status>>;

    async fn create_session(
        &self,
        request: Request<pb::CreateSessionRequest>,
    ) -> Result<Response<pb::Session>, Status> {
        let pb::CreateSessionRequest { request_id, intent, owner_sig, policy, labels } = request.into_inner();
        let labels: BTreeMap<String, String> = labels.into_iter().collect();
        let mut body: Vec<&[u8]> = vec![&intent, &owner_sig, &policy];
        body.extend(labels.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]));
        let key = message::request_key(&request_id, "CreateSession", &body)?;
        let request =
            admission::Request { intent: &intent, owner_sig: &owner_sig, policy: &policy, labels: labels.clone() };
        let record = self.registry.create(request, key).await?;
        Ok(Response::new(message::session(&record)))
    }

    async fn get_session(&self, request: Request<pb::GetSessionRequest>) -> Result<Response<pb::Session>, Status> {
        let id = message::session_id(&request.into_inner().id)?;
        Ok(Response::new(message::session(&*self.registry.get(id).await?)))
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let pb::ListSessionsRequest { page_size, page_token, include_closed } = request.into_inner();
        let mut all = self.registry.list().await?;
        all.retain(|record| include_closed || !record.is_closed());
        let (sessions, next_page_token) = page(all, &page_token, page_size)?;
        let sessions = sessions.iter().map(message::session).collect();
        Ok(Response::new(pb::ListSessionsResponse { sessions, next_page_token }))
    }

    async fn wait_session(&self, request: Request<pb::WaitSessionRequest>) -> Result<Response<pb::Session>, Status> {
        let request = request.into_inner();
        let id = message::session_id(&request.id)?;
        let phase = match request.phase() {
            pb::Phase::Ready => Phase::Ready,
            pb::Phase::Closed => Phase::Closed,
            _ => return Err(RequestError::Field { field: "phase", expected: "PHASE_READY or PHASE_CLOSED" }.into()),
        };
        let limit = match request.timeout_ms {
            0 => WAIT_MAX,
            ms => u64::try_from(ms)
                .map(Duration::from_millis)
                .ok()
                .filter(|limit| *limit <= WAIT_MAX)
                .ok_or(RequestError::Field { field: "timeout_ms", expected: "0 to 600000" })?,
        };
        Ok(Response::new(message::session(&*self.registry.wait(id, phase, limit).await?)))
    }

    async fn watch_sessions(
        &self,
        request: Request<pb::WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        let id = request.into_inner().id;
        let only = if id.is_empty() { None } else { Some(message::session_id(&id)?) };
        let changes = self.registry.watch();
        let now = match only {
            Some(id) => vec![self.registry.get(id).await?],
            None => {
                let all = self.registry.list().await?;
                all.into_iter().filter(|record| !record.is_closed()).map(Arc::new).collect()
            }
        };
        Ok(Response::new(watch::stream(now, changes, only)))
    }

    async fn close_session(&self, request: Request<pb::CloseSessionRequest>) -> Result<Response<pb::Session>, Status> {
        let pb::CloseSessionRequest { request_id, id } = request.into_inner();
        let key = message::request_key(&request_id, "CloseSession", &[&id])?;
        let id = message::session_id(&id)?;
        // Until clients sign their close, it is the host that says who asked.
        let record = self.registry.close(id, key, Ending::by_host(Reason::UserClosed)).await?;
        Ok(Response::new(message::session(&record)))
    }
}

#[tonic::async_trait]
impl EvidenceService for Control {
    type ExportEvidenceStream = BoxStream<'static, Result<pb::ExportEvidenceResponse, Status>>;
    type ReadLogStream = BoxStream<'static, Result<pb::ReadLogResponse, Status>>;

    async fn export_evidence(
        &self,
        request: Request<pb::ExportEvidenceRequest>,
    ) -> Result<Response<Self::ExportEvidenceStream>, Status> {
        let id = message::session_id(&request.into_inner().id)?;
        let record = self.registry.get(id).await?;
        if !record.is_closed() {
            let text = format!("the session is {}, its evidence is whole when it is closed", record.machine.phase());
            return Err(status(Code::FailedPrecondition, "SESSION_OPEN", text));
        }
        if matches!(record.machine.evidence(), Evidence::Nothing | Evidence::Opened) {
            let why = record.machine.message().unwrap_or("it never became ready");
            return Err(status(Code::NotFound, "NO_EVIDENCE", format!("the session left no evidence: {why}")));
        }
        let failed = |error: &dyn std::error::Error| status(Code::Internal, "STORE_FAILED", chain(error));
        let stream = self.registry.host().vault.stream(id).await.map_err(|error| failed(&error))?;
        let gone = || status(Code::DataLoss, "EVIDENCE_LOST", "the stored bundle is gone from the evidence store");
        let pieces = stream.ok_or_else(gone)?.map_err(move |error| failed(&error));
        let chunks = pieces.map_ok(|piece| futures_util::stream::iter(chunks(piece)).map(Ok)).try_flatten();
        Ok(Response::new(chunks.map_ok(|data| pb::ExportEvidenceResponse { data }).boxed()))
    }

    async fn read_log(&self, request: Request<pb::ReadLogRequest>) -> Result<Response<Self::ReadLogStream>, Status> {
        let pb::ReadLogRequest { id, follow } = request.into_inner();
        let id = message::session_id(&id)?;
        let closed = || {
            let text = "the session is closed: its evidence holds the log, and proves it";
            status(Code::FailedPrecondition, "SESSION_CLOSED", text)
        };
        let record = self.registry.get(id).await?;
        let handle = self.registry.handle(id).filter(|_| !record.is_closed()).ok_or_else(closed)?;
        let follow = if follow { log::Follow::ToTheEnd } else { log::Follow::Now };
        let dir = self.registry.host().directory(&record);
        let read = log::follow(&dir, handle.mirrored, handle.view, follow);
        let read = read.map_err(|error| {
            let text = format!("the session is {} and has no log yet: {error}", record.machine.phase());
            status(Code::FailedPrecondition, "NO_LOG", text)
        })?;
        let failed = |error: std::io::Error| status(Code::Internal, "STORE_FAILED", chain(&error));
        Ok(Response::new(read.map_ok(entry).map_err(failed).boxed()))
    }
}

fn entry(entry: log::Entry) -> pb::ReadLogResponse {
    let private =
        entry.private.map(|(salt, bytes)| pb::PrivatePart { salt: salt.to_vec().into(), bytes: bytes.into() });
    pb::ReadLogResponse { index: entry.index, leaf: entry.leaf.into(), private }
}

fn chunks(piece: Bytes) -> Vec<Bytes> {
    (0..piece.len()).step_by(CHUNK).map(|at| piece.slice(at..piece.len().min(at + CHUNK))).collect()
}

#[tonic::async_trait]
impl ImageService for Control {
    async fn list_images(&self, _: Request<pb::ListImagesRequest>) -> Result<Response<pb::ListImagesResponse>, Status> {
        let host = Arc::clone(self.registry.host());
        let listed = tokio::task::spawn_blocking(move || host.images.list()).await;
        let (images, refused) = listed.map_err(|error| status(Code::Internal, "INTERNAL", error))?;
        for error in &refused {
            tracing::warn!(error = chain(error), "an image cannot be used");
        }
        // Nobody is helped by being told that there is none.
        if images.is_empty()
            && let Some(error) = refused.into_iter().next()
        {
            return Err(SessionError::Image(error).into());
        }
        let only = images.first().filter(|_| images.len() == 1).map(|image| image.digest);
        let default = self.default_image.or(only);
        let images = images.iter().map(|image| message::image(image, default)).collect();
        Ok(Response::new(pb::ListImagesResponse { images }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::record::fixtures::record;

    #[test]
    fn pages_together_are_everything_once() {
        let all: Vec<SessionRecord> = (0..7).map(record).collect();
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let (sessions, next) = page(all.clone(), &token, 3).expect("a page");
            found.extend(sessions.into_iter().map(|s| s.id));
            token = next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, all.iter().map(|s| s.id).collect::<Vec<_>>());
        assert_eq!(page(all.clone(), "", 7).expect("all").1, "", "a full last page has no next");
        assert!(page(all.clone(), "nonsense", 3).is_err());
        assert!(page(all, "", -1).is_err());
    }

    #[test]
    fn a_bundle_is_cut_into_chunks_that_are_the_bundle() {
        let whole = Bytes::from((0..200_001_u32).map(|i| i as u8).collect::<Vec<_>>());
        let cut = chunks(whole.clone());
        assert!(cut.iter().all(|chunk| chunk.len() <= CHUNK));
        assert_eq!(cut.concat(), whole);
        assert!(chunks(Bytes::new()).is_empty());
    }
}
