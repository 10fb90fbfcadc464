//! Signed texts: an accepted one is exactly what the holder of the key signed.

use coffer_evidence::dsse::Envelope;
use coffer_evidence::manifest::ImageManifest;
use coffer_evidence::note::{Checkpoint, NOTE_MAX, open_note, sign_note};
use coffer_evidence::sign::PublicKey;

use crate::fixtures;

/// Checkpoints as C2SP notes.
pub fn checkpoint_note(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(checkpoint) = Checkpoint::parse_text(text) {
        assert_eq!(checkpoint.to_text(), text, "another form of a checkpoint was accepted");
    }
    let key = fixtures::log_key();
    let known = fixtures::sealed_bundle().member("checkpoint").expect("a checkpoint");
    let origin = text.lines().next().unwrap_or_default();
    if let Ok(checkpoint) = open_note(text, &PublicKey::of(&key), origin) {
        assert!(text.len() <= NOTE_MAX, "a note of {} bytes", text.len());
        assert_eq!(data, known, "a note that the log key did not sign");
        assert_eq!(sign_note(&key, &checkpoint), text);
    }
}

/// DSSE envelopes, and the manifest that one may hold.
pub fn dsse(data: &[u8]) {
    let Ok(envelope) = Envelope::parse(data) else { return };
    assert_eq!(envelope.to_bytes(), data, "another form of an envelope was accepted");
    let payload = envelope.unverified_payload();
    if let Ok(manifest) = ImageManifest::parse(payload) {
        assert_eq!(manifest.payload(), payload, "another form of a manifest was accepted");
    }
    let known = ["image.dsse", "statement.dsse"].map(|name| fixtures::sealed_bundle().member(name).expect("a member"));
    for payload_type in [coffer_evidence::manifest::PAYLOAD_TYPE, coffer_evidence::statement::PAYLOAD_TYPE] {
        if envelope.verify(envelope.signer(), payload_type).is_ok() {
            let signers = known.map(|bytes| *Envelope::parse(bytes).expect("the seed's").signer());
            assert!(!signers.contains(envelope.signer()) || known.contains(&data), "an envelope that nobody signed");
        }
    }
}
