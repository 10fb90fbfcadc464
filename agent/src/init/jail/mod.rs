//! What keeps a call from everything that is not its own.
//!
//! ```text
//!   identity ── room:  mount tree, network                  made once, before the first tool runs
//!      └ call ── jail: processes, IPC, mount tree, /proc     a warden holds them; used once, gone with the call
//!           │          cgroup
//!           └ tool: joins the jail ─ uid ─ no capabilities ─ directory ─ Landlock ─ filter ─ executes its program
//! ```
//! A jail is made ahead of the call that uses it, by a thread of its own: nobody waits for it then.

mod ahead;
pub mod filter;
pub mod mapped;
mod notice;
pub mod room;
pub mod rules;
pub mod warden;

use super::cgroup::{CallGroup, Hierarchy};
use super::error::{BootError, Context as _};
use super::reap::{Who, reap_waiting};
use super::spawn::Stage;
use ahead::{Ahead, Rooms};
use filter::Filter;
use mapped::Owners;
pub use notice::Queues;
use room::{Room, Site};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use warden::Warden;

const STAGE: &str = "jail";

/// A set of ways to use files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access(u64);

impl Access {
    /// Reading files and listing directories.
    pub const READ: Self = Self(1);
    /// Making, changing and replacing files.
    pub const WRITE: Self = Self(2);
    /// Removing files and directories.
    pub const DELETE: Self = Self(4);
    /// Executing.
    pub const EXECUTE: Self = Self(8);

    /// From the number on the link; `None` when it has other bits.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        (number < 16).then_some(Self(number))
    }

    /// The number on the link.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How far a grant goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// To everything at and beneath its path.
    Beneath,
    /// To the one file, if there is one when the session begins.
    File,
}

/// One way into the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Absolute, without `.`, `..` and doubled slashes.
    pub path: PathBuf,
    /// For what.
    pub access: Access,
    /// How far.
    pub reach: Reach,
}

/// Why a call has no jail.
#[derive(Debug, Error)]
pub enum JailError {
    /// The identity has no room.
    #[error("no room was made for the identity")]
    NoRoom,
    /// The cgroup.
    #[error("the cgroup of the call could not be made")]
    Cgroup(#[source] io::Error),
    /// The namespaces.
    #[error("the namespaces of the call could not be made")]
    Warden(#[source] io::Error),
    /// The view of its processes.
    #[error("the call's /proc could not be opened")]
    Proc(#[source] io::Error),
    /// Where its terminals are.
    #[error("the identity's terminals could not be had")]
    Terminals(#[source] io::Error),
    /// What the observer is told.
    #[error("the call's files could not be watched")]
    Notice(#[source] io::Error),
    /// Landlock.
    #[error("the rules for files could not be made")]
    Rules(#[from] rules::RulesError),
}

impl JailError {
    /// What was being done, as a start that failed tells it.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Cgroup(_) => Stage::Cgroup,
            Self::NoRoom | Self::Warden(_) | Self::Proc(_) | Self::Terminals(_) | Self::Notice(_) | Self::Rules(_) => {
                Stage::Jail
            }
        }
    }

    /// The system's answer, as a start that failed tells it.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::NoRoom => libc::ENOENT,
            Self::Cgroup(error)
            | Self::Warden(error)
            | Self::Proc(error)
            | Self::Terminals(error)
            | Self::Notice(error) => error.raw_os_error().unwrap_or(libc::EIO),
            Self::Rules(rules::RulesError::Open { source, .. }) => source.raw_os_error().unwrap_or(libc::EIO),
            Self::Rules(rules::RulesError::Landlock(_)) => libc::EOPNOTSUPP,
        }
    }
}

/// The namespaces and the cgroup of one call. Everything in them ends when it is dropped.
#[derive(Debug)]
pub struct Jail {
    warden: Warden,
    group: CallGroup,
    processes: OwnedFd,
    ruleset: OwnedFd,
    filter: Arc<Filter>,
    terminals: OwnedFd,
    queues: Queues,
}

/// What a tool needs to enter a jail.
#[derive(Debug)]
pub struct Entry {
    /// The warden: what the tool joins.
    pub(super) warden: OwnedFd,
    /// Its processes: what the tool is born into.
    pub(super) processes: OwnedFd,
    pub(super) ruleset: OwnedFd,
    pub(super) filter: Arc<Filter>,
}

impl Jail {
    fn new(warden: Warden, room: &Room, filter: &Arc<Filter>) -> Result<Self, JailError> {
        let open = |name: &str, flags: OFlags| {
            let path = format!("/proc/{}/{name}", warden.pid());
            rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| JailError::Proc(errno.into()))
        };
        let processes = open("ns/pid", OFlags::RDONLY)?;
        let ruleset = room.rules.ruleset(&open("root/proc", OFlags::PATH)?)?;
        let terminals = room.terminals.try_clone().map_err(JailError::Terminals)?;
        let root = PathBuf::from(format!("/proc/{}/root", warden.pid()));
        let queues = notice::of_call(&root, &room.watched).map_err(JailError::Notice)?;
        let group = room.groups.call().map_err(JailError::Cgroup)?;
        Ok(Self { warden, group, processes, ruleset, filter: filter.clone(), terminals, queues })
    }

    /// Its cgroup.
    pub fn group(&self) -> &CallGroup {
        &self.group
    }

    /// The queues of what its processes do with files. Whoever executes anything waits until somebody answers.
    pub fn queues(&self) -> &Queues {
        &self.queues
    }

    /// Where its terminals are opened.
    pub fn terminals(&self) -> BorrowedFd<'_> {
        self.terminals.as_fd()
    }

