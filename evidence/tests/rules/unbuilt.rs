//! Members and sessions that rest on rules not built yet: the report says so, and what depends on them is not told to be sealed.

use coffer_evidence::bundle::{self, ORDER, Parts};
use coffer_evidence::cbor::{Value, encode};
use coffer_evidence::ids::Digest256;
use coffer_evidence::verify::{Accepted, Report, Rule, Verdict, verify_bundle};

use crate::judging::{options, refused, sealed_parts, unaccepted};

fn header(name: &str, size: usize) -> [u8; 512] {
    let mut block = [0; 512];
    let fields: [(usize, String); 9] = [
        (0, name.to_owned()),
        (100, "0000644\0".to_owned()),
        (108, "0000000\0".to_owned()),
        (116, "0000000\0".to_owned()),
        (124, format!("{size:011o}\0")),
        (136, "00000000000\0".to_owned()),
        (148, "        ".to_owned()),
        (156, "0".to_owned()),
        (257, "ustar\u{0}00".to_owned()),
    ];
    for (at, text) in &fields {
        block[*at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// The bundle with one more member, in its place and in the index.
fn with_member(parts: &Parts, name: &str, content: &[u8]) -> Vec<u8> {
    let bundle = bundle::read(&bundle::write(parts)).expect("a bundle");
    let mut members: Vec<(String, Vec<u8>)> = bundle.members().map(|(n, b)| (n.to_owned(), b.to_vec())).collect();
    members.push((name.to_owned(), content.to_vec()));
    members.sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
    let row = |(name, content): &(String, Vec<u8>)| {
        let digest = Value::Bytes(Digest256::of(content).as_bytes().to_vec());
        Value::Array(vec![Value::Text(name.clone()), Value::Unsigned(content.len() as u64), digest])
    };
    let index = encode(&Value::Array(members.iter().map(row).collect()));
    let mut archive = Vec::new();
    for (name, content) in [("index.cbor".to_owned(), index)].iter().chain(&members) {
        archive.extend(header(name, content.len()));
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn reason(report: &Report, rule: Rule, name: &str) -> String {
    let row = report.checks.iter().find(|check| check.rule == rule && check.name == name);
    row.map(|check| check.reason.clone()).unwrap_or_default()
}

#[test]
fn a_pool_configuration_leaves_the_verdict_open() {
    let report = verify_bundle(&with_member(&sealed_parts(), "pool.cbor", b"pool"), &options());
    unaccepted(&report, Verdict::Indeterminate, Accepted::CannotTell, "pool.cbor");
}

#[test]
fn encrypted_parts_and_endpoint_evidence_are_not_called_absent() {
    let undisclosed = Parts { disclosed: None, ..sealed_parts() };
    let report = verify_bundle(&with_member(&undisclosed, "private.bin", b"x"), &options());
    assert_eq!(report.verdict, Verdict::Sealed, "{}", report.human());
    assert!(reason(&report, Rule::R16, "plain private parts open commitments").ends_with("not built yet"));

    let name = format!("endpoint/{}", Digest256::of(b"x"));
    let report = verify_bundle(&with_member(&sealed_parts(), &name, b"x"), &options());
    assert_eq!(report.verdict, Verdict::Sealed, "{}", report.human());
    assert_eq!(reason(&report, Rule::R17, "endpoint evidence"), "not built yet");
    let report = verify_bundle(&bundle::write(&sealed_parts()), &options());
    assert_eq!(reason(&report, Rule::R17, "endpoint evidence"), "none is present");
}

#[test]
fn endpoint_evidence_under_the_name_of_other_bytes_is_refused_by_framing() {
    let name = format!("endpoint/{}", Digest256::of(b"x"));
    let report = verify_bundle(&with_member(&sealed_parts(), &name, b"y"), &options());
    refused(&report, Rule::R1, Rule::R1.title());
    assert!(report.human().contains("named by the SHA-256"), "{}", report.human());
}
