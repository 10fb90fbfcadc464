//! The loop of PID 1: one thread, one poll, no waiting for anybody else.
//!
//! ```text
//!            Admitted                EndCalls             Scrub
//!  Booting ───────────> Serving ─────────────> Ending ───────────> Scrubbed
//!     │                    │                      │                   │ PowerOff
//!     └──── notary failed ─┴──────────────────────┴───────────────────┴──> off
//!           agent or notary gone, a frame that is none, an unlogged start
//! ```

use super::calls::{Calls, Place, Report};
use super::cgroup::Hierarchy;
use super::command::{self, Identities};
use super::error::{BootError, Context as _};
use super::jail::Jails;
use super::jail::room::Site;
use super::jail::rules;
use super::reap::{self, Who};
use super::root::{self, Upper};
use super::spawn::StartError;
use super::{console, grants, scrub};
use crate::channel::{Channel, ChannelError, Wait};
use crate::fixed;
use crate::frames::observe;
use crate::frames::start::{self, Cause};
use crate::frames::warrant::{self, Gaps};
use coffer_evidence::ids::Digest256;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const STAGE: &str = "supervise";
/// Messages of the agent that are taken in one turn.
const MESSAGES: usize = 256;
/// How long the agent may take to tell the host why the machine ends.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Permits that the agent has not used yet: it uses each at once.
const PERMITS_MAX: usize = 1024;

/// One of the processes that init starts.
#[derive(Debug)]
pub(super) struct Child<S, R> {
    pub(super) pid: i32,
    pub(super) link: Channel<S, R>,
}

/// Everything PID 1 knows.
pub(super) struct Supervisor {
    hierarchy: Hierarchy,
    upper: Upper,
    reports: PathBuf,
    notary: Child<warrant::ToNotary, warrant::ToInit>,
    agent: Child<start::ToAgent, start::ToInit>,
    identities: Identities,
    /// The policy as it was on the boot disk, until it is admitted.
    policy: Option<OwnedFd>,
    /// Made when it is.
    jails: Option<Jails>,
    permits: BTreeMap<u64, Permit>,
    calls: Calls,
    /// Gone with the scrub.
    observer: Option<i32>,
    gaps: Gaps,
    /// Set once the machine is to end: when, and why.
    ending: Option<(Instant, String)>,
}

struct Permit {
    identity: String,
    request: Digest256,
}

/// What one turn of the loop decided.
enum Turn {
    Go,
    PowerOff(String),
}

impl Supervisor {
    pub(super) fn new(
        hierarchy: Hierarchy,
        (upper, reports): (Upper, PathBuf),
        notary: Child<warrant::ToNotary, warrant::ToInit>,
        agent: Child<start::ToAgent, start::ToInit>,
        observer: Child<observe::ToObserver, observe::ToInit>,
        policy: OwnedFd,
    ) -> Self {
        Self {
            hierarchy,
            upper,
            reports,
            notary,
            agent,
            identities: Identities::default(),
            policy: Some(policy),
            jails: None,
            permits: BTreeMap::new(),
            calls: Calls::new(observer.link),
            observer: Some(observer.pid),
            gaps: Gaps::Logged,
            ending: None,
        }
    }

