//! Encrypted private parts and redaction, as a user meets them: identities in files, `age` beside us, bundles to hand on.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use coffer_evidence::bundle::{self, Bundle};
use coffer_evidence::call::read_disclosed;
use coffer_evidence::private::{Identities, PrivateKey, unwrap_key, wrap_key};

use crate::session::{AT, Ending, K, Recipe, encrypted, parts, with_receipt};
use crate::{code, json, output, stderr, stdout};

/// Made with age-keygen: published, and worth nothing.
const IDENTITY: &str = "AGE-SECRET-KEY-18WV8626MM8S2AF6WAD3JC6R260RNQTYGHY96CQMJDPRL54PMZNPQKHUGT3";
const RECIPIENT: &str = "age186mzga8pfatxk305an8af6vd2xwazagcpsuyk6rvpqwv8scpksmqacghgk";
const OTHER_IDENTITY: &str = "AGE-SECRET-KEY-1EDZ4XTNUEHLK2G7ECQM2H333YM8SPLMXFUS93XLJD9TC86RN2W9SMSE8V9";

fn write(directory: &Path, name: &str, bytes: &[u8]) -> String {
    let path = directory.join(name);
    std::fs::write(&path, bytes).expect("write");
    path.to_str().expect("text").to_owned()
}

/// A file of identities that nobody else can read.
fn identity(directory: &Path, name: &str, text: &str) -> String {
    let path = write(directory, name, text.as_bytes());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    path
}

/// A sealed session with a receipt, its parts encrypted to the one recipient.
fn bundle_for(recipient: &str) -> Vec<u8> {
    let recipe = Recipe::default();
    let key = wrap_key(&K, &[recipient]).expect("a wrapped key");
    bundle::write(&with_receipt(&recipe, encrypted(&recipe, parts(&recipe, Ending::Sealed), &key)))
}

fn coffer(home: &Path, command: &str, arguments: &[&str]) -> Output {
    let at = AT.to_string();
    let mut all = vec!["evidence", command];
    if command != "redact" {
        all.extend(["--accept-simulated", "--at", &at]);
    }
    all.extend(arguments);
    output(home, &all)
}

fn check<'a>(verdict: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let checks = verdict["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["name"] == name).expect("the check")
}

fn read(path: &str) -> Bundle {
    bundle::read(&std::fs::read(path).expect("the bundle")).expect("a bundle")
}

#[test]
fn an_identity_opens_the_parts_and_its_lack_is_said() {
    let home = tempfile::tempdir().expect("a directory");
    let file = write(home.path(), "a.evidence", &bundle_for(RECIPIENT));
    let own = identity(home.path(), "own.key", &format!("# created: today\n\n{OTHER_IDENTITY}\n{IDENTITY}\n"));
    let verified = coffer(home.path(), "verify", &["--json", "--identity", &own, &file]);
    assert_eq!(code(&verified), Some(0), "{}", stdout(&verified));
    let row = check(&json(&verified), "encrypted private parts open commitments").clone();
    assert_eq!((&row["result"], &row["reason"]), (&"pass".into(), &"6 of 6".into()));
    let blind = coffer(home.path(), "verify", &["--json", &file]);
    assert_eq!(code(&blind), Some(0));
    assert_eq!(check(&json(&blind), "encrypted private parts open commitments")["result"], "not_evaluated");

    let other = identity(home.path(), "other.key", OTHER_IDENTITY);
    let theirs = coffer(home.path(), "verify", &["--json", "--identity", &other, &file]);
    assert_eq!(code(&theirs), Some(2), "{}", stdout(&theirs));
    let verdict = json(&theirs);
    assert_eq!((&verdict["verdict"], &verdict["accepted"]), (&"sealed".into(), &"cannot_tell".into()));
    let reason = check(&verdict, "key of encrypted private parts")["reason"].as_str().expect("a reason").to_owned();
    assert!(reason.contains("encrypted to other recipients"), "{reason}");
    for shown in [&verified, &theirs] {
        assert!(!(stdout(shown) + &stderr(shown)).contains("SECRET"), "an identity is never shown");
    }
}

