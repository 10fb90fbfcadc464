//! The rules of the house, as tests: who may import whom, where unsafe may stand, what a promise must name.
//! These tests read the tree and `cargo metadata`; they run no product code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use coffer_tests::{files_below, repository};

/// Who may import whom (DESIGN: the house). `coffer-tests` may import all.
const ARROWS: &[(&str, &[&str])] = &[
    ("coffer-proto", &[]),
    ("coffer-evidence", &[]),
    ("coffer-policy", &[]),
    ("coffer-measurement", &[]),
    ("coffer-vsock", &[]),
    ("coffer-agent", &["coffer-proto", "coffer-evidence", "coffer-policy"]),
    ("coffer-gateway", &["coffer-proto", "coffer-evidence", "coffer-policy"]),
    ("coffer-client", &["coffer-proto", "coffer-evidence"]),
    ("coffer", &["coffer-client", "coffer-proto", "coffer-evidence", "coffer-policy"]),
    ("cofferd", &["coffer-proto", "coffer-evidence", "coffer-policy", "coffer-client"]),
    ("coffer-operator", &["coffer-proto"]),
    ("coffer-image", &["coffer-evidence", "coffer-measurement"]),
    ("coffer-tdx-sim", &["coffer-evidence", "coffer-measurement"]),
];

/// Crates that must never reach the guest agent, and why.
const NEVER_IN_THE_AGENT: &[(&str, &str)] = &[
    ("dcap-qvl", "the agent holds no quote verifier"),
    ("rustls", "no X.509 in the agent"),
    ("rcgen", "no X.509 in the agent"),
    ("x509-cert", "no X.509 in the agent"),
    ("coffer-tdx-sim", "no simulator in the agent"),
    ("fuser", "no simulator in the agent"),
    ("reqwest", "the guest has no network"),
    ("openssl", "C code in the guest's trusted base"),
];

/// Files that may hold `unsafe`. Each block in them carries a SAFETY comment (a clippy lint sees to that).
const UNSAFE_FILES: &str = include_str!("unsafe-files.txt");

fn metadata() -> serde_json::Value {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(repository())
        .output()
        .expect("run cargo metadata");
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON")
}

#[test]
fn crates_import_only_along_the_arrows() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let ours: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut seen = 0;
    for package in packages {
        let name = package["name"].as_str().expect("name");
        if name == "coffer-tests" {
            continue;
        }
        let allowed = arrows.get(name).unwrap_or_else(|| panic!("unknown crate {name}: give it its arrows"));
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("name");
            if !ours.contains(to) || to == name {
                continue;
            }
            seen += 1;
            assert!(allowed.contains(&to), "{name} imports {to}: not an arrow of the house (allowed: {allowed:?})");
        }
    }
    assert!(seen >= 8, "only {seen} edges found: this test reads the wrong thing");
}

#[test]
fn the_agent_does_not_ask_for_the_verifier() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        if package["name"] != "coffer-agent" {
            continue;
        }
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            if dependency["name"] == "coffer-evidence" {
                assert_eq!(dependency["features"], serde_json::json!([]), "the agent's evidence has no features");
                return;
            }
        }
    }
    panic!("coffer-agent does not import coffer-evidence: this test reads the wrong thing");
}

#[test]
fn no_verifier_and_no_simulator_reaches_the_guest_agent() {
    let tree = dependency_tree(&["-p", "coffer-agent"]);
    assert!(tree.iter().any(|c| c == "coffer-evidence"), "this test reads the wrong thing: {tree:?}");
    for (banned, why) in NEVER_IN_THE_AGENT {
        assert!(!tree.iter().any(|c| c == banned), "coffer-agent pulls in {banned}: {why}");
    }
}

#[test]
fn no_simulator_code_is_in_cofferd() {
    let tree = dependency_tree(&["-p", "cofferd"]);
    assert!(tree.iter().any(|c| c == "coffer-evidence"), "this test reads the wrong thing: {tree:?}");
    assert!(!tree.iter().any(|c| c == "coffer-tdx-sim"), "cofferd pulls in the simulator");
}

fn dependency_tree(package: &[&str]) -> Vec<String> {
    let out = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--prefix", "none", "-e", "normal", "--format", "{p}"])
        .args(package)
        .current_dir(repository())
        .output()
        .expect("run cargo tree");
    assert!(out.status.success(), "cargo tree: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout);
    text.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
}

fn rust_files() -> Vec<(String, String)> {
    let root = repository();
    files_below(&root)
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .map(|p| {
            let name = p.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&p).unwrap_or_else(|e| panic!("read {name}: {e}"));
            (name, text)
        })
        .collect()
}

