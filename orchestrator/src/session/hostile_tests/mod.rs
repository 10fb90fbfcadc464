//! Guests that mean harm, against a whole control plane: on the control port, on the record port and in the stream of
//! calls. Each ends its own session, once, with a prefix or nothing and never `sealed`; sessions beside it go on and are
//! sealed; nothing is left behind.

mod calls;
mod control;
mod record;
mod stage;

use std::sync::Arc;

use coffer_evidence::seal::Reason;

use super::lifecycle_tests::{ALONE, World, close, closed, create, descriptors, falls_to, files, id, reach};
use super::machine::Evidence;
use super::registry::Registry;
use super::types::{Ending, Outcome, Phase};
use stage::{Act, ActVmm, SocketLink, greet};

/// How a session with this guest ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// It breaks its word before there is anything to keep.
    Violates,
    /// It never becomes ready.
    NeverReady,
    /// It breaks its word when part of its record is kept.
    ViolatesLater,
    /// It announces its end, and there is no seal.
    SealsNot,
    /// Its record is not what it sealed, and not what it signed before.
    SealsInVain,
    /// It is asked to close, and there is no seal.
    SealsNotWhenAsked,
    /// It is asked to close, and nothing that it said can be shown to be genuine.
    NothingWhenAsked,
}

impl Ends {
    const fn is_asked(self) -> bool {
        matches!(self, Self::SealsNotWhenAsked | Self::NothingWhenAsked)
    }

    const fn ending(self) -> Ending {
        Ending::by_host(match self {
            Self::Violates | Self::ViolatesLater | Self::SealsInVain => Reason::AttestationFailed,
            Self::NeverReady => Reason::BootTimeout,
            Self::SealsNot | Self::SealsNotWhenAsked | Self::NothingWhenAsked => Reason::GuestUnresponsive,
        })
    }

    const fn becomes_ready(self) -> bool {
        !matches!(self, Self::Violates | Self::NeverReady)
    }

    const fn leaves_a_prefix(self) -> bool {
        matches!(self, Self::ViolatesLater | Self::SealsNot | Self::SealsNotWhenAsked)
    }
}

/// One kind of harm.
struct Row {
    name: &'static str,
    ends: Ends,
    act: Act,
}

impl Row {
    const fn new(name: &'static str, ends: Ends, act: Act) -> Self {
        Self { name, ends, act }
    }
}

/// Sessions of each test have numbers of their own: the clean-up looks for their names on all of the host.
struct Theatre {
    world: World,
    vmm: Arc<ActVmm>,
    registry: Arc<Registry>,
}

impl Theatre {
    async fn new() -> Self {
        let world = World::new();
        let vmm = Arc::<ActVmm>::default();
        let registry = world.registry_of(Arc::clone(&vmm) as _, Arc::new(SocketLink)).await;
        Self { world, vmm, registry }
    }

    /// Runs all rows at once, beside sessions that behave, from this session number on.
    async fn run(&self, rows: &[&Row], from: u32) {
        let Self { world, vmm, registry } = self;
        let bystander = from;
        create(registry, world, bystander).await;
        let ready = reach(registry, bystander, Phase::Ready).await;
        assert_eq!(ready.machine.phase(), Phase::Ready, "{ready:?}");
        let mut cues = Vec::new();
        for (row, n) in rows.iter().zip(from + 1..) {
            cues.push(vmm.set(id(n), row.act, greet));
            create(registry, world, n).await;
        }
        for ((row, cue), n) in rows.iter().zip(cues).zip(from + 1..) {
            if row.ends.becomes_ready() {
                reach(registry, n, Phase::Ready).await;
                cue.send_replace(true);
            }
            if row.ends.is_asked() {
                close(registry, n).await;
            }
        }
        let mut wrong = Vec::new();
        for (row, n) in rows.iter().zip(from + 1..) {
            let record = closed(registry, world, n).await;
            let name = row.name;
            let machine = &record.machine;
            let found = (machine.outcome(), machine.ending(), machine.evidence() == Evidence::Prefix);
            let ending = row.ends.ending();
            if found != (Some(Outcome::Aborted), Some(ending), row.ends.leaves_a_prefix()) {
                wrong.push(format!("{name}: {found:?}, {:?}", machine.message()));
            }
            let phases: Vec<Phase> = record.timeline.iter().map(|(phase, _)| *phase).collect();
            assert!(phases.is_sorted_by(|a, b| a < b), "{name}: each phase once: {phases:?}");
        }
        assert_eq!(wrong, [] as [String; 0]);
        let newcomer = from + 1 + u32::try_from(rows.len()).expect("few");
        create(registry, world, newcomer).await;
        reach(registry, newcomer, Phase::Ready).await;
        for n in [bystander, newcomer] {
            close(registry, n).await;
            let record = closed(registry, world, n).await;
            assert_eq!(record.machine.outcome(), Some(Outcome::Sealed), "{record:?}");
        }
        assert_eq!(world.sessions(), 0);
    }
}

/// More than all of a record that a guest can mirror, held once, takes beside the rest.
const MEMORY_MAX_KIB: u64 = 768 * 1024;

/// Memory of this process in KiB: now, and at most so far.
fn memory_kib() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    (field("RssAnon:"), field("VmHWM:"))
}

/// Runs a test in a process of its own, whose tasks, descriptors and memory are nobody else's.
fn alone(name: &str, test: impl Future<Output = ()>) {
    if std::env::var_os(ALONE).is_none() {
        let name = format!("session::hostile_tests::{name}");
        let mut alone = std::process::Command::new(std::env::current_exe().expect("this program"));
        let output = alone.args(["--exact", &name, "--nocapture"]).env(ALONE, "1").output().expect("run");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(test);
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[test]
fn no_stream_of_calls_of_a_hostile_guest_fills_the_host_or_ends_more_than_its_calls() {
    alone("no_stream_of_calls_of_a_hostile_guest_fills_the_host_or_ends_more_than_its_calls", async {
        let theatre = Theatre::new().await;
        theatre.run(&[], 70_000).await;
        falls_to("tasks", tasks, 0).await;
        let before = descriptors();
        let (_, most_before) = memory_kib();
        calls::run(&theatre, 71_000).await;
        falls_to("tasks", tasks, 0).await;
        falls_to("descriptors", descriptors, before).await;
        let (_, most) = memory_kib();
        eprintln!("memory: at most {most_before} KiB before, {most} KiB after");
        assert!(most < most_before + 96 * 1024, "{most_before} KiB before, {most} KiB after");
    });
}

#[test]
fn whatever_a_hostile_guest_says_or_mirrors_ends_its_own_session_and_leaves_nothing_behind() {
    alone("whatever_a_hostile_guest_says_or_mirrors_ends_its_own_session_and_leaves_nothing_behind", async {
        let theatre = Theatre::new().await;
        theatre.run(&[], 80_000).await;
        falls_to("tasks", tasks, 0).await;
        let before = descriptors();
        let rows: Vec<&Row> = control::ROWS.iter().chain(record::ROWS).collect();
        theatre.run(&rows, 81_000).await;
        falls_to("tasks", tasks, 0).await;
        falls_to("descriptors", descriptors, before).await;
        assert_eq!(files(&theatre.world.path("sessions")), 0, "session directories");
        let (now, most) = memory_kib();
        eprintln!("memory: {now} KiB, at most {most} KiB");
        assert!(most < MEMORY_MAX_KIB, "{most} KiB");
    });
}
