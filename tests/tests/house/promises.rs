//! `SPECIFICATION.md`: every promise names tests that exist, or says that it is not yet tested.

use std::collections::BTreeSet;

use coffer_tests::repository;

use crate::metadata;
use crate::source::rust_files;

/// A test where it stands: its crate's folder, its file, its name.
struct Test {
    file: String,
    name: String,
}

/// Every function that the test harness runs.
fn tests() -> Vec<Test> {
    let mut all = Vec::new();
    for (file, text) in rust_files() {
        let mut marked = false;
        for line in text.lines().map(str::trim_start) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                marked = true;
            } else if let Some(name) = function_name(line) {
                if marked {
                    all.push(Test { file: file.clone(), name: name.to_owned() });
                }
                marked = false;
            }
        }
    }
    all
}

fn function_name(line: &str) -> Option<&str> {
    let line = line.strip_prefix("async ").unwrap_or(line);
    line.strip_prefix("fn ")?.split(['(', '<']).next()
}

/// Package name and folder of each crate.
fn crates() -> Vec<(String, String)> {
    let metadata = metadata();
    let root = format!("{}/", repository().display());
    let packages = metadata["packages"].as_array().expect("packages").iter();
    packages
        .map(|package| {
            let manifest = package["manifest_path"].as_str().expect("a path");
            let folder = manifest.trim_start_matches(&root).trim_end_matches("Cargo.toml").to_owned();
            (package["name"].as_str().expect("a name").to_owned(), folder)
        })
        .collect()
}

/// Whether `crate::file or folder::test` is a test that stands there.
fn exists(path: &str, crates: &[(String, String)], tests: &[Test]) -> bool {
    let parts: Vec<&str> = path.split("::").collect();
    let [package, places @ .., name] = parts.as_slice() else { return false };
    let Some((_, folder)) = crates.iter().find(|(known, _)| known == package) else { return false };
    tests.iter().any(|test| {
        let stands = |place: &&str| test.file.split(['/', '.']).any(|part| part == *place);
        test.name == *name && test.file.starts_with(folder.as_str()) && places.iter().all(stands)
    })
}

/// A row is `| promise | test |`. The test is `crate::file::test` in backquotes, or `scripts/name check`, where `scripts/name`
/// has a check of those words; several are separated by commas. Or it is the words `not yet tested`, with what is missing; both
/// may stand together, the tests first.
#[test]
fn every_promise_names_its_test_or_says_not_yet() {
    let text = std::fs::read_to_string(repository().join("SPECIFICATION.md")).expect("SPECIFICATION.md");
    let (crates, tests) = (crates(), tests());
    let mut promises = BTreeSet::new();
    for line in text.lines().filter(|l| l.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [promise, test] = cells.as_slice() else { panic!("a row has two cells: {line}") };
        if *promise == "promise" || promise.starts_with("---") {
            continue;
        }
        assert!(promises.insert((*promise).to_owned()), "{promise}: promised twice");
        let named: Vec<&str> = test.split('`').skip(1).step_by(2).collect();
        for path in &named {
            match path.strip_prefix("scripts/") {
                Some(script) => assert!(script_checks(script), "{promise}: there is no check {path}"),
                None => assert!(exists(path, &crates, &tests), "{promise}: there is no test {path}"),
            }
        }
        let open = test.contains("not yet tested");
        assert!(open || !named.is_empty(), "{promise}: names no test and does not say `not yet tested`");
    }
    assert!(promises.len() >= 100, "only {} rows found: this test reads the wrong thing", promises.len());
}

/// `test clippy`: `scripts/test` has a line that begins with `check "clippy"`, or the script exists when nothing else is named.
fn script_checks(script: &str) -> bool {
    let (name, check) = script.split_once(' ').unwrap_or((script, ""));
    let text = std::fs::read_to_string(repository().join("scripts").join(name)).unwrap_or_default();
    !text.is_empty() && (check.is_empty() || text.lines().any(|line| line.starts_with(&format!("check \"{check}\""))))
}
