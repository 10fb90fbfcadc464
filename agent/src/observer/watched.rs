//! The calls that are watched, and what each event means for them.

use super::content::{self, Look};
use super::draft::Told;
use super::event::{self, Event, Named};
use super::held::Held;
use super::kernel::{self, Answer, Handle};
use super::processes::{self, Processes};
use super::queue::{self, Found};
use super::seen::{ALL_BYTES, Key, Of, Seen};
use super::telling::{Telling, path_of};
use crate::frames::observe::{RECORD_MAX, ToObserver};
use anyhow::{Context as _, bail, ensure};
use coffer_evidence::file_record::{Content, RecordLoss, Uses};
use rustix::fs::{FileType, OFlags, Stat, fstat, fstatvfs};
use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

/// File systems that tools can write to: the workspace, and two of each identity.
const PLACES_MAX: usize = 1 + 2 * crate::fixed::IDENTITIES_MAX;
/// Executions of one call that are answered in one turn, so that no call waits for another's.
const EXECUTIONS: usize = 16;
/// Times that a full queue takes to be read: 16,384 events, of which the largest have 1,100 bytes.
const ROUNDS: usize = 512;
/// Programs of the image whose digests are kept.
const PROGRAMS_MAX: usize = 4096;

/// A file system that tools can write to.
#[derive(Debug)]
pub(super) struct Place {
    /// Its root, open.
    pub(super) root: OwnedFd,
    device: u64,
    file_system: u64,
    /// The one identity that has it; 0 when all may.
    uid: u64,
}

/// Everything the observer knows.
#[derive(Debug, Default)]
pub(super) struct Watched {
    places: Vec<Place>,
    names: Option<OwnedFd>,
    calls: BTreeMap<u64, Call>,
    telling: BTreeMap<u64, Telling>,
    processes: Processes,
    programs: HashMap<(u64, u64), Content>,
    held: Held,
    /// What events with names are read into; lent out while they are gone through.
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Call {
    executing: OwnedFd,
    opened: OwnedFd,
    uid: u64,
    group: String,
    began: Instant,
    seen: Seen,
    told_lost: bool,
}

impl Call {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Where an event with names happened.
struct Where<'a> {
    place: usize,
    spot: Option<Named<'a>>,
    renamed: Option<Named<'a>>,
    target: Option<Handle>,
}

impl Watched {
    /// Queues that somebody waits at.
    pub(super) fn executing(&self) -> Vec<(u64, BorrowedFd<'_>)> {
        self.calls.iter().map(|(intent, call)| (*intent, call.executing.as_fd())).collect()
    }

    /// Queues that nobody waits at.
    pub(super) fn others(&self) -> Vec<BorrowedFd<'_>> {
        self.names.iter().chain(self.calls.values().map(|call| &call.opened)).map(OwnedFd::as_fd).collect()
    }

    pub(super) fn is_telling(&self) -> bool {
        !self.telling.is_empty()
    }

    pub(super) fn has_leases(&self) -> bool {
        !self.held.is_empty()
    }

    /// Calls that have lost something since the last time.
    pub(super) fn newly_lost(&mut self) -> Vec<u64> {
        let is_new = |call: &mut Call| call.seen.has_lost() && !std::mem::replace(&mut call.told_lost, true);
        self.calls.iter_mut().filter_map(|(intent, call)| is_new(call).then_some(*intent)).collect()
    }

    /// Does what init says.
    pub(super) fn told(&mut self, message: ToObserver, mut descriptors: Vec<OwnedFd>) -> anyhow::Result<()> {
        let (second, first) = match descriptors.len() {
            2 => (descriptors.pop(), descriptors.pop()),
            _ => (None, descriptors.pop()),
        };
        match (message, first, second) {
            (ToObserver::Place { uid }, Some(root), None) => {
                ensure!(self.places.len() < PLACES_MAX, "expected at most {PLACES_MAX} places, found more");
                let (device, file_system) = (fstat(&root)?.st_dev, fstatvfs(&root)?.f_fsid);
                self.places.push(Place { root, device, file_system, uid });
            }
            (ToObserver::Names, Some(queue), None) => self.names = Some(queue),
            (ToObserver::Begin { intent, uid, group }, Some(executing), Some(opened)) => {
                let (began, seen) = (Instant::now(), Seen::default());
                let call = Call { executing, opened, uid, group, began, seen, told_lost: false };
                ensure!(self.calls.insert(intent, call).is_none(), "expected another call, found {intent} again");
            }
            (ToObserver::Process { intent, pid }, None, None) => {
                self.processes.age(Instant::now(), processes::made);
                self.processes.remember(i32::try_from(pid).context("a process id")?, intent);
            }
            (ToObserver::Finish { intent }, None, None) => self.finish(intent)?,
            (ToObserver::Forget { intent }, None, None) => drop(self.end(intent)),
            (message, ..) => bail!("expected as many descriptors as belong to it, found others with {message:?}"),
        }
        Ok(())
    }