#[test]
fn show_tells_what_an_identity_opens_in_timeline_and_call() {
    let home = tempfile::tempdir().expect("a directory");
    let file = write(home.path(), "a.evidence", &bundle_for(RECIPIENT));
    let own = identity(home.path(), "own.key", IDENTITY);
    let blind = json(&coffer(home.path(), "show", &["--json", &file]));
    assert_eq!(
        (&blind["leaves"][1]["private"], &blind["leaves"][1]["argv"]),
        (&"withheld".into(), &serde_json::json!([]))
    );
    let shown = json(&coffer(home.path(), "show", &["--json", "--identity", &own, &file]));
    assert_eq!(shown["leaves"][1]["private"], "opened");
    assert_eq!(shown["leaves"][1]["argv"], serde_json::json!(["true", "1"]));
    assert_eq!(shown["leaves"][2]["code"], 0);
    let call = shown["leaves"][1]["call"].as_str().expect("a call");
    let text = stdout(&coffer(home.path(), "show", &["--identity", &own, "--call", call, &file]));
    assert!(text.contains("argv             true") && text.contains("exit_code        0"), "{text}");
    let text = stdout(&coffer(home.path(), "show", &["--call", call, &file]));
    assert!(text.contains("withheld") && !text.contains("argv"), "{text}");
    let other = identity(home.path(), "other.key", OTHER_IDENTITY);
    let theirs = coffer(home.path(), "show", &["--identity", &other, &file]);
    assert!(
        stderr(&theirs).contains("not opened: private.age is encrypted to other recipients"),
        "{}",
        stderr(&theirs)
    );
}

#[test]
fn an_identity_that_others_can_read_or_that_is_none_has_its_status() {
    let home = tempfile::tempdir().expect("a directory");
    let file = write(home.path(), "a.evidence", &bundle_for(RECIPIENT));
    let status = |path: &str, expected: i32, words: &str| {
        let out = coffer(home.path(), "verify", &["--identity", path, &file]);
        let text = stderr(&out);
        assert_eq!(code(&out), Some(expected), "{path}: {text}");
        assert!(text.contains(words) && !text.contains("SECRET-KEY-1Q"), "{path}: {text}");
    };
    let exposed = identity(home.path(), "exposed.key", IDENTITY);
    std::fs::set_permissions(&exposed, std::fs::Permissions::from_mode(0o640)).expect("chmod");
    status(&exposed, 77, "chmod 600");
    status("/no/such/file", 74, "/no/such/file");
    status(home.path().to_str().expect("text"), 74, "regular file");
    let secret = "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ";
    status(&identity(home.path(), "bad.key", &format!("# a comment\n{secret}\n")), 78, "line 2: expected an identity");
    status(&identity(home.path(), "empty.key", "# nothing\n"), 78, "found none");
    status(&identity(home.path(), "recipient.key", RECIPIENT), 78, "line 1");
    status(&identity(home.path(), "many.key", &format!("{IDENTITY}\n").repeat(65)), 78, "at most 64 identities");
    status(&identity(home.path(), "large.key", &"#\n".repeat(40_000)), 74, "at most 65536 bytes");
    let most = format!("{OTHER_IDENTITY}\n").repeat(63) + IDENTITY;
    let at_the_limit = identity(home.path(), "most.key", &most);
    assert_eq!(code(&coffer(home.path(), "verify", &["--identity", &at_the_limit, &file])), Some(0));
}

#[test]
fn a_wrapped_key_that_is_broken_is_wrong_and_one_that_is_missing_is_not() {
    let home = tempfile::tempdir().expect("a directory");
    let own = identity(home.path(), "own.key", IDENTITY);
    let recipe = Recipe::default();
    let with = |key: &[u8]| {
        let parts = encrypted(&recipe, parts(&recipe, Ending::Sealed), key);
        let file = write(home.path(), "a.evidence", &bundle::write(&parts));
        coffer(home.path(), "verify", &["--json", "--identity", &own, &file])
    };
    let good = wrap_key(&K, &[RECIPIENT]).expect("a wrapped key");
    assert_eq!(code(&with(&good)), Some(0));
    let mut changed = good.clone();
    *changed.last_mut().expect("a byte") ^= 1;
    let mut header = good.clone();
    header[0] ^= 1;
    let payload = |length: usize| age_of(&vec![7; length]);
    let cases: [(&str, &[u8], &str); 8] = [
        ("changed", &changed, "decrypt"),
        ("cut", &good[..good.len() - 1], "decrypt"),
        ("longer", &[good.as_slice(), &[0]].concat(), "decrypt"),
        ("another header", &header, "age v1"),
        ("empty", b"", "age v1"),
        ("a key that is too short", &payload(31), "31 bytes"),
        ("a key that is too long", &payload(33), "at least 33 bytes"),
        ("too large", &[good.as_slice(), &[0; 16 * 1024]].concat(), "at most 16384 bytes"),
    ];
    for (what, key, words) in cases {
        let out = with(key);
        let verdict = json(&out);
        assert_eq!((code(&out), &verdict["verdict"]), (Some(1), &"invalid".into()), "{what}: {verdict}");
        let row = check(&verdict, "key of encrypted private parts");
        assert_eq!(row["result"], "fail", "{what}");
        assert!(row["reason"].as_str().is_some_and(|reason| reason.contains(words)), "{what}: {row}");
    }
    let none = encrypted(&recipe, parts(&recipe, Ending::Sealed), &good);
    let none = bundle::Parts { encrypted: None, ..none };
    let file = write(home.path(), "none.evidence", &bundle::write(&none));
    assert_eq!(code(&coffer(home.path(), "verify", &["--identity", &own, &file])), Some(0));
}

