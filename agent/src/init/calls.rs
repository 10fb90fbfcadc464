//! The calls that run: from the fork to the last process of the tree.
//!
//! ```text
//!            exec ok                deadline, cancel, close           grace over
//!  Starting ─────────> Running ────────────────────────> Terminating ───────────> Killed
//!     │                   │ main process ends                │ ends                 │ ends
//!     │ exec failed       ▼                                  ▼                      ▼
//!     ▼                Emptying: cgroup.kill, until nobody is left <────────────────┘
//!   Failed                ▼
//!     │ ends           Recording: until the observer has told what the call did with files
//!     ▼                   ▼
//!  NotStarted          Exited
//! ```
//! The cause is the first one that was decided; what happens afterwards does not change it.

use super::cgroup;
use super::jail::Jail;
use super::reap::Reaped;
use super::spawn::{self, Class, Command, Launch, Stage, StartError, Verdict};
use super::wires;
use crate::channel::{Channel, ChannelError, Wait};
use crate::frames::FrameError;
use crate::frames::observe::{Coverage, ToInit as FromObserver, ToObserver};
use crate::frames::start::{Cause, Exit};
use rustix::event::PollFlags;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a call may take, and how long it may take to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// From the start to SIGTERM.
    pub timeout: Duration,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
}

/// Where a call runs, and as whom.
#[derive(Debug)]
pub struct Place {
    /// Uid and gid of its identity.
    pub uid: u32,
    /// Its cgroup and its namespaces.
    pub jail: Jail,
}

/// What is to be told: to the agent, except where it says otherwise.
#[derive(Debug)]
pub enum Report {
    /// The program runs; stdin to write, stdout and stderr to read, or the master of its terminal.
    Started(u64, Vec<OwnedFd>),
    /// Nothing ran.
    NotStarted(u64, StartError),
    /// Every process of the call is gone, and this is what they did with files. Told before [`Report::Exited`], and to the notary.
    Recorded(u64, OwnedFd, Coverage),
    /// Every process of the call is gone.
    Exited(u64, Exit),
}

/// How long the observer may take to tell what a call did: it reads at most 1 GiB for that, of each of 32 calls.
const RECORDING: Duration = Duration::from_secs(600);

/// The link to the observer.
pub type Observer = Channel<ToObserver, FromObserver>;

/// All calls that have a process, or have no record yet, by the index of their intent.
#[derive(Debug)]
pub struct Calls {
    observer: Observer,
    running: BTreeMap<u64, Call>,
    reports: Vec<Report>,
    /// Removed once the ends are told: nobody waits for that.
    over: Vec<(u32, Jail)>,
    /// The observer did not take a word: it is gone, or so far behind that it might as well be.
    unheard: bool,
}

#[derive(Debug)]
struct Call {
    pid: i32,
    uid: u32,
    jail: Jail,
    phase: Phase,
    cause: Option<Cause>,
    began: Instant,
    times: Times,
    pipes: Option<Vec<OwnedFd>>,
    ended: Option<(Reaped, Instant)>,
}

#[derive(Debug)]
enum Phase {
    Starting(Verdict),
    Failed(StartError),
    Running,
    Terminating { kill_at: Instant },
    Killed,
    Emptying(File),
    Recording { exit: Exit, until: Instant },
}

impl Calls {
    /// No calls.
    pub fn new(observer: Observer) -> Self {
        Self { observer, running: BTreeMap::new(), reports: Vec::new(), over: Vec::new(), unheard: false }
    }

    /// The observer's link.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Starts a process in a cgroup and a jail of its own, with three fresh pipes or a fresh terminal. An error of the observer's
    /// link is one of the machine.
    pub fn start(&mut self, intent: u64, place: Place, command: Command, times: Times) -> Result<(), ChannelError> {
        // Nothing is executed before it is seen, the program itself included.
        let (uid, group) = (u64::from(place.uid), place.jail.group().name().to_owned());
        let begin = ToObserver::Begin { intent, uid, group };
        let queues = place.jail.queues();
        self.observer.send(&begin, &[queues.executing.as_fd(), queues.opened.as_fd()], Wait::Never)?;
        match self.try_start(intent, place, command, times) {
            Ok(pid) => self.observer.send(&ToObserver::Process { intent, pid }, &[], Wait::Never),
            Err(error) => {
                self.reports.push(Report::NotStarted(intent, error));
                self.observer.send(&ToObserver::Forget { intent }, &[], Wait::Never)
            }
        }
    }

