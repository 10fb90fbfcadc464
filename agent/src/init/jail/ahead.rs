//! A thread that makes jails ahead of the calls that use them, and some that take apart those that were used: each takes the kernel
//! milliseconds, and init has calls to start and to end meanwhile. They know nothing of calls.
//!
//! ```text
//!  init ── make uid ──> one ── jail, or why not ──> init
//!       ── used jail ─> any of the others    (dropped there; here, when too many wait)
//! ```

use super::filter::Filter;
use super::room::Room;
use super::warden::{self, Warden};
use super::{Jail, JailError};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The rooms of all identities, by uid.
pub(super) type Rooms = BTreeMap<u32, Room>;

/// Jails that wait to be taken apart: a wave of calls that end together.
const USED: usize = 64;
/// Who takes them apart. The kernel lets each of them wait, up to 30 ms, for the end of all readers of what a queue or a mount was
/// known by; those waits may overlap, and one after the other they would be fewer calls a second than a client can ask for.
const TAKERS: usize = 4;

/// What the first answers: for whom, and the jail.
type Made = (u32, Result<Jail, JailError>);

/// A link to them.
#[derive(Debug)]
pub(super) struct Ahead {
    orders: Sender<u32>,
    made: Receiver<Made>,
    used: SyncSender<Jail>,
    /// Uids whose jail is being made.
    ordered: BTreeSet<u32>,
    threads: Vec<JoinHandle<()>>,
}

impl Ahead {
    /// Starts the threads. They end when this is ended.
    pub(super) fn new(rooms: Arc<Rooms>, filter: Arc<Filter>) -> std::io::Result<Self> {
        let (orders, to_do) = channel();
        let (done, made) = channel();
        let (used, to_take_apart) = sync_channel::<Jail>(USED);
        let making = move || {
            for uid in to_do {
                let jail = rooms.get(&uid).ok_or(JailError::NoRoom).and_then(|room| make(room, &filter));
                // Whoever does not listen any more is ending.
                let _ = done.send((uid, jail));
            }
        };
        let mut threads = vec![std::thread::Builder::new().name("jails".to_owned()).spawn(making)?];
        let to_take_apart = Arc::new(Mutex::new(to_take_apart));
        for _ in 0..TAKERS {
            let to_take_apart = to_take_apart.clone();
            let taking_apart = move || while next(&to_take_apart).map(drop).is_some() {};
            threads.push(std::thread::Builder::new().name("used jails".to_owned()).spawn(taking_apart)?);
        }
        Ok(Self { orders, made, used, ordered: BTreeSet::new(), threads })
    }

    /// Has a jail made, unless one is on its way.
    pub(super) fn order(&mut self, uid: u32) {
        if self.ordered.insert(uid) && self.orders.send(uid).is_err() {
            self.ordered.remove(&uid);
        }
    }

    /// Whether a jail is on its way.
    pub(super) fn is_ordered(&self, uid: u32) -> bool {
        self.ordered.contains(&uid)
    }

    /// Has a jail taken apart, everything that still runs in it included.
    pub(super) fn take_apart(&self, jail: Jail) {
        // One that is not taken is dropped here.
        let _ = self.used.try_send(jail);
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

    /// Ends the threads, when they have done what was ordered; answers what nobody fetched.
    pub(super) fn end(self) -> Vec<Jail> {
        drop((self.orders, self.used));
        for thread in self.threads {
            let _ = thread.join();
        }
        self.made.into_iter().filter_map(|(_, made)| made.ok()).collect()
    }
}

/// The next used jail; `None` when there will be none. Whoever waits for one holds the lock, and nobody else needs it then.
fn next(used: &Mutex<Receiver<Jail>>) -> Option<Jail> {
    // Nothing panics while it holds the lock.
    used.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// Makes a jail in a room.
pub(super) fn make(room: &Room, filter: &Arc<Filter>) -> Result<Jail, JailError> {
    let warden = Warden::new(room.mounts.as_fd(), room.network.as_fd()).map_err(JailError::Warden)?;
    let process = warden.pidfd().try_clone_to_owned().map_err(JailError::Warden)?;
    // One without its jail is killed, and holds the room until it is gone.
    Jail::new(warden, room, filter).inspect_err(|_| warden::wait(process.as_fd()))
}
