//! Seeds of everything that a proof rests on.

use coffer_evidence::bundle::{self, Parts};
use coffer_evidence::call::{Above, IfMatch, Reach, Request, Taken};
use coffer_evidence::call_header::Speaker;
use coffer_evidence::cbor::{Key, Value, encode};
use coffer_evidence::channel::ChannelMap;
use coffer_evidence::collateral::Collateral;
use coffer_evidence::config::{Config, boot_disk};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::git::{Branch, Commit, GitOrder, ObjectId, Person, Side, Stamp};
use coffer_evidence::ids::Digest256;
use coffer_evidence::intent::Shape;
use coffer_evidence::leaf::{CauseClass, Leaf, LeafKind, Rejection};
use coffer_evidence::note::Checkpoint;
use coffer_evidence::pool::{PoolConfig, PoolMap};
use coffer_evidence::qgs::{self, Answer, Platform, REPORT_BYTES, Refusal};
use coffer_evidence::sign::PublicKey;
use coffer_fuzz::script::Writer;

use crate::session::talk::{Talk, end_to_end};
use crate::session::{Ending, Recipe, host, opening, parts, with_receipt};
use crate::{Seed, boot_log, seed};

fn sealed_parts() -> Parts {
    let recipe = Recipe { calls: 1, ..Recipe::default() };
    with_receipt(&recipe, parts(&recipe, Ending::Sealed))
}

pub(crate) fn all() -> Vec<Seed> {
    let sealed = sealed_parts();
    let aborted = parts(&Recipe { calls: 1, ..Recipe::default() }, Ending::Killed);
    let mut seeds = bundles(&sealed, &aborted);
    seeds.extend(records(&sealed));
    seeds.extend(quotes(&sealed));
    seeds.extend(texts(&sealed));
    seeds.extend(cbor(&sealed));
    seeds.extend(commits());
    seeds.extend(quoting_service());
    seeds
}

/// Messages of the quoting service; the first byte chooses the request that they answer.
fn quoting_service() -> Vec<Seed> {
    let quote = qgs::Request::Quote(Box::new([0x5a; REPORT_BYTES]));
    let platform = Platform { qe_svn: 8, pce_svn: 13, id: vec![1; 16], cpu_svn: vec![2; 16] };
    let refused = || Answer::Refused(Refusal::UNEXPECTED);
    let of = |kind: u8, wire: Vec<u8>| [vec![kind], wire].concat();
    vec![
        seed("qgs", "quote-wanted", of(0, quote.to_wire())),
        seed("qgs", "platform-wanted", of(1, qgs::Request::Platform.to_wire())),
        seed("qgs", "quote", of(0, Answer::Quote(vec![9; 700]).to_wire(&quote))),
        seed("qgs", "platform", of(1, Answer::Platform(platform).to_wire(&qgs::Request::Platform))),
        seed("qgs", "no-quote", of(0, refused().to_wire(&quote))),
        seed("qgs", "no-platform", of(1, refused().to_wire(&qgs::Request::Platform))),
    ]
}

fn bundles(sealed: &Parts, aborted: &Parts) -> Vec<Seed> {
    let bytes = bundle::write(sealed);
    let redacted = bundle::write(&Parts { disclosed: None, receipt: None, ..sealed.clone() });
    let mut flipped = bytes.clone();
    flipped[700] ^= 1;
    let no_op = || Writer::default().u8(0);
    let change =
        |member: u8, kind: u8, place: u16, bytes: &[u8]| no_op().u8(member).u8(kind).u16(place).counted(bytes).0;
    vec![
        seed("bundle", "sealed", bytes.clone()),
        seed("bundle", "aborted", bundle::write(aborted)),
        seed("bundle", "redacted", redacted),
        seed("bundle", "flipped", flipped),
        seed("bundle", "cut", bytes[..6000].to_vec()),
        seed("bundle_members", "unchanged", change(0, 1, 0, b"")),
        seed("bundle_members", "without-receipt", change(12, 0, 0, b"")),
        seed("bundle_members", "without-seal", change(13, 0, 0, b"")),
        seed("bundle_members", "another-policy", change(1, 3, 0, b"permit (principal, action, resource);\n\n")),
        seed("bundle_members", "a-leaf-less", change(8, 5, 1, b"")),
        seed("bundle_members", "a-leaf-twice", change(8, 6, 1, b"")),
        seed("bundle_members", "leaves-swapped", change(8, 7, 1, b"")),
        seed("bundle_members", "an-event-more", change(7, 4, 2, &sealed.events[1])),
        seed("bundle_members", "quote-signature", change(15, 0, 640, &[0; 8])),
        seed("bundle_members", "zeros-after-quote", change(4, 1, 65_535, &[0; 4])),
        seed("bundle_members", "an-event-log", change(6, 3, 0, &boot_log::header())),
        seed("bundle_members", "collateral-text", change(5, 1, 900, b" ")),
        seed("bundle_members", "many-items", change(5, 3, 0, &[0x84; 3000])),
    ]
}

