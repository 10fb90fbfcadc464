//! Who is let in: whether a request to create a session is well formed, the owner's, and something this host serves.
//! Pure; no session is made here. The checks on the configuration itself are the ones the agent repeats.

use std::collections::BTreeMap;

use coffer_evidence::config::{AdmissionError, Config, HostPart, LABEL_LENGTH_MAX, LABELS_MAX, Launch, admit};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{Digest256, SessionId};
use coffer_evidence::intent::{Intent, Shape};
use coffer_evidence::manifest::Profile;
use coffer_evidence::sign::PublicKey;
use coffer_policy::Policy;

use super::types::Timestamp;

/// What a client sends.
pub(crate) struct Request<'a> {
    pub(crate) intent: &'a [u8],
    pub(crate) owner_sig: &'a [u8],
    pub(crate) policy: &'a [u8],
    pub(crate) labels: BTreeMap<String, String>,
}

/// A configuration that holds, not yet known to fit this host.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    /// Canonical bytes: what is measured.
    pub(crate) config: Vec<u8>,
    /// The text whose digest the intent names.
    pub(crate) policy: Vec<u8>,
    pub(crate) intent: Intent,
    pub(crate) labels: BTreeMap<String, String>,
}

/// What admission must know of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageFacts {
    pub(crate) profile: Profile,
    pub(crate) svn: u64,
    /// Unix seconds, 0 is never.
    pub(crate) not_after: u64,
    pub(crate) shapes: Vec<String>,
}

/// What admission must know of the host.
#[derive(Clone, Debug)]
pub(crate) struct HostFacts {
    pub(crate) image: Option<ImageFacts>,
    /// The profiles that this host can launch.
    pub(crate) serves: Vec<Profile>,
    pub(crate) session_known: Known,
    pub(crate) open_sessions: usize,
    pub(crate) sessions_max: usize,
}

/// Whether the session's id has been seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Never,
    Before,
}

