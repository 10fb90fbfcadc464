//! Whose collateral a quote needs: the model of its platform and the authority over its certificate, as the certificate in the
//! quote states them. Nothing is believed here: it says what to ask for, and the answer is verified together with the quote.

use std::fmt;

use dcap_qvl::config::{Config, ParsedCert as _, PckCa, X509Codec as _};
use dcap_qvl::configs::DefaultConfig;
use dcap_qvl::intel::parse_pck_extension;

use super::anchor::TrustAnchor;
use super::endorsed::QuoteRefusal;
use crate::quote::{Quote, QuoteError};

/// Which of Intel's authorities issued a PCK certificate: each has a revocation list of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PckAuthority {
    /// For platforms of several packages, which register.
    Platform,
    /// For single processors.
    Processor,
}

impl fmt::Display for PckAuthority {
    /// As Intel's service spells it in a query.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PckAuthority::Platform => "platform",
            PckAuthority::Processor => "processor",
        })
    }
}

/// What one collateral set is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StatedPlatform {
    fmspc: [u8; 6],
    authority: PckAuthority,
}

impl StatedPlatform {
    /// Reads it from a quote, which may have zero padding, whose embedded root is the anchor's byte for byte.
    ///
    /// # Errors
    /// [`QuoteRefusal`]: the bytes are no quote, name another root, or carry a certificate that is not of a platform.
    pub fn of(quote: &[u8], anchor: &TrustAnchor) -> Result<Self, QuoteRefusal> {
        let chain = Quote::parse(quote)?.pck_chain()?;
        if chain.root != anchor.der() {
            return Err(QuoteRefusal::ForeignRoot);
        }
        let refused = |what| QuoteRefusal::Parse(QuoteError::Chain(what));
        let leaf = <DefaultConfig as Config>::X509::from_der(&chain.leaf)
            .map_err(|_| refused("its first certificate is not X.509"))?;
        let authority = match leaf.pck_ca() {
            Some(PckCa::Platform) => PckAuthority::Platform,
            Some(PckCa::Processor) => PckAuthority::Processor,
            None => {
                return Err(refused("its first certificate is of neither the platform nor the processor authority"));
            }
        };
        let stated = parse_pck_extension(&chain.leaf)
            .map_err(|_| refused("its first certificate does not state the model of a platform"))?;
        Ok(Self { fmspc: stated.fmspc, authority })
    }

    /// Model of the platform.
    #[must_use]
    pub fn fmspc(&self) -> &[u8; 6] {
        &self.fmspc
    }

    /// The authority over its certificate.
    #[must_use]
    pub fn authority(&self) -> PckAuthority {
        self.authority
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::certificates::third_root;
    use crate::fixtures::platform::{PCK_DER, ROOT_DER, Td, quote_with_chain};

    #[test]
    fn a_quote_states_the_model_of_its_platform_and_who_vouches_for_it() {
        let quote = quote_with_chain(&Td::default(), &[7; 64], PCK_DER, ROOT_DER);
        let stated = StatedPlatform::of(&quote, &TrustAnchor::Simulated).expect("a platform");
        assert_eq!((stated.fmspc(), stated.authority()), (b"SIM\0\0\0", PckAuthority::Platform));
        assert_eq!(stated.authority().to_string(), "platform");
        let padded = [quote.as_slice(), &[0; 70]].concat();
        assert_eq!(StatedPlatform::of(&padded, &TrustAnchor::Simulated), Ok(stated));
    }

    #[test]
    fn a_quote_of_another_root_or_without_a_platforms_certificate_states_nothing() {
        let of = |pck: &[u8], root: &[u8]| {
            StatedPlatform::of(&quote_with_chain(&Td::default(), &[7; 64], pck, root), &TrustAnchor::Simulated)
        };
        assert_eq!(of(PCK_DER, &third_root()), Err(QuoteRefusal::ForeignRoot));
        // The root's certificate has an issuer of another name, random bytes are none at all.
        for pck in [ROOT_DER, &[0x30; 80]] {
            assert!(matches!(of(pck, ROOT_DER), Err(QuoteRefusal::Parse(QuoteError::Chain(_)))), "{pck:?}");
        }
        assert!(matches!(
            StatedPlatform::of(b"no quote", &TrustAnchor::Intel),
            Err(QuoteRefusal::Parse(QuoteError::Truncated { .. }))
        ));
    }
}
