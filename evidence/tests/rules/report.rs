//! The report itself: fields, order, words, exit status, determinism.

use coffer_evidence::verify::{Accepted, Options, Rule, SIMULATED_ROOT_DER, Verdict, verify_bundle};

use crate::judging::{decided, options, unaccepted, verify};
use crate::platform::{NOVEMBER, ROOT_DER};
use crate::session::{AT, Recipe, sealed};

#[test]
fn the_simulators_published_root_is_the_pinned_one() {
    assert_eq!(ROOT_DER, SIMULATED_ROOT_DER);
}

#[test]
fn a_whole_simulated_bundle_is_sealed_and_accepted_on_request_alone() {
    let report = verify(&Recipe::default());
    assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes), "{}", report.human());
    assert_eq!(report.exit_code(), 0);
    assert_eq!(report.platform.as_deref(), Some("simulated"));
    assert_eq!(report.extent.as_deref(), Some("whole(9)"));
    assert_eq!(report.authority, Some("delegated"));
    assert_eq!(
        (report.outcome, report.reason.as_deref(), report.closed_by.as_deref()),
        (Some("sealed"), Some("user_closed"), Some("host"))
    );
    assert_eq!(report.as_of, Some(NOVEMBER));
    assert_eq!(
        report.words,
        ["Anyone can forge this.", "The host ordered these calls for its clients and could have added or changed any."]
    );
    assert!(report.checks.iter().all(|check| check.reason != "not built yet"));
    assert!(decided(&report).is_empty());
}

#[test]
fn simulated_evidence_is_not_accepted_unless_asked_for_and_the_report_says_why() {
    let report = verify_bundle(&sealed(&Recipe::default()), &Options { at: AT, ..Options::default() });
    unaccepted(&report, Verdict::Sealed, Accepted::No, "platform is real");
    assert_eq!(report.exit_code(), 1);
    assert!(report.human().contains("--accept-simulated"));
    assert!(report.human().contains("Anyone can forge this."));
}

#[test]
fn the_json_verdict_is_one_line_with_the_fixed_fields_in_their_order() {
    let line = verify(&Recipe::default()).json_line();
    assert!(!line.contains('\n'));
    let fields = [
        "schema",
        "verdict",
        "accepted",
        "platform",
        "authority",
        "outcome",
        "reason",
        "closed_by",
        "session",
        "instance",
        "extent",
        "image",
        "policy_digest",
        "at",
        "as_of",
        "checks",
        "bundle_id",
        "core_id",
        "words",
    ];
    let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let object = value.as_object().expect("an object");
    assert_eq!(object.len(), fields.len());
    let positions: Vec<usize> =
        fields.iter().map(|field| line.find(&format!("\"{field}\":")).expect("the field")).collect();
    assert!(object.keys().all(|key| fields.contains(&key.as_str())));
    // `reason` and others occur again inside the checks: what counts is that first places rise.
    assert!(positions.is_sorted(), "{line}");
    assert!(line.starts_with(
        "{\"schema\":\"coffer.verdict.v1\",\"verdict\":\"sealed\",\"accepted\":\"yes\",\"platform\":\"simulated\""
    ));
    let image = value["image"].as_object().expect("an object");
    assert!(["name", "digest", "publisher"].iter().all(|field| image.contains_key(*field)) && image.len() == 3);
    for check in value["checks"].as_array().expect("an array") {
        let check = check.as_object().expect("an object");
        assert!(
            ["rule", "name", "result", "reason"].iter().all(|field| check.contains_key(*field)) && check.len() == 4
        );
    }
}

#[test]
fn the_same_bundle_policy_and_time_give_the_same_bytes() {
    let bytes = sealed(&Recipe::default());
    assert_eq!(bytes, sealed(&Recipe::default()), "the fixture is deterministic");
    let (a, b) = (verify_bundle(&bytes, &options()), verify_bundle(&bytes, &options()));
    assert_eq!(a.json_line(), b.json_line());
    assert_eq!(a.human(), b.human());
}

#[test]
fn every_rule_has_a_row_in_order_whatever_the_input() {
    for bytes in [Vec::new(), vec![0; 1024], sealed(&Recipe::default())] {
        let report = verify_bundle(&bytes, &options());
        let mut rules: Vec<Rule> = report.checks.iter().map(|check| check.rule).collect();
        assert!(rules.is_sorted());
        rules.dedup();
        assert_eq!(rules, Rule::ALL);
    }
}
