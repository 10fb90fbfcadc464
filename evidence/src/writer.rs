//! The notary's pure core: what may be appended, when a checkpoint is due, what RTMR3 must hold. It keeps the order of
//! leaves (open first, intent before outcome, scrub then seal last), call chains and acknowledgements by the verifier's own state
//! machines, the caps of its parser, and room for the end: scrub, seal, the last checkpoint and the sealed event always still fit.
//!
//! ```text
//!            append                     append(Scrub)            append(Seal)
//! Open leaf ────────> Working ───────────────────────> Scrubbed ─────────────> Sealing ── sealed() ──> Sealed
//!                      │    ▲                           (no calls open)
//!                      └────┘ checkpoint()                                checkpoint()
//! ```

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use thiserror::Error;

use crate::acks::{AckFault, Acks};
use crate::call_header::Said;
use crate::chain::{ChainFault, Chains, Signatures};
use crate::fields::{Canonical as _, ParseError};
use crate::ids::{CallId, Digest256, Digest384, Identity, SessionId};
use crate::intent::{Intent, Limits};
use crate::leaf::{LEAF_MAX, LEAVES_MAX, Leaf, LeafKind, Opened, Public, Reporter};
use crate::note::{Checkpoint, sign_note};
use crate::open::OpenMap;
use crate::rtmr::{EVENTS_MAX, Rtmr, Rtmr3Event, event_bytes, event_digest};
use crate::tree::{Tree, leaf_hash};

/// Leaves kept back for the end: one limit leaf, scrub, seal.
const LEAVES_RESERVED: u64 = 3;
/// Events kept back for the end: a checkpoint over each of those leaves, and sealed.
const EVENTS_RESERVED: u64 = 4;
/// Private parts of a session, each with [`PART_FRAMING`]: under the 64 MiB that `disclosed.cbor` may have.
pub const PRIVATE_BYTES_MAX: u64 = 60 * 1024 * 1024;
/// At least what `disclosed.cbor` adds to a part: its index, its salt, three lengths.
pub const PART_FRAMING: u64 = 64;
/// The largest private part in bytes.
pub const PRIVATE_PART_MAX: usize = 896 * 1024;
/// Uncovered leaves at which a checkpoint is made at once.
pub const CHECKPOINT_LEAVES: u64 = 64;

/// What a private part takes of [`PRIVATE_BYTES_MAX`].
const fn framed(part: usize) -> u64 {
    (part as u64).saturating_add(PART_FRAMING)
}

/// What a reporter wants to have logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafDraft {
    /// Who reports it.
    pub reporter: Reporter,
    /// Under which identity.
    pub identity: Option<Identity>,
    /// In which call.
    pub call: Option<CallId>,
    /// Nanoseconds of the monotonic clock.
    pub monotonic_ns: u64,
    /// Milliseconds of the wall clock, a hint.
    pub wall_hint_ms: u64,
    /// Public fields.
    pub public: Public,
}

/// A leaf in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendedLeaf {
    /// Its place.
    pub index: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its private part.
    pub private: Option<Opened>,
}

/// An event to extend, and what the register must hold before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventExtend {
    /// Its place.
    pub index: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What is extended.
    pub digest: Digest384,
    /// RTMR3 before.
    pub before: Rtmr,
    /// RTMR3 after.
    pub after: Rtmr,
}

