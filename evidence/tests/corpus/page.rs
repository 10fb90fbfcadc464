//! `docs/verifier-rules.md` says which vectors each check decides, and why none decides the others. The tables of vectors are
//! written anew by `COFFER_BLESS=1`; the reasons are written here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use coffer_evidence::verify::Rule;

use crate::CORPUS;
use crate::real;
use crate::rules_page::{Named, names};

const OPENING: &str = "of an opening alone, not of a bundle";
const NEVER_BAD: &str = "says that there is nothing to judge, or that all holds; never in the way";
const INTEL: &str = "needs a bundle under Intel's root, which nobody can make without a TDX host";

/// Checks that no bundle made here can leave in the way, and why.
const WITHOUT: [(Rule, &str, &str); 11] = [
    (Rule::R1, "opening", OPENING),
    (Rule::R2, "every file parses and is canonical", NEVER_BAD),
    (Rule::R3, "manifest signed by a pinned publisher", INTEL),
    (Rule::R3, "publisher", OPENING),
    (Rule::R6, "TD attributes", "R4 asks the same before"),
    (Rule::R6, "TD attributes at the seal", "R4 asks the same before"),
    (Rule::R12, "call chains", NEVER_BAD),
    (Rule::R14, "seal", NEVER_BAD),
    (Rule::R15, "acknowledgements", NEVER_BAD),
    (Rule::R17, "endpoint evidence", NEVER_BAD),
    (Rule::R18, "expectations", NEVER_BAD),
];

/// The first negative tests of the evidence specification, by the vectors that are them.
const FIRST_TESTS: [(&str, &[&str]); 24] = [
    ("twin TDs from one config", &["twin", "event-0-of-a-twin"]),
    ("opening A with seal B", &["opening-a-seal-b"]),
    ("Intel opening with simulated seal", &["intel-opening-simulated-seal"]),
    ("simulated-profile image under Intel's root", &["simulated-image-under-intels-root"]),
    ("old collateral", &["collateral-ended", "collateral-years-later"]),
    ("unknown publisher", &["unknown-publisher"]),
    ("host-made owner", &["host-made-owner", "expected-owner"]),
    ("seal stripped", &["seal-stripped", "receipt-of-a-stripped-seal"]),
    ("input unsigned", &["input-unsigned", "input-beyond-the-signed"]),
    ("second Bind", &["second-bind"]),
    ("Bind to another config", &["bind-to-another-config", "pool-image", "pool-host-key"]),
    ("foreign extend", &["foreign-extend", "foreign-extend-before-the-opening"]),
    ("ack by the host only", &["ack-by-the-host-only", "ack-signed-by-the-host"]),
    (
        "header replayed on a second channel",
        &["header-replayed-on-a-second-channel", "header-replayed-as-the-second-channels"],
    ),
    ("header replayed in a twin", &["header-replayed-in-a-twin", "header-replayed-as-the-twins"]),
    ("header out of order", &["headers-out-of-order", "header-left-out"]),
    (
        "header with another commitment",
        &["header-with-another-commitment", "header-with-another-commitment-in-its-chain"],
    ),
    ("leaf with an unknown key", &["form-leaf-unknown-key"]),
    ("non-canonical CBOR", &["form-config-cbor-long-head", "form-leaf-keys-swapped", "form-seal-cbor-indefinite"]),
    (
        "ECDSA s replaced by n - s",
        &["opening-quote-second-form", "receipt-of-the-first-form", "final-quote-second-form"],
    ),
    ("trailing bytes after the quote", &["opening-quote-byte-after", "final-quote-zero-after"]),
    ("policy text changed", &["policy-text-changed"]),
    ("redacted part swapped between leaves", &["parts-swapped"]),
    ("encrypted part swapped between leaves", &["encrypted-parts-swapped", "encrypted-parts-of-a-twin"]),
];

const BEGIN: &str = "<!-- vectors: begin -->\n";
const END: &str = "<!-- vectors: end -->\n";

