//! Whole valid bundles in memory, from deterministic keys, with a hook at every place where a test wants to lie. Everything after
//! a hook is made anew, so that a lie is consistent except where it must show.

#[path = "talk.rs"]
#[allow(dead_code, reason = "not every test that makes sessions has clients that sign")]
pub(crate) mod talk;

use std::collections::BTreeMap;

use coffer_evidence::bundle::{self, EncryptedMembers, Parts, SealParts};
use coffer_evidence::call::{Disclosed, IntentPrivate, OutcomePrivate, Request};
use coffer_evidence::config::{Config, HostPart, Launch, measured_config};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{CallId, Digest256, Digest384, Identity, SessionId};
use coffer_evidence::intent::{
    Authority, Durability, Intent, Limits, PooledAllowed, RecordRequired, Shape, sign_intent,
};
use coffer_evidence::leaf::{CauseClass, Leaf, Method, Opened, Public, Reporter, ScrubStep, StepResult};
use coffer_evidence::manifest::{ImageDigests, ImageManifest, Profile, Register, ShapeReference};
use coffer_evidence::note::{Checkpoint, sign_note};
use coffer_evidence::open::OpenMap;
use coffer_evidence::private::{Place, PrivateKey};
use coffer_evidence::receipt::{Receipt, sign_receipt};
use coffer_evidence::rtmr::{Rtmr, Rtmr3Event, event_bytes, event_digest};
use coffer_evidence::seal::{ClosedBy, Reason, SealMap};
use coffer_evidence::sign::PublicKey;
use coffer_evidence::statement::{Subjects, sign_statement};
use coffer_evidence::tree::{Tree, leaf_hash};
use ed25519_dalek::SigningKey;

use crate::platform::{self, Dates, MID_NOVEMBER, NOVEMBER, Tcb, Td};

/// The time that the fixtures are verified at.
pub(crate) const AT: u64 = MID_NOVEMBER;

/// Keys by their use: published, and worth nothing.
pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn owner() -> SigningKey {
    key(1)
}

pub(crate) fn publisher() -> SigningKey {
    key(2)
}

pub(crate) fn log_key() -> SigningKey {
    key(3)
}

pub(crate) fn host() -> SigningKey {
    key(5)
}

/// Where a test changes what is made. Each hook runs before everything that depends on what it changes.
#[derive(Clone)]
pub(crate) struct Recipe {
    pub(crate) calls: u32,
    pub(crate) publisher: SigningKey,
    pub(crate) manifest: fn(&mut ImageManifest),
    pub(crate) intent: fn(&mut Intent),
    pub(crate) config: fn(&mut Config),
    pub(crate) policy: &'static str,
    pub(crate) open: fn(&mut OpenMap),
    pub(crate) opening_td: fn(&mut Td),
    /// What clients say, where they sign what they ask for. The leaves of `calls` are then not made.
    pub(crate) talk: Option<fn(&mut talk::Talk<'_>)>,
    pub(crate) leaves: fn(&mut Vec<Leaf>),
    pub(crate) events: fn(&mut Vec<Rtmr3Event>),
    pub(crate) checkpoint: fn(&mut Checkpoint),
    pub(crate) note_key: SigningKey,
    pub(crate) seal: fn(&mut SealMap),
    pub(crate) statement_key: SigningKey,
    pub(crate) final_td: fn(&mut Td),
    pub(crate) opening_root: &'static [u8],
    pub(crate) final_root: &'static [u8],
    pub(crate) pck: fn() -> Vec<u8>,
    pub(crate) final_pck: fn() -> Vec<u8>,
    pub(crate) opening_dates: Dates,
    pub(crate) final_dates: Dates,
    pub(crate) tcb: Tcb,
    pub(crate) receipt: fn(&mut Receipt),
    pub(crate) host: SigningKey,
}

/// The policy of the fixtures. It permits everything; what it says is nothing that this crate looks at.
pub(crate) const PERMIT_ALL: &str = "permit (principal, action, resource);\n";
/// The rule of it that decisions name.
pub(crate) const PERMIT_ALL_RULE: &str = "policy0";

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            calls: 3,
            publisher: publisher(),
            manifest: |_| {},
            intent: |_| {},
            config: |_| {},
            policy: PERMIT_ALL,
            open: |_| {},
            opening_td: |_| {},
            talk: None,
            leaves: |_| {},
            events: |_| {},
            checkpoint: |_| {},
            note_key: log_key(),
            seal: |_| {},
            statement_key: log_key(),
            final_td: |_| {},
            opening_root: platform::ROOT_DER,
            final_root: platform::ROOT_DER,
            pck: || platform::PCK_DER.to_vec(),
            final_pck: || platform::PCK_DER.to_vec(),
            opening_dates: Dates::NOVEMBER,
            final_dates: Dates::NOVEMBER,
            tcb: Tcb::UP_TO_DATE,
            receipt: |_| {},
            host: host(),
        }
    }
}

