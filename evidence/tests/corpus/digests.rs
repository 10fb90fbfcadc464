//! What the corpus was when it was last blessed: one line for each vector, and no bundle.

use std::path::Path;

use coffer_evidence::ids::Digest256;
use coffer_evidence::verify::{Report, Rule};

use crate::CORPUS;
use crate::real;
use crate::vector::Vector;

/// As in the JSON verdict.
pub(crate) fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).expect("JSON").as_str().expect("a word").to_owned()
}

pub(crate) fn row(decides: Option<(Rule, &str)>) -> String {
    decides.map_or_else(|| "-".to_owned(), |(rule, name)| format!("{rule:?} {name}"))
}

/// Name, digests of the bundle, of its verdict and of the report for people, verdict, accepted, the row that decides.
fn line((vector, report): &(Vector, Report)) -> String {
    format!(
        "{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
        vector.name,
        Digest256::of(&vector.bundle),
        Digest256::of(report.json_line().as_bytes()),
        Digest256::of(report.human().as_bytes()),
        word(report.verdict),
        word(report.accepted),
        row(vector.decides)
    )
}

#[test]
fn bundles_and_verdicts_are_the_blessed_bytes_on_every_machine() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/digests.txt");
    let made: Vec<String> = CORPUS.iter().map(line).collect();
    if std::env::var_os("COFFER_BLESS").is_some() {
        let all_there = CORPUS.iter().filter(|(vector, _)| real::NAMES.contains(&vector.name.as_str())).count();
        assert_eq!(all_there, real::NAMES.len(), "bless where the sample of dcap-qvl is");
        std::fs::write(&path, made.concat()).expect("write the digests");
        return;
    }
    let blessed = std::fs::read_to_string(&path).expect("the digests");
    // Only vectors that rest on a sample that this machine lacks may be missing.
    let missing = |line: &&str| {
        let name = line.split('\t').next().expect("a name");
        real::NAMES.contains(&name) && CORPUS.iter().all(|(vector, _)| vector.name != name)
    };
    let blessed: Vec<String> = blessed.lines().filter(|line| !missing(line)).map(|line| format!("{line}\n")).collect();
    let changed: Vec<&String> = made.iter().filter(|line| !blessed.contains(line)).collect();
    assert!(
        made == blessed,
        "expected {} blessed vectors, found {}, of which these are new or changed (COFFER_BLESS=1 blesses them):\n{}",
        blessed.len(),
        made.len(),
        changed.into_iter().cloned().collect::<String>()
    );
}
