//! Collateral from a service: Intel's, or one that caches what Intel's says. The quote at hand says what to ask for; what is
//! answered is verified together with it before it is kept or used, so a service can withhold and do nothing else.
//!
//! ```text
//! quote ─> platform ─> kept set ── verifies, young ──────────────────────────────────────────────> used
//!                        │ none, damaged, old           ┌─ verifies, not older than the kept ─> kept, used
//!                        └──> asked, one at a time ─────┤
//!                             for each platform         └─ anything else ─> kept set while it verifies, with a warning
//!                                                                           └─ none: a named error
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coffer_evidence::collateral::Collateral;
use coffer_evidence::verify::{Moment, Padding, QuoteRefusal, StatedPlatform, TrustAnchor, verify_quote};
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::address::{Part, ServiceUrl};
use super::answers::{AnswerError, Answers};
use super::https::{Deadline, TransportError, get, words};
use super::roots::{Roots, RootsError};
use super::shelf::{Kept, Shelf};
use super::{EndorsementsError, Source};
use crate::host::blocking::blocking;

/// How old a kept set may be before the service is asked for a newer one. Intel's are good for 30 days, but a revocation should not
/// wait so long.
const REFRESH_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// How long before its end a kept set counts as old.
const MARGIN: Duration = Duration::from_secs(3_600);
/// Kinds of platforms that are asked for at once. The certificate that states one may be a hostile guest's.
const PLATFORMS_MAX: usize = 8;

/// Time limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For all answers of a set together. Less than what is left of a phase that waits for it.
    pub(super) answers: Duration,
    /// How long a service that did not serve is left alone.
    pub(super) retry: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { answers: Duration::from_secs(15), retry: Duration::from_secs(30) }
    }
}

/// Why a service gave no collateral.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    #[error("expected a quote of a TDX platform under the trust anchor, to ask for its collateral")]
    Quote(#[source] QuoteRefusal),
    #[error(
        "expected at most {PLATFORMS_MAX} kinds of platforms on this host, found one more: its collateral is not asked for"
    )]
    Platforms,
    #[error(transparent)]
    Roots(#[from] RootsError),
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("expected collateral from {service} under which the quote holds, found a set that does not verify: {why}")]
    Refused { service: String, why: String },
    #[error(
        "expected collateral from {service}, which did not serve a moment ago and is left alone for {wait:?}: {why}"
    )]
    Lately { service: String, wait: Duration, why: String },
    #[error("the work on collateral ended: {0}")]
    Ended(String),
}

impl ServiceError {
    /// Whether the service is to blame, whatever quote came with the question.
    fn is_of_the_service(&self) -> bool {
        match self {
            ServiceError::Roots(_) | ServiceError::Transport(_) | ServiceError::Answer(_) => true,
            ServiceError::Quote(_)
            | ServiceError::Platforms
            | ServiceError::Refused { .. }
            | ServiceError::Lately { .. }
            | ServiceError::Ended(_) => false,
        }
    }
}

/// Asks the service at an address.
pub(crate) struct CollateralService {
    url: ServiceUrl,
    roots: Roots,
    shelf: Shelf,
    anchor: TrustAnchor,
    limits: Limits,
    /// Unix seconds.
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
    platforms: Mutex<HashMap<StatedPlatform, Arc<Asking>>>,
}

/// What is under way for one platform.
struct Asking {
    /// One question at a time; whoever waits finds its answer on the shelf.
    turn: Semaphore,
    failed: Mutex<Option<(Instant, String)>>,
}

/// A kept set that verifies with the quote at hand, now.
struct Standing {
    kept: Kept,
    dates: Dates,
}

/// Of a set that verifies, unix seconds.
#[derive(Clone, Copy)]
struct Dates {
    issued: u64,
    ends: u64,
}

impl CollateralService {
    /// `clock` gives unix seconds.
    pub(crate) fn new(
        url: ServiceUrl,
        roots: Roots,
        shelf: Shelf,
        anchor: TrustAnchor,
        limits: Limits,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self { url, roots, shelf, anchor, limits, clock: Box::new(clock), platforms: Mutex::default() }
    }

    /// The set for a quote's platform.
    async fn set(&self, quote: &[u8]) -> Result<Collateral, ServiceError> {
        let platform = StatedPlatform::of(quote, &self.anchor).map_err(ServiceError::Quote)?;
        let asking = self.asking(platform)?;
        let _turn = asking.turn.acquire().await;
        let now = (self.clock)();
        let standing = self.standing(platform, quote, now).await?;
        if let Some(standing) = standing.as_ref().filter(|standing| standing.is_young(now)) {
            return Ok(standing.kept.set.clone());
        }
        if let Some(why) = asking.failed_lately(self.limits.retry) {
            let lately = || ServiceError::Lately { service: self.url.to_string(), wait: self.limits.retry, why };
            return standing.map(|standing| standing.kept.set).ok_or_else(lately);
        }
        match self.fetched(platform, quote, now, standing.as_ref()).await {
            Ok(set) => {
                asking.note(None);
                Ok(set)
            }
            Err(error) => {
                let why = told(&error);
                if standing.is_some() || error.is_of_the_service() {
                    asking.note(Some(why.clone()));
                }
                let standing = standing.ok_or(error)?;
                let (service, fetched, ends) = (&self.url, standing.kept.fetched, standing.dates.ends);
                tracing::warn!(%service, why, fetched, ends, "no newer collateral: the kept set is used, which still holds");
                Ok(standing.kept.set)
            }
        }
    }