/// A commit in each form of an id, with and without its signature, and the signature.
fn commits() -> Vec<Seed> {
    let person = Person::new("Ada L.", "ada@example.org").expect("a person");
    let stamp = Stamp { person, seconds: 1_790_000_000, zone: -330 };
    let key = ed25519_dalek::SigningKey::from_bytes(&[4; 32]);
    let commit = |tree: ObjectId| Commit {
        tree,
        parents: vec![tree, tree],
        author: stamp.clone(),
        committer: stamp.clone(),
        message: "Say hello\n\nAnd mean it.\n".to_owned(),
    };
    let (sha1, sha256) = (commit(ObjectId::Sha1([1; 20])), commit(ObjectId::Sha256([2; 32])));
    let signed = sha1.clone().sign(&key);
    vec![
        seed("git_commit", "sha1", sha1.to_bytes()),
        seed("git_commit", "sha256", sha256.to_bytes()),
        seed("git_commit", "signed-sha1", signed.to_bytes()),
        seed("git_commit", "signed-sha256", sha256.sign(&key).to_bytes()),
        seed("git_commit", "signature", signed.signature().to_armor().into_bytes()),
    ]
}

/// One of each form of a request that works on files.
fn requests() -> Vec<Seed> {
    let path = || "a/b".to_owned();
    let if_match = Some(IfMatch::Content(Digest256::of(b"old")));
    let (page_token, page_size) = (Some("00".to_owned()), Some(9));
    let (name, revision) = (|| "main".to_owned(), Some("HEAD".to_owned()));
    let diff = GitOrder::Diff { side: Side::Staged, revision: revision.clone(), paths: vec![path()] };
    let author = Person::new("Ada L.", "ada@example.org").expect("a person");
    let commit = GitOrder::Commit { message: "Say hello".to_owned(), author };
    let create = GitOrder::Branch(Branch::Create { name: name(), at: revision });
    let push = GitOrder::Push { remote: "up.git".to_owned(), branch: name() };
    [
        ("write", Request::WriteFile { path: path(), mode: 0o644, if_match }),
        ("write-new", Request::WriteFile { path: path(), mode: 0o644, if_match: Some(IfMatch::Nothing) }),
        ("list", Request::ListDirectory { path: path(), depth: Some(64), page_token, page_size }),
        ("remove", Request::Remove { path: path(), reach: Reach::Tree }),
        ("move", Request::Move { path: path(), destination: "c".to_owned(), taken: Taken::Replace }),
        ("make", Request::MakeDirectory { path: path(), mode: 0o755, above: Above::Made }),
        ("git-diff", Request::Git { path: path(), order: diff }),
        ("git-commit", Request::Git { path: path(), order: commit }),
        ("git-create", Request::Git { path: path(), order: create }),
        ("git-push", Request::Git { path: path(), order: push }),
        ("watch", Request::Watch { path: path(), reach: Reach::Tree, timeout_ms: 60_000 }),
    ]
    .map(|(name, request)| seed("records", &format!("request-{name}"), request.to_bytes()))
    .to_vec()
}

