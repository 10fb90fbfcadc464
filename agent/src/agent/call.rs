//! One call from its header to its outcome leaf. Whatever happens in between, a logged intent gets its outcome here.
//!
//! ```text
//!  header ─ checks ─ place ─ policy ─> Intent logged ─> Start ─> runs ─> Outcome logged
//!             │        │        │           │             │
//!             ▼        ▼        ▼           ▼             ▼ not started: outcome all the same
//!          refused  TOO_MANY  Denied     refused by
//!                             logged     the notary
//! ```

use super::errors::Reason;
use super::judge;
use super::log::LogError;
use super::session::{Allowed, Counted, Session, Trouble};
use super::starter::{NotStarted, Process};
use crate::frames::log::{Call as LoggedCall, Refusal, ToNotary};
use crate::frames::start::{Cause, Exit};
use coffer_evidence::call::{OutcomePrivate, Request, Usage};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{CallId, Identity};
use coffer_evidence::leaf::CauseClass;
use coffer_policy::Run;
use coffer_proto::guest::v1 as pb;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Who calls, as the header says after it was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub(super) call: CallId,
    pub(super) identity: Identity,
    pub(super) salt: [u8; 32],
}

/// A call whose intent is logged.
#[derive(Debug)]
pub struct Call {
    session: Arc<Session>,
    /// Index of the intent leaf.
    pub intent: u64,
    request: Vec<u8>,
    allowed: Allowed,
    _place: OwnedSemaphorePermit,
    _counted: Counted,
}

/// Checks a header.
pub fn header(header: Option<pb::CallHeader>) -> Result<Header, Status> {
    let header = header.ok_or_else(|| Reason::InvalidArgument.status("expected a call header, found none"))?;
    let call: [u8; 16] = header.call_id.as_ref().try_into().map_err(|_| {
        Reason::InvalidArgument.status(format!("expected a call id of 16 bytes, found {}", header.call_id.len()))
    })?;
    // RFC 9562: version in the upper half of byte 6, variant in the upper bits of byte 8.
    if call[6] >> 4 != 4 || call[8] >> 6 != 0b10 {
        return Err(Reason::InvalidArgument.status("expected a call id that is a UUIDv4, found another kind"));
    }
    let salt = header.salt.as_ref().try_into().map_err(|_| {
        Reason::InvalidArgument.status(format!("expected a salt of 32 random bytes, found {}", header.salt.len()))
    })?;
    let name = if header.identity.is_empty() { "default" } else { &header.identity };
    let identity = Identity::new(name).map_err(|_| {
        Reason::InvalidArgument
            .status("expected an identity like `default`: [a-z][a-z0-9-]{0,30}, found something else")
    })?;
    Ok(Header { call: CallId::new(call), identity, salt })
}

impl Call {
    /// Takes a place, decides, and logs the intent.
    pub async fn begin(
        session: &Arc<Session>,
        header: Header,
        request: &Request,
        program: Option<String>,
        paths: Vec<String>,
    ) -> Result<Self, Status> {
        let counted = session.count();
        if session.closing.is_cancelled() {
            return Err(Reason::SessionClosing.status("the session is closing; create another"));
        }
        let place = session.places.clone().try_acquire_owned().map_err(|_| {
            let most = super::limits::CALLS_AT_ONCE;
            Reason::TooManyCalls.status(format!("{most} calls run already; wait for one of them"))
        })?;
        let judged = judge::resources(request)?;
        let request = request.to_bytes();
        let mut logged = LoggedCall {
            identity: header.identity.to_string(),
            call: *header.call.as_bytes(),
            client_salt: header.salt,
            request: request.clone(),
            program,
            paths,
            rules: Vec::new(),
        };
        if !session.identities.contains(&header.identity) {
            let reason = Reason::IdentityUnknown;
            session.log.append(ToNotary::Denied(logged)).await.map_err(|error| refused(session, &error))?;
            let name = header.identity;
            return Err(reason.status(format!("the session's intent names no identity {name}; use one that it names")));
        }
        let allowed = match judge::decide(session, &header.identity, judged) {
            Ok((allowed, rules)) => {
                logged.rules = rules;
                allowed
            }
            Err(denied) => {
                logged.rules = denied.rules;
                session.log.append(ToNotary::Denied(logged)).await.map_err(|error| refused(session, &error))?;
                return Err(denied.status);
            }
        };
        let intent = session.log.append(ToNotary::Intent(logged)).await.map_err(|error| refused(session, &error))?;
        let session = session.clone();
        Ok(Self { session, intent, request, allowed, _place: place, _counted: counted })
    }

