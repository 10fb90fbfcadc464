//! Building and signing an intent on the user's side: the host never holds the owner's key.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{Digest256, Digest384, Identity, SessionId};
use coffer_evidence::intent::{
    Authority, Durability, Intent, Limits, PooledAllowed, RecordRequired, Shape, sign_intent,
};
use coffer_evidence::sign::PublicKey;
use ed25519_dalek::SigningKey;

use crate::error::ClientError;

/// How long an intent can be used after it was signed.
const VALID_FOR: Duration = Duration::from_secs(15 * 60);

/// What a user chooses; the rest of the intent is fixed in this version.
#[derive(Clone, Debug)]
pub struct Wish {
    /// SHA-256 of the image's manifest.
    pub image: Digest256,
    /// The policy text.
    pub policy: Vec<u8>,
    /// Deployment.
    pub audience: String,
    /// Tenant, may be empty.
    pub tenant: String,
    /// Bounds.
    pub limits: Limits,
    /// The least security version of the image.
    pub minimum_svn: u64,
    /// Who may order calls, each under a key of its own; at least one.
    pub identities: BTreeMap<Identity, PublicKey>,
    /// Whether a call that cannot be recorded in full is ended.
    pub record: RecordRequired,
}

/// A signed intent, ready for `CreateSession`.
#[derive(Clone, Debug)]
pub struct SignedIntent {
    /// The session's id, chosen here.
    pub session: SessionId,
    /// Canonical bytes.
    pub intent: Vec<u8>,
    /// By the owner.
    pub owner_sig: [u8; 64],
    /// The policy text.
    pub policy: Vec<u8>,
}

/// Builds and signs.
///
/// # Errors
/// [`ClientError::Random`].
pub fn sign(wish: Wish, owner: &SigningKey) -> Result<SignedIntent, ClientError> {
    let (mut session, mut nonce) = ([0; 16], [0; 32]);
    getrandom::fill(&mut session)?;
    getrandom::fill(&mut nonce)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let intent = Intent {
        audience: wish.audience,
        session: SessionId::new(session),
        nonce,
        owner: PublicKey::of(owner),
        tenant: wish.tenant,
        region: String::new(),
        image: wish.image,
        policy: Digest384::of(&wish.policy),
        identities: wish.identities,
        authority: Authority::Delegated,
        durability: Durability::Relaxed,
        witnesses: Vec::new(),
        limits: wish.limits,
        recipients: Vec::new(),
        minimum_svn: wish.minimum_svn,
        issued_at: now.as_secs(),
        not_after: (now + VALID_FOR).as_secs(),
        shape: Shape::S1,
        pooled: PooledAllowed::No,
        record: wish.record,
    };
    let owner_sig = sign_intent(owner, &intent);
    Ok(SignedIntent { session: intent.session, intent: intent.to_bytes(), owner_sig, policy: wish.policy })
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_evidence::intent::verify_intent;

    #[test]
    fn a_signed_intent_is_the_owners_and_each_has_its_own_session() {
        let owner = SigningKey::from_bytes(&[1; 32]);
        let identity = PublicKey::of(&SigningKey::from_bytes(&[2; 32]));
        let wish = Wish {
            image: Digest256::of(b"image"),
            policy: b"a policy".to_vec(),
            audience: "local".into(),
            tenant: String::new(),
            limits: Limits::default(),
            minimum_svn: 0,
            identities: BTreeMap::from([(Identity::default_name(), identity)]),
            record: RecordRequired::Yes,
        };
        let signed = sign(wish.clone(), &owner).expect("randomness");
        let intent = Intent::parse(&signed.intent).expect("canonical");
        assert_eq!(verify_intent(&intent, &signed.owner_sig), Ok(()));
        assert_eq!((intent.session, intent.record), (signed.session, RecordRequired::Yes));
        assert_eq!(intent.identities[&Identity::default_name()], identity);
        assert_ne!(sign(wish, &owner).expect("randomness").session, signed.session);
    }
}
