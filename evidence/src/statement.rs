//! The in-toto Statement v1 that the log key signs before it is destroyed: the seal in the form that supply-chain tools
//! read. Its subjects are the log root, configuration, policy, open map, opening quote and leaves; it names no later file.

use ed25519_dalek::SigningKey;
use serde::Serialize;

use crate::dsse::Envelope;
use crate::ids::{Digest256, Digest384};
use crate::seal::SealMap;

/// DSSE payload type.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The predicate.
pub const PREDICATE_TYPE: &str = "https://coffer.dev/sealed-session/v1";

/// What the statement is about, beside S.
#[derive(Clone, Copy, Debug)]
pub struct Subjects {
    /// SHA-384 of the policy text.
    pub policy: Digest384,
    /// SHA-256 of the canonical open map.
    pub open_map: Digest256,
    /// SHA-256 of the `leaves` file.
    pub leaves: Digest256,
}

#[derive(Serialize)]
struct Statement<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: &'static str,
    predicate: Predicate<'a>,
}

#[derive(Serialize)]
struct Subject {
    name: &'static str,
    digest: std::collections::BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct Predicate<'a> {
    session: String,
    instance: String,
    config_digest: String,
    opening_quote: String,
    size: u64,
    root: String,
    events: u64,
    rtmr3: String,
    scrub_leaf: String,
    closed_by: &'a str,
    reason: &'a str,
    collateral: Vec<String>,
}

fn subject(name: &'static str, algorithm: &'static str, digest: String) -> Subject {
    Subject { name, digest: [(algorithm, digest)].into() }
}

/// The payload for these fields 2-13 of S; field 14 is its digest. One form only.
#[must_use]
pub fn payload(seal: &SealMap, subjects: &Subjects) -> Vec<u8> {
    let statement = Statement {
        kind: "https://in-toto.io/Statement/v1",
        subject: vec![
            subject("root", "sha256", seal.root.to_string()),
            subject("config.cbor", "sha384", seal.config_digest.to_string()),
            subject("policy", "sha384", subjects.policy.to_string()),
            subject("open.cbor", "sha256", subjects.open_map.to_string()),
            subject("open.quote", "sha256", seal.opening_quote.to_string()),
            subject("leaves", "sha256", subjects.leaves.to_string()),
        ],
        predicate_type: PREDICATE_TYPE,
        predicate: Predicate {
            session: seal.session.to_string(),
            instance: seal.instance.to_string(),
            config_digest: seal.config_digest.to_string(),
            opening_quote: seal.opening_quote.to_string(),
            size: seal.size,
            root: seal.root.to_string(),
            events: seal.events,
            rtmr3: hex::encode(seal.rtmr3.as_bytes()),
            scrub_leaf: seal.scrub_leaf.to_string(),
            closed_by: seal.closed_by.as_str(),
            reason: seal.reason.as_str(),
            collateral: seal.collateral.iter().map(ToString::to_string).collect(),
        },
    };
    serde_json::to_vec(&statement).unwrap_or_default()
}

/// Fills in S's field 14 and signs the statement with the log key.
#[must_use]
pub fn sign_statement(key: &SigningKey, seal: &mut SealMap, subjects: &Subjects) -> Envelope {
    let payload = payload(seal, subjects);
    seal.statement = Digest256::of(&payload);
    Envelope::sign(key, PAYLOAD_TYPE, payload)
}
