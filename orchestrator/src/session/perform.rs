//! The effects of a session, one function each. They decide nothing: each does what the journal says is to be done and
//! answers with what came of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coffer_evidence::config::Config;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::SessionId;
use coffer_evidence::link::MIRROR_FRAME_MAX;
use coffer_evidence::manifest::Profile;
use coffer_evidence::sign::PublicKey;
use coffer_evidence::verify::{TrustAnchor, verify_opening};
use ed25519_dalek::SigningKey;
use futures_util::StreamExt as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::codec::FramedRead;

use super::calls::GuestCalls;
use super::control::frames;
use super::conversation::Conversation;
use super::evidence::{self, EvidenceError, GuestSeal};
use super::machine::Event;
use super::mirror::{self, CONNECTIONS_MAX, MirrorError, MirrorStore, Progress, Telling};
use super::record::SessionRecord;
use super::signal::{Opening, Signal};
use super::types::{GuestExit, Timestamp};
use crate::endorsements::Endorsements;
use crate::host::blocking::blocking;
use crate::host::cgroup::{CgroupRoot, SessionCgroup};
use crate::host::room::Patience;
use crate::host::scrub::{self, Holdings, Step};
use crate::host::session_dir::SessionDir;
use crate::image::Catalogue;
use crate::link::{Dial, GuestStream, Link};
use crate::store::vault::{Put, Vault};
use crate::store::{Store, UidRange};
use crate::vmm::Vmm;
use crate::vmm::qemu::console;

/// How long a full disk is waited for: with the sealed core in hand, with the record, with a prefix. Less than the phase.
const SEALED_PATIENCE: Duration = Duration::from_secs(30);
const RECORD_PATIENCE: Duration = Duration::from_secs(20);
const PREFIX_PATIENCE: Duration = Duration::from_secs(10);

/// What every session of this host shares: the ports' adapters, and the host's own things.
pub(crate) struct Host {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) vault: Vault,
    pub(crate) vmm: Arc<dyn Vmm>,
    pub(crate) link: Arc<dyn Link>,
    pub(crate) endorsements: Endorsements,
    pub(crate) images: Catalogue,
    /// None where no cgroup can be made: reported at the start.
    pub(crate) cgroups: Option<CgroupRoot>,
    /// None where `cofferd` is not root.
    pub(crate) uids: Option<UidRange>,
    pub(crate) key: SigningKey,
    pub(crate) boot_id: String,
    /// Holds one directory per session.
    pub(crate) sessions: PathBuf,
    /// Bundles are put together and verified in memory: a few at once, however many sessions end.
    pub(crate) assembling: Semaphore,
}

/// How many bundles are put together at once.
pub(crate) const ASSEMBLING_MAX: usize = 2;

impl Host {
    /// What is the host's of a session.
    fn holdings(&self, record: &SessionRecord) -> Holdings {
        Holdings { session: record.id, directory: self.directory(record), cgroup: self.cgroup(record), uid: record.uid }
    }

    /// The directory of a session.
    pub(crate) fn directory(&self, record: &SessionRecord) -> SessionDir {
        SessionDir::at(&self.sessions, record.id, record.uid)
    }

    pub(super) fn cgroup(&self, record: &SessionRecord) -> Option<SessionCgroup> {
        self.cgroups.as_ref().map(|root| root.session(&record.id.to_string()))
    }
}

/// The host's clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Set aside a context id and a uid.
pub(crate) async fn reserve(host: Arc<Host>, record: SessionRecord) -> Signal {
    let mut seed = [0; 4];
    if getrandom::fill(&mut seed).is_err() {
        return Event::ReserveFailed("the system gave no randomness".to_owned()).into();
    }
    let seed = u32::from_le_bytes(seed);
    match host.store.reserve(record.id, host.uids, host.boot_id.clone(), seed).await {
        Ok(reservation) => Signal::Reserved(reservation),
        Err(error) => Event::ReserveFailed(chain(&error)).into(),
    }
}