    fn end(&mut self, intent: u64) -> Option<Call> {
        self.processes.end(intent);
        self.calls.remove(&intent)
    }

    /// Nobody is left in the call: what its processes did is all in the queues.
    fn finish(&mut self, intent: u64) -> anyhow::Result<()> {
        while self.answer(intent)? {}
        // Others go on making names: what this call did is among those that are there now.
        self.read_all_names()?;
        while self.read_opened(intent)? > Found::Nothing {}
        let Some(mut call) = self.end(intent) else { bail!("expected a call that runs, found {intent}") };
        if cfg!(feature = "unwatched") {
            call.seen.lose(RecordLoss::Unobserved);
        }
        self.telling.insert(intent, Telling::new(call.seen));
        Ok(())
    }

    /// Goes on with the records of calls that have ended; answers those that are whole.
    pub(super) fn tell(&mut self) -> anyhow::Result<Vec<(u64, Told)>> {
        let mut whole = Vec::new();
        for (intent, mut telling) in std::mem::take(&mut self.telling) {
            if telling.go_on(&self.places)? {
                whole.push((intent, telling.finish(RECORD_MAX)));
            } else {
                self.telling.insert(intent, telling);
            }
        }
        Ok(whole)
    }

    /// Ends leases whose process has gone on, or is gone.
    pub(super) fn tick(&mut self, now: Instant) {
        self.held.tick(now);
    }

    /// Reads what happened to names, and what was opened.
    pub(super) fn read_others(&mut self) -> anyhow::Result<Found> {
        let mut found = self.read_names()?;
        for intent in self.calls.keys().copied().collect::<Vec<_>>() {
            found = found.max(self.read_opened(intent)?);
        }
        Ok(found)
    }

    /// Answers some of what a call's processes are about to execute; true when there was something.
    pub(super) fn answer(&mut self, intent: u64) -> anyhow::Result<bool> {
        let Some(call) = self.calls.get(&intent) else { return Ok(false) };
        let mut buffer = [0; 24 * EXECUTIONS];
        let count = queue::read(call.executing.as_fd(), &mut buffer)?;
        for event in event::events(buffer.get(..count).unwrap_or_default()) {
            match event? {
                Event::Overflow => self.lose(intent, RecordLoss::Overflow),
                Event::File { pid, file } => self.executing_file(intent, pid, &file)?,
                Event::Name { .. } => bail!("expected a file in a call's queue, found a name"),
            }
        }
        Ok(count > 0)
    }

    /// Reads what has happened to names up to now.
    fn read_all_names(&mut self) -> anyhow::Result<()> {
        for _ in 0..ROUNDS {
            if self.read_names()? < Found::More {
                break;
            }
        }
        Ok(())
    }

    /// Reads some of what happened to names.
    fn read_names(&mut self) -> anyhow::Result<Found> {
        let Some(names) = &self.names else { return Ok(Found::Nothing) };
        let mut buffer = queue::lend(&mut self.buffer);
        let (bytes, found) = queue::read_names(names.as_fd(), &mut buffer)?;
        if found > Found::Nothing {
            self.processes.age(Instant::now(), processes::made);
        }
        for event in event::events(bytes) {
            match event? {
                Event::Overflow => {
                    for intent in self.calls.keys().copied().collect::<Vec<_>>() {
                        self.lose(intent, RecordLoss::Overflow);
                    }
                }
                Event::Name { what, pid, file_system, spot, renamed, target } => {
                    let Some(place) = self.place(file_system) else { continue };
                    match self.whose(pid, place) {
                        Whose::Nobodys => {}
                        Whose::Call(intent) => self.name(intent, what, Where { place, spot, renamed, target }),
                        Whose::OneOf(calls) => {
                            calls.into_iter().for_each(|intent| self.lose(intent, RecordLoss::Unattributed));
                        }
                    }
                }
                Event::File { .. } => bail!("expected names in their queue, found a file"),
            }
        }
        self.buffer = buffer;
        Ok(found)
    }

