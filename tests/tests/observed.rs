//! What the evidence tells of files, in a real guest: what calls executed, opened, wrote, made, removed and renamed, as an auditor
//! reads it from the bundle. One boot.
//!
//! Needs `COFFER_TEST_IMAGE`, and one test `COFFER_TEST_PROJECT`, the source of a public project (both set by `scripts/test`); without
//! them the tests say NOT RUN.

use std::collections::BTreeMap;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use coffer_tests::host::{Host, Settings};
use coffer_tests::needs_an_image;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// What a script does, and what a person must find of it.
const SCRIPT: &str = "cat notes; echo after > change; rm gone; mv old new; mkdir made; echo x > made/y; \
                      python3 -c 'import json; open(\"out.json\", \"w\").write(json.dumps([1]))'; ./run";

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[test]
fn a_record_that_is_required_ends_the_call_that_outgrows_it() -> anyhow::Result<()> {
    needs_an_image!();
    let host = Host::start(&Settings::default())?;
    let session = host.ok(&["session", "create", "--require-record"])?.trim().to_owned();
    // What can be told is no trouble.
    host.ok(&["session", "exec", &session, "--", "sh", "-c", "echo x > a; cat a; rm a"])?;
    let call = host.running(&session, TOO_MUCH, Stdio::null())?.wait_with_output()?;
    let said = String::from_utf8_lossy(&call.stderr).into_owned();
    assert_eq!((call.status.code(), call.stdout.as_slice()), (Some(125), &b""[..]), "{said}");
    assert!(said.contains("could not be recorded in full"), "{said}");
    host.ok(&["session", "exec", &session, "--", "true"])?;
    // It ends with the session, and has seen all of it.
    let follow = host.coffer().args(["session", "log", "-f", "--json", &session]).stdout(Stdio::piped()).spawn()?;
    host.ok(&["session", "close", &session])?;
    let logged = follow.wait_with_output()?;
    ensure!(logged.status.success(), "the log ended with {}", logged.status);
    let logged = String::from_utf8(logged.stdout)?;
    let bundle = host.directory().join("session.evidence").display().to_string();
    host.ok(&["evidence", "export", &session, &bundle])?;
    host.ok(&["evidence", "verify", "--accept-simulated", &bundle])?;
    let leaves: Vec<Value> = logged.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let kinds: Vec<&str> = leaves.iter().filter_map(|leaf| leaf["kind"].as_str()).collect();
    let one = ["intent", "outcome"];
    assert_eq!(
        kinds,
        [&["open"][..], &one, &["intent", "incomplete", "outcome"], &one, &["scrub", "seal"]].concat(),
        "{logged}"
    );
    assert_eq!(leaves[5]["cause"], "record_incomplete", "{}", leaves[5]);
    let shown = host.ok(&["evidence", "show", "--call", leaves[5]["call"].as_str().context("a call")?, &bundle])?;
    assert!(shown.contains("files_lost       files"), "{shown}");
    Ok(())
}

/// A public project's own tests, in a session: they pass, and the record tells what they read and wrote.
#[test]
fn a_real_projects_tests_pass_and_the_record_tells_their_reads_and_writes() -> anyhow::Result<()> {
    needs_an_image!();
    let Some(archive) = std::env::var_os("COFFER_TEST_PROJECT") else {
        println!("NOT RUN: COFFER_TEST_PROJECT names no source archive");
        ensure!(std::env::var_os("COFFER_TEST_GUESTS").is_none(), "guests are required, and so is what they work on");
        return Ok(());
    };
    let host = Host::start(&Settings::default())?;
    let unpacked =
        std::process::Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(host.directory()).status()?;
    ensure!(unpacked.success(), "expected a source archive, found {}", archive.display());
    let session = host.session()?;
    let source = host.directory().join("simplejson-3.20.1");
    host.ok(&["session", "cp", &source.display().to_string(), &format!("{session}:project")])?;
    // One module makes a temporary file; all of them read and cache their sources.
    let script = "cd project && python3 -m unittest discover -s simplejson/tests -t . 2>&1 | tail -n 3";
    let ran = host.ok(&["session", "exec", &session, "--", "sh", "-c", script])?;
    println!("{ran}");
    let counted = ran.lines().find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse::<u32>().ok());
    ensure!(
        counted.is_some_and(|count| count > 100) && ran.contains("\nOK"),
        "expected the project's tests to pass: {ran}"
    );
    host.ok(&["session", "close", &session])?;
    let bundle = host.directory().join("session.evidence").display().to_string();
    host.ok(&["evidence", "export", &session, &bundle])?;
    host.ok(&["evidence", "verify", "--accept-simulated", &bundle])?;
    let calls = calls(&host, &bundle)?;
    let (_, files) = calls.last().context("a call")?;
    let encoder = files.get("/workspace/project/simplejson/encoder.py").context("the encoder was read")?;
    let whole = digest(&std::fs::read(source.join("simplejson/encoder.py"))?);
    assert_eq!(encoder["opened"][0]["sha256"], Value::from(whole), "{encoder}");
    let of = |word: &str| -> Vec<&String> {
        let has = |file: &Value| file["uses"].as_array().is_some_and(|uses| uses.iter().any(|used| used == word));
        files.iter().filter(|(_, file)| has(file)).map(|(path, _)| path).collect()
    };
    let (read, written, executed) = (of("opened for reading"), of("opened for writing"), of("executed"));
    println!("{} opened for reading, {} for writing, {} executed", read.len(), written.len(), executed.len());
    assert!(
        read.iter().filter(|path| path.starts_with("/workspace/project/simplejson/tests/")).count() > 20,
        "{read:?}"
    );
    assert!(written.iter().any(|path| path.contains("/__pycache__/encoder.")), "{written:?}");
    assert!(executed.iter().any(|path| path.starts_with("/usr/bin/python3")), "{executed:?}");
    Ok(())
}

