//! One encoding of each format, made by the code from fixed keys and values.

use std::collections::BTreeMap;

use coffer_evidence::bundle::{self, Parts};
use coffer_evidence::call::{
    Disclosed, IntentPrivate, OutcomePrivate, Request, StreamDigest, TerminalSize, Usage, read_disclosed,
    write_disclosed,
};
use coffer_evidence::cbor::{Value, decode, encode};
use coffer_evidence::collateral::Collateral;
use coffer_evidence::config::{Config, HostPart, Launch};
use coffer_evidence::fields::Canonical;
use coffer_evidence::file_record::{Content, Directory, EncodedRecord, FileRecord, FileUse, RecordLoss, Uses};
use coffer_evidence::git::ObjectId;
use coffer_evidence::hash::tagged;
use coffer_evidence::ids::{CallId, Digest256, Digest384, Identity, SessionId};
use coffer_evidence::intent::{
    Authority, Durability, Intent, Limits, PooledAllowed, RecordRequired, Shape, sign_intent,
};
use coffer_evidence::leaf::{CauseClass, Leaf, LimitKind, Method, Opened, Public, Reporter, ScrubStep, StepResult};
use coffer_evidence::link::{Frame, Mirror, ToGuest, ToHost};
use coffer_evidence::manifest::ImageManifest;
use coffer_evidence::note::{Checkpoint, sign_note};
use coffer_evidence::open::OpenMap;
use coffer_evidence::private::{EncryptedPart, read_private, write_private};
use coffer_evidence::receipt::{Receipt, open_receipt, sign_receipt};
use coffer_evidence::rtmr::{Rtmr, Rtmr3Event, event_bytes, parse_event};
use coffer_evidence::seal::{ClosedBy, Reason, SealMap};
use coffer_evidence::sign::PublicKey;
use coffer_evidence::statement::{Subjects, sign_statement};
use ed25519_dalek::SigningKey;

/// The policy of the samples; what it says is nothing that this crate looks at.
pub(crate) const PERMIT_ALL: &str = "permit (principal, action, resource);\n";

use crate::grammar::Sample;
use crate::{samples_of_channels, samples_of_requests};

/// Published, and worth nothing.
pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn public(seed: u8) -> PublicKey {
    PublicKey::of(&key(seed))
}

pub(crate) fn session() -> SessionId {
    SessionId::new(*b"\x01\x23\x45\x67\x89\xab\x4c\xde\x8f\x01\x23\x45\x67\x89\xab\xcd")
}

pub(crate) fn call() -> CallId {
    CallId::new([0xca; 16])
}

pub(crate) fn intent() -> Intent {
    Intent {
        audience: "local".to_owned(),
        session: session(),
        nonce: [9; 32],
        owner: public(1),
        tenant: "tenant".to_owned(),
        region: "eu".to_owned(),
        image: Digest256::of(b"image manifest"),
        policy: Digest384::of(PERMIT_ALL.as_bytes()),
        identities: BTreeMap::from([(Identity::default_name(), public(6))]),
        authority: Authority::Delegated,
        durability: Durability::Relaxed,
        witnesses: vec![public(7)],
        limits: Limits::default(),
        recipients: vec![[0x2a; 32]],
        minimum_svn: 1,
        issued_at: 1_793_491_200,
        not_after: 1_793_577_600,
        shape: Shape::S1,
        pooled: PooledAllowed::No,
        record: RecordRequired::No,
    }
}

pub(crate) fn config() -> Config {
    Config {
        intent: intent().to_bytes(),
        owner_sig: sign_intent(&key(1), &intent()),
        host: HostPart {
            host_key: public(5),
            launch: Launch::Cold,
            labels: BTreeMap::from([("rack".to_owned(), "7".to_owned())]),
        },
    }
}

pub(crate) fn open(launch: Launch) -> OpenMap {
    OpenMap {
        launch,
        session: session(),
        config_digest: config().digest(),
        log_key: public(3),
        tls_spki: Digest256::of(b"TLS public key"),
        git_key: public(4),
        agent_svn: 1,
        random: [8; 32],
        bind_nonce: (launch == Launch::Pooled).then_some([0xb1; 32]),
    }
}

