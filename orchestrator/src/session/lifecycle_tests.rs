//! Whole lives of sessions through registry, owner task, journal, mirror, verifier and clean-up, with guests acted in this
//! process: every way to end, closes at every moment, restarts, and many at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{Digest256, SessionId};
use coffer_evidence::intent::sign_intent;
use coffer_evidence::manifest::Profile;
use coffer_evidence::seal::{ClosedBy, Reason};
use coffer_policy::texts::DEFAULT;
use ed25519_dalek::SigningKey;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};

use super::acted::{ActedLink, ActedSource, ActedVmm, Script, Stage, write_image};
use super::admission::{self, fixtures};
use super::machine::Evidence;
use super::perform::{ASSEMBLING_MAX, Host, now};
use super::record::{SessionRecord, Step};
use super::registry::{Registry, Rules};
use super::types::{Ending, Outcome, Phase, Timestamp};
use crate::endorsements::{Endorsements, Source};
use crate::host::cgroup::CgroupRoot;
use crate::image::Catalogue;
use crate::link::Link;
use crate::store::embedded::EmbeddedStore;
use crate::store::vault::Vault;
use crate::store::{Created, RequestKey, Reservation, Seen, Store, StoreError, UidRange};
use crate::vmm::Vmm;

/// Longer than any phase of these tests takes.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// At which step of the journal a control plane dies, and on which side of it.
struct Fate {
    steps_left: AtomicUsize,
    side: Mutex<Side>,
    /// Told when it is dead.
    dead: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// The step is not in the journal.
    Before,
    /// It is, and nothing of it is performed.
    After,
}

impl Fate {
    fn new() -> Self {
        Self {
            steps_left: AtomicUsize::new(usize::MAX),
            side: Mutex::new(Side::Before),
            dead: watch::Sender::new(false),
        }
    }

    fn set(&self, steps: usize, side: Side) {
        *self.side.lock().expect("not poisoned") = side;
        self.dead.send_replace(false);
        self.steps_left.store(steps, Ordering::SeqCst);
    }
}

/// A store that is there until its process is killed: then nothing more reaches the journal, and nobody is told why.
struct UntilKilled {
    store: EmbeddedStore,
    fate: Arc<Fate>,
}

impl Store for UntilKilled {
    fn create(
        &self,
        record: SessionRecord,
        request: RequestKey,
        open_max: usize,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Created, StoreError>> {
        self.store.create(record, request, open_max, now)
    }

    fn commit(&self, record: SessionRecord, step: Step) -> BoxFuture<'_, Result<(), StoreError>> {
        if *self.fate.dead.borrow() {
            return Box::pin(std::future::pending());
        }
        if self.fate.steps_left.fetch_sub(1, Ordering::SeqCst) > 1 {
            return self.store.commit(record, step);
        }
        let side = *self.fate.side.lock().expect("not poisoned");
        Box::pin(async move {
            if side == Side::After {
                self.store.commit(record, step).await?;
            }
            self.fate.dead.send_replace(true);
            std::future::pending().await
        })
    }

    fn reserve(
        &self,
        session: SessionId,
        uids: Option<UidRange>,
        boot_id: String,
        seed: u32,
    ) -> BoxFuture<'_, Result<Reservation, StoreError>> {
        self.store.reserve(session, uids, boot_id, seed)
    }

    fn remember(
        &self,
        request: RequestKey,
        session: SessionId,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Seen, StoreError>> {
        self.store.remember(request, session, now)
    }

    fn get(&self, id: SessionId) -> BoxFuture<'_, Result<Option<SessionRecord>, StoreError>> {
        self.store.get(id)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<SessionRecord>, StoreError>> {
        self.store.list()
    }

    fn open(&self) -> BoxFuture<'_, Result<Vec<SessionRecord>, StoreError>> {
        self.store.open()
    }
}

pub(super) struct World {
    root: tempfile::TempDir,
    fate: Arc<Fate>,
    stage: Arc<Stage>,
    image: Digest256,
    /// None but where they are counted: sessions of other tests have the same ids.
    cgroups: Option<CgroupRoot>,
}

