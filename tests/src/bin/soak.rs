//! `soak PAIRS [SEED]`: creates and closes sessions of real guests at random moments of their lives, some with a call that
//! runs, some by killing the machine, and in a last third some across a crash of `cofferd`. Each must end once, honestly,
//! with nothing left; the counts of `cofferd` must be what they were after its first sessions.

use std::collections::{BTreeMap, VecDeque};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use coffer_tests::host::{Host, Settings, kill};

/// Sessions that are open at once.
const AT_ONCE: usize = 3;
/// The longest life before the close: a guest boots, works and idles within it.
const LIFE_MAX_MS: u64 = 12_000;
/// How long `cofferd` may take to let go of what the last commands used.
const SETTLING: Duration = Duration::from_secs(10);
/// Threads that the runtime keeps for blocking work, which come and go.
const THREADS_MAX: u64 = 16;
/// What a `cofferd` that has served more sessions may hold more of: the store's pages, no more.
const MEMORY_GROWTH_MAX_KIB: u64 = 16 * 1024;

/// splitmix64: the same seed, the same run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// How a session is brought to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close,
    CloseWhileACallRuns,
    KillTheMachine,
    CrashTheControlPlane,
}

struct Life {
    session: String,
    end: End,
    at: Instant,
    call: Option<Child>,
}

/// What is counted of `cofferd`.
#[derive(Clone, Copy, Debug)]
struct Counts {
    descriptors: usize,
    threads: u64,
    memory_kib: u64,
}

fn counts(host: &Host) -> anyhow::Result<Counts> {
    let proc = std::path::PathBuf::from(format!("/proc/{}", host.pid()));
    let status = std::fs::read_to_string(proc.join("status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a field of /proc/PID/status")?;
        line.split_whitespace().next().and_then(|n| n.parse().ok()).context("a number")
    };
    let descriptors = std::fs::read_dir(proc.join("fd"))?.count();
    Ok(Counts { descriptors, threads: field("Threads:")?, memory_kib: field("VmRSS:")? })
}

/// The counts when the connections of the last commands have gone, too: that `cofferd` has seen their end is no event.
fn settled(host: &Host, before: Counts) -> anyhow::Result<Counts> {
    let begin = Instant::now();
    loop {
        let now = counts(host)?;
        if now.descriptors <= before.descriptors || begin.elapsed() > SETTLING {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn start(host: &Host, dice: &mut Dice, worst: End) -> anyhow::Result<Life> {
    let session = host.ok(&["session", "create", "--no-wait"])?.trim().to_owned();
    let end = match dice.roll(10) {
        0..5 => End::Close,
        5..7 => End::CloseWhileACallRuns,
        7..9 => End::KillTheMachine,
        _ => worst,
    };
    let call = if end == End::CloseWhileACallRuns {
        host.run(&["session", "wait", "--for", "ready", &session])?;
        let mut call = host.coffer();
        call.args(["session", "exec", &session, "--", "sleep", "600"]);
        Some(call.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    } else {
        None
    };
    Ok(Life { session, end, at: Instant::now() + Duration::from_millis(dice.roll(LIFE_MAX_MS)), call })
}

/// Ends a session as it is due, and tells what came of it.
fn finish(host: &mut Host, life: Life) -> anyhow::Result<String> {
    let session = life.session.as_str();
    std::thread::sleep(life.at.saturating_duration_since(Instant::now()));
    match life.end {
        End::Close | End::CloseWhileACallRuns => drop(host.run(&["session", "close", session])?),
        End::KillTheMachine => match host.process_of(session, "qemu-system") {
            Ok(pid) => kill(pid)?,
            // It has no machine yet.
            Err(_) => drop(host.run(&["session", "close", session])?),
        },
        End::CrashTheControlPlane => {
            host.crash()?;
            host.restart()?;
            host.run(&["session", "close", session])?;
        }
    }
    if let Some(mut call) = life.call {
        call.wait()?;
    }
    host.ok(&["session", "wait", "--for", "closed", session])?;
    let closed = host.get(session)?;
    let word = |field: &str| closed[field].as_str().unwrap_or("none").to_owned();
    let left = host.residue(session);
    ensure!(left.is_empty(), "{:?} left {left:?}: {closed}\n{}", life.end, host.diagnostics());
    let outcome = word("outcome");
    match host.verdict(session)? {
        Some(seen) => {
            ensure!(seen["verdict"] == outcome.as_str() && seen["accepted"] == "yes", "{closed}: {seen}");
            std::fs::remove_file(host.directory().join(format!("{session}.evidence")))?;
        }
        None => ensure!(outcome == "aborted" && closed["instance"].is_null(), "no evidence of {closed}"),
    }
    Ok(format!("{outcome}, {}", word("reason")))
}

/// So many sessions, a few at once; tells how they ended.
fn batch(
    host: &mut Host,
    dice: &mut Dice,
    pairs: usize,
    worst: End,
    outcomes: &mut BTreeMap<String, usize>,
) -> anyhow::Result<()> {
    let mut open: VecDeque<Life> = VecDeque::new();
    for started in 1..=pairs + AT_ONCE {
        if started <= pairs {
            open.push_back(start(host, dice, worst)?);
        }
        if open.len() == AT_ONCE || started > pairs {
            let Some(life) = open.pop_front() else { break };
            let (session, end) = (life.session.clone(), life.end);
            let outcome = finish(host, life)?;
            eprintln!("{session}: {end:?}: {outcome}");
            *outcomes.entry(outcome).or_default() += 1;
        }
    }
    ensure!(host.processes().is_empty(), "processes are left: {:?}", host.processes());
    let left: Vec<_> = std::fs::read_dir(host.directory().join("state/sessions"))?.collect();
    ensure!(left.is_empty(), "directories are left: {left:?}");
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (pairs, seed) = match arguments.as_slice() {
        [pairs] => (pairs.parse::<usize>()?, 1),
        [pairs, seed] => (pairs.parse()?, seed.parse()?),
        _ => bail!("expected the number of pairs, and perhaps a seed"),
    };
    let mut dice = Dice(seed);
    let began = Instant::now();
    let mut host = Host::start(&Settings::default())?;
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    // What is opened once for good is open after these.
    batch(&mut host, &mut dice, pairs.min(4), End::Close, &mut outcomes)?;
    let before = counts(&host)?;
    let crashing = pairs / 3;
    batch(&mut host, &mut dice, pairs.saturating_sub(4 + crashing), End::Close, &mut outcomes)?;
    let after = settled(&host, before)?;
    ensure!(after.descriptors <= before.descriptors, "descriptors: {before:?} before, {after:?} after");
    ensure!(after.threads <= before.threads + THREADS_MAX, "threads: {before:?} before, {after:?} after");
    ensure!(after.memory_kib <= before.memory_kib + MEMORY_GROWTH_MAX_KIB, "{before:?} before, {after:?} after");
    batch(&mut host, &mut dice, crashing, End::CrashTheControlPlane, &mut outcomes)?;
    println!(
        "soak: {} sessions in {} s, seed {seed}: each ended once and left nothing; {outcomes:?}; cofferd {before:?}, later {after:?}",
        outcomes.values().sum::<usize>(),
        began.elapsed().as_secs()
    );
    Ok(())
}
