//! The rules of the house, as tests: who may import whom (here), what source may look like (`house/source.rs`), what a promise
//! must name (`house/promises.rs`). These tests read the tree and `cargo metadata`; they run no product code.

#[path = "house/promises.rs"]
mod promises;
#[path = "house/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use coffer_tests::repository;

/// Who may import whom (DESIGN: the house). `coffer-tests` and `coffer-fuzz` may import all, and nobody imports them.
const ARROWS: &[(&str, &[&str])] = &[
    ("coffer-proto", &[]),
    ("coffer-evidence", &[]),
    ("coffer-policy", &[]),
    ("coffer-measurement", &[]),
    ("coffer-vsock", &[]),
    ("coffer-attempts", &[]),
    ("coffer-agent", &["coffer-proto", "coffer-evidence", "coffer-policy"]),
    ("coffer-gateway", &["coffer-proto", "coffer-evidence", "coffer-policy"]),
    ("coffer-client", &["coffer-proto", "coffer-evidence"]),
    ("coffer", &["coffer-client", "coffer-proto", "coffer-evidence", "coffer-policy"]),
    ("cofferd", &["coffer-proto", "coffer-evidence", "coffer-policy", "coffer-client"]),
    ("coffer-operator", &["coffer-proto"]),
    ("coffer-image", &["coffer-evidence", "coffer-measurement"]),
    ("coffer-tdx-sim", &["coffer-evidence", "coffer-measurement"]),
];

/// What only looks at the others.
const MAY_IMPORT_ALL: [&str; 2] = ["coffer-tests", "coffer-fuzz"];

/// Crates that must never reach the guest agent, and why.
const NEVER_IN_THE_AGENT: &[(&str, &str)] = &[
    ("dcap-qvl", "the agent holds no quote verifier"),
    ("rustls", "no X.509 in the agent"),
    ("rcgen", "no X.509 in the agent"),
    ("x509-cert", "no X.509 in the agent"),
    ("age", "the agent wraps no key yet"),
    ("coffer-tdx-sim", "no simulator in the agent"),
    ("fuser", "no simulator in the agent"),
    ("reqwest", "the guest has no network"),
    ("openssl", "C code in the guest's trusted base"),
];

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
        let free = MAY_IMPORT_ALL.contains(&name);
        let allowed = arrows.get(name).copied().unwrap_or_default();
        assert!(free || arrows.contains_key(name), "unknown crate {name}: give it its arrows");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("name");
            if !ours.contains(to) || to == name {
                continue;
            }
            seen += 1;
            let fits = if free { !MAY_IMPORT_ALL.contains(&to) } else { allowed.contains(&to) };
            assert!(fits, "{name} imports {to}: not an arrow of the house (allowed: {allowed:?})");
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

/// What the feature `fuzzing` makes public is private to everybody else.
#[test]
fn the_doors_for_fuzzing_open_for_the_fuzz_crate_alone() {
    let metadata = metadata();
    let mut doors = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name");
        for (feature, enables) in package["features"].as_object().expect("features") {
            let enables = enables.to_string();
            assert!(feature == "fuzzing" || !enables.contains("fuzzing"), "{name}: {feature} opens a door for fuzzing");
        }
        if package["features"].get("fuzzing").is_some() {
            doors.insert(name);
        }
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let opens = dependency["features"].to_string().contains("fuzzing");
            assert!(!opens || name == "coffer-fuzz", "{name} opens the door for fuzzing of {}", dependency["name"]);
        }
    }
    assert_eq!(doors, BTreeSet::from(["coffer-agent", "coffer-client", "coffer-vsock", "cofferd"]));
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

#[test]
fn every_dependency_is_on_the_page_of_dependencies() {
    let page = std::fs::read_to_string(repository().join("docs/dependencies.md")).expect("docs/dependencies.md");
    let row = |line: &str| line.strip_prefix("| `")?.split('`').next().map(str::to_owned);
    let listed: BTreeSet<String> = page.lines().filter_map(row).collect();
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let ours: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let used: BTreeSet<String> = packages
        .iter()
        .flat_map(|package| package["dependencies"].as_array().expect("dependencies"))
        .filter_map(|dependency| dependency["name"].as_str())
        .filter(|name| !ours.contains(name))
        .map(str::to_owned)
        .collect();
    let (missing, unused) = (used.difference(&listed), listed.difference(&used));
    assert!(missing.clone().next().is_none(), "docs/dependencies.md does not list {:?}", missing.collect::<Vec<_>>());
    assert!(unused.clone().next().is_none(), "docs/dependencies.md lists {:?}, unused", unused.collect::<Vec<_>>());
}
