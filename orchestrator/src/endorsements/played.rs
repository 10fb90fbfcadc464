//! A collateral service, played on this machine for tests: it answers as Intel's caching service does, from a set that is known to
//! hold, or fails in a named way.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use coffer_evidence::collateral::Collateral;
use coffer_evidence::verify::{StatedPlatform, TrustAnchor};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::DecodePrivateKey as _;
use rcgen::{CertifiedKey, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::task::AbortOnDropHandle;

use super::address::Part;
use super::https::ANSWER_MAX;
use crate::session::acted::platform::{self, Dates, PCK_DER, ROOT_DER, Tcb, Td};

pub(super) use crate::session::acted::platform::MID_NOVEMBER;

const TCB_SIGNING_KEY: &str = include_str!("../../../tdx-sim/pki/tcb-signing.key");
/// The time at which the published result of the real quote holds.
const REAL_AT: u64 = 1_750_415_547;

/// A quote, a set under which it holds, and when.
#[derive(Clone)]
pub(super) struct Example {
    pub(super) quote: Vec<u8>,
    pub(super) set: Collateral,
    pub(super) anchor: TrustAnchor,
    pub(super) now: u64,
}

impl Example {
    /// Of the simulator's published keys, valid in November 2026.
    pub(super) fn simulated() -> Self {
        Self {
            quote: platform::quote_with_chain(&Td::default(), &[7; 64], PCK_DER, ROOT_DER),
            set: platform::collateral(Dates::NOVEMBER, Tcb::UP_TO_DATE),
            anchor: TrustAnchor::Simulated,
            now: MID_NOVEMBER,
        }
    }

    /// Of a real platform under Intel's root, from `COFFER_VECTORS`, or `../shared/vectors` beside the repository.
    pub(super) fn real() -> Option<Self> {
        let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors");
        let folder = std::env::var_os("COFFER_VECTORS").map_or_else(beside, PathBuf::from).join("dcap-qvl");
        let read = |name| std::fs::read(folder.join(name)).ok();
        let (Some(quote), Some(set)) = (read("tdx_quote"), read("tdx_quote_collateral.json")) else {
            println!("NOT RUN: dcap-qvl/tdx_quote is not in COFFER_VECTORS");
            return None;
        };
        let set = Collateral { pck_certificate_chain: None, ..Collateral::from_json(&set).expect("collateral") };
        Some(Self { quote, set, anchor: TrustAnchor::Intel, now: REAL_AT })
    }
}

/// The platform of [`Example::simulated`].
pub(super) fn simulated_platform() -> StatedPlatform {
    StatedPlatform::of(&Example::simulated().quote, &TrustAnchor::Simulated).expect("a platform")
}

/// A quote, which does not verify, of a platform of another model.
pub(super) fn quote_of_model(model: u8) -> Vec<u8> {
    const MODEL: &[u8] = b"SIM\0\0\0";
    let at = PCK_DER.windows(MODEL.len()).position(|bytes| bytes == MODEL).expect("the model is in the certificate");
    let mut pck = PCK_DER.to_vec();
    pck[at + MODEL.len() - 1] = model;
    platform::quote_with_chain(&Td::default(), &[7; 64], &pck, ROOT_DER)
}

/// The simulated set with something in its TCB info exchanged, signed again.
pub(super) fn with_tcb_info(from: &str, to: &str) -> Collateral {
    let mut set = Example::simulated().set;
    let text = String::from_utf8(set.tcb_info).expect("text");
    assert!(text.contains(from), "{text}");
    set.tcb_info = text.replace(from, to).into_bytes();
    let signature: Signature =
        SigningKey::from_pkcs8_pem(TCB_SIGNING_KEY).expect("a published key").sign(&set.tcb_info);
    set.tcb_info_signature = signature.to_bytes().to_vec();
    set
}

/// A certificate for this name that vouches for itself.
pub(super) fn self_signed(name: &str) -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate")
}

/// What goes wrong with one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Status(u16),
    /// Never answers.
    Stalls,
    /// Begins to answer, and stops.
    StallsWithin,
    /// A byte more than is taken.
    TooLong,
    /// More headers than are taken.
    TooManyHeaders,
    /// Without the chain.
    NoHeader,
    /// Half of the body, as if it were the whole.
    Half,
    /// The connection ends within the body.
    Breaks,
    /// Something else than HTTP.
    Noise,
}

/// What the service answers from now on.
#[derive(Clone)]
pub(super) struct Script {
    pub(super) set: Collateral,
    pub(super) fault: Option<(Part, Fault)>,
}

/// The service; it ends with this.
pub(super) struct PlayedService {
    address: SocketAddr,
    scheme: &'static str,
    script: Arc<Mutex<Script>>,
    asked: watch::Receiver<Vec<String>>,
    _serving: AbortOnDropHandle<()>,
}

impl PlayedService {
    pub(super) async fn start(set: Collateral) -> Self {
        Self::serve(set, None).await
    }

