//! The life of the session as the agent sees it, from the notary's first word to the power-off.

use super::judge;
use super::link::Link;
use super::log::Log;
use super::outlet::{self, Connect, Inbound, Progress};
use super::service;
use super::session::{self, Expired, Session, Trouble};
use super::starter::{Fatal, Starter};
use super::stream::Stream;
use crate::channel::Channel;
use crate::fixed;
use crate::frames::{log, start};
use coffer_evidence::config::Config;
use coffer_evidence::intent::Limits;
use coffer_evidence::link::{self, Frame as _, ToGuest, ToHost};
use coffer_evidence::seal::{ClosedBy, Reason};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::Stream as Incoming;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

/// Everything said to the host on the control connection: some frames, two of them with quotes.
const CONTROL_MAX: u64 = 64 << 20;
/// The record of a session, private parts included.
const RECORD_MAX: u64 = 384 << 20;
/// How long the host may take to be reached at first, and to read a last word.
const FIRST_CONTACT: Duration = Duration::from_secs(60);
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long init may take to tell why the notary ended: its reason is better than "the socket is closed".
const REASON: Duration = Duration::from_millis(500);
/// How long running calls may take to end beyond their own grace.
const ENDING: Duration = Duration::from_secs(45);
/// Bytes of a frame that a client may send: a chunk with what is around it comes in one.
const FRAME: u32 = 128 << 10;

/// A life that ended before its time; the machine powers off.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{stage}: {detail}")]
pub struct Failure {
    /// What was being done.
    pub stage: String,
    /// What went wrong.
    pub detail: String,
}

impl Failure {
    fn new(stage: &str, detail: impl ToString) -> Self {
        Self { stage: stage.to_owned(), detail: detail.to_string() }
    }
}

impl From<Fatal> for Failure {
    fn from(fatal: Fatal) -> Self {
        Self { stage: fatal.stage, detail: fatal.detail }
    }
}

/// The two connections to the host and what was said on them.
struct Host {
    control: Arc<Stream>,
    record: Arc<Stream>,
    control_progress: watch::Receiver<Progress>,
    orders: mpsc::Receiver<Vec<u8>>,
}

impl Host {
    fn say(&self, message: &ToHost) -> Result<(), Failure> {
        self.control.push(&message.to_wire()).map_err(|full| Failure::new("control", full))
    }

    /// Waits until everything said so far has left.
    async fn heard(&self) {
        let said = self.control.len();
        let mut progress = self.control_progress.clone();
        drop(progress.wait_for(|progress| progress.sent >= said).await);
    }
}

/// Listens on the port of the tool service.
pub fn listen_vsock() -> std::io::Result<tokio_vsock::Incoming> {
    let address = tokio_vsock::VsockAddr::new(tokio_vsock::VMADDR_CID_ANY, fixed::PORT_TOOLS);
    Ok(tokio_vsock::VsockListener::bind(address)?.incoming())
}

/// The sockets to init and to the notary.
pub type Links = (Channel<start::ToInit, start::ToAgent>, Channel<log::ToNotary, log::ToAgent>);

/// Lives the whole life. The host is told `ccel`, the firmware's event log, with the opening; `listen` is called once,
/// before the host is told that the session is ready.
pub async fn live<C, M, L, I, IO>(
    (init, notary): Links,
    ccel: Option<Vec<u8>>,
    control: C,
    mirror: M,
    listen: L,
) -> Result<(), Failure>
where
    C: Connect,
    M: Connect,
    L: FnOnce() -> std::io::Result<I>,
    I: Incoming<Item = std::io::Result<IO>> + Send + 'static,
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Connected + Unpin + Send + 'static,
{
    let link_failed = |error: std::io::Error| Failure::new("links", error);
    let starter = Starter::new(Link::new(init).map_err(link_failed)?);
    let notary = Link::new(notary).map_err(link_failed)?;
    let mut fatal = tokio::spawn(starter.clone().listen());
    let (progress, control_progress) = watch::channel(Progress::default());
    let (frames, orders) = mpsc::channel(16);
    let host = Host {
        control: Arc::new(Stream::new(CONTROL_MAX)),
        record: Arc::new(Stream::new(RECORD_MAX)),
        control_progress,
        orders,
    };
    let inbound = Inbound { frames, most: ToGuest::MAX };
    let mut host = host;
    tokio::spawn(outlet::carry(control, host.control.clone(), Some(inbound), progress));

    let of_init = |fatal: Result<Fatal, _>| fatal.map_or_else(|error| Failure::new("init", error), Failure::from);
    let result = tokio::select! {
        result = inner(&mut host, (starter.clone(), notary), ccel, mirror, listen) => match result {
            Ok(()) => Ok(()),
            Err(failure) => Err(timeout(REASON, &mut fatal).await.map_or(failure, of_init)),
        },
        fatal = &mut fatal => Err(of_init(fatal)),
    };
    if let Err(failure) = &result {
        let (stage, detail) = (link::detail(failure.stage.clone()), link::detail(failure.detail.clone()));
        drop(host.say(&ToHost::Failed { stage, detail }));
        last_words(&host).await;
    }
    // Init may be gone; then so is everything else.
    drop(starter.power_off().await);
    result
}