    /// Hears what the observer has to say; answers the calls whose record misses something.
    pub fn hear(&mut self) -> Result<Vec<u64>, ChannelError> {
        let mut lost = Vec::new();
        loop {
            match self.observer.receive(Wait::Never) {
                Ok((FromObserver::Observed { intent, coverage }, descriptors)) => {
                    let one = <[OwnedFd; 1]>::try_from(descriptors);
                    let [record] = one.map_err(|_| FrameError::Unexpected("a record in one descriptor"))?;
                    self.recorded(intent, record, coverage);
                }
                Ok((FromObserver::Lost { intent }, _)) => lost.push(intent),
                Err(ChannelError::WouldBlock) => return Ok(lost),
                Err(error) => return Err(error),
            }
        }
    }

    fn recorded(&mut self, intent: u64, record: OwnedFd, coverage: Coverage) {
        let Some(call) = self.running.remove(&intent) else { return };
        match call.phase {
            Phase::Recording { exit, .. } => {
                self.reports.push(Report::Recorded(intent, record, coverage));
                self.reports.push(Report::Exited(intent, exit));
                self.over.push((call.uid, call.jail));
            }
            // It was not asked for this one.
            _ => drop(self.running.insert(intent, call)),
        }
    }

    /// Whether the observer is gone, or has taken too long to tell what a call did.
    pub fn is_observer_late(&self, now: Instant) -> bool {
        let is_late = |call: &Call| matches!(call.phase, Phase::Recording { until, .. } if now >= until);
        self.unheard || self.running.values().any(is_late)
    }

    fn try_start(&mut self, intent: u64, place: Place, command: Command, times: Times) -> Result<u64, StartError> {
        let Place { uid, jail } = place;
        let cgroup = Some(jail.group().open().map_err(StartError::at(Stage::Cgroup))?);
        let class = Class::Tool(jail.entry().map_err(StartError::at(Stage::Jail))?);
        let wires = match command.terminal {
            None => wires::pipes(),
            Some(size) => wires::terminal(size, uid, jail.terminals()),
        };
        let wires = wires.map_err(|errno| StartError::at(Stage::Credentials)(errno.into()))?;
        let descriptors = wires.theirs;
        let born = spawn::spawn(Launch { command, uid, descriptors, cgroup, class })?;
        self.running.insert(
            intent,
            Call {
                pid: born.pid,
                uid,
                jail,
                phase: Phase::Starting(born.verdict),
                cause: None,
                began: Instant::now(),
                times,
                pipes: Some(wires.ours),
                ended: None,
            },
        );
        Ok(born.pid.unsigned_abs().into())
    }

    /// Reports a call that did not get as far as a process.
    pub fn refuse(&mut self, intent: u64, error: StartError) {
        self.reports.push(Report::NotStarted(intent, error));
    }

    /// Asks a call to end for this cause. A call that is over, or ending already, is left alone.
    pub fn end(&mut self, intent: u64, cause: Cause, now: Instant) {
        if let Some(call) = self.running.get_mut(&intent) {
            call.terminate(cause, now);
        }
    }

