//! The notary's life: from the boot disk to the seal. Every error ends it.

use super::admission::{self, Admitted};
use super::heard::{HeardError, Init};
use super::keys::{self, Keys, PrivateKey};
use super::quotes::QuoteSource;
use super::recorder::Recorder;
use super::records::Records;
use super::registers::Registers;
use super::sealing::{self, Bound};
use super::signing::Commits;
use crate::channel::{Channel, ChannelError, Wait};
use crate::fixed;
use crate::frames::observe::Coverage;
use crate::frames::{log, warrant};
use crate::machine::Machine;
use coffer_evidence::call::{IntentPrivate, OutcomePrivate, Request};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{CallId, Digest256, Identity};
use coffer_evidence::intent::RecordRequired;
use coffer_evidence::leaf::{self, LimitKind, Method, Opened, Public, Reporter, ScrubStep, StepResult};
use coffer_evidence::open::OpenMap;
use coffer_evidence::seal::{ClosedBy, Reason};
use coffer_evidence::writer::{AppendError, LeafDraft, LogWriter};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt::{Display, Write as _};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// Why the notary ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{stage}: {detail}")]
pub struct NotaryError {
    /// What was being done.
    pub stage: &'static str,
    /// What went wrong; never a secret.
    pub detail: String,
}

impl NotaryError {
    /// One line.
    pub fn new(stage: &'static str, detail: impl Display) -> Self {
        Self { stage, detail: detail.to_string() }
    }

    /// An error with all its sources on one line.
    pub fn chain(stage: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut detail = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let _ = write!(detail, ": {error}");
            source = error.source();
        }
        Self { stage, detail }
    }
}

impl From<ChannelError> for NotaryError {
    fn from(error: ChannelError) -> Self {
        let mut detail = error.to_string();
        if let Some(source) = error.source() {
            let _ = write!(detail, ": {source}");
        }
        Self { stage: "links", detail }
    }
}

impl From<HeardError> for NotaryError {
    fn from(error: HeardError) -> Self {
        Self::chain("links", &error)
    }
}

/// A moment: monotonic nanoseconds since boot, and the wall clock's hint in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Never goes back.
    pub monotonic_ns: u64,
    /// The host's clock, in truth.
    pub wall_hint_ms: u64,
}

/// The present moment.
pub fn now() -> Moment {
    let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(monotonic.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(monotonic.tv_nsec).unwrap_or(0);
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |wall| wall.as_millis());
    Moment {
        monotonic_ns: seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
        wall_hint_ms: u64::try_from(wall).unwrap_or(u64::MAX),
    }
}

/// The link to the agent.
type Agent = Channel<log::ToAgent, log::ToNotary>;