/// Whether the TD got to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Sealed,
    Killed,
}

/// What a session has before its first leaf.
pub(crate) struct Opening {
    pub(crate) intent: Intent,
    pub(crate) config: Vec<u8>,
    pub(crate) image_dsse: Vec<u8>,
    pub(crate) open: OpenMap,
    pub(crate) td: Td,
    pub(crate) quote: Vec<u8>,
}

fn reference(td: &Td) -> ShapeReference {
    ShapeReference {
        mrtd: Register(td.mrtd),
        rtmr0: Register(td.rtmr[0]),
        rtmr1: Register(td.rtmr[1]),
        rtmr2: Register(td.rtmr[2]),
        qemu: "11.1.3".to_owned(),
        firmware: "2026.08".to_owned(),
    }
}

fn manifest() -> ImageManifest {
    let digest = |seed: u8| hex::encode([seed; 32]);
    ImageManifest {
        name: "base".to_owned(),
        version: "1".to_owned(),
        svn: 1,
        profile: Profile::Simulated,
        shapes: BTreeMap::from([("s1".to_owned(), reference(&Td::default()))]),
        digests: ImageDigests {
            firmware: digest(1),
            kernel: digest(2),
            initrd: digest(3),
            cmdline: digest(4),
            root: digest(5),
            verity: digest(6),
            verity_root: digest(7),
            packages: digest(8),
        },
        not_after: 0,
    }
}

fn intent(image: Digest256, policy: &str) -> Intent {
    Intent {
        audience: "local".to_owned(),
        session: SessionId::new([0x5e; 16]),
        nonce: [9; 32],
        owner: PublicKey::of(&owner()),
        tenant: "tenant".to_owned(),
        region: String::new(),
        image,
        policy: Digest384::of(policy.as_bytes()),
        identities: BTreeMap::from([(Identity::default_name(), PublicKey::of(&key(6)))]),
        authority: Authority::Delegated,
        durability: Durability::Relaxed,
        witnesses: Vec::new(),
        limits: Limits::default(),
        recipients: Vec::new(),
        minimum_svn: 1,
        issued_at: NOVEMBER,
        not_after: NOVEMBER + 7 * 86_400,
        shape: Shape::S1,
        pooled: PooledAllowed::No,
        record: RecordRequired::No,
    }
}