fn records(sealed: &Parts) -> Vec<Seed> {
    let mut seeds: Vec<Seed> =
        sealed.leaves.iter().enumerate().map(|(n, leaf)| seed("records", &format!("leaf-{n}"), leaf.clone())).collect();
    seeds.extend(sealed.events.iter().enumerate().map(|(n, e)| seed("records", &format!("event-{n}"), e.clone())));
    let disclosed = sealed.disclosed.clone().expect("private parts");
    seeds.extend(disclosed.iter().map(|part| seed("records", &format!("private-{}", part.index), part.bytes.clone())));
    let config = Config::parse(&sealed.config).expect("a config");
    let seal = sealed.seal.clone().expect("a seal");
    seeds.extend(signed());
    seeds.extend(requests());
    seeds.extend([
        seed("records", "disclosed", coffer_evidence::call::write_disclosed(&disclosed)),
        seed("records", "config", sealed.config.clone()),
        seed("records", "intent", config.intent),
        seed("records", "open", sealed.open_map.clone()),
        seed("records", "seal", seal.map),
        seed("boot_disk", "whole", boot_disk::write(&sealed.config, &sealed.policy)),
        seed("boot_disk", "empty", boot_disk::write(b"", b"")),
        seed("boot_disk", "unpadded", boot_disk::write(&sealed.config, &sealed.policy)[..1200].to_vec()),
        seed("boot_disk", "lengths", [&b"COFFERC1"[..], &[0xff; 8], &[0; 64]].concat()),
    ]);
    seeds
}

/// The same report as a version 5 quote: another header, the type and size of its body, and lengths as they were.
fn version_5(quote: &[u8]) -> Vec<u8> {
    let mut out = quote[..48].to_vec();
    out[0] = 5;
    out.extend(2_u16.to_le_bytes());
    out.extend(584_u32.to_le_bytes());
    out.extend(&quote[48..]);
    out
}

fn quotes(sealed: &Parts) -> Vec<Seed> {
    let padded = [&sealed.open_quote[..], &[0; 100]].concat();
    let set = Collateral::parse(&sealed.open_collateral).expect("collateral");
    let platform = Collateral { pck_certificate_chain: Some(set.pck_crl_issuer_chain.clone()), ..set.clone() };
    let boot = boot_log::log(&boot_log::small_boot());
    let mut opaque = boot.clone();
    opaque[130] ^= 1;
    vec![
        seed("quote", "opening", sealed.open_quote.clone()),
        seed("quote", "final", sealed.seal.as_ref().expect("a seal").quote.clone()),
        seed("quote", "padded", padded),
        seed("quote", "version-5", version_5(&sealed.open_quote)),
        seed("quote", "cut", sealed.open_quote[..1000].to_vec()),
        seed("collateral", "set", sealed.open_collateral.clone()),
        seed("collateral", "json", set.to_json()),
        seed("collateral", "with-chain", platform.to_bytes()),
        seed("event_log", "boot", boot.clone()),
        seed("event_log", "opaque", opaque),
        seed("event_log", "header", boot_log::header()),
        seed("event_log", "cut", boot[..200].to_vec()),
    ]
}