/// Why a leaf is not appended. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The end has begun.
    #[error("expected an open log, found one that is scrubbed or sealed")]
    Closed,
    /// The wrong kind at this place.
    #[error("expected the order of the log, found a leaf of kind {0} here")]
    Order(LeafKind),
    /// (identity, call id) was used before.
    #[error("expected a call id of its own, found one that was used before")]
    CallReused,
    /// An outcome without a running call, or of another method.
    #[error("expected the outcome of a running call, found another")]
    NoSuchCall,
    /// Calls are open.
    #[error("expected no running call at the scrub, found {0}")]
    CallsRunning(usize),
    /// Time went back.
    #[error("expected monotonic time, found an earlier one")]
    Time,
    /// A cap.
    #[error("expected room within the limits of the session, found none: {0}")]
    LimitReached(crate::leaf::LimitKind),
    /// The verifier's parser would refuse it.
    #[error("the leaf is one that the verifier refuses")]
    Refused(#[from] ParseError),
    /// A part that must or must not be there.
    #[error("expected a private part of at most {PRIVATE_PART_MAX} bytes where the kind has one, and only there")]
    Private,
    /// A header, or the lack of one.
    #[error("the leaf does not go on with the call chains")]
    Chain(#[from] ChainFault),
    /// An ack, or the lack of one.
    #[error("the leaf does not go on with the acknowledgements")]
    Ack(#[from] AckFault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Empty,
    Working,
    Scrubbed,
    Sealing,
    Sealed,
}

/// The log of one session as its writer sees it.
#[derive(Debug)]
pub struct LogWriter {
    session: SessionId,
    origin: String,
    limits: Limits,
    stage: Stage,
    tree: Tree,
    covered: u64,
    events: u64,
    rtmr3: Rtmr,
    last_ns: u64,
    calls: u64,
    private_bytes: u64,
    running: BTreeMap<(Identity, CallId), crate::leaf::Method>,
    used: BTreeSet<(Identity, CallId)>,
    scrub_leaf: Option<Digest256>,
    chains: Chains,
    acks: Acks,
}

impl LogWriter {
    /// Starts with event 0; RTMR3 must be zero before it.
    #[must_use]
    pub fn open(intent: &Intent, open_map: &OpenMap) -> (Self, EventExtend) {
        let mut writer = Self {
            session: open_map.session,
            origin: intent.origin(),
            limits: intent.limits,
            stage: Stage::Empty,
            tree: Tree::new(),
            covered: 0,
            events: 0,
            rtmr3: Rtmr::ZERO,
            last_ns: 0,
            calls: 0,
            private_bytes: 0,
            running: BTreeMap::new(),
            used: BTreeSet::new(),
            scrub_leaf: None,
            chains: Chains::new(intent, open_map.instance(), Signatures::Every),
            acks: Acks::new(intent),
        };
        let event = writer.event(&Rtmr3Event::Open(Box::new(open_map.clone())));
        (writer, event)
    }

    fn event(&mut self, event: &Rtmr3Event) -> EventExtend {
        let bytes = event_bytes(self.events, event);
        let digest = event_digest(&bytes);
        let before = self.rtmr3;
        self.rtmr3 = before.extend(&digest);
        let extend = EventExtend { index: self.events, bytes, digest, before, after: self.rtmr3 };
        self.events = self.events.saturating_add(1);
        extend
    }

    /// Appends a leaf, or changes nothing.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append(&mut self, draft: LeafDraft, private: Option<Opened>) -> Result<AppendedLeaf, AppendError> {
        self.check_order(&draft)?;
        self.check_room(&draft, private.as_ref())?;
        if draft.monotonic_ns < self.last_ns {
            return Err(AppendError::Time);
        }
        let wants_private = match draft.public.kind() {
            LeafKind::Intent | LeafKind::Outcome | LeafKind::Denied => true,
            // What a header commits to may be kept behind its leaf.
            LeafKind::Client => private.is_some(),
            _ => false,
        };
        if wants_private != private.is_some() {
            return Err(AppendError::Private);
        }
        let leaf = Leaf {
            session: self.session,
            index: self.tree.size(),
            reporter: draft.reporter,
            identity: draft.identity,
            call: draft.call,
            monotonic_ns: draft.monotonic_ns,
            wall_hint_ms: draft.wall_hint_ms,
            public: draft.public,
            commitment: private.as_ref().map(Opened::commitment),
        };
        let bytes = leaf.to_bytes();
        if bytes.len() > LEAF_MAX || Leaf::parse(&bytes)? != leaf {
            return Err(ParseError::NotCanonical { structure: "leaf" }.into());
        }
        self.chains.judge(&leaf)?;
        self.acks.judge(&leaf)?;
        self.chains.take(&leaf);
        self.acks.take(&leaf);
        self.commit(&leaf, &bytes, private.as_ref());
        Ok(AppendedLeaf { index: leaf.index, bytes, private })
    }

    fn check_order(&self, draft: &LeafDraft) -> Result<(), AppendError> {
        let kind = draft.public.kind();
        match (self.stage, kind) {
            (Stage::Empty, LeafKind::Open) => return Ok(()),
            (Stage::Empty, other) => return Err(AppendError::Order(other)),
            (Stage::Sealing | Stage::Sealed, _) => return Err(AppendError::Closed),
            (Stage::Scrubbed, LeafKind::Seal) => {}
            (Stage::Scrubbed, _) => return Err(AppendError::Closed),
            (Stage::Working, LeafKind::Open | LeafKind::Seal) => return Err(AppendError::Order(kind)),
            (Stage::Working, _) => {}
        }
        let call = draft.identity.clone().zip(draft.call);
        match &draft.public {
            Public::Intent { .. } | Public::Denied { .. } => {
                let call = call.ok_or(AppendError::Order(kind))?;
                if self.used.contains(&call) { Err(AppendError::CallReused) } else { Ok(()) }
            }
            Public::Outcome { method, .. } => {
                let call = call.ok_or(AppendError::Order(kind))?;
                if self.running.get(&call) == Some(method) { Ok(()) } else { Err(AppendError::NoSuchCall) }
            }
            // A client leaf holds what is asked for again: the first time stands with its decision.
            Public::Client { header } if matches!(header.header.said, Said::Call { .. }) => {
                let call = call.ok_or(AppendError::Order(kind))?;
                if self.used.contains(&call) { Ok(()) } else { Err(AppendError::NoSuchCall) }
            }
            Public::Scrub { .. } if !self.running.is_empty() => Err(AppendError::CallsRunning(self.running.len())),
            Public::Seal { count } if *count != self.tree.size().saturating_add(1) => Err(AppendError::Order(kind)),
            _ => Ok(()),
        }
    }

    fn check_room(&self, draft: &LeafDraft, private: Option<&Opened>) -> Result<(), AppendError> {
        use crate::leaf::LimitKind;
        let part = private.map_or(0, |p| p.bytes.len());
        if part > PRIVATE_PART_MAX {
            return Err(AppendError::Private);
        }
        if matches!(draft.public.kind(), LeafKind::Open | LeafKind::Limit | LeafKind::Scrub | LeafKind::Seal) {
            return Ok(());
        }
        // Each running call still needs room for its outcome, and so does the call that this intent starts.
        let owed = (self.running.len() as u64).saturating_add(LEAVES_RESERVED);
        let starts = matches!(draft.public, Public::Intent { .. });
        let needed = if starts { 2 } else { 1 };
        let ends = matches!(draft.public, Public::Outcome { .. });
        let leaves = self.limits.leaves.min(LEAVES_MAX);
        let after = self.tree.size().saturating_add(needed).saturating_add(owed);
        // Whoever waits a second after each leaf gets a checkpoint over each: one now, one for each that is owed.
        let pending = u64::from(self.uncovered() > 0);
        let events =
            self.events.saturating_add(pending).saturating_add(needed).saturating_add(self.running.len() as u64);
        if !ends && (after > leaves || events.saturating_add(EVENTS_RESERVED) > EVENTS_MAX) {
            return Err(AppendError::LimitReached(LimitKind::Leaves));
        }
        if starts && self.calls >= self.limits.calls {
            return Err(AppendError::LimitReached(LimitKind::Calls));
        }
        // And in what the record may disclose: each running call may still end with the largest private part.
        let running = (self.running.len() as u64).saturating_add(u64::from(starts));
        let owed = running.saturating_mul(framed(PRIVATE_PART_MAX));
        let parts = self.private_bytes.saturating_add(private.map_or(0, |p| framed(p.bytes.len())));
        if !ends && parts.saturating_add(owed) > PRIVATE_BYTES_MAX {
            return Err(AppendError::LimitReached(LimitKind::PrivateBytes));
        }
        Ok(())
    }

    fn commit(&mut self, leaf: &Leaf, bytes: &[u8], private: Option<&Opened>) {
        self.tree.append(leaf_hash(bytes));
        self.last_ns = leaf.monotonic_ns;
        self.private_bytes = self.private_bytes.saturating_add(private.map_or(0, |p| framed(p.bytes.len())));
        let call = leaf.identity.clone().zip(leaf.call);
        match (&leaf.public, call) {
            (Public::Open { .. }, _) => self.stage = Stage::Working,
            (Public::Intent { method, .. }, Some(call)) => {
                self.calls = self.calls.saturating_add(1);
                self.running.insert(call.clone(), *method);
                self.used.insert(call);
            }
            (Public::Denied { .. }, Some(call)) => {
                self.used.insert(call);
            }
            (Public::Outcome { .. }, Some(call)) => {
                self.running.remove(&call);
            }
            (Public::Scrub { .. }, _) => {
                self.scrub_leaf = Some(Digest256::of(bytes));
                self.stage = Stage::Scrubbed;
            }
            (Public::Seal { .. }, _) => self.stage = Stage::Sealing,
            _ => {}
        }
    }

    /// The event and note over all leaves so far; `None` when they are covered already.
    pub fn checkpoint(&mut self, key: &SigningKey) -> Option<(EventExtend, String)> {
        let (size, root) = (self.tree.size(), self.tree.root());
        if size == self.covered {
            return None;
        }
        self.covered = size;
        self.acks.checkpoint(size, root);
        let note = sign_note(key, &Checkpoint { origin: self.origin.clone(), size, root });
        Some((self.event(&Rtmr3Event::Checkpoint { size, root }), note))
    }

    /// The last event; `None` unless the seal leaf is there and covered.
    pub fn sealed(&mut self) -> Option<EventExtend> {
        if self.stage != Stage::Sealing || self.covered != self.tree.size() {
            return None;
        }
        self.stage = Stage::Sealed;
        let (size, root) = (self.tree.size(), self.tree.root());
        Some(self.event(&Rtmr3Event::Sealed { size, root }))
    }

    /// What RTMR3 must hold now.
    #[must_use]
    pub const fn expected_rtmr3(&self) -> Rtmr {
        self.rtmr3
    }

    /// Leaves so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Root over them.
    #[must_use]
    pub fn root(&self) -> Digest256 {
        self.tree.root()
    }

    /// RTMR3 events so far.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// Leaves that no checkpoint covers.
    #[must_use]
    pub const fn uncovered(&self) -> u64 {
        self.tree.size().saturating_sub(self.covered)
    }

    /// Calls with an intent and no outcome, in order.
    pub fn running_calls(&self) -> impl Iterator<Item = &(Identity, CallId)> {
        self.running.keys()
    }

    /// SHA-256 of the scrub leaf, once it is there.
    #[must_use]
    pub const fn scrub_leaf(&self) -> Option<Digest256> {
        self.scrub_leaf
    }
}

#[cfg(all(test, feature = "verifier"))]
mod tests {
    use super::*;
    use crate::fixtures::session::{Recipe, log_key, opening};
    use crate::leaf::{CauseClass, Method, ScrubStep, StepResult};

    /// Each leaf that is owed may wait for a checkpoint of its own.
    #[test]
    fn a_log_that_is_full_of_events_still_ends_within_their_cap() {
        const RUNNING: u8 = 8;
        let made = opening(&Recipe::default());
        let (mut writer, _) = LogWriter::open(&made.intent, &made.open);
        let key = log_key();
        let method = Method::Exec;
        let draft = |public: Public, call: Option<u8>| LeafDraft {
            reporter: Reporter::Agent,
            identity: call.map(|_| Identity::default_name()),
            call: call.map(|n| CallId::new([n; 16])),
            monotonic_ns: 0,
            wall_hint_ms: 0,
            public,
        };
        let private = || Some(Opened { salt: [1; 32], bytes: vec![0] });
        let opening_quote = Digest256::of(&made.quote);
        let first = Public::Open { instance: made.open.instance(), opening_quote };
        writer.append(draft(first, None), None).expect("leaf 0");
        for n in 0..RUNNING {
            let public = Public::Intent { method, rules: Vec::new(), request_steps: 1, header: None };
            writer.append(draft(public, Some(n)), private()).expect("an intent");
        }
        writer.events = EVENTS_MAX.saturating_sub(64);
        let mut more = 0;
        while writer.append(draft(Public::Incomplete { method }, Some(0)), None).is_ok() {
            writer.checkpoint(&key).expect("a checkpoint");
            more += 1;
        }
        assert!(more > 32, "room is kept for the end, not more: {more}");
        for n in 0..RUNNING {
            let cause = CauseClass::Completed;
            let public = Public::Outcome { method, cause, output_steps: 0, input_steps: 0, input_covered: None };
            writer.append(draft(public, Some(n)), private()).expect("the outcome that is owed");
            writer.checkpoint(&key).expect("a checkpoint");
        }
        let limit = Public::Limit { which: crate::leaf::LimitKind::Leaves };
        writer.append(draft(limit, None), None).expect("a limit leaf");
        writer.checkpoint(&key).expect("a checkpoint");
        let steps = ScrubStep::ALL.iter().map(|step| (*step, StepResult::Done)).collect();
        writer.append(draft(Public::Scrub { steps }, None), None).expect("a scrub leaf");
        writer.checkpoint(&key).expect("a checkpoint");
        let count = writer.size() + 1;
        writer.append(draft(Public::Seal { count }, None), None).expect("a seal leaf");
        writer.checkpoint(&key).expect("a checkpoint");
        writer.sealed().expect("sealed");
        assert!(writer.events() <= EVENTS_MAX, "{} events, the verifier takes {EVENTS_MAX}", writer.events());
    }
}