pub(crate) fn request() -> Request {
    exec(None)
}

/// With every field that there is.
pub(crate) fn request_on_a_terminal() -> Request {
    exec(Some(TerminalSize { rows: 24, columns: 80 }))
}

fn exec(terminal: Option<TerminalSize>) -> Request {
    Request::Exec {
        argv: vec!["git".to_owned(), "log".to_owned()],
        cwd: ".".to_owned(),
        env: BTreeMap::from([("LANG".to_owned(), "C".to_owned())]),
        timeout_ms: 600_000,
        grace_ms: 2_000,
        output_bytes_max: 67_108_864,
        terminal,
    }
}

fn intent_private() -> IntentPrivate {
    IntentPrivate {
        client_salt: [0xc1; 32],
        request: request().to_bytes(),
        program: Some("/usr/bin/git".to_owned()),
        paths: vec!["/workspace".to_owned()],
    }
}

fn outcome_private() -> OutcomePrivate {
    let stream = |text: &[u8]| Some(StreamDigest { total: 1, delivered: 1, sha256: Digest256::of(text) });
    OutcomePrivate {
        code: Some(1),
        signal: Some(9),
        errno: Some(2),
        stage: Some("exec".to_owned()),
        stdin: stream(b"i"),
        stdout: stream(b"o"),
        stderr: stream(b"e"),
        usage: Some(Usage { wall_ms: 12, user_us: 3_000, system_us: 1_000, max_rss_kib: 4_096 }),
        digest: Some(Digest256::of(b"file")),
        size: Some(4),
        files: Some(1),
        record: Some(EncodedRecord::of(&file_record())),
        commit: Some(ObjectId::Sha1([0xc0; 20])),
        ..OutcomePrivate::new(CauseClass::Failed)
    }
}

fn file_record() -> FileRecord {
    let content = |text: &[u8]| Content { size: text.len() as u64, sha256: Some(Digest256::of(text)) };
    let file = FileUse {
        name: b"notes.txt".to_vec(),
        uses: Uses::OPENED.and(Uses::WRITTEN),
        first_ms: 12,
        opened: vec![content(b"before")],
        left: Some(content(b"after")),
        from: Some(b"/workspace/draft.txt".to_vec()),
        executed: vec![content(b"before")],
    };
    FileRecord {
        directories: vec![Directory { path: b"/workspace".to_vec(), files: vec![file] }],
        lost: vec![RecordLoss::Files],
    }
}

fn private() -> Opened {
    Opened { salt: [0x5a; 32], bytes: intent_private().to_bytes() }
}

pub(crate) fn leaf(index: u64, public: Public) -> Leaf {
    let in_call = matches!(
        public,
        Public::Intent { .. } | Public::Outcome { .. } | Public::Denied { .. } | Public::Incomplete { .. }
    );
    let committed = in_call && !matches!(public, Public::Incomplete { .. });
    Leaf {
        session: session(),
        index,
        reporter: Reporter::Agent,
        identity: in_call.then(Identity::default_name),
        call: in_call.then(call),
        monotonic_ns: 1_000_000 * index,
        wall_hint_ms: 1_793_491_200_000,
        public,
        commitment: committed.then(|| private().commitment()),
    }
}

fn leaves() -> Vec<(&'static str, Leaf)> {
    let rules = || vec!["policy0".to_owned()];
    let opening_quote = Digest256::of(b"opening quote");
    let instance = open(Launch::Cold).instance();
    let method = Method::Exec;
    let steps = ScrubStep::ALL.iter().map(|step| (*step, StepResult::Done)).collect();
    vec![
        ("leaf-open", leaf(0, Public::Open { instance, opening_quote })),
        ("leaf-intent", leaf(1, Public::Intent { method, rules: rules(), request_steps: 1, header: None })),
        (
            "leaf-outcome",
            leaf(
                2,
                Public::Outcome {
                    method,
                    cause: CauseClass::Completed,
                    output_steps: 3,
                    input_steps: 0,
                    input_covered: None,
                },
            ),
        ),
        ("leaf-denied", leaf(3, Public::Denied { method, rules: rules(), header: None })),
        ("leaf-limit", leaf(4, Public::Limit { which: LimitKind::Ttl })),
        ("leaf-incomplete", leaf(5, Public::Incomplete { method })),
        ("leaf-scrub", leaf(6, Public::Scrub { steps })),
        ("leaf-seal", leaf(7, Public::Seal { count: 8 })),
    ]
}

