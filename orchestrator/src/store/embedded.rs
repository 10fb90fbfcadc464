//! The store of one host: a redb file. One writer thread gathers what is waiting into one transaction, so that many
//! sessions share one flush; readers do not wait for it.

use std::path::Path;
use std::sync::{Arc, mpsc};

use coffer_evidence::ids::SessionId;
use futures_util::future::BoxFuture;
use redb::{ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::file::StoreFile;
use super::{Created, REQUEST_MEMORY_MS, RequestKey, Reservation, Seen, Store, StoreError, UidRange};
use crate::session::perform::chain;
use crate::session::record::{SessionRecord, Step};
use crate::session::types::Timestamp;

pub(super) const SESSIONS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("sessions");
/// (session, number of the step) → step.
const JOURNAL: TableDefinition<'_, (&[u8], u64), &[u8]> = TableDefinition::new("journal");
/// Sessions that are not closed → uid, 0 for none.
const OPEN: TableDefinition<'_, &[u8], u32> = TableDefinition::new("open");
/// (moment of its end, session) → nothing: what to forget next.
const CLOSED: TableDefinition<'_, (u64, &[u8]), ()> = TableDefinition::new("closed");
/// uid → host boot in which it was left with something of a session: not handed out again in that boot.
const QUARANTINE: TableDefinition<'_, u32, &str> = TableDefinition::new("quarantine");
const REQUESTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("requests");
/// (moment, request id) → nothing: what to forget next.
const REQUEST_AGE: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("request_age");
pub(super) const NUMBERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("numbers");

/// The smallest context id that is handed out.
const CID_FIRST: u32 = 4_096;
/// Starts are drawn below this, so that more CIDs follow than a host can use in one boot.
const CID_START_MAX: u32 = 1 << 30;
/// Closed sessions that are remembered; older ones are forgotten with their journal. Their evidence stays where it is.
pub(crate) const CLOSED_MAX: u64 = 10_000;
/// The most writes in one transaction.
const BATCH_MAX: usize = 256;

type Work = Box<dyn FnOnce(&WriteTransaction) -> Result<Answer, StoreError> + Send>;
type Answer = Box<dyn FnOnce() + Send>;

/// One write: what it does, and whom to tell when the transaction did not happen.
struct Job {
    work: Work,
    failed: Box<dyn FnOnce(&str) + Send>,
}

#[derive(Serialize, Deserialize)]
struct StoredRequest {
    digest: String,
    session: String,
}

#[derive(Serialize, Deserialize)]
struct Cids {
    boot_id: String,
    next: u32,
}

/// Every table, made if it is not there.
pub(super) fn make_tables(transaction: &WriteTransaction) -> Result<(), StoreError> {
    transaction.open_table(SESSIONS).map_err(backend)?;
    transaction.open_table(JOURNAL).map_err(backend)?;
    transaction.open_table(OPEN).map_err(backend)?;
    transaction.open_table(CLOSED).map_err(backend)?;
    transaction.open_table(QUARANTINE).map_err(backend)?;
    transaction.open_table(REQUESTS).map_err(backend)?;
    transaction.open_table(REQUEST_AGE).map_err(backend)?;
    transaction.open_table(NUMBERS).map_err(backend)?;
    Ok(())
}

/// A redb file and its writer thread, which ends when this is dropped.
pub(crate) struct EmbeddedStore {
    file: Arc<StoreFile>,
    jobs: mpsc::Sender<Job>,
    boot_id: Arc<str>,
    closed_max: u64,
}

pub(super) fn backend(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Backend(Box::new(error.into()))
}

pub(super) fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Record(error.to_string()))
}

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Maps with text keys and plain values: serialising cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

impl EmbeddedStore {
    /// Opens the file, or makes it. `boot_id` names this boot of the host.
    pub(crate) fn open_file(path: &Path, boot_id: &str) -> Result<Self, StoreError> {
        Self::open_bounded(path, boot_id, CLOSED_MAX)
    }

