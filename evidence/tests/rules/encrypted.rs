//! R16 for encrypted parts: what opens under the owner's identity, and every way in which it must not.

use coffer_evidence::bundle::{self, EncryptedMembers, Parts};
use coffer_evidence::call::Disclosed;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::leaf::{Leaf, Opened};
use coffer_evidence::private::{Access, EncryptedPart, Place, PrivateKey};
use coffer_evidence::verify::{Accepted, CheckResult, Options, Report, Rule, Verdict, verify_bundle};

use crate::judging::{options, refused, sealed_parts, unaccepted};
use crate::session::{Ending, K, Recipe, encrypted, opening, parts};

const KEY: &str = "key of encrypted private parts";
const PARTS: &str = "encrypted private parts open commitments";

fn with(access: Access) -> Options {
    Options { access, ..options() }
}

fn judged(parts: &Parts, access: Access) -> Report {
    verify_bundle(&bundle::write(parts), &with(access))
}

fn row(report: &Report, name: &str) -> (CheckResult, String) {
    let row = report.checks.iter().find(|check| check.rule == Rule::R16 && check.name == name).expect("a row");
    (row.result, row.reason.clone())
}

/// Encrypts these under K for the instance of the default recipe, whatever the leaf has.
fn seal(key: &PrivateKey, of: &Parts, index: usize, opened: &Opened) -> EncryptedPart {
    let instance = opening(&Recipe::default()).open.instance();
    key.seal(&Place { instance, index: index as u64, leaf: &of.leaves[index] }, opened).expect("a part")
}

fn opened(part: &Disclosed) -> Opened {
    Opened { salt: part.salt, bytes: part.bytes.clone() }
}

#[test]
fn every_encrypted_part_opens_its_leaf_under_the_key_and_not_without() {
    let parts = encrypted(&Recipe::default(), sealed_parts(), b"age");
    let report = judged(&parts, Access::Key(K));
    assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes), "{}", report.human());
    assert_eq!(row(&report, PARTS), (CheckResult::Pass, "6 of 6".to_owned()));
    assert_eq!(row(&report, KEY).0, CheckResult::Pass);

    let report = judged(&parts, Access::NoIdentity);
    assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes), "{}", report.human());
    assert_eq!(row(&report, PARTS), (CheckResult::NotEvaluated, "their key is not known".to_owned()));
    assert!(row(&report, KEY).1.contains("--identity"));
    let killed = encrypted(&Recipe::default(), super::session::parts(&Recipe::default(), Ending::Killed), b"age");
    assert_eq!(row(&judged(&killed, Access::Key(K)), PARTS), (CheckResult::Pass, "5 of 5".to_owned()));
}

#[test]
fn an_encrypted_part_that_is_not_its_leafs_is_refused() {
    type Change = fn(&mut Vec<EncryptedPart>, &Parts, &[Disclosed]);
    let changes: [(&str, Change); 13] = [
        ("swapped between leaves", |bin, _, _| {
            let first = bin[0].ciphertext.clone();
            bin[0].ciphertext = std::mem::replace(&mut bin[2].ciphertext, first);
        }),
        ("at the next leaf", |bin, _, _| {
            bin.truncate(1);
            bin[0].index += 1;
        }),
        ("cut", |bin, _, _| {
            bin[1].ciphertext.pop();
        }),
        ("cut at its start", |bin, _, _| {
            bin[1].ciphertext.remove(0);
        }),
        ("longer", |bin, _, _| bin[1].ciphertext.push(0)),
        ("its tag changed", |bin, _, _| *bin[1].ciphertext.last_mut().expect("a tag") ^= 1),
        ("the first byte changed", |bin, _, _| bin[1].ciphertext[0] ^= 1),
        ("one more, beyond the log", |bin, _, _| {
            let ciphertext = bin[0].ciphertext.clone();
            bin.push(EncryptedPart { index: 1000, ciphertext });
        }),
        ("one more, at the end of all numbers", |bin, _, _| {
            let ciphertext = bin[0].ciphertext.clone();
            bin.push(EncryptedPart { index: u64::MAX, ciphertext });
        }),
        ("sealed for a leaf without a commitment", |bin, parts, plain| {
            bin.insert(0, seal(&K, parts, 0, &opened(&plain[0])));
        }),
        ("one of another session's key", |bin, parts, plain| {
            bin[3] = seal(&PrivateKey::new([0x4c; 32]), parts, 4, &opened(&plain[3]));
        }),
        ("sealed here, with another leaf's content", |bin, parts, plain| {
            bin[0] = seal(&K, parts, 1, &opened(&plain[2]));
        }),
        ("sealed here, with another salt", |bin, parts, plain| {
            bin[0] = seal(&K, parts, 1, &Opened { salt: [0; 32], ..opened(&plain[0]) });
        }),
    ];
    let genuine = sealed_parts();
    let plain = genuine.disclosed.clone().expect("plain parts");
    for (what, change) in changes {
        let mut parts = encrypted(&Recipe::default(), sealed_parts(), b"age");
        let before = judged(&parts, Access::Key(K));
        change(&mut parts.encrypted.as_mut().expect("encrypted").parts, &genuine, &plain);
        println!("{what}");
        let report = judged(&parts, Access::Key(K));
        refused(&report, Rule::R16, PARTS);
        let nowhere = what.contains("without a commitment") || what.starts_with("one more");
        assert_eq!(row(&report, PARTS).1.contains("which has no commitment"), nowhere, "{what}: {}", report.human());
        // Nobody without an identity can know, and the core is the same.
        let blind = judged(&parts, Access::NoIdentity);
        assert_eq!((blind.verdict, &blind.core_id), (Verdict::Sealed, &before.core_id), "{what}: {}", blind.human());
    }
}

