//! `record-times IMAGE_DIR UNWATCHED_IMAGE_DIR [ROUNDS]`: what the record of files costs. The same work in two guests that differ by
//! the agent alone: one watches what calls do with files, one does not. Rounds alternate, so that a busy machine troubles both alike.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use coffer_evidence::link::ToHost;
use coffer_tests::calls::{Tools, exec};
use coffer_tests::figures::{median, ratio, time};
use coffer_tests::guest::{Guest, Plan};

const LIMIT: Duration = Duration::from_secs(120);
/// A repository of 5,000 files in 100 directories, committed; and a copy of the standard library that can be written to.
const MAKE: &str = "set -e; mkdir src; cd src; git init -q; git config user.name a; git config user.email a@b
python3 -c 'import os\nfor d in range(100):\n os.mkdir(str(d))\n for f in range(50): open(f\"{d}/{f}.txt\", \"w\").write(f\"{d} {f}\\n\" * 40)'
git add .; git commit -q -m all; cd ..; cp -r /usr/lib/python3.* lib; find lib -name __pycache__ -prune -exec rm -r {} +";
/// What is measured: what it is called, and the script, after what puts things back.
const WORK: [(&str, &str, &str); 2] = [
    ("git clone, 5,000 files", "rm -rf dst", "git clone -q src dst"),
    (
        "compileall of the standard library",
        "find lib -name __pycache__ -prune -exec rm -r {} +",
        "python3 -m compileall -q lib",
    ),
];

fn main() -> anyhow::Result<()> {
    let usage = "usage: record-times IMAGE_DIR UNWATCHED_IMAGE_DIR [ROUNDS]";
    let mut arguments = std::env::args().skip(1);
    let images = [arguments.next().context(usage)?, arguments.next().context(usage)?];
    let rounds: usize = arguments.next().map_or(Ok(5), |rounds| rounds.parse()).context("ROUNDS is a number")?;
    let guests = images.map(|image| -> anyhow::Result<Guest> {
        let guest = Guest::boot(&Plan::plain(PathBuf::from(image)))?;
        while !matches!(guest.hear(LIMIT)?, ToHost::Ready { .. }) {}
        Ok(guest)
    });
    let [watched, unwatched] = guests;
    let guests = [watched?, unwatched?];
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
        let mut tools = Vec::new();
        for guest in &guests {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("unix:{}", guest.tools()?.display()))?;
            let one = Tools::new(endpoint.connect().await?);
            run(&one, MAKE).await.context("make what is worked on")?;
            tools.push(one);
        }
        for (what, before, script) in WORK {
            let mut times = [Vec::new(), Vec::new()];
            for round in 0..rounds {
                // Each goes first as often as the other.
                for which in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                    run(&tools[which], before).await?;
                    times[which].push(run(&tools[which], script).await?);
                }
            }
            let [with, without] = times.map(median);
            let more = ratio(with, without) - 1.0;
            println!("{what:<36} recorded {with:.2?}, not recorded {without:.2?}: {:+.1} %", more * 100.0);
        }
        anyhow::Ok(())
    })
}

/// How long a script takes to its end, which must be a good one.
async fn run(tools: &Tools, script: &str) -> anyhow::Result<Duration> {
    time(exec(tools, &["sh", "-c", script])).await
}
