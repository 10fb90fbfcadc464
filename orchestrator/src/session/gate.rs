//! Whether calls of a session are relayed now. Opened once, when the opening verified; refusing from the wish to close;
//! at the end every call that still runs is told that its outcome is unknown.
//!
//! ```text
//! NotReady ──open──> Open ──refuse──> Refusing ──end──> Ended
//!     └──────────────┴────────────────────┴───────end────┘
//! ```

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::calls::GuestCalls;

/// What a call finds.
#[derive(Clone, Debug)]
enum State {
    NotReady,
    Open(GuestCalls),
    Refusing,
    Ended,
}

/// Why a call is not relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shut {
    NotReady,
    Closing,
    Ended,
}

/// One session's gate.
#[derive(Debug)]
pub(crate) struct Gate {
    state: watch::Sender<State>,
    ended: CancellationToken,
}

impl Gate {
    /// Shut until it is opened.
    pub(crate) fn new() -> Self {
        Self { state: watch::Sender::new(State::NotReady), ended: CancellationToken::new() }
    }

    /// Relays from now on, unless it is shut for good already.
    pub(crate) fn open(&self, calls: GuestCalls) {
        self.state.send_if_modified(|state| {
            let opens = matches!(state, State::NotReady);
            if opens {
                *state = State::Open(calls);
            }
            opens
        });
    }

    /// No new call.
    pub(crate) fn refuse(&self) {
        self.state.send_if_modified(|state| {
            let refuses = matches!(state, State::NotReady | State::Open(_));
            if refuses {
                *state = State::Refusing;
            }
            refuses
        });
    }

    /// No call at all: those that run end with an unknown outcome.
    pub(crate) fn end(&self) {
        self.state.send_replace(State::Ended);
        self.ended.cancel();
    }

    /// The way to the guest, if it is open.
    pub(crate) fn pass(&self) -> Result<GuestCalls, Shut> {
        match &*self.state.borrow() {
            State::Open(calls) => Ok(calls.clone()),
            State::NotReady => Err(Shut::NotReady),
            State::Refusing => Err(Shut::Closing),
            State::Ended => Err(Shut::Ended),
        }
    }

    /// The same, of a session that is ready: after a restart its gate opens as soon as the agent has been reached again.
    pub(crate) async fn pass_within(&self, limit: Duration) -> Result<GuestCalls, Shut> {
        let mut state = self.state.subscribe();
        let decided = state.wait_for(|state| !matches!(state, State::NotReady));
        // Whatever came of it: the look that follows tells.
        drop(tokio::time::timeout(limit, decided).await);
        self.pass()
    }

    /// Ready when calls that run must end.
    pub(crate) fn ended(&self) -> WaitForCancellationFutureOwned {
        self.ended.clone().cancelled_owned()
    }
}