/// Every call of a bundle, in order: its id, and the files of its outcome by path.
fn calls(host: &Host, bundle: &str) -> anyhow::Result<Vec<(String, BTreeMap<String, Value>)>> {
    let shown = host.ok(&["evidence", "show", "--json", bundle])?;
    let mut ids = Vec::new();
    for line in shown.lines() {
        let line: Value = serde_json::from_str(line)?;
        let leaves = line["leaves"].as_array().cloned().unwrap_or_else(|| vec![line]);
        let intents = leaves.iter().filter(|leaf| leaf["kind"] == "intent");
        ids.extend(intents.filter_map(|leaf| leaf["call"].as_str().map(str::to_owned)));
    }
    ensure!(!ids.is_empty(), "expected calls in {shown}");
    ids.into_iter()
        .map(|id| {
            let call: Value = serde_json::from_str(&host.ok(&["evidence", "show", "--json", "--call", &id, bundle])?)?;
            let outcome = call["leaves"].as_array().and_then(|leaves| leaves.last()).context("an outcome")?;
            ensure!(outcome["kind"] == "outcome" && outcome.get("files_lost").is_none(), "{outcome}");
            let files = outcome["files"].as_array().with_context(|| format!("files in {outcome}"))?;
            let files = files.iter().map(|file| (file["path"].as_str().unwrap_or_default().to_owned(), file.clone()));
            Ok((id, files.collect()))
        })
        .collect()
}

/// A call that does more with files than can be told.
const TOO_MUCH: &str = "echo up; mkdir many; i=0; while [ $i -lt 40000 ]; do : > many/$i; i=$((i+1)); done; echo done";

#[test]
fn the_evidence_tells_what_was_executed_read_and_written() -> anyhow::Result<()> {
    needs_an_image!();
    let host = Host::start(&Settings::default())?;
    let session = host.session()?;
    let up = host.directory().join("up");
    std::fs::create_dir(&up)?;
    for (name, text) in [("notes", "to be read"), ("change", "before"), ("gone", "gone"), ("old", "named anew")] {
        std::fs::write(up.join(name), text)?;
    }
    std::fs::write(up.join("run"), "#!/bin/sh\nexit 0\n")?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(up.join("run"), mode)?;
    host.ok(&["session", "cp", &up.display().to_string(), &format!("{session}:up")])?;
    let ran = host.running(&session, &format!("echo up; cd up; {SCRIPT}"), Stdio::null())?.wait_with_output()?;
    ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    host.ok(&["session", "close", &session])?;
    let bundle = host.directory().join("session.evidence").display().to_string();
    host.ok(&["evidence", "export", &session, &bundle])?;
    host.ok(&["evidence", "verify", "--accept-simulated", &bundle])?;

    let calls = calls(&host, &bundle)?;
    let [(_, uploaded), (id, files)] = &calls[..] else { anyhow::bail!("expected two calls, found {calls:#?}") };
    let notes = uploaded.get("/workspace/up/notes").with_context(|| format!("the upload in {:?}", uploaded.keys()))?;
    assert_eq!(notes["left"]["sha256"], Value::from(digest(b"to be read")), "{notes}");

    let file = |path: &str| files.get(path).with_context(|| format!("expected {path}, found {:?}", files.keys()));
    let uses = |path: &str| -> anyhow::Result<Vec<&str>> {
        Ok(file(path)?["uses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect())
    };
    assert_eq!(uses("/workspace/up/notes")?, ["opened for reading"]);
    assert_eq!(file("/workspace/up/notes")?["opened"][0]["sha256"], Value::from(digest(b"to be read")));
    assert_eq!(uses("/workspace/up/change")?, ["opened for writing"]);
    assert_eq!(file("/workspace/up/change")?["left"]["sha256"], Value::from(digest(b"after\n")));
    assert_eq!(uses("/workspace/up/gone")?, ["deleted"]);
    assert_eq!(uses("/workspace/up/new")?, ["renamed"]);
    assert_eq!(file("/workspace/up/new")?["from"], "/workspace/up/old");
    assert_eq!(uses("/workspace/up/made")?, ["created"]);
    assert_eq!(uses("/workspace/up/made/y")?, ["created", "opened for writing"]);
    assert_eq!(file("/workspace/up/out.json")?["left"]["sha256"], Value::from(digest(b"[1]")));
    let run = file("/workspace/up/run")?;
    assert_eq!(run["executed"][0]["sha256"], Value::from(digest(b"#!/bin/sh\nexit 0\n")), "{run}");
    // Of programs of the image: the digest is that of the file as the guest has it.
    for program in ["/usr/bin/cat", "/usr/bin/mkdir"] {
        assert_eq!(uses(program)?, ["executed"], "{program}");
        assert_eq!(file(program)?["executed"][0]["sha256"].as_str().map(str::len), Some(64));
    }
    assert!(
        files.keys().any(|path| path.starts_with("/usr/bin/python3") && uses(path).is_ok_and(|u| u == ["executed"]))
    );
    // And the same for people, one call whole.
    let shown = host.ok(&["evidence", "show", "--call", id, &bundle])?;
    for words in ["opened for reading  /workspace/up/notes", "renamed  /workspace/up/new, before: /workspace/up/old"] {
        assert!(shown.contains(words), "{words} is not in {shown}");
    }
    assert_eq!(host.residue(&session), Vec::<String>::new());
    Ok(())
}