/// What is not as it was when the image was checked before the launch; it is hashed again only where it was touched.
pub(crate) async fn image_changed(host: Arc<Host>, record: &SessionRecord) -> Option<String> {
    let digest = record.image;
    match blocking(move || host.images.check(digest)).await {
        Ok(Ok(Some(_))) => None,
        Ok(Ok(None)) => Some(format!("the image {digest} is gone from this host")),
        Ok(Err(error)) => Some(chain(&error)),
        // Nobody has looked.
        Err(_) => None,
    }
}

/// Connect to the agent of an adopted machine.
pub(crate) async fn reconnect(dial: Arc<dyn Dial>, ended: impl Future<Output = ()> + Send) -> Signal {
    let connected = tokio::select! {
        calls = GuestCalls::connect(dial.as_ref()) => calls,
        () = ended => Err(std::io::Error::other("the session is ending")),
    };
    match connected {
        Ok(calls) => Signal::Reconnected(calls),
        Err(error) => Event::ReconnectFailed(format!("the agent's tool service does not answer: {error}")).into(),
    }
}

/// Serves the record port until the session drops it, or the guest breaks its word.
pub(crate) async fn serve_mirror(
    connections: mpsc::Receiver<GuestStream>,
    store: MirrorStore,
    progress: [watch::Sender<Progress>; 2],
    signals: mpsc::Sender<Signal>,
) {
    let Err(error) = hear(connections, store, &progress).await else { return };
    let event = match error {
        MirrorError::Io(_) => Event::HostFailed(chain(&error)),
        _ => Event::GuestViolated(chain(&error)),
    };
    drop(signals.send(event.into()).await);
}

/// Takes one frame. One that could not be kept is not counted: it is written again at the same place, for a while.
async fn keep(store: &mut MirrorStore, telling: &mut Telling, frame: &[u8]) -> Result<Progress, MirrorError> {
    let mut patience = Patience::of("the record of a session", RECORD_PATIENCE);
    loop {
        match store.accept(telling, frame) {
            Ok(now) => return Ok(now),
            Err(error) => match patience.pause(&error) {
                Some(pause) => pause.await,
                None => return Err(error),
            },
        }
    }
}

