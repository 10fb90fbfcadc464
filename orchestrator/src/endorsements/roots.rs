//! Which certificates of a collateral service are taken: under the authorities that this host trusts, or, where the operator pins
//! a file, under that alone. TLS keeps others from seeing and stopping what is asked; what collateral says is proven by its own
//! signatures.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// The largest pinned file in bytes, and how many certificates it may hold.
const PINNED_BYTES_MAX: u64 = 64 * 1024;
const PINNED_MAX: usize = 16;

/// Why no certificate can be judged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootsError {
    #[error("expected to read vmm.pccs_ca {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("expected 1 to {PINNED_MAX} certificates as PEM in vmm.pccs_ca {}, found {found}", path.display())]
    Pinned { path: PathBuf, found: String },
    #[error(
        "expected authorities that this host trusts, found none: install ca-certificates, or name the service's certificate in vmm.pccs_ca"
    )]
    NoneOnHost,
}

/// Whose certificates are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Authorities that the host trusts.
    Host,
    /// The certificates of a PEM file: one of them itself, whatever name it bears, or what they vouch for.
    Pinned(PathBuf),
}

impl Roots {
    /// Reads them; blocks.
    pub(crate) fn load(&self) -> Result<Arc<ClientConfig>, RootsError> {
        let provider = Arc::new(ring::default_provider());
        let (verifier, certificates) = match self {
            Roots::Host => {
                let found = rustls_native_certs::load_native_certs().certs;
                (under(&found, &provider).ok_or(RootsError::NoneOnHost)?, Vec::new())
            }
            Roots::Pinned(path) => {
                let pinned = read(path)?;
                let unusable =
                    || RootsError::Pinned { path: path.clone(), found: "none that can be an authority".to_owned() };
                (under(&pinned, &provider).ok_or_else(unusable)?, pinned)
            }
        };
        let judge = Arc::new(PinnedOrUnder { certificates, verifier });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the suites of TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(judge)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

/// What verifies chains that end in one of these.
fn under(roots: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Option<Arc<WebPkiServerVerifier>> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider)).build().ok()
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, RootsError> {
    let failed = |source| RootsError::Read { path: path.to_path_buf(), source };
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(PINNED_BYTES_MAX + 1).read_to_end(&mut text))
        .map_err(failed)?;
    let found = |found: String| RootsError::Pinned { path: path.to_path_buf(), found };
    if text.len() as u64 > PINNED_BYTES_MAX {
        return Err(found(format!("more than {PINNED_BYTES_MAX} bytes")));
    }
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).take(PINNED_MAX + 1).collect();
    match certificates {
        Ok(certificates) if (1..=PINNED_MAX).contains(&certificates.len()) => Ok(certificates),
        Ok(certificates) if certificates.is_empty() => Err(found("none".to_owned())),
        Ok(_) => Err(found("more".to_owned())),
        Err(_) => Err(found("another form".to_owned())),
    }
}

/// A caching service mostly shows a certificate that it signed itself: it is an authority by its own words, and often names no
/// host, so no chain holds with it. Pinned byte for byte it needs none; who has its key is shown by the handshake.
#[derive(Debug)]
struct PinnedOrUnder {
    certificates: Vec<CertificateDer<'static>>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for PinnedOrUnder {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.certificates.iter().any(|pinned| pinned == shown) {
            return Ok(ServerCertVerified::assertion());
        }
        self.verifier.verify_server_cert(shown, between, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, shown, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endorsements::played::self_signed;

    fn pinned(text: &str) -> Result<Arc<ClientConfig>, RootsError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pccs.pem");
        std::fs::write(&path, text).expect("write");
        Roots::Pinned(path).load()
    }

    #[test]
    fn a_pinned_file_holds_one_to_sixteen_certificates() {
        let one = self_signed("pccs.example").cert.pem();
        assert!(pinned(&one).is_ok());
        assert!(pinned(&one.repeat(PINNED_MAX)).is_ok());
        let long = format!("{one}{}", "#".repeat(64 * 1024));
        for (text, found) in [
            ("", "none"),
            ("no certificate", "none"),
            (one.repeat(PINNED_MAX + 1).as_str(), "more"),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "another form"),
            ("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "none that can be an authority"),
            (long.as_str(), "more than 65536 bytes"),
        ] {
            match pinned(text) {
                Err(RootsError::Pinned { found: said, .. }) => assert_eq!(said, found),
                other => panic!("{found}: {other:?}"),
            }
        }
        assert!(matches!(Roots::Pinned("/no/such".into()).load(), Err(RootsError::Read { .. })));
    }
}
