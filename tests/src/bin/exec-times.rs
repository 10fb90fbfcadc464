//! `exec-times IMAGE_DIR [ROUNDS]`: what an exec of `true` takes in one warm guest, against its floor: an echo over the same
//! link and the start of `true` by a process of the guest. Rounds alternate, so that a busy machine troubles both alike.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use coffer_evidence::link::ToHost;
use coffer_proto::guest::v1 as pb;
use coffer_tests::calls::{Tools, connect, exec};
use coffer_tests::figures::{quartiles, ratio, time};
use coffer_tests::guest::{Guest, Plan};

const LIMIT: Duration = Duration::from_secs(120);
/// Of each kind, in one round.
const TIMES: usize = 20;
/// Starts `true` as often as it is told to and prints the microseconds of each.
const ALONE: &str = "import os, sys, time\nfor _ in range(int(sys.argv[1])):\n b = time.monotonic()\n \
                     os.waitpid(os.posix_spawn('/usr/bin/true', ['true'], {}), 0)\n \
                     print(int((time.monotonic() - b) * 1e6))";

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let image = PathBuf::from(arguments.next().context("usage: exec-times IMAGE_DIR [ROUNDS]")?);
    let rounds: usize = arguments.next().map_or(Ok(10), |rounds| rounds.parse()).context("ROUNDS is a number")?;
    let guest = Guest::boot(&Plan::plain(image))?;
    while !matches!(guest.hear(LIMIT)?, ToHost::Ready { .. }) {}
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
        let tools = connect(&guest.device()).await?;
        exec(&tools, &["true"]).await?;
        let (mut execs, mut refusals, mut alone) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            for _ in 0..TIMES {
                execs.push(time(exec(&tools, &["true"])).await?);
                refusals.push(time(refused(&tools)).await?);
            }
            let out = exec(&tools, &["python3", "-c", ALONE, &TIMES.to_string()]).await?;
            alone
                .extend(String::from_utf8(out)?.lines().map_while(|line| line.parse().ok()).map(Duration::from_micros));
        }
        let [exec, refused, alone] = [execs, refusals, alone].map(quartiles);
        println!("exec true            {exec:.1?}");
        println!("refused at the door  {refused:.1?}  (one round trip over the link, nothing started)");
        println!("true in the guest    {alone:.1?}");
        println!("ratio of medians     {:.2}; the budget is 2.0", ratio(exec[1], refused[1] + alone[1]));
        anyhow::Ok(())
    })
}

/// One round trip: a call that the agent refuses by its header, before anything is logged.
async fn refused(tools: &Tools) -> anyhow::Result<()> {
    match tools.clone().stat(pb::StatRequest { header: None, path: String::new() }).await {
        Err(status) if status.code() == tonic::Code::InvalidArgument => Ok(()),
        other => bail!("expected a refusal, found {other:?}"),
    }
}