    /// Has init start the program of the logged request.
    pub async fn start(&mut self) -> Result<Result<Process, NotStarted>, Status> {
        let request = std::mem::take(&mut self.request);
        self.session.starter.start(self.intent, request).await.map_err(|error| {
            // Init is gone; the machine follows.
            self.session.report(Trouble::LogBroken(error.to_string()));
            Reason::OutcomeUnknown.status("the guest is ending")
        })
    }

    /// Asks for the end of the program.
    pub async fn cancel(&self) {
        // If init is gone, so is the program.
        drop(self.session.starter.cancel(self.intent).await);
    }

    /// Sends the program a signal that a client may send.
    pub async fn signal(&self, signal: i32) {
        // As for the end of it.
        drop(self.session.starter.signal(self.intent, signal).await);
    }

    /// Feeds the program until that is done or the program is over. When the client's stream is at fault, the program is ended
    /// before its input may be dropped: an end of input that it sees is one.
    pub async fn feeding(
        &self,
        feed: impl Future<Output = Result<(), Status>>,
        over: &CancellationToken,
    ) -> Result<(), Status> {
        let fed = tokio::select! {
            fed = feed => fed,
            () = over.cancelled() => Ok(()),
        };
        if fed.is_err() {
            self.cancel().await;
            over.cancelled().await;
        }
        fed
    }

    /// Has a commit signed: only for a call whose request is one.
    pub fn signer(&self) -> impl Fn(Vec<u8>) -> BoxFuture<'static, Option<String>> + use<> {
        let (log, intent) = (self.session.log.clone(), self.intent);
        move |commit| {
            let log = log.clone();
            Box::pin(async move { log.sign(intent, commit).await.ok() })
        }
    }

    /// Cancelled once the session accepts nothing any more.
    pub fn closing(&self) -> CancellationToken {
        self.session.closing.clone()
    }

    /// Logs the outcome; answers the index of its leaf.
    pub async fn outcome(mut self, outcome: &OutcomePrivate, output: u64, input: u64) -> Result<u64, Status> {
        let milliseconds = outcome.usage.as_ref().map_or(0, |usage| usage.wall_ms);
        self.allowed.run = Run { milliseconds, input_bytes: input, output_bytes: output };
        let private = outcome.to_bytes();
        let entry = ToNotary::Outcome { intent: self.intent, private, output, input };
        self.session.log.append(entry).await.map_err(|error| {
            // An effect without an outcome cannot be sealed.
            self.session.report(Trouble::LogBroken(error.to_string()));
            Reason::OutcomeUnknown.status("the outcome could not be logged; the session ends")
        })
    }
}

fn refused(session: &Session, error: &LogError) -> Status {
    match error {
        LogError::Refused(Refusal::CallReused) => {
            Reason::CallIdReused.status("this call id was used before in this session; make a new one for a new call")
        }
        LogError::Refused(Refusal::Full) => {
            session.report(Trouble::LimitReached);
            Reason::SessionFull.status("the session has used up its calls or its log; create another")
        }
        LogError::Refused(Refusal::Unacceptable) => {
            Reason::InvalidArgument.status("the action log does not take this request; make it smaller")
        }
        LogError::Gone => Reason::Internal.status("the action log is gone; the session ends"),
    }
}

