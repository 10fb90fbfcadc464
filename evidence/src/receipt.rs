//! The host's receipt: which clean-up steps it says it did, signed by the host key. A claim: it never raises a verdict.

use ed25519_dalek::SigningKey;
use thiserror::Error;

use crate::cbor::{Value, decode, encode};
use crate::fields::{Canonical, Fields, MapBuilder, ParseError, bytes};
use crate::ids::{Digest256, InstanceId, SessionId};
use crate::sign::{PublicKey, SignatureError, sign, verify};

/// The tag that the host signs under.
pub const RECEIPT_TAG: &str = "coffer/receipt/v1";
/// The most steps.
pub const STEPS_MAX: usize = 64;
/// The longest name or result in bytes.
pub const STEP_LENGTH_MAX: usize = 256;

/// What the host says it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The session.
    pub session: SessionId,
    /// The TD.
    pub instance: InstanceId,
    /// SHA-256 of the final quote; absent when there was none.
    pub final_quote: Option<Digest256>,
    /// The bundle it belongs to.
    pub core_id: Digest256,
    /// Step and result, in the order they were done.
    pub steps: Vec<(String, String)>,
}

/// Why a receipt is refused.
#[derive(Debug, Error)]
pub enum ReceiptError {
    /// Malformed.
    #[error("the receipt is malformed")]
    Parse(#[from] ParseError),
    /// Not the host's.
    #[error("the receipt is not signed by the host key of the configuration")]
    Signature(#[from] SignatureError),
}

impl Canonical for Receipt {
    const NAME: &'static str = "receipt";

    fn to_value(&self) -> Value {
        let steps = self
            .steps
            .iter()
            .map(|(step, result)| Value::Array(vec![Value::Text(step.clone()), Value::Text(result.clone())]))
            .collect();
        MapBuilder::versioned()
            .bytes(2, self.session)
            .bytes(3, self.instance)
            .maybe(4, self.final_quote.map(bytes))
            .bytes(5, self.core_id)
            .put(6, Value::Array(steps))
            .build()
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let mut f = Fields::new(Self::NAME, value)?;
        f.version()?;
        let receipt = Self {
            session: SessionId::new(f.array(2)?),
            instance: InstanceId::new(f.array(3)?),
            final_quote: f.optional_array(4)?.map(Digest256::new),
            core_id: Digest256::new(f.array(5)?),
            steps: f
                .list(6)?
                .into_iter()
                .map(|item| {
                    let Value::Array(pair) = item else { return Err(f.error(6, "pairs of text")) };
                    match <[Value; 2]>::try_from(pair) {
                        Ok([Value::Text(step), Value::Text(result)])
                            if step.len().max(result.len()) <= STEP_LENGTH_MAX =>
                        {
                            Ok((step, result))
                        }
                        _ => Err(f.error(6, "pairs of text of at most 256 bytes")),
                    }
                })
                .collect::<Result<_, _>>()?,
        };
        if receipt.steps.len() > STEPS_MAX {
            return Err(f.error(6, "at most 64 steps"));
        }
        f.finish()?;
        Ok(receipt)
    }
}

/// `receipt.cbor`: [receipt, signature].
#[must_use]
pub fn sign_receipt(host: &SigningKey, receipt: &Receipt) -> Vec<u8> {
    let signature = sign(host, RECEIPT_TAG, receipt.to_value());
    encode(&Value::Array(vec![receipt.to_value(), bytes(signature)]))
}

/// Reads `receipt.cbor` and checks the signature by `host`.
///
/// # Errors
/// [`ReceiptError`].
pub fn open_receipt(input: &[u8], host: &PublicKey) -> Result<Receipt, ReceiptError> {
    let wrong = || ParseError::Type { structure: "receipt", expected: "[receipt, signature]" };
    let Value::Array(items) = decode(input).map_err(ParseError::from)? else { return Err(wrong().into()) };
    let Ok([receipt, Value::Bytes(signature)]) = <[Value; 2]>::try_from(items) else { return Err(wrong().into()) };
    let signature: [u8; 64] = signature.try_into().map_err(|_| wrong())?;
    let receipt = Receipt::from_value(receipt)?;
    if encode(&Value::Array(vec![receipt.to_value(), bytes(signature)])) != input {
        return Err(ParseError::NotCanonical { structure: "receipt" }.into());
    }
    verify(host, RECEIPT_TAG, receipt.to_value(), &signature)?;
    Ok(receipt)
}
