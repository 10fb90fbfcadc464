//! The embedded store against its promises: one session per id, requests remembered for a day, numbers handed out once.

use super::*;
use crate::session::admission::fixtures::NOW;
use crate::session::machine::{Effect, Event};
use crate::session::record::fixtures::record;
use crate::session::types::Ending;
use coffer_evidence::seal::Reason;

fn key(id: &str, digest: &str) -> RequestKey {
    RequestKey { id: id.to_owned(), digest: digest.to_owned() }
}

const BOOT: &str = "b";

fn store() -> (tempfile::TempDir, EmbeddedStore) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = EmbeddedStore::open_file(&dir.path().join("coffer.redb"), BOOT).expect("open");
    (dir, store)
}

#[tokio::test]
async fn a_session_is_made_once_and_the_same_request_finds_it_again() {
    let (_dir, store) = store();
    assert_eq!(store.create(record(1), key("r1", "a"), 64, NOW).await.expect("create"), Created::New);
    let again = store.create(record(1), key("r1", "a"), 64, NOW).await.expect("create");
    assert_eq!(again, Created::Again(SessionId::new([1; 16])));
    let reused = store.create(record(2), key("r1", "b"), 64, NOW).await.expect("create");
    assert_eq!(reused, Created::RequestReused);
    let replayed = store.create(record(1), key("r2", "c"), 64, NOW).await.expect("create");
    assert_eq!(replayed, Created::SessionKnown);
    assert_eq!(store.list().await.expect("list"), [record(1)]);
}

#[tokio::test]
async fn a_request_is_forgotten_after_a_day() {
    let (_dir, store) = store();
    let session = SessionId::new([7; 16]);
    assert_eq!(store.remember(key("r", "a"), session, NOW).await.expect("remember"), Seen::First);
    let late = NOW.after(REQUEST_MEMORY_MS);
    assert_eq!(store.remember(key("r", "a"), session, late).await.expect("remember"), Seen::Again(session));
    assert_eq!(store.remember(key("r", "b"), session, late).await.expect("remember"), Seen::Reused);
    let later = late.after(1);
    assert_eq!(store.remember(key("r", "b"), session, later).await.expect("remember"), Seen::First);
}

#[tokio::test]
async fn no_more_sessions_are_open_than_allowed() {
    let (_dir, store) = store();
    assert_eq!(store.create(record(1), key("r1", "a"), 1, NOW).await.expect("create"), Created::New);
    assert_eq!(store.create(record(2), key("r2", "a"), 1, NOW).await.expect("create"), Created::Full);
}

#[tokio::test]
async fn a_step_is_there_after_the_file_is_opened_again() {
    let (dir, store) = store();
    store.create(record(1), key("r1", "a"), 64, NOW).await.expect("create");
    let mut changed = record(1);
    let step = changed.apply(Event::Begin, NOW.after(5));
    assert_eq!(step.effects, [Effect::Reserve]);
    store.commit(changed.clone(), step).await.expect("commit");
    drop(store);
    // The writer thread drops its half of the file when the queue closes.
    let path = dir.path().join("coffer.redb");
    let store = loop {
        match EmbeddedStore::open_file(&path, BOOT) {
            Ok(store) => break store,
            Err(_) => std::thread::yield_now(),
        }
    };
    assert_eq!(store.get(changed.id).await.expect("get"), Some(changed.clone()));
    assert_eq!(store.open().await.expect("open"), [changed]);
}

#[tokio::test]
async fn a_cid_is_never_shared() {
    let (_dir, store) = store();
    let boot = || "boot-1".to_owned();
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..200_u8 {
        let reservation = store.reserve(SessionId::new([n; 16]), None, boot(), 77).await.expect("reserve");
        assert!(reservation.cid >= CID_FIRST);
        assert!(seen.insert(reservation.cid), "cid {} was handed out twice", reservation.cid);
    }
    let other_boot = store.reserve(SessionId::new([1; 16]), None, "boot-2".to_owned(), 5).await.expect("reserve");
    assert_eq!(other_boot.cid, CID_FIRST + 5, "a new boot draws a new start");
}