/// Lives until the agent closes its socket after the seal. Everything else is an error.
pub fn live<R: Registers, Q: QuoteSource>(
    init: &Init,
    agent: &Agent,
    registers: R,
    source: Q,
    (boot_disk, machine): (&[u8], &Machine),
    clock: impl Fn() -> Moment,
) -> Result<(), NotaryError> {
    let snapshot = registers.snapshot().map_err(|error| NotaryError::chain("registers", &error))?;
    let admitted = admission::admit(boot_disk, &snapshot, machine)?;
    let identities: Vec<String> = admitted.intent.identities.keys().map(ToString::to_string).collect();
    let gaps = match admitted.intent.record {
        RecordRequired::Yes => warrant::Gaps::Fatal,
        RecordRequired::No => warrant::Gaps::Logged,
    };
    init.send(&warrant::ToInit::Admitted { identities, gaps })?;
    let (config, policy) = (admitted.config_bytes.clone(), admitted.policy.clone());
    agent.send(&log::ToAgent::Admitted { config, policy }, &[], Wait::Block)?;

    let mut notary = open(init, agent, registers, source, admitted, clock)?;
    loop {
        notary.wait()?;
        match notary.receive() {
            Ok(Some(message)) => notary.handle(message)?,
            Ok(None) => {}
            Err(ChannelError::Closed) if notary.key.is_none() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

struct Notary<'a, R, Q, C> {
    init: &'a Init,
    agent: &'a Agent,
    recorder: Recorder<R>,
    source: Q,
    bound: Bound,
    clock: C,
    /// Gone once the log is sealed.
    key: Option<PrivateKey>,
    /// Calls without an outcome, by the index of their intent.
    running: BTreeMap<u64, (Identity, CallId, Method)>,
    records: Records,
    /// The git key, and what it may sign.
    commits: Commits,
    limit_logged: bool,
}

/// Makes keys and instance, and tells the agent once all of it is proven and logged.
fn open<'a, R: Registers, Q: QuoteSource, C: Fn() -> Moment>(
    init: &'a Init,
    agent: &'a Agent,
    registers: R,
    mut source: Q,
    admitted: Admitted,
    clock: C,
) -> Result<Notary<'a, R, Q, C>, NotaryError> {
    let Keys { log: key, git, tls_spki } = Keys::make()?;
    let open_map = OpenMap {
        launch: admitted.config.host.launch,
        session: admitted.intent.session,
        config_digest: admitted.config_digest,
        log_key: key.public(),
        tls_spki,
        git_key: git.public(),
        agent_svn: fixed::AGENT_SVN,
        random: keys::random()?,
        bind_nonce: None,
    };
    let (writer, event) = LogWriter::open(&admitted.intent, &open_map);
    let (recorder, record) = Recorder::open(writer, registers, event)?;
    agent.send(&log::ToAgent::Record { frame: record }, &[], Wait::Block)?;
    let rtmr3 = recorder.writer.expected_rtmr3();
    let quote = sealing::quote(&mut source, &open_map.report_data(), &recorder.registers, rtmr3)?;
    let opening_quote = Digest256::of(&quote);
    let instance = open_map.instance();
    let open_bytes = open_map.to_bytes();
    let bound = Bound { admitted, open_map, opening_quote };
    let mut notary = Notary {
        init,
        agent,
        recorder,
        source,
        bound,
        clock,
        key: Some(key),
        running: BTreeMap::new(),
        records: Records::default(),
        commits: Commits::new(git),
        limit_logged: false,
    };
    notary.append_own(Public::Open { instance, opening_quote })?;
    // Covered at once: however short the session is, there is a prefix that verifies.
    notary.checkpoint()?;
    notary.tell(&log::ToAgent::Opened { open_map: open_bytes, quote })?;
    Ok(notary)
}

