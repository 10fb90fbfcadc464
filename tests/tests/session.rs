//! One session end to end, as its users meet it: the `coffer` command against a `cofferd` of the test's own, real
//! guests booted by QEMU from the built image. Few boots, shared where the scenario allows it.
//!
//! Needs `COFFER_TEST_IMAGE` (set by `scripts/test`); without it every test says NOT RUN.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use coffer_tests::host::{Host, Settings, kill};
use coffer_tests::needs_an_image;

fn verdict(host: &Host, bundle: &Path, more: &[&str]) -> anyhow::Result<(serde_json::Value, Option<i32>)> {
    let mut command = host.coffer();
    command.args(["evidence", "verify", "--json"]).args(more).arg(bundle);
    let output = command.output()?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(text.lines().count(), 1, "one line of JSON: {text}");
    Ok((serde_json::from_str(&text)?, output.status.code()))
}

fn result_of<'a>(verdict: &'a serde_json::Value, rule: &str) -> &'a str {
    let checks = verdict["checks"].as_array().expect("checks");
    checks.iter().find(|c| c["rule"] == rule).and_then(|c| c["result"].as_str()).expect("a row for each rule")
}

#[test]
fn a_session_works_seals_and_verifies_offline() -> anyhow::Result<()> {
    needs_an_image!();
    let host = Host::start(&Settings::default())?;
    let session = host.session()?;

    // Files go up and come down unchanged, modes and links included.
    let up = host.directory().join("up");
    std::fs::create_dir_all(up.join("deep/er"))?;
    std::fs::write(up.join("a.txt"), "alpha\n")?;
    let big: Vec<u8> = (0..3_000_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(up.join("deep/er/big.bin"), &big)?;
    std::os::unix::fs::symlink("a.txt", up.join("link"))?;
    host.ok(&["session", "cp", &up.display().to_string(), &format!("{session}:up")])?;
    let down = host.directory().join("down");
    host.ok(&["session", "cp", &format!("{session}:up"), &down.display().to_string()])?;
    assert_eq!(std::fs::read(down.join("deep/er/big.bin"))?, big);
    assert_eq!(std::fs::read_link(down.join("link"))?, Path::new("a.txt"));

    // Commands: output, input, exit status as documented, identity, the workspace as HOME.
    let exec = |command: &[&str]| -> anyhow::Result<std::process::Output> {
        let mut arguments = vec!["session", "exec", session.as_str(), "--"];
        arguments.extend(command);
        host.run(&arguments)
    };
    assert_eq!(exec(&["cat", "up/a.txt"])?.stdout, b"alpha\n");
    let who = exec(&[
        "sh",
        "-c",
        "id -u; id -g; id -G; echo $HOME; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status",
    ])?;
    let who = String::from_utf8(who.stdout)?;
    let lines: Vec<&str> = who.lines().collect();
    assert_eq!(&lines[..4], ["10000", "10000", "10000", "/workspace"], "{who}");
    assert!(who.contains("CapEff:\t0000000000000000"), "{who}");
    assert!(who.contains("NoNewPrivs:\t1"), "{who}");
    assert_eq!(exec(&["sh", "-c", "exit 7"])?.status.code(), Some(7));
    assert_eq!(exec(&["sh", "-c", "kill -9 $$"])?.status.code(), Some(128 + 9));
    assert_eq!(exec(&["no-such-program"])?.status.code(), Some(127));
    assert_eq!(exec(&["/usr/lib/os-release"])?.status.code(), Some(126));
    // Where the default policy lets nothing be executed, nothing is looked for.
    for outside in ["/no/such/program", "/etc/passwd"] {
        let denied = exec(&[outside])?;
        let said = String::from_utf8_lossy(&denied.stderr);
        assert!(!denied.status.success() && said.contains("POLICY_DENIED") && said.contains("no rule"), "{said}");
    }

    // A timeout ends the whole tree, a child that daemonised included.
    let beating = "while :; do echo x >>/tmp/beat; sleep 0.05; done";
    let script = "import os, time\nif os.fork() == 0:\n os.setsid()\n while True: open('/tmp/beat', 'a').write('x'); time.sleep(0.05)\n\
                  time.sleep(7654)";
    let late = host.run(&["session", "exec", "--timeout", "6s", &session, "--", "python3", "-c", script])?;
    assert_eq!(late.status.code(), Some(124), "{}", String::from_utf8_lossy(&late.stderr));
    // No other call sees processes; what they write to the identity's `/tmp`, one does.
    let over = "[ -s /tmp/beat ] || exit 2; for i in $(seq 50); do a=$(wc -c </tmp/beat); sleep 0.5; \
                [ $a = $(wc -c </tmp/beat) ] && exec rm /tmp/beat; done; exit 1";
    assert_eq!(exec(&["sh", "-c", over])?.status.code(), Some(0), "a process of the timed-out call is still there");

    // A client that is killed takes its call with it when it does not come back in time, though the program reads nothing
    // of what it is sent.
    let mut killed =
        host.running_with(&session, &["--reattach", "1s"], &format!("echo up; {beating}"), Stdio::piped())?;
    let mut input = killed.stdin.take().context("stdin")?;
    let flood = std::thread::spawn(move || while input.write_all(&[b'x'; 65_536]).is_ok() {});
    // Until every window on the way is full: that nothing moves any more is no event.
    std::thread::sleep(std::time::Duration::from_millis(500));
    killed.kill()?;
    killed.wait()?;
    flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))?;
    assert_eq!(exec(&["sh", "-c", over])?.status.code(), Some(0), "the call of a killed client goes on");

    // The end: sealed, exported, verified, and nothing left on the host. A call that runs then is told so.
    let call = host.running(&session, "echo up; sleep 9876", Stdio::null())?;
    host.ok(&["session", "close", &session])?;
    let call = call.wait_with_output()?;
    let said = String::from_utf8_lossy(&call.stderr).into_owned();
    assert_eq!(call.status.code(), Some(125), "{said}");
    assert!(said.contains("closed while the command ran") && !said.contains("OUTCOME_UNKNOWN"), "{said}");
    let closed: serde_json::Value = serde_json::from_str(&host.ok(&["session", "get", "--json", &session])?)?;
    assert_eq!(closed["phase"], "closed", "{closed}");
    assert_eq!(closed["outcome"], "sealed", "{closed}");
    assert_eq!(host.residue(&session), Vec::<String>::new());
    let bundle = host.directory().join("session.evidence");
    host.ok(&["evidence", "export", &session, &bundle.display().to_string()])?;

    let (seen, code) = verdict(&host, &bundle, &["--accept-simulated"])?;
    assert_eq!(seen["verdict"], "sealed", "{seen}");
    assert_eq!(seen["accepted"], "yes", "{seen}");
    assert_eq!(seen["platform"], "simulated", "{seen}");
    assert_eq!(seen["authority"], "delegated", "{seen}");
    assert_eq!(code, Some(0));
    for rule in ["R1", "R2", "R4", "R5", "R6", "R7", "R8", "R9", "R10", "R11", "R13", "R14", "R16"] {
        assert_eq!(result_of(&seen, rule), "pass", "{rule}: {seen}");
    }
    for rule in ["R12", "R15"] {
        assert_eq!(result_of(&seen, rule), "not_evaluated", "{rule}: {seen}");
    }
    let (again, _) = verdict(&host, &bundle, &["--accept-simulated", "--at", &seen["at"].to_string()])?;
    assert_eq!(seen, again, "the same bundle, policy and time give the same verdict");

    // Simulated evidence is refused unless it is asked for by name, and the reason says so.
    let (refused, code) = verdict(&host, &bundle, &[])?;
    assert_eq!(
        (refused["verdict"].as_str(), refused["accepted"].as_str(), code),
        (Some("sealed"), Some("no"), Some(1))
    );
    let text = host.run(&["evidence", "verify", &bundle.display().to_string()])?;
    let text = String::from_utf8_lossy(&text.stdout).to_lowercase();
    assert!(text.contains("simulated"), "{text}");

    // A byte changed anywhere is refused.
    let genuine = std::fs::read(&bundle)?;
    for at in (0..genuine.len()).step_by(genuine.len() / 23) {
        let mut changed = genuine.clone();
        changed[at] ^= 1;
        let path = host.directory().join("changed.evidence");
        std::fs::write(&path, &changed)?;
        let (seen, code) = verdict(&host, &path, &["--accept-simulated"])?;
        assert_ne!(code, Some(0), "byte {at} changed and accepted: {seen}");
    }
    Ok(())
}

