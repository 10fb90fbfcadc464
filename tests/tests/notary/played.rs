//! A notary on a thread of its own, and everybody around it: init, which scrubs at once, the agent, and the TD.

use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coffer_agent::channel::{self, Channel, ChannelError, Wait};
use coffer_agent::frames::{log, warrant};
use coffer_agent::machine::Machine;
use coffer_agent::notary::heard::Init;
use coffer_agent::notary::live::{self, NotaryError};
use coffer_agent::notary::quotes::{QuoteSource, QuoteSourceError};
use coffer_agent::notary::registers::{REGISTER, RegisterError, Registers, Snapshot};
use coffer_evidence::boot_disk;
use coffer_evidence::call::Request;
use coffer_evidence::config::measured_config;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::Digest256;
use coffer_evidence::intent::Limits;
use coffer_evidence::leaf::{ScrubStep, StepResult};
use coffer_evidence::link::{Frame as _, Mirror};
use coffer_evidence::open::OpenMap;
use coffer_evidence::seal::{ClosedBy, Reason};
use coffer_tdx_sim::quote;
use coffer_tdx_sim::td::{CreationInputs, Extended, SimulatedTd};
use coffer_tests::guest::{PERMIT_ALL, config};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What of a quote is not that of the TD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tampered {
    Nothing,
    ReportData,
    Mrtd,
    MrConfigId,
    MrOwner,
    MrOwnerConfig,
    Rtmr(usize),
}

#[derive(Clone)]
struct Td(Arc<Mutex<SimulatedTd>>);

impl Td {
    fn lock(&self) -> MutexGuard<'_, SimulatedTd> {
        self.0.lock().expect("the TD")
    }

    fn extend(&self, digest: &[u8; REGISTER]) {
        assert_eq!(self.lock().extend(3, digest), Extended::Done);
    }
}

impl Registers for Td {
    fn snapshot(&self) -> Result<Snapshot, RegisterError> {
        let registers = *self.lock().registers();
        let [rtmr0, rtmr1, rtmr2, _] = registers.rtmr;
        Ok(Snapshot {
            mr_config_id: registers.mr_config_id,
            mr_owner: registers.mr_owner,
            mr_owner_config: registers.mr_owner_config,
            mr_td: registers.mrtd,
            rtmr: [rtmr0, rtmr1, rtmr2],
        })
    }

    fn rtmr3(&self) -> Result<[u8; REGISTER], RegisterError> {
        Ok(self.lock().registers().rtmr[3])
    }

    fn extend(&mut self, digest: &[u8; REGISTER]) -> Result<(), RegisterError> {
        Td::extend(self, digest);
        Ok(())
    }
}

struct Source {
    td: Td,
    /// Of the quotes still to be asked for, counted from zero, this one is tampered with.
    tampered: (usize, Tampered),
    asked: usize,
    /// Called before the final quote is made.
    look: Option<Look>,
}

/// What is to be seen at one moment.
type Look = Box<dyn FnOnce() + Send>;

impl QuoteSource for Source {
    fn quote(&mut self, report_data: &[u8; 64]) -> Result<Vec<u8>, QuoteSourceError> {
        let (mut registers, mut data) = (*self.td.lock().registers(), *report_data);
        if self.asked == 1
            && let Some(look) = self.look.take()
        {
            look();
        }
        let (which, tampered) = self.tampered;
        if which == self.asked {
            match tampered {
                Tampered::Nothing => {}
                Tampered::ReportData => data[63] ^= 1,
                Tampered::Mrtd => registers.mrtd[0] ^= 1,
                Tampered::MrConfigId => registers.mr_config_id[47] ^= 1,
                Tampered::MrOwner => registers.mr_owner[1] ^= 1,
                Tampered::MrOwnerConfig => registers.mr_owner_config[2] ^= 1,
                Tampered::Rtmr(number) => registers.rtmr[number][20] ^= 1,
            }
        }
        self.asked += 1;
        Ok(quote::quote(&registers, &data))
    }
}

type Running = JoinHandle<Result<(), NotaryError>>;

/// A notary and its surroundings.
pub(crate) struct Played {
    td: Td,
    agent: Channel<log::ToNotary, log::ToAgent>,
    heard: Vec<log::ToAgent>,
    calls: u8,
    /// Until it is let go.
    waiting: Option<Box<dyn FnOnce() -> Running + Send>>,
    notary: Option<Running>,
}

impl Played {
    /// A notary whose opening quote is tampered with so.
    pub(crate) fn start(tampered: Tampered) -> Self {
        Self::with((0, tampered), None)
    }

    /// One whose final quote is.
    pub(crate) fn start_and_tamper_at_the_seal(tampered: Tampered) -> Self {
        Self::with((1, tampered), None)
    }

    /// One that calls this when it asks for the final quote.
    pub(crate) fn start_and_look_at_the_seal(look: impl FnOnce() + Send + 'static) -> Self {
        Self::with((0, Tampered::Nothing), Some(Box::new(look)))
    }

