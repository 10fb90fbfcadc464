//! `guest-times BENCH_IMAGE_DIR [ROUNDS]`: a session against OpenSSH and against raw streams of the same vsock device, in one guest
//! whose image holds OpenSSH beside everything of the product's; and what the guest's own processes took of memory. The figures of
//! what a session is compared with are printed beside its own. Rounds alternate, so that a busy machine troubles all alike.
//!
//! ```text
//!   first guest, without cofferd                           second guest, by cofferd
//!   exec, API ─────────── ssh, its control socket          coffer session exec ── ssh, the program
//!   write, read of 64 MiB ── 64 MiB raw, each way
//! ```

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use coffer_evidence::link::{ToGuest, ToHost};
use coffer_evidence::seal::Reason;
use coffer_tests::calls::{self, Tools, exec};
use coffer_tests::figures::{quartiles, ratio, time, time_of};
use coffer_tests::guest::{Guest, Plan};
use coffer_tests::host::{Host, Settings, binaries};
use coffer_tests::openssh::{Openssh, ask};

const LIMIT: Duration = Duration::from_secs(120);
/// Calls of each kind, in one round.
const TIMES: usize = 20;
/// Programs of the host of each kind, in one round.
const PROGRAMS: usize = 10;
const FILE: usize = 64 << 20;
/// Processes that are named.
const SHOWN: usize = 8;
/// Calls before the memory is looked at, beside all that were measured.
const MANY: usize = 500;
/// Budgets (DESIGN §13).
const OPENSSH: f64 = 0.5;
const RAW: f64 = 0.6;
const AGENT_KIB: u64 = 20 << 10;
const INITRAMFS: u64 = 12 << 20;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let image = PathBuf::from(arguments.next().context("usage: guest-times BENCH_IMAGE_DIR [ROUNDS]")?);
    let rounds: usize = arguments.next().map_or(Ok(7), |rounds| rounds.parse()).context("ROUNDS is a number")?;
    let mut guest = Guest::boot(&Plan::plain(image.clone()))?;
    while !matches!(guest.hear(LIMIT)?, ToHost::Ready { .. }) {}
    let device = guest.device();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
        let tools = calls::connect(&device).await?;
        against_openssh(&device, &tools, rounds).await?;
        against_raw(&device, &tools, rounds).await?;
        profiles(&device, &tools).await
    })?;
    guest.order(ToGuest::Close { reason: Reason::UserClosed })?;
    memory(&guest)?;
    let initramfs = std::fs::metadata(image.join("initrd.img"))?.len();
    println!("initramfs, compressed: {initramfs} bytes; the budget is {INITRAMFS}");
    drop(guest);
    programs(&image, rounds)
}

/// Calls over a warm connection, nothing started on the host.
async fn against_openssh(device: &Path, tools: &Tools, rounds: usize) -> anyhow::Result<()> {
    let ssh = Openssh::login(device)?;
    exec(tools, &["true"]).await?;
    ssh.session("true")?;
    let (mut ours, mut builtin, mut started) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        for _ in 0..TIMES {
            ours.push(time(exec(tools, &["true"])).await?);
            builtin.push(time_of(|| ssh.session("true"))?);
            started.push(time_of(|| ssh.session("/usr/bin/true"))?);
        }
    }
    let [ours, builtin, started] = [ours, builtin, started].map(quartiles);
    println!(
        "In one guest, over one vsock device: a delegated session, whose calls are not encrypted but logged, and OpenSSH as the same"
    );
    println!("user over a connection that is multiplexed and warm. Lower quartile, median, upper quartile.");
    println!("exec true, API                        {ours:.1?}");
    println!("OpenSSH, `true` of its shell          {builtin:.1?}  (control socket spoken to directly)");
    println!("OpenSSH, /usr/bin/true by its shell   {started:.1?}  (the same)");
    let (of_shell, of_program) = (ratio(ours[1], builtin[1]), ratio(ours[1], started[1]));
    println!("ratios of medians: {of_shell:.2} and {of_program:.2}; the budget is {OPENSSH}\n");
    Ok(())
}