fn seal_map() -> (SealMap, Vec<u8>) {
    let mut map = SealMap {
        session: session(),
        instance: open(Launch::Cold).instance(),
        config_digest: config().digest(),
        opening_quote: Digest256::of(b"opening quote"),
        size: 8,
        root: Digest256::of(b"root"),
        events: 3,
        rtmr3: Rtmr::new([0x33; 48]),
        scrub_leaf: Digest256::of(&leaf(6, Public::Scrub { steps: Vec::new() }).to_bytes()),
        closed_by: ClosedBy::Host,
        reason: Reason::UserClosed,
        collateral: vec![Digest256::of(b"collateral")],
        statement: Digest256::of(b""),
        pre_hello: vec![0],
    };
    let subjects = Subjects {
        policy: Digest384::of(PERMIT_ALL.as_bytes()),
        open_map: Digest256::of(&open(Launch::Cold).to_bytes()),
        leaves: Digest256::of(b"leaves"),
    };
    let statement = sign_statement(&key(3), &mut map, &subjects);
    (map, statement.to_bytes())
}

fn collateral() -> Collateral {
    let text = |text: &str| text.as_bytes().to_vec();
    Collateral {
        pck_crl_issuer_chain: text("PEM"),
        root_ca_crl: text("DER"),
        pck_crl: text("DER"),
        tcb_info_issuer_chain: text("PEM"),
        tcb_info: text("{}"),
        tcb_info_signature: text("r and s"),
        qe_identity_issuer_chain: text("PEM"),
        qe_identity: text("{}"),
        qe_identity_signature: text("r and s"),
        pck_certificate_chain: Some(text("PEM")),
    }
}

fn receipt() -> Receipt {
    Receipt {
        session: session(),
        instance: open(Launch::Cold).instance(),
        final_quote: Some(Digest256::of(b"final quote")),
        core_id: Digest256::of(b"core index"),
        steps: vec![("vm".to_owned(), "gone".to_owned())],
    }
}

fn disclosed() -> Vec<Disclosed> {
    [1, 2].map(|index| Disclosed { index, salt: [0x5a; 32], bytes: vec![0xa0] }).into()
}

/// The same two under K, for the leaves that [`leaves`] has there. Written down, because the cipher is a feature; where that is on, a
/// test makes them anew.
pub(crate) fn encrypted() -> Vec<EncryptedPart> {
    let parts = [
        (
            1,
            "b4b737ca3e68026f5dae79d0cb29153ad79b4632b21597ef1b9ff98227339b8b\
         85e6d1b8a2526448f465bd8fa98495083f5d5f17cd",
        ),
        (
            2,
            "df4604e6f35f9ed4b3dd2c14a18e8921506fd53b07f963eb55470255a6910ab2\
         cd48ba1133d4bb55f4815fd769587aec5717797867",
        ),
    ];
    parts.map(|(index, text)| EncryptedPart { index, ciphertext: hex::decode(text).expect("hex") }).into()
}

/// What the cipher makes of them.
#[cfg(feature = "private")]
pub(crate) fn encrypted_anew() -> Vec<EncryptedPart> {
    let leaves = leaves();
    let instance = open(Launch::Cold).instance();
    let seal = |part: &Disclosed| {
        let leaf = leaves[usize::try_from(part.index).expect("an index")].1.to_bytes();
        let opened = Opened { salt: part.salt, bytes: part.bytes.clone() };
        let place = coffer_evidence::private::Place { instance, index: part.index, leaf: &leaf };
        coffer_evidence::private::PrivateKey::new([0x4b; 32]).seal(&place, &opened).expect("a part")
    };
    disclosed().iter().map(seal).collect()
}