/// Any plain text for our recipient.
fn age_of(plain: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let recipient: age::x25519::Recipient = RECIPIENT.parse().expect("a recipient");
    let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient));
    let mut out = Vec::new();
    let mut writer = encryptor.expect("an encryptor").wrap_output(&mut out).expect("a header");
    writer.write_all(plain).expect("write");
    writer.finish().expect("the end");
    out
}

fn kept(path: &str) -> Vec<u64> {
    let bundle = read(path);
    for gone in ["private.age", "private.bin"] {
        assert!(bundle.member(gone).is_none(), "{path} has {gone}");
    }
    let parts = bundle.member("disclosed.cbor").map(|bytes| read_disclosed(bytes).expect("opened parts"));
    parts.unwrap_or_default().iter().map(|part| part.index).collect()
}

#[test]
fn redaction_keeps_exactly_the_parts_that_are_named_and_the_verdict() {
    let home = tempfile::tempdir().expect("a directory");
    let own = identity(home.path(), "own.key", IDENTITY);
    let locked = write(home.path(), "locked.evidence", &bundle_for(RECIPIENT));
    let recipe = Recipe::default();
    let plain = with_receipt(&recipe, parts(&recipe, Ending::Sealed));
    let plain = write(home.path(), "plain.evidence", &bundle::write(&plain));
    let call =
        json(&coffer(home.path(), "show", &["--json", &plain]))["leaves"][3]["call"].as_str().expect("id").to_owned();
    let by_call = format!("call:{}", &call[..8]);
    let cases: [(&[&str], &[u64]); 8] = [
        (&["none"], &[]),
        (&["all"], &[1, 2, 3, 4, 5, 6]),
        (&["1"], &[1]),
        (&["6", "1"], &[1, 6]),
        (&["2-4"], &[2, 3, 4]),
        (&["0-1,5-100"], &[1, 5, 6]),
        (&[&by_call], &[3, 4]),
        (&[&by_call, "4-5", "5"], &[3, 4, 5]),
    ];
    for (source, identity) in [(&locked, Some(&own)), (&plain, None)] {
        let before = json(&coffer(home.path(), "verify", &["--json", source]));
        for (number, (keep, expected)) in cases.iter().enumerate() {
            let out = home.path().join(format!("{number}-{}.evidence", identity.is_some()));
            let out = out.to_str().expect("text");
            let mut arguments = vec!["--json", source, out, "--keep"];
            arguments.extend(*keep);
            arguments.extend(identity.iter().flat_map(|path| ["--identity", path.as_str()]));
            let told = coffer(home.path(), "redact", &arguments);
            assert_eq!(code(&told), Some(0), "{keep:?}: {}", stderr(&told));
            assert_eq!(kept(out), *expected, "{keep:?}");
            let told = json(&told);
            let dropped: Vec<u64> = (1..=6).filter(|index| !expected.contains(index)).collect();
            assert_eq!((&told["kept"], &told["dropped"]), (&serde_json::json!(expected), &serde_json::json!(dropped)));
            let after = json(&coffer(home.path(), "verify", &["--json", out]));
            for same in ["verdict", "accepted", "core_id", "extent", "instance", "words"] {
                assert_eq!(after[same], before[same], "{keep:?}: {same}");
            }
            assert_eq!((&told["core_id"], &told["bundle_id"]), (&after["core_id"], &after["bundle_id"]));
            assert_eq!(read(out).member("receipt.cbor"), read(source).member("receipt.cbor"));
            assert_eq!(check(&after, "host receipt (claim)")["result"], "pass");
        }
    }
    let out = home.path().join("people.evidence");
    let people =
        coffer(home.path(), "redact", &[&locked, out.to_str().expect("text"), "--keep", "2-4", "--identity", &own]);
    for words in [
        "kept 3 private parts: leaves 2-4",
        "dropped 3 private parts: leaves 1, 5-6",
        "left out private.age and private.bin",
    ] {
        assert!(stderr(&people).contains(words), "{}", stderr(&people));
    }
}

