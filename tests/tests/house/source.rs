//! What source may look like: where unsafe may stand, what files and modules are called, how long they are, which lints hold.

use std::collections::BTreeSet;

use coffer_tests::{files_below, repository};

/// Files that may hold `unsafe`, each with its reason.
const UNSAFE_FILES: &str = include_str!("../unsafe-files.txt");
/// How far above `unsafe` its reason may begin, in lines.
const REASON_LINES: usize = 6;
/// The longest file without its tests, in lines.
const LINES_MAX: usize = 500;
/// Names that say nothing.
const EMPTY_NAMES: [&str; 8] = ["utils", "util", "helpers", "helper", "manager", "managers", "common", "misc"];
/// Lints that keep hostile bytes from panicking the evidence crate.
const EVIDENCE_LINTS: [&str; 5] = [
    "clippy::unwrap_used",
    "clippy::expect_used",
    "clippy::panic",
    "clippy::indexing_slicing",
    "clippy::arithmetic_side_effects",
];

/// Every source file by its name from the root of the repository.
pub(crate) fn rust_files() -> Vec<(String, String)> {
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

/// The lines of a file before its tests.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|l| !l.starts_with("#[cfg(test)]"))
}

/// Whether the word stands in this line as code.
fn has_word(line: &str, wanted: &str) -> bool {
    let line = line.split("//").next().unwrap_or_default();
    !line.contains('"') && line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == wanted)
}

#[test]
fn unsafe_stands_only_in_listed_files() {
    let rows = UNSAFE_FILES.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    let listed: BTreeSet<&str> = rows
        .map(|row| {
            let (file, reason) = row.split_once('#').unwrap_or((row, ""));
            assert!(reason.trim().len() > 10, "unsafe-files.txt: {row} has no reason after the number sign");
            file.trim()
        })
        .collect();
    let mut used = BTreeSet::new();
    for (name, text) in rust_files() {
        if text.lines().any(|line| has_word(line, "unsafe")) {
            assert!(listed.contains(name.as_str()), "{name} holds unsafe and is not in tests/tests/unsafe-files.txt");
            used.insert(name);
        }
    }
    for name in listed {
        assert!(used.contains(name), "{name} is listed in unsafe-files.txt and holds no unsafe: take it out");
    }
}

