//! A `cofferd` that is killed while its sessions are in every part of their lives, with real guests: what was launched
//! lives on and is served again, what was half launched is ended, nothing is launched twice, nothing is left.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::Context as _;
use coffer_tests::host::{Host, Settings, kill};
use coffer_tests::needs_an_image;

/// Closes a session, and holds its evidence and the host against what is expected.
fn ends_sealed(host: &Host, session: &str) -> anyhow::Result<serde_json::Value> {
    host.ok(&["session", "close", session])?;
    let closed = host.get(session)?;
    assert_eq!((&closed["phase"], &closed["outcome"]), (&"closed".into(), &"sealed".into()), "{closed}");
    assert_eq!(closed["reason"], "user_closed", "{closed}");
    assert_eq!(host.residue(session), Vec::<String>::new());
    let seen = host.verdict(session)?.context("evidence")?;
    assert_eq!((&seen["verdict"], &seen["accepted"]), (&"sealed".into(), &"yes".into()), "{seen}");
    Ok(seen)
}

#[test]
fn a_killed_cofferd_takes_over_what_it_launched_and_ends_the_rest() -> anyhow::Result<()> {
    needs_an_image!();
    let mut host = Host::start(&Settings::default())?;
    let (works, lost, closing) = (host.session()?, host.session()?, host.session()?);
    host.ok(&["session", "exec", &works, "--", "sh", "-c", "echo kept > file"])?;
    let mut call = host.running(&works, "echo up; read line; echo through: $line; exit 7", Stdio::piped())?;
    let machine = host.process_of(&works, "qemu-system")?;
    let device = host.process_of(&works, "coffer-vsock")?;

    // One boots, one has just been asked for, one is being closed.
    let booting = host.ok(&["session", "create", "--no-wait"])?.trim().to_owned();
    while host.get(&booting)?["phase"] != "attesting" {}
    let mut wish = host.coffer();
    wish.args(["session", "close", &closing]);
    let mut wish = wish.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    while host.get(&closing)?["phase"] == "ready" {}
    let asked = host.ok(&["session", "create", "--no-wait"])?.trim().to_owned();
    host.crash()?;
    wish.wait()?;
    // Written while nobody is there to take it.
    call.stdin.take().context("stdin")?.write_all(b"it all\n")?;
    kill(host.process_of(&lost, "qemu-system")?)?;

    host.restart()?;
    // The same machine with the same state, by the same link; and it answers at once.
    let file = host.ok(&["session", "exec", &works, "--", "cat", "file"])?;
    assert_eq!(file, "kept\n");
    assert_eq!(host.process_of(&works, "qemu-system")?, machine);
    assert_eq!(host.process_of(&works, "coffer-vsock")?, device);
    // The call whose client was cut off has gone on, and its client with it.
    let call = call.wait_with_output()?;
    let said = String::from_utf8_lossy(&call.stderr).into_owned();
    assert_eq!((call.status.code(), call.stdout.as_slice()), (Some(7), &b"through: it all\n"[..]), "{said}");
    assert!(said.contains("the connection is lost") && said.contains("the connection is back"), "{said}");

    // The one that booted was launched once and becomes ready; the other was too, or was ended.
    host.ok(&["session", "wait", "--for", "ready", &booting])?;
    host.ok(&["session", "exec", &booting, "--", "true"])?;
    host.process_of(&booting, "qemu-system")?;
    let waited = host.run(&["session", "wait", "--for", "ready", &asked])?;
    if waited.status.success() {
        host.process_of(&asked, "qemu-system")?;
        ends_sealed(&host, &asked)?;
    } else {
        host.ok(&["session", "wait", "--for", "closed", &asked])?;
        let ended = host.get(&asked)?;
        assert_eq!((&ended["outcome"], &ended["reason"]), (&"aborted".into(), &"host_lost".into()), "{ended}");
    }
    assert_eq!(host.residue(&asked), Vec::<String>::new());

    // The wish to close outlived the crash; the machine that was killed meanwhile left a prefix.
    host.ok(&["session", "wait", "--for", "closed", &closing])?;
    let closed = host.get(&closing)?;
    assert_eq!((&closed["outcome"], &closed["reason"]), (&"sealed".into(), &"user_closed".into()), "{closed}");
    assert_eq!(host.verdict(&closing)?.context("evidence")?["verdict"], "sealed");
    host.ok(&["session", "wait", "--for", "closed", &lost])?;
    let ended = host.get(&lost)?;
    assert_eq!((&ended["outcome"], &ended["reason"]), (&"aborted".into(), &"host_lost".into()), "{ended}");
    assert_eq!(host.verdict(&lost)?.context("evidence")?["verdict"], "aborted");
    for session in [&closing, &lost] {
        assert_eq!(host.residue(session), Vec::<String>::new());
    }

    // Killed once more, the sessions that were taken over are taken over again.
    host.crash()?;
    host.restart()?;
    ends_sealed(&host, &works)?;
    ends_sealed(&host, &booting)?;
    assert_eq!(host.processes(), []);
    Ok(())
}
