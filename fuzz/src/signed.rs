//! Signed texts: an accepted one is exactly what the holder of the key signed.

use coffer_evidence::dsse::Envelope;
use coffer_evidence::git::{COMMIT_MAX, Commit, SignedCommit, SshSignature};
use coffer_evidence::manifest::ImageManifest;
use coffer_evidence::note::{Checkpoint, NOTE_MAX, open_note, sign_note};
use coffer_evidence::sign::PublicKey;
use ed25519_dalek::SigningKey;

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

/// Who signed the one commit that is good.
const GIT_KEY: [u8; 32] = [4; 32];

/// Commit objects, signed and not, and signatures by themselves.
pub fn git_commit(data: &[u8]) {
    let key = SigningKey::from_bytes(&GIT_KEY);
    if let Ok(commit) = Commit::parse(data) {
        assert!(data.len() <= COMMIT_MAX && commit.to_bytes() == data, "another form of a commit was accepted");
        let signed = commit.sign(&key);
        // Near its limit a commit has no room for its signature.
        if let Ok(again) = SignedCommit::parse(&signed.to_bytes()) {
            assert!(again == signed && again.verifies(), "a commit that is signed is another");
        }
    }
    if let Ok(signed) = SignedCommit::parse(data) {
        assert!(signed.to_bytes() == data && signed.id() == signed.id().of_commit(data), "another form was accepted");
        if signed.signature().key == PublicKey::of(&key) && signed.verifies() {
            let honest = SshSignature::sign(&key, &signed.commit().to_bytes());
            assert!(*signed.signature() == honest, "a second signature of one commit");
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(signature) = SshSignature::parse(text)
    {
        assert_eq!(signature.to_armor(), text, "another form of a signature was accepted");
    }
}