async fn hear(
    mut connections: mpsc::Receiver<GuestStream>,
    mut store: MirrorStore,
    progress: &[watch::Sender<Progress>; 2],
) -> Result<(), MirrorError> {
    let mut count = 0;
    while let Some(stream) = connections.recv().await {
        count += 1;
        if count > CONNECTIONS_MAX {
            return Err(MirrorError::TooMuch { what: "connections", most: CONNECTIONS_MAX.into() });
        }
        let mut reader = FramedRead::new(stream, frames(MIRROR_FRAME_MAX));
        let mut telling = Telling::default();
        loop {
            match reader.next().await {
                Some(Ok(frame)) => {
                    let now = keep(&mut store, &mut telling, &frame).await?;
                    for watched in progress {
                        watched.send_replace(now);
                    }
                }
                Some(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => return Err(MirrorError::Form),
                Some(Err(_)) | None => break,
            }
        }
    }
    Ok(())
}

/// Verify the opening against what this host launched, and connect to the agent meanwhile.
pub(crate) async fn verify(
    host: Arc<Host>,
    record: SessionRecord,
    opening: Opening,
    dial: Arc<dyn Dial>,
    ended: impl Future<Output = ()> + Send,
) -> Signal {
    let refused = |why: String| Signal::from(Event::OpeningRefused(why));
    let connecting = async {
        tokio::select! {
            calls = GuestCalls::connect(dial.as_ref()) => calls,
            () = ended => Err(std::io::Error::other("the session is ending")),
        }
    };
    let (calls, verified) = tokio::join!(connecting, verified_instance(&host, &record, opening));
    match (verified, calls) {
        (Ok(instance), Ok(calls)) => Signal::Verified { instance, calls },
        (Err(why), _) => refused(why),
        (Ok(_), Err(error)) => refused(format!("the agent's tool service does not answer: {error}")),
    }
}

async fn verified_instance(
    host: &Arc<Host>,
    record: &SessionRecord,
    opening: Opening,
) -> Result<coffer_evidence::ids::InstanceId, String> {
    let collateral = host.endorsements.current(record.profile, &opening.quote).await.map_err(|error| chain(&error))?;
    let (host, record) = (Arc::clone(host), record.clone());
    let verifying = blocking(move || {
        let image = host.images.check(record.image).map_err(|error| chain(&error))?;
        let image = image.ok_or_else(|| "the image is gone from this host".to_owned())?;
        let anchor = match record.profile {
            Profile::Tdx => TrustAnchor::Intel,
            Profile::Simulated => TrustAnchor::Simulated,
        };
        let verified = verify_opening(
            &opening.open_map,
            &opening.quote,
            &collateral,
            &image.envelope,
            &[image.publisher],
            &record.config,
            &record.policy,
            now().seconds(),
            &anchor,
        )
        .map_err(|error| error.to_string())?;
        verified.judge_event_log(opening.ccel.as_deref()).map_err(|error| error.to_string())?;
        evidence::keep_opening(&host.directory(&record), &opening, &verified.quote, &collateral)
            .map_err(|error| error.to_string())?;
        Ok(verified.instance)
    });
    verifying.await?
}

/// Assemble, verify and store the sealed bundle, once the mirror has all of it.
pub(crate) async fn preserve_sealed(
    host: Arc<Host>,
    record: SessionRecord,
    seal: GuestSeal,
    mut mirrored: watch::Receiver<Progress>,
) -> Signal {
    let work = async {
        let map = seal.parse().map_err(|error| chain(&error))?;
        // Half of the time is for the guest to tell the rest, half for what follows.
        let left = record.machine.deadline().map_or(0, |deadline| deadline.0.saturating_sub(now().0));
        let all = mirrored.wait_for(|p| p.leaves >= map.size && p.events >= map.events);
        let told = tokio::time::timeout(std::time::Duration::from_millis(left / 2), all).await;
        let told =
            told.map(|all| all.map(|_| ()).map_err(|_| "the record mirror ended before the record did".to_owned()));
        told.unwrap_or_else(|_| {
            Err(format!(
                "expected the {} leaves and {} events that the guest sealed, found fewer",
                map.size, map.events
            ))
        })?;
        let collateral = host.endorsements.current(record.profile, &seal.quote).await.map_err(|error| chain(&error))?;
        let id = record.id;
        let sealed = move |record: &_, dir: &_, at| evidence::sealed(record, dir, seal, &collateral, at);
        let (bundle, ending) = assembled(&host, record, sealed).await?;
        match host.vault.put_first(id, bundle, SEALED_PATIENCE).await {
            Ok(Put::Stored) => Ok(Event::EvidenceSealed(ending)),
            // An earlier life of this process may have stored it without getting to write that down.
            Ok(Put::OneIsThere) => match stored(&host, id).await? {
                Some(Event::EvidenceSealed(ending)) => Ok(Event::EvidenceSealed(ending)),
                _ => Err("it came too late: a prefix is stored".to_owned()),
            },
            Err(error) => Ok(Event::HostFailed(chain(&error))),
        }
    };
    let result: Result<_, String> = work.await;
    result.unwrap_or_else(Event::EvidenceRefused).into()
}

/// The same after a restart, of a guest that is gone: from what an earlier life of this process kept.
pub(crate) async fn preserve_kept(host: Arc<Host>, record: SessionRecord) -> Signal {
    let dir = host.directory(&record);
    let reading = move || -> std::io::Result<_> {
        let kept = mirror::Record::read(&dir)?;
        let progress = Progress { leaves: kept.leaves.len() as u64, events: kept.events.len() as u64 };
        Ok((Conversation::kept_seal(&dir)?, progress))
    };
    let refused = |why: String| Signal::from(Event::EvidenceRefused(why));
    match blocking(reading).await {
        Ok(Ok((Some(seal), progress))) => {
            // Nobody adds to it any more: a record that is not whole by now ends the waiting at once.
            let (_, mirrored) = watch::channel(progress);
            preserve_sealed(host, record, seal, mirrored).await
        }
        Ok(Ok((None, _))) => refused("the guest's seal was not kept before the control plane was restarted".to_owned()),
        Ok(Err(error)) => refused(chain(&error)),
        Err(error) => refused(error),
    }
}

/// Store what can be shown to be genuine; a sealed bundle that is there already stays.
pub(crate) async fn preserve_prefix(host: Arc<Host>, record: SessionRecord) -> Signal {
    let work = async {
        if let Some(event) = stored(&host, record.id).await? {
            return Ok(event);
        }
        let id = record.id;
        let bundle = assembled(&host, record, evidence::prefix).await?;
        match host.vault.put_first(id, bundle, PREFIX_PATIENCE).await.map_err(|error| chain(&error))? {
            Put::Stored => Ok(Event::PrefixStored),
            // A sealed one that was on its way was faster.
            Put::OneIsThere => stored(&host, id).await?.ok_or_else(|| "the stored bundle is gone".to_owned()),
        }
    };
    let result: Result<_, String> = work.await;
    result.unwrap_or_else(Event::NothingToPreserve).into()
}

/// Puts evidence together when it is this session's turn; the work gets the time to verify at, in unix seconds.
async fn assembled<T: Send + 'static>(
    host: &Host,
    record: SessionRecord,
    work: impl FnOnce(&SessionRecord, &SessionDir, u64) -> Result<T, EvidenceError> + Send + 'static,
) -> Result<T, String> {
    let _turn = host.assembling.acquire().await;
    let (dir, at) = (host.directory(&record), now().seconds());
    blocking(move || work(&record, &dir, at)).await?.map_err(|error| chain(&error))
}

