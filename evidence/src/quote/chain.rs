//! The PCK certificate chain that a quote carries (certification data type 5): leaf, PCK CA, root, as PEM text.
//!
//! No signature covers this text, so it must be exactly the text that its certificates encode to: lines of 64 characters, one
//! line feed after each, and at most one NUL at the end (real quoting enclaves write one). One quote then has one form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::QuoteError;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----\n";
const END: &str = "-----END CERTIFICATE-----\n";
const LINE: usize = 64;

/// Longest chain that is read.
pub(crate) const MAX_CERTIFICATES: usize = 4;

/// The three certificates, as DER.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PckChain {
    /// The provisioning certification key of the platform.
    pub leaf: Vec<u8>,
    /// The platform or processor CA that issued it.
    pub issuer: Vec<u8>,
    /// The root that the quote claims. Never a source of trust: a verifier compares it with its own.
    pub root: Vec<u8>,
}

impl PckChain {
    /// Parses the text of certification data type 5.
    ///
    /// # Errors
    /// [`QuoteError::Chain`] when the text is not exactly three certificates in canonical PEM.
    pub fn parse(data: &[u8]) -> Result<Self, QuoteError> {
        let text = data.strip_suffix(&[0]).unwrap_or(data);
        match <[Vec<u8>; 3]>::try_from(parse_certificates(text)?) {
            Ok([leaf, issuer, root]) => Ok(PckChain { leaf, issuer, root }),
            Err(_) => Err(QuoteError::Chain("it does not hold exactly three certificates")),
        }
    }
}

/// Parses a sequence of certificates in canonical PEM, as in quotes and in collateral; at most [`MAX_CERTIFICATES`].
///
/// # Errors
/// [`QuoteError::Chain`] for any other text.
pub(crate) fn parse_certificates(text: &[u8]) -> Result<Vec<Vec<u8>>, QuoteError> {
    let mut rest = std::str::from_utf8(text).map_err(|_| QuoteError::Chain("it is not ASCII text"))?;
    let mut certificates = Vec::new();
    while !rest.is_empty() {
        if certificates.len() == MAX_CERTIFICATES {
            return Err(QuoteError::Chain("it holds too many certificates"));
        }
        let (der, after) = take_certificate(rest)?;
        certificates.push(der);
        rest = after;
    }
    Ok(certificates)
}

fn take_certificate(text: &str) -> Result<(Vec<u8>, &str), QuoteError> {
    let text = text.strip_prefix(BEGIN).ok_or(QuoteError::Chain("a certificate does not begin where one must"))?;
    let (body, rest) = text.split_once(END).ok_or(QuoteError::Chain("a certificate does not end"))?;
    let joined: String = body.split('\n').collect();
    let der = STANDARD.decode(joined).map_err(|_| QuoteError::Chain("a certificate is not base64"))?;
    if der.is_empty() || pem_body(&der) != body {
        return Err(QuoteError::Chain("a certificate is not in canonical PEM form"));
    }
    Ok((der, rest))
}

/// A certificate in the one form that chains have, here and in collateral.
#[must_use]
pub fn pem(der: &[u8]) -> String {
    format!("{BEGIN}{}{END}", pem_body(der))
}

fn pem_body(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut body = String::with_capacity(encoded.len().saturating_add(encoded.len() / LINE).saturating_add(1));
    for (position, character) in encoded.chars().enumerate() {
        if position > 0 && position % LINE == 0 {
            body.push('\n');
        }
        body.push(character);
    }
    body.push('\n');
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> String {
        [pem(&[1; 100]), pem(&[2; 96]), pem(&[3; 48])].concat()
    }

    #[test]
    fn three_canonical_certificates_are_read_with_and_without_the_final_nul() {
        let expected = PckChain { leaf: vec![1; 100], issuer: vec![2; 96], root: vec![3; 48] };
        assert_eq!(PckChain::parse(chain().as_bytes()), Ok(expected.clone()));
        assert_eq!(PckChain::parse(format!("{}\0", chain()).as_bytes()), Ok(expected));
    }

    #[test]
    fn every_other_way_to_write_the_same_certificates_is_refused() {
        let text = chain();
        let variants = [
            format!("{text}\0\0"),
            format!("{text}\n"),
            format!("\n{text}"),
            text.replace('\n', "\r\n"),
            text.trim_end().to_owned(),
            text.replacen("AQEB\n", "AQEB", 1),
            text.replace("-----\n-----", "-----\n\n-----"),
            [text.clone(), pem(&[4; 10])].concat(),
            [pem(&[1; 100]), pem(&[2; 96])].concat(),
            String::new(),
        ];
        for variant in variants.iter().filter(|variant| **variant != text) {
            assert!(PckChain::parse(variant.as_bytes()).is_err(), "{variant:?}");
        }
    }
}
