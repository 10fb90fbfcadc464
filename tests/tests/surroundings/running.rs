//! What is taken away from under sessions that run, or from their host at their end: they are sealed where that can be, and
//! where not they end with the reason, and the host is clean. Real guests.

use std::io::Write as _;
use std::path::Path;

use coffer_tests::host::kill;
use coffer_tests::kit::kit_directory;
use coffer_tests::needs_an_image;

use crate::needs_root;
use crate::place::{Place, linked_copy};

fn assert_sealed(place: &Place, id: &str) -> anyhow::Result<()> {
    let closed = place.closed(id)?;
    assert_eq!(closed["outcome"], "sealed", "{closed}\n{}", place.diagnostics());
    assert_eq!(closed["scrub_failures"], serde_json::json!([]), "{closed}");
    assert_eq!(place.residue(id), Vec::<String>::new());
    let verdict = place.verdict(id)?;
    assert_eq!((&verdict["verdict"], &verdict["accepted"]), (&"sealed".into(), &"yes".into()), "{verdict}");
    Ok(())
}

/// Puts another file in the place of this one: the same bytes, one of them changed.
fn swap(path: &Path) -> anyhow::Result<()> {
    let mut bytes = std::fs::read(path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, bytes)?;
    Ok(std::fs::rename(fresh, path)?)
}

/// One guest, and everything that its host needs to start another taken away meanwhile.
#[test]
fn a_session_that_runs_outlasts_the_files_that_it_was_started_from_and_is_sealed() -> anyhow::Result<()> {
    let image = needs_an_image!();
    let (mut place, copy) = Place::with_copy_of(&image)?;
    let kit = place.path("kit");
    linked_copy(&kit_directory()?.canonicalize()?, &kit)?;
    place.vmm += &format!("kit = {:?}\n", kit.display().to_string());
    place.start()?;
    let id = place.session()?;
    place.ok(&["session", "exec", &id, "--", "true"])?;

    // A second cofferd, with the same state: refused, and nothing of the first one's is touched.
    let second = place.refused()?;
    assert_eq!(second.status, Some(73), "{second:?}");
    assert!(second.said.contains(&format!("process {}", place.pid())), "{second:?}");

    let create_fails = |words: &[&str]| -> anyhow::Result<()> {
        let created = place.coffer(&["session", "create", "--wait"])?;
        let said = String::from_utf8_lossy(&created.stderr).into_owned();
        assert!(!created.status.success(), "{said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in {said}");
        }
        Ok(())
    };
    // The sockets of the session: what is connected stays so.
    for entry in std::fs::read_dir(place.state().join("sessions").join(&id).join("run"))? {
        std::fs::remove_file(entry?.path())?;
    }
    place.ok(&["session", "exec", &id, "--", "true"])?;
    // QEMU.
    std::fs::remove_dir_all(&kit)?;
    create_fails(&["expected a QEMU kit at", "coffer-image build"])?;
    // Image files: another kernel, no root file system, a pipe for a firmware, and none at all.
    let genuine = std::fs::read(copy.join("vmlinuz"))?;
    swap(&copy.join("vmlinuz"))?;
    create_fails(&["IMAGE_UNUSABLE", "vmlinuz to have the SHA-256", "found", "build or copy the image again"])?;
    std::fs::write(copy.join("fresh"), &genuine[..genuine.len() - 1])?;
    std::fs::rename(copy.join("fresh"), copy.join("vmlinuz"))?;
    create_fails(&["IMAGE_UNUSABLE", "vmlinuz to have the SHA-256"])?;
    std::fs::remove_file(copy.join("root.erofs"))?;
    std::fs::rename(copy.join("vmlinuz"), copy.join("root.erofs"))?;
    std::fs::write(copy.join("vmlinuz"), &genuine)?;
    create_fails(&["IMAGE_UNUSABLE", "root.erofs to have the SHA-256"])?;
    let firmware = copy.join("firmware.fd");
    std::fs::remove_file(&firmware)?;
    create_fails(&["IMAGE_UNUSABLE", "expected to read", "firmware.fd", "build or copy the image again"])?;
    assert!(std::process::Command::new("mkfifo").arg(&firmware).status()?.success());
    create_fails(&["IMAGE_UNUSABLE", "firmware.fd to be a file, found a named pipe"])?;
    std::fs::remove_file(&firmware)?;
    std::os::unix::fs::symlink("/dev/zero", &firmware)?;
    create_fails(&["IMAGE_UNUSABLE", "firmware.fd to be a file, found a symbolic link"])?;
    std::fs::remove_dir_all(&copy)?;
    create_fails(&["found that cofferd has none", "build one"])?;

    // And still it works, closes, and leaves a bundle that holds.
    assert_eq!(place.ok(&["session", "exec", &id, "--", "echo", "still"])?, "still\n");
    place.ok(&["session", "close", &id])?;
    assert_sealed(&place, &id)?;
    assert!(!place.diagnostics().contains("panicked"), "{}", place.diagnostics());
    Ok(())
}

