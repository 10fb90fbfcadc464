//! Rules R10 and R11 on the action log: the leaves, and the roots that RTMR3 and the note pin. A rule that looks at leaves is a
//! pass over them; none are kept.

use std::convert::Infallible;

use super::covering::Covering;
use super::findings::{Ended, Findings, Refused};
use super::opening_rules::Opened;
use super::report::Rule;
use crate::bundle::{FrameError, Frames, ReadError, Scan, Source};
use crate::fields::Canonical as _;
use crate::ids::Digest256;
use crate::leaf::{LEAVES_MAX, Leaf, LeafKind, Public};
use crate::note::open_note;
use crate::rtmr::Rtmr3Event;
use crate::tree::{Tree, leaf_hash};

/// The leaves where they are.
#[derive(Clone, Copy)]
pub(super) struct Leaves<'a> {
    scan: &'a Scan,
    source: &'a dyn Source,
}

impl<'a> Leaves<'a> {
    pub(super) fn new(scan: &'a Scan, source: &'a dyn Source) -> Self {
        Self { scan, source }
    }

    pub(super) fn frames(&self) -> Frames<'a, dyn Source + 'a> {
        self.scan.leaves(self.source)
    }

    /// SHA-256 of the member `leaves`.
    pub(super) fn digest(&self) -> Digest256 {
        self.scan.digest("leaves").unwrap_or_else(|| Digest256::of(b""))
    }

    /// Shows every leaf with its bytes, until one is refused. R2 has parsed each: what does not parse now is not what it was.
    pub(super) fn each<E>(
        &self,
        mut see: impl FnMut(&[u8], Leaf) -> Result<(), E>,
    ) -> Result<Result<(), E>, ReadError> {
        let changed = || ReadError::Changed { name: "leaves".to_owned() };
        let mut frames = self.frames();
        while let Some((_, bytes)) = frames.next_leaf().map_err(|error| match error {
            FrameError::Unread(error) => error,
            FrameError::Cut(_) | FrameError::TooLong { .. } => changed(),
        })? {
            let leaf = Leaf::parse(bytes).map_err(|_| changed())?;
            if let Err(refused) = see(bytes, leaf) {
                // What is refused must be the bundle's own.
                frames.finish()?;
                return Ok(Err(refused));
            }
        }
        Ok(Ok(()))
    }
}

/// The record as parsed (R2): the leaves, each event with its index, the note.
pub(super) struct Record<'a> {
    pub(super) leaves: Leaves<'a>,
    pub(super) events: Vec<(u64, Rtmr3Event)>,
    pub(super) note: &'a str,
}

/// A record whose leaves are exactly what the events pin (R10).
pub(super) struct Rooted<'a> {
    record: Record<'a>,
    size: u64,
    root: Digest256,
    /// Leaves with a commitment.
    committed: u64,
    scrub: Option<Scrub>,
}

/// The last scrub leaf.
pub(super) struct Scrub {
    pub(super) digest: Digest256,
    pub(super) leaf: Leaf,
}

impl<'a> Rooted<'a> {
    pub(super) fn leaves(&self) -> Leaves<'a> {
        self.record.leaves
    }

    pub(super) fn events(&self) -> &[(u64, Rtmr3Event)] {
        &self.record.events
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn root(&self) -> Digest256 {
        self.root
    }

    pub(super) fn committed(&self) -> u64 {
        self.committed
    }

    pub(super) fn scrub(&self) -> Option<&Scrub> {
        self.scrub.as_ref()
    }

    /// The root over the first `size` leaves, when there are so many.
    pub(super) fn root_at(&self, size: u64) -> Result<Option<Digest256>, ReadError> {
        if size > self.size {
            return Ok(None);
        }
        let mut tree = Tree::new();
        // To the last leaf, because only a whole pass is known to be of what was scanned.
        let Ok(()) = self.leaves().each(|bytes, _| {
            if tree.size() < size {
                tree.append(leaf_hash(bytes));
            }
            Ok::<(), Infallible>(())
        })?;
        Ok(Some(tree.root()))
    }
}

