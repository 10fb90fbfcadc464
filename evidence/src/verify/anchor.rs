//! Trust anchors: the root certificates that a verifier pins, and the platform label that follows from the one that verified.
//!
//! A root is chosen by comparing bytes with pinned ones. Nothing in a quote, a certificate's name or a manifest says which
//! platform it is; a root that is neither Intel's nor the one published simulator root has no label at all.

use std::fmt;

/// Intel SGX Root CA, DER, as Intel publishes it.
pub const INTEL_ROOT_DER: &[u8] = include_bytes!("intel_root.der");

/// The one published simulator root, DER. Its private key is published too: anyone can forge what it signs.
pub const SIMULATED_ROOT_DER: &[u8] = include_bytes!("simulated_root.der");

/// What the root that verified says about the platform.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Platform {
    /// Real Intel TDX: Intel's root.
    Tdx,
    /// The simulator: anyone can forge this.
    Simulated,
}

/// A root certificate that the verifier's user trusts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TrustAnchor {
    /// [`INTEL_ROOT_DER`].
    Intel,
    /// [`SIMULATED_ROOT_DER`].
    Simulated,
    /// Another certificate, as DER. It verifies quotes; it gives no platform label unless it is one of the two above.
    Der(Vec<u8>),
}

impl TrustAnchor {
    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        match self {
            TrustAnchor::Intel => INTEL_ROOT_DER,
            TrustAnchor::Simulated => SIMULATED_ROOT_DER,
            TrustAnchor::Der(der) => der,
        }
    }

    /// The label of what this root verifies, by its bytes alone.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        let der = self.der();
        #[cfg(test)]
        if der == super::under_intels_root::STAND_IN.as_slice() {
            return Some(Platform::Tdx);
        }
        if der == INTEL_ROOT_DER {
            Some(Platform::Tdx)
        } else if der == SIMULATED_ROOT_DER {
            Some(Platform::Simulated)
        } else {
            None
        }
    }

    /// The two roots that are tried when no policy names one.
    #[must_use]
    pub fn pinned() -> Vec<TrustAnchor> {
        vec![TrustAnchor::Intel, TrustAnchor::Simulated]
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Platform::Tdx => "tdx",
            Platform::Simulated => "simulated",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest256;

    #[test]
    fn the_pinned_intel_root_is_the_published_one() {
        assert_eq!(
            Digest256::of(INTEL_ROOT_DER).to_string(),
            "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
        );
    }

    #[test]
    fn the_label_follows_the_bytes_of_the_root_and_nothing_else() {
        assert_eq!(TrustAnchor::Intel.platform(), Some(Platform::Tdx));
        assert_eq!(TrustAnchor::Simulated.platform(), Some(Platform::Simulated));
        assert_eq!(TrustAnchor::Der(INTEL_ROOT_DER.to_vec()).platform(), Some(Platform::Tdx));
        assert_eq!(TrustAnchor::Der(SIMULATED_ROOT_DER.to_vec()).platform(), Some(Platform::Simulated));
        for position in [0, 100, INTEL_ROOT_DER.len() - 1] {
            let mut changed = INTEL_ROOT_DER.to_vec();
            changed[position] ^= 1;
            assert_eq!(TrustAnchor::Der(changed).platform(), None);
        }
    }
}