    /// What its tool is given.
    pub fn entry(&self) -> io::Result<Entry> {
        let warden = self.warden.pidfd().try_clone_to_owned()?;
        let (processes, ruleset) = (self.processes.try_clone()?, self.ruleset.try_clone()?);
        Ok(Entry { warden, processes, ruleset, filter: self.filter.clone() })
    }
}

/// The rooms of all identities, and a jail ahead for those that have had a call.
#[derive(Debug)]
pub struct Jails {
    /// Every warden that is not reaped.
    wardens: BTreeSet<i32>,
    rooms: Arc<Rooms>,
    spare: BTreeMap<u32, Jail>,
    ahead: Ahead,
    filter: Arc<Filter>,
    places: Vec<Place>,
    names: OwnedFd,
}

/// A file system that tools can write to.
#[derive(Debug)]
pub struct Place {
    /// Uid of the one identity that has it; `None` when all may.
    pub uid: Option<u32>,
    /// Its root, open for reading.
    pub root: OwnedFd,
}

impl Jails {
    /// Makes a room for each uid. No tool runs yet.
    pub fn new(site: &Site, hierarchy: &Hierarchy, identities: &[(u32, Vec<Grant>)]) -> Result<Self, BootError> {
        let filter = Filter::compile();
        let first = crate::fixed::UID_IDENTITY;
        for (_, grants) in identities {
            make_places(&site.workspace, first, grants)?;
        }
        let mut rooms = BTreeMap::new();
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let workspace = rustix::fs::open(&site.workspace, directory, Mode::empty());
        let workspace = workspace.context(STAGE, || "open the workspace".into())?;
        let mut places = vec![Place { uid: None, root: workspace }];
        for (uid, grants) in identities {
            let owners = (*uid != first).then(|| owners(first, *uid)).transpose()?;
            let groups = hierarchy.identity(*uid)?;
            let (room, own) = Room::new(site, groups, owners.as_ref(), grants)?;
            places.extend(own.into_iter().map(|root| Place { uid: Some(*uid), root }));
            rooms.insert(*uid, room);
        }
        let watch = || "watch the places that tools can write to".to_owned();
        let names = notice::of_names().context(STAGE, watch)?;
        for place in &places {
            notice::add(&names, place.root.as_fd()).context(STAGE, watch)?;
        }
        let (rooms, filter) = (Arc::new(rooms), Arc::new(filter));
        let ahead = Ahead::new(rooms.clone(), filter.clone()).context(STAGE, || "start a thread".into())?;
        let (wardens, spare) = (BTreeSet::new(), BTreeMap::new());
        Ok(Self { wardens, rooms, spare, ahead, filter, places, names: names.into() })
    }

    /// Gives away what the observer needs: the places that tools can write to, and the queue of what happens to names in them.
    /// Whoever has the places keeps them mounted.
    pub fn observed(&mut self) -> io::Result<(Vec<Place>, OwnedFd)> {
        Ok((std::mem::take(&mut self.places), self.names.try_clone()?))
    }

