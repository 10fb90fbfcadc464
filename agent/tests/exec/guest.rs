//! The guest of these tests, and a client that looks at every message.

use coffer_agent::agent::link::Link;
use coffer_agent::agent::log::Log;
use coffer_agent::agent::service;
use coffer_agent::agent::session::Session;
use coffer_agent::agent::starter::Starter;
use coffer_agent::agent::stream::Stream as Record;
use coffer_agent::channel::{self, Channel, Wait};
use coffer_agent::frames::start::{Cause, Exit, ToAgent, ToInit};
use coffer_agent::frames::{log, start as frames};
use coffer_agent::init::wires;
use coffer_evidence::call::{OutcomePrivate, Request as Asked};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::Identity;
use coffer_evidence::leaf::CauseClass;
use coffer_policy::Policy;
use coffer_proto::guest::v1 as pb;
use pb::exec_request::Request;
use pb::exec_response::Response;
use pb::tool_service_client::ToolServiceClient;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

/// For everything that happens at once.
const SOON: Duration = Duration::from_secs(20);

/// Whatever a call asks for.
const PERMIT: &str = r#"@id("all") permit (principal, action, resource);"#;

/// What the notary was told.
#[derive(Debug, Default)]
struct Logged {
    calls: BTreeSet<(String, [u8; 16])>,
    outcomes: Vec<CauseClass>,
}

pub(crate) struct Guest {
    client: ToolServiceClient<tonic::transport::Channel>,
    logged: watch::Receiver<Logged>,
    place: tempfile::TempDir,
}