#[test]
fn every_unsafe_says_why_it_is_safe() {
    for (name, text) in rust_files() {
        let lines: Vec<&str> = text.lines().collect();
        for (at, _) in lines.iter().enumerate().filter(|(_, line)| has_word(line, "unsafe")) {
            let above = &lines[at.saturating_sub(REASON_LINES)..=at];
            let reason = above.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            assert!(reason, "{name}:{}: unsafe without a SAFETY comment above it", at + 1);
        }
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
    let long: Vec<String> = rust_files()
        .iter()
        .filter(|(name, _)| !name.contains("/tests/") && !name.ends_with("tests.rs"))
        .map(|(name, text)| (name, code(text).count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(name, lines)| format!("{name} has {lines} lines"))
        .collect();
    assert!(long.is_empty(), "split by concept what is over {LINES_MAX} lines without its tests: {long:#?}");
}

#[test]
fn no_file_folder_or_module_is_named_for_nothing() {
    let root = repository();
    for path in files_below(&root) {
        let path = path.strip_prefix(&root).expect("below the root");
        for part in path.with_extension("").iter().map(|part| part.to_string_lossy()) {
            assert!(!EMPTY_NAMES.contains(&&*part), "{}: name it for what it holds", path.display());
        }
    }
    for (name, text) in rust_files() {
        for line in text.lines().map(str::trim_start) {
            let line =
                line.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ").trim_start_matches("pub ");
            let module = line.strip_prefix("mod ").and_then(|rest| rest.split([' ', '{', ';']).next());
            assert!(!module.is_some_and(|m| EMPTY_NAMES.contains(&m)), "{name}: {line}: name it for what it holds");
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

/// The lints are denied for the whole crate, and no file switches one off. Clippy, run by `scripts/test`, does the rest.
#[test]
fn evidence_denies_unwrap_indexing_and_unchecked_arithmetic() {
    let lib = std::fs::read_to_string(repository().join("evidence/src/lib.rs")).expect("evidence/src/lib.rs");
    let denied = lib.split_once("deny(").and_then(|(_, rest)| rest.split_once(')')).map_or("", |(list, _)| list);
    for lint in EVIDENCE_LINTS {
        assert!(denied.contains(lint), "evidence/src/lib.rs no longer denies {lint}");
    }
    assert!(lib.contains("#![forbid(unsafe_code)]"), "evidence/src/lib.rs no longer forbids unsafe code");
    for (name, text) in rust_files().iter().filter(|(name, _)| name.starts_with("evidence/src/")) {
        let mut attribute = false;
        for line in code(text).filter(|_| name != "evidence/src/lib.rs") {
            attribute = attribute || line.contains("allow(") || line.contains("expect(");
            for lint in EVIDENCE_LINTS {
                assert!(!(attribute && line.contains(lint)), "{name} switches {lint} off");
            }
            attribute = attribute && !line.contains(']');
        }
    }
}

/// Time, randomness and bytes are parameters.
#[test]
fn evidence_policy_and_measurement_do_no_io_and_read_no_clock() {
    let mut read = 0;
    for (name, text) in rust_files() {
        let pure = ["evidence/src/", "policy/src/", "measurement/src/"].iter().any(|pure| name.starts_with(pure));
        if !pure || name.contains("tests") {
            continue;
        }
        read += 1;
        for line in code(&text).filter(|line| !line.trim_start().starts_with("//")) {
            for reach in ["std::fs", "std::net", "std::env", "std::process", "std::thread", "SystemTime", "Instant"] {
                assert!(!line.contains(reach), "{name} reaches for {reach}");
            }
        }
    }
    assert!(read >= 30, "only {read} files read: this test reads the wrong thing");
}

#[test]
fn the_session_machine_and_admission_are_synchronous() {
    for file in ["machine", "admission"] {
        let name = format!("orchestrator/src/session/{file}.rs");
        let text = std::fs::read_to_string(repository().join(&name)).unwrap_or_else(|e| panic!("read {name}: {e}"));
        for line in code(&text).filter(|line| !line.trim_start().starts_with("//")) {
            let waits = ["tokio", "async", "await"].into_iter().find(|word| has_word(line, word));
            assert_eq!(waits, None, "{name} is a pure function");
        }
    }
}

/// Where product code may let time pass, and why no event would do.
const SLEEPS: [(&str, &str); 8] = [
    ("orchestrator/src/host/room.rs", "the kernel gives no event for a disk that has room again"),
    ("orchestrator/src/session/driver.rs", "the deadline of a phase is itself the event"),
    ("orchestrator/src/link/mod.rs", "the kernel gives no event for descriptors that are free again"),
    ("agent/src/agent/session.rs", "time to live and idle time are themselves the events"),
    ("agent/src/agent/exec/live.rs", "an upper bound beside the event that is waited for"),
    ("agent/src/agent/builtin.rs", "an upper bound beside the event that is waited for"),
    ("agent/src/agent/outlet.rs", "a vsock host that went away gives no event when it is back"),
    ("agent/src/notary/quotes.rs", "configfs-tsm answers EBUSY and tells nobody when that is over"),
];

#[test]
fn nothing_waits_by_sleeping_where_an_event_could_be_waited_for() {
    let product = |name: &str| {
        let of_tests = name.starts_with("tests/") || name.ends_with("tests.rs");
        // The client waits for a cofferd that is starting: a socket that is not there yet gives no event.
        name.contains("/src/") && !of_tests && !name.starts_with("client/")
    };
    let mut used = BTreeSet::new();
    for (name, text) in rust_files() {
        if product(&name)
            && code(&text).any(|line| {
                (line.contains("sleep(") || line.contains("sleep_until(")) && !line.trim_start().starts_with("//")
            })
        {
            let listed = SLEEPS.iter().find(|(file, _)| *file == name);
            assert!(listed.is_some(), "{name} sleeps: wait for an event, or list it with the reason");
            used.insert(name);
        }
    }
    for (file, _) in SLEEPS {
        assert!(used.contains(file), "{file} is listed as one that sleeps and does not: take it out");
    }
}
