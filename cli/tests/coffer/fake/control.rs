//! The control services of the fake.

use std::pin::Pin;

use coffer_evidence::call::read_disclosed;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::intent::{Intent, verify_intent};
use coffer_evidence::sign::PublicKey;
use coffer_proto::control::v1 as pb;
use coffer_proto::control::v1::evidence_service_server::EvidenceService;
use coffer_proto::control::v1::image_service_server::ImageService;
use coffer_proto::control::v1::session_service_server::SessionService;
use coffer_proto::control::v1::watch_sessions_response::Event;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use super::{Fault, Known, Shared, bundle, refusal};

type Events = Pin<Box<dyn Stream<Item = Result<pb::WatchSessionsResponse, Status>> + Send>>;
type Entries = Pin<Box<dyn Stream<Item = Result<pb::ReadLogResponse, Status>> + Send>>;
type Chunks = Pin<Box<dyn Stream<Item = Result<pb::ExportEvidenceResponse, Status>> + Send>>;

fn message(session: &Known) -> pb::Session {
    pb::Session {
        id: session.id.as_bytes().to_vec().into(),
        phase: session.phase.into(),
        outcome: session.outcome.into(),
        reason: session.reason.into(),
        platform: pb::Platform::Simulated.into(),
        image: bundle::image().as_bytes().to_vec().into(),
        created_at_ms: 1_793_491_200_000,
        authority: "delegated".to_owned(),
        message: if session.reason == pb::Reason::BootTimeout {
            "the guest said nothing\x1b[2J".to_owned()
        } else {
            String::new()
        },
        ..pb::Session::default()
    }
}

impl Shared {
    fn find(&self, id: &[u8]) -> Result<Known, Status> {
        let found = self.lock().sessions.iter().find(|session| session.id.as_bytes().as_slice() == id).cloned();
        found.ok_or_else(|| refusal(Code::NotFound, "SESSION_NOT_FOUND", "no such session"))
    }

    fn change(&self, id: &[u8], change: impl Fn(&mut Known)) {
        let mut state = self.lock();
        state.sessions.iter_mut().filter(|s| s.id.as_bytes().as_slice() == id).for_each(change);
        drop(state);
        self.changed.notify_waiters();
    }
}

#[tonic::async_trait]
impl SessionService for Shared {
    type WatchSessionsStream = Events;

    async fn create_session(
        &self,
        request: Request<pb::CreateSessionRequest>,
    ) -> Result<Response<pb::Session>, Status> {
        let request = request.into_inner();
        let intent = Intent::parse(&request.intent).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let owner_sig: [u8; 64] = request.owner_sig.as_ref().try_into().expect("64 bytes");
        verify_intent(&intent, &owner_sig).expect("the owner's signature");
        self.ask("create");
        let (phase, outcome, reason) = match self.fault {
            Fault::NeverReady => (pb::Phase::Closed, pb::Outcome::Aborted, pb::Reason::BootTimeout),
            Fault::SlowBoot => (pb::Phase::Launching, pb::Outcome::Unspecified, pb::Reason::Unspecified),
            _ => (pb::Phase::Ready, pb::Outcome::Unspecified, pb::Reason::Unspecified),
        };
        let (id, intent) = (intent.session, request.intent.to_vec());
        let session = Known { id, phase, outcome, reason, intent, owner_sig };
        self.lock().sessions.push(session.clone());
        Ok(Response::new(message(&session)))
    }

    async fn get_session(&self, request: Request<pb::GetSessionRequest>) -> Result<Response<pb::Session>, Status> {
        self.find(&request.into_inner().id).map(|session| Response::new(message(&session)))
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let request = request.into_inner();
        let state = self.lock();
        let wanted = |session: &&Known| request.include_closed || session.phase != pb::Phase::Closed;
        // One on a page, so that whoever reads only the first is found out.
        let from: usize = request.page_token.parse().unwrap_or(0);
        let all: Vec<&Known> = state.sessions.iter().filter(wanted).collect();
        let sessions = all.iter().skip(from).take(1).map(|session| message(session)).collect();
        let next_page_token = if from + 1 < all.len() { (from + 1).to_string() } else { String::new() };
        Ok(Response::new(pb::ListSessionsResponse { sessions, next_page_token }))
    }

    async fn wait_session(&self, request: Request<pb::WaitSessionRequest>) -> Result<Response<pb::Session>, Status> {
        let request = request.into_inner();
        loop {
            let changed = self.changed.notified();
            let session = self.find(&request.id)?;
            if session.phase >= request.phase() {
                return Ok(Response::new(message(&session)));
            }
            changed.await;
        }
    }