    /// Runs until the machine is to power off, and says why.
    pub(super) fn run(mut self) -> Result<String, BootError> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        signals.thread_block().context(STAGE, || "block SIGCHLD".into())?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context(STAGE, || "open a signal descriptor".into())?;
        loop {
            match self.turn(&signals) {
                Ok(Turn::Go) => {}
                Ok(Turn::PowerOff(why)) => return Ok(why),
                Err(error) => return Err(error),
            }
        }
    }

    fn turn(&mut self, signals: &SignalFd) -> Result<Turn, BootError> {
        let now = Instant::now();
        if let Some((until, why)) = &self.ending
            && now >= *until
        {
            return Ok(Turn::PowerOff(why.clone()));
        }
        self.calls.tick(now);
        if self.calls.is_observer_late(now) {
            self.end(("observer".into(), "it does not tell what a call did with files".into()));
        }
        if let Err(error) = self.tell_agent() {
            return Ok(Turn::PowerOff(format!("the agent cannot be told: {error}")));
        }
        let (from_notary, from_agent, ready) = self.wait(signals, now)?;
        if let Err(why) = self.hear_observer(now) {
            self.end(why);
        }
        while let Ok(Some(_)) = signals.read_signal() {}
        // Its permits come before the starts that use them.
        if from_notary && let Err(why) = self.drain_notary() {
            self.end(why);
        }
        for intent in ready {
            self.calls.ready(intent);
        }
        if let Some(why) = self.collect() {
            return Ok(Turn::PowerOff(why));
        }
        if from_agent {
            return Ok(self.drain_agent());
        }
        Ok(Turn::Go)
    }

    /// Waits for the next thing to do: notary readable, agent readable, calls with news.
    fn wait(&self, signals: &SignalFd, now: Instant) -> Result<(bool, bool, Vec<u64>), BootError> {
        let deadline = self.calls.next_deadline().into_iter().chain(self.ending.as_ref().map(|(at, _)| *at)).min();
        let timeout = deadline.map(|at| {
            let left = at.saturating_duration_since(now);
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
        });
        let interests = self.calls.interests();
        // A notary that failed has nothing more to say, and its closed socket would be ready for ever.
        let notary = if self.ending.is_some() { PollFlags::empty() } else { PollFlags::IN };
        let mut fds = vec![
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.agent.link.as_fd(), PollFlags::IN),
        ];
        if !notary.is_empty() {
            fds.push(PollFd::from_borrowed_fd(self.notary.link.as_fd(), notary));
        }
        if self.observer.is_some() && self.ending.is_none() {
            fds.push(PollFd::from_borrowed_fd(self.calls.observer().as_fd(), PollFlags::IN));
        }
        let first_call = fds.len();
        fds.extend(interests.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context(STAGE, || "wait for events".into()),
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let from_notary = !notary.is_empty() && is_ready(&fds[2]);
        let ready = fds[first_call..].iter().zip(&interests).filter(|(fd, _)| is_ready(fd));
        Ok((from_notary, is_ready(&fds[1]), ready.map(|(_, (intent, ..))| *intent).collect()))
    }

    /// Takes what the observer has to say. An error is a reason to end: (stage, detail).
    fn hear_observer(&mut self, now: Instant) -> Result<(), (String, String)> {
        if self.observer.is_none() || self.ending.is_some() {
            return Ok(());
        }
        let lost = match self.calls.hear() {
            Ok(lost) => lost,
            // How it ended is told when it is collected.
            Err(ChannelError::Closed) => return Ok(()),
            Err(error) => return Err(("observer".to_owned(), error.to_string())),
        };
        if self.gaps == Gaps::Fatal {
            lost.into_iter().for_each(|intent| self.calls.end(intent, Cause::RecordIncomplete, now));
        }
        Ok(())
    }

    /// The machine is to end for this reason; the agent gets a moment to tell the host.
    fn end(&mut self, (stage, detail): (String, String)) {
        if self.ending.is_some() {
            return;
        }
        let why = format!("{stage}: {detail}");
        console::say(&why);
        drop(self.agent.link.send(&start::ToAgent::Fatal { stage, detail }, &[], Wait::Never));
        self.ending = Some((Instant::now() + LAST_WORDS, why));
    }

    /// Collects every process that ended. A reason to power off at once is answered.
    fn collect(&mut self) -> Option<String> {
        while let Some(reaped) = reap::reap(Who::Anyone) {
            if reaped.pid == self.agent.pid {
                let ending = self.ending.take().map(|(_, why)| why);
                return Some(ending.unwrap_or_else(|| format!("the agent ended: {reaped:?}")));
            }
            if reaped.pid == self.notary.pid {
                // It says why before it ends, if it can.
                let said = self.drain_notary().err();
                let why = said.unwrap_or_else(|| ("notary".into(), format!("the notary ended: {reaped:?}")));
                self.end(why);
                continue;
            }
            if self.observer == Some(reaped.pid) {
                self.observer = None;
                // What is not seen must not go on.
                self.end(("observer".into(), format!("the observer ended: {reaped:?}")));
                continue;
            }
            if !self.calls.reaped(reaped, Instant::now())
                && let Some(jails) = &mut self.jails
            {
                jails.reaped(reaped.pid);
            }
        }
        None
    }

    fn tell_agent(&mut self) -> Result<(), ChannelError> {
        for report in self.calls.reports() {
            match report {
                Report::Started(intent, pipes) => {
                    let fds: Vec<_> = pipes.iter().map(OwnedFd::as_fd).collect();
                    self.agent.link.send(&start::ToAgent::Started { intent }, &fds, Wait::Never)?;
                }
                Report::NotStarted(intent, error) => {
                    self.tell_notary(&warrant::ToNotary::NotStarted { intent }, &[]);
                    let stage = error.stage.word().to_owned();
                    let errno = u64::from(error.errno.unsigned_abs());
                    let message = start::ToAgent::NotStarted { intent, stage, errno };
                    self.agent.link.send(&message, &[], Wait::Never)?;
                }
                Report::Recorded(intent, record, coverage) => {
                    self.tell_notary(&warrant::ToNotary::Recorded { intent, coverage }, &[record.as_fd()]);
                }
                Report::Exited(intent, exit) => {
                    self.agent.link.send(&start::ToAgent::Exited { intent, exit }, &[], Wait::Never)?;
                }
            }
        }
        for (uid, jail) in self.calls.clear() {
            if let Some(jails) = &mut self.jails {
                // Unless it was used meanwhile.
                jails.prepare(uid);
                jails.take_apart(jail);
            }
        }
        Ok(())
    }

    /// How a call ended: the notary hears it first, and takes no other word for it.
    fn tell_notary(&mut self, message: &warrant::ToNotary, descriptors: &[BorrowedFd<'_>]) {
        if let Err(error) = self.notary.link.send(message, descriptors, Wait::Never)
            && self.ending.is_none()
        {
            self.end(("notary".into(), error.to_string()));
        }
    }

    /// Does what the notary asks. An error is a reason to end: (stage, detail).
    fn drain_notary(&mut self) -> Result<(), (String, String)> {
        let refuse = |detail: String| ("notary".to_owned(), detail);
        loop {
            let message = match self.notary.link.receive(Wait::Never) {
                Ok((message, _)) => message,
                // How it ended is told when it is collected.
                Err(ChannelError::WouldBlock | ChannelError::Closed) => return Ok(()),
                Err(error) => return Err(refuse(error.to_string())),
            };
            match message {
                warrant::ToInit::Admitted { identities, gaps } => {
                    self.gaps = gaps;
                    self.identities = Identities::new(&identities).map_err(refuse)?;
                    let mut jails = self.make_rooms(&identities).map_err(|error| ("jail".into(), error.line()))?;
                    self.show_places(&mut jails).map_err(|error| ("observer".to_owned(), error.to_string()))?;
                    self.jails = Some(jails);
                }
                warrant::ToInit::Permit { intent, identity, request } => {
                    let known = self.identities.uid(&identity).is_some();
                    let free = self.permits.len() < PERMITS_MAX && !self.permits.contains_key(&intent);
                    if !known || !free {
                        return Err(refuse(format!("a permit for intent {intent} that cannot be one")));
                    }
                    self.permits.insert(intent, Permit { identity, request: Digest256::new(request) });
                }
                warrant::ToInit::Open { file } => self.open(file).map_err(|error| refuse(error.to_string()))?,
                warrant::ToInit::Scrub => self.scrub().map_err(refuse)?,
                warrant::ToInit::Failed { stage, detail } => return Err((stage, detail)),
            }
        }
    }

    /// Makes the rooms of the identities, as the policy lets each of them use files.
    fn make_rooms(&mut self, identities: &[String]) -> Result<Jails, BootError> {
        let policy = self.policy.take().ok_or_else(|| BootError::Unexpected {
            stage: STAGE,
            expected: "one admission".into(),
            found: "another".into(),
        })?;
        let grants = grants::ask(self.hierarchy.own("init")?, policy, identities)?;
        let uids = identities.iter().filter_map(|name| self.identities.uid(name));
        let site =
            Site { workspace: fixed::WORKSPACE.into(), tmp_bytes: root::memory_bytes()? / 8, landlock: rules::GUEST };
        Jails::new(&site, &self.hierarchy, &uids.zip(grants).collect::<Vec<_>>())
    }

    /// Shows the observer where tools can write, before the first of them runs.
    fn show_places(&self, jails: &mut Jails) -> Result<(), ChannelError> {
        let (places, names) = jails.observed().map_err(|error| {
            ChannelError::System(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
        })?;
        for place in &places {
            let message = observe::ToObserver::Place { uid: place.uid.unwrap_or(0).into() };
            self.calls.observer().send(&message, &[place.root.as_fd()], Wait::Block)?;
        }
        self.calls.observer().send(&observe::ToObserver::Names, &[names.as_fd()], Wait::Block)
    }

    /// Opens a file of the report directory anew and hands it over.
    fn open(&self, file: warrant::ReportFile) -> Result<(), ChannelError> {
        let flags = match file {
            warrant::ReportFile::Inblob => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        match rustix::fs::open(self.reports.join(file.name()), flags | OFlags::CLOEXEC, Mode::empty()) {
            Ok(opened) => self.notary.link.send(&warrant::ToNotary::Opened, &[opened.as_fd()], Wait::Never),
            Err(errno) => {
                let errno = u64::from(errno.raw_os_error().unsigned_abs());
                self.notary.link.send(&warrant::ToNotary::NotOpened { errno }, &[], Wait::Never)
            }
        }
    }

    /// What the guest's own processes took of memory at most: in a guest nobody else can see them.
    fn resident(&self) -> String {
        let kib = |pid: i32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("?");
            line.trim().trim_end_matches(" kB").to_owned()
        };
        let (init, notary, agent) = (kib(1), kib(self.notary.pid), kib(self.agent.pid));
        let observer = self.observer.map_or_else(|| "?".to_owned(), kib);
        format!("resident at most: init {init} notary {notary} agent {agent} observer {observer} KiB")
    }

    fn scrub(&mut self) -> Result<(), String> {
        if !self.calls.is_empty() {
            return Err("a scrub was asked for while calls run".into());
        }
        self.permits.clear();
        console::say(&self.resident());
        // It has the places open that are to be unmounted, and nothing more to see.
        if let Some(observer) = self.observer.take().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(observer, rustix::process::Signal::KILL);
            let _ = reap::reap_waiting(Who::Pid(observer.as_raw_pid()));
        }
        let steps = scrub::scrub(&self.hierarchy, &self.upper, self.jails.take());
        self.notary
            .link
            .send(&warrant::ToNotary::Scrubbed { steps }, &[], Wait::Never)
            .map_err(|error| error.to_string())
    }

    fn drain_agent(&mut self) -> Turn {
        // Whatever it sends, deadlines and everybody else have their turn.
        for _ in 0..MESSAGES {
            let message = match self.agent.link.receive(Wait::Never) {
                Ok((message, _)) => message,
                Err(ChannelError::WouldBlock) => return Turn::Go,
                Err(error) => return Turn::PowerOff(format!("the agent's link: {error}")),
            };
            match message {
                start::ToInit::Start { intent, request } => {
                    // The permit may have arrived after the poll.
                    if let Err(why) = self.drain_notary().and_then(|()| self.start(intent, &request)) {
                        self.end(why);
                        return Turn::Go;
                    }
                }
                start::ToInit::Cancel { intent } => self.calls.end(intent, Cause::Cancelled, Instant::now()),
                start::ToInit::Signal { intent, signal } => {
                    if let Some(signal) = rustix::process::Signal::from_named_raw(signal) {
                        self.calls.signal(intent, signal);
                    }
                }
                start::ToInit::EndCalls => self.calls.end_all(Cause::SessionClosing, Instant::now()),
                start::ToInit::PowerOff => {
                    let ending = self.ending.take().map(|(_, why)| why);
                    return Turn::PowerOff(ending.unwrap_or_else(|| "the session is over".into()));
                }
            }
        }
        Turn::Go
    }

    /// Starts what the notary logged, and nothing else.
    fn start(&mut self, intent: u64, request: &[u8]) -> Result<(), (String, String)> {
        let refuse = |detail: &str| ("unlogged start".to_owned(), format!("intent {intent}: {detail}"));
        let permit = self.permits.remove(&intent).ok_or_else(|| refuse("there is no permit for it"))?;
        if Digest256::of(request) != permit.request {
            return Err(refuse("the request is not the one that was logged"));
        }
        let uid = self.identities.uid(&permit.identity).ok_or_else(|| refuse("the identity is unknown"))?;
        let jails = self.jails.as_mut().ok_or_else(|| refuse("the workspace is gone"))?;
        let (command, times) = match command::command(request, c"/proc/self/exe") {
            Ok(command) => command,
            Err(command::CommandError::NotARequest) => return Err(refuse("the request does not parse")),
            Err(command::CommandError::Start(error)) => {
                self.calls.refuse(intent, error);
                return Ok(());
            }
        };
        match jails.take(uid) {
            Ok(jail) => {
                let started = self.calls.start(intent, Place { uid, jail }, command, times);
                started.map_err(|error| ("observer".to_owned(), error.to_string()))?;
                // The next call of this identity finds its jail made, while this one runs.
                jails.prepare(uid);
            }
            Err(error) => {
                self.calls.refuse(intent, StartError { stage: error.stage(), errno: error.errno() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "supervise_tests.rs"]
mod tests;