#[test]
fn redaction_that_cannot_be_done_writes_nothing_and_says_why() {
    let home = tempfile::tempdir().expect("a directory");
    let own = identity(home.path(), "own.key", IDENTITY);
    let other = identity(home.path(), "other.key", OTHER_IDENTITY);
    let locked = write(home.path(), "locked.evidence", &bundle_for(RECIPIENT));
    let mut lying = parts(&Recipe::default(), Ending::Sealed);
    lying.disclosed.as_mut().expect("parts")[0].salt[0] ^= 1;
    let lying = write(home.path(), "lying.evidence", &bundle::write(&lying));
    let out = home.path().join("out.evidence");
    let to = out.to_str().expect("text");
    let cases: [(&str, &[&str], i32, &str); 10] = [
        (&locked, &["--keep", "all"], 64, "--identity FILE opens it"),
        (&locked, &["--keep", "3"], 64, "--identity FILE opens it"),
        (&locked, &["--keep", "3", "--identity", &other], 1, "other recipients"),
        (&locked, &["--keep", "0", "--identity", &own], 64, "expected a private part at leaf 0"),
        (&locked, &["--keep", "none", "1", "--identity", &own], 64, "by itself"),
        (&locked, &["--keep", "call:ffff", "--identity", &own], 1, "found none"),
        (&locked, &["--keep", "x"], 64, "expected a leaf (7)"),
        (&lying, &["--keep", "1"], 1, "open its commitment"),
        // Leaving out a lie would make a good bundle of a bad one: not in the name of redaction.
        (&lying, &["--keep", "none"], 1, "leave the verdict alone"),
        ("/no/such/file", &["--keep", "none"], 74, "/no/such/file"),
    ];
    for (source, more, status, words) in cases {
        let told = coffer(home.path(), "redact", &[&[source, to][..], more].concat());
        assert_eq!(code(&told), Some(status), "{more:?}: {}", stderr(&told));
        assert!(stderr(&told).contains(words), "{more:?}: {}", stderr(&told));
        assert!(!out.exists(), "{more:?}");
    }
    assert_eq!(code(&coffer(home.path(), "redact", &[&locked, to, "--keep", "none"])), Some(0), "without an identity");
    for there in [to, &locked] {
        let before = std::fs::read(there).expect("the file");
        let told = coffer(home.path(), "redact", &[&locked, there, "--keep", "none"]);
        assert_eq!(code(&told), Some(74));
        assert!(stderr(&told).contains("nothing is overwritten"), "{}", stderr(&told));
        assert_eq!(std::fs::read(there).expect("the file"), before);
    }
}

fn age(home: &Path, arguments: &[&str]) -> Vec<u8> {
    let out = Command::new("age").args(arguments).current_dir(home).stdin(Stdio::null()).output().expect("run age");
    assert!(out.status.success(), "age {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

#[test]
fn the_age_program_opens_our_key_and_we_open_its() {
    if Command::new("age").arg("--version").output().is_err() {
        println!("NOT RUN: expected the program age, found none: scripts/setup --test installs it");
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let own = identity(home.path(), "own.key", IDENTITY);
    let other: age::x25519::Identity = OTHER_IDENTITY.parse().expect("an identity");
    let other = other.to_public().to_string();
    for recipients in [vec![RECIPIENT], vec![other.as_str(), RECIPIENT]] {
        let ours = write(home.path(), "private.age", &wrap_key(&K, &recipients).expect("a wrapped key"));
        assert_eq!(age(home.path(), &["-d", "-i", &own, &ours]), K.as_bytes());
    }

    let key = write(home.path(), "k", K.as_bytes());
    let identities = Identities::parse(IDENTITY).expect("an identity");
    for more in [&["-r", RECIPIENT][..], &["-r", &other, "-r", RECIPIENT]] {
        let theirs = age(home.path(), &[more, &[&key]].concat());
        assert_eq!(unwrap_key(&theirs, &identities), Ok(PrivateKey::new(*K.as_bytes())));
        let recipe = Recipe::default();
        let parts = encrypted(&recipe, parts(&recipe, Ending::Sealed), &theirs);
        let file = write(home.path(), "a.evidence", &bundle::write(&parts));
        assert_eq!(code(&coffer(home.path(), "verify", &["--identity", &own, &file])), Some(0));
    }
    // What age writes for people to paste is another form than the bundle's.
    let armored = age(home.path(), &["-a", "-r", RECIPIENT, &key]);
    assert!(unwrap_key(&armored, &identities).is_err());
}
