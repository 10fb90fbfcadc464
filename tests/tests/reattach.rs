//! The client library and the agent's service together: calls go on over connections that are cut in the middle of
//! everything. No guest is booted: its notary and its init are threads, its programs are real.

#[path = "../../agent/tests/exec/guest.rs"]
#[allow(dead_code, reason = "the agent's own tests use more of it")]
mod guest;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use coffer_client::calls::{Command, Event, Exec, Notice, Order, Streams, TerminalSize};
use coffer_client::{Client, ClientError};
use coffer_evidence::ids::SessionId;
use coffer_evidence::leaf::CauseClass;
use coffer_proto::guest::v1::{ExitCause, Offsets};
use guest::Guest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(20);

fn command(argv: &[&str]) -> Command {
    Command { argv: argv.iter().map(|&word| word.to_owned()).collect(), ..Command::default() }
}

fn session() -> SessionId {
    SessionId::new([7; 16])
}

/// Between client and service: each connection carries that many bytes, both ways together, and is cut.
struct Cutter {
    socket: PathBuf,
    connections: Arc<AtomicUsize>,
}

impl Cutter {
    fn new(guest: &Guest, most: usize) -> anyhow::Result<Self> {
        let (to, socket) = (guest.socket(), guest.socket().with_extension("cut"));
        let listener = UnixListener::bind(&socket)?;
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::Relaxed);
                // Never twice at the same place.
                tokio::spawn(carry(near, to.clone(), most + 777 * number));
            }
        });
        Ok(Self { socket, connections })
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn carry(near: UnixStream, to: PathBuf, most: usize) -> std::io::Result<()> {
    let far = UnixStream::connect(to).await?;
    let left = Arc::new(AtomicUsize::new(most));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::select! {
        result = one_way(near_read, far_write, &left) => result,
        result = one_way(far_read, near_write, &left) => result,
    }
}

async fn one_way(
    mut from: tokio::net::unix::OwnedReadHalf,
    mut to: tokio::net::unix::OwnedWriteHalf,
    left: &AtomicUsize,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 8192];
    loop {
        let count = from.read(&mut buffer).await?;
        let had = left.fetch_sub(count.min(left.load(Ordering::Relaxed)), Ordering::Relaxed);
        if count == 0 || had < count {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
    }
}

/// The next event, which comes soon.
async fn next(exec: &mut Exec) -> Result<Event, ClientError> {
    tokio::time::timeout(SOON, exec.next()).await.expect("an event")
}

async fn client(socket: &Path) -> anyhow::Result<Client> {
    Ok(Client::connect(socket, Duration::ZERO).await?)
}

#[tokio::test]
async fn input_and_output_are_whole_and_in_order_however_often_the_connection_is_cut() -> anyhow::Result<()> {
    let guest = Guest::new().await;
    let cutter = Cutter::new(&guest, 700_000)?;
    let client = client(&cutter.socket).await?;
    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n * 13 % 251) as u8).collect();
    let mut exec = Exec::new(&client, &session(), command(&["sh", "-c", "tee /dev/stderr"]))?;
    let (stdout, mut out) = tokio::io::duplex(1 << 16);
    let (stderr, mut err) = tokio::io::duplex(1 << 16);
    let gather = tokio::spawn(async move {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        tokio::try_join!(out.read_to_end(&mut a), err.read_to_end(&mut b))?;
        anyhow::Ok((a, b))
    });
    let (_orders, mut orders) = mpsc::channel(1);
    let (mut lost, mut missing) = (0, 0);
    let streams = Streams { stdin: sent.as_slice(), stdout, stderr };
    let run = exec.run(streams, &mut orders, |notice| match notice {
        Notice::Lost(_) => lost += 1,
        Notice::Back => {}
        Notice::Missing(_) => missing += 1,
    });
    let exited = tokio::time::timeout(6 * SOON, run).await??;
    ensure!((exited.cause(), exited.code) == (ExitCause::Exited, 0), "{exited:?}");
    let (a, b) = gather.await??;
    ensure!(a == sent && b == sent, "{} and {} bytes of {}", a.len(), b.len(), sent.len());
    ensure!(lost > 5 && missing == 0 && cutter.connections() > 5, "{lost} lost, {missing} missing");
    let stdout = exited.stdout.context("a stream")?;
    ensure!((stdout.bytes_total, stdout.bytes_delivered) == (4_000_000, 4_000_000), "{stdout:?}");
    ensure!(guest.intents() == 1, "it ran {} times", guest.intents());
    Ok(())
}

