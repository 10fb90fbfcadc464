//! The HTTP/2 connection to the agent's tool service. Calls are relayed as they are: messages are not decoded here. HTTP/2 is
//! spoken directly, because a client that goes away must end its call at once, whatever the guest has yet to read.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use http_body::Body as _;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use crate::link::{Dial, PORT_TOOLS, Tasks};

/// How long the agent may take to speak HTTP/2.
const GREETING: Duration = Duration::from_secs(15);
/// Windows, towards guests and towards clients: a few chunks for each call, many calls at once.
pub(crate) const STREAM_WINDOW: u32 = 1024 * 1024;
pub(crate) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes of a frame, on both sides: a chunk with what is around it goes in one.
pub(crate) const FRAME: u32 = 128 * 1024;
/// The headers or trailers of one answer, in bytes: a status and its details.
const HEADERS_MAX: u32 = 64 * 1024;

/// A connection that many calls share; it lives as long as one of its clones.
#[derive(Clone)]
pub(crate) struct GuestCalls {
    sender: SendRequest<Bytes>,
    _connection: Arc<Tasks>,
}

impl std::fmt::Debug for GuestCalls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GuestCalls")
    }
}

/// Why a call did not come back.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Nothing of it reached the guest.
    NotSent(h2::Error),
    /// It may have been carried out.
    Unknown(h2::Error),
}

impl GuestCalls {
    /// Connects.
    pub(crate) async fn connect(dial: &dyn Dial) -> io::Result<Self> {
        let greeting = async {
            let stream = dial.dial(PORT_TOOLS).await?;
            let (sender, connection) = h2::client::Builder::new()
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(FRAME)
                .max_header_list_size(HEADERS_MAX)
                .enable_push(false)
                .handshake(stream)
                .await
                .map_err(io::Error::other)?;
            let mut tasks = Tasks::default();
            tasks.spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "the connection to the agent ended");
                }
            });
            Ok(Self { sender, _connection: Arc::new(tasks) })
        };
        tokio::time::timeout(GREETING, greeting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Relays one call. `gone` tells that its client is: the guest then hears that the call is cancelled.
    pub(crate) async fn send(
        &self,
        request: Request<Body>,
        gone: CancellationToken,
    ) -> Result<Response<RecvStream>, CallError> {
        let (parts, body) = request.into_parts();
        let mut sender = self.sender.clone().ready().await.map_err(CallError::NotSent)?;
        let (response, stream) =
            sender.send_request(Request::from_parts(parts, ()), false).map_err(CallError::NotSent)?;
        tokio::spawn(pump(body, stream, gone));
        response.await.map_err(|error| match error.reason() {
            // The agent says so of calls that it has not looked at.
            Some(Reason::REFUSED_STREAM) => CallError::NotSent(error),
            _ => CallError::Unknown(error),
        })
    }
}

/// Carries a request's body to the guest, to its end or to the client's.
async fn pump(mut body: Body, mut stream: SendStream<Bytes>, gone: CancellationToken) {
    let carried = tokio::select! {
        biased;
        () = gone.cancelled() => Carried::Broken,
        carried = carry(&mut body, &mut stream) => carried,
    };
    match carried {
        Carried::Whole | Carried::Refused => {}
        Carried::Broken => stream.send_reset(Reason::CANCEL),
    }
}

/// How far a body came.
enum Carried {
    Whole,
    /// The guest wants no more of it, or is gone.
    Refused,
    /// The client broke off.
    Broken,
}

async fn carry(body: &mut Body, stream: &mut SendStream<Bytes>) -> Carried {
    loop {
        let frame = match poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return Carried::Broken,
            None => {
                return if stream.send_data(Bytes::new(), true).is_ok() { Carried::Whole } else { Carried::Refused };
            }
        };
        // Requests of gRPC have no trailers.
        let Ok(mut data) = frame.into_data() else { continue };
        while !data.is_empty() {
            stream.reserve_capacity(data.len());
            let room = match poll_fn(|context| stream.poll_capacity(context)).await {
                Some(Ok(room)) => room.min(data.len()),
                Some(Err(_)) | None => return Carried::Refused,
            };
            if stream.send_data(data.split_to(room), false).is_err() {
                return Carried::Refused;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::GuestStream;
    use futures_util::future::BoxFuture;
    use http_body::Frame;
    use std::task::{Context, Poll};
    use tokio::sync::Mutex;

    /// Hands out one end of a pipe.
    struct Pipe(Mutex<Option<GuestStream>>);

    impl Dial for Pipe {
        fn dial(&self, _: u32) -> BoxFuture<'_, io::Result<GuestStream>> {
            Box::pin(async { self.0.lock().await.take().ok_or_else(|| io::Error::other("dialled twice")) })
        }
    }

    /// A body that never ends and of which any amount is there.
    struct Endless;

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = tonic::Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 16 * 1024])))))
        }
    }

    #[tokio::test]
    async fn a_client_that_goes_away_cancels_its_call_though_the_guest_reads_nothing() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let guest = tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.expect("handshake");
            let (request, mut respond) = connection.accept().await.expect("a call").expect("a call");
            let headers = Response::new(());
            let mut answer = respond.send_response(headers, false).expect("answered");
            // Its body is not read: the window fills and stays full.
            let _unread = request.into_body();
            tokio::spawn(async move { while connection.accept().await.is_some() {} });
            poll_fn(|context| answer.poll_reset(context)).await.expect("a reset")
        });
        let calls = GuestCalls::connect(&Pipe(Mutex::new(Some(Box::new(ours))))).await.expect("connected");
        let gone = CancellationToken::new();
        let request = Request::builder().method("POST").uri("http://agent.invalid/x").body(Body::new(Endless));
        let response = calls.send(request.expect("a request"), gone.clone()).await.expect("headers");
        gone.cancel();
        let reset = tokio::time::timeout(Duration::from_secs(5), guest).await.expect("in time").expect("guest");
        assert_eq!(reset, Reason::CANCEL);
        drop(response);
    }

    #[tokio::test]
    async fn a_guest_that_is_gone_before_the_call_was_not_sent_it() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let guest = tokio::spawn(async move {
            drop(h2::server::handshake(theirs).await.expect("handshake"));
        });
        let calls = GuestCalls::connect(&Pipe(Mutex::new(Some(Box::new(ours))))).await.expect("connected");
        guest.await.expect("guest");
        // Its end may take a moment to be seen; the connection's own task sees it.
        poll_fn(|context| match calls.sender.clone().poll_ready(context) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            _ => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await;
        let request = Request::builder().method("POST").uri("http://agent.invalid/x").body(Body::empty());
        let result = calls.send(request.expect("a request"), CancellationToken::new()).await;
        assert!(matches!(result, Err(CallError::NotSent(_))), "{result:?}");
    }
}
