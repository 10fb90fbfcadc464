//! What a tool can reach: every attempt of `tests/attempts` as each of two identities, from one identity into the other's, from one
//! call into another of the same identity, grants within grants, names that change, and budgets; each with the errno or the reason
//! that it gets and what it leaves in the log. As a control the same program runs as root of a bare guest, where it gets through,
//! and each of the rest is done by whoever may.
//!
//! Needs `COFFER_TEST_IMAGE` and `COFFER_TEST_ATTEMPTS` (set by `scripts/test`); without them every test says NOT RUN. Two boots.

#[path = "jail/budgets.rs"]
mod budgets;
#[path = "jail/crossing.rs"]
mod crossing;
#[path = "jail/places.rs"]
mod places;
#[path = "jail/race.rs"]
mod race;
#[path = "jail/table.rs"]
mod table;
#[path = "jail/tools.rs"]
mod tools;
#[path = "jail/twins.rs"]
mod twins;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use coffer_evidence::call::OutcomePrivate;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::file_record::Uses;
use coffer_evidence::leaf::{Leaf, Public, StepResult};
use coffer_evidence::link::{Mirror, ToGuest, ToHost};
use coffer_evidence::seal::{Reason, SealMap};
use coffer_proto::guest::v1 as pb;
use coffer_tests::guest::{Guest, Plan};
use coffer_tests::kit::{KillOnDrop, kit_directory, qemu_command};
use coffer_tests::needs_an_image;
use table::TABLE;
use tools::{Left, Session};

const BOOT: Duration = Duration::from_secs(90);
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The identities of one session. The maker shares a directory with the reader, who may only read it, and owns what is around the
/// places of `nested`; `owner` has the whole workspace; the others have a budget each.
const POLICY: &str = include_str!("jail/identities.cedar");
const IDENTITIES: &[&str] = &["calls", "input", "maker", "nested", "output", "owner", "reader", "running", "seconds"];
/// Those of them that try everything.
const TRYING: [&str; 2] = ["maker", "reader"];

fn attempts_program() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("COFFER_TEST_ATTEMPTS")?);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    Some(if path.is_absolute() { path } else { root.join(path) })
}

macro_rules! needs_attempts {
    () => {
        match attempts_program() {
            Some(path) => path,
            None => {
                let required = std::env::var_os("COFFER_TEST_GUESTS").is_some_and(|value| value == "required");
                assert!(!required, "COFFER_TEST_ATTEMPTS is not set");
                eprintln!("NOT RUN: COFFER_TEST_ATTEMPTS is not set");
                return Ok(());
            }
        }
    };
}

/// Every attempt, each in a call of its own, as this identity: all that is not as in the table.
async fn table(session: &Session, identity: &str) -> anyhow::Result<Vec<String>> {
    let program = format!("/workspace/{identity}/attempts");
    let by = if identity == "maker" { Left::By(&["maker-runs"]) } else { Left::By(&["reader-runs"]) };
    let names = session.run(identity, &[&program, "names"], by).await?.out;
    let listed: Vec<&str> = TABLE.iter().map(|(name, _)| *name).collect();
    ensure!(names.lines().eq(listed.iter().copied()), "the program and the table differ: {names}");
    let mut wrong = Vec::new();
    for (name, errno) in TABLE {
        let ended = session.run(identity, &[&program, name], by).await?;
        let exited = &ended.exited;
        if (exited.cause(), exited.code) != (pb::ExitCause::Exited, *errno) {
            wrong.push(format!("{identity}: {name}: expected {errno}, found {ended:?}"));
        }
    }
    Ok(wrong)
}

async fn all(session: &Session, program: &Path) -> anyhow::Result<Vec<String>> {
    let content = std::fs::read(program)?;
    let mut wrong = Vec::new();
    let mut begin = Instant::now();
    let mut told = |what: &str| {
        println!("{what}: {:.1?}", begin.elapsed());
        begin = Instant::now();
    };
    for identity in TRYING {
        session.write(identity, &format!("{identity}/attempts"), 0o755, &content, Left::Call).await?;
        wrong.extend(table(session, identity).await?);
        told(identity);
    }
    for path in ["maker/program", "shared/program"] {
        session.write("maker", path, 0o755, b"#!/usr/bin/sh\nexit 0\n", Left::Call).await?;
    }
    session.write("maker", "shared/file", 0o666, b"shared", Left::By(&["maker-shares"])).await?;
    wrong.extend(crossing::one_into_the_other(session).await.context("one into the other")?);
    told("one into the other");
    wrong.extend(crossing::by_the_tools(session).await.context("by the tools")?);
    told("by the tools");
    wrong.extend(places::within_others(session).await.context("grants within others")?);
    wrong.extend(places::locked(session).await.context("locks")?);
    told("grants within others, and locks");
    wrong.extend(twins::apart(session).await.context("two calls of one identity")?);
    twins::no_daemon_stays(session).await.context("a daemon")?;
    told("two calls of one identity, and daemons");
    race::names(session).await.context("names that change")?;
    told("names that change");
    budgets::end_calls(session).await.context("budgets")?;
    told("budgets");
    wrong.extend(places::that_move(session).await.context("grants that move")?);
    told("grants that move");
    Ok(wrong)
}

