//! The second half of R10: the events of RTMR3 in order, each held to the tree when it has grown to the event's size, so that one
//! pass over the leaves judges all of them.

use crate::ids::Digest256;
use crate::open::OpenMap;
use crate::rtmr::{EVENTS_MAX, Rtmr3Event};
use crate::tree::Tree;

/// Events beside a growing tree.
pub(super) struct Covering<'e> {
    events: &'e [(u64, Rtmr3Event)],
    open: &'e OpenMap,
    tree: Tree,
    /// The event that is next; those before it hold.
    next: u64,
    /// Leaves under the events before it.
    covered: u64,
    sealed: bool,
    /// Leaves after the last event.
    uncovered: u64,
    /// The first event that does not hold.
    fault: Option<String>,
}

/// How far an event can be judged.
enum Step {
    /// It holds.
    Holds,
    /// It covers leaves that are not in the tree yet.
    Waits,
}

impl<'e> Covering<'e> {
    pub(super) fn new(events: &'e [(u64, Rtmr3Event)], open: &'e OpenMap) -> Self {
        let mut covering =
            Self { events, open, tree: Tree::new(), next: 0, covered: 0, sealed: false, uncovered: 0, fault: None };
        covering.advance();
        covering
    }

    fn pending(&self) -> Option<&'e (u64, Rtmr3Event)> {
        self.events.get(usize::try_from(self.next).ok()?)
    }

    /// The next leaf's hash.
    pub(super) fn see(&mut self, leaf: Digest256) {
        if self.fault.is_some() {
            return;
        }
        if self.pending().is_none() {
            self.uncovered = self.uncovered.saturating_add(1);
            return;
        }
        self.tree.append(leaf);
        self.advance();
    }

    /// Size and root of the last event, once every leaf was seen; each leaf is covered by it.
    pub(super) fn finish(self) -> Result<(u64, Digest256), String> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if let Some((_, Rtmr3Event::Checkpoint { size, .. })) = self.pending() {
            return Err(format!("an event covers {size} leaves, there are {}", self.tree.size()));
        }
        match (self.next, self.uncovered) {
            (0, _) => Err("there is no event".to_owned()),
            (_, 0) => Ok((self.tree.size(), self.tree.root())),
            (_, uncovered) => Err(format!("{uncovered} leaves after the last event are covered by nothing")),
        }
    }

    /// Judges events up to one that waits for more leaves.
    fn advance(&mut self) {
        while let (None, Some((index, event))) = (&self.fault, self.pending()) {
            match self.judge(*index, event) {
                Ok(Step::Holds) => self.next = self.next.saturating_add(1),
                Ok(Step::Waits) => return,
                Err(fault) => self.fault = Some(fault),
            }
        }
    }

    fn judge(&mut self, index: u64, event: &Rtmr3Event) -> Result<Step, String> {
        let expected = self.next;
        if index != expected || expected >= EVENTS_MAX {
            return Err(format!("event {expected} says that it is event {index}"));
        }
        if self.sealed {
            return Err(format!("event {expected} follows the sealed event"));
        }
        match event {
            Rtmr3Event::Open(open) if expected == 0 => {
                if **open != *self.open {
                    return Err("event 0 is not open.cbor".to_owned());
                }
            }
            Rtmr3Event::Open(_) => return Err(format!("event {expected} opens the log again")),
            Rtmr3Event::Checkpoint { .. } | Rtmr3Event::Sealed { .. } if expected == 0 => {
                return Err("event 0 does not open the log".to_owned());
            }
            Rtmr3Event::Checkpoint { size, .. } if *size <= self.covered => {
                return Err(format!("event {expected}: size {size} does not rise"));
            }
            Rtmr3Event::Checkpoint { size, .. } if *size > self.tree.size() => return Ok(Step::Waits),
            Rtmr3Event::Checkpoint { size, root } => {
                if self.tree.root() != *root {
                    return Err(format!("event {expected}: the first {size} leaves do not have its root"));
                }
                self.covered = *size;
            }
            Rtmr3Event::Sealed { size, root } => {
                if *size != self.tree.size() || *root != self.tree.root() {
                    return Err(format!("event {expected}: the sealed event is not the last checkpoint's"));
                }
                self.sealed = true;
            }
        }
        Ok(Step::Holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::session::{Recipe, opening};
    use crate::tree::leaf_hash;

    fn open() -> OpenMap {
        opening(&Recipe::default()).open
    }

    fn root(size: u64) -> Digest256 {
        let mut tree = Tree::new();
        (0..size).for_each(|n| tree.append(leaf_hash(&n.to_le_bytes())));
        tree.root()
    }

    fn judged(events: &[(u64, Rtmr3Event)], open: &OpenMap, leaves: u64) -> Result<(u64, Digest256), String> {
        let mut covering = Covering::new(events, open);
        (0..leaves).for_each(|n| covering.see(leaf_hash(&n.to_le_bytes())));
        covering.finish()
    }

    #[test]
    fn each_event_is_held_to_the_tree_of_its_size() {
        let open = open();
        let first = || (0, Rtmr3Event::Open(Box::new(open.clone())));
        let checkpoint = |index, size, root| (index, Rtmr3Event::Checkpoint { size, root });
        let sealed = |size, root| (3, Rtmr3Event::Sealed { size, root });
        let whole = |last| vec![first(), checkpoint(1, 2, root(2)), checkpoint(2, 5, root(5)), last];
        assert_eq!(judged(&whole(sealed(5, root(5))), &open, 5), Ok((5, root(5))));
        let refused = |events: &[(u64, Rtmr3Event)], leaves, why: &str| {
            let found = judged(events, &open, leaves).expect_err(why);
            assert!(found.contains(why), "{found}");
        };
        refused(&whole(sealed(4, root(5))), 5, "the sealed event is not the last checkpoint's");
        refused(&whole(sealed(5, root(4))), 5, "the sealed event is not the last checkpoint's");
        refused(&whole(checkpoint(3, 5, root(5))), 5, "size 5 does not rise");
        refused(&[first(), checkpoint(2, 2, root(2))], 2, "event 1 says that it is event 2");
        refused(&[(1, first().1)], 0, "event 0 says that it is event 1");
        refused(&[first(), checkpoint(1, 2, root(3))], 2, "the first 2 leaves do not have its root");
        refused(&[first(), checkpoint(1, 2, root(2))], 1, "an event covers 2 leaves, there are 1");
        refused(&[first(), checkpoint(1, 2, root(2))], 4, "2 leaves after the last event");
        refused(&[], 0, "there is no event");
        refused(&[first(), first()], 0, "event 1 says that it is event 0");
        refused(&[first(), (1, first().1)], 0, "event 1 opens the log again");
        refused(&[checkpoint(0, 1, root(1))], 1, "event 0 does not open the log");
        let more = [&whole(sealed(5, root(5)))[..], &[checkpoint(4, 6, root(6))]].concat();
        refused(&more, 6, "event 4 follows the sealed event");
    }

    #[test]
    fn events_end_at_their_cap() {
        let open = open();
        let mut covering = Covering::new(&[], &open);
        covering.next = EVENTS_MAX - 1;
        let event = Rtmr3Event::Checkpoint { size: 1, root: root(1) };
        covering.tree.append(leaf_hash(&0_u64.to_le_bytes()));
        assert!(covering.judge(EVENTS_MAX - 1, &event).is_ok());
        covering.next = EVENTS_MAX;
        assert!(covering.judge(EVENTS_MAX, &event).is_err());
    }
}