#[tokio::test]
async fn a_uid_belongs_to_one_open_session_at_a_time() {
    let (_dir, store) = store();
    let range = UidRange { first: 200_000, count: 3 };
    let mut uids = Vec::new();
    for n in 1..=3_u8 {
        store.create(record(n), key(&format!("r{n}"), "a"), 64, NOW).await.expect("create");
        let reservation = store.reserve(SessionId::new([n; 16]), Some(range), "b".into(), 0).await.expect("reserve");
        uids.push(reservation.uid.expect("a uid"));
        let mut with_uid = record(n);
        with_uid.uid = reservation.uid;
        let step = with_uid.apply(Event::Begin, NOW);
        store.commit(with_uid, step).await.expect("commit");
    }
    uids.sort_unstable();
    assert_eq!(uids, [200_000, 200_001, 200_002]);
    let full = store.reserve(SessionId::new([9; 16]), Some(range), "b".into(), 0).await;
    assert!(matches!(full, Err(StoreError::NoUid)), "{full:?}");
}

#[tokio::test]
async fn many_writers_at_once_are_all_durable() {
    let (_dir, store) = store();
    let store = Arc::new(store);
    let tasks: Vec<_> = (1..=100_u8)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.create(record(n), key(&format!("r{n}"), "a"), 1000, NOW).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.expect("task").expect("create"), Created::New);
    }
    assert_eq!(store.list().await.expect("list").len(), 100);
}

/// A session at its end, with what could not be removed.
fn ended(n: u8, uid: u32, failures: Vec<String>) -> (SessionRecord, Step) {
    let mut record = record(n);
    record.uid = Some(uid);
    let at = NOW.after(u64::from(n));
    record.apply(Event::CloseRequested(Ending::by_host(Reason::UserClosed)), at);
    let step = record.apply(Event::Scrubbed(failures), at);
    assert!(record.is_closed());
    (record, step)
}

#[tokio::test]
async fn a_uid_with_something_left_is_not_handed_out_again_in_this_boot() {
    let (_dir, store) = store();
    let range = UidRange { first: 200_000, count: 2 };
    for (n, uid, failures) in [(1, 200_000, vec![]), (2, 200_001, vec!["a process".to_owned()])] {
        store.create(record(n), key(&format!("r{n}"), "a"), 64, NOW).await.expect("create");
        let (record, step) = ended(n, uid, failures);
        store.commit(record, step).await.expect("commit");
    }
    let reserve = |n: u8, boot: &str| store.reserve(SessionId::new([n; 16]), Some(range), boot.to_owned(), 0);
    assert_eq!(reserve(3, BOOT).await.expect("the clean one").uid, Some(200_000));
    assert!(matches!(reserve(4, BOOT).await, Err(StoreError::NoUid)));
    assert_eq!(reserve(5, "after a reboot").await.expect("nothing is left").uid, Some(200_001));
}

#[tokio::test]
async fn the_sessions_that_ended_longest_ago_are_forgotten_with_their_journal() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = EmbeddedStore::open_bounded(&dir.path().join("coffer.redb"), BOOT, 3).expect("open");
    for n in 1..=5_u8 {
        store.create(record(n), key(&format!("r{n}"), "a"), 64, NOW).await.expect("create");
        let (record, step) = ended(n, 200_000, vec![]);
        store.commit(record, step).await.expect("commit");
    }
    store.create(record(9), key("r9", "a"), 64, NOW).await.expect("an open one stays, however old");
    let left: Vec<SessionId> = store.list().await.expect("list").iter().map(|r| r.id).collect();
    assert_eq!(left, [3, 4, 5, 9].map(|n| SessionId::new([n; 16])));
    let journaled = store.read(|transaction| transaction.open_table(JOURNAL).map_err(backend)?.len().map_err(backend));
    assert_eq!(journaled.expect("count"), 3);
}