    async fn watch_sessions(&self, request: Request<pb::WatchSessionsRequest>) -> Result<Response<Events>, Status> {
        let id = request.into_inner().id;
        let mut events: Vec<Result<pb::WatchSessionsResponse, Status>> = Vec::new();
        for session in self.lock().sessions.iter().filter(|s| id.is_empty() || s.id.as_bytes().as_slice() == id) {
            events.push(Ok(pb::WatchSessionsResponse { event: Some(Event::Session(message(session))) }));
        }
        events.push(Ok(pb::WatchSessionsResponse { event: Some(Event::Lagged(3)) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    async fn close_session(&self, request: Request<pb::CloseSessionRequest>) -> Result<Response<pb::Session>, Status> {
        let id = request.into_inner().id;
        self.find(&id)?;
        self.ask("close");
        self.change(&id, |session| match (self.fault, session.phase) {
            (_, pb::Phase::Closed) => {}
            (Fault::NeverClosed | Fault::ClosedLate, _) => session.phase = pb::Phase::Sealing,
            (_, before) => {
                session.phase = pb::Phase::Closed;
                session.outcome = if before < pb::Phase::Ready { pb::Outcome::Aborted } else { pb::Outcome::Sealed };
                session.reason = pb::Reason::UserClosed;
            }
        });
        self.find(&id).map(|session| Response::new(message(&session)))
    }
}

#[tonic::async_trait]
impl EvidenceService for Shared {
    type ExportEvidenceStream = Chunks;
    type ReadLogStream = Entries;

    async fn read_log(&self, request: Request<pb::ReadLogRequest>) -> Result<Response<Entries>, Status> {
        let pb::ReadLogRequest { id, follow } = request.into_inner();
        let session = self.find(&id)?;
        if session.phase == pb::Phase::Closed {
            return Err(refusal(Code::FailedPrecondition, "SESSION_CLOSED", "the session is closed"));
        }
        self.ask(if follow { "log to the end" } else { "log" });
        Ok(Response::new(Box::pin(tokio_stream::iter(log(&session, self.fault)))))
    }

    async fn export_evidence(&self, request: Request<pb::ExportEvidenceRequest>) -> Result<Response<Chunks>, Status> {
        let session = self.find(&request.into_inner().id)?;
        if session.phase != pb::Phase::Closed {
            return Err(refusal(Code::FailedPrecondition, "SESSION_OPEN", "close it first"));
        }
        if session.outcome != pb::Outcome::Sealed || self.fault == Fault::NoBundle {
            return Err(refusal(Code::NotFound, "NO_EVIDENCE", "the session left no evidence"));
        }
        self.ask("export");
        let bytes = bundle::bundle(&session, self.fault);
        let chunks: Vec<_> = bytes
            .chunks(64 * 1024)
            .map(|chunk| Ok(pb::ExportEvidenceResponse { data: chunk.to_vec().into() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}

/// The log of a session, from the bundle that it would leave.
fn log(session: &Known, fault: Fault) -> Vec<Result<pb::ReadLogResponse, Status>> {
    let bytes = bundle::bundle(session, Fault::None);
    let read = coffer_evidence::bundle::read(&bytes).expect("a bundle");
    let mut framed = read.member("leaves").expect("leaves");
    let parts = read.member("disclosed.cbor").map(|parts| read_disclosed(parts).expect("parts")).unwrap_or_default();
    let mut entries = Vec::new();
    while let Some((length, rest)) = framed.split_first_chunk::<4>() {
        let (leaf, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        let index = entries.len() as u64;
        let part = parts.iter().find(|part| part.index == index);
        let private =
            part.map(|part| pb::PrivatePart { salt: part.salt.to_vec().into(), bytes: part.bytes.clone().into() });
        let index = if fault == Fault::WrongLog { index + 1 } else { index };
        entries.push(Ok(pb::ReadLogResponse { index, leaf: leaf.to_vec().into(), private }));
        framed = rest;
    }
    entries
}

#[tonic::async_trait]
impl ImageService for Shared {
    async fn list_images(&self, _: Request<pb::ListImagesRequest>) -> Result<Response<pb::ListImagesResponse>, Status> {
        let image = pb::Image {
            digest: bundle::image().as_bytes().to_vec().into(),
            name: "base".to_owned(),
            version: "1".to_owned(),
            svn: 1,
            platform: pb::Platform::Simulated.into(),
            publisher: PublicKey::of(&crate::session::publisher()).as_bytes().to_vec().into(),
            default: self.fault != Fault::NoDefaultImage,
        };
        let other = pb::Image { digest: vec![7; 32].into(), name: "other".to_owned(), default: false, ..image.clone() };
        let images = if self.fault == Fault::NoImage { vec![] } else { vec![image, other] };
        Ok(Response::new(pb::ListImagesResponse { images }))
    }
}