/// A file that programs of this guest may use.
pub(crate) fn file(guest: &Guest, name: &str) -> String {
    guest.place.path().join(name).to_str().unwrap().to_owned()
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A call of its own.
pub(crate) fn start(argv: &[&str]) -> pb::ExecStart {
    let mut call_id = [7_u8; 16];
    call_id[8..].copy_from_slice(&NUMBER.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    (call_id[6], call_id[8]) = (0x47, 0x87);
    let header = pb::CallHeader { call_id: call_id.to_vec().into(), identity: String::new(), salt: vec![9; 32].into() };
    let argv = argv.iter().map(|&word| word.to_owned()).collect();
    pb::ExecStart { header: Some(header), argv, ..pb::ExecStart::default() }
}

/// The same call, of a client that has this much.
pub(crate) fn resuming(start: &pb::ExecStart, stdout: u64, stderr: u64) -> pb::ExecStart {
    pb::ExecStart { resume: Some(pb::Offsets { stdout, stderr }), ..start.clone() }
}

/// The same call, for the first time or again.
pub(crate) fn resuming_if(start: &pb::ExecStart, again: bool, stdout: u64) -> pb::ExecStart {
    if again { resuming(start, stdout, 0) } else { start.clone() }
}

/// The reason of a status.
pub(crate) fn word(status: &Status) -> &str {
    status.message().split(':').next().unwrap()
}

impl Guest {
    pub(crate) async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let (init, agent_init) = channel::pair::<ToAgent, ToInit>().unwrap();
        let (notary, agent_notary) = channel::pair::<log::ToAgent, log::ToNotary>().unwrap();
        let (sender, logged) = watch::channel(Logged::default());
        std::thread::spawn(move || act_notary(&notary, &sender));
        std::thread::spawn(move || act_init(&Arc::new(init)));
        let starter = Starter::new(Link::new(agent_init).unwrap());
        let (log, carrying) = Log::new(Link::new(agent_notary).unwrap(), Arc::new(Record::new(1 << 20)));
        tokio::spawn(carrying);
        tokio::spawn(starter.clone().listen());
        let (session, troubles) =
            Session::new(log, starter, vec![Identity::new("default").unwrap()], Policy::parse(PERMIT).unwrap());
        // Held for as long as the session is.
        std::mem::forget(troubles);
        let path = place.path().join("tools.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(service::server(session));
        tokio::spawn(server.serve_with_incoming(incoming));
        let endpoint = tonic::transport::Endpoint::from_shared(format!("unix:{}", path.display())).unwrap();
        let client = ToolServiceClient::new(endpoint.connect().await.unwrap());
        Self { client, logged, place }
    }

    /// Where its service listens.
    #[allow(dead_code, reason = "for the tests of the client library")]
    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.place.path().join("tools.sock")
    }

    pub(crate) fn intents(&self) -> usize {
        self.logged.borrow().calls.len()
    }

    pub(crate) fn outcomes(&self) -> Vec<CauseClass> {
        self.logged.borrow().outcomes.clone()
    }

    pub(crate) async fn until_outcomes(&self, count: usize) {
        let mut logged = self.logged.clone();
        let enough = logged.wait_for(|logged| logged.outcomes.len() >= count);
        drop(tokio::time::timeout(SOON, enough).await.expect("an outcome").unwrap());
    }

    pub(crate) async fn attach(&self, start: &pb::ExecStart) -> Attached {
        let (requests, receiver) = mpsc::channel(64);
        let first = pb::ExecRequest { request: Some(Request::Start(start.clone())) };
        requests.send(first).await.unwrap();
        let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let responses = self.client.clone().exec(receiver).await.unwrap().into_inner();
        let resume = start.resume.unwrap_or_default();
        Attached { requests: Some(requests), responses, told: Told::default(), resume, acknowledges: false }
    }
}

fn act_notary(link: &Channel<log::ToAgent, log::ToNotary>, logged: &watch::Sender<Logged>) {
    let mut index = 0;
    while let Ok((entry, _)) = link.receive(Wait::Block) {
        index += 1;
        let mut answer = log::ToAgent::Appended { index };
        match entry {
            log::ToNotary::Intent(call) => logged.send_modify(|logged| {
                if !logged.calls.insert((call.identity, call.call)) {
                    answer = log::ToAgent::Refused { refusal: log::Refusal::CallReused };
                }
            }),
            log::ToNotary::Outcome { private, .. } => {
                let cause = OutcomePrivate::parse(&private).unwrap().cause;
                logged.send_modify(|logged| logged.outcomes.push(cause));
            }
            other => panic!("{other:?}"),
        }
        link.send(&answer, &[], Wait::Block).unwrap();
    }
}

type Running = Arc<Mutex<BTreeMap<u64, (Pid, Cause)>>>;

fn act_init(link: &Arc<Channel<ToAgent, ToInit>>) {
    let running = Running::default();
    while let Ok((message, _)) = link.receive(Wait::Block) {
        match message {
            ToInit::Start { intent, request } => act_start(link, &running, intent, &request),
            ToInit::Cancel { intent } => {
                if let Some((pid, cause)) = running.lock().unwrap().get_mut(&intent) {
                    *cause = Cause::Cancelled;
                    kill_process_group(*pid, Signal::TERM).unwrap();
                }
            }
            ToInit::Signal { intent, signal } => {
                if let Some((pid, _)) = running.lock().unwrap().get(&intent) {
                    kill_process_group(*pid, Signal::from_named_raw(signal).unwrap()).unwrap();
                }
            }
            ToInit::EndCalls | ToInit::PowerOff => {}
        }
    }
    // The test is over.
    for (pid, _) in running.lock().unwrap().values() {
        let _ = kill_process_group(*pid, Signal::KILL);
    }
}

fn act_start(link: &Arc<Channel<ToAgent, ToInit>>, running: &Running, intent: u64, request: &[u8]) {
    let Asked::Exec { argv, terminal, .. } = Asked::parse(request).unwrap() else { panic!("an exec") };
    let (wires, mut command) = match terminal {
        None => {
            let mut command = Command::new(&argv[0]);
            command.args(&argv[1..]).process_group(0);
            (wires::pipes().unwrap(), command)
        }
        Some(size) => {
            // A session of its own, with its stdin as the terminal.
            let mut command = Command::new("setsid");
            command.arg("--ctty").args(&argv);
            let uid = rustix::process::geteuid().as_raw();
            let terminals = std::fs::File::open("/dev/pts").unwrap();
            (wires::terminal(size, uid, terminals.as_fd()).unwrap(), command)
        }
    };
    let [(_, stdin), (_, stdout), (_, stderr)]: [_; 3] = wires.theirs.try_into().unwrap();
    let child = command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr)).spawn();
    // With it go the copies of the program's ends.
    drop(command);
    let mut child = child.unwrap();
    let pid = Pid::from_child(&child);
    running.lock().unwrap().insert(intent, (pid, Cause::Ended));
    let ours: Vec<_> = wires.ours.iter().map(|end| end.as_fd()).collect();
    link.send(&frames::ToAgent::Started { intent }, &ours, Wait::Block).unwrap();
    let (link, running) = (link.clone(), running.clone());
    std::thread::spawn(move || {
        let status = child.wait().unwrap();
        let cause = running.lock().unwrap().remove(&intent).map_or(Cause::Ended, |(_, cause)| cause);
        let number = |number: Option<i32>| number.and_then(|number| u64::try_from(number).ok());
        let (code, signal) = (number(status.code()), number(status.signal()));
        let exit = Exit { cause, code, signal, wall_ms: 1, user_us: 2, system_us: 3, max_rss_kib: 4 };
        // The test may be over.
        drop(link.send(&frames::ToAgent::Exited { intent, exit }, &[], Wait::Block));
    });
}