    fn open_bounded(path: &Path, boot_id: &str, closed_max: u64) -> Result<Self, StoreError> {
        let file = Arc::new(StoreFile::open(path)?);
        let (jobs, queue) = mpsc::channel();
        let writer = Arc::clone(&file);
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_batches(&writer, &queue))
            .map_err(|error| StoreError::Backend(Box::new(error)))?;
        Ok(Self { file, jobs, boot_id: boot_id.into(), closed_max })
    }

    /// Queues one write and waits for the transaction it ends up in.
    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let (reply, answer) = oneshot::channel::<Result<T, StoreError>>();
        let reply = Arc::new(std::sync::Mutex::new(Some(reply)));
        let take = |reply: &std::sync::Mutex<Option<oneshot::Sender<_>>>| {
            reply.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
        };
        let for_failure = Arc::clone(&reply);
        let job = Job {
            work: Box::new(move |transaction| {
                let value = work(transaction)?;
                Ok(Box::new(move || {
                    if let Some(reply) = take(&reply) {
                        let _ = reply.send(Ok(value));
                    }
                }))
            }),
            failed: Box::new(move |why| {
                if let Some(reply) = take(&for_failure) {
                    let _ = reply.send(Err(StoreError::NotCommitted(why.to_owned())));
                }
            }),
        };
        let sent = self.jobs.send(job);
        Box::pin(async move {
            sent.map_err(|_| StoreError::Stopped)?;
            answer.await.map_err(|_| StoreError::Stopped)?
        })
    }

    fn read<T>(&self, work: impl FnOnce(&redb::ReadTransaction) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.file.with(|database| work(&database.begin_read().map_err(backend)?))
    }
}

fn write_batches(file: &StoreFile, queue: &mpsc::Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX {
            match queue.try_recv() {
                Ok(job) => batch.push(job),
                Err(_) => break,
            }
        }
        write_batch(file, batch);
    }
}

/// All of the batch, or nothing of it.
fn write_batch(file: &StoreFile, batch: Vec<Job>) {
    let mut answers = Vec::with_capacity(batch.len());
    let mut failures = Vec::with_capacity(batch.len());
    let works: Vec<Work> = batch.into_iter().map(|Job { work, failed }| (failures.push(failed), work).1).collect();
    let outcome = file.with(|database| {
        let transaction = database.begin_write().map_err(backend)?;
        for work in works {
            answers.push(work(&transaction)?);
        }
        transaction.commit().map_err(backend)
    });
    match outcome {
        Ok(()) => answers.into_iter().for_each(|answer| answer()),
        Err(error) => {
            let why = chain(&error);
            tracing::error!(error = why, "a transaction failed");
            failures.into_iter().for_each(|failed| failed(&why));
        }
    }
}

fn put_session(transaction: &WriteTransaction, record: &SessionRecord, step: Option<&Step>) -> Result<(), StoreError> {
    let key: &[u8] = record.id.as_bytes();
    let mut sessions = transaction.open_table(SESSIONS).map_err(backend)?;
    sessions.insert(key, encode(record).as_slice()).map_err(backend)?;
    let mut open = transaction.open_table(OPEN).map_err(backend)?;
    if record.is_closed() {
        open.remove(key).map_err(backend)?;
    } else {
        open.insert(key, record.uid.unwrap_or(0)).map_err(backend)?;
    }
    if let Some(step) = step {
        let mut journal = transaction.open_table(JOURNAL).map_err(backend)?;
        let last = journal
            .range((key, 0)..=(key, u64::MAX))
            .map_err(backend)?
            .next_back()
            .transpose()
            .map_err(backend)?
            .map(|(k, _)| k.value().1);
        let number = last.map_or(0, |n| n.saturating_add(1));
        journal.insert((key, number), encode(step).as_slice()).map_err(backend)?;
    }
    Ok(())
}

/// Keeps the uid of a session that could not be cleaned up, and forgets the sessions that ended longest ago.
fn end_session(
    transaction: &WriteTransaction,
    record: &SessionRecord,
    at: Timestamp,
    boot_id: &str,
    closed_max: u64,
) -> Result<(), StoreError> {
    if let Some(uid) = record.uid.filter(|_| !record.machine.scrub_failures().is_empty()) {
        let mut quarantine = transaction.open_table(QUARANTINE).map_err(backend)?;
        quarantine.insert(uid, boot_id).map_err(backend)?;
    }
    let mut closed = transaction.open_table(CLOSED).map_err(backend)?;
    closed.insert((at.0, record.id.as_bytes().as_slice()), ()).map_err(backend)?;
    let mut sessions = transaction.open_table(SESSIONS).map_err(backend)?;
    let mut journal = transaction.open_table(JOURNAL).map_err(backend)?;
    while closed.len().map_err(backend)? > closed_max {
        let Some((key, _)) = closed.pop_first().map_err(backend)? else { break };
        let (_, id) = key.value();
        sessions.remove(id).map_err(backend)?;
        journal.retain_in((id, 0)..=(id, u64::MAX), |_, _| false).map_err(backend)?;
    }
    Ok(())
}