#[test]
fn parts_of_another_bundle_do_not_open_in_this_one() {
    let other = Recipe { open: |open| open.random = [0x0c; 32], ..Recipe::default() };
    let theirs = encrypted(&other, parts(&other, Ending::Sealed), b"age");
    assert_eq!(judged(&theirs, Access::Key(K)).verdict, Verdict::Sealed, "at home they do");
    let mut mixed = encrypted(&Recipe::default(), sealed_parts(), b"age");
    mixed.encrypted = theirs.encrypted;
    refused(&judged(&mixed, Access::Key(K)), Rule::R16, PARTS);
    let mine = encrypted(&Recipe::default(), sealed_parts(), b"age");
    refused(&judged(&mine, Access::Key(PrivateKey::new([1; 32]))), Rule::R16, PARTS);
}

#[test]
fn encrypted_parts_may_be_withheld_one_by_one_or_with_their_key() {
    let mut parts = encrypted(&Recipe::default(), sealed_parts(), b"age");
    parts.encrypted.as_mut().expect("encrypted").parts.remove(2);
    let report = judged(&parts, Access::Key(K));
    assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes), "{}", report.human());
    assert_eq!(row(&report, PARTS), (CheckResult::Pass, "5 of 6".to_owned()));
    let report = judged(&parts, Access::NoWrappedKey);
    assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes), "{}", report.human());
    let none = judged(&sealed_parts(), Access::Key(K));
    assert_eq!(row(&none, PARTS), (CheckResult::NotEvaluated, "there are none".to_owned()));
}

#[test]
fn other_recipients_leave_it_open_and_a_broken_key_is_wrong() {
    let parts = encrypted(&Recipe::default(), sealed_parts(), b"age");
    let report = judged(&parts, Access::OtherRecipients);
    unaccepted(&report, Verdict::Sealed, Accepted::CannotTell, KEY);
    assert_eq!(report.exit_code(), 2);
    refused(&judged(&parts, Access::Unreadable("no age".to_owned())), Rule::R16, KEY);
}

#[test]
fn an_encrypted_part_that_contradicts_its_leaf_is_genuine_and_not_accepted() {
    // The outcome of the first call, committed to as if it were an intent's.
    let recipe =
        Recipe { leaves: |leaves: &mut Vec<Leaf>| leaves[1].commitment = leaves[2].commitment, ..Recipe::default() };
    let mut lying = parts(&recipe, Ending::Sealed);
    let plain = lying.disclosed.as_mut().expect("plain");
    (plain[0].salt, plain[0].bytes) = (plain[1].salt, plain[1].bytes.clone());
    let report = judged(&encrypted(&recipe, lying, b"age"), Access::Key(K));
    unaccepted(&report, Verdict::Sealed, Accepted::No, "encrypted private parts agree with leaves");
}

#[test]
fn a_container_in_another_form_is_refused_with_and_without_an_identity() {
    let mut parts = encrypted(&Recipe::default(), sealed_parts(), b"age");
    parts.encrypted.as_mut().expect("encrypted").parts.swap(0, 1);
    for access in [Access::NoIdentity, Access::Key(K)] {
        refused(&judged(&parts, access), Rule::R2, "private.bin");
    }
    let short = EncryptedPart { index: 1, ciphertext: vec![0; 51] };
    parts.encrypted = Some(EncryptedMembers { key: b"age".to_vec(), parts: vec![short] });
    refused(&judged(&parts, Access::NoIdentity), Rule::R2, "private.bin");
}

#[test]
fn redaction_keeps_what_it_is_told_the_core_and_the_verdict() {
    let recipe = Recipe::default();
    let plain = sealed_parts().disclosed.expect("plain parts");
    let whole = super::session::with_receipt(&recipe, encrypted(&recipe, sealed_parts(), b"age"));
    let bundle = bundle::read(&bundle::write(&whole)).expect("a bundle");
    let before = judged(&whole, Access::Key(K));
    for kept in [&plain[..], &plain[1..4], &[]] {
        let redacted = bundle.redacted(kept);
        let read = bundle::read(&redacted).expect("a bundle");
        for gone in ["private.age", "private.bin"] {
            assert!(read.member(gone).is_none(), "{gone}");
        }
        assert_eq!(read.member("disclosed.cbor").is_some(), !kept.is_empty());
        assert_eq!(read.member("receipt.cbor"), bundle.member("receipt.cbor"));
        assert_eq!(read.core_id(), bundle.core_id());
        assert_ne!(read.bundle_id(), bundle.bundle_id());
        let report = verify_bundle(&redacted, &options());
        assert_eq!((report.verdict, report.accepted), (before.verdict, before.accepted), "{}", report.human());
        assert_eq!(report.words, before.words);
    }
    // The leaves are the same bytes: nothing of the record is redacted, only what stands behind commitments.
    let instance = opening(&recipe).open.to_bytes();
    assert_eq!(bundle.member("open.cbor"), Some(instance.as_slice()));
}