/// Gives the host a moment to hear why; a host that hears it closes the connection.
async fn last_words(host: &Host) {
    let hear = async {
        host.heard().await;
        let connections = host.control_progress.borrow().connections;
        let mut progress = host.control_progress.clone();
        drop(progress.wait_for(|progress| progress.connections > connections).await);
    };
    drop(timeout(LAST_WORDS, hear).await);
}

async fn inner<M, L, I, IO>(
    host: &mut Host,
    (starter, notary): (Starter, Link<log::ToNotary, log::ToAgent>),
    ccel: Option<Vec<u8>>,
    mirror: M,
    listen: L,
) -> Result<(), Failure>
where
    M: Connect,
    L: FnOnce() -> std::io::Result<I>,
    I: Incoming<Item = std::io::Result<IO>> + Send + 'static,
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (config, policy) = match receive(&notary).await? {
        log::ToAgent::Admitted { config, policy } => (config, judge::policy(&policy)),
        _ => return Err(Failure::new("notary", "expected `admitted` first")),
    };
    // The notary has admitted these bytes; this reads them again for the names and limits.
    let intent = <Config as coffer_evidence::fields::Canonical>::parse(&config)
        .and_then(|config| config.intent())
        .map_err(|error| Failure::new("config", error))?;
    let policy = policy.map_err(|error| Failure::new("policy", error))?;
    host.say(&ToHost::Hello { session: intent.session, agent_svn: fixed::AGENT_SVN })?;
    timeout(FIRST_CONTACT, host.heard()).await.map_err(|_| Failure::new("control", "the host cannot be reached"))?;
    tokio::spawn(outlet::carry(mirror, host.record.clone(), None, watch::Sender::default()));

    let (open_map, opening_quote) = loop {
        match receive(&notary).await? {
            log::ToAgent::Opened { open_map, quote } => break (open_map, quote),
            log::ToAgent::Record { frame } => record(host, &frame)?,
            _ => return Err(Failure::new("notary", "expected `opened`")),
        }
    };
    let (log, carrying) = Log::new(notary, host.record.clone());
    let carrying = tokio::spawn(carrying);
    let identities = intent.identities.keys().cloned().collect();
    let (session, troubles) = Session::new(log, starter, identities, policy);

    // Listening before the host hears of it: its first connection may come at once.
    let incoming = listen().map_err(|error| Failure::new("listen", error))?;
    host.say(&ToHost::Ready { open_map, opening_quote, ccel })?;
    timeout(FIRST_CONTACT, host.heard()).await.map_err(|_| Failure::new("control", "the host cannot be reached"))?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(session.clone(), incoming, stop.clone()));

    tokio::select! {
        closed = run_and_close(host, &session, intent.limits, troubles) => closed?,
        why = carrying => return Err(Failure::new("notary", why.unwrap_or_else(|error| error.to_string()))),
        ended = serving => {
            let why = ended.map_or_else(|error| error.to_string(), |result| format!("{result:?}"));
            return Err(Failure::new("tool service", why));
        }
    }
    stop.cancel();
    Ok(())
}

fn record(host: &Host, frame: &[u8]) -> Result<(), Failure> {
    host.record.push(frame).map_err(|full| Failure::new("record", full))
}

