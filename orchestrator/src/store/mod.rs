//! The store: sessions, the journal of their steps, requests seen, and the numbers that are handed out once. A port,
//! because one host keeps it in a file and many hosts will share it.

pub(crate) mod embedded;
mod file;
pub(crate) mod vault;

use coffer_evidence::ids::SessionId;
use futures_util::future::BoxFuture;

use crate::session::record::{SessionRecord, Step};
use crate::session::types::Timestamp;

/// How long a request id is remembered, in milliseconds: 24 h.
pub(crate) const REQUEST_MEMORY_MS: u64 = 24 * 3_600 * 1_000;

/// A mutation as its sender names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestKey {
    /// UUID text, made by the client.
    pub(crate) id: String,
    /// SHA-256 over method and body, hex.
    pub(crate) digest: String,
}

/// Whether a request was seen before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Never, and from now on it is.
    First,
    /// The same, for this session.
    Again(SessionId),
    /// The id with another body.
    Reused,
}

/// What came of a wish to create a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// It is in the journal.
    New,
    /// The same request made this session before.
    Again(SessionId),
    /// The request id was used with another body.
    RequestReused,
    /// Another request made a session with this id.
    SessionKnown,
    /// As many sessions are open as may be.
    Full,
}

/// The range that sessions' uids are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UidRange {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// What a session got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) cid: u32,
    pub(crate) uid: Option<u32>,
}

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the store failed: is the disk full or read-only?")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the store holds a record of another version or a damaged one: {0}")]
    Record(String),
    #[error(
        "expected the store {} to be a database of cofferd, found {found}: restore it, or move it away and with it all \
         that this host knows of its sessions",
        path.display()
    )]
    Form { path: std::path::PathBuf, found: String },
    #[error(
        "expected the store {} to have format {expected}, found {found}: run the cofferd that wrote it, or move it away \
         and with it all that this host knows of its sessions",
        path.display()
    )]
    Format { path: std::path::PathBuf, expected: u32, found: u32 },
    #[error(
        "expected to read every record of the store {}, found one of another version or a damaged one ({why}): run the \
         cofferd that wrote it, or move it away and with it all that this host knows of its sessions",
        path.display()
    )]
    Unreadable { path: std::path::PathBuf, why: String },
    #[error("every uid of the configured range is in use: widen vmm.uid_count, or close sessions")]
    NoUid,
    #[error("a transaction was not committed: {0}")]
    NotCommitted(String),
    #[error("the store has stopped")]
    Stopped,
}

/// Every mutation is durable when its future is ready.
pub(crate) trait Store: Send + Sync {
    /// Makes a session, unless request or session id are known or `open_max` sessions are open.
    fn create(
        &self,
        record: SessionRecord,
        request: RequestKey,
        open_max: usize,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Created, StoreError>>;

    /// Replaces a session's record and appends the step that led there.
    fn commit(&self, record: SessionRecord, step: Step) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Hands out a context id that was not used since the host booted, and a uid that no open session has.
    fn reserve(
        &self,
        session: SessionId,
        uids: Option<UidRange>,
        boot_id: String,
        seed: u32,
    ) -> BoxFuture<'_, Result<Reservation, StoreError>>;

    /// Remembers a request about a session.
    fn remember(
        &self,
        request: RequestKey,
        session: SessionId,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Seen, StoreError>>;

    /// One session.
    fn get(&self, id: SessionId) -> BoxFuture<'_, Result<Option<SessionRecord>, StoreError>>;

    /// Every session, oldest first.
    fn list(&self) -> BoxFuture<'_, Result<Vec<SessionRecord>, StoreError>>;

    /// The sessions that are not closed.
    fn open(&self) -> BoxFuture<'_, Result<Vec<SessionRecord>, StoreError>>;
}
