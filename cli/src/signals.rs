//! The user's wish to stop. The first signal is a request to end in good order, the second to leave at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// What has come so far.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    first: Option<i32>,
    last: i32,
    count: u32,
}

/// SIGINT, SIGTERM and SIGHUP, from now on no longer deadly.
#[derive(Clone, Debug)]
pub(crate) struct Interrupts {
    seen: watch::Receiver<Seen>,
}

impl Interrupts {
    /// Takes the signals over.
    pub(crate) fn install() -> anyhow::Result<Self> {
        let (sender, seen) = watch::channel(Seen::default());
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            tokio::spawn(listen(signal(kind)?, kind.as_raw_value(), sender.clone()));
        }
        Ok(Self { seen })
    }

    /// Resolves with the first signal's number.
    pub(crate) async fn first(&self) -> i32 {
        self.after(1).await
    }

    /// Resolves with the first signal's number, at the second signal.
    pub(crate) async fn second(&self) -> i32 {
        self.after(2).await
    }

    /// Resolves when more than that many have come: the last one's number, and how many there are.
    pub(crate) async fn after_count(&self, count: u32) -> (i32, u32) {
        let mut seen = self.seen.clone();
        let last = seen.wait_for(|seen| seen.count > count).await.ok().map(|seen| (seen.last, seen.count));
        match last {
            Some(last) => last,
            // As below.
            None => std::future::pending().await,
        }
    }

    /// The first signal's number, if one has come.
    pub(crate) fn seen(&self) -> Option<i32> {
        self.seen.borrow().first
    }

    async fn after(&self, count: u32) -> i32 {
        let mut seen = self.seen.clone();
        let first = seen.wait_for(|seen| seen.count >= count).await.ok().and_then(|seen| seen.first);
        match first {
            Some(signal) => signal,
            // The listeners live as long as the runtime: without them nothing can come.
            None => std::future::pending().await,
        }
    }
}

async fn listen(mut signal: Signal, number: i32, sender: watch::Sender<Seen>) {
    while signal.recv().await.is_some() {
        sender.send_modify(|seen| {
            seen.first.get_or_insert(number);
            seen.last = number;
            seen.count += 1;
        });
    }
}