#[test]
fn unsafe_stands_only_in_listed_files() {
    let listed: BTreeSet<&str> =
        UNSAFE_FILES.lines().filter_map(|l| l.split('#').next()).map(str::trim).filter(|l| !l.is_empty()).collect();
    let mut used = BTreeSet::new();
    for (name, text) in rust_files() {
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        let has = code.filter(|l| !l.contains("unsafe_code")).any(|l| {
            l.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe") && !l.contains('"')
        });
        if has {
            assert!(listed.contains(name.as_str()), "{name} holds unsafe and is not in tests/tests/unsafe-files.txt");
            used.insert(name);
        }
    }
    for name in listed {
        assert!(used.contains(name), "{name} is listed in unsafe-files.txt and holds no unsafe: take it out");
    }
}

#[test]
fn every_source_file_says_what_it_is_for() {
    for (name, text) in rust_files() {
        assert!(text.starts_with("//!"), "{name} does not open with //! and what it is for");
    }
}

#[test]
fn source_files_stay_under_500_lines_without_tests() {
    for (name, text) in rust_files() {
        if name.contains("/tests/") || name.ends_with("tests.rs") {
            continue;
        }
        let lines = text.lines().take_while(|l| !l.starts_with("#[cfg(test)]")).count();
        assert!(lines <= 500, "{name} has {lines} lines without its tests: split it by concept");
    }
}

#[test]
fn no_file_is_named_for_nothing() {
    for path in files_below(&repository()) {
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        for banned in ["utils", "util", "helpers", "helper", "manager", "common", "misc"] {
            assert_ne!(stem, banned, "{}: name it for what it holds", path.display());
        }
    }
}

#[test]
fn no_test_is_ignored() {
    let marker = ["#[ign", "ore"].concat();
    for (name, text) in rust_files() {
        assert!(!text.contains(&marker), "{name} ignores a test: a test that cannot run here says NOT RUN");
    }
}

#[test]
fn evidence_denies_unwrap_and_indexing() {
    let lib = std::fs::read_to_string(repository().join("evidence/src/lib.rs")).expect("evidence/src/lib.rs");
    for lint in ["clippy::unwrap_used", "clippy::expect_used", "clippy::indexing_slicing", "clippy::panic"] {
        assert!(lib.contains(lint), "evidence/src/lib.rs no longer denies {lint}");
    }
    assert!(lib.contains("forbid(unsafe_code)"), "evidence/src/lib.rs no longer forbids unsafe code");
    for (name, text) in rust_files() {
        if name.starts_with("evidence/src/") {
            for lint in ["allow(clippy::unwrap_used", "allow(clippy::expect_used", "allow(clippy::indexing_slicing"] {
                assert!(!text.contains(lint), "{name} switches {lint} off");
            }
        }
    }
}

/// A row of SPECIFICATION.md is `| promise | test |`, where the test is `path::name` in backquotes, several of them
/// separated by commas, or the words `not yet tested`, or `NOT RUN` with its reason.
#[test]
fn every_promise_names_its_test_or_says_not_yet() {
    let root = repository();
    let text = std::fs::read_to_string(root.join("SPECIFICATION.md")).expect("SPECIFICATION.md");
    let functions: BTreeSet<String> = rust_files()
        .iter()
        .flat_map(|(_, text)| text.lines().filter_map(function_name).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let mut rows = 0;
    for line in text.lines().filter(|l| l.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [promise, test] = cells.as_slice() else { panic!("a row has two cells: {line}") };
        if *promise == "promise" || promise.starts_with("---") {
            continue;
        }
        rows += 1;
        if test.starts_with("not yet tested") || test.starts_with("NOT RUN") {
            continue;
        }
        let mut named = 0;
        for name in test.split('`').skip(1).step_by(2) {
            named += 1;
            if let Some(script) = name.strip_prefix("scripts/") {
                let file = script.split_whitespace().next().unwrap_or_default();
                assert!(Path::new(&root.join("scripts").join(file)).exists(), "{promise}: no scripts/{file}");
                continue;
            }
            let function = name.rsplit("::").next().unwrap_or(name);
            assert!(functions.contains(function), "{promise}: there is no test named {function}");
        }
        assert!(named > 0, "{promise}: names no test and does not say `not yet tested`");
    }
    assert!(rows >= 20, "only {rows} rows found: this test reads the wrong thing");
}

fn function_name(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("async ").unwrap_or(line);
    line.strip_prefix("fn ")?.split(['(', '<']).next()
}
