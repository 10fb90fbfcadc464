//! Bytes that are no request: no protobuf, no frame of gRPC, no HTTP/2. Whoever sends them hears so, or nothing; everybody
//! else is served as before.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use coffer_proto::control::v1 as pb;
use coffer_tests::host::Host;
use pb::session_service_client::SessionServiceClient;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes, Service as _, http};
use tonic::{Code, Status};

use crate::answers::refused;
use crate::session::Session;

const MESSAGE: usize = 4 << 20;

/// Methods that take one message, and those that take a stream of them.
const METHODS: [&str; 21] = [
    "coffer.control.v1.SessionService/CreateSession",
    "coffer.control.v1.SessionService/GetSession",
    "coffer.control.v1.SessionService/ListSessions",
    "coffer.control.v1.SessionService/WaitSession",
    "coffer.control.v1.SessionService/WatchSessions",
    "coffer.control.v1.SessionService/CloseSession",
    "coffer.control.v1.EvidenceService/ExportEvidence",
    "coffer.control.v1.ImageService/ListImages",
    "coffer.guest.v1.ToolService/Stat",
    "coffer.guest.v1.ToolService/ListDirectory",
    "coffer.guest.v1.ToolService/ReadFile",
    "coffer.guest.v1.ToolService/Download",
    "coffer.guest.v1.ToolService/Exec",
    "coffer.guest.v1.ToolService/WriteFile",
    "coffer.guest.v1.ToolService/Upload",
    "coffer.guest.v1.ToolService/Remove",
    "coffer.guest.v1.ToolService/Move",
    "coffer.guest.v1.ToolService/MakeDirectory",
    "coffer.guest.v1.ToolService/Watch",
    "coffer.guest.v1.ToolService/Git",
    "coffer.guest.v1.ToolService/Nothing",
];

pub(crate) async fn bytes(session: &Session, host: &Host) -> anyhow::Result<()> {
    for method in METHODS {
        if method.ends_with("/Nothing") {
            let status = call(session, method, "application/grpc", frame(0, &[])).await.expect_err(method);
            assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
            continue;
        }
        // A field of a kind that does not exist; a text that is none; a field that is longer than the message.
        for bytes in [&[0x07][..], &[0xff; 40], &[0x0a, 0x7f, 1]] {
            let result = call(session, method, "application/grpc", frame(0, bytes)).await;
            if method.ends_with("/ListImages") && result.is_ok() {
                continue;
            }
            let what = format!("{method} {bytes:?}");
            refused(&what, result, Code::InvalidArgument, "INVALID_ARGUMENT", "a message of this service, found bytes");
        }
        for (what, bytes) in [
            ("a compressed message", frame(1, &[])),
            ("an unknown flag", frame(7, &[])),
            ("less than it says", [0, 0, 0, 1, 0, 8][..].to_vec()),
        ] {
            let result = call(session, method, "application/grpc", bytes).await;
            refused(&format!("{method}: {what}"), result, Code::InvalidArgument, "INVALID_ARGUMENT", "expected");
        }
        // One field that nobody knows, as long as a message may be; and a byte more.
        let large = call(session, method, "application/grpc", frame(0, &unknown_field(MESSAGE))).await;
        if let Err(status) = &large {
            let text = status.message();
            assert!(!text.starts_with("LIMIT_EXCEEDED"), "{method}: 4 MiB: {text}");
        }
        let large = call(session, method, "application/grpc", frame(0, &unknown_field(MESSAGE + 1))).await;
        refused(method, large, Code::InvalidArgument, "LIMIT_EXCEEDED", "expected a message within its limit");
    }
    strangers(session, host).await
}

/// What does not even speak HTTP/2, or not for us.
async fn strangers(session: &Session, host: &Host) -> anyhow::Result<()> {
    for kind in ["text/plain", "application/json", "application/grpc-web"] {
        let method = "coffer.control.v1.SessionService/CloseSession";
        let result = call(session, method, kind, frame(0, &[])).await;
        assert!(result.is_err(), "{kind}");
    }
    let garbage: Vec<u8> = (0..70_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut silent = Vec::new();
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: cofferd\r\n\r\n"[..],
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        &garbage,
        &[],
        // A frame of 16 MiB; settings of a length that none have; data for a stream that is not open.
        &[&preface[..], &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat(),
        &[&preface[..], &[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]].concat(),
        &[&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 7]].concat(),
    ] {
        let mut stream = UnixStream::connect(host.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // It may hang up before it has read everything.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        let timed_out = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "still open after {:?}", &bytes[..bytes.len().min(24)]);
        silent.push(UnixStream::connect(host.socket())?);
    }
    // Those who say nothing hold nobody up.
    silent.extend((0..100).map_while(|_| UnixStream::connect(host.socket()).ok()));
    let fresh = Session::connect(host, &session.id).await?;
    SessionServiceClient::new(fresh.channel.clone()).list_sessions(pb::ListSessionsRequest::default()).await?;
    session.works().await
}

fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a length");
    [&[flag][..], &length.to_be_bytes(), message].concat()
}

/// A message of that many bytes: field 500, which no message has, and its length in four bytes.
fn unknown_field(bytes: usize) -> Vec<u8> {
    let content = bytes - 6;
    let mut message = vec![0xa2, 0x1f];
    message.extend((0..4).map(|at| ((content >> (7 * at)) & 0x7f) as u8 | if at < 3 { 0x80 } else { 0 }));
    message.resize(bytes, 0);
    message
}

/// A body that is sent as it is.
struct Whole(Option<Bytes>);

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

/// Sends these bytes as the body of a call to the session; how it ended.
async fn call(session: &Session, method: &str, content_type: &str, body: Vec<u8>) -> Result<(), Status> {
    let request = http::Request::builder()
        .method("POST")
        .uri(format!("http://cofferd.invalid/{method}"))
        .header("content-type", content_type)
        .header("te", "trailers")
        .header("coffer-session", &session.id)
        .body(Body::new(Whole(Some(body.into()))))
        .expect("a request");
    let mut channel = session.channel.clone();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.map_err(|e| Status::unknown(e.to_string()))?;
    let answering = async {
        let answer = channel.call(request).await.map_err(|error| Status::unknown(format!("no answer: {error:?}")))?;
        if !answer.status().is_success() {
            return Err(Status::unknown(format!("HTTP {}", answer.status())));
        }
        if let Some(status) = Status::from_header_map(answer.headers()) {
            return if status.code() == Code::Ok { Ok(()) } else { Err(status) };
        }
        let mut body = answer.into_body();
        loop {
            let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            match frame.transpose()?.map(http_body::Frame::into_trailers) {
                Some(Ok(trailers)) => {
                    let status = Status::from_header_map(&trailers);
                    return match status {
                        Some(status) if status.code() != Code::Ok => Err(status),
                        _ => Ok(()),
                    };
                }
                Some(Err(_)) => {}
                None => return Err(Status::unknown("an end without a status")),
            }
        }
    };
    // A stream that goes on is one that was let in: watching has no end.
    tokio::time::timeout(Duration::from_secs(3), answering).await.unwrap_or(Ok(()))
}