fn seen(transaction: &WriteTransaction, request: &RequestKey, now: Timestamp) -> Result<Seen, StoreError> {
    forget_old(transaction, now)?;
    let requests = transaction.open_table(REQUESTS).map_err(backend)?;
    let Some(found) = requests.get(request.id.as_str()).map_err(backend)? else { return Ok(Seen::First) };
    let stored: StoredRequest = decode(found.value())?;
    if stored.digest != request.digest {
        return Ok(Seen::Reused);
    }
    stored.session.parse().map(Seen::Again).map_err(|_| StoreError::Record("a session id".to_owned()))
}

fn remember(
    transaction: &WriteTransaction,
    request: &RequestKey,
    session: SessionId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let stored = StoredRequest { digest: request.digest.clone(), session: session.to_string() };
    let mut requests = transaction.open_table(REQUESTS).map_err(backend)?;
    requests.insert(request.id.as_str(), encode(&stored).as_slice()).map_err(backend)?;
    let mut ages = transaction.open_table(REQUEST_AGE).map_err(backend)?;
    ages.insert((now.0, request.id.as_str()), ()).map_err(backend)?;
    Ok(())
}

fn forget_old(transaction: &WriteTransaction, now: Timestamp) -> Result<(), StoreError> {
    let before = now.0.saturating_sub(REQUEST_MEMORY_MS);
    let mut ages = transaction.open_table(REQUEST_AGE).map_err(backend)?;
    let mut requests = transaction.open_table(REQUESTS).map_err(backend)?;
    let mut old = Vec::new();
    for entry in ages.range(..(before, "")).map_err(backend)? {
        let (key, ()) = entry.map(|(k, v)| (k, v.value())).map_err(backend)?;
        let (at, id) = key.value();
        old.push((at, id.to_owned()));
    }
    for (at, id) in old {
        ages.remove((at, id.as_str())).map_err(backend)?;
        requests.remove(id.as_str()).map_err(backend)?;
    }
    Ok(())
}

fn next_cid(transaction: &WriteTransaction, boot_id: &str, seed: u32) -> Result<u32, StoreError> {
    let mut numbers = transaction.open_table(NUMBERS).map_err(backend)?;
    let stored: Option<Cids> = match numbers.get("cid").map_err(backend)? {
        Some(found) => Some(decode(found.value())?),
        None => None,
    };
    let cid = match stored {
        Some(cids) if cids.boot_id == boot_id => cids.next,
        _ => CID_FIRST + seed % (CID_START_MAX - CID_FIRST),
    };
    // Two billion starts are left above the highest draw; the two highest values mean "any" and are never reached.
    let cids = Cids { boot_id: boot_id.to_owned(), next: cid.saturating_add(1) };
    numbers.insert("cid", encode(&cids).as_slice()).map_err(backend)?;
    Ok(cid)
}

/// The next uid after the last one handed out that no open session has.
fn next_uid(transaction: &WriteTransaction, range: UidRange, boot_id: &str) -> Result<u32, StoreError> {
    let open = transaction.open_table(OPEN).map_err(backend)?;
    let mut taken = std::collections::BTreeSet::new();
    for entry in open.iter().map_err(backend)? {
        taken.insert(entry.map_err(backend)?.1.value());
    }
    let quarantine = transaction.open_table(QUARANTINE).map_err(backend)?;
    for entry in quarantine.iter().map_err(backend)? {
        let (uid, boot) = entry.map_err(backend)?;
        // What was left of an earlier boot is gone with it.
        if boot.value() == boot_id {
            taken.insert(uid.value());
        }
    }
    let mut numbers = transaction.open_table(NUMBERS).map_err(backend)?;
    let last: u32 = match numbers.get("uid").map_err(backend)? {
        Some(found) => decode(found.value())?,
        None => range.first,
    };
    let start = last.wrapping_sub(range.first).wrapping_add(1);
    let uid = (0..range.count)
        .map(|step| range.first + start.wrapping_add(step) % range.count)
        .find(|uid| !taken.contains(uid))
        .ok_or(StoreError::NoUid)?;
    numbers.insert("uid", encode(&uid).as_slice()).map_err(backend)?;
    Ok(uid)
}

