//! Programs of a session that are missing, broken or hang: the session ends at once with what was expected and found, the
//! host is clean, and the next session is not the worse for it.

use std::path::Path;

use anyhow::Context as _;
use coffer_tests::host::binaries;
use coffer_tests::kit::kit_directory;
use coffer_tests::needs_an_image;

use crate::needs_root;
use crate::place::{Place, chmod, linked_copy};

/// Which program of a session is meant.
#[derive(Clone, Copy)]
enum Program {
    Qemu,
    Kit,
    VsockDevice,
    Simulator,
}

/// A place whose sessions are given this program.
fn with(program: Program, path: &Path) -> anyhow::Result<Place> {
    let mut place = Place::with_image()?;
    let path = path.display().to_string();
    match program {
        Program::Qemu => place.vmm += &format!("accelerator = \"tcg\"\nqemu = {path:?}\n"),
        Program::Kit => place.vmm += &format!("accelerator = \"tcg\"\nkit = {path:?}\n"),
        Program::VsockDevice => place.vmm += &format!("link = \"vhost-user\"\nvsock_device = {path:?}\n"),
        Program::Simulator => place.config += &format!("[simulator]\ncommand = {path:?}\n"),
    }
    Ok(place)
}

/// Creates a session that does not become Ready, and gives it as it is when closed, with nothing of it left.
fn does_not_start(what: &str, place: &Place) -> anyhow::Result<serde_json::Value> {
    let created = place.coffer(&["session", "create", "--wait"])?;
    let said = String::from_utf8_lossy(&created.stderr).into_owned();
    assert_eq!(created.status.code(), Some(69), "{what}: {said}\n{}", place.diagnostics());
    let listed: serde_json::Value = serde_json::from_str(&place.ok(&["session", "list", "--all", "--json"])?)?;
    let id = listed["sessions"][0]["id"].as_str().with_context(|| format!("{what}: a session: {listed}\n{said}"))?;
    let closed = place.closed(id)?;
    assert_eq!(closed["outcome"], "aborted", "{what}: {closed}");
    assert_eq!(closed["closed_by"], "host", "{what}: {closed}");
    assert_eq!(closed["scrub_failures"], serde_json::json!([]), "{what}: {closed}");
    assert_eq!(place.residue(id), Vec::<String>::new(), "{what}");
    assert!(!place.state().join("evidence").join(format!("{id}.evidence")).exists(), "{what}: evidence of nothing");
    Ok(closed)
}

/// The session ends for this reason, its message and the diagnostics hold these words; `cofferd` lives, and ends well.
fn assert_ends(
    what: &str,
    mut place: Place,
    reason: &str,
    message: &[&str],
    diagnostics: &[&str],
) -> anyhow::Result<()> {
    place.start()?;
    let closed = does_not_start(what, &place)?;
    assert_eq!(closed["reason"], reason, "{what}: {closed}\n{}", place.diagnostics());
    let said = closed["message"].as_str().unwrap_or_default();
    for word in message {
        assert!(said.contains(word), "{what}: no {word:?} in {said}");
    }
    for word in diagnostics {
        assert!(place.diagnostics().contains(word), "{what}: no {word:?} in {}", place.diagnostics());
    }
    assert!(!place.diagnostics().contains("panicked"), "{what}: {}", place.diagnostics());
    assert!(place.lives(), "{what}");
    assert_eq!(place.stop()?, Some(0), "{what}");
    Ok(())
}

/// Scripts that go wrong before they are what they should be, and what is then said to have been found.
const SCRIPTS: [(&str, &str, &str); 4] = [
    ("fails", "echo on purpose >&2; exit 1", "found that it ended with status 1"),
    ("ends", "exit 0", "found that it ended with status 0"),
    ("segfaults", "kill -SEGV $$", "found that it ended with signal 11"),
    ("starts-nothing", "exec /no/such/program", "found that it ended with status 12"),
];