    fn with(tampered: (usize, Tampered), look: Option<Look>) -> Self {
        let (bytes, intent) =
            config((Digest256::of(b"image"), 1), PERMIT_ALL, &["default"], Limits::default()).expect("a config");
        let measured = measured_config(&bytes, &intent);
        let booted = coffer_measurement::Registers { mrtd: [1; 48], rtmr0: [2; 48], rtmr1: [3; 48], rtmr2: [4; 48] };
        let inputs = CreationInputs {
            mr_config_id: measured.mr_config_id,
            mr_owner: measured.mr_owner,
            mr_owner_config: measured.mr_owner_config,
        };
        let td = Td(Arc::new(Mutex::new(SimulatedTd::new(&booted, &inputs))));
        let machine = Machine { image_svn: 1, shapes: vec!["s1".into()], processors: 2, memory_bytes: 2_000_000_000 };
        let disk = boot_disk::write(&bytes, PERMIT_ALL.as_bytes());
        let (agent, notary_of_agent) = channel::pair().expect("a link");
        let (init, notary_of_init) = channel::pair::<warrant::ToNotary, warrant::ToInit>().expect("a link");
        std::thread::spawn(move || scrub(&init));
        let registers = td.clone();
        let waiting = move || {
            std::thread::spawn(move || {
                let source = Source { td: registers.clone(), tampered, asked: 0, look };
                let init = Init::new(notary_of_init);
                live::live(&init, &notary_of_agent, registers, source, (&disk, &machine), live::now)
            })
        };
        Self { td, agent, heard: Vec::new(), calls: 0, waiting: Some(Box::new(waiting)), notary: None }
    }

    /// Somebody extends RTMR3 before the notary runs.
    pub(crate) fn extended_before(self, digest: &[u8; REGISTER]) -> Self {
        assert!(self.waiting.is_some(), "it runs");
        self.td.extend(digest);
        self
    }

    /// Somebody extends RTMR3.
    pub(crate) fn extend_rtmr3(&self, digest: &[u8; REGISTER]) {
        self.td.extend(digest);
    }

    fn go(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.notary = Some(waiting());
        }
    }

    /// Waits until it is open and has covered that.
    pub(crate) fn open(&mut self) -> OpenMap {
        self.go();
        loop {
            if let Some(log::ToAgent::Opened { open_map, .. }) = self.hear() {
                self.heard.clear();
                return OpenMap::parse(&open_map).expect("an open map");
            }
        }
    }

    /// The next message; `None` when there will be none.
    fn hear(&mut self) -> Option<log::ToAgent> {
        match self.agent.receive(Wait::Block) {
            Ok((message, _)) => {
                self.heard.push(message.clone());
                Some(message)
            }
            Err(ChannelError::Closed) => None,
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn send(&mut self, message: &log::ToNotary) {
        self.agent.send(message, &[], Wait::Block).expect("a notary that listens");
    }

    /// Has a refused call logged; answers when that was asked for.
    pub(crate) fn denied(&mut self) -> Instant {
        self.calls += 1;
        let request = Request::Stat { path: "a".into() }.to_bytes();
        let (identity, call, client_salt) = ("default".into(), [self.calls; 16], [self.calls; 32]);
        let (program, paths, rules) = (None, vec!["a".into()], Vec::new());
        let asked = Instant::now();
        self.send(&log::ToNotary::Denied(log::Call { identity, call, client_salt, request, program, paths, rules }));
        loop {
            match self.hear() {
                Some(log::ToAgent::Appended { .. }) => return asked,
                Some(log::ToAgent::Record { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// When the next note came, and how many leaves came with it.
    pub(crate) fn next_note(&mut self, patience: Duration) -> (Instant, usize) {
        let until = Instant::now() + patience;
        // Some of it may have come between answers.
        let mut leaves = 0;
        for message in std::mem::take(&mut self.heard) {
            match record(&message) {
                Some(Mirror::Leaf { .. }) => leaves += 1,
                Some(Mirror::Note(_)) => return (Instant::now(), leaves),
                _ => {}
            }
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let mut fds = [PollFd::from_borrowed_fd(self.agent.as_fd(), PollFlags::IN)];
            assert!(poll(&mut fds, Some(&timeout)).expect("poll") > 0, "no note within {patience:?}");
            match record(&self.hear().expect("a notary that lives")) {
                Some(Mirror::Leaf { .. }) => leaves += 1,
                Some(Mirror::Note(_)) => {
                    self.heard.clear();
                    return (Instant::now(), leaves);
                }
                _ => {}
            }
        }
    }

    /// Has it sealed; why not, when it ended instead.
    pub(crate) fn seal(&mut self) -> Result<(), NotaryError> {
        let (reason, closed_by) = (Reason::UserClosed.number(), ClosedBy::Host.number());
        // One that has ended already says why.
        drop(self.agent.send(&log::ToNotary::Seal { reason, closed_by }, &[], Wait::Block));
        loop {
            match self.hear() {
                Some(log::ToAgent::Sealed { .. }) => return Ok(()),
                Some(_) => {}
                None => return Err(self.ended()),
            }
        }
    }

    /// Why it ended.
    pub(crate) fn ended(&mut self) -> NotaryError {
        self.go();
        let notary = self.notary.take().expect("a notary that nobody waited for");
        notary.join().expect("no panic").expect_err("an end that is none of its own will")
    }

    /// Everything it said since it was opened, or began.
    pub(crate) fn rest(&mut self) -> Vec<log::ToAgent> {
        while self.hear().is_some() {}
        std::mem::take(&mut self.heard)
    }
}

/// What a message carries of the mirror.
pub(crate) fn record(message: &log::ToAgent) -> Option<Mirror> {
    match message {
        log::ToAgent::Record { frame } => Some(Mirror::decode(frame.get(4..)?).expect("a frame of the mirror")),
        _ => None,
    }
}

/// Init, as far as the notary needs it.
fn scrub(init: &Channel<warrant::ToNotary, warrant::ToInit>) {
    let steps = || {
        let done = (0..).map_while(StepResult::from_number).find(|result| *result == StepResult::Done);
        let done = done.expect("a step that is done").number();
        (0..).map_while(ScrubStep::from_number).map(|step| [step.number(), done]).collect()
    };
    while let Ok((message, _)) = init.receive(Wait::Block) {
        if message == warrant::ToInit::Scrub {
            let scrubbed = warrant::ToNotary::Scrubbed { steps: steps() };
            init.send(&scrubbed, &[], Wait::Block).expect("a notary that listens");
        }
    }
}