/// Makes the opening of a session.
pub(crate) fn opening(recipe: &Recipe) -> Opening {
    let mut manifest = manifest();
    (recipe.manifest)(&mut manifest);
    let mut intent = intent(ImageManifest::digest(&manifest.payload()), recipe.policy);
    (recipe.intent)(&mut intent);
    let mut config = Config {
        intent: intent.to_bytes(),
        owner_sig: sign_intent(&owner(), &intent),
        host: HostPart {
            host_key: PublicKey::of(&host()),
            launch: Launch::Cold,
            labels: BTreeMap::from([("rack".to_owned(), "7".to_owned())]),
        },
    };
    (recipe.config)(&mut config);
    let config = config.to_bytes();
    let mut open = OpenMap {
        launch: Launch::Cold,
        session: intent.session,
        config_digest: Digest384::of(&config),
        log_key: PublicKey::of(&log_key()),
        tls_spki: Digest256::of(b"tls"),
        git_key: PublicKey::of(&key(4)),
        agent_svn: 1,
        random: [8; 32],
        bind_nonce: None,
    };
    (recipe.open)(&mut open);
    let measured = measured_config(&config, &intent);
    let event = event_bytes(0, &Rtmr3Event::Open(Box::new(open.clone())));
    let mut td = Td {
        mr_config_id: measured.mr_config_id,
        mr_owner: measured.mr_owner,
        mr_owner_config: measured.mr_owner_config,
        ..Td::default()
    };
    td.rtmr[3] = *Rtmr::ZERO.extend(&event_digest(&event)).as_bytes();
    (recipe.opening_td)(&mut td);
    let quote = platform::quote_with_chain(&td, &open.report_data(), &(recipe.pck)(), recipe.opening_root);
    Opening { intent, config, image_dsse: manifest.sign(&recipe.publisher).to_bytes(), open, td, quote }
}

/// 32 bytes that are another call's for each `n`.
fn salt(n: u32, kind: u8) -> [u8; 32] {
    let [low, higher @ ..] = n.to_le_bytes();
    let mut salt = [low ^ kind; 32];
    salt.iter_mut().zip(higher).for_each(|(byte, high)| *byte ^= high);
    salt
}

fn private_intent(n: u32) -> Opened {
    let request = Request::Exec {
        argv: vec!["true".to_owned(), n.to_string()],
        cwd: "/workspace".to_owned(),
        env: BTreeMap::new(),
        timeout_ms: 1000,
        grace_ms: 100,
        output_bytes_max: 4096,
        terminal: None,
    };
    let private = IntentPrivate {
        client_salt: salt(n, 0),
        request: request.to_bytes(),
        program: Some("/usr/bin/true".to_owned()),
        paths: Vec::new(),
    };
    Opened { salt: salt(n, 0x80), bytes: private.to_bytes() }
}

fn private_outcome(n: u32) -> Opened {
    let private = OutcomePrivate { code: Some(0), ..OutcomePrivate::new(CauseClass::Completed) };
    Opened { salt: salt(n, 0x40), bytes: private.to_bytes() }
}

/// A leaf without identity, call or private part.
pub(crate) fn plain(session: SessionId, index: u64, public: Public) -> Leaf {
    Leaf {
        session,
        index,
        reporter: Reporter::Agent,
        identity: None,
        call: None,
        monotonic_ns: 1_000 * index,
        wall_hint_ms: 0,
        public,
        commitment: None,
    }
}

pub(crate) fn call_id(n: u32) -> CallId {
    let mut call = [0; 16];
    call.copy_from_slice(&salt(n, 0)[..16]);
    CallId::new(call)
}

fn of_call(leaf: Leaf, n: u32, private: &Opened) -> Leaf {
    Leaf {
        identity: Some(Identity::default_name()),
        call: Some(call_id(n)),
        commitment: Some(private.commitment()),
        ..leaf
    }
}

fn scrub_steps() -> Vec<(ScrubStep, StepResult)> {
    ScrubStep::ALL.iter().map(|step| (*step, StepResult::Done)).collect()
}

