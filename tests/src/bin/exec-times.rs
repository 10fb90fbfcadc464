//! `exec-times IMAGE_DIR [ROUNDS]`: what an exec of `true` takes in one warm guest, against its floor: an echo over the same
//! link and the start of `true` by a process of the guest. Rounds alternate, so that a busy machine troubles both alike.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use coffer_evidence::link::ToHost;
use coffer_proto::guest::v1 as pb;
use coffer_tests::guest::{Guest, Plan, random};
use tokio_stream::StreamExt as _;

const LIMIT: Duration = Duration::from_secs(120);
/// Of each kind, in one round.
const TIMES: usize = 20;
/// Starts `true` as often as it is told to and prints the microseconds of each.
const ALONE: &str = "import os, sys, time\nfor _ in range(int(sys.argv[1])):\n b = time.monotonic()\n \
                     os.waitpid(os.posix_spawn('/usr/bin/true', ['true'], {}), 0)\n \
                     print(int((time.monotonic() - b) * 1e6))";

type Tools = pb::tool_service_client::ToolServiceClient<tonic::transport::Channel>;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let image = PathBuf::from(arguments.next().context("usage: exec-times IMAGE_DIR [ROUNDS]")?);
    let rounds: usize = arguments.next().map_or(Ok(10), |rounds| rounds.parse()).context("ROUNDS is a number")?;
    let guest = Guest::boot(&Plan::plain(image))?;
    while !matches!(guest.hear(LIMIT)?, ToHost::Ready { .. }) {}
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("unix:{}", guest.tools()?.display()))?;
        let tools = Tools::new(endpoint.connect().await?);
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
        println!("ratio of medians     {:.2}", exec[1].as_secs_f64() / (refused[1] + alone[1]).as_secs_f64());
        anyhow::Ok(())
    })
}

async fn time<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    work.await?;
    Ok(begin.elapsed())
}

/// One round trip: a call that the agent refuses by its header, before anything is logged.
async fn refused(tools: &Tools) -> anyhow::Result<()> {
    match tools.clone().stat(pb::StatRequest { header: None, path: String::new() }).await {
        Err(status) if status.code() == tonic::Code::InvalidArgument => Ok(()),
        other => bail!("expected a refusal, found {other:?}"),
    }
}

/// Runs a program; answers its stdout.
async fn exec(tools: &Tools, argv: &[&str]) -> anyhow::Result<Vec<u8>> {
    use pb::exec_request::Request;
    use pb::exec_response::Response;
    let mut id: [u8; 16] = random()?;
    (id[6], id[8]) = (id[6] & 0x0f | 0x40, id[8] & 0x3f | 0x80);
    let salt = random::<32>()?.to_vec().into();
    let header = Some(pb::CallHeader { call_id: id.to_vec().into(), identity: String::new(), salt });
    let argv = argv.iter().map(|&word| word.to_owned()).collect();
    let start = Request::Start(pb::ExecStart { header, argv, ..pb::ExecStart::default() });
    let request = pb::ExecRequest { request: Some(start) };
    let requests = tokio_stream::iter([request]).chain(tokio_stream::pending());
    let mut responses = tools.clone().exec(requests).await?.into_inner();
    let mut out = Vec::new();
    while let Some(message) = responses.message().await? {
        match message.response {
            Some(Response::Stdout(output)) => out.extend_from_slice(&output.data),
            Some(Response::Exited(exited)) if exited.code == 0 => return Ok(out),
            Some(Response::Exited(exited)) => bail!("expected success, found {exited:?}"),
            _ => {}
        }
    }
    bail!("expected an exit at the end of the call")
}

/// Lower quartile, median, upper quartile.
fn quartiles(mut times: Vec<Duration>) -> [Duration; 3] {
    times.sort();
    [1, 2, 3].map(|quarter| times.get(times.len() * quarter / 4).copied().unwrap_or_default())
}
