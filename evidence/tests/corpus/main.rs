//! The corpus: bundles, good and bad, each with what the verifier is asked and what it must answer, and in each bad one exactly
//! one check that is in the way. Made anew by every run from published keys and fixed times; `digests.txt` holds what came out
//! when it was last blessed (`COFFER_BLESS=1`), so two machines that pass have made and judged the same bytes.
//! `scripts/corpus` writes it to a directory for other verifiers.
#![cfg(all(feature = "verifier", feature = "age"))]

mod acks;
mod appraisal;
#[path = "../support/archive.rs"]
#[allow(dead_code, reason = "the sweeps use more of it")]
mod archive;
#[path = "../support/boot_log.rs"]
mod boot_log;
#[path = "../support/booted.rs"]
mod booted;
mod certificates;
mod chains;
mod claims;
#[path = "../sweeps/der.rs"]
mod der;
mod digests;
mod elsewhere;
mod encrypted;
mod forms;
mod framing;
mod good;
mod opening;
mod page;
#[path = "../rules/platform.rs"]
#[allow(dead_code, reason = "the tests of the rules use more of it")]
mod platform;
mod pool;
mod real;
mod record;
#[path = "../support/refused_policies.rs"]
mod refused_policies;
#[path = "../support/rules_page.rs"]
mod rules_page;
mod schemas;
mod seal;
#[path = "../rules/session.rs"]
#[allow(dead_code, reason = "the tests of the rules use more of it")]
mod session;
mod vector;
#[path = "../support/vectors.rs"]
mod vectors;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use coffer_evidence::verify::{Accepted, CheckResult, Report, Rule};
use vector::{Row, Vector};

/// Every vector with the report on it, in the order of the rules.
static CORPUS: LazyLock<Vec<(Vector, Report)>> = LazyLock::new(|| {
    let made = [
        good::vectors(),
        framing::vectors(),
        forms::vectors(),
        opening::vectors(),
        real::vectors(),
        pool::vectors(),
        record::vectors(),
        chains::vectors(),
        acks::vectors(),
        seal::vectors(),
        claims::vectors(),
        encrypted::vectors(),
        appraisal::vectors(),
    ];
    let judged = |vector: Vector| {
        let report = vector.judge();
        (vector, report)
    };
    made.into_iter().flatten().map(judged).collect()
});

fn obstacles(report: &Report) -> Vec<Row> {
    report.obstacles().map(|check| (check.rule, check.name)).collect()
}

#[test]
fn every_vector_has_its_verdict_and_every_bad_one_fails_one_check_and_no_other() {
    let mut names = BTreeSet::new();
    let mut wrong = Vec::new();
    for (vector, report) in CORPUS.iter() {
        assert!(names.insert(&vector.name), "two vectors are called {}", vector.name);
        let found = (report.verdict, report.accepted, obstacles(report));
        if found != (vector.verdict, vector.accepted, Vec::from_iter(vector.decides)) {
            wrong.push(format!("{}: {found:?}, expected {:?}\n{}", vector.name, vector.decides, report.human()));
        }
        assert_eq!(vector.decides.is_none(), vector.accepted == Accepted::Yes, "{}", vector.name);
    }
    assert!(wrong.is_empty(), "{} vectors\n{}", wrong.len(), wrong.join("\n"));
    assert!(names.len() >= 150, "{} vectors", names.len());
}

/// In a bad vector every rule before the one that decides has nothing to say, so it is that rule alone that is tested.
#[test]
fn every_rule_is_passed_by_a_good_vector() {
    let passed: BTreeSet<Rule> = CORPUS
        .iter()
        .filter(|(vector, _)| vector.decides.is_none())
        .flat_map(|(_, report)| report.checks.iter().filter(|check| check.result == CheckResult::Pass))
        .map(|check| check.rule)
        .collect();
    let never: Vec<Rule> = Rule::ALL.into_iter().filter(|rule| !passed.contains(rule)).collect();
    assert!(never.is_empty(), "no good vector passes {never:?}");
}
