//! One question to a collateral service and its answer, over HTTP/1.1: bounded in time and size, to the place that was asked
//! for and to no other. A redirect is an answer like any other that is not 200. No proxy, no compression, no cookies, and a
//! connection for each question.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_evidence::verify::printable;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::task::AbortOnDropHandle;

use super::address::{Part, Place, Scheme};

/// The largest answer in bytes. Real ones are at most some 20 KiB, twice that as hex.
pub(super) const ANSWER_MAX: usize = 512 * 1024;
/// The most headers of an answer, and their bytes. A chain of two certificates takes some 3 KiB of them.
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Addresses of a name that are tried, and how long each may take to answer.
const ADDRESSES_MAX: usize = 4;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// What of a peer's words is repeated.
const WORDS_MAX: usize = 200;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    #[error("expected a collateral service at {place}, which takes no connection: start it, or correct vmm.pccs_url")]
    Unreachable {
        place: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "expected {place} to show a certificate that this host trusts: name its certificate in vmm.pccs_ca ({why})"
    )]
    Tls { place: String, why: String },
    #[error("expected {what} from {place} within {limit:?}, found no whole answer: see that service's log")]
    Stalled { what: &'static str, place: String, limit: Duration },
    #[error("expected {what} from {place}, found status {status}{}", advice(*status))]
    Status { what: &'static str, place: String, status: StatusCode },
    #[error("expected {what} from {place} in at most {most} bytes, found more")]
    TooLarge { what: &'static str, place: String, most: usize },
    #[error("expected {place} to speak HTTP/1.1 for {what} ({why})")]
    Protocol { what: &'static str, place: String, why: String },
}

fn advice(status: StatusCode) -> &'static str {
    if status == StatusCode::NOT_FOUND {
        ": it does not know this platform; register it, and see that service's log"
    } else if status.is_redirection() {
        ": no redirect is followed; correct vmm.pccs_url"
    } else {
        ": see that service's log"
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Until when every question of a set must be answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }
}

/// Asks for a part at its place, which shows a certificate wherever there is something that judges one.
pub(super) async fn get(
    part: Part,
    place: &Place,
    trust: Option<&Arc<ClientConfig>>,
    deadline: Deadline,
) -> Result<Answer, TransportError> {
    let exchange = async {
        let stream = connect(place).await?;
        match trust {
            None => converse(part, place, stream).await,
            Some(trust) => converse(part, place, secured(place, stream, trust).await?).await,
        }
    };
    let stalled = |_| TransportError::Stalled { what: part.name(), place: place.authority(), limit: deadline.limit };
    tokio::time::timeout_at(deadline.at, exchange).await.map_err(stalled)?
}

async fn connect(place: &Place) -> Result<TcpStream, TransportError> {
    let unreachable = |source| TransportError::Unreachable { place: place.authority(), source };
    let found = tokio::net::lookup_host((place.host.as_str(), place.port)).await.map_err(unreachable)?;
    // Without TLS a name must lead to this machine, whatever a resolver says.
    let allowed = |address: &SocketAddr| place.scheme == Scheme::Https || address.ip().is_loopback();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address that may be asked");
    for address in found.filter(allowed).take(ADDRESSES_MAX) {
        match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("nothing within {CONNECT_LIMIT:?}")),
        }
    }
    Err(unreachable(last))
}

async fn secured(
    place: &Place,
    stream: TcpStream,
    trust: &Arc<ClientConfig>,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, TransportError> {
    let refused = |why: String| TransportError::Tls { place: place.authority(), why: words(&why) };
    let name = ServerName::try_from(place.host.clone()).map_err(|error| refused(error.to_string()))?;
    let connector = TlsConnector::from(Arc::clone(trust));
    connector.connect(name, stream).await.map_err(|error| refused(error.to_string()))
}

async fn converse<S>(part: Part, place: &Place, stream: S) -> Result<Answer, TransportError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let what = part.name();
    let broken = |error: &dyn std::error::Error| TransportError::Protocol {
        what,
        place: place.authority(),
        why: words(&match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        }),
    };
    let request = Request::get(&place.path)
        .header(HOST, place.authority())
        .header(ACCEPT, "*/*")
        .header(USER_AGENT, "cofferd")
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(&error))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .max_buf_size(2 * HEADER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    // Ends with this question, answered or given up.
    let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(TransportError::Status { what, place: place.authority(), status });
    }
    let (head, body) = response.into_parts();
    let body = match Limited::new(body, ANSWER_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(TransportError::TooLarge { what, place: place.authority(), most: ANSWER_MAX });
        }
        Err(error) => return Err(broken(error.as_ref())),
    };
    Ok(Answer { headers: head.headers, body })
}

/// A peer's words, for a line of diagnostics.
pub(super) fn words(text: &str) -> String {
    let mut text = printable(text);
    text.truncate(WORDS_MAX);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_says_is_short_and_harmless_in_messages() {
        assert_eq!(words("as is"), "as is");
        assert_eq!(words("\u{1b}[2J"), "\\u{1b}[2J");
        assert_eq!(words(&"ä".repeat(WORDS_MAX)).len(), WORDS_MAX);
    }
}