/// Who in the guest works for a call, and for a command of OpenSSH.
async fn profiles(device: &Path, tools: &Tools) -> anyhow::Result<()> {
    let ssh = Openssh::login(device)?;
    let [mut calls, mut commands] = [Used::default(), Used::default()];
    let before = Used::now(device)?;
    for _ in 0..MANY {
        exec(tools, &["true"]).await?;
    }
    let between = Used::now(device)?;
    for _ in 0..MANY {
        ssh.session("true")?;
    }
    calls.add(&between, &before);
    commands.add(&Used::now(device)?, &between);
    println!("the guest's processors, user + kernel, for one of {MANY}:");
    println!("  exec true, API: {}", calls.shown(MANY));
    println!("  OpenSSH, `true`: {}\n", commands.shown(MANY));
    Ok(())
}

/// A file up and down, and as many bytes without a file, a call or a digest.
async fn against_raw(device: &Path, tools: &Tools, rounds: usize) -> anyhow::Result<()> {
    let content: Bytes = (0..FILE).map(|at| (at * 7 + at / 4096) as u8).collect::<Vec<_>>().into();
    let (mut sink, mut write, mut source, mut read) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut used = [Used::default(), Used::default()];
    for _ in 0..rounds {
        sink.push(time_of(|| raw_up(device, &content))?);
        let before = Used::now(device)?;
        write.push(time(calls::write(tools, "file", &content)).await?);
        let between = Used::now(device)?;
        let begin = Instant::now();
        let came = calls::read(tools, "file").await?;
        read.push(begin.elapsed());
        ensure!(came == FILE as u64, "expected a file of {FILE} bytes, found {came}");
        let after = Used::now(device)?;
        source.push(time_of(|| raw_down(device))?);
        used[0].add(&between, &before);
        used[1].add(&after, &between);
    }
    for (what, raw, ours, used) in [("upload", sink, write, &used[0]), ("download", source, read, &used[1])] {
        let [raw, ours] = [raw, ours].map(quartiles);
        let rate = |time: Duration| FILE as f64 / f64::from(1 << 20) / time.as_secs_f64();
        println!(
            "{what} of 64 MiB: file {ours:.2?}, raw vsock {raw:.2?}: {:.0} and {:.0} MiB/s, {:.2} of raw; the budget is {RAW}",
            rate(ours[1]),
            rate(raw[1]),
            ratio(raw[1], ours[1])
        );
        println!("  the guest's processors, user + kernel, for one: {}", used.shown(rounds));
    }
    println!();
    Ok(())
}

fn raw_up(device: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut stream = ask(device, &format!("sink {}", content.len()))?;
    stream.write_all(content)?;
    let mut answer = [0; 3];
    stream.read_exact(&mut answer)?;
    ensure!(&answer == b"ok\n", "expected the guest to have everything, found {answer:?}");
    Ok(())
}

fn raw_down(device: &Path) -> anyhow::Result<()> {
    let mut stream = ask(device, &format!("source {FILE}"))?;
    let (mut buffer, mut came) = (vec![0; 256 << 10], 0);
    while came < FILE {
        let length = stream.read(&mut buffer)?;
        ensure!(length > 0, "expected {FILE} bytes, found {came}");
        came += length;
    }
    Ok(())
}

/// Hundredths of a second of processor time, in user space and in the kernel, by the name of who used them.
#[derive(Default)]
struct Used(BTreeMap<String, [u64; 2]>);