    /// Where the questions for a platform take turns.
    fn asking(&self, platform: StatedPlatform) -> Result<Arc<Asking>, ServiceError> {
        let mut platforms = self.platforms.lock().unwrap_or_else(PoisonError::into_inner);
        if !platforms.contains_key(&platform) && platforms.len() >= PLATFORMS_MAX {
            platforms.retain(|_, asking| Arc::strong_count(asking) > 1);
            if platforms.len() >= PLATFORMS_MAX {
                return Err(ServiceError::Platforms);
            }
        }
        let new = || Arc::new(Asking { turn: Semaphore::new(1), failed: Mutex::default() });
        Ok(Arc::clone(platforms.entry(platform).or_insert_with(new)))
    }

    /// The kept set, where there is one that verifies.
    async fn standing(
        &self,
        platform: StatedPlatform,
        quote: &[u8],
        now: u64,
    ) -> Result<Option<Standing>, ServiceError> {
        let shelf = self.shelf.clone();
        let kept = match blocking(move || shelf.read(&platform)).await.map_err(ServiceError::Ended)? {
            Ok(Some(kept)) => kept,
            Ok(None) => return Ok(None),
            Err(error) => {
                let path = self.shelf.file(&platform);
                tracing::warn!(path = %path.display(), %error, "kept collateral cannot be used: it is fetched anew");
                return Ok(None);
            }
        };
        match self.dates(quote, &kept.set, now).await? {
            Ok(dates) => Ok(Some(Standing { kept, dates })),
            Err(refusal) => {
                let path = self.shelf.file(&platform);
                let why = words(&refusal.to_string());
                tracing::info!(path = %path.display(), why, "kept collateral does not hold: it is fetched anew");
                Ok(None)
            }
        }
    }

    /// Has the verifier judge a set with the quote, at `now`.
    async fn dates(
        &self,
        quote: &[u8],
        set: &Collateral,
        now: u64,
    ) -> Result<Result<Dates, QuoteRefusal>, ServiceError> {
        let (quote, set, anchor) = (quote.to_vec(), set.clone(), [self.anchor.clone()]);
        let verifying = blocking(move || verify_quote(&quote, &set, &anchor, Moment::At(now), Padding::Zeros));
        let verified = verifying.await.map_err(ServiceError::Ended)?;
        Ok(verified.map(|quote| Dates { issued: quote.as_of(), ends: quote.expires() }))
    }

    /// Asks, verifies, and keeps.
    async fn fetched(
        &self,
        platform: StatedPlatform,
        quote: &[u8],
        now: u64,
        standing: Option<&Standing>,
    ) -> Result<Collateral, ServiceError> {
        let set = self.ask(platform).await?;
        let refused = |why: String| ServiceError::Refused { service: self.url.to_string(), why };
        let dates = self.dates(quote, &set, now).await?.map_err(|refusal| refused(words(&refusal.to_string())))?;
        // Of two that hold the newer one may revoke what the older does not.
        if standing.is_some_and(|standing| standing.dates.issued > dates.issued) {
            return Err(refused("it was issued before the set that is kept".to_owned()));
        }
        let (shelf, copy) = (self.shelf.clone(), set.clone());
        let written = blocking(move || shelf.write(&platform, &copy, now)).await.map_err(ServiceError::Ended)?;
        if let Err(error) = written {
            let path = self.shelf.file(&platform);
            tracing::warn!(path = %path.display(), %error, "collateral is used and cannot be kept");
        }
        Ok(set)
    }

    async fn ask(&self, platform: StatedPlatform) -> Result<Collateral, ServiceError> {
        let deadline = Deadline::after(self.limits.answers);
        let roots = self.roots.clone();
        // Read anew each time: it is seldom, and a file that was exchanged counts at once.
        let trust = match self.url.is_https() {
            true => Some(blocking(move || roots.load()).await.map_err(ServiceError::Ended)??),
            false => None,
        };
        let part = |part| {
            let (place, trust) = (self.url.place(part, &platform), trust.as_ref());
            async move { get(part, &place, trust, deadline).await }
        };
        let (pck_list, root_list, tcb_info, qe_identity) =
            tokio::try_join!(part(Part::PckList), part(Part::RootList), part(Part::TcbInfo), part(Part::QeIdentity),)?;
        Ok(Answers { pck_list, root_list, tcb_info, qe_identity }.into_set()?)
    }
}

impl Source for CollateralService {
    fn current<'a>(&'a self, quote: &'a [u8]) -> BoxFuture<'a, Result<Collateral, EndorsementsError>> {
        Box::pin(async { Ok(self.set(quote).await?) })
    }
}

impl Standing {
    fn is_young(&self, now: u64) -> bool {
        // A set from the future was fetched by a clock that was wrong.
        let age = now.checked_sub(self.kept.fetched);
        age.is_some_and(|age| age < REFRESH_AFTER.as_secs()) && self.dates.ends > now.saturating_add(MARGIN.as_secs())
    }
}

impl Asking {
    fn failed_lately(&self, wait: Duration) -> Option<String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().filter(|(at, _)| at.elapsed() < wait).map(|(_, why)| why.clone())
    }

    fn note(&self, failure: Option<String>) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed = failure.map(|why| (Instant::now(), why));
    }
}

/// An error with its cause. Neither is longer than our own words and what is left of a peer's.
fn told(error: &ServiceError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
