//! Ends of sessions that race with something, with real guests: closes at the wrong moment and twice, a machine that stands
//! still, resets or panics. Each has one end, within its deadline, with the evidence that can be had and nothing left.
//!
//! QEMU gets a second QMP socket here, for the test to poke at the machine as a host could.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use anyhow::{Context as _, bail};
use coffer_tests::host::{Host, Settings, signal};
use coffer_tests::kit::write_wrapper;
use coffer_tests::needs_an_image;

/// A socket for the test, and a kernel that panics when it is interrupted for no reason.
const POKED: &str = r#"
arguments+=(-qmp "unix:$run/poke.sock,server=on,wait=off")
for i in "${!arguments[@]}"; do
  case ${arguments[i]} in -append) arguments[i + 1]+=' unknown_nmi_panic';; esac
done
"#;

/// Ends the machine of a session by a command. The answer may be lost with it: that the command did what it should is seen by
/// what becomes of the session.
fn poke_to_its_end(host: &Host, session: &str, command: &str) -> anyhow::Result<()> {
    match poke(host, session, command) {
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == ErrorKind::ConnectionReset) =>
        {
            Ok(())
        }
        Err(error) if error.to_string() == format!("an answer to {command}") => Ok(()),
        other => other,
    }
}

/// Has the machine of a session do something, as a host could.
fn poke(host: &Host, session: &str, command: &str) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(host.session_directory(session).join("run/poke.sock"))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    lines.next().context("a greeting")??;
    for command in ["qmp_capabilities", command] {
        writeln!(stream, r#"{{"execute":"{command}"}}"#)?;
        loop {
            let line = lines.next().with_context(|| format!("an answer to {command}"))??;
            if line.contains(r#""error""#) {
                bail!("{command}: {line}");
            }
            if line.contains(r#""return""#) {
                break;
            }
        }
    }
    Ok(())
}

/// A call that goes on until it is ended.
fn running(host: &Host, session: &str) -> anyhow::Result<Child> {
    host.running(session, "echo up; exec sleep 600", Stdio::null())
}

fn said(call: Child) -> anyhow::Result<(Option<i32>, String)> {
    let output = call.wait_with_output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Waits for the end of a session and holds it, its evidence and the host against what is expected.
fn ends(host: &Host, session: &str, expected: [&str; 3], verdict: Option<&str>) -> anyhow::Result<()> {
    host.ok(&["session", "wait", "--for", "closed", session])?;
    let closed = host.get(session)?;
    let found = ["outcome", "reason", "closed_by"].map(|field| closed[field].as_str().unwrap_or("none").to_owned());
    assert_eq!(found, expected, "{closed}\n{}", host.diagnostics());
    assert_eq!(host.residue(session), Vec::<String>::new());
    let seen = host.verdict(session)?;
    assert_eq!(seen.is_some(), verdict.is_some(), "{seen:?}");
    if let (Some(seen), Some(verdict)) = (seen, verdict) {
        assert_eq!((&seen["verdict"], &seen["accepted"]), (&verdict.into(), &"yes".into()), "{seen}");
    }
    Ok(())
}

#[test]
fn every_race_with_the_end_has_one_end() -> anyhow::Result<()> {
    needs_an_image!();
    let scratch = tempfile::tempdir()?;
    let wrapper = scratch.path().join("qemu-poked");
    write_wrapper(&wrapper, POKED)?;
    let host = Host::start(&Settings { qemu: Some(wrapper), more: "[limits]\nseal_s = 8\n", ..Settings::default() })?;
    let mut watch = host.coffer();
    watch.args(["session", "watch", "--json"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn()?;
    let create = || -> anyhow::Result<String> { Ok(host.ok(&["session", "create", "--no-wait"])?.trim().to_owned()) };

    // Before it is launched, and while it boots.
    let launching = create()?;
    host.run(&["session", "close", &launching])?;
    ends(&host, &launching, ["aborted", "user_closed", "host"], None)?;
    let booting = create()?;
    while host.get(&booting)?["phase"] != "attesting" {}
    host.run(&["session", "close", &booting])?;
    ends(&host, &booting, ["aborted", "user_closed", "host"], None)?;

    let all: Vec<String> = (0..5).map(|_| create()).collect::<Result<_, _>>()?;
    let [twice, frozen, reset, panicked, halted] = all.as_slice() else { bail!("five sessions") };
    for session in &all {
        host.ok(&["session", "wait", "--for", "ready", session])?;
    }

    // Stood still for a moment: nothing of it is lost.
    let machine = host.process_of(twice, "qemu-system")?;
    signal(machine, "STOP")?;
    let through =
        host.coffer().args(["session", "exec", twice, "--", "echo", "moved"]).stdout(Stdio::piped()).spawn()?;
    signal(machine, "CONT")?;
    assert_eq!(through.wait_with_output()?.stdout, b"moved\n");

    // Closed by two at once while a call runs: each is told how it ended.
    let call = running(&host, twice)?;
    let close = || host.coffer().args(["session", "close", twice]).stderr(Stdio::piped()).spawn();
    let (first, second) = (close()?, close()?);
    for close in [first, second] {
        let (status, said) = said(close)?;
        assert_eq!(status, Some(0), "{said}");
    }
    let (status, said_of_call) = said(call)?;
    assert_eq!(status, Some(125), "{said_of_call}");
    ends(&host, twice, ["sealed", "user_closed", "host"], Some("sealed"))?;
    host.ok(&["session", "close", twice])?;

    // Stands still for good: the close does not wait for it beyond the deadline.
    let call = running(&host, frozen)?;
    signal(host.process_of(frozen, "qemu-system")?, "STOP")?;
    let began = std::time::Instant::now();
    let closed = host.run(&["session", "close", frozen])?;
    assert_eq!(closed.status.code(), Some(1), "{}", String::from_utf8_lossy(&closed.stderr));
    let took = began.elapsed().as_secs();
    assert!((8..40).contains(&took), "the limit is 8 s for sealing, and the rest is short: {took} s");
    let (status, said_of_call) = said(call)?;
    assert_eq!(status, Some(125), "{said_of_call}");
    assert!(said_of_call.contains("OUTCOME_UNKNOWN"), "{said_of_call}");
    ends(&host, frozen, ["aborted", "guest_unresponsive", "host"], Some("aborted"))?;

    // A reset and a panic while a call runs: one boot per session. A machine that the host halts is ended at once.
    for (session, command, reason, by) in [
        (reset, "system_reset", "guest_panicked", "agent"),
        (panicked, "inject-nmi", "guest_panicked", "agent"),
        (halted, "stop", "host_lost", "host"),
    ] {
        let call = running(&host, session)?;
        poke_to_its_end(&host, session, command)?;
        let (status, said_of_call) = said(call)?;
        assert_eq!(status, Some(125), "{command}: {said_of_call}");
        assert!(said_of_call.contains("OUTCOME_UNKNOWN"), "{command}: {said_of_call}");
        ends(&host, session, ["aborted", reason, by], Some("aborted"))?;
    }
    assert_eq!(host.processes(), []);

    // A watcher was told of one end each.
    watch.kill()?;
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for line in BufReader::new(watch.stdout.take().context("stdout")?).lines() {
        let change: serde_json::Value = serde_json::from_str(&line?)?;
        let change = &change["session"];
        if change["phase"] == "closed" {
            *ends.entry(change["id"].as_str().context("id")?.to_owned()).or_default() += 1;
        }
    }
    watch.wait()?;
    assert_eq!(ends.len(), 7, "{ends:?}");
    assert!(ends.values().all(|n| *n == 1), "{ends:?}");
    Ok(())
}
