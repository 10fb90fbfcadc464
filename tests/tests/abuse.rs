//! Calls that take all they can get, and many of them: the agent answers within 2 s throughout, the log has every call, and the next
//! call works. One boot. Memory and processes are in `guest.rs`.
//!
//! Needs `COFFER_TEST_IMAGE` (set by `scripts/test`); without it the test says NOT RUN. `COFFER_TEST_CALLS` says how many short calls
//! are made: 1,000 when it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use coffer_evidence::link::ToHost;
use coffer_proto::guest::v1 as pb;
use coffer_tests::guest::{Guest, Plan, call_header};
use coffer_tests::needs_an_image;
use pb::exec_request::Request;
use pb::exec_response::Response;
use tokio_stream::StreamExt as _;

const BOOT: Duration = Duration::from_secs(120);
/// The longest that the agent may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How long nobody reads what a program puts out.
const UNREAD: Duration = Duration::from_secs(10);

type Tools = pb::tool_service_client::ToolServiceClient<tonic::transport::Channel>;

/// How a call ended, and what it said.
#[derive(Debug)]
struct Ended {
    exited: pb::Exited,
    out: Vec<u8>,
}

impl Ended {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

/// Starts a program; its answers are read by whoever wants to.
async fn start(tools: &Tools, argv: &[&str], timeout: Duration) -> anyhow::Result<tonic::Streaming<pb::ExecResponse>> {
    let start = pb::ExecStart {
        header: call_header("")?,
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        timeout_ms: i64::try_from(timeout.as_millis())?,
        ..pb::ExecStart::default()
    };
    let requests = tokio_stream::iter([pb::ExecRequest { request: Some(Request::Start(start)) }]);
    Ok(tools.clone().exec(requests.chain(tokio_stream::pending())).await?.into_inner())
}

async fn ended(mut responses: tonic::Streaming<pb::ExecResponse>) -> anyhow::Result<Ended> {
    let mut out = Vec::new();
    while let Some(message) = responses.message().await? {
        match message.response {
            Some(Response::Stdout(chunk)) => out.extend_from_slice(&chunk.data),
            Some(Response::Exited(exited)) => return Ok(Ended { exited, out }),
            _ => {}
        }
    }
    anyhow::bail!("expected an exit at the end of the call")
}

async fn sh(tools: &Tools, script: &str) -> anyhow::Result<Ended> {
    ended(start(tools, &["sh", "-c", script], Duration::from_secs(120)).await?).await
}

/// Asks the agent something that it answers by itself, again and again; keeps the longest time that it took.
async fn ask(tools: Tools, longest: Arc<AtomicU64>) -> anyhow::Result<()> {
    loop {
        let begin = Instant::now();
        let refused = tools.clone().stat(pb::StatRequest { header: None, path: String::new() }).await;
        ensure!(refused.is_err_and(|status| status.code() == tonic::Code::InvalidArgument));
        longest.fetch_max(u64::try_from(begin.elapsed().as_millis())?, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The workspace and `/tmp` are full, of bytes and then of files; what was there is, and there is room again.
async fn full(tools: &Tools) -> anyhow::Result<()> {
    let script = "for place in /workspace /tmp; do cd $place; echo kept > kept; dd if=/dev/zero of=big bs=1M 2>&1 | grep -c 'No space'; \
                  cat kept; rm big; done";
    let filled = sh(tools, script).await?;
    ensure!(filled.text() == "1\nkept\n1\nkept\n", "{filled:?}");
    let script = "import errno, os, shutil\nfor place in ('/workspace', '/tmp'):\n os.mkdir(place + '/many')\n n = 0\n try:\n\
                  \x20 while True:\n   os.mknod(f'{place}/many/{n}')\n   n += 1\n except OSError as error:\n\
                  \x20 print(place, n > 10000, errno.errorcode[error.errno])\n shutil.rmtree(place + '/many')";
    let filled = ended(start(tools, &["python3", "-c", script], Duration::from_secs(300)).await?).await?;
    ensure!(filled.text() == "/workspace True ENOSPC\n/tmp True ENOSPC\n", "{filled:?}");
    let after = sh(tools, "echo room > /workspace/room && cat /workspace/room").await?;
    ensure!(after.text() == "room\n", "{after:?}");
    Ok(())
}

/// A program that puts out as fast as it can, and a client that does not read: the program waits, nothing grows, its time runs.
async fn unread(tools: &Tools) -> anyhow::Result<()> {
    let yes = start(tools, &["yes"], UNREAD).await?;
    tokio::time::sleep(UNREAD / 2).await;
    let beside = sh(tools, "echo beside").await?;
    ensure!(beside.text() == "beside\n", "{beside:?}");
    let ended = ended(yes).await?;
    ensure!(ended.exited.cause() == pb::ExitCause::TimedOut, "{:?}", ended.exited);
    let stream = ended.exited.stdout.context("what became of stdout")?;
    ensure!(ended.out.chunks(2).all(|line| line == b"y\n" || line == b"y"), "another output than it made");
    println!("yes: {} bytes put out, {} delivered", stream.bytes_total, stream.bytes_delivered);
    Ok(())
}

/// Output that looks like anything but output comes as it was put out.
async fn strange(tools: &Tools) -> anyhow::Result<()> {
    let bytes = b"{\"kind\":\"seal\"}\r\n\x1b[2J\x1b]0;t\x07\x00\xff\xfe\n\x00\xc3\x28 index 7 outcome completed\n";
    let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let said = ended(start(tools, &["printf", &octal], Duration::from_secs(60)).await?).await?;
    ensure!(said.out == bytes, "{:?}", said.out);
    Ok(())
}

/// Many short calls, four at a time: each ends as it should, with an intent and an outcome of its own.
async fn many(tools: &Tools, count: u64) -> anyhow::Result<()> {
    let begin = Instant::now();
    let workers = (0..4).map(|worker| {
        let tools = tools.clone();
        tokio::spawn(async move {
            let mut outcomes = Vec::new();
            for _ in (worker..count).step_by(4) {
                let call = ended(start(&tools, &["true"], Duration::from_secs(60)).await?).await?;
                ensure!(call.exited.cause() == pb::ExitCause::Exited && call.exited.code == 0, "{call:?}");
                outcomes.push(call.exited.outcome_index);
            }
            anyhow::Ok(outcomes)
        })
    });
    let mut outcomes = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        outcomes.extend(worker.await??);
    }
    outcomes.sort_unstable();
    outcomes.dedup();
    ensure!(outcomes.len() as u64 == count, "expected an outcome for each of {count} calls, found {}", outcomes.len());
    println!("{count} calls: {:.1?} each", begin.elapsed() / u32::try_from(count)?);
    Ok(())
}

#[test]
fn whatever_calls_take_the_agent_answers_and_the_next_call_works() -> anyhow::Result<()> {
    needs_an_image!();
    let image = coffer_tests::host::image_directory().context("COFFER_TEST_IMAGE")?;
    let count = std::env::var("COFFER_TEST_CALLS").map_or(Ok(1_000), |count| count.parse())?;
    let guest = Guest::boot(&Plan::plain(image))?;
    while !matches!(guest.hear(BOOT)?, ToHost::Ready { .. }) {}
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let all = async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("unix:{}", guest.tools()?.display()))?;
        let (tools, asking) = (Tools::new(endpoint.connect().await?), Tools::new(endpoint.connect().await?));
        let longest = Arc::new(AtomicU64::new(0));
        let asking = tokio::spawn(ask(asking, Arc::clone(&longest)));
        let mut begin = Instant::now();
        let mut told = |what: &str| {
            let took = longest.swap(0, Ordering::Relaxed);
            println!("{what}: {:.1?}, the longest answer after {took} ms", begin.elapsed());
            begin = Instant::now();
            ensure!(
                u128::from(took) < ANSWER.as_millis(),
                "expected an answer within 2 s during {what}, found {took} ms"
            );
            Ok(())
        };
        full(&tools).await.context("full")?;
        told("full")?;
        unread(&tools).await.context("unread")?;
        told("unread")?;
        strange(&tools).await.context("strange")?;
        told("strange")?;
        many(&tools, count).await.context("many")?;
        told("many")?;
        ensure!(!asking.is_finished(), "{:?}", asking.await);
        asking.abort();
        anyhow::Ok(())
    };
    runtime.block_on(all).with_context(|| guest.console())
}