#[tokio::test]
async fn a_tool_runner_re_attaches_where_it_was_and_another_program_does_with_the_ticket() -> anyhow::Result<()> {
    let guest = Guest::new().await;
    let client = client(&guest.socket()).await?;
    let script = "echo one; while read line; do echo got $line; done; echo end";
    let mut exec = Exec::start(&client, &session(), command(&["sh", "-c", script])).await?;
    let started = next(&mut exec).await?;
    ensure!(matches!(started, Event::Started(_)) && exec.intent().is_some(), "{started:?}");
    ensure!(next(&mut exec).await? == Event::Stdout("one\n".into()));
    exec.write(b"a\n");
    while exec.offsets().stdout < 10 {
        next(&mut exec).await?;
    }
    exec.reattach().await?;
    exec.write(b"b\n");
    while exec.offsets().stdout < 16 {
        let event = next(&mut exec).await?;
        ensure!(!matches!(event, Event::Started(_)), "started is told once");
    }
    // Elsewhere: from its beginning, as far as that is kept.
    let mut other = Exec::resume(&client, &session(), &exec.ticket(), Offsets::default())?;
    ensure!(other.call_id() == exec.call_id());
    other.reattach().await?;
    // What the first had when it re-attached is kept no longer; to ask for it changes nothing.
    let gone = match next(&mut other).await {
        Err(error) => error,
        Ok(event) => anyhow::bail!("expected to be told what is gone, found {event:?}"),
    };
    ensure!(other.skip(&gone) == Some(Offsets { stdout: 10, stderr: 0 }), "{gone}");
    exec.write(b"c\n");
    while exec.offsets().stdout < 22 {
        next(&mut exec).await?;
    }
    other.reattach().await?;
    let gone = match next(&mut exec).await {
        Err(error) => error,
        Ok(event) => anyhow::bail!("expected to be told of the other, found {event:?}"),
    };
    ensure!(gone.reason() == Some("ATTACHED_ELSEWHERE") && !gone.is_lost(), "{gone}");
    other.end_input();
    let (mut out, mut last) = (Vec::new(), None);
    while last.is_none() {
        match next(&mut other).await? {
            Event::Stdout(data) => out.extend_from_slice(&data),
            Event::Exited(exited) => last = Some(exited),
            _ => {}
        }
    }
    ensure!(out == b"got b\ngot c\nend\n", "{}", String::from_utf8_lossy(&out));
    ensure!(guest.intents() == 1);
    Ok(())
}

#[tokio::test]
async fn orders_reach_a_program_on_a_terminal() -> anyhow::Result<()> {
    let guest = Guest::new().await;
    let client = client(&guest.socket()).await?;
    let script = "trap 'stty size; exit 9' WINCH; stty size; while :; do sleep 0.05; done";
    let terminal = Some(TerminalSize { rows: 12, columns: 34 });
    let mut exec = Exec::new(&client, &session(), Command { terminal, ..command(&["sh", "-c", script]) })?;
    let (orders, mut given) = mpsc::channel(4);
    let (stdout, mut out) = tokio::io::duplex(1 << 16);
    let watch = tokio::spawn(async move {
        let mut shown = String::new();
        let mut buffer = [0; 1024];
        loop {
            let count = out.read(&mut buffer).await?;
            if count == 0 {
                return anyhow::Ok(shown);
            }
            let before = shown.contains("12 34");
            shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
            if !before && shown.contains("12 34") {
                orders.send(Order::Resize(TerminalSize { rows: 56, columns: 78 })).await?;
            }
        }
    });
    let streams = Streams { stdin: tokio::io::empty(), stdout, stderr: tokio::io::sink() };
    let exited = tokio::time::timeout(SOON, exec.run(streams, &mut given, |_| {})).await??;
    ensure!(exited.code == 9, "{exited:?}");
    let shown = watch.await??;
    ensure!(shown.contains("56 78"), "{shown}");
    Ok(())
}

#[tokio::test]
async fn a_cancellation_survives_the_connection_that_it_was_said_on() -> anyhow::Result<()> {
    let guest = Guest::new().await;
    let client = client(&guest.socket()).await?;
    let mut exec = Exec::start(&client, &session(), command(&["sleep", "1000"])).await?;
    next(&mut exec).await?;
    exec.order(Order::Cancel);
    // Said to nobody: the connection goes first.
    exec.reattach().await?;
    let event = next(&mut exec).await?;
    ensure!(matches!(&event, Event::Exited(exited) if exited.cause() == ExitCause::Cancelled), "{event:?}");
    Ok(())
}

#[tokio::test]
async fn an_order_is_given_though_nobody_takes_the_output() -> anyhow::Result<()> {
    let guest = Guest::new().await;
    let client = client(&guest.socket()).await?;
    let mut exec = Exec::new(&client, &session(), command(&["yes"]))?;
    let (orders, mut given) = mpsc::channel(1);
    // Takes a little, and then nothing any more.
    let (stdout, mut out) = tokio::io::duplex(1000);
    let held = tokio::spawn(async move {
        out.read_exact(&mut [0; 1000]).await?;
        // Until every window on the way is full: that nothing moves any more is no event.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        orders.send(Order::Cancel).await?;
        anyhow::Ok((out, orders))
    });
    let streams = Streams { stdin: tokio::io::empty(), stdout, stderr: tokio::io::sink() };
    let run = exec.run(streams, &mut given, |_| {});
    let ended = async {
        guest.until_outcomes(1).await;
        guest.outcomes()
    };
    let outcomes = tokio::select! {
        result = run => anyhow::bail!("expected it to wait for its output, found {result:?}"),
        outcomes = ended => outcomes,
    };
    ensure!(outcomes == [CauseClass::Cancelled], "{outcomes:?}");
    drop(held.await??);
    Ok(())
}
