//! What every call shares: who may call, how many at once, when something last happened, and whether it is over.

use super::exec::known::Known;
use super::limits;
use super::log::Log;
use super::starter::Starter;
use coffer_evidence::ids::Identity;
use coffer_policy::{Counters, IdentityName, Policy, Run};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// An open session.
#[derive(Debug)]
pub struct Session {
    pub(super) log: Log,
    pub(super) starter: Starter,
    pub(super) identities: Vec<Identity>,
    pub(super) policy: Policy,
    /// What the policy's budgets are over. Locked for as long as one decision or one sum takes, never across a wait.
    counters: Mutex<Counters>,
    pub(super) places: Arc<Semaphore>,
    pub(super) execs: Known,
    /// Cancelled once no call is accepted any more.
    pub(super) closing: CancellationToken,
    activity: watch::Sender<Activity>,
    trouble: mpsc::Sender<Trouble>,
}

/// How busy the session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Calls from their first check to their outcome leaf.
    pub running: usize,
    /// When a call last began or ended, or the host asked for more time.
    pub last: Instant,
}

/// What a call can find out that concerns the whole session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The log or the number of calls is used up: seal while there is room.
    LimitReached,
    /// The log cannot go on: power off.
    LogBroken(String),
}

impl Session {
    /// A session, and what it will complain about.
    pub fn new(
        log: Log,
        starter: Starter,
        identities: Vec<Identity>,
        policy: Policy,
    ) -> (Arc<Self>, mpsc::Receiver<Trouble>) {
        let (trouble, troubles) = mpsc::channel(4);
        let activity = watch::Sender::new(Activity { running: 0, last: Instant::now() });
        let places = Arc::new(Semaphore::new(limits::CALLS_AT_ONCE));
        let closing = CancellationToken::new();
        // The names of the intent have the form of the policy's.
        let names = identities.iter().filter_map(|identity| identity.to_string().parse().ok());
        let counters = Mutex::new(Counters::new(names));
        let execs = Known::default();
        let session = Self { log, starter, identities, policy, counters, places, execs, closing, activity, trouble };
        (Arc::new(session), troubles)
    }

    /// Tells the keeper. Once it knows of one trouble, further ones add nothing.
    pub(super) fn report(&self, trouble: Trouble) {
        drop(self.trouble.try_send(trouble));
    }

    /// Restarts the idle time.
    pub fn touch(&self) {
        self.activity.send_modify(|activity| activity.last = Instant::now());
    }

    /// Follows the activity.
    pub fn activity(&self) -> watch::Receiver<Activity> {
        self.activity.subscribe()
    }

    /// Refuses calls from now on. One that has been counted already is waited for by [`Session::quiet`].
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Waits until no call is left.
    pub async fn quiet(&self) {
        // The sender lives in `self`.
        drop(self.activity().wait_for(|activity| activity.running == 0).await);
    }

    /// The counters, until the answer is dropped. They hold whatever panicked while it had them.
    pub(super) fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call for as long as the answer lives.
    pub(super) fn count(self: &Arc<Self>) -> Counted {
        self.activity.send_modify(|activity| {
            activity.running += 1;
            activity.last = Instant::now();
        });
        Counted(self.clone())
    }
}

/// A counted call.
#[derive(Debug)]
pub(super) struct Counted(Arc<Session>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.activity.send_modify(|activity| {
            activity.running -= 1;
            activity.last = Instant::now();
        });
    }
}

/// A call that the policy allowed. However it ends, it is counted as ended.
#[derive(Debug)]
pub(super) struct Allowed {
    session: Arc<Session>,
    identity: IdentityName,
    /// What it took; nothing, unless it ran.
    pub(super) run: Run,
}

impl Allowed {
    /// For a call that the counters know to have begun.
    pub(super) fn new(session: Arc<Session>, identity: IdentityName) -> Self {
        Self { session, identity, run: Run::default() }
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        self.session.counters().ended(&self.identity, self.run);
    }
}

/// Why a session ends, when the agent decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// Its time is over.
    Ttl,
    /// Nothing happened for too long.
    Idle,
}

/// Waits until the session's time is over, or nothing has happened for `idle`. A running call is something.
pub async fn expiry(began: Instant, ttl: Duration, idle: Duration, mut activity: watch::Receiver<Activity>) -> Expired {
    let end = began + ttl;
    loop {
        let now = *activity.borrow_and_update();
        let idle_end = now.last + idle;
        tokio::select! {
            () = tokio::time::sleep_until(end) => return Expired::Ttl,
            () = tokio::time::sleep_until(idle_end), if now.running == 0 => return Expired::Idle,
            changed = activity.changed() => {
                if changed.is_err() {
                    return Expired::Ttl;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn activity(running: usize) -> watch::Sender<Activity> {
        watch::Sender::new(Activity { running, last: Instant::now() })
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_session_expires_and_a_touch_puts_it_off() {
        let (began, activity) = (Instant::now(), activity(0));
        let receiver = activity.subscribe();
        let toucher = tokio::spawn(async move {
            tokio::time::sleep(8 * SECOND).await;
            activity.send_modify(|activity| activity.last = Instant::now());
            std::future::pending::<()>().await;
        });
        assert_eq!(expiry(began, 100 * SECOND, 10 * SECOND, receiver).await, Expired::Idle);
        assert_eq!(began.elapsed(), 18 * SECOND);
        toucher.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_call_is_not_idle_but_the_ttl_ends_it() {
        let (began, activity) = (Instant::now(), activity(1));
        assert_eq!(expiry(began, 100 * SECOND, 10 * SECOND, activity.subscribe()).await, Expired::Ttl);
        assert_eq!(began.elapsed(), 100 * SECOND);
    }
}