    /// Reads some of what a call opened and closed.
    fn read_opened(&mut self, intent: u64) -> anyhow::Result<Found> {
        let Some(call) = self.calls.get(&intent) else { return Ok(Found::Nothing) };
        let mut buffer = queue::lend(&mut self.buffer);
        let (bytes, found) = queue::read_names(call.opened.as_fd(), &mut buffer)?;
        let (mut opened, mut written) = (Vec::new(), Vec::new());
        for event in event::events(bytes) {
            match event? {
                Event::Overflow => self.lose(intent, RecordLoss::Overflow),
                Event::Name { what, pid, file_system, spot, target, .. } => {
                    self.processes.remember(pid, intent);
                    let Some(place) = self.place(file_system) else { continue };
                    let Some(key) = self.opened(intent, what, Where { place, spot, renamed: None, target }) else {
                        continue;
                    };
                    if what & event::WRITTEN != 0 {
                        written.push(key.clone());
                    }
                    if what & event::OPENED != 0 {
                        opened.push(key);
                    }
                }
                Event::File { .. } => bail!("expected names in a call's queue, found a file"),
            }
        }
        self.buffer = buffer;
        if found == Found::Nothing {
            return Ok(found);
        }
        // What was opened as something new has a name that was made: that is known only now.
        self.read_all_names()?;
        opened.iter().for_each(|key| self.look_into(intent, key));
        // Closed several times, looked at once.
        written.sort_unstable();
        written.dedup();
        written.iter().for_each(|key| self.closed(intent, key));
        Ok(found)
    }

    fn place(&self, file_system: u64) -> Option<usize> {
        self.places.iter().position(|place| place.file_system == file_system)
    }

    fn lose(&mut self, intent: u64, loss: RecordLoss) {
        if let Some(call) = self.calls.get_mut(&intent) {
            call.seen.lose(loss);
        }
    }

    /// Bytes that are left for rows of any call.
    fn free(&self) -> usize {
        let running: usize = self.calls.values().map(|call| call.seen.bytes()).sum();
        let telling: usize = self.telling.values().map(Telling::bytes).sum();
        ALL_BYTES.saturating_sub(running + telling)
    }

    /// A file is about to be executed.
    fn executing_file(&mut self, intent: u64, pid: i32, file: &OwnedFd) -> anyhow::Result<()> {
        self.processes.remember(pid, intent);
        let stat = fstat(file)?;
        let place = self.places.iter().position(|place| place.device == stat.st_dev);
        let key = match place {
            None => Key::Fixed(stat.st_dev, stat.st_ino),
            Some(place) => Key::Placed(place, Handle::of(file.as_fd()).context("name a file")?),
        };
        self.held.went_on(pid);
        let answer = match (place, FileType::from_raw_mode(stat.st_mode).is_file()) {
            (Some(_), true) => match kernel::lease(file.as_fd()) {
                Ok(()) => {
                    self.held.hold(file, pid);
                    Answer::Allow
                }
                // As the kernel would say a moment later.
                Err(error) if error.kind() == ErrorKind::WouldBlock => Answer::Busy,
                // What cannot be kept still cannot be told.
                Err(_) => {
                    self.lose(intent, RecordLoss::Unobserved);
                    Answer::Allow
                }
            },
            (None, _) | (Some(_), false) => Answer::Allow,
        };
        if answer == Answer::Allow {
            self.executed(intent, &key, file, &stat);
        }
        if let Some(call) = self.calls.get(&intent) {
            kernel::answer(call.executing.as_fd(), file.as_fd(), answer).context("answer the kernel")?;
        }
        Ok(())
    }

    fn executed(&mut self, intent: u64, key: &Key, file: &OwnedFd, stat: &Stat) {
        let free = self.free();
        let Some(call) = self.calls.get_mut(&intent) else { return };
        let now = call.now_ms();
        let Some(row) = call.seen.row(key, Uses::OPENED.and(Uses::EXECUTED), now, free) else { return };
        if row.path.is_none() && row.spot.is_none() {
            match path_of(file.as_fd(), stat) {
                Some(path) if call.seen.take(path.len(), free).is_some() => {
                    call.seen.known(key).into_iter().for_each(|row| row.path = Some(path.clone()));
                }
                Some(_) => {}
                None => call.seen.lose(RecordLoss::Unnamed),
            }
        }
        let content = match key {
            Key::Placed(..) => content::take(file, stat, content::PROGRAM_MAX, call.seen.budget()),
            // It is always the same.
            Key::Fixed(device, inode) => *self.programs.entry((*device, *inode)).or_insert_with(|| {
                content::take(file, stat, content::PROGRAM_MAX, &mut content::Budget::new(content::CALL_MAX))
            }),
        };
        call.seen.content(key, Of::Executed, content);
        if self.programs.len() > PROGRAMS_MAX {
            self.programs.clear();
        }
    }

    /// A file was opened, or closed after it was open for writing; answers which.
    fn opened(&mut self, intent: u64, what: u64, at: Where<'_>) -> Option<Key> {
        let free = self.free();
        let call = self.calls.get_mut(&intent)?;
        let (Some(target), Some(spot)) = (at.target, at.spot) else {
            call.seen.lose(RecordLoss::Unnamed);
            return None;
        };
        let key = Key::Placed(at.place, target);
        let now = call.now_ms();
        let row = call.seen.row(&key, uses(what), now, free)?;
        if row.spot.is_none() {
            call.seen.take(spot.len(), free)?;
            call.seen.known(&key)?.spot = Some(spot.keep());
        }
        Some(key)
    }

