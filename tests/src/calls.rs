//! Tool calls to a guest's own port, past `cofferd`: what the benchmarks measure. Each fails unless it went well to its end.

use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use coffer_proto::guest::v1 as pb;
use hyper_util::rt::TokioIo;
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::guest::{PORT_TOOLS, call_header, dial};

/// The client of one connection.
pub type Tools = pb::tool_service_client::ToolServiceClient<Channel>;

/// Bytes that may be on their way here, of one stream and of all: as many as `coffer-client` has.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Bytes of a frame: likewise.
const FRAME: u32 = 128 << 10;
/// Bytes of a message's content, the most that the guest takes.
const CHUNK: usize = 64 * 1024;

/// Connects to the tools of the guest behind the socket of its vsock device; nothing stands between the two.
///
/// # Errors
/// When the guest does not answer.
pub async fn connect(device: &Path) -> anyhow::Result<Tools> {
    let device = device.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let device = device.clone();
        async move {
            let stream = tokio::task::spawn_blocking(move || dial(&device, PORT_TOOLS)).await;
            let stream = stream.map_err(std::io::Error::other)?.map_err(std::io::Error::other)?;
            stream.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(stream).map(TokioIo::new)
        }
    });
    // The address is never dialled: the connector is.
    let endpoint = Endpoint::from_static("http://guest.invalid")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME);
    Ok(Tools::new(endpoint.connect_with_connector(connector).await.context("connect to the guest's tools")?))
}

/// Runs a program; answers its stdout.
///
/// # Errors
/// When it does not exit with 0.
pub async fn exec(tools: &Tools, argv: &[&str]) -> anyhow::Result<Vec<u8>> {
    use pb::exec_request::Request;
    use pb::exec_response::Response;
    let words = argv.iter().map(|&word| word.to_owned()).collect();
    let start = pb::ExecStart { header: call_header("")?, argv: words, ..pb::ExecStart::default() };
    let request = pb::ExecRequest { request: Some(Request::Start(start)) };
    let requests = tokio_stream::iter([request]).chain(tokio_stream::pending());
    let mut responses = tools.clone().exec(requests).await?.into_inner();
    let (mut out, mut said) = (Vec::new(), Vec::new());
    while let Some(message) = responses.message().await? {
        match message.response {
            Some(Response::Stdout(output)) => out.extend_from_slice(&output.data),
            Some(Response::Stderr(output)) => said.extend_from_slice(&output.data),
            Some(Response::Exited(exited)) if exited.code == 0 => return Ok(out),
            Some(Response::Exited(exited)) => {
                bail!("expected success of {argv:?}, found {exited:?}: {}", String::from_utf8_lossy(&said))
            }
            _ => {}
        }
    }
    bail!("expected an exit at the end of the call")
}

/// Writes a file.
///
/// # Errors
/// When the guest says that it wrote another number of bytes.
pub async fn write(tools: &Tools, path: &str, content: &Bytes) -> anyhow::Result<()> {
    use pb::write_file_request::Request;
    let start = pb::WriteFileStart { header: call_header("")?, path: path.into(), mode: 0, precondition: None };
    let content = content.clone();
    let size = content.len();
    let chunks = (0..size).step_by(CHUNK).map(move |at| Request::Data(content.slice(at..size.min(at + CHUNK))));
    let requests = std::iter::once(Request::Start(start)).chain(chunks);
    let requests = tokio_stream::iter(requests.map(|request| pb::WriteFileRequest { request: Some(request) }));
    let response = tools.clone().write_file(requests).await?.into_inner();
    anyhow::ensure!(response.size == size as u64, "expected {size} bytes to be written, found {}", response.size);
    Ok(())
}

/// Reads a file to its end; answers how many bytes came.
///
/// # Errors
/// When the guest says that it sent another number of bytes.
pub async fn read(tools: &Tools, path: &str) -> anyhow::Result<u64> {
    use pb::read_file_response::Response;
    let request = pb::ReadFileRequest { header: call_header("")?, path: path.into(), offset: 0, length: 0 };
    let mut responses = tools.clone().read_file(request).await?.into_inner();
    let mut came = 0;
    while let Some(message) = responses.message().await? {
        match message.response {
            Some(Response::Data(data)) => came += data.len() as u64,
            Some(Response::Trailer(trailer)) => {
                anyhow::ensure!(trailer.size == came, "expected {} bytes, found {came}", trailer.size);
                return Ok(came);
            }
            _ => {}
        }
    }
    bail!("expected a trailer at the end of the file")
}