fn texts(sealed: &Parts) -> Vec<Seed> {
    let signed = sealed.seal.clone().expect("a seal").statement;
    let note = sealed.checkpoint.clone().into_bytes();
    let text = Checkpoint { origin: "a".to_owned(), size: u64::MAX, root: coffer_evidence::ids::Digest256::of(b"") };
    let key = hex::encode(ed25519_dalek::SigningKey::from_bytes(&[2; 32]).verifying_key().as_bytes());
    let policy = format!(
        "anchor = \"simulated\"\npublishers = [\"{key}\"]\nowners = [\"{key}\"]\nminimum_svn = 1\n\
         minimum_evaluation_data_number = 17\ntcb_statuses = [\"UpToDate\", \"OutOfDate\"]\n\
         [[platforms]]\nid = \"{}\"\nname = \"rack 7\"\nregion = \"eu\"\n[expect]\n\
         session = \"00000000-0000-4000-8000-000000000001\"\nowner = \"{key}\"\ninstance = \"{}\"\n",
        "0a".repeat(16),
        "0b".repeat(32)
    );
    vec![
        seed("checkpoint_note", "signed", note.clone()),
        seed("checkpoint_note", "text", text.to_text().into_bytes()),
        seed("checkpoint_note", "two-signatures", [&note[..], &note[note.len() - 60..]].concat()),
        seed("dsse", "image", sealed.image_dsse.clone()),
        seed("dsse", "statement", signed),
        seed("dsse", "empty", br#"{"payload":"","payloadType":"","signatures":[]}"#.to_vec()),
        seed("appraisal_policy", "whole", policy.into_bytes()),
        seed("appraisal_policy", "intel", b"anchor = \"intel\"\n".to_vec()),
        seed("appraisal_policy", "file", b"anchor = \"root.der\"\nowners = []\n".to_vec()),
        seed("appraisal_policy", "deep", [b"anchor = ".as_slice(), &[b'['; 2000]].concat()),
    ]
}

fn cbor(sealed: &Parts) -> Vec<Seed> {
    let every = Value::Map(vec![
        (Key::Unsigned(1), Value::Array(vec![Value::Unsigned(0), Value::Unsigned(24), Value::Unsigned(u64::MAX)])),
        (Key::Unsigned(300), Value::Bytes(vec![7; 300])),
        (Key::Text("a".to_owned()), Value::Text("\u{e9}".to_owned())),
        (Key::Text("bb".to_owned()), Value::Array(vec![Value::Bool(true), Value::Bool(false)])),
    ]);
    let mut deep = vec![0x81; 7];
    deep.push(0xa0);
    vec![
        seed("cbor", "every-type", encode(&every)),
        seed("cbor", "deep", deep),
        seed("cbor", "too-deep", vec![0x81; 12]),
        seed("cbor", "a-length-that-lies", vec![0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
        seed("cbor", "leaf", sealed.leaves[1].clone()),
    ]
}

/// Leaves and headers of sessions in which clients sign, and what a TD of the pool was booted with.
fn signed() -> Vec<Seed> {
    let talk = |talk: &mut Talk<'_>| {
        let (_, mut caller) = talk.owner_and_identity();
        talk.denied(&mut caller, 1);
        talk.ask(&mut caller, 2);
        talk.input(&mut caller, 2, 9);
        talk.ack(&mut caller);
        talk.outcome(2, CauseClass::Completed, Some(9));
        talk.rejected(&caller, Rejection::OutOfOrder);
    };
    let recipe = Recipe { intent: end_to_end, talk: Some(talk), ..Recipe::default() };
    let parts = parts(&recipe, Ending::Sealed);
    let mut seeds = Vec::new();
    for (n, leaf) in parts.leaves.iter().enumerate() {
        let parsed = Leaf::parse(leaf).expect("a leaf");
        if let Some(header) = parsed.public.header() {
            seeds.push(seed("records", &format!("header-{n}"), header.header.to_bytes()));
        }
        if n == 1 || parsed.public.header().is_some() || parsed.kind() == LeafKind::Rejected {
            seeds.push(seed("records", &format!("signed-leaf-{n}"), leaf.clone()));
        }
    }
    let opening = opening(&recipe);
    let pool = PoolConfig { image: opening.intent.image, shape: Shape::S1, host_key: PublicKey::of(&host()) };
    let map = PoolMap { config_digest: pool.digest(), bind_nonce: [0xb1; 32] };
    let channel = ChannelMap {
        session: opening.intent.session,
        instance: opening.open.instance(),
        nonce: [0x0c; 32],
        exporter: [1; 32],
        speaker: Speaker::Owner,
        key: opening.intent.owner,
    };
    seeds.push(seed("records", "pool", pool.to_bytes()));
    seeds.push(seed("records", "pool-map", map.to_bytes()));
    seeds.push(seed("records", "channel-map", channel.to_bytes()));
    seeds
}