/// No cgroup v2, and an evidence store that is full at the moment of the seal: sealed when somebody makes room.
#[test]
fn without_cgroups_and_with_a_full_evidence_store_a_session_is_sealed_when_there_is_room() -> anyhow::Result<()> {
    needs_an_image!();
    needs_root!("mount");
    let mut place = Place::with_image()?;
    let evidence = place.state().join("evidence");
    std::fs::create_dir_all(&evidence)?;
    crate::place::chmod(&place.state(), 0o700)?;
    place.mounts = format!(
        "umount -l /sys/fs/cgroup/unified 2>/dev/null || true\nmount -t tmpfs none /sys/fs/cgroup\n\
         mount -t tmpfs -o size=1m none {}",
        evidence.display()
    );
    place.start()?;
    place.says("no cgroups for sessions: their processes are found by their records alone")?;
    place.says("expected a cgroup v2 file system to be mounted, found none")?;
    let id = place.session()?;
    place.ok(&["session", "exec", &id, "--", "true"])?;
    let fill = place.inside(&evidence).join("fill");
    fill_up(&fill)?;
    place.ok(&["session", "close", "--no-wait", &id])?;
    place.says("the disk is full: make room, it is tried again until then")?;
    std::fs::remove_file(&fill)?;
    assert_sealed(&place, &id)?;
    assert_eq!(std::fs::read_dir(place.inside(&evidence))?.count(), 1, "the bundle, and nothing half-written");
    Ok(())
}

