//! Every file of every corpus, and a fixed number of mutations of them, through the targets with the stable compiler. A corpus
//! without a target, a target without a corpus, and an empty corpus fail. `COFFER_FUZZ_MUTATIONS=N` makes N of each instead.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use coffer_fuzz::mutation::{Random, mutate};
use coffer_fuzz::{TARGETS, Target, fixtures};

/// Mutations of each corpus.
const MUTATIONS: usize = 2_000;
/// Of the corpora whose inputs need a file system, sockets or many signatures.
const MUTATIONS_OF_SLOW_ONES: usize = 500;
const SLOW: [&str; 8] = [
    "bundle",
    "bundle_members",
    "mirror_store",
    "oci_layer",
    "oci_layout",
    "tree_download",
    "tree_upload",
    "vsock_rings",
];
/// No file of a corpus is longer, but for whole bundles.
const FILE_MAX: usize = 64 * 1024;
/// All corpora together.
const CORPORA_MAX: usize = 1536 * 1024;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// The corpus of a target by file name.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = fixtures::corpora().join(name);
    let files = names_in(&folder).into_iter().map(|file| folder.join(file));
    files
        .map(|path| (path.clone(), std::fs::read(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))))
        .collect()
}

/// What went wrong, if it did; the input is kept where a person can run it again.
fn survives(target: &Target, what: &str, input: &[u8]) -> Result<(), String> {
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    result.map_err(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-{}", target.name));
        std::fs::write(&kept, input).expect("keep the input");
        format!("{}: {what}: {words}\n  kept as {}", target.name, kept.display())
    })
}

#[test]
fn every_target_has_a_corpus_a_row_and_a_harness_and_nothing_else_has() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len(), "a name stands twice");
    assert_eq!(names_in(&fixtures::corpora()), targets, "corpora");
    let harnesses = names_in(&root().join("libfuzzer/fuzz_targets"));
    let named: BTreeSet<String> =
        harnesses.iter().filter_map(|file| file.strip_suffix(".rs")).map(str::to_owned).collect();
    assert_eq!((harnesses.len(), &named), (targets.len(), &targets), "harnesses");
    let rows = std::fs::read_to_string(root().join("targets.txt")).expect("targets.txt");
    let rows: BTreeSet<String> = rows
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, longest) = line.split_once(' ').expect("a name and a length");
            assert!(longest.parse::<usize>().is_ok_and(|longest| longest >= 1024), "{line}");
            name.to_owned()
        })
        .collect();
    assert_eq!(rows, targets, "rows of targets.txt");
    let manifest = std::fs::read_to_string(root().join("libfuzzer/Cargo.toml")).expect("its manifest");
    for name in &targets {
        assert!(
            manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")),
            "{name}: no [[bin]]"
        );
        let harness = std::fs::read_to_string(root().join(format!("libfuzzer/fuzz_targets/{name}.rs"))).expect("read");
        assert!(harness.contains(&format!("run(\"{name}\"")), "{name} runs another target");
    }
}

#[test]
fn corpora_stay_small() {
    let mut all = 0;
    for target in TARGETS {
        for (path, bytes) in corpus(target.name) {
            assert!(bytes.len() <= FILE_MAX || target.name == "bundle", "{} is large", path.display());
            all += bytes.len();
        }
    }
    assert!(all <= CORPORA_MAX, "{all} bytes of corpora");
}

#[test]
fn every_file_of_every_corpus_is_survived() {
    let mut failures = Vec::new();
    for target in TARGETS {
        let corpus = corpus(target.name);
        assert!(corpus.iter().any(|(_, bytes)| !bytes.is_empty()), "{}: the corpus is empty", target.name);
        for (path, bytes) in corpus {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            failures.extend(survives(target, &name, &bytes).err());
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn mutations_of_every_corpus_are_survived() {
    let asked = std::env::var("COFFER_FUZZ_MUTATIONS").ok().map(|count| count.parse().expect("a number of mutations"));
    let mut failures = Vec::new();
    for target in TARGETS {
        let corpus = corpus(target.name);
        let mut random = Random::of(target.name);
        let count = if SLOW.contains(&target.name) { MUTATIONS_OF_SLOW_ONES } else { MUTATIONS };
        for n in 0..asked.unwrap_or(count) {
            let (path, input) = &corpus[random.below(corpus.len())];
            let (_, other) = &corpus[random.below(corpus.len())];
            let mutated = mutate(&mut random, input, other);
            if let Err(failure) = survives(target, &format!("mutation {n} of {}", path.display()), &mutated) {
                failures.push(failure);
                // One of each target tells enough.
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