#[test]
fn a_qemu_that_is_missing_or_broken_ends_the_session_at_once_with_words() -> anyhow::Result<()> {
    needs_an_image!();
    let scratch = Place::new()?;
    let none = scratch.path("none");
    let named = none.display().to_string();
    let message = ["expected QEMU at", &named, "correct vmm.qemu"];
    assert_ends("missing", with(Program::Qemu, &none)?, "internal", &message, &["no session can be started"])?;
    let message = ["expected a QEMU kit at", &named, "coffer-image build"];
    assert_ends("no kit", with(Program::Kit, &none)?, "internal", &message, &["no session can be started"])?;

    let plain = scratch.script("plain", "exit 0")?;
    chmod(&plain, 0o644)?;
    let message = ["expected QEMU to get ready"];
    assert_ends("no program", with(Program::Qemu, &plain)?, "internal", &message, &["Permission denied"])?;
    for (what, script, found) in SCRIPTS {
        let script = scratch.script(what, script)?;
        let message = ["expected QEMU to get ready", found, "cofferd's diagnostics", "vmm.qemu"];
        let heard = if what == "fails" { &["on purpose"][..] } else { &[] };
        assert_ends(what, with(Program::Qemu, &script)?, "internal", &message, heard)?;
    }
    Ok(())
}

#[test]
fn a_qemu_that_goes_wrong_over_qmp_is_ended_and_named() -> anyhow::Result<()> {
    needs_an_image!();
    let scratch = Place::new()?;
    for (mode, reason, message) in [
        ("speaks-nonsense", "internal", "found an answer that is not QMP"),
        // A machine that is killed is lost to the host, whoever killed it.
        ("dies-after-qmp", "host_lost", "the machine's process was ended by signal 6"),
        ("halts-after-qmp", "internal", "the machine stood still because its accelerator or a disk failed"),
    ] {
        let program = scratch.path(mode);
        std::fs::copy(env!("CARGO_BIN_EXE_failing-qemu"), &program)?;
        assert_ends(mode, with(Program::Qemu, &program)?, reason, &[message], &[])?;
    }
    Ok(())
}

