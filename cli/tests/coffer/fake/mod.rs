//! A `cofferd` acted by the test: the real interface on a real socket, a guest made of a few lines, and evidence that is
//! right for the intent that the command signed. What it was asked is kept, for the test to look at.

mod bundle;
mod control;
mod tools;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use coffer_evidence::ids::SessionId;
use coffer_proto::control::v1::evidence_service_server::EvidenceServiceServer;
use coffer_proto::control::v1::image_service_server::ImageServiceServer;
use coffer_proto::control::v1::session_service_server::SessionServiceServer;
use coffer_proto::control::v1::{Outcome, Phase, Reason};
use coffer_proto::guest::v1::tool_service_server::ToolServiceServer;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::coffer;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// The session never becomes Ready.
    NeverReady,
    /// The bundle says another thing than the guest sealed.
    ChangedBundle,
    /// The bundle is of another owner's session.
    OtherOwner,
    /// There is no bundle.
    NoBundle,
    /// The session is never over.
    NeverClosed,
    /// The session is over when the test says so, and its bundle is changed.
    ClosedLate,
    /// The session is still booting when it is closed.
    SlowBoot,
    /// There is no image.
    NoImage,
    /// There are images, and none is the default.
    NoDefaultImage,
    /// The log has another leaf at each place.
    WrongLog,
}

/// A session as the fake knows it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: SessionId,
    pub(crate) phase: Phase,
    pub(crate) outcome: Outcome,
    pub(crate) reason: Reason,
    pub(crate) intent: Vec<u8>,
    pub(crate) owner_sig: [u8; 64],
}

/// Everything that was asked.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) sessions: Vec<Known>,
    /// `exec sh -c ...`, `upload repo`, `close` and so on.
    pub(crate) asked: Vec<String>,
    /// The last tar stream that came up whole.
    pub(crate) uploaded: Vec<u8>,
    /// Standard input of the last exec.
    pub(crate) stdin: Vec<u8>,
}

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    asked: Arc<Condvar>,
    changed: Arc<tokio::sync::Notify>,
    fault: Fault,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the state")
    }

    fn ask(&self, what: impl Into<String>) {
        self.lock().asked.push(what.into());
        self.asked.notify_all();
        self.changed.notify_waiters();
    }
}

/// A status with a reason, as the real one makes it.
fn refusal(code: Code, reason: &str, text: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "coffer.dev", []);
    Status::with_error_details(code, format!("{reason}: {text}"), details)
}

/// A running fake with a home for the command's keys.
pub(crate) struct Cofferd {
    home: tempfile::TempDir,
    shared: Shared,
    _runtime: Runtime,
}

impl Cofferd {
    pub(crate) fn start() -> Self {
        Self::start_with(Fault::None)
    }

    pub(crate) fn start_with(fault: Fault) -> Self {
        let home = tempfile::Builder::new().prefix("coffer-cli.").tempdir().expect("a directory");
        let shared = Shared { state: Arc::default(), asked: Arc::default(), changed: Arc::default(), fault };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(home.path().join("cofferd.sock")).expect("a socket")
        };
        let server = tonic::transport::Server::builder()
            .add_service(SessionServiceServer::new(shared.clone()))
            .add_service(EvidenceServiceServer::new(shared.clone()))
            .add_service(ImageServiceServer::new(shared.clone()))
            .add_service(ToolServiceServer::new(shared.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(server);
        Self { home, shared, _runtime: runtime }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = coffer(self.home());
        command.args(arguments);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        crate::output(self.home(), arguments)
    }

    /// Creates a session and returns its id.
    pub(crate) fn session(&self) -> String {
        let created = self.run(&["session", "create"]);
        assert_eq!(crate::code(&created), Some(0), "{}", crate::stderr(&created));
        crate::stdout(&created).trim().to_owned()
    }

    /// Starts a command whose outputs are kept.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run coffer")
    }

    /// The end of every session.
    pub(crate) fn finish(&self) {
        for session in &mut self.state().sessions {
            session.phase = Phase::Closed;
            session.outcome = Outcome::Sealed;
            session.reason = Reason::UserClosed;
        }
        self.shared.changed.notify_waiters();
    }

    /// Waits until somebody asked for `what`.
    pub(crate) fn until_asked(&self, what: &str) {
        self.until_asked_one_of(&[what]);
    }

    /// Waits until somebody asked for one of these.
    pub(crate) fn until_asked_one_of(&self, what: &[&str]) {
        let missing = |state: &mut State| !state.asked.iter().any(|asked| what.iter().any(|w| asked.starts_with(w)));
        let patience = Duration::from_secs(30);
        let waited = self.shared.asked.wait_timeout_while(self.state(), patience, missing).expect("the state");
        assert!(!waited.1.timed_out(), "nobody asked for {what:?}: {:?}", waited.0.asked);
    }
}

/// Sends a signal to a process of the test's own.
pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status().expect("kill");
    assert!(status.success());
}