fn page() -> (std::path::PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/verifier-rules.md");
    let text = std::fs::read_to_string(&path).expect("the page of rules");
    (path, text)
}

/// Every check in the tables of the page, by rule and name, in the order of the page.
fn checks(page: &str) -> Vec<(String, String)> {
    let check = |(rule, named)| match named {
        Named::Check(name) => Some((rule, name)),
        Named::Title(_) => None,
    };
    names(page.split(BEGIN).next().expect("text")).into_iter().filter_map(check).collect()
}

fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The section as the corpus gives it.
fn section(page: &str) -> String {
    let mut deciding: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for (vector, _) in CORPUS.iter() {
        if let Some((rule, check)) = vector.decides {
            deciding.entry((format!("{rule:?}"), check.to_owned())).or_default().push(&vector.name);
        }
    }
    let reasons: BTreeMap<(String, String), &str> =
        WITHOUT.iter().map(|(rule, check, why)| ((format!("{rule:?}"), (*check).to_owned()), *why)).collect();
    let mut out = String::from("| check | vectors in which it alone is in the way |\n|---|---|\n");
    let mut seen = BTreeSet::new();
    for check in checks(page) {
        let told = match (deciding.get(&check), reasons.get(&check)) {
            (Some(vectors), None) => listed(vectors.iter().copied()),
            (None, Some(why)) => format!("none: {why}"),
            (Some(_), Some(_)) => panic!("{check:?} is said to have no vector, and has"),
            (None, None) => panic!("{check:?} has no vector, and nothing says why"),
        };
        writeln!(out, "| {} `{}` | {told} |", check.0, check.1).expect("a string takes it");
        assert!(seen.insert(check.clone()), "{check:?} stands on the page twice");
    }
    let strangers: Vec<_> = deciding.keys().filter(|check| !seen.contains(*check)).collect();
    assert!(strangers.is_empty(), "docs/verifier-rules.md does not name {strangers:?}");
    let strangers: Vec<_> = reasons.keys().filter(|check| !seen.contains(*check)).collect();
    assert!(strangers.is_empty(), "docs/verifier-rules.md does not name {strangers:?}");
    let good = CORPUS.iter().filter(|(vector, _)| vector.decides.is_none()).map(|(vector, _)| vector.name.as_str());
    write!(out, "\nNothing is in the way in {}.\n", listed(good)).expect("a string takes it");
    out.push_str("\n| first negative test | vectors |\n|---|---|\n");
    for (test, vectors) in FIRST_TESTS {
        writeln!(out, "| {test} | {} |", listed(vectors.iter().copied())).expect("a string takes it");
    }
    out
}

#[test]
fn the_page_of_rules_names_the_vectors_of_each_check_or_says_why_there_is_none() {
    let sample = CORPUS.iter().filter(|(vector, _)| real::NAMES.contains(&vector.name.as_str())).count();
    if sample != real::NAMES.len() {
        return crate::vectors::not_run("dcap-qvl/tdx_quote");
    }
    let (path, text) = page();
    let (before, rest) = text.split_once(BEGIN).expect("the section begins");
    let (_, after) = rest.split_once(END).expect("the section ends");
    let made = format!("{before}{BEGIN}{}{END}{after}", section(&text));
    if std::env::var_os("COFFER_BLESS").is_some() {
        std::fs::write(&path, made).expect("write the page");
        return;
    }
    assert!(
        made == text,
        "docs/verifier-rules.md names other vectors than the corpus has; COFFER_BLESS=1 writes it anew"
    );
}

#[test]
fn every_first_negative_test_is_a_vector() {
    let names: BTreeSet<&str> = CORPUS.iter().map(|(vector, _)| vector.name.as_str()).chain(real::NAMES).collect();
    for (test, vectors) in FIRST_TESTS {
        assert!(!vectors.is_empty(), "{test}: no vector");
        for vector in vectors {
            assert!(names.contains(vector), "{test}: no vector {vector}");
        }
    }
}