/// Leaves and private parts of `calls` calls; killed sessions leave the last call without an outcome.
fn of_calls(recipe: &Recipe, opening: &Opening, ending: Ending) -> (Vec<Leaf>, Vec<Disclosed>) {
    let session = opening.intent.session;
    let mut leaves = vec![first(opening)];
    let mut disclosed = Vec::new();
    let mut put = |public: Public, n: u32, private: Opened, leaves: &mut Vec<Leaf>| {
        let index = leaves.len() as u64;
        leaves.push(of_call(plain(session, index, public), n, &private));
        disclosed.push(Disclosed { index, salt: private.salt, bytes: private.bytes });
    };
    for n in 1..=recipe.calls {
        let rules = vec![PERMIT_ALL_RULE.to_owned()];
        let intent = Public::Intent { method: Method::Exec, rules, request_steps: 1, header: None };
        put(intent, n, private_intent(n), &mut leaves);
        if ending == Ending::Killed && n == recipe.calls {
            break;
        }
        let outcome = Public::Outcome {
            method: Method::Exec,
            cause: CauseClass::Completed,
            output_steps: 0,
            input_steps: 0,
            input_covered: None,
        };
        put(outcome, n, private_outcome(n), &mut leaves);
    }
    (leaves, disclosed)
}

fn first(opening: &Opening) -> Leaf {
    let opening_quote = Digest256::of(&opening.quote);
    plain(opening.intent.session, 0, Public::Open { instance: opening.open.instance(), opening_quote })
}

/// Leaves, private parts, and the sizes at which checkpoints are made before the last.
fn leaves(recipe: &Recipe, opening: &Opening, ending: Ending) -> (Vec<Leaf>, Vec<Disclosed>, Vec<u64>) {
    let (mut leaves, disclosed, checkpoints) = match recipe.talk {
        None => {
            let (leaves, disclosed) = of_calls(recipe, opening, ending);
            (leaves, disclosed, vec![2])
        }
        Some(script) => {
            let mut talk = talk::Talk::new(opening, ending, first(opening));
            script(&mut talk);
            (talk.leaves, talk.disclosed, talk.checkpoints)
        }
    };
    if ending == Ending::Sealed {
        let (session, index) = (opening.intent.session, leaves.len() as u64);
        leaves.push(plain(session, index, Public::Scrub { steps: scrub_steps() }));
        leaves.push(plain(session, index + 1, Public::Seal { count: index + 2 }));
    }
    (leaves, disclosed, checkpoints)
}

fn root(leaves: &[Vec<u8>], size: usize) -> Digest256 {
    let mut tree = Tree::new();
    for leaf in &leaves[..size] {
        tree.append(leaf_hash(leaf));
    }
    tree.root()
}

/// Makes a whole bundle, as parts that a test may still change.
pub(crate) fn parts(recipe: &Recipe, ending: Ending) -> Parts {
    let opening = opening(recipe);
    let (mut leaves, disclosed, checkpoints) = leaves(recipe, &opening, ending);
    (recipe.leaves)(&mut leaves);
    let leaves: Vec<Vec<u8>> = leaves.iter().map(Leaf::to_bytes).collect();
    let size = leaves.len() as u64;
    let last = root(&leaves, leaves.len());
    let mut events = vec![Rtmr3Event::Open(Box::new(opening.open.clone()))];
    events.extend(checkpoints.into_iter().filter(|at| *at < size).map(|at| {
        let root = root(&leaves, usize::try_from(at).expect("a size"));
        Rtmr3Event::Checkpoint { size: at, root }
    }));
    events.push(Rtmr3Event::Checkpoint { size, root: last });
    if ending == Ending::Sealed {
        events.push(Rtmr3Event::Sealed { size, root: last });
    }
    (recipe.events)(&mut events);
    let events: Vec<Vec<u8>> = (0u64..).zip(&events).map(|(index, event)| event_bytes(index, event)).collect();
    let mut checkpoint = Checkpoint { origin: opening.intent.origin(), size, root: last };
    (recipe.checkpoint)(&mut checkpoint);
    let mut parts = Parts {
        config: opening.config.clone(),
        policy: recipe.policy.as_bytes().to_vec(),
        image_dsse: opening.image_dsse.clone(),
        open_map: opening.open.to_bytes(),
        open_quote: opening.quote.clone(),
        open_collateral: platform::collateral(recipe.opening_dates, recipe.tcb).to_bytes(),
        ccel: None,
        events,
        leaves,
        checkpoint: sign_note(&recipe.note_key, &checkpoint),
        encrypted: None,
        disclosed: Some(disclosed),
        seal: None,
        receipt: None,
    };
    if ending == Ending::Sealed {
        parts.seal = Some(seal_with(recipe, &opening, &parts, last));
    }
    parts
}