impl<R: Registers, Q: QuoteSource, C: Fn() -> Moment> Notary<'_, R, Q, C> {
    fn tell(&self, message: &log::ToAgent) -> Result<(), NotaryError> {
        Ok(self.agent.send(message, &[], Wait::Block)?)
    }

    /// Waits for the agent, making the checkpoint that falls due meanwhile.
    fn wait(&mut self) -> Result<(), NotaryError> {
        let due = self.recorder.due();
        if due.is_some_and(|due| due <= Instant::now()) {
            return self.checkpoint();
        }
        let timeout = due.map(|due| {
            let left = due.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
        });
        match poll(&mut [PollFd::new(self.agent, PollFlags::IN)], timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(NotaryError::new("links", errno)),
        }
    }

    fn receive(&self) -> Result<Option<log::ToNotary>, ChannelError> {
        match self.agent.receive(Wait::Never) {
            Ok((message, _)) => Ok(Some(message)),
            Err(ChannelError::WouldBlock) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn checkpoint(&mut self) -> Result<(), NotaryError> {
        let key = self.key.as_ref().ok_or_else(|| NotaryError::new("log", "it is sealed"))?;
        for frame in key.sign(|key| self.recorder.checkpoint(key))? {
            self.tell(&log::ToAgent::Record { frame })?;
        }
        Ok(())
    }

    fn handle(&mut self, message: log::ToNotary) -> Result<(), NotaryError> {
        let answer = match message {
            log::ToNotary::Intent(call) => self.intent(call)?,
            log::ToNotary::Denied(call) => self.denied(call)?,
            log::ToNotary::Outcome { intent, private, output, input } => {
                self.outcome(intent, &private, output, input)?
            }
            log::ToNotary::Seal { reason, closed_by } => self.seal(reason, closed_by)?,
            log::ToNotary::Sign { intent, commit } => match self.commits.sign(intent, &commit)? {
                Ok(signature) => log::ToAgent::Signed { signature },
                Err(refusal) => refused(refusal),
            },
        };
        self.tell(&answer)
    }

    fn draft(&self, call: Option<(Identity, CallId)>, public: Public) -> LeafDraft {
        let Moment { monotonic_ns, wall_hint_ms } = (self.clock)();
        let (identity, call) = call.unzip();
        LeafDraft { reporter: Reporter::Agent, identity, call, monotonic_ns, wall_hint_ms, public }
    }

    /// A leaf that nobody may refuse.
    fn append_own(&mut self, public: Public) -> Result<u64, NotaryError> {
        let draft = self.draft(None, public);
        self.recorder.append(draft, None).map_err(|error| NotaryError::chain("log", &error))
    }

    /// A leaf that the agent asked for. What the rules of the log refuse for good reason is an answer; what a
    /// well-meaning agent would never ask for is an error.
    fn append_asked(
        &mut self,
        call: (Identity, CallId),
        public: Public,
        private: Vec<u8>,
    ) -> Result<Result<u64, log::Refusal>, NotaryError> {
        let opened = Opened { salt: keys::random()?, bytes: private };
        let draft = self.draft(Some(call), public);
        match self.recorder.append(draft, Some(opened)) {
            Ok(index) => Ok(Ok(index)),
            Err(AppendError::CallReused) => Ok(Err(log::Refusal::CallReused)),
            Err(AppendError::LimitReached(which)) => {
                self.limit(which)?;
                Ok(Err(log::Refusal::Full))
            }
            Err(AppendError::Refused(_) | AppendError::Private) => Ok(Err(log::Refusal::Unacceptable)),
            Err(error) => Err(NotaryError::chain("log", &error)),
        }
    }

    /// Says once in the log that a limit ended the session.
    fn limit(&mut self, which: LimitKind) -> Result<(), NotaryError> {
        if !std::mem::replace(&mut self.limit_logged, true) {
            self.append_own(Public::Limit { which })?;
        }
        Ok(())
    }

    fn intent(&mut self, mut call: log::Call) -> Result<log::ToAgent, NotaryError> {
        let identity = Identity::new(&call.identity).map_err(|error| NotaryError::new("agent", error))?;
        if !self.bound.admitted.intent.identities.contains_key(&identity) {
            return Err(NotaryError::new("agent", "it asks for a call of an identity that the intent does not name"));
        }
        let Ok(request) = Request::parse(&call.request) else { return Ok(refused(log::Refusal::Unacceptable)) };
        let (method, digest) = (request.method(), Digest256::of(&call.request));
        let rules = std::mem::take(&mut call.rules);
        if rules.is_empty() {
            return Err(NotaryError::new("agent", "it asks for a call that no rule allows"));
        }
        let request_steps = leaf::size_steps(call.request.len() as u64);
        let id = CallId::new(call.call);
        let public = Public::Intent { method, rules, request_steps, header: None };
        let index = match self.append_asked((identity.clone(), id), public, private(call))? {
            Ok(index) => index,
            Err(refusal) => return Ok(refused(refusal)),
        };
        self.commits.expect(index, request);
        let (name, request) = (identity.to_string(), *digest.as_bytes());
        let permit = warrant::ToInit::Permit { intent: index, identity: name, request };
        // Init knows before the agent does: the start that follows finds its permit.
        self.init.send(&permit)?;
        self.running.insert(index, (identity, id, method));
        Ok(log::ToAgent::Appended { index })
    }

    fn denied(&mut self, mut call: log::Call) -> Result<log::ToAgent, NotaryError> {
        let identity = Identity::new(&call.identity).map_err(|error| NotaryError::new("agent", error))?;
        let Ok(request) = Request::parse(&call.request) else { return Ok(refused(log::Refusal::Unacceptable)) };
        let rules = std::mem::take(&mut call.rules);
        let public = Public::Denied { method: request.method(), rules, header: None };
        let id = CallId::new(call.call);
        Ok(match self.append_asked((identity, id), public, private(call))? {
            Ok(index) => log::ToAgent::Appended { index },
            Err(refusal) => refused(refusal),
        })
    }

    fn outcome(&mut self, intent: u64, private: &[u8], output: u64, input: u64) -> Result<log::ToAgent, NotaryError> {
        let mut outcome = OutcomePrivate::parse(private).map_err(|error| NotaryError::chain("agent", &error))?;
        // What was signed is known here, what was done with files init knows, and nobody else's word counts.
        if outcome.commit.is_some() || outcome.record.is_some() {
            return Err(NotaryError::new("agent", "it names a commit or a record in an outcome"));
        }
        outcome.commit = self.commits.ended(intent);
        self.records.hear(self.init, |intent| self.running.contains_key(&intent))?;
        let (identity, call, method) =
            self.running.remove(&intent).ok_or_else(|| NotaryError::new("agent", "an outcome without an intent"))?;
        let (record, coverage) = self.records.take(intent, outcome.cause)?.unzip();
        outcome.record = record;
        // Said where everybody can see it, and by us: the record itself is private.
        if coverage == Some(Coverage::Partial) {
            let draft = self.draft(Some((identity.clone(), call)), Public::Incomplete { method });
            match self.recorder.append(draft, None) {
                // With no room for it the outcome has none either, or says what is missing itself.
                Ok(_) | Err(AppendError::LimitReached(_)) => {}
                Err(error) => return Err(NotaryError::chain("log", &error)),
            }
        }
        let public = Public::Outcome {
            method,
            cause: outcome.cause,
            output_steps: leaf::size_steps(output),
            input_steps: leaf::size_steps(input),
            input_covered: None,
        };
        Ok(match self.append_asked((identity, call), public, outcome.to_bytes())? {
            Ok(index) => log::ToAgent::Appended { index },
            Err(refusal) => refused(refusal),
        })
    }

    fn seal(&mut self, reason: u64, closed_by: u64) -> Result<log::ToAgent, NotaryError> {
        let protocol = |what| NotaryError::new("agent", what);
        let reason = Reason::from_number(reason).ok_or_else(|| protocol("an unknown reason"))?;
        let closed_by = closer(closed_by)?;
        if !self.running.is_empty() {
            return Err(protocol("it seals while calls are running"));
        }
        match reason {
            Reason::TtlExpired => self.limit(LimitKind::Ttl)?,
            Reason::IdleTimeout => self.limit(LimitKind::Idle)?,
            _ => {}
        }
        self.commits.destroy();
        let steps = self.scrub()?;
        self.append_own(Public::Scrub { steps })?;
        self.append_own(Public::Seal { count: self.recorder.writer.size() + 1 })?;
        self.checkpoint()?;
        let record = self.recorder.sealed()?;
        self.tell(&log::ToAgent::Record { frame: record })?;
        let key = self.key.take().ok_or_else(|| protocol("it seals twice"))?;
        let sealed = sealing::seal(&self.recorder, &self.bound, key, &mut self.source, (reason, closed_by))?;
        Ok(log::ToAgent::Sealed { seal_map: sealed.seal_map, quote: sealed.quote, statement: sealed.statement })
    }

    /// Has init scrub, and takes what it found.
    fn scrub(&mut self) -> Result<Vec<(ScrubStep, StepResult)>, NotaryError> {
        self.init.send(&warrant::ToInit::Scrub)?;
        let (warrant::ToNotary::Scrubbed { steps }, _) = self.init.answer()? else {
            return Err(NotaryError::new("scrub", "init answered something else"));
        };
        // Nothing runs any more: an end that is told now is no call's.
        self.records.hear(self.init, |_| false)?;
        steps
            .into_iter()
            .map(|[step, result]| ScrubStep::from_number(step).zip(StepResult::from_number(result)))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| NotaryError::new("scrub", "init told an unknown step or result"))
    }
}

/// Who closes, as far as the agent's word goes. That a client did is a matter of its signed close, which this version
/// has no channel to take: the agent alone cannot claim one.
fn closer(number: u64) -> Result<ClosedBy, NotaryError> {
    match ClosedBy::from_number(number) {
        Some(closer @ (ClosedBy::Agent | ClosedBy::Host)) => Ok(closer),
        Some(ClosedBy::Client) => {
            Err(NotaryError::new("agent", "it claims that a client closed, without a signed close"))
        }
        None => Err(NotaryError::new("agent", "an unknown closer")),
    }
}

fn refused(refusal: log::Refusal) -> log::ToAgent {
    log::ToAgent::Refused { refusal }
}

fn private(call: log::Call) -> Vec<u8> {
    let log::Call { client_salt, request, program, paths, .. } = call;
    IntentPrivate { client_salt, request, program, paths }.to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_word_alone_never_says_that_a_client_closed() {
        assert_eq!(closer(ClosedBy::Agent.number()), Ok(ClosedBy::Agent));
        assert_eq!(closer(ClosedBy::Host.number()), Ok(ClosedBy::Host));
        assert!(closer(ClosedBy::Client.number()).is_err());
        assert!(closer(3).is_err());
    }
}
