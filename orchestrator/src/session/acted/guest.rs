//! The acted guest itself: what agent, notary and TDX module do, in the order of EVIDENCE §2, and where a script lies.

use coffer_evidence::config::{Config, Launch, boot_disk, measured_config};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{CallId, Digest256, Digest384, Identity, SessionId};
use coffer_evidence::leaf::{CauseClass, Method, Opened, Public, Reporter, ScrubStep, StepResult};
use coffer_evidence::link::{Frame, Mirror, ToGuest, ToHost};
use coffer_evidence::open::OpenMap;
use coffer_evidence::seal::{ClosedBy, Reason, SealMap};
use coffer_evidence::sign::PublicKey;
use coffer_evidence::statement::{Subjects, sign_statement};
use coffer_evidence::writer::{EventExtend, LeafDraft, LogWriter};
use ed25519_dalek::SigningKey;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{mpsc, watch};

use super::Script;
use super::platform::{self, Td};
use crate::link::GuestStream;
use crate::session::types::GuestExit;
use crate::vmm::Machine;

/// The guest's ways to the host.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    pub(super) control: mpsc::Sender<GuestStream>,
    pub(super) record: mpsc::Sender<GuestStream>,
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("randomness");
    bytes
}

/// The two connections to the host, and what was said on them: a host that comes back hears it all again.
struct Host {
    lines: watch::Receiver<Lines>,
    control: Option<DuplexStream>,
    record: Option<DuplexStream>,
    said: Vec<Vec<u8>>,
    told: Vec<Vec<u8>>,
}

impl Host {
    fn new(lines: watch::Receiver<Lines>) -> Self {
        Self { lines, control: None, record: None, said: Vec::new(), told: Vec::new() }
    }