/// What came so far on one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) started: Option<pb::Started>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: Vec<u8>,
    pub(crate) exited: Option<pb::Exited>,
    pub(crate) taken: u64,
}

/// A client's connection.
pub(crate) struct Attached {
    requests: Option<mpsc::Sender<pb::ExecRequest>>,
    responses: Streaming<pb::ExecResponse>,
    told: Told,
    resume: pb::Offsets,
    acknowledges: bool,
}

impl Attached {
    /// Tells what it has with every chunk.
    pub(crate) fn acknowledging(mut self) -> Self {
        self.acknowledges = true;
        self
    }

    pub(crate) async fn say(&self, request: Request) {
        let request = pb::ExecRequest { request: Some(request) };
        if let Some(requests) = &self.requests {
            // The call may be over.
            drop(requests.send(request).await);
        }
    }

    pub(crate) fn say_no_more(&mut self) {
        self.requests = None;
    }

    /// One message; false at the end.
    async fn hear(&mut self) -> Result<bool, Status> {
        let message = tokio::time::timeout(SOON, self.responses.message()).await.expect("a message");
        let Some(message) = message? else { return Ok(false) };
        match message.response.expect("a response") {
            Response::Started(started) => {
                assert!(self.told.started.replace(started).is_none(), "started twice");
            }
            Response::Stdout(output) => {
                assert_eq!(output.offset, self.resume.stdout + self.told.out.len() as u64);
                self.told.out.extend_from_slice(&output.data);
            }
            Response::Stderr(output) => {
                assert_eq!(output.offset, self.resume.stderr + self.told.err.len() as u64);
                self.told.err.extend_from_slice(&output.data);
            }
            Response::StdinTaken(taken) => self.told.taken = taken.offset,
            Response::Exited(exited) => self.told.exited = Some(exited),
        }
        if self.acknowledges {
            let stdout = self.resume.stdout + self.told.out.len() as u64;
            let stderr = self.resume.stderr + self.told.err.len() as u64;
            self.say(Request::Received(pb::Offsets { stdout, stderr })).await;
        }
        Ok(true)
    }

    pub(crate) async fn until(&mut self, enough: impl Fn(&Told) -> bool) -> Told {
        while !enough(&self.told) {
            assert!(self.hear().await.unwrap(), "it ended: {:?}", self.told);
        }
        self.told.clone()
    }

    pub(crate) async fn started(&mut self) -> pb::Started {
        self.until(|told| told.started.is_some()).await.started.unwrap()
    }

    /// To the exit, or to the status.
    pub(crate) async fn ends(mut self) -> (Result<pb::Exited, Status>, Told) {
        loop {
            match self.hear().await {
                Ok(true) => {}
                Ok(false) => return (Ok(self.told.exited.clone().expect("an exit")), self.told),
                Err(status) => return (Err(status), self.told),
            }
        }
    }

    pub(crate) async fn exits(self) -> (pb::Exited, Told) {
        let (result, told) = self.ends().await;
        (result.unwrap(), told)
    }

    /// Sends this input from where the guest has it, within the limit, and gathers output up to that many bytes.
    pub(crate) async fn pump(&mut self, input: &[u8], got: &mut Told, most: usize) -> Option<pb::Exited> {
        const AHEAD: usize = 256 * 1024;
        let mut sent = usize::try_from(self.started().await.stdin_offset).unwrap();
        let mut ended = false;
        loop {
            while sent < input.len() && sent + 65_536 <= usize::try_from(self.told.taken).unwrap() + AHEAD {
                let to = (sent + 65_536).min(input.len());
                self.say(Request::Stdin(input[sent..to].to_vec().into())).await;
                sent = to;
            }
            if sent == input.len() && !ended {
                self.say(Request::StdinEof(pb::StdinEof {})).await;
                ended = true;
            }
            let more = self.hear().await.unwrap();
            got.out.truncate(usize::try_from(self.resume.stdout).unwrap());
            got.out.extend_from_slice(&self.told.out);
            if !more {
                return self.told.exited.clone();
            }
            if got.out.len() >= most {
                return None;
            }
        }
    }
}
