//! The gRPC interface: what clients may ask, on a unix socket. Requests become calls of the registry, its answers become
//! messages; one file maps every error. Tool calls are relayed undecoded.

mod control;
pub(crate) mod errors;
mod message;
mod plain;
mod relay;
mod watch;

use std::future::Future;
use std::sync::Arc;

use coffer_evidence::ids::Digest256;
use coffer_proto::FILE_DESCRIPTOR_SET;
use coffer_proto::control::v1::evidence_service_server::EvidenceServiceServer;
use coffer_proto::control::v1::image_service_server::ImageServiceServer;
use coffer_proto::control::v1::session_service_server::SessionServiceServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

use crate::session::calls::{CONNECTION_WINDOW, FRAME, STREAM_WINDOW};
use crate::session::registry::Registry;
use control::Control;
use plain::Plain;
use relay::Relay;

/// The largest message that clients send to the control services, in bytes: a policy text and its frame.
const MESSAGE_MAX: usize = 4 * 1024 * 1024;
/// Requests of one connection at once.
const STREAMS_MAX: u32 = 256;

/// Serves until `stop` is ready; calls that run may end.
pub(crate) async fn serve(
    registry: Arc<Registry>,
    default_image: Option<Digest256>,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let control = Control::new(Arc::clone(&registry), default_image);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<SessionServiceServer<Control>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .build_v1()?;
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .add_service(Plain(SessionServiceServer::new(control.clone()).max_decoding_message_size(MESSAGE_MAX)))
        .add_service(Plain(EvidenceServiceServer::new(control.clone()).max_decoding_message_size(MESSAGE_MAX)))
        .add_service(Plain(ImageServiceServer::new(control).max_decoding_message_size(MESSAGE_MAX)))
        .add_service(Relay::new(registry))
        .add_service(health)
        .add_service(reflection)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await?;
    Ok(())
}