    /// Sends a signal to the program's process group. A call whose program does not run, or is over, is left alone.
    pub fn signal(&mut self, intent: u64, signal: Signal) {
        if let Some(call) = self.running.get(&intent)
            && matches!(call.phase, Phase::Running | Phase::Terminating { .. })
            && call.ended.is_none()
            && let Some(pid) = Pid::from_raw(call.pid)
        {
            // A program that has left its own group gets none, and has asked for that.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Asks every call to end for this cause.
    pub fn end_all(&mut self, cause: Cause, now: Instant) {
        for call in self.running.values_mut() {
            call.terminate(cause, now);
        }
    }

    /// Number of calls that have a process.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether no call has a process, and every end is told.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.reports.is_empty() && self.over.is_empty()
    }

    /// Process ids of the calls' main processes that are not reaped.
    pub fn pids(&self) -> Vec<i32> {
        self.running.values().filter(|call| call.ended.is_none()).map(|call| call.pid).collect()
    }

    /// What to poll, and for which call.
    pub fn interests(&self) -> Vec<(u64, BorrowedFd<'_>, PollFlags)> {
        self.running
            .iter()
            .filter_map(|(intent, call)| match &call.phase {
                Phase::Starting(verdict) => Some((*intent, verdict.as_fd(), PollFlags::IN)),
                Phase::Emptying(events) => Some((*intent, events.as_fd(), PollFlags::PRI)),
                _ => None,
            })
            .collect()
    }

    /// The descriptor of this call reported something.
    pub fn ready(&mut self, intent: u64) {
        let Some(call) = self.running.get_mut(&intent) else { return };
        match call.phase {
            Phase::Starting(_) => self.settle_start(intent),
            Phase::Emptying(_) => self.settle_end(intent),
            _ => {}
        }
    }

    /// A process was reaped; true when it was the main process of a call.
    pub fn reaped(&mut self, reaped: Reaped, now: Instant) -> bool {
        let Some((&intent, _)) = self.running.iter().find(|(_, c)| c.pid == reaped.pid && c.ended.is_none()) else {
            return false;
        };
        if let Some(call) = self.running.get_mut(&intent) {
            call.ended = Some((reaped, now));
        }
        self.settle_start(intent);
        self.settle_end(intent);
        true
    }

    /// Ends what is over time and kills what is over grace.
    pub fn tick(&mut self, now: Instant) {
        for call in self.running.values_mut() {
            match call.phase {
                Phase::Starting(_) | Phase::Running if now >= call.began + call.times.timeout => {
                    call.terminate(Cause::TimedOut, now);
                }
                Phase::Terminating { kill_at } if now >= kill_at => {
                    call.phase = Phase::Killed;
                    drop(call.jail.group().kill());
                }
                _ => {}
            }
        }
    }

    /// When `tick` has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadline = |call: &Call| match call.phase {
            Phase::Starting(_) | Phase::Running if call.cause.is_none() => Some(call.began + call.times.timeout),
            Phase::Terminating { kill_at } => Some(kill_at),
            Phase::Recording { until, .. } => Some(until),
            _ => None,
        };
        self.running.values().filter_map(deadline).min()
    }

    /// What happened since the last time.
    pub fn reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// The jails of calls whose end was told, to be taken apart, and whose calls they were.
    pub fn clear(&mut self) -> Vec<(u32, Jail)> {
        std::mem::take(&mut self.over)
    }

    /// Reads the verdict of a start; the process has executed its program or is about to end.
    fn settle_start(&mut self, intent: u64) {
        let Some(call) = self.running.get_mut(&intent) else { return };
        if !matches!(call.phase, Phase::Starting(_)) {
            return;
        }
        let Phase::Starting(verdict) = std::mem::replace(&mut call.phase, Phase::Running) else { return };
        match verdict.read() {
            Ok(()) => {
                if let Some(pipes) = call.pipes.take() {
                    self.reports.push(Report::Started(intent, pipes));
                }
            }
            // The child is about to exit; its cgroup can be removed once it has.
            Err(error) => call.phase = Phase::Failed(error),
        }
    }

    /// Kills what the main process left behind, and reports once nobody is left.
    fn settle_end(&mut self, intent: u64) {
        let Some(call) = self.running.get_mut(&intent) else { return };
        let Some((reaped, at)) = call.ended else { return };
        match call.phase {
            Phase::Failed(error) => {
                self.running.remove(&intent);
                self.unheard |= self.observer.send(&ToObserver::Forget { intent }, &[], Wait::Never).is_err();
                self.reports.push(Report::NotStarted(intent, error));
                return;
            }
            Phase::Recording { .. } => return,
            _ => {}
        }
        if !matches!(call.phase, Phase::Emptying(_)) {
            let events = call.jail.group().events();
            // Most calls leave nobody behind: nothing to kill, and nobody in there who could start another.
            if !events.as_ref().is_ok_and(|events| cgroup::populated(events).is_ok_and(|populated| !populated)) {
                drop(call.jail.group().kill());
            }
            if let Ok(events) = events {
                call.phase = Phase::Emptying(events);
            }
        }
        // Reading also arms the descriptor: the next change makes it ready again.
        if let Phase::Emptying(events) = &call.phase
            && cgroup::populated(events).unwrap_or(false)
        {
            return;
        }
        let counted = call.jail.group().counted();
        let killed = reaped.signal == Some(libc::SIGKILL as u64);
        let killed_for_memory = killed && call.jail.group().oom_kills() > 0;
        let cause = match call.cause {
            Some(cause) => cause,
            None if killed_for_memory => Cause::OutOfMemory,
            None => Cause::Ended,
        };
        let wall_ms = u64::try_from(at.duration_since(call.began).as_millis()).unwrap_or(u64::MAX);
        let mut exit = reaped.exit(cause, wall_ms);
        // The cgroup has counted descendants that nobody waited for, too.
        exit.user_us = exit.user_us.max(counted.user_us);
        exit.system_us = exit.system_us.max(counted.system_us);
        call.phase = Phase::Recording { exit, until: Instant::now() + RECORDING };
        self.unheard |= self.observer.send(&ToObserver::Finish { intent }, &[], Wait::Never).is_err();
    }
}

impl Call {
    fn terminate(&mut self, cause: Cause, now: Instant) {
        if self.cause.is_some() || self.ended.is_some() {
            return;
        }
        self.cause = Some(cause);
        match self.phase {
            Phase::Running => self.signal_end(now),
            // No program runs that could make something of a SIGTERM; and who is stopped there does not go on by itself.
            Phase::Starting(_) => drop(self.jail.group().kill()),
            _ => {}
        }
    }

    /// SIGTERM to the process group; the main process is not reaped, so its number is still its own.
    fn signal_end(&mut self, now: Instant) {
        if self.ended.is_some() {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.pid)
            && kill_process_group(pid, Signal::TERM).is_err()
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        self.phase = Phase::Terminating { kill_at: now + self.times.grace };
    }
}