#[test]
fn a_kit_without_its_loader_or_its_program_says_what_was_said() -> anyhow::Result<()> {
    needs_an_image!();
    let scratch = Place::new()?;
    let kit = scratch.path("kit");
    for (gone, heard) in [
        ("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "start the program: No such file"),
        ("usr/bin/qemu-system-x86_64", "cannot open shared object file"),
    ] {
        linked_copy(&kit_directory()?.canonicalize()?, &kit)?;
        std::fs::remove_file(kit.join(gone))?;
        let message = ["expected QEMU to get ready, found that it ended with status"];
        assert_ends(gone, with(Program::Kit, &kit)?, "internal", &message, &[heard])?;
        std::fs::remove_dir_all(&kit)?;
    }
    // A kit whose description is none.
    std::fs::create_dir(&kit)?;
    std::fs::write(kit.join("kit.json"), "{\"version\":1}")?;
    let message = ["kit.json: ", "expected", "coffer-image build"];
    assert_ends("kit.json", with(Program::Kit, &kit)?, "internal", &message, &["no session can be started"])
}

#[test]
fn a_vsock_device_or_simulator_that_is_missing_or_broken_ends_the_session_at_once_with_words() -> anyhow::Result<()> {
    needs_an_image!();
    let scratch = Place::new()?;
    let none = scratch.path("none");
    let message = ["expected coffer-vsock at", "install it beside cofferd, or set vmm.vsock_device"];
    let place = with(Program::VsockDevice, &none)?;
    assert_ends("no device", place, "internal", &message, &["no session can be started"])?;

    // Without a simulator nothing is even begun.
    let mut place = with(Program::Simulator, &none)?;
    place.start()?;
    let refused = place.coffer(&["session", "create", "--wait"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    for word in ["PROFILE_NOT_SERVED", "simulated", "serves none", "simulator.command"] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    assert_eq!(std::fs::read_dir(place.state().join("sessions"))?.count(), 0);

    let more = [
        ("says-another-word", "echo nonsense; exec sleep 1000", "found the line \"nonsense\\n\""),
        ("closes-its-output", "exec >&-; exec sleep 1000", "found that it closed its output"),
    ];
    for (what, script, found) in SCRIPTS.into_iter().chain(more) {
        let script = scratch.script(what, script)?;
        for (program, name, setting) in [
            (Program::VsockDevice, "coffer-vsock", "vmm.vsock_device"),
            (Program::Simulator, "coffer-tdx-sim", "simulator.command"),
        ] {
            let ready = format!("expected {name} to get ready");
            let message = [ready.as_str(), found, "cofferd's diagnostics", setting];
            let heard = if what == "fails" { &["on purpose"][..] } else { &[] };
            assert_ends(&format!("{name} {what}"), with(program, &script)?, "internal", &message, heard)?;
        }
    }
    Ok(())
}

/// Half a minute each, at once: far from the deadline of the boot, and with a word for what is missing.
#[test]
fn a_program_that_hangs_is_given_half_a_minute_and_named() -> anyhow::Result<()> {
    needs_an_image!();
    let scratch = Place::new()?;
    let hangs = scratch.script("hangs", "exec sleep 1000")?;
    let rows: [(Program, [&str; 2]); 3] = [
        (Program::Qemu, ["expected QEMU to get ready", "no word of QMP within 30s"]),
        (Program::VsockDevice, ["expected coffer-vsock to get ready", "nothing within 30s"]),
        (Program::Simulator, ["expected coffer-tdx-sim to get ready", "nothing within 30s"]),
    ];
    std::thread::scope(|scope| {
        let hangs = &hangs;
        let row = |(program, message): (Program, [&'static str; 2])| {
            scope.spawn(move || assert_ends(message[0], with(program, hangs)?, "internal", &message, &[]))
        };
        for row in rows.map(row) {
            row.join().map_err(|_| anyhow::anyhow!("a row failed"))??;
        }
        Ok(())
    })
}

#[test]
fn a_kvm_that_cannot_run_a_guest_is_named_and_not_tried() -> anyhow::Result<()> {
    needs_an_image!();
    let kvm = "expected a KVM that can run guests, found";
    let forced = || -> anyhow::Result<Place> {
        let mut place = Place::with_image()?;
        place.vmm += "accelerator = \"kvm\"\n";
        Ok(place)
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    if cpu.split_whitespace().any(|flag| flag == "vmx" || flag == "svm") {
        eprintln!("NOT RUN: a paravirtual /dev/kvm: this CPU virtualises");
    } else {
        let message = [kvm, "set vmm.accelerator to \"auto\" or \"tcg\""];
        assert_ends("paravirtual", forced()?, "internal", &message, &["no session can be started", kvm])?;
    }
    needs_root!("hide /dev/kvm");
    let hidden = "mount -t tmpfs none /dev\nmknod -m 666 /dev/null c 1 3\nmknod -m 666 /dev/zero c 1 5";
    let mut place = forced()?;
    place.mounts = hidden.to_owned();
    let message = [kvm, "/dev/kvm that cannot be opened (No such file"];
    assert_ends("absent", place, "internal", &message, &["no session can be started"])?;
    // Nothing forced: then the same host emulates, and says so.
    let mut place = Place::with_image()?;
    place.mounts = hidden.to_owned();
    place.start()?;
    place.says("cpu=Tcg")
}

/// The program is whole when the guest starts and broken when its opening is to be verified.
#[test]
fn a_simulator_that_gives_no_collateral_is_named_by_the_session_that_it_ends() -> anyhow::Result<()> {
    let image = needs_an_image!();
    let (mut place, copy) = Place::with_copy_of(&image)?;
    // The jail shows the image's directory, and not that of the programs.
    let real = copy.join("coffer-tdx-sim");
    std::fs::copy(binaries().join("coffer-tdx-sim"), &real)?;
    let script = format!("[ \"$1\" = collateral ] && exit 3\nexec {:?} \"$@\"", real.display().to_string());
    let script = place.script("half-broken", &script)?;
    place.config += &format!("[simulator]\ncommand = {:?}\n", script.display().to_string());
    let message = ["expected", "half-broken to print collateral", "it ended with exit status: 3"];
    assert_ends("collateral", place, "attestation_failed", &message, &[])
}

#[test]
fn an_image_of_a_publisher_that_the_host_does_not_name_is_refused_with_its_name() -> anyhow::Result<()> {
    needs_an_image!();
    let mut place = Place::with_image()?;
    // The generator of Ed25519: a key, and nobody's.
    place.config += &format!("publishers = [\"58{}\"]\n", "66".repeat(31));
    place.start()?;
    place.says("an image cannot be used")?;
    let refused = place.coffer(&["session", "create", "--wait"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    for word in ["IMAGE_UNUSABLE", "to be signed by one of image.publishers, found "] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    assert_eq!(std::fs::read_dir(place.state().join("sessions"))?.count(), 0);
    Ok(())
}