    /// Waits for a host that is away.
    async fn connect(&mut self, line: impl Fn(&Lines) -> &mpsc::Sender<GuestStream>) -> DuplexStream {
        loop {
            let sender = line(&self.lines.borrow_and_update()).clone();
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            if sender.send(Box::new(theirs)).await.is_ok() {
                return ours;
            }
            if self.lines.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn say(&mut self, frame: &ToHost) {
        self.said.push(frame.to_wire());
        let done = match &mut self.control {
            Some(control) => control.write_all(&frame.to_wire()).await.is_ok(),
            None => false,
        };
        if !done {
            self.again().await;
        }
    }

    async fn tell(&mut self, frames: &[Mirror]) {
        let wire: Vec<Vec<u8>> = frames.iter().map(Frame::to_wire).collect();
        self.told.extend(wire.iter().cloned());
        let done = match &mut self.record {
            Some(record) => record.write_all(&wire.concat()).await.is_ok(),
            None => false,
        };
        if !done {
            self.record_again().await;
        }
    }

    async fn record_again(&mut self) {
        loop {
            let mut record = self.connect(|lines| &lines.record).await;
            if record.write_all(&self.told.concat()).await.is_ok() {
                self.record = Some(record);
                return;
            }
        }
    }

    async fn again(&mut self) {
        loop {
            let mut control = self.connect(|lines| &lines.control).await;
            if control.write_all(&self.said.concat()).await.is_ok() {
                self.control = Some(control);
                break;
            }
        }
        if !self.told.is_empty() {
            self.record_again().await;
        }
    }

    async fn order(&mut self) -> ToGuest {
        loop {
            if let Some(control) = &mut self.control {
                let read = async {
                    let mut frame = vec![0; control.read_u32_le().await.ok()? as usize];
                    control.read_exact(&mut frame).await.ok()?;
                    ToGuest::decode(&frame).ok()
                };
                if let Some(order) = read.await {
                    return order;
                }
            }
            self.again().await;
        }
    }
}

/// Lives the script; tells how the machine ends.
pub(super) async fn act(machine: Machine, script: Script, lines: watch::Receiver<Lines>) -> GuestExit {
    match script {
        Script::Silent => std::future::pending().await,
        Script::DiesBooting => GuestExit::PoweredOff,
        _ => match live(machine, script, Host::new(lines)).await {
            Some(exit) => exit,
            None => std::future::pending().await,
        },
    }
}

async fn live(machine: Machine, script: Script, mut host: Host) -> Option<GuestExit> {
    let mut guest = Guest::boot(&machine)?;
    let session = if script == Script::IsAnother { SessionId::new([0xff; 16]) } else { machine.session };
    host.say(&ToHost::Hello { session, agent_svn: 1 }).await;
    if script == Script::Fails {
        let (stage, detail) = ("registers".to_owned(), "they differ".to_owned());
        host.say(&ToHost::Failed { stage, detail }).await;
        return Some(GuestExit::PoweredOff);
    }
    let ready = guest.open(script);
    host.say(&ready).await;
    guest.call();
    guest.checkpoint();
    host.tell(&guest.records).await;

    match script {
        Script::Contradicts => {
            host.told = vec![Mirror::Event { index: 0, bytes: b"another beginning".to_vec() }.to_wire()];
            host.record_again().await;
            return std::future::pending().await;
        }
        Script::DoesNotSeal => return std::future::pending().await,
        _ => {}
    }
    let (reason, closed_by) = if script == Script::SealsAtOnce {
        (Reason::IdleTimeout, ClosedBy::Agent)
    } else {
        loop {
            if let ToGuest::Close { reason } = host.order().await {
                break (reason, ClosedBy::Host);
            }
        }
    };
    if script == Script::IsKilled {
        // The host lets go of the connection when it has read all of it.
        let record = host.record.as_mut()?;
        record.shutdown().await.ok()?;
        drop(record.read(&mut [0]).await);
        return Some(GuestExit::Killed(9));
    }
    if closed_by == ClosedBy::Agent {
        host.say(&ToHost::Closing { reason, closed_by }).await;
    }
    let told = guest.records.len();
    let sealed = guest.seal(reason, closed_by, script);
    if script == Script::WithholdsALeaf {
        guest.records.remove(told);
    }
    host.tell(&guest.records[told..]).await;
    host.say(&sealed).await;
    while host.order().await != ToGuest::Stored {}
    Some(GuestExit::PoweredOff)
}

/// Says one thing on a connection of the caller's.
pub(crate) async fn say(stream: &mut (impl AsyncWrite + Unpin), frame: &impl Frame) -> Option<()> {
    stream.write_all(&frame.to_wire()).await.ok()
}

/// Notary and TD in one.
pub(crate) struct Guest {
    config: Vec<u8>,
    policy: Vec<u8>,
    open_map: OpenMap,
    opening_quote: Digest256,
    key: SigningKey,
    pub(crate) log: LogWriter,
    td: Td,
    leaves: Vec<Vec<u8>>,
    /// What is told to the host, in order.
    pub(crate) records: Vec<Mirror>,
    pending: Vec<Mirror>,
}

impl Guest {
    pub(crate) fn boot(machine: &Machine) -> Option<Self> {
        let disk = boot_disk::read(&std::fs::read(&machine.boot_disk).ok()?).ok()?;
        let (config, policy) = (&disk.config[..], &disk.policy[..]);
        let intent = Config::parse(config).ok()?.intent().ok()?;
        let key = SigningKey::from_bytes(&random());
        let open_map = OpenMap {
            launch: Launch::Cold,
            session: intent.session,
            config_digest: Digest384::of(config),
            log_key: PublicKey::of(&key),
            tls_spki: Digest256::of(b"tls"),
            git_key: PublicKey::of(&SigningKey::from_bytes(&random())),
            agent_svn: 1,
            random: random(),
            bind_nonce: None,
        };
        let measured = measured_config(config, &intent);
        let td = Td {
            mr_config_id: measured.mr_config_id,
            mr_owner: measured.mr_owner,
            mr_owner_config: measured.mr_owner_config,
            ..Td::default()
        };
        let (log, event) = LogWriter::open(&intent, &open_map);
        let mut guest = Self {
            config: config.to_vec(),
            policy: policy.to_vec(),
            open_map,
            opening_quote: Digest256::new([0; 32]),
            key,
            log,
            td,
            leaves: Vec::new(),
            records: Vec::new(),
            pending: Vec::new(),
        };
        guest.extend(event);
        guest.records.append(&mut guest.pending);
        Some(guest)
    }

    /// The first leaf, and what makes the host ready.
    pub(crate) fn open(&mut self, script: Script) -> ToHost {
        let mut report_data = self.open_map.report_data();
        if script == Script::LiesAtTheOpening {
            report_data[0] ^= 1;
        }
        let quote = self.quote(&report_data);
        self.opening_quote = Digest256::of(&quote);
        self.append(None, Public::Open { instance: self.open_map.instance(), opening_quote: self.opening_quote }, None);
        self.checkpoint();
        ToHost::Ready { open_map: self.open_map.to_bytes(), opening_quote: quote, ccel: None }
    }

    fn extend(&mut self, event: EventExtend) {
        assert_eq!(&self.td.rtmr[3], event.before.as_bytes(), "the log knows the register");
        self.td.rtmr[3] = *event.after.as_bytes();
        self.pending.push(Mirror::Event { index: event.index, bytes: event.bytes });
    }

    fn quote(&self, report_data: &[u8; 64]) -> Vec<u8> {
        platform::quote_with_chain(&self.td, report_data, platform::PCK_DER, platform::ROOT_DER)
    }

    fn append(&mut self, call: Option<CallId>, public: Public, private: Option<Opened>) {
        let draft = LeafDraft {
            reporter: Reporter::Agent,
            identity: call.map(|_| Identity::default_name()),
            call,
            monotonic_ns: self.log.size() * 1_000,
            wall_hint_ms: 0,
            public,
        };
        let leaf = self.log.append(draft, private).expect("the log takes it");
        self.leaves.push(leaf.bytes.clone());
        self.pending.push(Mirror::Leaf { index: leaf.index, bytes: leaf.bytes });
        if let Some(Opened { salt, bytes }) = leaf.private {
            self.pending.push(Mirror::Private { index: leaf.index, salt, bytes });
        }
    }

    pub(crate) fn call(&mut self) {
        use coffer_evidence::call::{IntentPrivate, OutcomePrivate, Request};
        let call = Some(CallId::new(random()));
        let request = Request::Stat { path: "a".to_owned() };
        let method = request.method();
        let private =
            IntentPrivate { client_salt: random(), request: request.to_bytes(), program: None, paths: Vec::new() };
        let intent = Public::Intent { method, rules: vec!["policy0".to_owned()], request_steps: 1, header: None };
        self.append(call, intent, Some(Opened { salt: random(), bytes: private.to_bytes() }));
        let outcome = OutcomePrivate::new(CauseClass::Completed).to_bytes();
        let public = Public::Outcome {
            method,
            cause: CauseClass::Completed,
            output_steps: 0,
            input_steps: 0,
            input_covered: None,
        };
        self.append(call, public, Some(Opened { salt: random(), bytes: outcome }));
        assert_eq!(method, Method::Stat);
    }

    pub(crate) fn checkpoint(&mut self) {
        if let Some((event, note)) = self.log.checkpoint(&self.key) {
            self.extend(event);
            self.pending.push(Mirror::Note(note.into_bytes()));
        }
        self.records.append(&mut self.pending);
    }

    pub(crate) fn seal(&mut self, reason: Reason, closed_by: ClosedBy, script: Script) -> ToHost {
        let steps = ScrubStep::ALL.iter().map(|step| (*step, StepResult::Done)).collect();
        self.append(None, Public::Scrub { steps }, None);
        self.append(None, Public::Seal { count: self.log.size() + 1 }, None);
        self.checkpoint();
        let event = self.log.sealed().expect("ready for the end");
        self.extend(event);
        self.records.append(&mut self.pending);
        let mut root = self.log.root();
        if script == Script::SealsSomethingElse {
            root = Digest256::of(b"something else");
        }
        let mut map = SealMap {
            session: self.open_map.session,
            instance: self.open_map.instance(),
            config_digest: Digest384::of(&self.config),
            opening_quote: self.opening_quote,
            size: self.log.size(),
            root,
            events: self.log.events(),
            rtmr3: self.log.expected_rtmr3(),
            scrub_leaf: self.log.scrub_leaf().expect("a scrub leaf"),
            closed_by,
            reason,
            collateral: Vec::new(),
            statement: Digest256::new([0; 32]),
            pre_hello: Vec::new(),
        };
        let subjects = Subjects {
            policy: Digest384::of(&self.policy),
            open_map: Digest256::of(&self.open_map.to_bytes()),
            leaves: Digest256::of(&coffer_evidence::bundle::frame_leaves(&self.leaves)),
        };
        let statement = sign_statement(&self.key, &mut map, &subjects).to_bytes();
        ToHost::Sealed { seal_map: map.to_bytes(), seal_quote: self.quote(&map.report_data()), statement }
    }
}