/// Writes until there is no room.
fn fill_up(path: &Path) -> anyhow::Result<()> {
    let mut file = std::fs::File::create(path)?;
    for size in [64 * 1024, 512, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    Ok(())
}

/// The whole state is full and stays so: the session ends with the reason, `cofferd` goes on, and works again when there
/// is room.
#[test]
fn a_state_directory_that_fills_up_ends_the_session_with_the_reason_and_not_cofferd() -> anyhow::Result<()> {
    needs_an_image!();
    needs_root!("mount");
    let mut place = Place::with_image()?;
    std::fs::create_dir(place.state())?;
    place.mounts = format!("mount -t tmpfs -o size=8m,mode=700 none {}", place.state().display());
    place.start()?;
    let id = place.session()?;
    place.ok(&["session", "exec", &id, "--", "true"])?;
    let fill = place.inside(&place.state()).join("fill");
    fill_up(&fill)?;
    // Its leaves cannot be kept any more.
    for _ in 0..40 {
        let _ = place.coffer(&["session", "exec", &id, "--", "true"])?;
        if place.diagnostics().contains("the disk is full") {
            break;
        }
    }
    place.says("the disk is full: make room, it is tried again until then")?;
    let refused = place.coffer(&["session", "create", "--no-wait"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("No space left on device"), "{said}");
    let closed = place.closed(&id)?;
    assert_eq!((&closed["outcome"], &closed["reason"]), (&"aborted".into(), &"internal".into()), "{closed}");
    assert_eq!(closed["closed_by"], "host", "{closed}");
    assert!(closed["message"].as_str().is_some_and(|said| said.contains("No space left on device")), "{closed}");
    assert_eq!(place.residue(&id), Vec::<String>::new());
    assert!(place.lives() && !place.diagnostics().contains("panicked"), "{}", place.diagnostics());

    // Room again, without a restart.
    std::fs::remove_file(&fill)?;
    let next = place.session()?;
    place.ok(&["session", "close", &next])?;
    assert_sealed(&place, &next)
}

/// Three guests of one host, each of which loses another of its processes.
#[test]
fn a_session_whose_processes_die_ends_with_the_reason_and_a_prefix() -> anyhow::Result<()> {
    needs_an_image!();
    let mut place = Place::with_image()?;
    place.vmm += "link = \"vhost-user\"\n";
    place.start()?;
    let created: Vec<String> = (0..3)
        .map(|_| Ok(place.ok(&["session", "create", "--no-wait"])?.trim().to_owned()))
        .collect::<anyhow::Result<_>>()?;
    let [machine, device, simulator] = created.as_slice() else { anyhow::bail!("three sessions") };
    for id in &created {
        place.ok(&["session", "wait", "--for", "ready", id])?;
        place.ok(&["session", "exec", id, "--", "true"])?;
    }
    kill(place.process(device, "--vhost-socket")?)?;
    let pid = place.process(machine, "qemu-system")?;
    assert!(std::process::Command::new("kill").args(["-SEGV", &pid.to_string()]).status()?.success());
    kill(place.process(simulator, "--mrconfigid")?)?;
    place.says("a program of a session ended program=\"coffer-tdx-sim\"")?;
    // Its TD can make no quote any more: so it cannot seal, and says so.
    place.ok(&["session", "close", "--no-wait", simulator])?;
    for (id, reason, by, word) in [
        (machine, "host_lost", "host", "the machine's process was ended by signal 11"),
        (device, "guest_unresponsive", "host", "control channel ended and did not come back"),
        (simulator, "internal", "agent", "rtmr3"),
    ] {
        let closed = place.closed(id)?;
        assert_eq!(closed["outcome"], "aborted", "{closed}");
        assert_eq!((&closed["reason"], &closed["closed_by"]), (&reason.into(), &by.into()), "{closed}");
        assert!(closed["message"].as_str().is_some_and(|said| said.contains(word)), "no {word:?} in {closed}");
        assert_eq!(place.residue(id), Vec::<String>::new());
        let verdict = place.verdict(id)?;
        assert_eq!((&verdict["verdict"], &verdict["accepted"]), (&"aborted".into(), &"yes".into()), "{verdict}");
    }
    place.says("a program of a session ended program=\"coffer-vsock\"")?;
    Ok(())
}

/// The key that the configuration of an open session names is gone when `cofferd` comes back: no receipt is signed with
/// another, which would spoil the bundle.
#[test]
fn a_host_key_that_was_lost_costs_the_receipt_and_not_the_evidence() -> anyhow::Result<()> {
    needs_an_image!();
    let mut place = Place::with_image()?;
    place.start()?;
    let id = place.session()?;
    place.ok(&["session", "exec", &id, "--", "true"])?;
    place.kill_daemon()?;
    std::fs::remove_file(place.state().join("host.key"))?;
    place.start()?;
    place.says("the host key is new, open sessions name another")?;
    // Whether it goes on or was ended by the restart: how it ends is not what is asked here.
    place.coffer(&["session", "close", &id])?;
    let closed = place.closed(&id)?;
    let failures = closed["scrub_failures"].to_string();
    assert!(failures.contains("receipt: expected the host key"), "{closed}");
    assert_eq!(place.residue(&id), Vec::<String>::new());
    let verdict = place.verdict(&id)?;
    assert_eq!(verdict["verdict"], closed["outcome"], "a bundle without a receipt holds: {verdict}");
    assert_eq!(verdict["accepted"], "yes", "{verdict}");
    Ok(())
}
