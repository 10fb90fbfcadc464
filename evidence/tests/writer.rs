//! The notary's core by itself: the order of leaves, the room that is kept for the end, the strict order of events.

use std::collections::BTreeMap;

use coffer_evidence::bundle::SMALL_FILE_MAX;
use coffer_evidence::call::{Disclosed, write_disclosed};
use coffer_evidence::config::Launch;
use coffer_evidence::ids::{CallId, Digest256, Digest384, Identity, SessionId};
use coffer_evidence::intent::{Authority, Durability, Intent, Limits, PooledAllowed, RecordRequired, Shape};
use coffer_evidence::leaf::{CauseClass, LimitKind, Method, Opened, Public, Reporter};
use coffer_evidence::open::OpenMap;
use coffer_evidence::rtmr::{Rtmr, Rtmr3Event, parse_event};
use coffer_evidence::sign::PublicKey;
use coffer_evidence::writer::{
    AppendError, AppendedLeaf, LeafDraft, LogWriter, PART_FRAMING, PRIVATE_BYTES_MAX, PRIVATE_PART_MAX,
};
use ed25519_dalek::SigningKey;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

fn writer(limits: Limits) -> LogWriter {
    let session = SessionId::new([1; 16]);
    let public = PublicKey::of(&key());
    let intent = Intent {
        audience: "local".to_owned(),
        session,
        nonce: [0; 32],
        owner: public,
        tenant: String::new(),
        region: String::new(),
        image: Digest256::of(b""),
        policy: Digest384::of(b""),
        identities: BTreeMap::from([(Identity::default_name(), public)]),
        authority: Authority::Delegated,
        durability: Durability::Relaxed,
        witnesses: Vec::new(),
        limits,
        recipients: Vec::new(),
        minimum_svn: 0,
        issued_at: 0,
        not_after: 0,
        shape: Shape::S1,
        pooled: PooledAllowed::No,
        record: RecordRequired::No,
    };
    let open = OpenMap {
        launch: Launch::Cold,
        session,
        config_digest: Digest384::of(b""),
        log_key: public,
        tls_spki: Digest256::of(b""),
        git_key: public,
        agent_svn: 1,
        random: [0; 32],
        bind_nonce: None,
    };
    let (writer, event) = LogWriter::open(&intent, &open);
    assert_eq!((event.index, event.before), (0, Rtmr::ZERO));
    writer
}

fn put(writer: &mut LogWriter, call: Option<u8>, public: Public) -> Result<AppendedLeaf, AppendError> {
    let private = matches!(public, Public::Intent { .. } | Public::Outcome { .. } | Public::Denied { .. });
    let draft = LeafDraft {
        reporter: Reporter::Agent,
        identity: call.map(|_| Identity::default_name()),
        call: call.map(|n| CallId::new([n; 16])),
        monotonic_ns: 1,
        wall_hint_ms: 0,
        public,
    };
    writer.append(draft, private.then(|| Opened { salt: [0; 32], bytes: vec![0] }))
}

fn open() -> Public {
    Public::Open { instance: [0; 32].into(), opening_quote: Digest256::of(b"") }
}

fn intent() -> Public {
    Public::Intent { method: Method::Exec, rules: Vec::new(), request_steps: 1, header: None }
}

fn outcome(method: Method) -> Public {
    Public::Outcome { method, cause: CauseClass::Completed, output_steps: 0, input_steps: 0, input_covered: None }
}

fn scrub() -> Public {
    Public::Scrub { steps: Vec::new() }
}

fn opened(limits: Limits) -> LogWriter {
    let mut writer = writer(limits);
    put(&mut writer, None, open()).expect("leaf 0");
    writer
}

#[test]
fn a_leaf_out_of_order_is_refused_and_changes_nothing() {
    let mut log = writer(Limits::default());
    assert!(put(&mut log, Some(1), intent()).is_err(), "before the log is open");
    put(&mut log, None, open()).expect("leaf 0");
    put(&mut log, Some(1), intent()).expect("a first call");
    let before = (log.size(), log.root());
    let denied = Public::Denied { method: Method::Exec, rules: Vec::new(), header: None };
    let refused: [(&str, Option<u8>, Public); 9] = [
        ("a second opening", None, open()),
        ("the same call again", Some(1), intent()),
        ("a denial of a call that runs", Some(1), denied),
        ("an outcome without an intent", Some(2), outcome(Method::Exec)),
        ("an outcome of another method", Some(1), outcome(Method::Stat)),
        ("an intent of nobody", None, intent()),
        ("a scrub while a call runs", None, scrub()),
        ("a seal without a scrub", None, Public::Seal { count: 3 }),
        (
            "a rule id that the parser refuses",
            Some(3),
            Public::Intent { method: Method::Exec, rules: vec!["x".repeat(129)], request_steps: 1, header: None },
        ),
    ];
    for (what, call, public) in refused {
        assert!(put(&mut log, call, public).is_err(), "{what}");
        assert_eq!((log.size(), log.root()), before, "{what}");
    }
    put(&mut log, Some(1), outcome(Method::Exec)).expect("its outcome");
    assert!(put(&mut log, Some(1), outcome(Method::Exec)).is_err(), "a second outcome");
}

