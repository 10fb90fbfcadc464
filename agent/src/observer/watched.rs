//! The calls that are watched, and what each event means for them.

use super::content::{self, Budget, Look};
use super::event::{self, Event, Spot};
use super::kernel::{self, Answer, Handle};
use super::seen::{ALL_BYTES, Key, Of, Seen};
use super::telling::{Telling, path_of};
use crate::frames::observe::{RECORD_MAX, ToObserver};
use anyhow::{Context as _, bail, ensure};
use coffer_evidence::file_record::{Content, RecordLoss, Uses};
use rustix::fs::{FileType, Stat, fstat, fstatvfs};
use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// File systems that tools can write to: the workspace, and two of each identity.
const PLACES_MAX: usize = 1 + 2 * crate::fixed::IDENTITIES_MAX;
/// Events of one call that are looked at in one turn, so that no call waits for another's.
const EVENTS: usize = 64;
/// Bytes of names' events that are read at once.
const NAMES_BYTES: usize = 64 * 1024;
/// Processes that are remembered; what others do to names is told of them while they are there to be asked.
const PROCESSES_MAX: usize = 65_536;
/// Programs of the image whose digests are kept.
const PROGRAMS_MAX: usize = 4096;
/// How long nobody may begin to write a file that is about to be executed. The kernel forbids it from then on.
const LEASE: Duration = Duration::from_secs(2);

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
    /// Which call a process was last seen in.
    processes: HashMap<i32, u64>,
    programs: HashMap<(u64, u64), Content>,
    leases: Vec<Lease>,
}

#[derive(Debug)]
struct Call {
    queue: OwnedFd,
    uid: u64,
    group: String,
    began: Instant,
    seen: Seen,
    budget: Budget,
    told_lost: bool,
}

impl Call {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A file that a process is about to execute.
#[derive(Debug)]
struct Lease {
    file: OwnedFd,
    key: Key,
    pid: i32,
    process: Option<OwnedFd>,
    /// Openings of it by that process since.
    opened: u32,
    until: Instant,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Closing it does the same, when no other descriptor of the same opening is left; there is none.
        let _ = kernel::release(self.file.as_fd());
    }
}

