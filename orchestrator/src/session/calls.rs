//! The HTTP/2 connection to the agent's tool service. Calls are relayed as they are: messages are not decoded here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tonic::body::Body;

use crate::link::{Dial, PORT_TOOLS, Tasks};

/// How long the agent may take to speak HTTP/2.
const GREETING: Duration = Duration::from_secs(15);
/// Windows: a few chunks for each call, many calls at once.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// The agent is asked for a sign of life this often while calls run; without one the connection ends.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(60);

/// A connection that many calls share.
#[derive(Clone)]
pub(crate) struct GuestCalls {
    sender: SendRequest<Body>,
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
    NotSent(hyper::Error),
    /// It may have been carried out.
    Unknown(hyper::Error),
}

impl GuestCalls {
    /// Connects.
    pub(crate) async fn connect(dial: &dyn Dial) -> io::Result<Self> {
        let greeting = async {
            let stream = dial.dial(PORT_TOOLS).await?;
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE_LIMIT)
                .handshake(TokioIo::new(stream))
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

    /// Relays one call.
    pub(crate) async fn send(mut self, request: Request<Body>) -> Result<Response<Incoming>, CallError> {
        self.sender.try_send_request(request).await.map_err(|mut failed| match failed.take_message() {
            Some(_) => CallError::NotSent(failed.into_error()),
            None => CallError::Unknown(failed.into_error()),
        })
    }
}
