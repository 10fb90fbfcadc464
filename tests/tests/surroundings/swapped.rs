//! The race that a checked path cannot win: a file of the image is exchanged between the check of its digest and the start of
//! the machine. Nobody but root can do that on a host; whoever can must not get a session out of it. Real guests.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use coffer_tests::host::binaries;
use coffer_tests::needs_an_image;

use crate::place::Place;

/// How long it may take until the simulator is started, and until the session is closed.
const LAUNCH: Duration = Duration::from_secs(60);

/// Stands before the simulator: lets the test exchange a file of the image first. Only the image and the session's own
/// directory are seen from inside the jail, so the simulator itself lies in the image's directory.
const PAUSE: &str = r#"
while [ $# -gt 0 ]; do case $1 in --socket) run=${2%/*};; esac; arguments+=("$1"); shift; done
case ${arguments[0]} in
  serve) : >$run/paused; until [ -e $run/go ]; do sleep 0.05; done;;
esac
exec $IMAGE/simulator "${arguments[@]}"
"#;

/// Which byte of a file is changed.
type Choice = fn(&[u8]) -> usize;

/// Inside the longest run of equal bytes of the part that is code: nothing that the firmware reads.
fn padding(bytes: &[u8]) -> usize {
    let (mut best, mut start) = (0..0, 0x84_000);
    for at in 0x84_000..bytes.len() - 0x1_000 {
        if bytes[at] != bytes[start] {
            start = at;
        }
        if at - start > best.len() {
            best = start..at;
        }
    }
    best.start + best.len() / 2
}

/// The time in the PE header, which nobody reads.
fn pe_time(bytes: &[u8]) -> usize {
    u32::from_le_bytes([bytes[0x3c], bytes[0x3d], bytes[0x3e], bytes[0x3f]]) as usize + 8
}

/// The window of the zstd frame, a little larger or smaller than it need be: what is unpacked is the same.
fn zstd_window(bytes: &[u8]) -> usize {
    assert!(bytes[4] & 0x20 == 0, "this frame says no window");
    5
}

/// What becomes of the other file once the machine has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// It stays: the host, which looks again before it believes the quote and when the guest ends without one, finds it.
    Stays,
    /// The genuine one is put back: only the guest and its quote can tell.
    PutBack,
}

const REFUSED: &str = "attestation_failed";

/// File, byte, what then, the reason of the session's end, and the words that it is explained with.
const ROWS: [(&str, Choice, After, &str, &[&str]); 7] = [
    ("vmlinuz", pe_time, After::Stays, REFUSED, &["vmlinuz to have the SHA-256", "it was changed or damaged"]),
    ("firmware.fd", padding, After::PutBack, REFUSED, &["MRTD"]),
    ("vmlinuz", pe_time, After::PutBack, REFUSED, &["RTMR1"]),
    ("cmdline", |bytes| bytes.len() - 1, After::PutBack, REFUSED, &["RTMR2"]),
    ("initrd.img", zstd_window, After::PutBack, REFUSED, &["RTMR2"]),
    // Its kernel panics over it, and the host, which looks again when a guest ends before it is Ready, finds which file it is.
    (
        "root.erofs",
        |_| 100,
        After::Stays,
        "guest_panicked",
        &["not what was checked before the launch", "root.erofs to have the SHA-256", "as a panicking kernel does"],
    ),
    // Before the superblock: nobody reads it, but its block is read, and dm-verity, which looks at all of it, ends the kernel. The
    // file is not named: it is genuine again when the host looks, and the kernel's console is quiet.
    ("root.erofs", |_| 100, After::PutBack, "guest_panicked", &["as a panicking kernel does"]),
];

/// Another file under the name: the same bytes but for one. The genuine one is kept beside it.
fn exchange(path: &Path, choice: Choice) -> anyhow::Result<()> {
    let mut bytes = std::fs::read(path)?;
    let at = choice(&bytes);
    bytes[at] ^= 1;
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, bytes)?;
    std::fs::rename(path, path.with_extension("genuine"))?;
    Ok(std::fs::rename(fresh, path)?)
}

/// The session's directory, once its simulator waits.
fn paused(place: &Place) -> anyhow::Result<PathBuf> {
    let begin = Instant::now();
    loop {
        let sessions = std::fs::read_dir(place.state().join("sessions")).into_iter().flatten().flatten();
        let waiting = sessions.map(|entry| entry.path().join("run")).find(|run| run.join("paused").exists());
        if let Some(run) = waiting {
            return Ok(run);
        }
        ensure!(begin.elapsed() < LAUNCH, "the simulator is not started:\n{}", place.diagnostics());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_file_exchanged_between_check_and_launch_gives_no_session() -> anyhow::Result<()> {
    let image = needs_an_image!();
    for (name, choice, after, reason, words) in ROWS {
        let (mut place, copy) = Place::with_copy_of(&image)?;
        std::fs::copy(binaries().join("coffer-tdx-sim"), copy.join("simulator"))?;
        let script = PAUSE.replace("$IMAGE", &copy.display().to_string());
        let simulator = place.script("paused-simulator", &script)?;
        place.config += &format!("[simulator]\ncommand = {:?}\n", simulator.display().to_string());
        place.start()?;
        let begin = Instant::now();
        let mut create = place.command(&["session", "create", "--wait"]);
        let create = create.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let run = paused(&place)?;
        exchange(&copy.join(name), choice)?;
        std::fs::write(run.join("go"), "")?;
        if after == After::PutBack {
            // QEMU speaks QMP by then: it has read firmware, kernel and initrd, and holds the disks open.
            place.says("phase=attesting")?;
            std::fs::rename(copy.join(name).with_extension("genuine"), copy.join(name))?;
        }
        let created = create.wait_with_output()?;
        let said = String::from_utf8_lossy(&created.stderr).into_owned();
        assert_eq!(created.status.code(), Some(69), "{name}, {after:?}: {said}\n{}", place.diagnostics());
        let listed: serde_json::Value = serde_json::from_str(&place.ok(&["session", "list", "--all", "--json"])?)?;
        let id = listed["sessions"][0]["id"].as_str().context("id")?;
        let closed = place.closed(id)?;
        println!("{name}, {after:?}: {} after {:.1?}: {}", closed["reason"], begin.elapsed(), closed["message"]);
        assert_eq!(closed["outcome"], "aborted", "{name}, {after:?}: {closed}");
        assert_eq!(closed["reason"], reason, "{name}, {after:?}: {closed}\n{}", place.diagnostics());
        for word in words {
            assert!(
                closed["message"].to_string().contains(word),
                "{name}, {after:?}: no {word:?} in {closed}\n{}",
                place.diagnostics()
            );
        }
        assert_eq!(place.residue(id), Vec::<String>::new(), "{name}, {after:?}");
        assert!(
            !place.state().join("evidence").join(format!("{id}.evidence")).exists(),
            "{name}, {after:?}: evidence of nothing"
        );
    }
    Ok(())
}