impl World {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        for name in ["sessions", "evidence", "images"] {
            std::fs::create_dir(root.path().join(name)).expect("mkdir");
        }
        let image = write_image(&root.path().join("images"));
        Self { root, fate: Arc::new(Fate::new()), stage: Arc::default(), image, cgroups: None }
    }

    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }

    /// A control plane over this world's files. After an earlier one its writer may still hold the store for a moment.
    async fn registry(&self) -> Arc<Registry> {
        let (vmm, link) = (ActedVmm(Arc::clone(&self.stage)), ActedLink(Arc::clone(&self.stage)));
        self.registry_of(Arc::new(vmm), Arc::new(link)).await
    }

    /// The same with other machines and links.
    pub(super) async fn registry_of(&self, vmm: Arc<dyn Vmm>, link: Arc<dyn Link>) -> Arc<Registry> {
        let store: Arc<dyn Store> = loop {
            match EmbeddedStore::open_file(&self.path("coffer.redb"), "boot") {
                Ok(store) => break Arc::new(UntilKilled { store, fate: Arc::clone(&self.fate) }),
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let host = Host {
            store,
            vault: Vault::local(&self.path("evidence")).expect("vault"),
            vmm,
            link,
            endorsements: Endorsements { simulated: Some(Arc::new(ActedSource::new()) as Arc<dyn Source>), tdx: None },
            images: Catalogue::new(self.path("images"), vec![]),
            cgroups: self.cgroups.clone(),
            uids: None,
            key: SigningKey::from_bytes(&[13; 32]),
            boot_id: "boot".to_owned(),
            sessions: self.path("sessions"),
            assembling: Semaphore::new(ASSEMBLING_MAX),
        };
        let rules = Rules {
            sessions_max: 1_000,
            boot: Duration::from_secs(2),
            seal: Duration::from_secs(2),
            scrub: Duration::from_secs(10),
            serves: vec![Profile::Simulated],
        };
        Registry::start(Arc::new(host), rules).await.expect("started")
    }

    pub(super) fn sessions(&self) -> usize {
        std::fs::read_dir(self.path("sessions")).expect("there").count()
    }
}

pub(super) fn id(n: u32) -> SessionId {
    let mut bytes = [0x11; 16];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    SessionId::new(bytes)
}

fn key(n: u32, what: &str) -> RequestKey {
    RequestKey { id: format!("{what}-{n}"), digest: "d".to_owned() }
}

pub(super) async fn create(registry: &Arc<Registry>, world: &World, n: u32) -> SessionId {
    let mut intent = fixtures::intent(*id(n).as_bytes(), world.image);
    intent.issued_at = now().seconds();
    intent.not_after = now().seconds() + 600;
    let signature = sign_intent(&fixtures::owner(), &intent);
    let bytes = intent.to_bytes();
    let request = admission::Request {
        intent: &bytes,
        owner_sig: &signature,
        policy: DEFAULT.as_bytes(),
        labels: BTreeMap::new(),
    };
    registry.create(request, key(n, "create")).await.expect("created").id
}

pub(super) async fn close(registry: &Arc<Registry>, n: u32) {
    let ending = Ending::by_host(Reason::UserClosed);
    registry.close(id(n), key(n, "close"), ending).await.expect("asked");
}

pub(super) async fn reach(registry: &Registry, n: u32, phase: Phase) -> Arc<SessionRecord> {
    let record = registry.wait(id(n), phase, SOON).await.expect("known");
    assert!(record.machine.phase() >= phase, "expected {phase}, found {record:?}");
    record
}

/// It is closed, its files are gone, and the vault holds what the journal says.
pub(super) async fn closed(registry: &Registry, world: &World, n: u32) -> Arc<SessionRecord> {
    let record = reach(registry, n, Phase::Closed).await;
    assert!(!world.path("sessions").join(id(n).to_string()).exists(), "{record:?}");
    assert_eq!(record.machine.scrub_failures(), [] as [String; 0], "{record:?}");
    let stored = registry.host().vault.get(id(n)).await.expect("readable");
    let sealed = stored.as_ref().map(|b| super::evidence::stored_ending(b).expect("a bundle").is_some());
    match record.machine.evidence() {
        Evidence::Sealed => assert_eq!(sealed, Some(true), "{record:?}"),
        Evidence::Prefix => assert_eq!(sealed, Some(false), "{record:?}"),
        Evidence::Nothing | Evidence::Opened => assert_eq!(sealed, None, "{record:?}"),
    }
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_session_is_sealed_stored_and_gone() {
    let world = World::new();
    let registry = world.registry().await;
    let mut changes = registry.watch();
    create(&registry, &world, 1).await;
    let ready = reach(&registry, 1, Phase::Ready).await;
    assert_eq!(ready.machine.phase(), Phase::Ready, "{ready:?}");
    assert!(ready.instance().is_some());
    close(&registry, 1).await;
    let record = closed(&registry, &world, 1).await;
    assert_eq!(record.machine.outcome(), Some(Outcome::Sealed), "{record:?}");
    assert_eq!(record.machine.ending(), Some(Ending::by_host(Reason::UserClosed)));
    let phases: Vec<Phase> = record.timeline.iter().map(|(phase, _)| *phase).collect();
    assert!(phases.is_sorted_by(|a, b| a < b) && phases.len() == 9, "each phase once, in order: {phases:?}");
    let mut watched = Vec::new();
    // Whoever waits is told a moment before those who watch.
    while watched.last() != Some(&Phase::Closed) {
        let change = tokio::time::timeout(SOON, changes.recv()).await.expect("in time").expect("a change");
        watched.push(change.machine.phase());
    }
    assert_eq!(watched, phases[1..], "a watcher is told of each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_that_a_guest_can_go_wrong_has_its_ending() {
    let by = |reason, closed_by| Some(Ending { reason, closed_by });
    let cases = [
        (Script::Silent, Outcome::Aborted, by(Reason::BootTimeout, ClosedBy::Host)),
        (Script::DoesNotStart, Outcome::Aborted, by(Reason::Internal, ClosedBy::Host)),
        (Script::DiesBooting, Outcome::Aborted, by(Reason::AttestationFailed, ClosedBy::Agent)),
        (Script::Fails, Outcome::Aborted, by(Reason::AttestationFailed, ClosedBy::Agent)),
        (Script::LiesAtTheOpening, Outcome::Aborted, by(Reason::AttestationFailed, ClosedBy::Host)),
        (Script::IsAnother, Outcome::Aborted, by(Reason::AttestationFailed, ClosedBy::Host)),
        (Script::Contradicts, Outcome::Aborted, by(Reason::AttestationFailed, ClosedBy::Host)),
        (Script::SealsAtOnce, Outcome::Sealed, by(Reason::IdleTimeout, ClosedBy::Agent)),
    ];
    let world = World::new();
    let registry = world.registry().await;
    for (n, (script, outcome, ending)) in (1..).zip(cases) {
        world.stage.set(script);
        create(&registry, &world, n).await;
        let record = closed(&registry, &world, n).await;
        assert_eq!(record.machine.outcome(), Some(outcome), "{script:?}: {record:?}");
        assert_eq!(record.machine.ending(), ending, "{script:?}: {record:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_end_as_it_should_leaves_a_prefix_at_most() {
    let cases = [
        (Script::IsKilled, Reason::HostLost),
        (Script::DoesNotSeal, Reason::GuestUnresponsive),
        (Script::SealsSomethingElse, Reason::AttestationFailed),
        (Script::WithholdsALeaf, Reason::AttestationFailed),
    ];
    let world = World::new();
    let registry = world.registry().await;
    for (n, (script, reason)) in (1..).zip(cases) {
        world.stage.set(script);
        create(&registry, &world, n).await;
        reach(&registry, n, Phase::Ready).await;
        close(&registry, n).await;
        let record = closed(&registry, &world, n).await;
        assert_eq!(record.machine.outcome(), Some(Outcome::Aborted), "{script:?}: {record:?}");
        assert_eq!(record.machine.evidence(), Evidence::Prefix, "{script:?}: {record:?}");
        assert_eq!(record.machine.ending().map(|e| e.reason), Some(reason), "{script:?}: {record:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_at_any_moment_and_twice_ends_the_session_once() {
    let world = World::new();
    let registry = world.registry().await;
    let mut sealed = 0;
    for n in 1..=60 {
        world.stage.set(if n % 5 == 0 { Script::Silent } else { Script::Orderly });
        create(&registry, &world, n).await;
        // A different moment each time: a phase, and then some turns of the runtime.
        let phase = [Phase::Requested, Phase::Launching, Phase::Attesting, Phase::Ready][n as usize % 4];
        if phase < Phase::Attesting || n % 5 != 0 {
            reach(&registry, n, phase).await;
        }
        for _ in 0..n * 4 {
            tokio::task::yield_now().await;
        }
        close(&registry, n).await;
        close(&registry, n).await;
        let record = closed(&registry, &world, n).await;
        assert_eq!(record.machine.ending(), Some(Ending::by_host(Reason::UserClosed)), "{record:?}");
        sealed += usize::from(record.machine.outcome() == Some(Outcome::Sealed));
        assert!(n % 5 != 0 || record.machine.outcome() == Some(Outcome::Aborted));
    }
    assert!((1..60).contains(&sealed), "some before they were ready, some after: {sealed} sealed");
    assert_eq!(world.sessions(), 0);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime")
}

/// Runs a control plane through the life of a session until it dies at a step, as if it had been killed: its tasks get no
/// further turn. Tells whether it died: a life may have fewer steps.
fn live_until(world: &World, n: u32, step: usize, side: Side) -> bool {
    let runtime = runtime();
    let died = runtime.block_on(async {
        let mut dead = world.fate.dead.subscribe();
        let registry = world.registry().await;
        world.fate.set(step, side);
        create(&registry, world, n).await;
        let life = async {
            reach(&registry, n, Phase::Ready).await;
            close(&registry, n).await;
            closed(&registry, world, n).await;
        };
        tokio::select! {
            () = life => *world.fate.dead.borrow(),
            _ = dead.wait_for(|dead| *dead) => true,
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    world.fate.set(usize::MAX, Side::Before);
    died
}

/// What becomes of a session whose control plane died at a step, for every step there is, on both sides of each.
fn at_every_step(meanwhile: impl Fn(&World), judge: impl Fn(&World, &SessionRecord, &str)) {
    let world = World::new();
    let mut n = 0;
    let mut deaths = 0;
    for side in [Side::Before, Side::After] {
        for step in 1.. {
            n += 1;
            let launches = world.stage.launches();
            if !live_until(&world, n, step, side) {
                break;
            }
            deaths += 1;
            meanwhile(&world);
            let runtime = runtime();
            runtime.block_on(async {
                let registry = world.registry().await;
                reach(&registry, n, Phase::Ready).await;
                close(&registry, n).await;
                let record = closed(&registry, &world, n).await;
                let at = format!("{side:?} step {step}: {:?} {:?}", record.timeline, record.machine);
                assert!(world.stage.launches() - launches <= 1, "launched twice, {at}");
                if record.timeline.iter().all(|(phase, _)| *phase != Phase::Attesting) {
                    // Processes of a launch that was never journaled are found by their records; acted ones have none.
                    world.stage.kill_all();
                }
                assert_eq!(world.stage.machines(), 0, "a machine is left, {at}");
                assert!(registry.host().store.open().await.expect("list").is_empty(), "{at}");
                judge(&world, &record, &at);
            });
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
    assert!(deaths >= 2 * 10, "a life has more steps than {deaths} deaths show");
    assert_eq!(world.sessions(), 0);
}

#[test]
fn a_control_plane_that_dies_at_any_step_takes_its_guest_over_when_it_is_back() {
    at_every_step(
        |_| {},
        |_, record, at| {
            let launched = record.timeline.iter().any(|(phase, _)| *phase == Phase::Attesting);
            if launched {
                assert_eq!(record.machine.outcome(), Some(Outcome::Sealed), "{at}");
                assert_eq!(record.machine.ending(), Some(Ending::by_host(Reason::UserClosed)), "{at}");
            } else {
                assert_eq!(record.machine.outcome(), Some(Outcome::Aborted), "{at}");
                assert_eq!(record.machine.ending(), Some(Ending::by_host(Reason::HostLost)), "{at}");
            }
        },
    );
}

#[test]
fn a_machine_that_is_gone_when_the_control_plane_is_back_leaves_what_was_kept_of_it() {
    at_every_step(
        |world| world.stage.kill_all(),
        |_, record, at| {
            let reached = |wanted| record.timeline.iter().any(|(phase, _)| *phase == wanted);
            let expected = if reached(Phase::Sealing) {
                // Its last word was heard: all that a bundle needs is here, or was on its way and is lost.
                [Evidence::Sealed, Evidence::Prefix]
            } else if reached(Phase::Ready) {
                [Evidence::Prefix, Evidence::Opened]
            } else {
                [Evidence::Nothing, Evidence::Nothing]
            };
            assert!(expected.contains(&record.machine.evidence()), "{at}");
        },
    );
}

pub(super) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("fds").count()
}

pub(super) fn files(directory: &Path) -> usize {
    std::fs::read_dir(directory).expect("there").count()
}

/// Set in the process that counts: other tests open files, too.
pub(super) const ALONE: &str = "COFFER_TEST_ALONE";

#[test]
fn many_sessions_leave_no_task_descriptor_or_file_behind() {
    if std::env::var_os(ALONE).is_none() {
        let name = "session::lifecycle_tests::many_sessions_leave_no_task_descriptor_or_file_behind";
        let mut alone = std::process::Command::new(std::env::current_exe().expect("this program"));
        let output = alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().expect("run");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{said}");
        for line in said.lines().filter(|line| line.starts_with("NOT RUN") || line.starts_with("2,000 sessions")) {
            println!("{line}");
        }
        return;
    }
    let mut world = World::new();
    world.cgroups = CgroupRoot::prepare().ok();
    if world.cgroups.is_none() {
        println!("NOT RUN: no cgroup can be made here: none are counted");
    }
    let runtime = runtime();
    runtime.block_on(async {
        let registry = world.registry().await;
        let many = |from: u32, count: u32| {
            let (registry, world) = (Arc::clone(&registry), &world);
            async move {
                let scripts = [Script::Orderly, Script::IsKilled, Script::SealsAtOnce, Script::DiesBooting];
                for n in from..from + count {
                    world.stage.set(scripts[n as usize % scripts.len()]);
                    create(&registry, world, n).await;
                    if n % 3 == 0 {
                        close(&registry, n).await;
                    }
                    // Up to eight are open at once.
                    if n >= from + 8 {
                        close(&registry, n - 8).await;
                        closed(&registry, world, n - 8).await;
                    }
                }
                for n in (from + count).saturating_sub(8)..from + count {
                    close(&registry, n).await;
                    closed(&registry, world, n).await;
                }
            }
        };
        many(1, 100).await;
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        // What the first sessions opened for good, such as the store's and the runtime's own, counts as before.
        falls_to("tasks", tasks, 0).await;
        let (fds, threads, memory) = (descriptors(), of_status("Threads:"), of_status("VmRSS:"));
        many(200, 2_000).await;
        falls_to("tasks", tasks, 0).await;
        falls_to("descriptors", descriptors, fds).await;
        // Threads for blocking work come and go; the runtime has a limit for them.
        falls_to("threads", || of_status("Threads:"), threads + 8).await;
        let grown = of_status("VmRSS:").saturating_sub(memory);
        assert!(grown <= MEMORY_KIB_PER_1000 * 2, "memory grew by {grown} KiB with 2,000 sessions");
        println!(
            "2,000 sessions: {fds} descriptors, {threads} threads before; memory {memory} KiB, and {grown} KiB more"
        );
        assert_eq!(files(&world.path("sessions")), 0, "session directories");
        assert_eq!(world.stage.machines(), 0, "machines");
    });
    if let Some(root) = &world.cgroups {
        let left = (0..2_200).filter(|n| root.session(&id(*n).to_string()).exists()).count();
        assert_eq!(left, 0, "cgroups");
        root.remove_if_empty();
    }
}

/// Memory that 1,000 closed sessions may take: the store remembers them, up to its own limit.
const MEMORY_KIB_PER_1000: usize = 12 * 1024;

/// A number of `/proc/self/status`.
fn of_status(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

/// Waits until a count is down to what it was. That a task or a descriptor is gone is no event that others see.
pub(super) async fn falls_to(what: &str, count: impl Fn() -> usize, before: usize) {
    let begin = std::time::Instant::now();
    while count() > before {
        assert!(begin.elapsed() < SOON, "{what}: {before} before, {} after", count());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