#[test]
fn a_killed_vm_gives_an_aborted_prefix_and_leaves_nothing() -> anyhow::Result<()> {
    needs_an_image!();
    let host = Host::start(&Settings::default())?;
    let session = host.session()?;
    host.ok(&["session", "exec", &session, "--", "true"])?;

    let call = host.running(&session, "echo up; exec sleep 600", Stdio::null())?;

    let qemu = host.processes().into_iter().find(|(_, c)| c.contains("qemu-system") && c.contains(&session));
    let (pid, _) = qemu.context("the session's QEMU")?;
    kill(pid)?;

    let ended = call.wait_with_output()?;
    assert_eq!(ended.status.code(), Some(125), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(
        String::from_utf8_lossy(&ended.stderr).contains("OUTCOME_UNKNOWN"),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );

    host.ok(&["session", "wait", "--for", "closed", &session])?;
    let closed: serde_json::Value = serde_json::from_str(&host.ok(&["session", "get", "--json", &session])?)?;
    assert_eq!(closed["phase"], "closed", "{closed}");
    assert_eq!(closed["outcome"], "aborted", "{closed}");
    assert_eq!(host.residue(&session), Vec::<String>::new());

    let bundle = host.directory().join("prefix.evidence");
    host.ok(&["evidence", "export", &session, &bundle.display().to_string()])?;
    let (seen, code) = verdict(&host, &bundle, &["--accept-simulated"])?;
    assert_eq!(seen["verdict"], "aborted", "{seen}");
    assert!(seen["extent"].to_string().contains("prefix"), "{seen}");
    assert_eq!(code, Some(1), "an aborted prefix is not accepted unless asked for: {seen}");
    let (seen, code) = verdict(&host, &bundle, &["--accept-simulated", "--accept-prefix"])?;
    assert_eq!(code, Some(0), "{seen}");
    Ok(())
}

/// The host writes the boot disk, and the guest gets another: the program that is run as QEMU gives it a copy with one
/// byte of the host part changed. (`guest.rs` does the same to every part, without `cofferd`.)
#[test]
fn a_session_whose_boot_disk_was_changed_never_becomes_ready() -> anyhow::Result<()> {
    needs_an_image!();
    let scratch = tempfile::tempdir()?;
    let wrapper = scratch.path().join("qemu-system-tampering");
    coffer_tests::kit::write_wrapper(&wrapper, TAMPERING)?;
    let host = Host::start(&Settings { qemu: Some(wrapper), ..Settings::default() })?;
    let created = host.run(&["session", "create"])?;
    let said = String::from_utf8_lossy(&created.stderr).into_owned();
    assert_eq!(created.status.code(), Some(69), "a session with a changed boot disk became Ready: {said}");
    let listed: serde_json::Value = serde_json::from_str(&host.ok(&["session", "list", "--all", "--json"])?)?;
    let id = listed["sessions"][0]["id"].as_str().context("id")?;
    let closed = host.ok(&["session", "wait", "--for", "closed", id, "--json"])?;
    let session: serde_json::Value = serde_json::from_str(&closed)?;
    assert_eq!(session["outcome"], "aborted", "{session}");
    // The guest came up and refused: it neither failed to start nor was waited for in vain.
    assert_eq!(session["reason"], "attestation_failed", "{session}\n{}", host.diagnostics());
    assert_eq!(session["closed_by"], "agent", "{session}");
    assert_eq!(host.residue(id), Vec::<String>::new());
    let export = host.run(&["evidence", "export", id, &host.directory().join("x").display().to_string()])?;
    assert!(!export.status.success(), "there is no evidence of a session that never was");
    Ok(())
}

/// A program that gives the kit's QEMU a copy of the boot disk with one byte changed: the last but eleventh of the
/// configuration, inside the host key.
const TAMPERING: &str = r#"
changed=$run/changed.img
cp "$disk" "$changed"
config=$(od -An -tu4 -j 8 -N 4 "$disk" | tr -d ' ')
at=$((16 + config - 12))
old=$(od -An -tu1 -j "$at" -N 1 "$disk" | tr -d ' ')
printf "\\x$(printf %02x $((old ^ 1)))" | dd of="$changed" bs=1 seek="$at" conv=notrunc status=none
for i in "${!arguments[@]}"; do arguments[i]=${arguments[i]/"$disk"/"$changed"}; done
"#;

/// Files of the tree that goes in and comes out.
const FILES: usize = 5_000;

/// A tree of everything that a tree may hold: many files, modes, links, empty directories, names that are no plain words.
fn lay_out(tree: &Path) -> anyhow::Result<()> {
    for number in 0..FILES {
        let directory = tree.join(format!("many/{:02}", number % 50));
        if number < 50 {
            std::fs::create_dir_all(&directory)?;
        }
        std::fs::write(directory.join(format!("{number}.txt")), format!("{number}\n"))?;
    }
    for empty in ["empty", "with space/e\u{301}\u{1f980}/deep/empty"] {
        std::fs::create_dir_all(tree.join(empty))?;
    }
    std::fs::write(tree.join("with space/tab\there"), "odd")?;
    std::fs::write(tree.join(std::ffi::OsStr::from_bytes(b"with space/\xff\xfe")), "no text")?;
    for (name, mode) in [("plain", 0o644), ("program", 0o755), ("secret", 0o600), ("fixed", 0o444)] {
        std::fs::write(tree.join(name), name)?;
        std::fs::set_permissions(tree.join(name), PermissionsExt::from_mode(mode))?;
    }
    std::fs::set_permissions(tree.join("empty"), PermissionsExt::from_mode(0o700))?;
    for (link, target) in
        [("link", "plain"), ("many/up", "../program"), ("dangling", "nowhere"), ("directory", "many/00")]
    {
        std::os::unix::fs::symlink(target, tree.join(link))?;
    }
    Ok(())
}

/// Everything beneath a directory by its path: kind and mode, and content or target. The mode of a link means nothing.
fn snapshot(tree: &Path) -> anyhow::Result<BTreeMap<PathBuf, (u32, Vec<u8>)>> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![tree.to_path_buf()]);
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            let metadata = path.symlink_metadata()?;
            let shown = if metadata.is_symlink() {
                (0, std::fs::read_link(&path)?.into_os_string().into_vec())
            } else if metadata.is_dir() {
                pending.push(path.clone());
                (metadata.mode(), Vec::new())
            } else {
                (metadata.mode(), std::fs::read(&path)?)
            };
            found.insert(path.strip_prefix(tree)?.to_path_buf(), shown);
        }
    }
    Ok(found)
}