/// R10.
pub(super) fn roots<'a>(record: Record<'a>, opened: &Opened<'_>, findings: &mut Findings) -> Result<Rooted<'a>, Ended> {
    let mut order = Order::new(opened);
    let mut covering = Covering::new(&record.events, &opened.opening().open);
    let (mut committed, mut scrub) = (0_u64, None);
    let in_order: Result<(), String> = record.leaves.each(|bytes, leaf| {
        order.see(&leaf)?;
        covering.see(leaf_hash(bytes));
        committed = committed.saturating_add(leaf.commitment.is_some().into());
        if leaf.kind() == LeafKind::Scrub {
            scrub = Some(Scrub { digest: Digest256::of(bytes), leaf });
        }
        Ok(())
    })?;
    if let Err(reason) = in_order {
        return Err(findings.refuse(Rule::R10, "leaves in order", reason).into());
    }
    findings.pass(Rule::R10, "leaves in order", format!("{} leaves", order.expected));
    let covered = covering.finish();
    match covered {
        Ok((size, root)) => {
            findings.pass(Rule::R10, "root at each event", format!("{} events", record.events.len()));
            Ok(Rooted { record, size, root, committed, scrub })
        }
        Err(reason) => Err(findings.refuse(Rule::R10, "root at each event", reason).into()),
    }
}

/// What each leaf must be at its place.
struct Order<'o, 'a> {
    opened: &'o Opened<'a>,
    quote: Digest256,
    expected: u64,
    monotonic: u64,
}

impl<'o, 'a> Order<'o, 'a> {
    fn new(opened: &'o Opened<'a>) -> Self {
        let quote = Digest256::of(opened.opening().bytes.quote);
        Self { opened, quote, expected: 0, monotonic: 0 }
    }

    fn see(&mut self, leaf: &Leaf) -> Result<(), String> {
        let expected = self.expected;
        if expected >= LEAVES_MAX {
            return Err(format!("more than {LEAVES_MAX} leaves"));
        }
        if leaf.index != expected {
            return Err(format!("leaf {expected} says that it is leaf {}", leaf.index));
        }
        if leaf.session != self.opened.opening().intent.session {
            return Err(format!("leaf {expected} belongs to session {}", leaf.session));
        }
        if leaf.monotonic_ns < self.monotonic {
            return Err(format!("leaf {expected} is older than the leaf before it"));
        }
        let genuine = Public::Open { instance: self.opened.instance(), opening_quote: self.quote };
        if (expected == 0) != (leaf.kind() == LeafKind::Open) || (expected == 0 && leaf.public != genuine) {
            return Err(format!("leaf {expected}: only leaf 0 opens the log, with this instance and opening quote"));
        }
        self.monotonic = leaf.monotonic_ns;
        self.expected = expected.saturating_add(1);
        Ok(())
    }
}

/// R11.
pub(super) fn note(rooted: &Rooted<'_>, opened: &Opened<'_>, findings: &mut Findings) -> Result<(), Refused> {
    const NAME: &str = "note is the last event's";
    let note = rooted.record.note;
    if rooted.size == 0 && note.is_empty() {
        findings.not_evaluated(Rule::R11, NAME, "no checkpoint was made");
        return Ok(());
    }
    let opening = opened.opening();
    match open_note(note, &opening.open.log_key, &opening.intent.origin()) {
        Err(error) => Err(findings.refuse(Rule::R11, NAME, error.to_string())),
        Ok(checkpoint) => {
            let same = checkpoint.size == rooted.size && checkpoint.root == rooted.root;
            findings.require(Rule::R11, NAME, same.into(), || {
                format!("the note covers {} leaves, the last event {} or another root", checkpoint.size, rooted.size)
            })
        }
    }
}
