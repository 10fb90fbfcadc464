//! The execs that a session knows by their identity and call id, so that none runs twice: those that run, the ends of the
//! last ones, and the bare names of older ones. The lock is held for a look or a change, never across a wait.
//!
//! ```text
//!            claim                 logged                 finish
//!  (unknown) ─────> Live, claimed ───────> Live, logged ─────────> Ended ──── over the limits ───> Forgotten
//!      ^                  │ refused            │ its task broke: outcome unknown ┘                     │ over the limit
//!      └──────────────────┘                                                                            ▼
//!                                                    (unknown here; the notary still refuses the id)
//! ```

use super::super::errors::Reason;
use super::live::Arrival;
use super::window::{Chunk, Offsets, Refused, Tail};
use coffer_evidence::ids::{CallId, Digest256};
use coffer_proto::guest::v1 as pb;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tonic::Status;

/// Ends that are kept.
pub const ENDS_MAX: usize = 256;
/// Bytes of output that are kept with them, all together.
pub const ENDS_BYTES_MAX: usize = 8 << 20;
/// Calls of which only the name and the intent are known.
pub const FORGOTTEN_MAX: usize = 32_768;
/// Clients that may wait for a call's task to look at them.
const ARRIVALS: usize = 4;

/// Names an exec within its session: the number of its identity, and its call id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Place in the session's list.
    pub identity: u16,
    /// As the client made it.
    pub call: CallId,
}

/// How a call ended, as its clients are told.
#[derive(Debug, Clone)]
pub enum Ending {
    /// With an outcome leaf.
    Exited(Box<pb::Exited>),
    /// Nobody knows.
    Unknown,
}

/// What is kept of a call that has ended.
#[derive(Debug)]
pub struct End {
    /// Index of the intent leaf.
    pub intent: u64,
    /// Bytes of stdin that came.
    pub stdin: u64,
    /// How it ended.
    pub ending: Ending,
    /// The last of its output.
    pub tail: Tail,
}

#[derive(Debug)]
enum Entry {
    Live(mpsc::Sender<Arrival>),
    Ended(Box<End>),
    Forgotten { intent: u64 },
}

#[derive(Debug, Default)]
struct Table {
    /// With the commitment of the request.
    entries: HashMap<Key, (Digest256, Entry)>,
    /// Oldest first.
    ended: VecDeque<Key>,
    forgotten: VecDeque<Key>,
    bytes: usize,
}

/// All of a session.
#[derive(Debug, Clone, Default)]
pub struct Known(Arc<Mutex<Table>>);

/// Whether a call that is not known may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// It may.
    Start,
    /// The client has something of it already.
    Refuse,
}

/// What a client that names a call gets.
#[derive(Debug)]
pub enum Claim {
    /// The call is this caller's to start.
    Mine(Claimed),
    /// It runs: its task takes clients here.
    Live(mpsc::Sender<Arrival>),
    /// It has ended.
    Ended,
}

/// A call that is to start, and its clients. Dropped before it is finished, it is unknown again, or its outcome is.
#[derive(Debug)]
pub struct Claimed {
    known: Known,
    key: Key,
    intent: Option<u64>,
    finished: bool,
    /// Those who came.
    pub arrivals: mpsc::Receiver<Arrival>,
}

impl Known {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks a call up, or claims it.
    pub fn claim(&self, key: Key, commitment: Digest256, otherwise: Otherwise) -> Result<Claim, Status> {
        let mut table = self.table();
        match table.entries.get(&key) {
            Some((known, _)) if *known != commitment => Err(Reason::CallIdReused.status(
                "this call id was used before in this session for another request or with another salt; \
                 make a new one for a new call",
            )),
            Some((_, Entry::Live(arrivals))) => Ok(Claim::Live(arrivals.clone())),
            Some((_, Entry::Ended(_))) => Ok(Claim::Ended),
            Some((_, Entry::Forgotten { intent })) => Err(forgotten(*intent)),
            None if otherwise == Otherwise::Refuse => Err(Reason::CallUnknown
                .status("expected a call that was started before, found none of this id; start it without `resume`")),
            None => {
                let (sender, arrivals) = mpsc::channel(ARRIVALS);
                table.entries.insert(key, (commitment, Entry::Live(sender)));
                drop(table);
                Ok(Claim::Mine(Claimed { known: self.clone(), key, intent: None, finished: false, arrivals }))
            }
        }
    }

    /// What a client that wants output from here is told first: the index of the intent and the bytes of stdin.
    pub fn begin(&self, key: Key, at: Offsets) -> Result<pb::Started, Status> {
        self.ended(key, |end| {
            end.tail.check(at).map_err(refused)?;
            Ok(pb::Started { intent_index: end.intent, stdin_offset: end.stdin })
        })
    }

    /// The next bytes for a reader of an ended call; none at the end.
    pub fn read(&self, key: Key, at: Offsets) -> Result<Option<Chunk>, Status> {
        self.ended(key, |end| end.tail.check(at).map_err(refused).map(|()| end.tail.read(at)))
    }