/// The cause of an ended program, in the log's words.
pub fn cause(exit: &Exit) -> CauseClass {
    match (exit.cause, exit.code) {
        (Cause::Ended, Some(0)) => CauseClass::Completed,
        (Cause::Ended, Some(_)) => CauseClass::Failed,
        (Cause::Ended, None) => CauseClass::Signalled,
        (Cause::TimedOut, _) => CauseClass::TimedOut,
        (Cause::Cancelled, _) => CauseClass::Cancelled,
        (Cause::OutOfMemory, _) => CauseClass::OutOfMemory,
        (Cause::SessionClosing, _) => CauseClass::SessionClosing,
        (Cause::RecordIncomplete, _) => CauseClass::RecordIncomplete,
    }
}

/// Bytes of a stage that the log takes; an outcome with a longer one would end the session.
const STAGE_MAX: usize = 64;

/// A stage as it is logged. A tool's words are an identity's: they may be as long as it likes.
pub fn stage(words: &str) -> String {
    words[..words.floor_char_boundary(STAGE_MAX)].to_owned()
}

/// The outcome of a program that did not start.
pub fn not_started(error: &NotStarted) -> OutcomePrivate {
    OutcomePrivate {
        errno: Some(u64::from(error.errno.unsigned_abs())),
        stage: Some(stage(&error.stage)),
        ..OutcomePrivate::new(CauseClass::FailedToStart)
    }
}

/// The outcome of a program that ended, without its streams, and without what it did with files: that is not ours to tell.
pub fn ended(exit: &Exit) -> OutcomePrivate {
    OutcomePrivate {
        code: exit.code,
        signal: exit.signal,
        usage: Some(Usage {
            wall_ms: exit.wall_ms,
            user_us: exit.user_us,
            system_us: exit.system_us,
            max_rss_kib: exit.max_rss_kib,
        }),
        ..OutcomePrivate::new(cause(exit))
    }
}

#[cfg(test)]
mod tests {
    use super::super::link::Link;
    use super::super::log::Log;
    use super::super::starter::Starter;
    use super::super::stream::Stream;
    use super::*;
    use crate::channel;
    use crate::frames::log::ToAgent;
    use coffer_policy::Policy;

    fn valid() -> pb::CallHeader {
        let mut call_id = [7_u8; 16];
        call_id[6] = 0x47;
        call_id[8] = 0x87;
        pb::CallHeader { call_id: call_id.to_vec().into(), identity: String::new(), salt: vec![9; 32].into() }
    }

    #[test]
    fn whatever_a_tool_calls_its_stage_the_outcome_is_one_that_the_log_takes() {
        for words in ["", "read", &"a".repeat(64), &"a".repeat(65), &"ä".repeat(64), &"€".repeat(40), &"𝄞".repeat(99)]
        {
            let outcome = OutcomePrivate { stage: Some(stage(words)), ..OutcomePrivate::new(CauseClass::Failed) };
            assert_eq!(OutcomePrivate::parse(&outcome.to_bytes()).as_ref(), Ok(&outcome), "{words}");
            assert!(words.starts_with(outcome.stage.as_deref().unwrap()));
        }
        assert_eq!(stage(&"€".repeat(40)).len(), 63);
    }

    #[test]
    fn a_header_needs_a_random_uuid_a_salt_and_a_name() {
        assert_eq!(header(Some(valid())).unwrap().identity.to_string(), "default");
        let mut other = valid();
        other.call_id = vec![7; 16].into();
        assert!(header(Some(other)).is_err());
        let mut other = valid();
        other.call_id = vec![7; 15].into();
        assert!(header(Some(other)).is_err());
        let mut other = valid();
        other.salt = vec![9; 31].into();
        assert!(header(Some(other)).is_err());
        let mut other = valid();
        other.identity = "Default".into();
        assert!(header(Some(other)).is_err());
        assert!(header(None).is_err());
    }

