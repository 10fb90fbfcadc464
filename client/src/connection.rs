//! The connection to `cofferd` over its unix socket.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coffer_proto::control::v1::evidence_service_client::EvidenceServiceClient;
use coffer_proto::control::v1::image_service_client::ImageServiceClient;
use coffer_proto::control::v1::session_service_client::SessionServiceClient;
use coffer_proto::guest::v1::tool_service_client::ToolServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::error::ClientError;

/// The largest message in bytes.
const MESSAGE_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one stream, and of all together, that may be on their way here: as many as `cofferd` lets be on theirs.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes of a frame: a chunk with what is around it comes in one.
const FRAME: u32 = 128 * 1024;
/// How often a socket that is not there yet is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A connection to one `cofferd`.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    /// As whom files are worked with; empty for the session's `default`.
    identity: String,
}

/// Where `cofferd` listens when nobody says otherwise: `COFFER_SOCKET`, else `/run/coffer/cofferd.sock` where that is,
/// else `$XDG_RUNTIME_DIR/coffer/cofferd.sock`.
#[must_use]
pub fn default_socket() -> PathBuf {
    if let Some(socket) = std::env::var_os("COFFER_SOCKET").filter(|socket| !socket.is_empty()) {
        return PathBuf::from(socket);
    }
    let system = PathBuf::from("/run/coffer/cofferd.sock");
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !system.exists() => PathBuf::from(dir).join("coffer/cofferd.sock"),
        _ => system,
    }
}

impl Client {
    /// Connects to the socket; when nobody answers, tries again until `patience` is over: `cofferd` makes its socket
    /// when it is ready, and whoever just started it should not have to wait for that.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::Forbidden`].
    pub async fn connect(socket: &Path, patience: Duration) -> Result<Self, ClientError> {
        let deadline = Instant::now() + patience;
        loop {
            match Self::connect_once(socket).await {
                Err(ClientError::Unreachable { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                result => return result,
            }
        }
    }

    /// The same connection, with files worked with as this identity of the session; `default` when it is empty.
    #[must_use]
    pub fn acting_as(mut self, identity: &str) -> Self {
        identity.clone_into(&mut self.identity);
        self
    }

    /// As whom.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    async fn connect_once(socket: &Path) -> Result<Self, ClientError> {
        let path = socket.to_owned();
        // The address is never dialled: the connector is.
        let endpoint = Endpoint::from_static("http://cofferd.invalid")
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME);
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let socket = socket.to_owned();
        match endpoint.connect_with_connector(connector).await {
            Ok(channel) => Ok(Self { channel, identity: String::new() }),
            Err(source) if is_denied(&source) => Err(ClientError::Forbidden { socket, source }),
            Err(source) => Err(ClientError::Unreachable { socket, source }),
        }
    }

    pub(crate) fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    pub(crate) fn evidence(&self) -> EvidenceServiceClient<Channel> {
        EvidenceServiceClient::new(self.channel.clone())
    }

    pub(crate) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    pub(crate) fn tools(&self) -> ToolServiceClient<Channel> {
        ToolServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }
}

fn is_denied(error: &tonic::transport::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if kind == Some(std::io::ErrorKind::PermissionDenied) {
            return true;
        }
        source = cause.source();
    }
    false
}