impl Store for EmbeddedStore {
    fn create(
        &self,
        record: SessionRecord,
        request: RequestKey,
        open_max: usize,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Created, StoreError>> {
        self.write(move |transaction| {
            match seen(transaction, &request, now)? {
                Seen::First => {}
                Seen::Again(session) => return Ok(Created::Again(session)),
                Seen::Reused => return Ok(Created::RequestReused),
            }
            let known = {
                let sessions = transaction.open_table(SESSIONS).map_err(backend)?;
                sessions.get(record.id.as_bytes().as_slice()).map_err(backend)?.is_some()
            };
            if known {
                return Ok(Created::SessionKnown);
            }
            let open = { transaction.open_table(OPEN).map_err(backend)?.len().map_err(backend)? };
            if open >= open_max as u64 {
                return Ok(Created::Full);
            }
            put_session(transaction, &record, None)?;
            remember(transaction, &request, record.id, now)?;
            Ok(Created::New)
        })
    }

    fn commit(&self, record: SessionRecord, step: Step) -> BoxFuture<'_, Result<(), StoreError>> {
        let (boot_id, closed_max) = (Arc::clone(&self.boot_id), self.closed_max);
        self.write(move |transaction| {
            put_session(transaction, &record, Some(&step))?;
            if record.is_closed() {
                end_session(transaction, &record, step.at, &boot_id, closed_max)?;
            }
            Ok(())
        })
    }

    fn reserve(
        &self,
        session: SessionId,
        uids: Option<UidRange>,
        boot_id: String,
        seed: u32,
    ) -> BoxFuture<'_, Result<Reservation, StoreError>> {
        self.write(move |transaction| {
            let uid = match uids {
                // A full range must not fail the others in this transaction: it is an answer.
                Some(range) => match next_uid(transaction, range, &boot_id) {
                    Ok(uid) => Some(uid),
                    Err(StoreError::NoUid) => return Ok(Err(StoreError::NoUid)),
                    Err(error) => return Err(error),
                },
                None => None,
            };
            if let Some(uid) = uid {
                let mut open = transaction.open_table(OPEN).map_err(backend)?;
                open.insert(session.as_bytes().as_slice(), uid).map_err(backend)?;
            }
            Ok(Ok(Reservation { cid: next_cid(transaction, &boot_id, seed)?, uid }))
        })
        .flatten_result()
    }

    fn remember(
        &self,
        request: RequestKey,
        session: SessionId,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Seen, StoreError>> {
        self.write(move |transaction| {
            let answer = seen(transaction, &request, now)?;
            if answer == Seen::First {
                remember(transaction, &request, session, now)?;
            }
            Ok(answer)
        })
    }

    fn get(&self, id: SessionId) -> BoxFuture<'_, Result<Option<SessionRecord>, StoreError>> {
        let found = self.read(|transaction| {
            let sessions = transaction.open_table(SESSIONS).map_err(backend)?;
            let found = sessions.get(id.as_bytes().as_slice()).map_err(backend)?;
            found.map(|bytes| decode(bytes.value())).transpose()
        });
        Box::pin(std::future::ready(found))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<SessionRecord>, StoreError>> {
        let file = Arc::clone(&self.file);
        // Thousands of records are read: not on a thread that others wait for.
        let reading = tokio::task::spawn_blocking(move || {
            file.with(|database| {
                let transaction = database.begin_read().map_err(backend)?;
                let sessions = transaction.open_table(SESSIONS).map_err(backend)?;
                let mut all: Vec<SessionRecord> = Vec::new();
                for entry in sessions.iter().map_err(backend)? {
                    all.push(decode(entry.map_err(backend)?.1.value())?);
                }
                all.sort_by_key(|record| (record.created_at, record.id));
                Ok(all)
            })
        });
        Box::pin(async { reading.await.map_err(|_| StoreError::Stopped)? })
    }

    fn open(&self) -> BoxFuture<'_, Result<Vec<SessionRecord>, StoreError>> {
        let found = self.read(|transaction| {
            let sessions = transaction.open_table(SESSIONS).map_err(backend)?;
            let open = transaction.open_table(OPEN).map_err(backend)?;
            let mut all = Vec::new();
            for entry in open.iter().map_err(backend)? {
                let (key, _) = entry.map_err(backend)?;
                if let Some(bytes) = sessions.get(key.value()).map_err(backend)? {
                    all.push(decode(bytes.value())?);
                }
            }
            Ok(all)
        });
        Box::pin(std::future::ready(found))
    }
}

trait FlattenResult<'a, T> {
    fn flatten_result(self) -> BoxFuture<'a, Result<T, StoreError>>;
}

impl<'a, T: Send + 'a> FlattenResult<'a, T> for BoxFuture<'a, Result<Result<T, StoreError>, StoreError>> {
    fn flatten_result(self) -> BoxFuture<'a, Result<T, StoreError>> {
        Box::pin(async move { self.await? })
    }
}

#[cfg(test)]
#[path = "embedded_tests.rs"]
mod tests;