fn private_file_reads(bytes: &[u8]) -> bool {
    read_private(bytes).is_ok_and(|mut parts| parts.all(|part| part.is_ok()))
}

/// The index of a small bundle, read back out of the archive.
fn index() -> Vec<u8> {
    let parts = Parts {
        config: config().to_bytes(),
        policy: PERMIT_ALL.as_bytes().to_vec(),
        image_dsse: b"image".to_vec(),
        open_map: open(Launch::Cold).to_bytes(),
        open_quote: b"quote".to_vec(),
        open_collateral: collateral().to_bytes(),
        ccel: None,
        events: vec![b"event".to_vec()],
        leaves: vec![b"leaf".to_vec()],
        checkpoint: note(),
        encrypted: None,
        disclosed: None,
        seal: None,
        receipt: None,
    };
    let bundle = bundle::read(&bundle::write(&parts)).expect("a bundle");
    bundle.index()
}

/// A checkpoint note.
pub(crate) fn note() -> String {
    sign_note(&key(3), &Checkpoint { origin: intent().origin(), size: 8, root: Digest256::of(b"root") })
}

/// A statement as the log key signs it.
pub(crate) fn statement() -> Vec<u8> {
    seal_map().1
}

/// A manifest as a publisher signs it.
pub(crate) fn image_dsse() -> Vec<u8> {
    let register = |byte: &str| byte.repeat(48);
    let digest = |byte: &str| byte.repeat(32);
    let json = serde_json::json!({
        "name": "base", "version": "1", "svn": 1, "profile": "simulated",
        "shapes": {"s1": {
            "mrtd": register("01"), "rtmr0": register("02"), "rtmr1": register("03"), "rtmr2": register("04"),
            "qemu": "11.1.3", "firmware": "2026.08",
        }},
        "digests": {
            "firmware": digest("11"), "kernel": digest("12"), "initrd": digest("13"), "cmdline": digest("14"),
            "root": digest("15"), "verity": digest("16"), "verity_root": digest("17"), "packages": digest("18"),
        },
        "not_after": 0,
    });
    let manifest: ImageManifest = serde_json::from_value(json).expect("a manifest");
    manifest.sign(&key(2)).to_bytes()
}

pub(crate) fn reads<T: Canonical>(bytes: &[u8]) -> bool {
    T::parse(bytes).is_ok()
}

fn hears<T: Frame>(bytes: &[u8]) -> bool {
    T::decode(bytes).is_ok()
}

fn events_file_reads(bytes: &[u8]) -> bool {
    match decode(bytes) {
        Ok(Value::Array(items)) if !items.is_empty() => {
            items.iter().all(|item| matches!(item, Value::Bytes(event) if parse_event(event).is_ok()))
        }
        _ => false,
    }
}

fn config_reads(bytes: &[u8]) -> bool {
    Config::parse(bytes).is_ok_and(|config| config.intent().is_ok())
}

fn intent_private_reads(bytes: &[u8]) -> bool {
    IntentPrivate::parse(bytes).is_ok_and(|private| Request::parse(&private.request).is_ok())
}

/// A rule, the bytes, the reader.
pub(crate) type Entry = (&'static str, &'static str, Vec<u8>, Option<fn(&[u8]) -> bool>);