impl Used {
    fn now(device: &Path) -> anyhow::Result<Self> {
        let mut text = String::new();
        ask(device, "times")?.read_to_string(&mut text)?;
        let mut used = Self::default();
        for line in text.lines() {
            let mut words = line.splitn(6, ' ');
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            let (pid, own, gone) = (number(), [number(), number()], [number(), number()]);
            let name = words.next().unwrap_or_default();
            // Of a kernel's worker the name says what it does now, which is not what it did.
            let name = match name.split([' ', '/']).collect::<Vec<_>>().as_slice() {
                _ if pid == 1 => "init".to_owned(),
                ["[kworker", ..] => "[kworker]".to_owned(),
                ["coffer-agent", role, ..] => (*role).to_owned(),
                _ => name.to_owned(),
            };
            let name = name.as_str();
            used.count(name, own);
            // Who has waited for every call that has ended, and for every command of a connection.
            if pid == 1 {
                used.count("calls", gone);
            } else if name.contains("sshd") {
                used.count("commands", gone);
            }
        }
        Ok(used)
    }

    fn count(&mut self, name: &str, more: [u64; 2]) {
        let sum = self.0.entry(name.to_owned()).or_default();
        *sum = [0, 1].map(|which| sum[which] + more[which]);
    }

    fn add(&mut self, after: &Self, before: &Self) {
        for (name, used) in &after.0 {
            let before = before.0.get(name).copied().unwrap_or_default();
            self.count(name, [0, 1].map(|which| used[which].saturating_sub(before[which])));
        }
    }

    /// Who used most, for one of so many.
    fn shown(&self, times: usize) -> String {
        let mut all: Vec<_> = self.0.iter().filter(|(_, [user, kernel])| user + kernel > 0).collect();
        all.sort_by_key(|(_, [user, kernel])| std::cmp::Reverse(user + kernel));
        let each = |hundredths: u64| hundredths as f64 * 10.0 / times as f64;
        let part =
            |(name, [user, kernel]): &(&String, &[u64; 2])| format!("{name} {:.1} + {:.1}", each(*user), each(*kernel));
        all.iter().take(SHOWN).map(part).collect::<Vec<_>>().join(", ") + " ms"
    }
}

/// What init tells on the console when the session ends.
fn memory(guest: &Guest) -> anyhow::Result<()> {
    let begin = Instant::now();
    let line = loop {
        let console = guest.console();
        if let Some(line) = console.lines().find_map(|line| line.split_once("resident at most: ")) {
            break line.1.trim().to_owned();
        }
        ensure!(begin.elapsed() < LIMIT, "expected a line about memory on the console, found:\n{console}");
        std::thread::sleep(Duration::from_millis(50));
    };
    println!(
        "resident at most, after all of this and {MANY} calls more: {line}; the budget of the agent is {AGENT_KIB} KiB"
    );
    Ok(())
}

/// What a person runs: a program of the host, from its start to its end.
fn programs(image: &Path, rounds: usize) -> anyhow::Result<()> {
    let host = Host::start(&Settings { image: Some(image.to_owned()), ..Settings::default() })?;
    let session = host.session()?;
    let ssh = Openssh::login(&host.session_directory(&session).join("run/vsock.sock"))?;
    let [mut ours, mut theirs, mut our_start, mut their_start] = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        for _ in 0..PROGRAMS {
            ours.push(time_of(|| host.ok(&["session", "exec", &session, "--", "true"]))?);
            theirs.push(time_of(|| ssh.program("true"))?);
            our_start.push(time_of(|| start(Command::new(binaries().join("coffer")).arg("--version")))?);
            their_start.push(time_of(|| start(Command::new("ssh").arg("-V")))?);
        }
    }
    let [ours, theirs, our_start, their_start] = [ours, theirs, our_start, their_start].map(quartiles);
    println!("\nIn a guest of the same image by cofferd: the programs that people run, their own start included.");
    println!("coffer session exec ID -- true        {ours:.1?}  (coffer --version alone {:.1?})", our_start[1]);
    println!("ssh -S control host true              {theirs:.1?}  (ssh -V alone {:.1?})", their_start[1]);
    println!("ratio of medians: {:.2}", ratio(ours[1], theirs[1]));
    host.ok(&["session", "close", &session])?;
    Ok(())
}

fn start(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    ensure!(status.success(), "expected {command:?} to succeed, found {status}");
    Ok(())
}