/// The seal that a TD would make over these parts.
pub(crate) fn seal_with(recipe: &Recipe, opening: &Opening, parts: &Parts, root: Digest256) -> SealParts {
    let rtmr3 = parts.events.iter().fold(Rtmr::ZERO, |rtmr, event| rtmr.extend(&event_digest(event)));
    let scrub = parts.leaves.iter().rev().nth(1).expect("a scrub leaf");
    let mut map = SealMap {
        session: opening.intent.session,
        instance: opening.open.instance(),
        config_digest: Digest384::of(&opening.config),
        opening_quote: Digest256::of(&opening.quote),
        size: parts.leaves.len() as u64,
        root,
        events: parts.events.len() as u64,
        rtmr3,
        scrub_leaf: Digest256::of(scrub),
        closed_by: ClosedBy::Host,
        reason: Reason::UserClosed,
        collateral: Vec::new(),
        statement: Digest256::of(b""),
        pre_hello: Vec::new(),
    };
    (recipe.seal)(&mut map);
    let subjects = Subjects {
        policy: Digest384::of(&parts.policy),
        open_map: Digest256::of(&parts.open_map),
        leaves: Digest256::of(&bundle::frame_leaves(&parts.leaves)),
    };
    let statement = sign_statement(&recipe.statement_key, &mut map, &subjects);
    let mut td = opening.td.clone();
    td.rtmr[3] = *rtmr3.as_bytes();
    (recipe.final_td)(&mut td);
    SealParts {
        quote: platform::quote_with_chain(&td, &map.report_data(), &(recipe.final_pck)(), recipe.final_root),
        map: map.to_bytes(),
        collateral: platform::collateral(recipe.final_dates, recipe.tcb).to_bytes(),
        statement: statement.to_bytes(),
    }
}

/// The key of private parts: published, and worth nothing.
pub(crate) const K: PrivateKey = PrivateKey::new([0x4b; 32]);

/// The same with its private parts encrypted, as an end-to-end session hands them out. `key` is `private.age`.
pub(crate) fn encrypted(recipe: &Recipe, parts: Parts, key: &[u8]) -> Parts {
    let instance = opening(recipe).open.instance();
    let seal = |part: &Disclosed| {
        let leaf = parts.leaves[usize::try_from(part.index).expect("an index")].as_slice();
        let opened = Opened { salt: part.salt, bytes: part.bytes.clone() };
        K.seal(&Place { instance, index: part.index, leaf }, &opened).expect("a part")
    };
    let sealed = parts.disclosed.iter().flatten().map(seal).collect();
    Parts { encrypted: Some(EncryptedMembers { key: key.to_vec(), parts: sealed }), disclosed: None, ..parts }
}

/// The parts with the host's receipt for them.
pub(crate) fn with_receipt(recipe: &Recipe, parts: Parts) -> Parts {
    let bundle = bundle::read(&bundle::write(&parts)).expect("a bundle");
    let opening = opening(recipe);
    let mut receipt = Receipt {
        session: opening.intent.session,
        instance: opening.open.instance(),
        final_quote: parts.seal.as_ref().map(|seal| Digest256::of(&seal.quote)),
        core_id: bundle.core_id(),
        steps: vec![("vm".to_owned(), "gone".to_owned())],
    };
    (recipe.receipt)(&mut receipt);
    Parts { receipt: Some(sign_receipt(&recipe.host, &receipt)), ..parts }
}

/// The bytes of a sealed bundle with a receipt.
pub(crate) fn sealed(recipe: &Recipe) -> Vec<u8> {
    bundle::write(&with_receipt(recipe, parts(recipe, Ending::Sealed)))
}
