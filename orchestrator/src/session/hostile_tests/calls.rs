//! What a hostile guest answers to calls: frames of HTTP/2 as they should never be, and as many as it can.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::Theatre;
use super::stage::{Tools, orderly};
use crate::session::calls::{CallError, GuestCalls};
use crate::session::lifecycle_tests::{SOON, close, closed, create, id, reach};
use crate::session::types::{Outcome, Phase};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`, of the static table.
const OK: &[u8] = &[0x88];
/// `:status: 103`, in letters.
const EARLY: &[u8] = b"\x08\x03103";
/// Frames of a storm.
const STORM: usize = 100_000;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Fails,
    /// It ends as it should, after all.
    Ends,
    /// It waits until the session ends.
    Waits,
}

struct Row {
    name: &'static str,
    call: Call,
    tools: Tools,
}

const fn row(name: &'static str, call: Call, tools: Tools) -> Row {
    Row { name, call, tools }
}

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

/// A header that no table holds.
fn header(length: usize) -> Vec<u8> {
    assert_eq!(length, 120, "its length is one byte");
    [&b"\x00\x01x\x78"[..], &vec![b'y'; length]].concat()
}

struct Peer {
    reader: ReadHalf<UnixStream>,
    writer: WriteHalf<UnixStream>,
}

impl Peer {
    /// Greets, and waits for a call: its stream.
    async fn called(stream: UnixStream) -> Option<(Self, u32)> {
        let (reader, writer) = tokio::io::split(stream);
        let mut peer = Self { reader, writer };
        peer.reader.read_exact(&mut [0; 24]).await.ok()?;
        peer.say(&frame(SETTINGS, 0, 0, &[])).await?;
        loop {
            let mut head = [0; 9];
            peer.reader.read_exact(&mut head).await.ok()?;
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            peer.reader.read_exact(&mut vec![0; length]).await.ok()?;
            if head[3] == HEADERS {
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                return Some((peer, stream));
            }
        }
    }

    async fn say(&mut self, bytes: &[u8]) -> Option<()> {
        self.writer.write_all(bytes).await.ok()
    }

    /// Says these again and again, reading what comes.
    async fn storm(&mut self, frames: &[u8], times: usize) -> Option<()> {
        let Self { reader, writer } = self;
        let many = frames.repeat(64);
        let saying = async {
            for _ in 0..times / 64 {
                writer.write_all(&many).await.ok()?;
            }
            Some(())
        };
        let mut nowhere = tokio::io::sink();
        let hearing = tokio::io::copy(reader, &mut nowhere);
        tokio::pin!(hearing);
        tokio::select! {
            said = saying => said,
            _ = &mut hearing => None,
        }
    }

    /// Answers as it should.
    async fn answer(&mut self, stream: u32) -> Option<()> {
        self.say(&frame(HEADERS, END_HEADERS | END_STREAM, stream, OK)).await
    }

    /// Keeps the connection until the host lets go of it.
    async fn stay(mut self) -> Option<()> {
        drop(tokio::io::copy(&mut self.reader, &mut tokio::io::sink()).await);
        Some(())
    }
}

/// A tool service that says this, again and again, and then answers.
macro_rules! storm {
    ($times:expr, |$stream:ident| $frames:expr) => {
        |connection| {
            Box::pin(async move {
                let Some((mut peer, $stream)) = Peer::called(connection).await else { return };
                let frames: Vec<u8> = $frames;
                if peer.storm(&frames, $times).await.is_some() && peer.answer($stream).await.is_some() {
                    peer.stay().await;
                }
            }) as BoxFuture<'static, ()>
        }
    };
}

/// A tool service that begins with this, then says that without end.
macro_rules! endless {
    (|$stream:pat_param| $first:expr, $rest:expr) => {
        |connection| {
            Box::pin(async move {
                let Some((mut peer, $stream)) = Peer::called(connection).await else { return };
                let (first, rest): (Vec<u8>, Vec<u8>) = ($first, $rest);
                if peer.say(&first).await.is_some() {
                    while peer.storm(&rest, 64).await.is_some() {}
                }
            }) as BoxFuture<'static, ()>
        }
    };
}

const ROWS: &[Row] = &[
    row(
        "headers without end",
        Call::Fails,
        endless!(|s| frame(HEADERS, 0, s, OK), frame(CONTINUATION, 0, s, &header(120))),
    ),
    row(
        "empty continuations without end",
        Call::Fails,
        endless!(|s| frame(HEADERS, 0, s, OK), frame(CONTINUATION, 0, s, &[])),
    ),
    row(
        "trailers without end",
        Call::Fails,
        endless!(
            |s| [frame(HEADERS, END_HEADERS, s, OK), frame(HEADERS, END_STREAM, s, &[])].concat(),
            frame(CONTINUATION, 0, s, &header(120))
        ),
    ),
    row("headers of 128 KiB", Call::Fails, |connection| {
        Box::pin(async move {
            let Some((mut peer, s)) = Peer::called(connection).await else { return };
            let part = header(120).repeat(128);
            let mut wire = frame(HEADERS, 0, s, OK);
            (0..8).for_each(|_| wire.extend(frame(CONTINUATION, 0, s, &part)));
            wire.extend(frame(CONTINUATION, END_HEADERS, s, &[]));
            if peer.say(&wire).await.is_some() && peer.say(&frame(DATA, END_STREAM, s, &[])).await.is_some() {
                peer.stay().await;
            }
        })
    }),
    row(
        "a body beyond its window",
        Call::Fails,
        endless!(|s| frame(HEADERS, END_HEADERS, s, OK), frame(DATA, 0, s, &[7; 16_384])),
    ),
    row(
        "empty pieces of a body without end",
        Call::Fails,
        endless!(|s| frame(HEADERS, END_HEADERS, s, OK), frame(DATA, 0, s, &[])),
    ),
    row(
        "padding without end",
        Call::Fails,
        endless!(|s| frame(HEADERS, END_HEADERS, s, OK), frame(DATA, 8, s, &[&[255][..], &[0; 255]].concat())),
    ),
    row("early answers without end", Call::Waits, endless!(|s| vec![], frame(HEADERS, END_HEADERS, s, EARLY))),
    row(
        "a storm of goodbyes",
        Call::Ends,
        storm!(STORM, |s| frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0])),
    ),
    row(
        "goodbyes with long reasons",
        Call::Ends,
        storm!(1000, |s| frame(GOAWAY, 0, 0, &[&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0][..], &[b'z'; 16_000]].concat())),
    ),
    row("a goodbye that takes streams back", Call::Fails, storm!(STORM, |s| frame(GOAWAY, 0, 0, &[0; 8]))),
    row(
        "a storm of settings",
        Call::Ends,
        storm!(STORM, |s| [
            frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
            frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])
        ]
        .concat()),
    ),
    row("a storm of pings", Call::Ends, storm!(STORM, |s| frame(PING, 0, 0, &[0; 8]))),
    row("a storm of resets", Call::Fails, storm!(STORM, |s| frame(RESET, 0, s, &[0, 0, 0, 8]))),
    row("windows that overflow", Call::Fails, endless!(|_| vec![], frame(WINDOW, 0, 0, &[0x7f, 0xff, 0xff, 0xff]))),
    row("windows of nothing", Call::Fails, endless!(|_| vec![], frame(WINDOW, 0, 0, &[0; 4]))),
    row(
        "a promise to push",
        Call::Fails,
        endless!(|s| vec![], frame(PUSH, END_HEADERS, s, &[0, 0, 0, 2, 0x82, 0x84, 0x87, 0x41, 1, b'x'])),
    ),
    row(
        "a frame longer than allowed",
        Call::Fails,
        endless!(|s| vec![], [&[0xff, 0xff, 0xff, DATA, 0][..], &s.to_be_bytes()].concat()),
    ),
    row("other bytes", Call::Fails, endless!(|_| vec![], b"HTTP/1.1 200 OK\r\n\r\n".to_vec())),
    row(
        "an answer to a call that was not made",
        Call::Fails,
        endless!(|s| vec![], frame(HEADERS, END_HEADERS, s + 100, OK)),
    ),
    row("no stream allowed", Call::Waits, |connection| {
        Box::pin(async move {
            let (reader, writer) = tokio::io::split(connection);
            let mut peer = Peer { reader, writer };
            if peer.say(&frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 0])).await.is_some() {
                peer.stay().await;
            }
        })
    }),
    row("silence", Call::Waits, |connection| {
        Box::pin(async move {
            let _held = connection;
            std::future::pending::<()>().await;
        })
    }),
    row("pings without end, and nothing read", Call::Waits, |connection| {
        Box::pin(async move {
            let Some((mut peer, _)) = Peer::called(connection).await else { return };
            while peer.say(&frame(PING, 0, 0, &[0; 8])).await.is_some() {}
        })
    }),
];

/// One call, its answer not looked at before the guest has had a while to send it.
async fn call(calls: &GuestCalls, ended: impl Future<Output = ()>) -> Call {
    let request = Request::builder().method("POST").uri("http://agent.invalid/x").body(Body::empty()).expect("one");
    let gone = CancellationToken::new();
    let _presence = gone.clone().drop_guard();
    let calling = async {
        let mut body = calls.send(request, gone).await?.into_body();
        // The runtime's others have their turns: the connection's task takes what it takes.
        for _ in 0..2000 {
            tokio::task::yield_now().await;
        }
        while let Some(data) = body.data().await {
            let data: Bytes = data.map_err(CallError::Unknown)?;
            // Nothing is released: what the guest may send is its window.
            drop(data);
        }
        body.trailers().await.map_err(CallError::Unknown)
    };
    tokio::select! {
        answer = calling => if answer.is_ok() { Call::Ends } else { Call::Fails },
        () = ended => Call::Waits,
    }
}

/// Resets each call, at once.
fn refuse(stream: UnixStream) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((_, mut answer))) = connection.accept().await {
            answer.send_reset(h2::Reason::REFUSED_STREAM);
        }
    })
}

pub(super) async fn run(theatre: &Theatre, from: u32) {
    let Theatre { world, vmm, registry } = theatre;
    let mut waiting = Vec::new();
    for (row, n) in ROWS.iter().zip(from..) {
        vmm.set(id(n), orderly, row.tools).send_replace(true);
        create(registry, world, n).await;
    }
    for (row, n) in ROWS.iter().zip(from..) {
        reach(registry, n, Phase::Ready).await;
        let handle = registry.handle(id(n)).expect("open");
        let ended = handle.gate.ended();
        let calls = handle.gate.pass().unwrap_or_else(|shut| panic!("{}: {shut:?}", row.name));
        waiting.push((row, n, tokio::spawn(async move { call(&calls, ended).await })));
    }
    let mut wrong = Vec::new();
    for (row, n, call) in waiting {
        let waits = !call.is_finished();
        if row.call == Call::Waits {
            close(registry, n).await;
        }
        match tokio::time::timeout(SOON, call).await {
            // The guest's end or the session's: whichever is seen first.
            Ok(Ok(_)) if row.call == Call::Waits && waits => {}
            Ok(Ok(found)) if found == row.call => {}
            found => wrong.push(format!("{}: {found:?}", row.name)),
        }
        close(registry, n).await;
        let record = closed(registry, world, n).await;
        // Whatever became of its calls: what is on record is sealed.
        assert_eq!(record.machine.outcome(), Some(Outcome::Sealed), "{}: {record:?}", row.name);
    }
    assert_eq!(wrong, [] as [String; 0]);
    refused_calls(theatre, from + 500).await;
}

async fn refused_calls(Theatre { world, vmm, registry }: &Theatre, n: u32) {
    vmm.set(id(n), orderly, refuse).send_replace(true);
    create(registry, world, n).await;
    reach(registry, n, Phase::Ready).await;
    let calls = registry.handle(id(n)).expect("open").gate.pass().expect("ready");
    let before = super::tasks();
    let begin = std::time::Instant::now();
    for _ in 0..20_000 {
        assert_eq!(call(&calls, std::future::pending()).await, Call::Fails);
        assert!(begin.elapsed() < Duration::from_secs(60), "20,000 calls take too long");
    }
    super::falls_to("tasks of refused calls", super::tasks, before).await;
    drop(calls);
    close(registry, n).await;
    assert_eq!(closed(registry, world, n).await.machine.outcome(), Some(Outcome::Sealed));
}