    /// A session under this policy whose notary logs everything, and what it was told.
    fn session(policy: &str) -> (Arc<Session>, std::sync::mpsc::Receiver<ToNotary>) {
        let (notary, agent) = channel::pair::<ToAgent, ToNotary>().unwrap();
        let (_, init) = channel::pair().unwrap();
        let (log, carrying) = Log::new(Link::new(agent).unwrap(), Arc::new(Stream::new(1)));
        tokio::spawn(carrying);
        let (told, heard) = std::sync::mpsc::channel();
        let notary = Link::new(notary).unwrap();
        tokio::spawn(async move {
            let mut index = 0;
            while let Ok((message, _)) = notary.receive().await {
                told.send(message).unwrap();
                index += 1;
                notary.send(&ToAgent::Appended { index }).await.unwrap();
            }
        });
        let identities = vec![Identity::default_name()];
        let policy = Policy::parse(policy).unwrap();
        let (session, _) = Session::new(log, Starter::new(Link::new(init).unwrap()), identities, policy);
        (session, heard)
    }

    async fn begin(session: &Arc<Session>, request: &Request) -> Result<Call, Status> {
        Call::begin(session, header(Some(valid())).unwrap(), request, None, Vec::new()).await
    }

    const POLICY: &str = "@id(\"look\") permit (principal, action == Action::\"file.read\", resource in Path::\"/workspace\");\n\
        @id(\"budget\") forbid (principal, action, resource) when { context.calls >= 2 || context.output_bytes >= 100 };\n\
        @id(\"one\") forbid (principal, action, resource) when { context.running >= 1 };";

    #[tokio::test]
    async fn what_the_policy_allows_is_logged_with_its_rules_and_so_is_what_it_denies() {
        let (session, heard) = session(POLICY);
        let look = Request::Stat { path: "a".into() };
        let call = begin(&session, &look).await.unwrap();
        assert!(matches!(heard.recv(), Ok(ToNotary::Intent(logged)) if logged.rules == ["look"]));
        let write = Request::WriteFile { path: "a".into(), mode: 0o644, if_match: None };
        for (request, rules, words) in [(&look, &["one"][..], "forbids it by `one`"), (&write, &["one"], "by `one`")] {
            let status = begin(&session, request).await.unwrap_err();
            assert!(status.message().starts_with("POLICY_DENIED: ") && status.message().contains(words), "{status:?}");
            assert!(matches!(heard.recv(), Ok(ToNotary::Denied(logged)) if logged.rules == rules));
        }
        drop(call);
        let status = begin(&session, &write).await.unwrap_err();
        assert!(status.message().contains("file.write on /workspace/a by default: no rule"), "{status:?}");
        assert!(matches!(heard.recv(), Ok(ToNotary::Denied(logged)) if logged.rules.is_empty()));
    }

    #[tokio::test]
    async fn a_budget_counts_what_was_allowed_and_what_it_took_and_nothing_that_was_denied() {
        let (session, _heard) = session(POLICY);
        let name = "default".parse().unwrap();
        let look = Request::Stat { path: "a".into() };
        let of = |session: &Session| session.counters().of(&name);
        for _ in 0..3 {
            begin(&session, &Request::WriteFile { path: "a".into(), mode: 0, if_match: None }).await.unwrap_err();
        }
        assert_eq!(of(&session), coffer_policy::Usage::default());
        let call = begin(&session, &look).await.unwrap();
        assert_eq!((of(&session).calls, of(&session).running), (1, 1));
        let usage = Usage { wall_ms: 2500, user_us: 0, system_us: 0, max_rss_kib: 0 };
        let outcome = OutcomePrivate { usage: Some(usage), ..OutcomePrivate::new(CauseClass::Completed) };
        call.outcome(&outcome, 99, 7).await.unwrap();
        let counted = coffer_policy::Usage { calls: 1, running: 0, seconds: 2, input_bytes: 7, output_bytes: 99 };
        assert_eq!(of(&session), counted);
        drop(begin(&session, &look).await.unwrap());
        let status = begin(&session, &look).await.unwrap_err();
        assert!(status.message().contains("forbids it by `budget`"), "{status:?}");
        assert_eq!(of(&session), coffer_policy::Usage { calls: 2, ..counted });
    }
}
