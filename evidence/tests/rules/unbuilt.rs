//! Members that rest on rules not built yet: the report says so.

use coffer_evidence::bundle::{self, ORDER, Parts};
use coffer_evidence::ids::Digest256;
use coffer_evidence::verify::{Report, Rule, Verdict, verify_bundle};

use crate::archive::{indexed, members};
use crate::judging::{options, refused, sealed_parts};

/// The bundle with one more member, in its place and in the index.
fn with_member(parts: &Parts, name: &str, content: &[u8]) -> Vec<u8> {
    let mut members = members(parts);
    members.push((name.to_owned(), content.to_vec()));
    members.sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
    indexed(&members)
}

fn reason(report: &Report, rule: Rule, name: &str) -> String {
    let row = report.checks.iter().find(|check| check.rule == rule && check.name == name);
    row.map(|check| check.reason.clone()).unwrap_or_default()
}

#[test]
fn endpoint_evidence_is_not_called_absent() {
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
