//! What a hostile guest says on the control port, and with how many voices.

use coffer_evidence::ids::SessionId;
use coffer_evidence::link::{Frame as _, ToHost};
use coffer_evidence::seal::{ClosedBy, Reason};
use tokio::net::UnixStream;

use super::stage::{Actor, write};
use super::{Ends, Row};
use crate::session::acted::Script;
use crate::session::acted::guest::say;
use crate::session::types::GuestExit;

type Exit = Option<GuestExit>;

/// Says these words from the beginning, and waits.
async fn speak(actor: Actor, words: Vec<ToHost>) -> Exit {
    let mut control = actor.control().await?;
    for word in words {
        say(&mut control, &word).await?;
    }
    std::future::pending().await
}

/// Writes these bytes after hello, and waits.
async fn blurt(actor: Actor, bytes: Vec<u8>) -> Exit {
    let mut control = actor.control().await?;
    say(&mut control, &actor.hello()).await?;
    write(&mut control, &bytes).await?;
    std::future::pending().await
}

/// Is ready, then says these words, and waits.
async fn after_ready(mut actor: Actor, words: impl FnOnce(&mut Actor) -> Vec<ToHost>) -> Exit {
    let mut control = actor.arrive().await?;
    for word in words(&mut actor) {
        say(&mut control, &word).await?;
    }
    std::future::pending().await
}

fn closing() -> ToHost {
    ToHost::Closing { reason: Reason::IdleTimeout, closed_by: ClosedBy::Agent }
}

fn garbage() -> ToHost {
    ToHost::Sealed { seal_map: vec![0xff; 4096], seal_quote: vec![0; 5000], statement: b"{}".to_vec() }
}

/// A frame that says how long it is, and this much of it.
fn framed(length: u32, body: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes(), body].concat()
}

pub(super) const ROWS: &[Row] = &[
    Row::new("hello twice", Ends::Violates, |a| {
        Box::pin(async {
            let words = vec![a.hello(), a.hello()];
            speak(a, words).await
        })
    }),
    Row::new("hello of another session", Ends::Violates, |a| {
        Box::pin(speak(a, vec![ToHost::Hello { session: SessionId::new([9; 16]), agent_svn: 1 }]))
    }),
    Row::new("ready before hello", Ends::Violates, |mut a| {
        Box::pin(async {
            let ready = a.guest.open(Script::Orderly);
            speak(a, vec![ready]).await
        })
    }),
    Row::new("sealed before ready", Ends::Violates, |a| {
        Box::pin(async {
            let words = vec![a.hello(), garbage()];
            speak(a, words).await
        })
    }),
    Row::new("a frame of 4 GiB", Ends::Violates, |a| Box::pin(blurt(a, framed(u32::MAX, b"")))),
    Row::new("a frame one byte too long", Ends::Violates, |a| {
        let length = u32::try_from(ToHost::MAX + 1).expect("small");
        Box::pin(blurt(a, framed(length, b"")))
    }),
    Row::new("an empty frame", Ends::Violates, |a| Box::pin(blurt(a, framed(0, b"")))),
    Row::new("a frame of other bytes", Ends::Violates, |a| Box::pin(blurt(a, framed(4, b"\xff\xff\xff\xff")))),
    Row::new("a failure without end", Ends::Violates, |a| {
        let failed = ToHost::Failed { stage: "boot".to_owned(), detail: "x".repeat(5000) };
        Box::pin(speak(a, vec![failed]))
    }),
    Row::new("half a frame, then silence", Ends::NeverReady, |a| Box::pin(blurt(a, framed(1 << 24, &[0; 1000])))),
    Row::new("half a length, then silence", Ends::NeverReady, |a| Box::pin(blurt(a, vec![1, 0]))),
    Row::new("a thousand silent connections", Ends::NeverReady, |a| {
        Box::pin(async move {
            let _held = crowd(&a, Port::Control, 1000).await;
            std::future::pending().await
        })
    }),
    Row::new("a thousand connections that end", Ends::Violates, |a| {
        Box::pin(async move {
            drop(crowd(&a, Port::Control, 1000).await);
            std::future::pending().await
        })
    }),
    Row::new("an opening that is none", Ends::Violates, |a| {
        let ready = ToHost::Ready { open_map: vec![0xff; 100_000], opening_quote: vec![1; 1 << 20], ccel: None };
        Box::pin(async {
            let words = vec![a.hello(), ready];
            speak(a, words).await
        })
    }),
    Row::new("ready twice", Ends::ViolatesLater, |a| {
        Box::pin(after_ready(a, |a| {
            vec![ToHost::Ready { open_map: vec![1], opening_quote: a.session.as_bytes().to_vec(), ccel: None }]
        }))
    }),
    Row::new("hello again on the same connection", Ends::ViolatesLater, |a| {
        Box::pin(after_ready(a, |a| vec![a.hello()]))
    }),
    Row::new("a seal that is none", Ends::ViolatesLater, |a| Box::pin(after_ready(a, |_| vec![garbage()]))),
    Row::new("closing without end", Ends::ViolatesLater, |a| Box::pin(after_ready(a, |_| vec![closing(); 20]))),
    Row::new("closing, and no seal", Ends::SealsNot, |a| Box::pin(after_ready(a, |_| vec![closing()]))),
    Row::new("half a frame instead of a seal", Ends::SealsNotWhenAsked, |mut a| {
        Box::pin(async move {
            let mut control = a.arrive().await?;
            write(&mut control, &framed(1 << 20, &[0; 70_000])).await?;
            std::future::pending().await
        })
    }),
    Row::new("another story on the second connection", Ends::ViolatesLater, |mut a| {
        Box::pin(async move {
            drop(a.arrive().await?);
            let mut control = a.control().await?;
            say(&mut control, &ToHost::Hello { session: a.session, agent_svn: 2 }).await?;
            std::future::pending().await
        })
    }),
    Row::new("a thousand connections beside a good one", Ends::SealsNotWhenAsked, |mut a| {
        Box::pin(async move {
            // The good one goes, the others stand before it when it comes back.
            drop(a.arrive().await?);
            let _held = crowd(&a, Port::Control, 1000).await;
            std::future::pending().await
        })
    }),
];

#[derive(Clone, Copy)]
pub(super) enum Port {
    Control,
    Record,
}

/// Many connections at once, as many as the host's queue takes.
pub(super) async fn crowd(actor: &Actor, port: Port, count: usize) -> Vec<UnixStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        let connected = match port {
            Port::Control => actor.control().await,
            Port::Record => actor.record().await,
        };
        held.extend(connected);
    }
    held
}
