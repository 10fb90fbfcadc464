//! Tool calls of delegated sessions: HTTP/2 requests to `coffer.guest.v1.ToolService` are carried to the agent of the
//! session named in their metadata, undecoded, both ways at once. When the guest goes away in the middle, the call ends
//! with `OUTCOME_UNKNOWN`; when it was never sent, with UNAVAILABLE.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use coffer_evidence::ids::SessionId;
use futures_util::future::BoxFuture;
use h2::RecvStream;
use http::{HeaderMap, Request, Response, Uri};
use http_body::Frame;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

use super::errors::{RequestError, not_sent, of_shut, outcome_unknown, session_closed};
use crate::session::calls::{CallError, GuestCalls};
use crate::session::registry::Registry;
use crate::session::types::Phase;

/// Request metadata that names the session.
const SESSION: &str = "coffer-session";

/// How long a call waits for the connection to the agent of a session that was taken over.
const RECONNECTING: Duration = Duration::from_secs(15);

/// The relay as a service.
#[derive(Clone)]
pub(super) struct Relay {
    registry: Arc<Registry>,
}

impl Relay {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    async fn relay(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let name = request.headers().get(SESSION).and_then(|value| value.to_str().ok());
        let id: SessionId = name.and_then(|name| name.parse().ok()).ok_or(RequestError::NoSession)?;
        let Some(handle) = self.registry.handle(id) else {
            let record = self.registry.get(id).await?;
            return Err(session_closed(record.machine.ending()));
        };
        let ready = handle.view.borrow().machine.phase() == Phase::Ready;
        let calls = if ready { handle.gate.pass_within(RECONNECTING).await } else { handle.gate.pass() };
        let calls = calls.map_err(of_shut)?;
        let mut ended = Box::pin(handle.gate.ended());
        // Whoever drops the response, or this future before it, is gone.
        let gone = CancellationToken::new();
        let presence = gone.clone().drop_guard();
        let response = tokio::select! {
            biased;
            response = send(&calls, request, gone) => response?,
            () = &mut ended => return Err(outcome_unknown()),
        };
        // A refusal is told in the headers alone.
        let state = if response.headers().contains_key("grpc-status") { State::Over } else { State::Flowing };
        Ok(response.map(|guest| Body::new(Relayed { guest, ended, state, _calls: calls, _presence: presence })))
    }
}

async fn send(
    calls: &GuestCalls,
    request: Request<Body>,
    gone: CancellationToken,
) -> Result<Response<RecvStream>, Status> {
    let (mut parts, body) = request.into_parts();
    parts.headers.remove(SESSION);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = Uri::builder()
        .scheme("http")
        .authority("agent.invalid")
        .path_and_query(path)
        .build()
        .map_err(|_| not_sent())?;
    calls.send(Request::from_parts(parts, body), gone).await.map_err(|error| match error {
        CallError::NotSent(why) => {
            tracing::debug!(%why, "a call was not sent");
            not_sent()
        }
        CallError::Unknown(why) => {
            tracing::debug!(%why, "a call's outcome is unknown");
            outcome_unknown()
        }
    })
}

impl NamedService for Relay {
    const NAME: &'static str = "coffer.guest.v1.ToolService";
}

impl Service<Request<Body>> for Relay {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let relay = self.clone();
        Box::pin(async move { Ok(relay.relay(request).await.unwrap_or_else(Status::into_http)) })
    }
}

/// How far a response has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Flowing,
    /// The last frame was handed on.
    Over,
}

/// The guest's response, with a last word of ours where the guest has none.
struct Relayed {
    guest: RecvStream,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    state: State,
    /// The connection lives as long as a call on it, whatever the gate does.
    _calls: GuestCalls,
    /// Dropped with this: then the client is gone, or has all of it.
    _presence: DropGuard,
}

impl Relayed {
    fn poll_guest(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match self.guest.poll_data(context) {
            Poll::Ready(Some(Ok(data))) => {
                // Handed on: the guest may send as much again.
                let released = self.guest.flow_control().release_capacity(data.len());
                Poll::Ready(Some(released.map(|()| Frame::data(data))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
            Poll::Ready(None) => {
                self.guest.poll_trailers(context).map(|end| end.transpose().map(|end| end.map(Frame::trailers)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn last_word(&mut self) -> Option<Result<Frame<Bytes>, Status>> {
        self.state = State::Over;
        let mut trailers = HeaderMap::new();
        Some(outcome_unknown().add_header(&mut trailers).map(|()| Frame::trailers(trailers)))
    }
}

impl http_body::Body for Relayed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.state == State::Over {
            return Poll::Ready(None);
        }
        // What the guest has said goes first: it may have told the outcome before it went.
        match self.poll_guest(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if frame.is_trailers() {
                    self.state = State::Over;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            // An end without trailers is no end of a call.
            Poll::Ready(Some(Err(_)) | None) => Poll::Ready(self.last_word()),
            Poll::Pending => match self.ended.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(self.last_word()),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Over
    }
}