async fn receive(notary: &Link<log::ToNotary, log::ToAgent>) -> Result<log::ToAgent, Failure> {
    notary.receive().await.map(|(message, _)| message).map_err(|error| Failure::new("notary", error))
}

async fn serve<I, IO>(
    session: Arc<Session>,
    incoming: I,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    I: Incoming<Item = std::io::Result<IO>>,
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Connected + Unpin + Send + 'static,
{
    tonic::transport::Server::builder()
        .max_concurrent_streams(64)
        .initial_stream_window_size(512 * 1024)
        .initial_connection_window_size(4 << 20)
        .max_frame_size(FRAME)
        .add_service(service::server(session))
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
}

/// Serves until there is a reason to close, then closes in the order of EVIDENCE §2.
async fn run_and_close(
    host: &mut Host,
    session: &Arc<Session>,
    limits: Limits,
    mut troubles: mpsc::Receiver<Trouble>,
) -> Result<(), Failure> {
    let (reason, closed_by) = reason_to_close(host, session, limits, &mut troubles).await?;
    session.close();
    if closed_by == ClosedBy::Agent {
        host.say(&ToHost::Closing { reason, closed_by })?;
    }
    session.starter.end_calls().await.map_err(|error| Failure::new("init", error))?;
    tokio::select! {
        quiet = timeout(ENDING, session.quiet()) => quiet.map_err(|_| Failure::new("closing", "calls do not end"))?,
        broken = broken(&mut troubles) => return Err(Failure::new("log", broken)),
    }
    let sealed = session.log.seal(reason.number(), closed_by.number()).await;
    let sealed = sealed.map_err(|error| Failure::new("seal", error))?;
    host.say(&ToHost::Sealed { seal_map: sealed.seal_map, seal_quote: sealed.quote, statement: sealed.statement })?;
    // Linger is a courtesy to the host; without an answer the machine ends all the same.
    drop(timeout(Duration::from_secs(limits.linger_s), stored(host)).await);
    Ok(())
}

async fn stored(host: &mut Host) {
    while let Some(frame) = host.orders.recv().await {
        if ToGuest::decode(&frame) == Ok(ToGuest::Stored) {
            return;
        }
    }
}

async fn broken(troubles: &mut mpsc::Receiver<Trouble>) -> String {
    loop {
        match troubles.recv().await {
            Some(Trouble::LogBroken(why)) => return why,
            Some(Trouble::LimitReached) => {}
            None => return std::future::pending().await,
        }
    }
}

async fn reason_to_close(
    host: &mut Host,
    session: &Arc<Session>,
    limits: Limits,
    troubles: &mut mpsc::Receiver<Trouble>,
) -> Result<(Reason, ClosedBy), Failure> {
    let (ttl, idle) = (Duration::from_secs(limits.ttl_s), Duration::from_secs(limits.idle_s));
    let expiry = session::expiry(Instant::now(), ttl, idle, session.activity());
    tokio::pin!(expiry);
    loop {
        tokio::select! {
            expired = &mut expiry => {
                let reason = match expired {
                    Expired::Ttl => Reason::TtlExpired,
                    Expired::Idle => Reason::IdleTimeout,
                };
                return Ok((reason, ClosedBy::Agent));
            }
            trouble = troubles.recv() => match trouble {
                Some(Trouble::LimitReached) => return Ok((Reason::LimitReached, ClosedBy::Agent)),
                Some(Trouble::LogBroken(why)) => return Err(Failure::new("log", why)),
                None => return Err(Failure::new("session", "nobody is left to report")),
            },
            order = host.orders.recv() => match order.map(|frame| ToGuest::decode(&frame)) {
                // No signed close exists yet: whoever asked, it is the host that says so.
                Some(Ok(ToGuest::Close { reason })) => return Ok((reason, ClosedBy::Host)),
                Some(Ok(ToGuest::Touch)) => session.touch(),
                // Nothing is stored yet; a host that confuses itself is not obeyed.
                Some(Ok(ToGuest::Stored) | Err(_)) => {}
                None => return Err(Failure::new("control", "the connection's task is gone")),
            },
        }
    }
}