/// What the bundle means that is stored already, if there is one.
async fn stored(host: &Host, id: SessionId) -> Result<Option<Event>, String> {
    let Some(bundle) = host.vault.get(id).await.map_err(|error| chain(&error))? else { return Ok(None) };
    let ending = evidence::stored_ending(&bundle).map_err(|error| chain(&error))?;
    Ok(Some(ending.map_or(Event::PrefixStored, Event::EvidenceSealed)))
}

/// After a restart: end what an earlier life of this process started.
pub(crate) async fn end_leftovers(host: Arc<Host>, record: SessionRecord) -> Signal {
    if let Err(error) = scrub::end_processes(&host.holdings(&record)).await {
        tracing::error!(session = %record.id, %error, "processes of an earlier life do not end");
    }
    Event::GuestGone(GuestExit::Lost).into()
}

/// Remove what the host holds.
pub(crate) async fn scrub_all(host: Arc<Host>, record: SessionRecord) -> Signal {
    let steps = scrub::scrub(&host.holdings(&record)).await;
    for step in &steps {
        match &step.result {
            Ok(()) => tracing::debug!(session = %record.id, step = step.name, "clean-up"),
            Err(error) => tracing::error!(session = %record.id, step = step.name, %error, "clean-up failed"),
        }
    }
    Signal::Scrubbed(steps)
}

/// Sign what was done and put it into the bundle.
pub(crate) async fn write_receipt(host: Arc<Host>, record: SessionRecord, steps: Vec<Step>) -> Signal {
    let work = async {
        let instance = record.instance().ok_or("the instance is not known")?;
        // A receipt of another key would spoil the bundle: the configuration names the one that may sign.
        let named = Config::parse(&record.config).map_err(|_| "the stored configuration is malformed")?.host.host_key;
        let ours = PublicKey::of(&host.key);
        if named != ours {
            return Err(format!("expected the host key {named} of the session's start, found {ours}: none is signed"));
        }
        let stored = host.vault.get(record.id).await.map_err(|error| chain(&error))?.ok_or("the bundle is gone")?;
        let id = record.id;
        let shared = Arc::clone(&host);
        let signing = move || evidence::with_receipt(&stored, &record, instance, &steps, &shared.key);
        let signed = blocking(signing).await?;
        host.vault.replace(id, signed.map_err(|error| chain(&error))?).await.map_err(|error| chain(&error))
    };
    let result: Result<(), String> = work.await;
    Event::Receipted(result.err()).into()
}

/// The guest's last words, for whoever reads the diagnostics. There are none in the tdx profile.
pub(crate) fn log_console(dir: &SessionDir) {
    let tail = console::tail(&dir.join(console::LOG));
    if !tail.is_empty() {
        tracing::warn!(console = ?tail, "the end of the session's console");
    }
}

/// The console of a session that ends early.
pub(crate) fn show_console(host: &Host, record: &SessionRecord) {
    log_console(&host.directory(record));
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}
