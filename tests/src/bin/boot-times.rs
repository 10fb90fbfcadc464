//! `boot-times IMAGE_DIR [ROUNDS]`: the start of a session against a bare boot of the same files, side by side: in each round
//! one of each, one after the other. Prints each round and the medians. No `cofferd` takes part: what it adds is not in here.
//! `opened` is the guest's own word: the monotonic clock of leaf 0, from the kernel's start to the opening that is quoted and logged.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::leaf::Leaf;
use coffer_evidence::link::{Mirror, ToHost};
use coffer_tests::figures::{median, ratio};
use coffer_tests::guest::{Guest, Plan};
use coffer_tests::kit::{bare_boot, kit_directory};

const LIMIT: Duration = Duration::from_secs(120);

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let image = PathBuf::from(arguments.next().context("usage: boot-times IMAGE_DIR [ROUNDS]")?);
    let rounds = arguments.next().map_or(Ok(5), |rounds| rounds.parse()).context("ROUNDS is a number")?;
    let kit = kit_directory()?;
    let mut told = String::new();
    let [mut bare, mut lines, mut hellos, mut readies, mut openings] = [const { Vec::new() }; 5];
    for _ in 0..rounds {
        bare.push(bare_boot(&kit, &image, LIMIT)?);
        let Times { line, hello, ready, opened, steps } = session(&image)?;
        told = steps;
        lines.push(line);
        hellos.push(hello);
        readies.push(ready);
        openings.push(opened);
        let last = |times: &[Duration]| times.last().map_or(0, Duration::as_millis);
        println!(
            "bare {} ms; session: first line {}, hello {}, ready {}; in the guest: opened {}",
            last(&bare),
            last(&lines),
            last(&hellos),
            last(&readies),
            last(&openings)
        );
    }
    println!("the last one's init: {told}");
    let [bare, line, hello, ready, opened] = [bare, lines, hellos, readies, openings].map(median);
    let ratio = ratio(ready, bare);
    println!(
        "medians: bare {bare:.2?}; session: first line {line:.2?}, hello {hello:.2?}, ready {ready:.2?}; ratio {ratio:.3}; \
         in the guest, from the kernel's start: opened {opened:.2?}"
    );
    Ok(())
}

/// Times from the start of QEMU, and one of the guest's own.
struct Times {
    line: Duration,
    hello: Duration,
    ready: Duration,
    /// From the kernel's start.
    opened: Duration,
    /// What init says of its steps.
    steps: String,
}

fn session(image: &std::path::Path) -> anyhow::Result<Times> {
    let guest = Guest::boot(&Plan::plain(image.to_owned()))?;
    let begin = Instant::now();
    while !guest.console().contains("first userspace line") {
        if begin.elapsed() > LIMIT {
            bail!("no user space within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let line = guest.started.elapsed();
    let ToHost::Hello { .. } = guest.hear(LIMIT)? else { bail!("expected hello") };
    let hello = guest.started.elapsed();
    let ToHost::Ready { .. } = guest.hear(LIMIT)? else { bail!("expected ready") };
    let ready = guest.started.elapsed();
    loop {
        if let Mirror::Leaf { index: 0, bytes } = guest.mirror.recv_timeout(LIMIT).context("expected leaf 0")? {
            let opened = Duration::from_nanos(Leaf::parse(&bytes).context("parse leaf 0")?.monotonic_ns);
            let console = guest.console();
            let steps = console.lines().find_map(|line| line.split_once("coffer-agent: boot, "));
            let steps = steps.context("expected init's word on its steps")?.1.trim().to_owned();
            return Ok(Times { line, hello, ready, opened, steps });
        }
    }
}