fn objects() -> Vec<Entry> {
    let open_cold = open(Launch::Cold);
    let (size, root) = (8, Digest256::of(b"root"));
    let event = |index, event: &Rtmr3Event| event_bytes(index, event);
    let opening = event(0, &Rtmr3Event::Open(Box::new(open_cold.clone())));
    let checkpoint = event(1, &Rtmr3Event::Checkpoint { size, root });
    let sealed = event(2, &Rtmr3Event::Sealed { size, root });
    let events = bundle::frame_events(&[opening.clone(), checkpoint.clone(), sealed.clone()]);
    let tenant = Value::Array(vec![Value::Text("local".to_owned()), Value::Text("tenant".to_owned())]);
    let committed = Value::Array(vec![Value::Bytes(private().salt.to_vec()), Value::Bytes(private().bytes)]);
    let receipt_file = sign_receipt(&key(5), &receipt());
    assert!(open_receipt(&receipt_file, &public(5)).is_ok());
    vec![
        ("intent", "intent", intent().to_bytes(), Some(reads::<Intent>)),
        ("intent-signed", "intent-signed", tagged("coffer/intent/v1", intent().to_value()), None),
        ("config", "config", config().to_bytes(), Some(config_reads)),
        ("tenant-hashed", "tenant-hashed", tagged("coffer/tenant/v1", tenant), None),
        ("open-cold", "open-map", open_cold.to_bytes(), Some(reads::<OpenMap>)),
        ("open-pooled", "open-map", open(Launch::Pooled).to_bytes(), Some(reads::<OpenMap>)),
        ("instance-hashed", "instance-hashed", tagged("coffer/instance/v1", open_cold.to_value()), None),
        ("open-hashed", "open-hashed", tagged("coffer/open/v1", open_cold.to_value()), None),
        ("open-event", "rtmr3-event", opening, Some(|b| parse_event(b).is_ok())),
        ("checkpoint-event", "rtmr3-event", checkpoint, Some(|b| parse_event(b).is_ok())),
        ("sealed-event", "rtmr3-event", sealed, Some(|b| parse_event(b).is_ok())),
        ("events-file", "events-file", events, Some(events_file_reads)),
        ("commitment-hashed", "commitment-hashed", tagged("coffer/commit/v1", committed), None),
        ("intent-private", "intent-private", intent_private().to_bytes(), Some(intent_private_reads)),
        ("file-record", "file-record", file_record().to_bytes(), Some(reads::<FileRecord>)),
        ("outcome-private", "outcome-private", outcome_private().to_bytes(), Some(reads::<OutcomePrivate>)),
        ("seal-map", "seal-map", seal_map().0.to_bytes(), Some(reads::<SealMap>)),
        ("seal-hashed", "seal-hashed", tagged("coffer/seal/v1", seal_map().0.to_value()), None),
        ("index", "index", index(), None),
        ("collateral", "collateral", collateral().to_bytes(), Some(reads::<Collateral>)),
        ("receipt", "receipt", receipt().to_bytes(), Some(reads::<Receipt>)),
        ("receipt-signed", "receipt-signed", tagged("coffer/receipt/v1", receipt().to_value()), None),
        ("receipt-file", "receipt-file", receipt_file, None),
    ]
}

fn link() -> Vec<Entry> {
    let to_host: fn(&[u8]) -> bool = hears::<ToHost>;
    let to_guest: fn(&[u8]) -> bool = hears::<ToGuest>;
    let mirror: fn(&[u8]) -> bool = hears::<Mirror>;
    let bytes = |text: &str| text.as_bytes().to_vec();
    let hello = ToHost::Hello { session: session(), agent_svn: 1 };
    let ready = |ccel| ToHost::Ready { open_map: bytes("open map"), opening_quote: bytes("quote"), ccel };
    let closing = ToHost::Closing { reason: Reason::TtlExpired, closed_by: ClosedBy::Agent };
    let sealed =
        ToHost::Sealed { seal_map: bytes("seal map"), seal_quote: bytes("quote"), statement: bytes("statement") };
    let failed = ToHost::Failed { stage: "boot disk".to_owned(), detail: "expected COFFERC1".to_owned() };
    vec![
        ("hello", "to-host", hello.encode(), Some(to_host)),
        ("ready", "to-host", ready(Some(bytes("event log"))).encode(), Some(to_host)),
        ("ready", "to-host", ready(None).encode(), Some(to_host)),
        ("closing", "to-host", closing.encode(), Some(to_host)),
        ("sealed", "to-host", sealed.encode(), Some(to_host)),
        ("failed", "to-host", failed.encode(), Some(to_host)),
        ("close", "to-guest", ToGuest::Close { reason: Reason::HostDrained }.encode(), Some(to_guest)),
        ("stored", "to-guest", ToGuest::Stored.encode(), Some(to_guest)),
        ("touch", "to-guest", ToGuest::Touch.encode(), Some(to_guest)),
        ("mirror-leaf", "mirror", Mirror::Leaf { index: 1, bytes: bytes("leaf") }.encode(), Some(mirror)),
        (
            "mirror-private",
            "mirror",
            Mirror::Private { index: 1, salt: [0x5a; 32], bytes: bytes("private") }.encode(),
            Some(mirror),
        ),
        ("mirror-event", "mirror", Mirror::Event { index: 1, bytes: bytes("event") }.encode(), Some(mirror)),
        ("mirror-note", "mirror", Mirror::Note(bytes("note")).encode(), Some(mirror)),
    ]
}

