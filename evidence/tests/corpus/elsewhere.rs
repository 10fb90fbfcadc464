//! The corpus for others: in a process with another locale, time zone and directory, and in files for another verifier.

use std::path::{Path, PathBuf};
use std::process::Command;

use coffer_evidence::verify::verify_bundle;
use serde_json::{Value, json};

use crate::CORPUS;
use crate::certificates::third_root;
use crate::digests::word;
use crate::vector::{Flag, Vector, options};

/// Names the file that a child process writes its verdicts to.
const CHILD: &str = "COFFER_CORPUS_VERDICTS";
/// Names the directory that the corpus is written to.
const OUT: &str = "COFFER_CORPUS";

fn verdicts() -> String {
    CORPUS.iter().map(|(_, report)| report.json_line() + "\n" + &report.human()).collect()
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()))
}

#[test]
fn time_zone_locale_and_directory_change_no_byte_of_a_verdict() {
    if let Some(path) = std::env::var_os(CHILD) {
        std::fs::write(path, verdicts()).expect("write the verdicts");
        return;
    }
    let here = verdicts();
    let surroundings = [
        ("Pacific/Kiritimati", "tr_TR.UTF-8", "/"),
        ("America/St_Johns", "C", env!("CARGO_TARGET_TMPDIR")),
        ("XYZ-12:34:56", "ar_EG.UTF-8", "/"),
    ];
    for (zone, locale, directory) in surroundings {
        let path = scratch("verdicts");
        let test = "elsewhere::time_zone_locale_and_directory_change_no_byte_of_a_verdict";
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", test])
            .env(CHILD, &path)
            .envs([("TZ", zone), ("LANG", locale), ("LC_ALL", locale), ("LANGUAGE", locale)])
            .current_dir(directory)
            .output()
            .expect("run this program again");
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        let there = std::fs::read_to_string(&path).expect("the child's verdicts");
        std::fs::remove_file(&path).expect("remove the child's verdicts");
        assert!(here == there, "under TZ={zone} LC_ALL={locale} a verdict has other bytes");
    }
}

/// The flags as on the command line of `coffer evidence verify`, with the files that they name.
fn arguments(vector: &Vector) -> (Vec<String>, Vec<(String, &str)>) {
    let mut files = Vec::new();
    let mut named = |ending: &str, text| {
        let file = format!("{}.{ending}", vector.name);
        files.push((file.clone(), text));
        Some(file)
    };
    let mut arguments = Vec::new();
    for flag in &vector.flags {
        let (name, value) = match flag {
            Flag::Simulated => ("--accept-simulated", None),
            Flag::Prefix => ("--accept-prefix", None),
            Flag::AnyOwner => ("--any-owner", None),
            Flag::EverySignature => ("--every-signature", None),
            Flag::Session(id) => ("--session", Some(id.clone())),
            Flag::Owner(key) => ("--owner", Some(key.clone())),
            Flag::Instance(id) => ("--instance", Some(id.clone())),
            Flag::Seen(text) => ("--seen", named("note", text.as_str())),
            Flag::Identity(text) => ("--identity", named("key", text)),
        };
        arguments.push(name.to_owned());
        arguments.extend(value);
    }
    (arguments, files)
}

fn write(out: &Path) {
    std::fs::create_dir_all(out).expect("make the directory");
    let put = |name: &str, bytes: &[u8]| std::fs::write(out.join(name), bytes).expect("write a file of the corpus");
    put("third-root.der", &third_root());
    let mut index = Vec::new();
    for (vector, _) in CORPUS.iter() {
        let file = format!("{}.evidence", vector.name);
        put(&file, &vector.bundle);
        let policy = vector.policy.as_ref().map(|text| {
            let file = format!("{}.toml", vector.name);
            put(&file, text.as_bytes());
            file
        });
        let (flags, files) = arguments(vector);
        for (file, text) in files {
            put(&file, text.as_bytes());
        }
        index.push(json!({
            "name": vector.name,
            "change": vector.change,
            "file": file,
            "policy": policy,
            "at": vector.at,
            "flags": flags,
            "verdict": word(vector.verdict),
            "accepted": word(vector.accepted),
            "rule": vector.decides.map(|(rule, _)| word(rule)),
            "check": vector.decides.map(|(_, check)| check),
        }));
    }
    put("index.json", &(serde_json::to_vec_pretty(&index).expect("JSON")));
}

/// As another verifier would: nothing but the files.
fn judge_files(out: &Path) -> usize {
    let read = |name: &str| std::fs::read(out.join(name)).expect("a file of the corpus");
    let text = |name: &str| String::from_utf8(read(name)).expect("text");
    let index: Vec<Value> = serde_json::from_slice(&read("index.json")).expect("the index");
    assert_eq!(read("third-root.der"), third_root());
    for (entry, (vector, report)) in index.iter().zip(CORPUS.iter()) {
        let policy = entry["policy"].as_str().map(text);
        let mut flags = Vec::new();
        let mut words = entry["flags"].as_array().expect("flags").iter().map(|word| word.as_str().expect("a word"));
        while let Some(name) = words.next() {
            let mut value = || words.next().expect("a value").to_owned();
            flags.push(match name {
                "--accept-simulated" => Flag::Simulated,
                "--accept-prefix" => Flag::Prefix,
                "--any-owner" => Flag::AnyOwner,
                "--every-signature" => Flag::EverySignature,
                "--session" => Flag::Session(value()),
                "--owner" => Flag::Owner(value()),
                "--instance" => Flag::Instance(value()),
                "--seen" => Flag::Seen(text(&value())),
                "--identity" => Flag::Identity(text(&value()).leak()),
                other => panic!("no flag {other}"),
            });
        }
        let bundle = read(entry["file"].as_str().expect("a file"));
        let options = options(&bundle, policy.as_deref(), entry["at"].as_u64().expect("a time"), &flags);
        let found = verify_bundle(&bundle, &options);
        assert_eq!(found.json_line(), report.json_line(), "{}", vector.name);
        assert_eq!(entry["verdict"], word(found.verdict), "{}", vector.name);
        assert_eq!(entry["accepted"], word(found.accepted), "{}", vector.name);
        let decides = found.obstacles().next().map(|check| (word(check.rule), check.name));
        let told = entry["rule"].as_str().map(str::to_owned).zip(entry["check"].as_str());
        assert_eq!(told, decides, "{}", vector.name);
    }
    index.len()
}

#[test]
fn the_files_of_the_corpus_and_their_index_say_all_that_another_verifier_needs() {
    let asked = std::env::var_os(OUT).map(PathBuf::from);
    let out = asked.clone().unwrap_or_else(|| scratch("corpus"));
    write(&out);
    assert_eq!(judge_files(&out), CORPUS.len());
    if asked.is_none() {
        std::fs::remove_dir_all(&out).expect("remove the files");
    }
}