    /// A jail for one call of this identity.
    pub fn take(&mut self, uid: u32) -> Result<Jail, JailError> {
        self.fetch();
        while !self.spare.contains_key(&uid) && self.ahead.is_ordered(uid) {
            let Some((uid, made)) = self.ahead.next() else { break };
            self.keep(uid, made);
        }
        if let Some(jail) = self.spare.remove(&uid) {
            return Ok(jail);
        }
        let room = self.rooms.get(&uid).ok_or(JailError::NoRoom)?;
        let jail = ahead::make(room, &self.filter)?;
        self.wardens.insert(jail.warden.pid());
        Ok(jail)
    }

    /// Has the next jail of this identity made ahead. Whoever needs one finds out itself when that fails.
    pub fn prepare(&mut self, uid: u32) {
        self.fetch();
        if !self.spare.contains_key(&uid) {
            self.ahead.order(uid);
        }
    }

    /// Takes apart what a call used, everything that still runs in it included.
    pub fn take_apart(&self, jail: Jail) {
        self.ahead.take_apart(jail);
    }

    /// Keeps what was made meanwhile.
    fn fetch(&mut self) {
        while let Some((uid, made)) = self.ahead.made() {
            self.keep(uid, made);
        }
    }

    fn keep(&mut self, uid: u32, made: Result<Jail, JailError>) {
        // One whose warden ended by itself meanwhile may have been reaped unknown, and its number be another's.
        if let Ok(jail) = made
            && jail.warden.is_there()
        {
            self.wardens.insert(jail.warden.pid());
            self.spare.insert(uid, jail);
        }
    }

    /// A process was reaped.
    pub fn reaped(&mut self, pid: i32) {
        if self.wardens.remove(&pid) {
            // One that ended by itself holds nothing any more.
            self.spare.retain(|_, jail| jail.warden.pid() != pid);
        }
    }

    /// Ends what is left of every jail and frees the rooms; true when nothing in them was kept busy. Every call is over, and
    /// every copy of a room's mounts goes with the last process of its jail.
    pub fn close(self) -> bool {
        let Self { mut wardens, rooms, spare, ahead, places, .. } = self;
        drop((spare, places));
        for jail in ahead.end() {
            if jail.warden.is_there() {
                wardens.insert(jail.warden.pid());
            }
        }
        for pid in wardens {
            // It is not reaped, so the number is its own. It goes when the last process in its namespace has; only then are its
            // mounts gone.
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = reap_waiting(Who::Pid(pid));
        }
        // The thread had the other share of them.
        let Some(rooms) = Arc::into_inner(rooms) else { return false };
        // Each is closed, whatever became of the one before.
        let closed: Vec<bool> = rooms.into_values().map(Room::close).collect();
        closed.iter().all(|closed| *closed)
    }
}

/// The table of owners, made while user namespaces are allowed for just that moment: tools can make none, ever.
fn owners(inside: u32, outside: u32) -> Result<Owners, BootError> {
    const LIMIT: &str = "/proc/sys/user/max_user_namespaces";
    let before = std::fs::read_to_string(LIMIT).context(STAGE, || format!("read {LIMIT}"))?;
    super::cgroup::put(LIMIT, "16").context(STAGE, || format!("write {LIMIT}"))?;
    let owners = Owners::new(inside, outside).context(STAGE, || "make a table of owners".into());
    super::cgroup::put(LIMIT, before.trim()).context(STAGE, || format!("write {LIMIT}"))?;
    owners
}

/// Makes the directories of the workspace that grants name, so that there is something for them to hold for.
fn make_places(workspace: &Path, owner: u32, grants: &[Grant]) -> Result<(), BootError> {
    for grant in grants.iter().filter(|grant| grant.reach == Reach::Beneath) {
        let Ok(beneath) = grant.path.strip_prefix(workspace) else { continue };
        let mut path = workspace.to_owned();
        for part in beneath.components() {
            path.push(part);
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => {
                    result.context(STAGE, || format!("make {}", path.display()))?;
                    std::os::unix::fs::chown(&path, Some(owner), Some(owner))
                        .context(STAGE, || format!("give {}", path.display()))?;
                }
            }
        }
    }
    Ok(())
}