#[test]
fn run_does_it_all_in_one_line() -> anyhow::Result<()> {
    needs_an_image!();
    let host = Host::start(&Settings::default())?;
    let input = host.directory().join("in");
    std::fs::create_dir_all(&input)?;
    std::fs::write(input.join("question.txt"), "6*7\n")?;
    lay_out(&input)?;
    let out = host.directory().join("out");
    let output = host.run(&[
        "run",
        "--in",
        &input.display().to_string(),
        "--out",
        &out.display().to_string(),
        "--",
        "sh",
        "-c",
        "python3 -c 'print(eval(open(\"question.txt\").read()))' | tee answer.txt; exit 3",
    ])?;
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"42\n");
    // What went in comes out as it was, and what was made beside it.
    let (sent, mut came) = (snapshot(&input)?, snapshot(&out.join("workspace"))?);
    let answer = came.remove(Path::new("answer.txt")).context("the answer")?;
    assert_eq!(answer.1, b"42\n");
    let differing: Vec<_> = sent.iter().filter(|(path, shown)| came.get(*path) != Some(*shown)).take(9).collect();
    assert!(differing.is_empty(), "these did not come back as they went: {differing:?}");
    assert_eq!(sent.len(), came.len(), "something else came back");
    assert!(sent.len() > FILES);
    let policy = out.join("appraisal.toml");
    let (seen, code) = verdict(
        &host,
        &out.join("session.evidence"),
        &["--accept-simulated", "--policy", &policy.display().to_string()],
    )?;
    assert_eq!((seen["verdict"].as_str(), code), (Some("sealed"), Some(0)), "{seen}");
    assert_eq!(result_of(&seen, "R3"), "pass", "the policy names the publisher: {seen}");
    Ok(())
}
