//! The sessions of this host: made, found, waited for, closed. Each has its own task; this knows their handles and
//! decides nothing about their lives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coffer_evidence::ids::SessionId;
use coffer_evidence::manifest::Profile;
use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;

use super::admission::{self, Admitted, HostFacts, Known, Refusal, Request};
use super::driver::{self, Birth, Handle};
use super::machine::Timings;
use super::perform::{Host, now};
use super::record::SessionRecord;
use super::types::{Ending, Phase};
use crate::store::{Created, RequestKey, Seen, StoreError};

/// Changes that a watcher may lag behind.
const CHANGES_MAX: usize = 1_024;

/// What the operator sets, in the machine's terms.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) sessions_max: usize,
    pub(crate) boot: Duration,
    pub(crate) seal: Duration,
    pub(crate) scrub: Duration,
    /// The kinds of images that this host can launch.
    pub(crate) serves: Vec<Profile>,
}

/// Why a request about sessions is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the image of the intent cannot be used")]
    Image(#[from] crate::image::ImageError),
    #[error("expected a session of this host, found none with id {0}")]
    Unknown(SessionId),
    #[error("the request id was used before with another body: make a new one")]
    RequestReused,
    #[error("cofferd is shutting down")]
    ShuttingDown,
    #[error("the request cannot be carried out now")]
    Store(#[from] StoreError),
    #[error("a task of cofferd failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Every session of this host.
pub(crate) struct Registry {
    host: Arc<Host>,
    rules: Rules,
    sessions: Mutex<HashMap<SessionId, Handle>>,
    changes: broadcast::Sender<Arc<SessionRecord>>,
    tasks: TaskTracker,
}

impl Registry {
    /// Starts with what the store holds: sessions that an earlier life left open are brought to their end.
    pub(crate) async fn start(host: Arc<Host>, rules: Rules) -> Result<Arc<Self>, StoreError> {
        let registry = Arc::new(Self {
            host,
            rules,
            sessions: Mutex::default(),
            changes: broadcast::Sender::new(CHANGES_MAX),
            tasks: TaskTracker::new(),
        });
        for record in registry.host.store.open().await? {
            tracing::warn!(session = %record.id, phase = %record.machine.phase(), "left open by an earlier life");
            registry.adopt(record, Birth::Restarted);
        }
        Ok(registry)
    }

    /// What this host is made of.
    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    fn adopt(self: &Arc<Self>, record: SessionRecord, birth: Birth) -> Handle {
        let id = record.id;
        let (handle, task) = driver::start(Arc::clone(&self.host), record, birth, self.changes.clone());
        self.lock().insert(id, handle.clone());
        let registry = Arc::downgrade(self);
        self.tasks.spawn(async move {
            task.await;
            // From here on the store alone knows it.
            if let Some(registry) = registry.upgrade() {
                registry.lock().remove(&id);
            }
        });
        handle
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Handle>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handle of a session that is not closed.
    pub(crate) fn handle(&self, id: SessionId) -> Option<Handle> {
        self.lock().get(&id).cloned()
    }

    /// Makes a session, or finds the one that the same request made.
    pub(crate) async fn create(
        self: &Arc<Self>,
        request: Request<'_>,
        key: RequestKey,
    ) -> Result<Arc<SessionRecord>, SessionError> {
        let at = now();
        let host_key = coffer_evidence::sign::PublicKey::of(&self.host.key);
        let admitted = admission::check_intent(request, host_key, at)?;
        let (host, digest) = (Arc::clone(&self.host), admitted.intent.image);
        let image = tokio::task::spawn_blocking(move || host.images.check(digest)).await??;
        let facts = HostFacts {
            image: image.as_ref().map(|image| image.facts()),
            serves: self.rules.serves.clone(),
            // The store decides both again, in one transaction.
            session_known: Known::Never,
            open_sessions: 0,
            sessions_max: self.rules.sessions_max,
        };
        let profile = admission::check_host(&admitted, &facts, at)?;
        let record = SessionRecord::new(&admitted, profile, self.timings(&admitted), at);
        let id = record.id;
        if self.tasks.is_closed() {
            return Err(SessionError::ShuttingDown);
        }
        match self.host.store.create(record.clone(), key, self.rules.sessions_max, at).await? {
            Created::New => {
                let handle = self.adopt(record, Birth::New);
                let shown = handle.view.borrow().clone();
                Ok(shown)
            }
            Created::Again(known) => self.get(known).await,
            Created::RequestReused => Err(SessionError::RequestReused),
            Created::SessionKnown => Err(Refusal::SessionIdReused(id).into()),
            Created::Full => Err(Refusal::HostFull(self.rules.sessions_max).into()),
        }
    }

    fn timings(&self, admitted: &Admitted) -> Timings {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let limits = &admitted.intent.limits;
        Timings {
            reserve: 30_000,
            boot: ms(self.rules.boot),
            verify: 30_000,
            ttl: limits.ttl_s.saturating_mul(1_000),
            ttl_slack: 10_000,
            seal: ms(self.rules.seal),
            power_off: limits.linger_s.saturating_mul(1_000).saturating_add(10_000),
            silence: 10_000,
            stop: 10_000,
            preserve: 30_000,
            scrub: ms(self.rules.scrub),
            receipt: 10_000,
        }
    }

    /// A session, open or closed.
    pub(crate) async fn get(&self, id: SessionId) -> Result<Arc<SessionRecord>, SessionError> {
        if let Some(handle) = self.handle(id) {
            return Ok(handle.view.borrow().clone());
        }
        let found = self.host.store.get(id).await?;
        found.map(Arc::new).ok_or(SessionError::Unknown(id))
    }

    /// Every session, oldest first.
    pub(crate) async fn list(&self) -> Result<Vec<SessionRecord>, SessionError> {
        Ok(self.host.store.list().await?)
    }

    /// The session when it has reached the phase or one after it, or as it is when the time is over.
    pub(crate) async fn wait(
        &self,
        id: SessionId,
        phase: Phase,
        limit: Duration,
    ) -> Result<Arc<SessionRecord>, SessionError> {
        let Some(handle) = self.handle(id) else { return self.get(id).await };
        let mut view = handle.view;
        let reached = async { view.wait_for(|record| record.machine.phase() >= phase).await.ok().map(|r| r.clone()) };
        match tokio::time::timeout(limit, reached).await {
            Ok(Some(record)) => Ok(record),
            // Its task has ended, or the time is over: as it is now.
            Ok(None) | Err(_) => self.get(id).await,
        }
    }

    /// Every change of every session from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Arc<SessionRecord>> {
        self.changes.subscribe()
    }

    /// Begins the end of a session. A closed one stays as it is.
    pub(crate) async fn close(
        &self,
        id: SessionId,
        key: RequestKey,
        ending: Ending,
    ) -> Result<Arc<SessionRecord>, SessionError> {
        self.get(id).await?;
        if self.host.store.remember(key, id, now()).await? == Seen::Reused {
            return Err(SessionError::RequestReused);
        }
        if let Some(handle) = self.handle(id) {
            handle.close(ending);
        }
        self.get(id).await
    }

    /// Closes every session and waits until they are closed, at most so long. Tells how many are not.
    pub(crate) async fn shut_down(&self, ending: Ending, limit: Duration) -> usize {
        self.tasks.close();
        let open: Vec<Handle> = self.lock().values().cloned().collect();
        for handle in &open {
            handle.close(ending);
        }
        drop(tokio::time::timeout(limit, self.tasks.wait()).await);
        self.tasks.len()
    }
}