/// That indices of private parts rise stands in a comment; and the library does not mind bytes after embedded CBOR.
fn stricter(form: &str) -> &'static [&'static str] {
    match form {
        "config" => &["key Unsigned(2): a byte more"],
        "signed-header" => &["item 0: a byte more"],
        "leaf-client" => &["key Unsigned(10): key Unsigned(1): item 0: a byte more"],
        "leaf-intent" => &["key Unsigned(10): key Unsigned(4): item 0: a byte more"],
        "leaf-denied" => &["key Unsigned(10): key Unsigned(3): item 0: a byte more"],
        "events-file" => &["item 0: a byte more", "item 1: a byte more", "item 2: a byte more"],
        "intent-private" => &["item 1: a byte more"],
        "private-file" => &["the first item", "item 0: item 0: 1 to", "item 1: item 0: 2 to"],
        "disclosed-file" => &["the first item", "item 0: item 0: 1 to", "item 1: item 0: 2 to"],
        // Paths, names and losses are told once, and a name holds no NUL.
        "file-record" => &[
            "key Unsigned(1): the first item",
            "key Unsigned(1): item 0: item 1: the first item",
            "key Unsigned(1): item 0: item 1: item 0: key Unsigned(1): a byte more",
            "key Unsigned(1): item 0: item 1: item 0: key Unsigned(1): bytes",
            "key Unsigned(2): the first item",
        ],
        "outcome-private" => &["key Unsigned(13): a byte more"],
        _ => &[],
    }
}

/// Every format of this crate.
pub(crate) fn samples() -> Vec<Sample> {
    let leaves = leaves().into_iter().chain(samples_of_channels::leaves()).map(|(form, leaf)| {
        let reader: fn(&[u8]) -> bool = reads::<Leaf>;
        (form, "leaf", leaf.to_bytes(), Some(reader))
    });
    let disclosed: Entry =
        ("disclosed-file", "disclosed-file", write_disclosed(&disclosed()), Some(|b| read_disclosed(b).is_ok()));
    let reader: fn(&[u8]) -> bool = private_file_reads;
    let encrypted: Entry = ("private-file", "private-file", write_private(&encrypted()), Some(reader));
    let plain = encode(&Value::Array(vec![Value::Bytes(vec![0x5a; 32]), Value::Bytes(vec![0xa0])]));
    objects()
        .into_iter()
        .chain(samples_of_requests::entries())
        .chain(samples_of_channels::entries())
        .chain(leaves)
        .chain(link())
        .chain([("private-plain", "private-plain", plain, None), encrypted, disclosed])
        .map(|(form, rule, bytes, reader)| Sample { form, rule, bytes, reader, stricter: stricter(form) })
        .collect()
}

/// The file `leaves` of two leaves.
pub(crate) fn leaves_file() -> Vec<u8> {
    let two: Vec<Vec<u8>> = leaves().iter().take(2).map(|(_, leaf)| leaf.to_bytes()).collect();
    bundle::frame_leaves(&two)
}