impl Watched {
    pub(super) fn names(&self) -> Option<BorrowedFd<'_>> {
        self.names.as_ref().map(OwnedFd::as_fd)
    }

    pub(super) fn queues(&self) -> Vec<(u64, BorrowedFd<'_>)> {
        self.calls.iter().map(|(intent, call)| (*intent, call.queue.as_fd())).collect()
    }

    pub(super) fn is_telling(&self) -> bool {
        !self.telling.is_empty()
    }

    pub(super) fn has_leases(&self) -> bool {
        !self.leases.is_empty()
    }

    /// Calls that have lost something since the last time.
    pub(super) fn newly_lost(&mut self) -> Vec<u64> {
        let is_new = |call: &mut Call| call.seen.has_lost() && !std::mem::replace(&mut call.told_lost, true);
        self.calls.iter_mut().filter_map(|(intent, call)| is_new(call).then_some(*intent)).collect()
    }

    /// Does what init says.
    pub(super) fn told(&mut self, message: ToObserver, descriptors: Vec<OwnedFd>) -> anyhow::Result<()> {
        let one = <[OwnedFd; 1]>::try_from(descriptors).ok().map(|[one]| one);
        match (message, one) {
            (ToObserver::Place { uid }, Some(root)) => {
                ensure!(self.places.len() < PLACES_MAX, "expected at most {PLACES_MAX} places, found more");
                let (device, file_system) = (fstat(&root)?.st_dev, fstatvfs(&root)?.f_fsid);
                self.places.push(Place { root, device, file_system, uid });
            }
            (ToObserver::Names, Some(queue)) => self.names = Some(queue),
            (ToObserver::Begin { intent, uid, group }, Some(queue)) => {
                let (began, seen, budget) = (Instant::now(), Seen::default(), Budget::new());
                let call = Call { queue, uid, group, began, seen, budget, told_lost: false };
                ensure!(self.calls.insert(intent, call).is_none(), "expected another call, found {intent} again");
            }
            (ToObserver::Process { intent, pid }, None) => {
                self.remember(i32::try_from(pid).context("a process id")?, intent);
            }
            (ToObserver::Finish { intent }, None) => self.finish(intent)?,
            (ToObserver::Forget { intent }, None) => drop(self.end(intent)),
            (message, _) => bail!("expected one descriptor where one belongs, found {message:?}"),
        }
        Ok(())
    }

    fn end(&mut self, intent: u64) -> Option<Call> {
        self.processes.retain(|_, of| *of != intent);
        self.calls.remove(&intent)
    }

    /// Nobody is left in the call: what its processes did is all in the queues.
    fn finish(&mut self, intent: u64) -> anyhow::Result<()> {
        while self.read_call(intent)? {}
        while self.read_names()? {}
        let Some(call) = self.end(intent) else { bail!("expected a call that runs, found {intent}") };
        self.telling.insert(intent, Telling::new(call.seen));
        Ok(())
    }

    /// Goes on with the records of calls that have ended; answers those that are whole.
    pub(super) fn tell(&mut self) -> anyhow::Result<Vec<(u64, Vec<u8>)>> {
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
        let is_gone = |process: &OwnedFd| {
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(process.as_fd(), rustix::event::PollFlags::IN)];
            let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::event::poll(&mut fds, Some(&none)).is_ok_and(|ready| ready > 0)
        };
        self.leases.retain(|lease| now < lease.until && !lease.process.as_ref().is_none_or(is_gone));
    }

    /// Reads some of what a call's processes open; true when there was something.
    pub(super) fn read_call(&mut self, intent: u64) -> anyhow::Result<bool> {
        let Some(call) = self.calls.get(&intent) else { return Ok(false) };
        let mut buffer = [0; 24 * EVENTS];
        let count = match rustix::io::read(&call.queue, &mut buffer) {
            Ok(count) => count,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(false),
            // A descriptor could not be made: the kernel has denied what waited for it.
            Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => bail!("no descriptors are left"),
            Err(errno) => return Err(errno).context("read a call's events"),
        };
        for event in event::events(buffer.get(..count).unwrap_or_default())? {
            match event {
                Event::Overflow => self.lose(intent, RecordLoss::Overflow),
                Event::File { what, pid, file } => self.file(intent, what, pid, file)?,
                Event::Name { .. } => bail!("expected a file in a call's queue, found a name"),
            }
        }
        Ok(count > 0)
    }

    /// Reads some of what happened to names; true when there was something.
    pub(super) fn read_names(&mut self) -> anyhow::Result<bool> {
        let Some(names) = &self.names else { return Ok(false) };
        let mut buffer = vec![0; NAMES_BYTES];
        let count = match rustix::io::read(names, &mut buffer) {
            Ok(count) => count,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno).context("read what happened to names"),
        };
        for event in event::events(buffer.get(..count).unwrap_or_default())? {
            match event {
                Event::Overflow => {
                    for intent in self.calls.keys().copied().collect::<Vec<_>>() {
                        self.lose(intent, RecordLoss::Overflow);
                    }
                }
                Event::Name { what, pid, file_system, spot, renamed, target } => {
                    self.name(what, pid, file_system, (spot, renamed), target);
                }
                Event::File { .. } => bail!("expected names in their queue, found a file"),
            }
        }
        Ok(count > 0)
    }

    fn remember(&mut self, pid: i32, intent: u64) {
        if self.processes.len() >= PROCESSES_MAX {
            self.processes.clear();
        }
        self.processes.insert(pid, intent);
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

    fn file(&mut self, intent: u64, what: u64, pid: i32, file: OwnedFd) -> anyhow::Result<()> {
        self.remember(pid, intent);
        let stat = fstat(&file)?;
        let place = self.places.iter().position(|place| place.device == stat.st_dev);
        let answer = match place {
            None => {
                self.went_on(pid, &Key::Fixed(stat.st_dev, stat.st_ino), what);
                self.fixed(intent, what, &file, &stat)
            }
            Some(place) => {
                let key = Key::Placed(place, Handle::of(file.as_fd()).context("name a file")?);
                self.went_on(pid, &key, what);
                self.placed(intent, what, (&key, pid), &file, &stat)
            }
        };
        if what & (event::OPENING | event::EXECUTING) != 0
            && let Some(call) = self.calls.get(&intent)
        {
            kernel::answer(call.queue.as_fd(), file.as_fd(), answer).context("answer the kernel")?;
        }
        Ok(())
    }

    /// A process that was about to execute a file does something else: it has the file, or could not execute it. Executing is
    /// one opening of the file itself.
    fn went_on(&mut self, pid: i32, key: &Key, what: u64) {
        for lease in self.leases.iter_mut().filter(|lease| lease.pid == pid && lease.key == *key) {
            lease.opened += u32::from(what & event::OPENING != 0);
        }
        self.leases.retain(|lease| lease.pid != pid || (lease.key == *key && lease.opened < 2));
    }

    /// A file that nobody can write to: the image's.
    fn fixed(&mut self, intent: u64, what: u64, file: &OwnedFd, stat: &Stat) -> Answer {
        let key = Key::Fixed(stat.st_dev, stat.st_ino);
        let executing = what & event::EXECUTING != 0;
        let uses = if executing { Uses::OPENED.and(Uses::EXECUTED) } else { Uses::OPENED };
        self.row(intent, &key, uses, file, stat);
        if executing {
            let program = (stat.st_dev, stat.st_ino);
            let content = self
                .programs
                .get(&program)
                .copied()
                .unwrap_or_else(|| content::take(file, stat, content::PROGRAM_MAX, &mut Budget::new()));
            if self.programs.len() >= PROGRAMS_MAX {
                self.programs.clear();
            }
            self.programs.insert(program, content);
            if let Some(call) = self.calls.get_mut(&intent) {
                call.seen.content(&key, Of::Executed, content);
            }
        }
        Answer::Allow
    }

    /// A file that tools can write to.
    fn placed(&mut self, intent: u64, what: u64, (key, pid): (&Key, i32), file: &OwnedFd, stat: &Stat) -> Answer {
        let (mut answer, is_file) = (Answer::Allow, FileType::from_raw_mode(stat.st_mode).is_file());
        if what & event::EXECUTING != 0 && is_file {
            match kernel::lease(file.as_fd()) {
                Ok(()) => self.hold(file, key, pid),
                // As the kernel would say a moment later.
                Err(error) if error.kind() == ErrorKind::WouldBlock => answer = Answer::Busy,
                // What cannot be kept still cannot be told.
                Err(_) => self.lose(intent, RecordLoss::Unobserved),
            }
        }
        let mut uses = Uses::OPENED;
        if what & event::EXECUTING != 0 && answer == Answer::Allow {
            uses = uses.and(Uses::EXECUTED);
        }
        if what & event::WRITTEN != 0 {
            uses = uses.and(Uses::WRITTEN);
        }
        self.row(intent, key, uses, file, stat);
        if !is_file {
            return answer;
        }
        let look = Look::of(stat);
        let Some(call) = self.calls.get_mut(&intent) else { return answer };
        if what & event::EXECUTING != 0 && answer == Answer::Allow {
            let content = content::take(file, stat, content::PROGRAM_MAX, &mut call.budget);
            call.seen.content(key, Of::Executed, content);
        }
        let is_news = call.seen.known(key).is_some_and(|row| row.is_news(look));
        if what & event::OPENING != 0 && is_news {
            let content = content::take(file, stat, content::FILE_MAX, &mut call.budget);
            if content.size > 0 {
                call.seen.content(key, Of::Opened, content);
            }
            if let Some(row) = call.seen.known(key) {
                row.looked(look);
            }
        }
        if what & event::WRITTEN != 0
            && let Some(row) = call.seen.known(key)
        {
            row.written();
        }
        answer
    }

    fn hold(&mut self, file: &OwnedFd, key: &Key, pid: i32) {
        let process = rustix::process::Pid::from_raw(pid)
            .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
        if let Ok(file) = file.try_clone() {
            self.leases.push(Lease { file, key: key.clone(), pid, process, opened: 0, until: Instant::now() + LEASE });
        }
    }

    /// Finds or makes the row of an open file.
    fn row(&mut self, intent: u64, key: &Key, uses: Uses, file: &OwnedFd, stat: &Stat) {
        let free = self.free();
        let Some(call) = self.calls.get_mut(&intent) else { return };
        let now = call.now_ms();
        let Some(row) = call.seen.row(key, uses, now, free) else { return };
        if row.path.is_some() || row.spot.is_some() {
            return;
        }
        match path_of(file.as_fd(), stat) {
            Some(path) => {
                if call.seen.take(path.len(), free).is_some()
                    && let Some(row) = call.seen.known(key)
                {
                    row.path = Some(path);
                }
            }
            None => call.seen.lose(RecordLoss::Unnamed),
        }
    }

    fn name(
        &mut self,
        what: u64,
        pid: i32,
        file_system: u64,
        (spot, renamed): (Option<Spot>, Option<Spot>),
        target: Option<Handle>,
    ) {
        let Some(place) = self.places.iter().position(|place| place.file_system == file_system) else { return };
        let intent = match self.whose(pid, place) {
            Whose::Nobodys => return,
            Whose::Call(intent) => intent,
            Whose::OneOf(calls) => {
                calls.into_iter().for_each(|intent| self.lose(intent, RecordLoss::Unattributed));
                return;
            }
        };
        let (Some(target), Some(spot)) = (target, spot) else {
            return self.lose(intent, RecordLoss::Unnamed);
        };
        let mut uses = Uses::default();
        for (bit, use_of) in [
            (event::CREATED, Uses::CREATED),
            (event::DELETED, Uses::DELETED),
            (event::DIRECTORY, Uses::DIRECTORY),
            (event::RENAMED, Uses::RENAMED),
        ] {
            if what & bit != 0 {
                uses = uses.and(use_of);
            }
        }
        let key = Key::Placed(place, target);
        let free = self.free();
        let Some(call) = self.calls.get_mut(&intent) else { return };
        let now = call.now_ms();
        let cost = [Some(&spot), renamed.as_ref()];
        let cost = cost.into_iter().flatten().map(|spot| spot.name.len() + spot.directory.len()).sum();
        if call.seen.row(&key, uses, now, free).is_none() || call.seen.take(cost, free).is_none() {
            return;
        }
        let Some(row) = call.seen.known(&key) else { return };
        let has_room = match renamed {
            Some(to) if what & event::RENAMED != 0 => row.name_changed(spot, to),
            _ => {
                // What was made and removed at once may be told as one event: the name is gone then.
                let made = what & event::CREATED == 0 || row.name_made(spot.clone());
                let removed = what & event::DELETED == 0 || row.name_removed(spot);
                made && removed
            }
        };
        if !has_room {
            call.seen.lose(RecordLoss::Files);
        }
    }

    /// Whose process did something in a place.
    fn whose(&mut self, pid: i32, place: usize) -> Whose {
        if let Some(intent) = self.processes.get(&pid) {
            return Whose::Call(*intent);
        }
        if let Ok(groups) = std::fs::read_to_string(format!("/proc/{pid}/cgroup")) {
            let is_in = |call: &Call| groups.lines().any(|line| line.ends_with(&format!("/calls/{}", call.group)));
            return match self.calls.iter().find(|(_, call)| is_in(call)) {
                Some((intent, _)) => {
                    let intent = *intent;
                    self.remember(pid, intent);
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