/// What a call wrote, by the private part of its outcome; the parts of other leaves tell nothing.
fn written_by(private: &[u8]) -> Vec<String> {
    let record =
        OutcomePrivate::parse(private).ok().and_then(|outcome| outcome.record?.read().ok()).unwrap_or_default();
    let written = record.files().filter(|(_, file)| file.uses.has(Uses::WRITTEN));
    written.map(|(path, _)| String::from_utf8_lossy(&path).into_owned()).collect()
}

#[test]
fn no_attempt_of_any_identity_gets_anywhere() -> anyhow::Result<()> {
    let (image, program) = (needs_an_image!(), needs_attempts!());
    let mut guest = Guest::boot(&Plan { policy: POLICY, identities: IDENTITIES, ..Plan::plain(image) })?;
    let ToHost::Hello { .. } = guest.hear(BOOT)? else { bail!("expected hello") };
    let ToHost::Ready { .. } = guest.hear(BOOT)? else { bail!("expected ready; {}", guest.console()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (session, mut wrong) = runtime
        .block_on(async {
            let session = Session::connect(&guest).await?;
            let wrong = all(&session, &program).await?;
            anyhow::Ok((session, wrong))
        })
        .with_context(|| guest.console())?;
    guest.order(ToGuest::Close { reason: Reason::UserClosed })?;
    let ToHost::Sealed { seal_map, .. } = guest.hear(SOON)? else { bail!("expected sealed") };
    let size = SealMap::parse(&seal_map)?.size;
    let (mut leaves, mut written) = (Vec::new(), BTreeSet::new());
    while (leaves.len() as u64) < size {
        match guest.mirror.recv_timeout(SOON).context("the log")? {
            Mirror::Leaf { bytes, .. } => leaves.push(Leaf::parse(&bytes)?),
            Mirror::Private { bytes, .. } => written.extend(written_by(&bytes)),
            Mirror::Event { .. } | Mirror::Note(_) => {}
        }
    }
    // Each attempt left what it should, and nobody else did.
    wrong.extend(session.misplaced(&leaves));
    for path in places::SEEN {
        if !written.contains(path) {
            wrong.push(format!("no record has {path}"));
        }
    }
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}\n{}", wrong.len(), wrong.join("\n"), guest.console());
    // What was mounted in the rooms went with them: no step of the scrub failed.
    let steps = leaves.into_iter().find_map(|leaf| match leaf.public {
        Public::Scrub { steps } => Some(steps),
        _ => None,
    });
    let steps = steps.context("a scrub leaf")?;
    assert!(steps.iter().all(|(_, result)| *result != StepResult::Failed), "{steps:?}; {}", guest.console());
    Ok(())
}

/// The image's initramfs with another `/init` laid over it: the kernel unpacks one archive after the other.
fn initramfs(image: &Path, init: &Path, out: &Path) -> anyhow::Result<()> {
    let mut archive = std::fs::read(image.join("initrd.img"))?;
    archive.resize(archive.len().next_multiple_of(4), 0);
    let init = std::fs::read(init)?;
    let mut writer = cpio::newc::Builder::new("init").mode(0o100_755).write(&mut archive, u32::try_from(init.len())?);
    writer.write_all(&init)?;
    writer.finish()?;
    cpio::newc::trailer(&mut archive)?;
    Ok(std::fs::write(out, archive)?)
}

#[test]
fn outside_of_a_jail_every_attempt_gets_through() -> anyhow::Result<()> {
    let (image, program) = (needs_an_image!(), needs_attempts!());
    let work = tempfile::tempdir()?;
    initramfs(&image, &program, &work.path().join("initrd"))?;
    let mut qemu = qemu_command(&kit_directory()?)?;
    qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "512M"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .args(["-device", "virtio-serial-pci"])
        .arg("-kernel")
        .arg(image.join("vmlinuz"))
        .arg("-initrd")
        .arg(work.path().join("initrd"))
        .args(["-append", "console=ttyS0 quiet panic=-1"]);
    let mut child = KillOnDrop(qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start QEMU")?);
    let console = BufReader::new(child.0.stdout.take().context("a console")?);
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || console.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let (mut results, mut seen) = (BTreeMap::new(), String::new());
    loop {
        let line = lines.recv_timeout(BOOT).with_context(|| format!("the control says nothing more:\n{seen}"))?;
        seen.push_str(&line);
        seen.push('\n');
        let Some((_, told)) = line.split_once("attempts: ") else { continue };
        if told.trim() == "control ends" {
            break;
        }
        if let Some((name, result)) = told.trim().split_once(' ') {
            results.insert(name.to_owned(), result.to_owned());
        }
    }
    let through = |name: &str| results.get(name).is_some_and(|result| result == "0");
    let held: Vec<_> =
        TABLE.iter().filter(|(name, _)| !through(name)).map(|(name, _)| (name, results.get(*name))).collect();
    assert!(held.is_empty(), "{held:?}\n{seen}");
    Ok(())
}