    /// What is in a file that was there before the call, and was opened.
    fn look_into(&mut self, intent: u64, key: &Key) {
        let Key::Placed(place, handle) = key else { return };
        let (Some(call), Some(place)) = (self.calls.get_mut(&intent), self.places.get(*place)) else { return };
        // What the call made itself is told as it is left.
        if call.seen.known(key).is_none_or(|row| row.uses.has(Uses::CREATED)) {
            return;
        }
        let Some((file, stat)) = open(place, handle) else { return };
        let look = Look::of(&stat);
        if !call.seen.known(key).is_some_and(|row| row.is_news(look)) {
            return;
        }
        let content = content::take(&file, &stat, content::FILE_MAX, call.seen.budget());
        if content.size > 0 {
            call.seen.content(key, Of::Opened, content);
        }
        if let Some(row) = call.seen.known(key) {
            row.looked(look);
        }
    }

    /// What is in a file that was written; of a large one that is asked at the end, once.
    fn closed(&mut self, intent: u64, key: &Key) {
        let Key::Placed(place, handle) = key else { return };
        let (Some(call), Some(place)) = (self.calls.get_mut(&intent), self.places.get(*place)) else { return };
        let Some(row) = call.seen.known(key) else { return };
        row.left = None;
        let Some((file, stat)) = open(place, handle) else { return };
        row.looked(Look::of(&stat));
        let content = content::take(&file, &stat, content::SOON_MAX, call.seen.soon());
        if let Some(row) = call.seen.known(key).filter(|_| content.size == 0 || content.sha256.is_some()) {
            row.left = Some(content);
        }
    }

    /// A name was made, removed, or became another.
    fn name(&mut self, intent: u64, what: u64, at: Where<'_>) {
        let free = self.free();
        let Some(call) = self.calls.get_mut(&intent) else { return };
        let (Some(target), Some(spot)) = (at.target, at.spot) else { return call.seen.lose(RecordLoss::Unnamed) };
        let key = Key::Placed(at.place, target);
        let now = call.now_ms();
        let cost = spot.len() + at.renamed.as_ref().map_or(0, Named::len);
        if call.seen.row(&key, uses(what), now, free).is_none() || call.seen.take(cost, free).is_none() {
            return;
        }
        if !call.seen.named(&key, what, spot.keep(), at.renamed.map(Named::keep)) {
            call.seen.lose(RecordLoss::Files);
        }
    }

    /// Whose process did something in a place.
    fn whose(&mut self, pid: i32, place: usize) -> Whose {
        if let Some(intent) = self.processes.call(pid) {
            return Whose::Call(intent);
        }
        if let Ok(groups) = std::fs::read_to_string(format!("/proc/{pid}/cgroup")) {
            let is_in = |call: &Call| groups.lines().any(|line| line.ends_with(&format!("/calls/{}", call.group)));
            return match self.calls.iter().find(|(_, call)| is_in(call)) {
                Some((intent, _)) => {
                    let intent = *intent;
                    self.processes.remember(pid, intent);
                    Whose::Call(intent)
                }
                None => Whose::Nobodys,
            };
        }
        let uid = self.places.get(place).map_or(0, |place| place.uid);
        let may = |call: &Call| uid == 0 || call.uid == uid;
        let calls: Vec<u64> = self.calls.iter().filter(|(_, call)| may(call)).map(|(intent, _)| *intent).collect();
        match calls[..] {
            [] => Whose::Nobodys,
            [intent] => Whose::Call(intent),
            _ => Whose::OneOf(calls),
        }
    }
}

/// Who did something.
enum Whose {
    /// None of the calls that run: the guest's own.
    Nobodys,
    Call(u64),
    /// One of these, and it is not known which.
    OneOf(Vec<u64>),
}

/// What events with names say of a file.
fn uses(what: u64) -> Uses {
    let all = [
        (event::OPENED, Uses::OPENED),
        (event::WRITTEN, Uses::OPENED.and(Uses::WRITTEN)),
        (event::CREATED, Uses::CREATED),
        (event::DELETED, Uses::DELETED),
        (event::DIRECTORY, Uses::DIRECTORY),
        (event::RENAMED, Uses::RENAMED),
    ];
    all.into_iter().filter(|(bit, _)| what & bit != 0).fold(Uses::default(), |uses, (_, of)| uses.and(of))
}

/// A file by its handle; `None` when it is gone by now, or is none that can be read.
fn open(place: &Place, handle: &Handle) -> Option<(OwnedFd, Stat)> {
    let file = handle.open(place.root.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
    let stat = fstat(&file).ok()?;
    FileType::from_raw_mode(stat.st_mode).is_file().then_some((file, stat))
}