/// Why a session is not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("expected an owner's signature of 64 bytes, found {0}")]
    SignatureLength(usize),
    #[error("expected at most {LABELS_MAX} labels of at most {LABEL_LENGTH_MAX} bytes each")]
    Labels,
    #[error("expected an intent in its canonical form")]
    Intent(#[source] coffer_evidence::fields::ParseError),
    #[error("the intent is refused")]
    Config(#[from] AdmissionError),
    #[error("expected a policy without problems, found at {0}")]
    Policy(String),
    #[error("expected an image of this host, found none with digest {0}: `coffer image list` shows what there is")]
    UnknownImage(Digest256),
    #[error(
        "the image is for {image}, this host serves {serves}: choose another image, or another host (simulated images \
         need coffer-tdx-sim beside cofferd or in simulator.command)"
    )]
    ProfileNotServed { image: &'static str, serves: String },
    #[error("expected an image of at least svn {wanted}, found {found}")]
    ImageTooOld { wanted: u64, found: u64 },
    #[error("the image's publisher stands for it until {not_after}, now is {now} (unix seconds): build a new image")]
    ImageExpired { not_after: u64, now: u64 },
    #[error("expected a shape that the image has reference values for, found {0}")]
    ShapeNotMeasured(&'static str),
    #[error("session {0} was created before: an intent serves once, write a new one")]
    SessionIdReused(SessionId),
    #[error("this host has {0} open sessions, its limit: close one, or raise limits.sessions")]
    HostFull(usize),
}

/// Checks the request itself. `now` is the host's clock.
pub(crate) fn check_intent(request: Request<'_>, host_key: PublicKey, now: Timestamp) -> Result<Admitted, Refusal> {
    let owner_sig = request.owner_sig.try_into().map_err(|_| Refusal::SignatureLength(request.owner_sig.len()))?;
    let label = |text: &String| text.len() <= LABEL_LENGTH_MAX;
    if request.labels.len() > LABELS_MAX || !request.labels.iter().all(|(name, value)| label(name) && label(value)) {
        return Err(Refusal::Labels);
    }
    Intent::parse(request.intent).map_err(Refusal::Intent)?;
    let host = HostPart { host_key, launch: Launch::Cold, labels: request.labels.clone() };
    let config = Config { intent: request.intent.to_vec(), owner_sig, host }.to_bytes();
    let (_, intent) = admit(&config, request.policy, Some(now.seconds()))?;
    check_policy(request.policy, &intent)?;
    Ok(Admitted { config, policy: request.policy.to_vec(), intent, labels: request.labels })
}

/// Bytes of problems that a refusal tells: it travels in a header of bounded size.
const PROBLEMS_TOLD: usize = 3 * 1024;

/// Checks what the agent will decide by: a session whose policy says nothing would only fail later.
fn check_policy(text: &[u8], intent: &Intent) -> Result<(), Refusal> {
    let refused = |problems: Vec<String>| Refusal::Policy(told(&problems));
    let text =
        str::from_utf8(text).map_err(|error| refused(vec![format!("byte {}: not UTF-8", error.valid_up_to())]))?;
    let policy = Policy::parse(text).map_err(|problems| {
        let more = (problems.more() > 0).then(|| format!("and {} more", problems.more()));
        refused(problems.iter().map(ToString::to_string).chain(more).collect())
    })?;
    let has = |name: &str| intent.identities.keys().any(|identity| identity.to_string() == name);
    let strangers = policy.identities().iter().filter(|(name, _)| !has(name.as_str()));
    let unknown = |name, place| {
        let names: Vec<String> = intent.identities.keys().map(ToString::to_string).collect();
        format!("{place}: expected an identity of the intent ({}), found `{name}`", names.join(", "))
    };
    let strangers: Vec<String> = strangers.map(|(name, place)| unknown(name, place)).collect();
    if strangers.is_empty() { Ok(()) } else { Err(refused(strangers)) }
}

/// All problems on one line, as far as they fit.
fn told(problems: &[String]) -> String {
    let all = problems.join(" | ");
    let cut = &all[..all.floor_char_boundary(PROBLEMS_TOLD)];
    if cut.len() < all.len() { format!("{cut} … (`coffer policy check` shows all)") } else { all }
}

/// Checks it against what this host has and does.
pub(crate) fn check_host(admitted: &Admitted, host: &HostFacts, now: Timestamp) -> Result<Profile, Refusal> {
    let intent = &admitted.intent;
    if host.session_known == Known::Before {
        return Err(Refusal::SessionIdReused(intent.session));
    }
    let image = host.image.as_ref().ok_or(Refusal::UnknownImage(intent.image))?;
    if !host.serves.contains(&image.profile) {
        let serves: Vec<&str> = host.serves.iter().map(|p| p.as_str()).collect();
        return Err(Refusal::ProfileNotServed {
            image: image.profile.as_str(),
            serves: if serves.is_empty() { "none".to_owned() } else { serves.join(", ") },
        });
    }
    if image.svn < intent.minimum_svn {
        return Err(Refusal::ImageTooOld { wanted: intent.minimum_svn, found: image.svn });
    }
    if image.not_after != 0 && image.not_after < now.seconds() {
        return Err(Refusal::ImageExpired { not_after: image.not_after, now: now.seconds() });
    }
    let shape: Shape = intent.shape;
    if !image.shapes.iter().any(|name| name == shape.as_str()) {
        return Err(Refusal::ShapeNotMeasured(shape.as_str()));
    }
    if host.open_sessions >= host.sessions_max {
        return Err(Refusal::HostFull(host.sessions_max));
    }
    Ok(image.profile)
}

#[cfg(test)]
pub(crate) mod fixtures {
    //! Intents for tests of this crate.

    use super::*;
    use coffer_evidence::ids::{Digest384, Identity};
    use coffer_evidence::intent::{Authority, Durability, Limits, PooledAllowed, RecordRequired, sign_intent};
    use coffer_policy::texts::DEFAULT;
    use ed25519_dalek::SigningKey;

    pub(crate) const NOW: Timestamp = Timestamp(1_800_000_000_000);

    pub(crate) fn owner() -> SigningKey {
        SigningKey::from_bytes(&[11; 32])
    }

    pub(crate) fn intent(session: [u8; 16], image: Digest256) -> Intent {
        let key = PublicKey::of(&SigningKey::from_bytes(&[12; 32]));
        Intent {
            audience: "local".into(),
            session: SessionId::new(session),
            nonce: [5; 32],
            owner: PublicKey::of(&owner()),
            tenant: "acme".into(),
            region: String::new(),
            image,
            policy: Digest384::of(DEFAULT.as_bytes()),
            identities: [(Identity::default_name(), key)].into(),
            authority: Authority::Delegated,
            durability: Durability::Relaxed,
            witnesses: Vec::new(),
            limits: Limits::default(),
            recipients: Vec::new(),
            minimum_svn: 1,
            issued_at: NOW.seconds() - 10,
            not_after: NOW.seconds() + 600,
            shape: Shape::S1,
            pooled: PooledAllowed::No,
            record: RecordRequired::No,
        }
    }

    pub(crate) fn signed(intent: &Intent) -> (Vec<u8>, [u8; 64]) {
        (intent.to_bytes(), sign_intent(&owner(), intent))
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::*;
    use super::*;
    use coffer_evidence::intent::Authority;
    use coffer_policy::texts::DEFAULT;
    use ed25519_dalek::SigningKey;

    fn host_key() -> PublicKey {
        PublicKey::of(&SigningKey::from_bytes(&[13; 32]))
    }

    fn check(intent: &Intent, policy: &str) -> Result<Admitted, Refusal> {
        let (bytes, signature) = signed(intent);
        let request =
            Request { intent: &bytes, owner_sig: &signature, policy: policy.as_bytes(), labels: BTreeMap::new() };
        check_intent(request, host_key(), NOW)
    }

    fn image() -> Digest256 {
        Digest256::of(b"image")
    }

    fn facts() -> HostFacts {
        HostFacts {
            image: Some(ImageFacts { profile: Profile::Simulated, svn: 1, not_after: 0, shapes: vec!["s1".into()] }),
            serves: vec![Profile::Simulated],
            session_known: Known::Never,
            open_sessions: 0,
            sessions_max: 64,
        }
    }

    #[test]
    fn a_signed_intent_with_a_policy_is_admitted() {
        let admitted = check(&intent([1; 16], image()), DEFAULT).expect("admitted");
        assert_eq!(check_host(&admitted, &facts(), NOW).expect("fits"), Profile::Simulated);
        let config = Config::parse(&admitted.config).expect("canonical");
        assert_eq!(config.host.host_key, host_key());
    }

    #[test]
    fn what_the_owner_did_not_sign_is_refused() {
        let (bytes, mut signature) = signed(&intent([1; 16], image()));
        signature[7] ^= 1;
        let request =
            |intent, owner_sig| Request { intent, owner_sig, policy: DEFAULT.as_bytes(), labels: BTreeMap::new() };
        let refused = check_intent(request(&bytes, &signature), host_key(), NOW);
        assert!(matches!(refused, Err(Refusal::Config(AdmissionError::Owner(_)))));
        assert!(matches!(check_intent(request(&bytes, &[1]), host_key(), NOW), Err(Refusal::SignatureLength(1))));
        assert!(matches!(check_intent(request(b"?", &signature), host_key(), NOW), Err(Refusal::Intent(_))));
    }

    #[test]
    fn a_policy_that_says_nothing_or_names_a_stranger_is_refused_with_all_its_problems() {
        let refused = |text: &str| {
            let mut wanted = intent([1; 16], image());
            wanted.policy = coffer_evidence::ids::Digest384::of(text.as_bytes());
            assert!(matches!(check(&wanted, DEFAULT), Err(Refusal::Config(AdmissionError::PolicyDigest { .. }))));
            match check(&wanted, text) {
                Err(Refusal::Policy(problems)) => problems,
                other => panic!("{other:?}"),
            }
        };
        let two = refused(
            "permit (principal, action, resource);\n@id(\"b\") permit (principal, action == Action::\"x\", resource);",
        );
        assert!(
            two.starts_with("1:1: expected `@id") && two.contains(" | 2:39: rule `b`: unrecognized action"),
            "{two}"
        );
        let stranger = refused("@id(\"a\")\npermit (principal == Identity::\"coder\", action, resource);");
        assert_eq!(stranger, "2:32: expected an identity of the intent (default), found `coder`");
        let many = refused(&"permit (principal, action, resource);\n".repeat(100));
        assert!(many.len() < PROBLEMS_TOLD + 100 && many.ends_with("(`coffer policy check` shows all)"), "{many}");
    }

    #[test]
    fn what_is_not_served_yet_is_refused() {
        let mut wanted = intent([1; 16], image());
        wanted.authority = Authority::EndToEnd;
        assert!(matches!(check(&wanted, DEFAULT), Err(Refusal::Config(AdmissionError::Unsupported { .. }))));
        let mut late = intent([1; 16], image());
        late.not_after = NOW.seconds() - 1;
        assert!(matches!(check(&late, DEFAULT), Err(Refusal::Config(AdmissionError::Expired { .. }))));
        let mut long = intent([1; 16], image());
        long.limits.ttl_s = 86_401;
        assert!(matches!(check(&long, DEFAULT), Err(Refusal::Config(AdmissionError::Limits { .. }))));
    }

    #[test]
    fn labels_are_bounded() {
        let (bytes, signature) = signed(&intent([1; 16], image()));
        let with = |labels: BTreeMap<String, String>| {
            let request = Request { intent: &bytes, owner_sig: &signature, policy: DEFAULT.as_bytes(), labels };
            check_intent(request, host_key(), NOW)
        };
        let labels = |n: usize, length: usize| (0..n).map(|i| (format!("{i}"), "x".repeat(length))).collect();
        assert!(with(labels(LABELS_MAX, LABEL_LENGTH_MAX)).is_ok());
        assert!(matches!(with(labels(LABELS_MAX + 1, 1)), Err(Refusal::Labels)));
        assert!(matches!(with(labels(1, LABEL_LENGTH_MAX + 1)), Err(Refusal::Labels)));
    }

    #[test]
    fn what_the_host_does_not_have_is_refused() {
        let admitted = check(&intent([1; 16], image()), DEFAULT).expect("admitted");
        let refusal = |change: fn(&mut HostFacts)| {
            let mut host = facts();
            change(&mut host);
            check_host(&admitted, &host, NOW)
        };
        assert!(matches!(refusal(|h| h.image = None), Err(Refusal::UnknownImage(_))));
        assert!(matches!(refusal(|h| h.serves = vec![Profile::Tdx]), Err(Refusal::ProfileNotServed { .. })));
        assert!(matches!(refusal(|h| h.session_known = Known::Before), Err(Refusal::SessionIdReused(_))));
        assert!(matches!(refusal(|h| h.open_sessions = 64), Err(Refusal::HostFull(64))));
        assert!(refusal(|h| h.open_sessions = 63).is_ok());
        let set = |h: &mut HostFacts, f: fn(&mut ImageFacts)| f(h.image.as_mut().expect("image"));
        let mut old = facts();
        set(&mut old, |i| i.svn = 0);
        assert!(matches!(check_host(&admitted, &old, NOW), Err(Refusal::ImageTooOld { .. })));
        let mut expired = facts();
        set(&mut expired, |i| i.not_after = 1);
        assert!(matches!(check_host(&admitted, &expired, NOW), Err(Refusal::ImageExpired { .. })));
        let mut shapeless = facts();
        set(&mut shapeless, |i| i.shapes.clear());
        assert!(matches!(check_host(&admitted, &shapeless, NOW), Err(Refusal::ShapeNotMeasured("s1"))));
    }
}