    /// How it ended.
    pub fn ending(&self, key: Key) -> Result<pb::Exited, Status> {
        self.ended(key, |end| match &end.ending {
            Ending::Exited(exited) => Ok((**exited).clone()),
            Ending::Unknown => Err(unknown()),
        })
    }

    fn ended<T>(&self, key: Key, look: impl FnOnce(&End) -> Result<T, Status>) -> Result<T, Status> {
        match self.table().entries.get(&key) {
            Some((_, Entry::Ended(end))) => look(end),
            Some((_, Entry::Forgotten { intent })) => Err(forgotten(*intent)),
            Some((_, Entry::Live(_))) | None => Err(Reason::CallUnknown.status("the call is known no longer")),
        }
    }

    /// Bytes of output that are kept, and calls by what is known of them: ended, forgotten.
    pub fn kept(&self) -> (usize, usize, usize) {
        let table = self.table();
        (table.bytes, table.ended.len(), table.forgotten.len())
    }
}

impl Claimed {
    /// Its intent is in the log: from now on it is known for ever.
    pub fn logged(&mut self, intent: u64) {
        self.intent = Some(intent);
    }

    /// It has ended. Answers its name, and those who came too late to be seen.
    pub fn finish(mut self, end: End) -> (Key, mpsc::Receiver<Arrival>) {
        self.finished = true;
        self.known.table().end(self.key, end);
        let (_, none) = mpsc::channel(1);
        let mut arrivals = std::mem::replace(&mut self.arrivals, none);
        arrivals.close();
        (self.key, arrivals)
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut table = self.known.table();
        match self.intent {
            Some(intent) => {
                let end = End { intent, stdin: 0, ending: Ending::Unknown, tail: Tail::default() };
                table.end(self.key, end);
            }
            None => drop(table.entries.remove(&self.key)),
        }
    }
}

impl Table {
    fn end(&mut self, key: Key, end: End) {
        let Some((_, entry)) = self.entries.get_mut(&key) else { return };
        self.bytes += end.tail.len();
        *entry = Entry::Ended(Box::new(end));
        self.ended.push_back(key);
        while self.ended.len() > ENDS_MAX || self.bytes > ENDS_BYTES_MAX {
            let Some(oldest) = self.ended.pop_front() else { break };
            let Some((_, entry)) = self.entries.get_mut(&oldest) else { continue };
            if let Entry::Ended(end) = entry {
                self.bytes -= end.tail.len();
                *entry = Entry::Forgotten { intent: end.intent };
                self.forgotten.push_back(oldest);
            }
        }
        while self.forgotten.len() > FORGOTTEN_MAX {
            let Some(oldest) = self.forgotten.pop_front() else { break };
            self.entries.remove(&oldest);
        }
    }
}

/// The status of a call of which nobody knows how it ended.
pub fn unknown() -> Status {
    Reason::OutcomeUnknown.status("the call ran, and the guest cannot say how it ended")
}

fn forgotten(intent: u64) -> Status {
    let text =
        format!("the call ran, and its end is kept no longer: see the outcome of intent {intent} in the action log");
    Reason::OutcomeForgotten.status_with(text, &[("intent_index", intent)])
}

