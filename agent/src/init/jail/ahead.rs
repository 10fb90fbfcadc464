//! The thread that makes jails ahead of the calls that use them, and takes apart those that were used: each takes the kernel
//! milliseconds, and init has calls to start and to end meanwhile. It knows nothing of calls.
//!
//! ```text
//!  init ── make uid ──> thread ── jail, or why not ──> init
//!       ── used jail ─>        (dropped there)
//! ```

use super::filter::Filters;
use super::room::Room;
use super::warden::Warden;
use super::{Jail, JailError};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// The rooms of all identities, by uid.
pub(super) type Rooms = BTreeMap<u32, Room>;

enum Order {
    Make(u32),
    TakeApart(Jail),
}

/// What the thread answers: for whom, and the jail.
type Made = (u32, Result<Jail, JailError>);

/// A link to the thread.
#[derive(Debug)]
pub(super) struct Ahead {
    orders: Sender<Order>,
    made: Receiver<Made>,
    /// Uids whose jail is being made.
    ordered: BTreeSet<u32>,
    thread: JoinHandle<()>,
}

impl Ahead {
    /// Starts the thread. It ends when this is ended.
    pub(super) fn new(rooms: Arc<Rooms>, filters: Arc<Filters>) -> std::io::Result<Self> {
        let (orders, to_do) = channel();
        let (done, made) = channel();
        let work = move || {
            // Whoever does not listen any more is ending.
            for order in to_do {
                match order {
                    Order::Make(uid) => {
                        let jail = rooms.get(&uid).ok_or(JailError::NoRoom).and_then(|room| make(room, &filters));
                        let _ = done.send((uid, jail));
                    }
                    Order::TakeApart(jail) => drop(jail),
                }
            }
        };
        let thread = std::thread::Builder::new().name("jails".to_owned()).spawn(work)?;
        Ok(Self { orders, made, ordered: BTreeSet::new(), thread })
    }

    /// Has a jail made, unless one is on its way.
    pub(super) fn order(&mut self, uid: u32) {
        if self.ordered.insert(uid) && self.orders.send(Order::Make(uid)).is_err() {
            self.ordered.remove(&uid);
        }
    }

    /// Whether a jail is on its way.
    pub(super) fn is_ordered(&self, uid: u32) -> bool {
        self.ordered.contains(&uid)
    }

    /// Has a jail taken apart, everything that still runs in it included.
    pub(super) fn take_apart(&self, jail: Jail) {
        // Without the thread it is dropped here.
        let _ = self.orders.send(Order::TakeApart(jail));
    }

    /// A jail that was made, or why not.
    pub(super) fn made(&mut self) -> Option<Made> {
        let (uid, made) = self.made.try_recv().ok()?;
        self.ordered.remove(&uid);
        Some((uid, made))
    }

    /// As [`Self::made`], and waits for it.
    pub(super) fn next(&mut self) -> Option<Made> {
        let (uid, made) = self.made.recv().ok()?;
        self.ordered.remove(&uid);
        Some((uid, made))
    }

    /// Ends the thread, when it has done what was ordered; answers what nobody fetched.
    pub(super) fn end(self) -> Vec<Jail> {
        drop(self.orders);
        let _ = self.thread.join();
        self.made.into_iter().filter_map(|(_, made)| made.ok()).collect()
    }
}

/// Makes a jail in a room.
pub(super) fn make(room: &Room, filters: &Arc<Filters>) -> Result<Jail, JailError> {
    let warden = Warden::new(room.mounts.as_fd(), room.network.as_fd()).map_err(JailError::Warden)?;
    Jail::new(warden, room, filters)
}