#[test]
fn nothing_is_accepted_after_seal() {
    let mut log = opened(Limits::default());
    put(&mut log, None, scrub()).expect("a scrub leaf");
    assert!(put(&mut log, Some(1), intent()).is_err(), "an intent after the scrub");
    assert!(put(&mut log, None, Public::Seal { count: 9 }).is_err(), "a wrong count");
    assert!(log.sealed().is_none(), "sealed before its leaf");
    put(&mut log, None, Public::Seal { count: 3 }).expect("the seal leaf");
    assert!(log.sealed().is_none(), "sealed before its checkpoint");
    let (checkpoint, _) = log.checkpoint(&key()).expect("the last checkpoint");
    let sealed = log.sealed().expect("the sealed event");
    assert_eq!((sealed.before, sealed.index), (checkpoint.after, checkpoint.index + 1));
    let event = parse_event(&sealed.bytes).expect("an event").1;
    assert_eq!(event, Rtmr3Event::Sealed { size: 3, root: log.root() });
    assert!(log.sealed().is_none() && log.checkpoint(&key()).is_none(), "nothing twice");
    for public in [intent(), outcome(Method::Exec), scrub(), Public::Seal { count: 4 }, open()] {
        assert_eq!(put(&mut log, Some(1), public), Err(AppendError::Closed));
    }
}

#[test]
fn room_for_the_end_is_kept_whatever_the_limit_on_leaves() {
    for leaves in 16..40 {
        let mut log = opened(Limits { leaves, ..Limits::default() });
        let mut calls = 0;
        let limit = loop {
            match put(&mut log, Some(calls), intent()) {
                Ok(_) => calls += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(limit, AppendError::LimitReached(LimitKind::Leaves));
        assert!(calls > 0);
        put(&mut log, None, Public::Limit { which: LimitKind::Leaves }).expect("a limit leaf");
        for call in 0..calls {
            put(&mut log, Some(call), outcome(Method::Exec)).expect("each outcome");
        }
        put(&mut log, None, scrub()).expect("the scrub leaf");
        let count = log.size() + 1;
        put(&mut log, None, Public::Seal { count }).expect("the seal leaf");
        assert!(log.size() <= leaves, "{} of {leaves}", log.size());
    }
}

#[test]
fn calls_and_private_parts_end_at_their_limits() {
    let mut log = opened(Limits { calls: 2, ..Limits::default() });
    for call in 0..2 {
        put(&mut log, Some(call), intent()).expect("a call within the limit");
    }
    assert_eq!(put(&mut log, Some(2), intent()), Err(AppendError::LimitReached(LimitKind::Calls)));
    let draft = |call: u8| LeafDraft {
        reporter: Reporter::Agent,
        identity: Some(Identity::default_name()),
        call: Some(CallId::new([call; 16])),
        monotonic_ns: 1,
        wall_hint_ms: 0,
        public: intent(),
    };
    let part = |bytes: usize| Some(Opened { salt: [0; 32], bytes: vec![0; bytes] });
    let mut log = opened(Limits::default());
    assert_eq!(log.append(draft(0), part(PRIVATE_PART_MAX + 1)), Err(AppendError::Private));
    assert_eq!(log.append(draft(0), None), Err(AppendError::Private));
    let full = (0..=255).find_map(|call| log.append(draft(call), part(PRIVATE_PART_MAX)).err());
    assert_eq!(full, Some(AppendError::LimitReached(LimitKind::PrivateBytes)));
}

#[test]
fn a_private_part_in_its_file_takes_no_more_than_its_framing_adds() {
    for bytes in [0, 23, 24, 255, 256, 65_535, 65_536, PRIVATE_PART_MAX] {
        let part = || Disclosed { index: u64::MAX, salt: [0; 32], bytes: vec![0; bytes] };
        let length = write_disclosed(&[part()]).len() as u64;
        assert!(length <= bytes as u64 + PART_FRAMING, "{length} bytes for a part of {bytes}");
    }
    // What remains is for the array's own length.
    const { assert!(PRIVATE_BYTES_MAX + 9 <= SMALL_FILE_MAX) };
}

#[test]
fn room_for_the_largest_outcome_of_every_running_call_is_kept() {
    let draft = |call: u8, public: Public| LeafDraft {
        reporter: Reporter::Agent,
        identity: Some(Identity::default_name()),
        call: Some(CallId::new([call; 16])),
        monotonic_ns: 1,
        wall_hint_ms: 0,
        public,
    };
    let part = |bytes: usize| Some(Opened { salt: [0; 32], bytes: vec![0; bytes] });
    let mut log = opened(Limits::default());
    let mut disclosed = Vec::new();
    let mut keep = |leaf: AppendedLeaf| {
        let private = leaf.private.expect("a private part");
        disclosed.push(Disclosed { index: leaf.index, salt: private.salt, bytes: private.bytes });
    };
    // Small requests: it is the outcomes that are large.
    let calls = (0..=255).take_while(|call| log.append(draft(*call, intent()), part(1)).map(&mut keep).is_ok()).count();
    assert!((32..200).contains(&calls), "{calls} calls at once");
    let denied = Public::Denied { method: Method::Exec, rules: Vec::new(), header: None };
    let refused = log.append(draft(255, denied), part(PRIVATE_PART_MAX)).expect_err("no room beside what is owed");
    assert_eq!(refused, AppendError::LimitReached(LimitKind::PrivateBytes));
    for call in 0..=255_u8 {
        if usize::from(call) < calls {
            keep(log.append(draft(call, outcome(Method::Exec)), part(PRIVATE_PART_MAX)).expect("its outcome"));
        }
    }
    assert!(write_disclosed(&disclosed).len() as u64 <= SMALL_FILE_MAX);
}

#[test]
fn time_does_not_go_back() {
    let mut log = opened(Limits::default());
    let mut draft = LeafDraft {
        reporter: Reporter::Agent,
        identity: None,
        call: None,
        monotonic_ns: 0,
        wall_hint_ms: 0,
        public: Public::Limit { which: LimitKind::Idle },
    };
    assert_eq!(log.append(draft.clone(), None), Err(AppendError::Time));
    draft.monotonic_ns = 1;
    assert!(log.append(draft, None).is_ok());
}