/// Offsets that cannot be served.
pub fn refused(refused: Refused) -> Status {
    match refused {
        Refused::Gone(Offsets { stdout, stderr }) => Reason::OutputGone.status_with(
            format!("that output is kept no longer: there is stdout from {stdout} and stderr from {stderr}"),
            &[("stdout", stdout), ("stderr", stderr)],
        ),
        Refused::Ahead(Offsets { stdout, stderr }) => Reason::InvalidArgument.status(format!(
            "expected offsets within the output so far, stdout {stdout} and stderr {stderr}, found larger ones"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::window::{Loss, Of, Window};
    use super::*;

    fn key(n: u32) -> Key {
        let mut call = [0; 16];
        call[..4].copy_from_slice(&n.to_le_bytes());
        Key { identity: 0, call: CallId::new(call) }
    }

    fn one() -> Digest256 {
        Digest256::of(b"one")
    }

    fn mine(known: &Known, n: u32) -> Claimed {
        match known.claim(key(n), one(), Otherwise::Start) {
            Ok(Claim::Mine(claimed)) => claimed,
            other => panic!("{other:?}"),
        }
    }

    fn ended(known: &Known, n: u32, output: usize) {
        let mut claimed = mine(known, n);
        claimed.logged(n.into());
        let mut window = Window::new(1 << 20, u64::MAX);
        window.put(Of::Stdout, &vec![7; output], Loss::Nothing);
        let ending = Ending::Exited(Box::new(pb::Exited { code: 3, ..pb::Exited::default() }));
        drop(claimed.finish(End { intent: n.into(), stdin: 5, ending, tail: window.freeze().0 }));
    }

    fn word(status: &Status) -> &str {
        status.message().split(':').next().unwrap()
    }

    #[test]
    fn a_call_is_claimed_once_and_then_found_running_or_ended() {
        let known = Known::default();
        let claimed = mine(&known, 1);
        assert!(matches!(known.claim(key(1), one(), Otherwise::Start), Ok(Claim::Live(_))));
        let other = known.claim(key(1), Digest256::of(b"other"), Otherwise::Start).unwrap_err();
        assert_eq!(word(&other), "CALL_ID_REUSED");
        let end = End { intent: 9, stdin: 5, ending: Ending::Unknown, tail: Tail::default() };
        drop(claimed.finish(end));
        assert!(matches!(known.claim(key(1), one(), Otherwise::Refuse), Ok(Claim::Ended)));
        assert_eq!(known.begin(key(1), Offsets::default()).unwrap().stdin_offset, 5);
        assert_eq!(word(&known.ending(key(1)).unwrap_err()), "OUTCOME_UNKNOWN");
        let other = known.claim(key(1), Digest256::of(b"other"), Otherwise::Start).unwrap_err();
        assert_eq!(word(&other), "CALL_ID_REUSED");
        let none = known.claim(key(2), one(), Otherwise::Refuse).unwrap_err();
        assert_eq!(word(&none), "CALL_UNKNOWN");
        // The same id of another identity is another call.
        let foreign = Key { identity: 1, ..key(1) };
        assert!(matches!(known.claim(foreign, one(), Otherwise::Start), Ok(Claim::Mine(_))));
    }

    #[test]
    fn a_claim_that_is_dropped_is_free_again_before_its_intent_is_logged_and_never_after() {
        let known = Known::default();
        drop(mine(&known, 1));
        let mut claimed = mine(&known, 1);
        claimed.logged(4);
        drop(claimed);
        assert!(matches!(known.claim(key(1), one(), Otherwise::Start), Ok(Claim::Ended)));
        assert_eq!(known.begin(key(1), Offsets::default()).unwrap().intent_index, 4);
        assert_eq!(word(&known.ending(key(1)).unwrap_err()), "OUTCOME_UNKNOWN");
    }

    #[test]
    fn ends_are_kept_up_to_their_number_and_the_oldest_are_forgotten_by_name() {
        let known = Known::default();
        let count = u32::try_from(ENDS_MAX).unwrap();
        (0..count).for_each(|n| ended(&known, n, 1));
        assert_eq!(known.ending(key(0)).unwrap().code, 3);
        ended(&known, count, 1);
        assert_eq!(known.kept(), (ENDS_MAX, ENDS_MAX, 1));
        let status = known.claim(key(0), one(), Otherwise::Start).unwrap_err();
        assert_eq!(word(&status), "OUTCOME_FORGOTTEN");
        assert!(status.message().contains("intent 0"), "{status:?}");
        assert_eq!(word(&known.read(key(0), Offsets::default()).unwrap_err()), "OUTCOME_FORGOTTEN");
        assert_eq!(known.ending(key(1)).unwrap().code, 3);
        // Another request is still told from the same.
        let other = known.claim(key(0), Digest256::of(b"other"), Otherwise::Start).unwrap_err();
        assert_eq!(word(&other), "CALL_ID_REUSED");
    }

    #[test]
    fn ends_are_kept_up_to_their_bytes() {
        let known = Known::default();
        let most = u32::try_from(ENDS_BYTES_MAX >> 20).unwrap();
        (0..=most).for_each(|n| ended(&known, n, if n < most { 1 << 16 } else { 0 }));
        assert_eq!(known.kept().2, 0);
        let known = Known::default();
        // A window's worth each: put in chunks as the task does.
        for n in 0..=most {
            let mut claimed = mine(&known, n);
            claimed.logged(0);
            let mut window = Window::new(1 << 20, u64::MAX);
            for _ in 0..16 {
                window.put(Of::Stderr, &[7; 1 << 16], Loss::Nothing);
            }
            let tail = window.freeze().0;
            assert_eq!(tail.len(), 1 << 20);
            drop(claimed.finish(End { intent: 0, stdin: 0, ending: Ending::Unknown, tail }));
        }
        assert_eq!(known.kept(), (ENDS_BYTES_MAX, most as usize, 1));
    }

    #[test]
    fn names_of_old_calls_end_at_their_limit() {
        let known = Known::default();
        let all = u32::try_from(ENDS_MAX + FORGOTTEN_MAX).unwrap();
        (0..=all).for_each(|n| ended(&known, n, 0));
        assert_eq!(known.kept(), (0, ENDS_MAX, FORGOTTEN_MAX));
        assert!(matches!(known.claim(key(0), one(), Otherwise::Start), Ok(Claim::Mine(_))), "the notary knows it");
    }

    #[test]
    fn a_reader_of_an_ended_call_is_told_what_is_kept_and_what_is_beyond() {
        let known = Known::default();
        ended(&known, 1, 100);
        let chunk = known.read(key(1), Offsets { stdout: 40, stderr: 0 }).unwrap().unwrap();
        assert_eq!((chunk.offset, chunk.data.len()), (40, 60));
        assert!(known.read(key(1), Offsets { stdout: 100, stderr: 0 }).unwrap().is_none());
        let ahead = known.begin(key(1), Offsets { stdout: 101, stderr: 0 }).unwrap_err();
        assert_eq!(word(&ahead), "INVALID_ARGUMENT");
    }
}
