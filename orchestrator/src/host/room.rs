//! Work on a disk that is full: tried again for a while, because somebody may make room. The kernel has no event for that.

use std::error::Error;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Whether this is for want of room, by the innermost cause.
pub(crate) fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What is left of the time that a full disk is waited for.
#[derive(Debug)]
pub(crate) struct Patience {
    what: &'static str,
    until: Instant,
    told: bool,
}

impl Patience {
    /// From now on, for so long.
    pub(crate) fn of(what: &'static str, limit: Duration) -> Self {
        Self { what, until: Instant::now() + limit, told: false }
    }

    /// What to wait for before the next attempt; `None` when the failure has another cause, or the time is over.
    pub(crate) fn pause(&mut self, error: &(dyn Error + 'static)) -> Option<Sleep> {
        let left = self.until.saturating_duration_since(Instant::now());
        if !is_full(error) || left.is_zero() {
            return None;
        }
        if !self.told {
            tracing::error!(what = self.what, ?left, "the disk is full: make room, it is tried again until then");
            self.told = true;
        }
        Some(sleep(PAUSE.min(left)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("it cannot be kept")]
    struct Kept(#[source] io::Error);

    fn of(kind: io::ErrorKind) -> Kept {
        Kept(kind.into())
    }

    async fn attempts(failures: &[io::ErrorKind], limit: u64) -> (usize, bool) {
        let mut patience = Patience::of("a test", Duration::from_secs(limit));
        for (count, kind) in failures.iter().enumerate() {
            match patience.pause(&of(*kind)) {
                Some(pause) => pause.await,
                None => return (count + 1, false),
            }
        }
        (failures.len() + 1, true)
    }

    #[tokio::test]
    async fn a_full_disk_is_waited_for_and_nothing_else_is() {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, StorageFull};
        assert_eq!(attempts(&[], 9).await, (1, true));
        assert_eq!(attempts(&[StorageFull, QuotaExceeded], 9).await, (3, true));
        assert_eq!(attempts(&[StorageFull, PermissionDenied], 9).await, (2, false));
        let (count, done) = attempts(&[StorageFull; 100], 1).await;
        assert!(!done && (2..=4).contains(&count), "{count}");
        assert_eq!(attempts(&[StorageFull], 0).await, (1, false), "without patience once");
    }
}