    /// The same behind a certificate.
    pub(super) async fn secured(set: Collateral, shown: &CertifiedKey<KeyPair>) -> Self {
        let key = PrivateKeyDer::try_from(shown.signing_key.serialize_der()).expect("a key");
        let chain: Vec<CertificateDer<'static>> = vec![shown.cert.der().clone()];
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate with its key");
        Self::serve(set, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serve(set: Collateral, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("bound");
        let script = Arc::new(Mutex::new(Script { set, fault: None }));
        let (tell, asked) = watch::channel(Vec::new());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let read = Arc::clone(&script);
        let serving = tokio::spawn(async move {
            let mut conversations = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (script, tell, tls) = (Arc::clone(&read), tell.clone(), tls.clone());
                conversations.spawn(async move {
                    match tls {
                        None => answer(stream, &script, &tell).await,
                        Some(tls) => answer(tls.accept(stream).await.ok()?, &script, &tell).await,
                    }
                });
            }
        });
        Self { address, scheme, script, asked, _serving: AbortOnDropHandle::new(serving) }
    }

    /// Its address, in the form of Intel's configuration.
    pub(super) fn url(&self) -> String {
        format!("{}://localhost:{}/sgx/certification/v4/", self.scheme, self.address.port())
    }

    pub(super) fn play(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Questions so far.
    pub(super) fn asked(&self) -> usize {
        self.asked.borrow().len()
    }

    /// Waits for as many.
    pub(super) async fn asked_so_often(&self, count: usize) {
        let mut asked = self.asked.clone();
        asked.wait_for(|asked| asked.len() >= count).await.expect("the service runs");
    }

    /// Every question so far, in the order of the alphabet.
    pub(super) fn questions(&self) -> Vec<String> {
        let mut asked = self.asked.borrow().clone();
        asked.sort();
        asked
    }
}

async fn answer<S>(mut stream: S, script: &Mutex<Script>, tell: &watch::Sender<Vec<String>>) -> Option<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.ok()?);
        if !request.starts_with(b"G") {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok()?;
            return stream.shutdown().await.ok();
        }
    }
    let request = String::from_utf8(request).ok()?;
    let path = request.strip_prefix("GET ")?.split(' ').next()?.to_owned();
    tell.send_modify(|asked| asked.push(path.clone()));
    let script = script.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (part, chain, body) = part(&path, &script.set)?;
    let fault = script.fault.filter(|(of, _)| *of == part).map(|(_, fault)| fault);
    let encoded = |chain: &[u8]| {
        let text = std::str::from_utf8(chain).expect("PEM");
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let mut headers: String = chain.map(|(name, chain)| format!("{name}: {}\r\n", encoded(chain))).unwrap_or_default();
    let mut status = 200;
    let mut body = body;
    match fault {
        Some(Fault::Stalls) => return std::future::pending().await,
        Some(Fault::Noise) => {
            stream.write_all(b"SSH-2.0-OpenSSH_10.0\r\n").await.ok()?;
            return stream.shutdown().await.ok();
        }
        Some(Fault::Status(other)) => status = other,
        Some(Fault::TooLong) => body = vec![b' '; ANSWER_MAX + 1],
        Some(Fault::TooManyHeaders) => headers.push_str(&"x: y\r\n".repeat(64)),
        Some(Fault::NoHeader) => headers.clear(),
        Some(Fault::Half) => body.truncate(body.len() / 2),
        Some(Fault::StallsWithin | Fault::Breaks) | None => {}
    }
    let head = format!("HTTP/1.1 {status} So\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.ok()?;
    if let Some(Fault::StallsWithin | Fault::Breaks) = fault {
        stream.write_all(&body[..body.len() / 2]).await.ok()?;
        stream.flush().await.ok()?;
        if fault == Some(Fault::StallsWithin) {
            return std::future::pending().await;
        }
    } else {
        stream.write_all(&body).await.ok()?;
    }
    stream.shutdown().await.ok()
}

/// What stands at a path, with the name of its header and the chain in it.
#[allow(clippy::type_complexity, reason = "three things of one answer")]
fn part<'a>(path: &str, set: &'a Collateral) -> Option<(Part, Option<(&'static str, &'a [u8])>, Vec<u8>)> {
    let signed = |member: &str, text: &[u8], signature: &[u8]| {
        let text = std::str::from_utf8(text).expect("text");
        format!("{{\"{member}\":{text},\"signature\":\"{}\"}}", hex::encode(signature)).into_bytes()
    };
    let (path, _) = path.split_once('?').unwrap_or((path, ""));
    Some(match path {
        "/sgx/certification/v4/pckcrl" => {
            (Part::PckList, Some(("SGX-PCK-CRL-Issuer-Chain", &set.pck_crl_issuer_chain)), set.pck_crl.clone())
        }
        // A caching service has digits here, and no chain.
        "/sgx/certification/v4/rootcacrl" => (Part::RootList, None, hex::encode(&set.root_ca_crl).into_bytes()),
        "/tdx/certification/v4/tcb" => (
            Part::TcbInfo,
            Some(("TCB-Info-Issuer-Chain", &set.tcb_info_issuer_chain)),
            signed("tcbInfo", &set.tcb_info, &set.tcb_info_signature),
        ),
        "/tdx/certification/v4/qe/identity" => (
            Part::QeIdentity,
            Some(("SGX-Enclave-Identity-Issuer-Chain", &set.qe_identity_issuer_chain)),
            signed("enclaveIdentity", &set.qe_identity, &set.qe_identity_signature),
        ),
        _ => return None,
    })
}
