//! `cofferd serve`: chooses the adapters, opens state and socket, serves, and on a signal brings every session to its
//! end. The only place that names concrete adapters.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coffer_evidence::ids::Digest256;
use coffer_evidence::manifest::Profile;
use coffer_evidence::seal::Reason;
use coffer_evidence::verify::TrustAnchor;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::api;
use crate::config::{Accelerator, Config, LinkKind, Telemetry, TelemetryFormat};
use crate::endorsements::{
    CollateralFile, CollateralService, Endorsements, Limits, Roots, Shelf, SimulatorProgram, Source,
};
use crate::host::cgroup::CgroupRoot;
use crate::host::key::Origin;
use crate::host::{api_socket, key, process, state_dir};
use crate::image::Catalogue;
use crate::link::Link;
use crate::link::kernel::{self, KernelLink};
use crate::link::vhost_user::{self, VhostUserLink};
use crate::session::perform::{ASSEMBLING_MAX, Host, chain, now};
use crate::session::registry::{Registry, Rules};
use crate::session::types::Ending;
use crate::store::embedded::EmbeddedStore;
use crate::store::vault::Vault;
use crate::store::{Store as _, UidRange};
use crate::vmm::LaunchError;
use crate::vmm::qemu::argv::Cpu;
use crate::vmm::qemu::kit::QemuProgram;
use crate::vmm::qemu::{QemuVmm, kvm};
use crate::vmm::stand_in::StandIn;

/// How long a guest may boot, in seconds: with hardware, and emulated.
const BOOT_KVM_S: u64 = 120;
const BOOT_TCG_S: u64 = 300;

/// Runs the daemon to its end.
pub(crate) fn run(config: Option<&Path>, state: Option<PathBuf>, socket: Option<PathBuf>) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    start_telemetry(&config.telemetry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(serve(config, state, socket))
}

fn start_telemetry(telemetry: &Telemetry) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&telemetry.filter).context("telemetry.filter")?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match telemetry.format {
        TelemetryFormat::Text => lines.with_ansi(false).init(),
        TelemetryFormat::Json => lines.json().init(),
    }
    Ok(())
}

async fn serve(config: Config, state: Option<PathBuf>, socket: Option<PathBuf>) -> anyhow::Result<()> {
    let state = match state {
        Some(state) => state,
        None => state_dir::default_state()?,
    };
    let state = state_dir::StateDir::open(&state)?;
    let (key, origin) = key::load_or_make(&state.host_key())?;
    let boot_id = process::boot_id().context("read the host's boot id")?;
    let store = Arc::new(EmbeddedStore::open_file(&state.store(), &boot_id)?);
    let launcher = std::env::current_exe().context("find this executable")?;
    let beside = |name: &str| launcher.with_file_name(name);
    let simulator = config.simulator.command.clone().unwrap_or_else(|| beside("coffer-tdx-sim"));
    let simulator = Some(simulator).filter(|program| program.is_file());
    let cpu = choose_cpu(config.vmm.accelerator);
    let is_root = rustix::process::geteuid().is_root();

    let mut serves = Vec::new();
    if cpu == Cpu::Kvm && tdx_is_enabled() {
        serves.push(Profile::Tdx);
    }
    if simulator.is_some() {
        serves.push(Profile::Simulated);
    }
    let images = config.image.directory.clone().unwrap_or_else(|| state.images());
    let device = config.vmm.vsock_device.clone().unwrap_or_else(|| beside("coffer-vsock"));
    warn_of_surroundings(&config, cpu, &device);
    let open = store.open().await?;
    if origin == Origin::Made && !open.is_empty() {
        tracing::warn!(
            path = %state.host_key().display(),
            sessions = open.len(),
            "the host key is new, open sessions name another: no receipts are signed for them"
        );
    }
    let host = Arc::new(Host {
        store,
        vault: Vault::local(&state.evidence())?,
        vmm: Arc::new(QemuVmm {
            launcher: launcher.clone(),
            program: config.vmm.qemu.clone(),
            kit: config.vmm.kit.clone(),
            cpu,
            quote_socket: config.vmm.quote_socket.clone(),
            stand_in: simulator.clone().map(|program| StandIn { launcher: launcher.clone(), program }),
        }),
        link: choose_link(config.vmm.link, &launcher, device),
        endorsements: Endorsements {
            simulated: simulator.map(|program| Arc::new(SimulatorProgram(program)) as Arc<dyn Source>),
            tdx: endorsed_by(&config, state.collateral())?,
        },
        images: Catalogue::new(images, config.publishers()?),
        cgroups: prepare_cgroups(),
        uids: is_root.then_some(UidRange { first: config.vmm.uid_first, count: config.vmm.uid_count }),
        key,
        boot_id,
        sessions: state.sessions(),
        assembling: Semaphore::new(ASSEMBLING_MAX),
    });
    let boot_s = config.limits.boot_s.unwrap_or(if cpu == Cpu::Kvm { BOOT_KVM_S } else { BOOT_TCG_S });
    let rules = Rules {
        sessions_max: config.limits.sessions,
        boot: Duration::from_secs(boot_s),
        seal: Duration::from_secs(config.limits.seal_s),
        scrub: Duration::from_secs(config.limits.scrub_s),
        serves,
    };
    // Before anything is done to sessions: whoever cannot serve leaves them to the one that can.
    let path = match socket.or_else(|| config.listen.socket.clone()) {
        Some(path) => path,
        None => api_socket::default_path()?,
    };
    let (listener, socket) = api_socket::listen(&path).await?;
    warn_without_images(&host, config.default_image()?);
    tracing::info!(state = %state.root().display(), serves = ?rules.serves, ?cpu, is_root, "cofferd starts");
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let registry = Registry::start(host, rules).await?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn(api::serve(
        Arc::clone(&registry),
        config.default_image()?,
        listener,
        stop.clone().cancelled_owned(),
    ));
    // The word that scripts wait for.
    println!("cofferd: listening on {}", path.display());

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM"),
        _ = interrupt.recv() => tracing::info!("SIGINT"),
    }
    let drain = Duration::from_secs(config.limits.drain_s);
    let left = registry.shut_down(Ending::by_host(Reason::HostDrained), drain).await;
    if left > 0 {
        tracing::error!(left, "sessions are not closed in time: the next start ends them");
    }
    stop.cancel();
    // Streams that watch would keep it open for ever.
    drop(tokio::time::timeout(Duration::from_secs(2), serving).await);
    drop(socket);
    if let Some(root) = &registry.host().cgroups {
        root.remove_if_empty();
    }
    Ok(())
}

/// Where collateral for real quotes comes from, if the operator says.
fn endorsed_by(config: &Config, kept: PathBuf) -> anyhow::Result<Option<Arc<dyn Source>>> {
    if let Some(file) = config.vmm.collateral.clone() {
        return Ok(Some(Arc::new(CollateralFile(file))));
    }
    let Some(url) = config.collateral_service()? else { return Ok(None) };
    let roots = config.vmm.pccs_ca.clone().map_or(Roots::Host, Roots::Pinned);
    if url.is_https()
        && let Err(error) = roots.load()
    {
        tracing::warn!(error = chain(&error), "no collateral can be fetched");
    }
    let clock = || now().seconds();
    let (shelf, limits) = (Shelf::at(kept), Limits::default());
    Ok(Some(Arc::new(CollateralService::new(url, roots, shelf, TrustAnchor::Intel, limits, clock))))
}

/// A host without an image takes no session: better said now than at the first one. Reads manifests, hashes what is new.
fn warn_without_images(host: &Arc<Host>, default: Option<Digest256>) {
    let host = Arc::clone(host);
    // In the background: a first look at large images takes a moment.
    tokio::task::spawn_blocking(move || {
        let (images, refused) = host.images.list();
        for error in &refused {
            tracing::warn!(error = chain(error), "an image cannot be used");
        }
        let directory = host.images.directory().display();
        if images.is_empty() {
            tracing::warn!(%directory, "no image can be used: build one and name its directory in image.directory");
        } else if let Some(default) = default.filter(|default| !images.iter().any(|image| image.digest == *default)) {
            tracing::warn!(%directory, %default, "image.default names an image that is not there");
        }
    });
}

fn uses_the_kernels_link(kind: LinkKind) -> bool {
    match kind {
        LinkKind::Kernel => true,
        LinkKind::VhostUser => false,
        LinkKind::Auto => Path::new(kernel::DEVICE).exists(),
    }
}

fn choose_link(kind: LinkKind, launcher: &Path, program: PathBuf) -> Arc<dyn Link> {
    if uses_the_kernels_link(kind) {
        Arc::new(KernelLink::default())
    } else {
        Arc::new(VhostUserLink { launcher: launcher.to_path_buf(), program })
    }
}

fn choose_cpu(accelerator: Accelerator) -> Cpu {
    match accelerator {
        Accelerator::Kvm => Cpu::Kvm,
        Accelerator::Tcg => Cpu::Tcg,
        Accelerator::Auto if kvm::fault().is_none() => Cpu::Kvm,
        Accelerator::Auto => Cpu::Tcg,
    }
}

/// What sessions will miss: said at the start, and again to each that asks. Those that an earlier life left open are ended
/// without any of it, so nothing here keeps `cofferd` from starting.
fn warn_of_surroundings(config: &Config, cpu: Cpu, device: &Path) {
    if let Err(error) = QemuProgram::find(config.vmm.qemu.as_deref(), config.vmm.kit.as_deref()) {
        tracing::warn!(error = chain(&error), "no session can be started");
    }
    if cpu == Cpu::Kvm
        && let Some(found) = kvm::fault()
    {
        tracing::warn!(error = chain(&LaunchError::Kvm { found }), "no session can be started");
    }
    if !uses_the_kernels_link(config.vmm.link) && !device.is_file() {
        tracing::warn!(error = chain(&vhost_user::missing(device)), "no session can be started");
    }
    if let Some(program) = config.simulator.command.as_deref().filter(|program| !program.is_file()) {
        tracing::warn!(path = %program.display(), "simulator.command names no program: simulated images are refused");
    }
}

/// Whether the host's kernel has initialised its TDX module.
fn tdx_is_enabled() -> bool {
    std::fs::read_to_string("/sys/module/kvm_intel/parameters/tdx").is_ok_and(|text| text.trim() == "Y")
}

fn prepare_cgroups() -> Option<CgroupRoot> {
    match CgroupRoot::prepare() {
        Ok(root) => {
            if !root.missing().is_empty() {
                tracing::warn!(missing = ?root.missing(), "controllers that this host does not offer: no such limits");
            }
            Some(root)
        }
        Err(error) => {
            tracing::warn!(%error, "no cgroups for sessions: their processes are found by their records alone");
            None
        }
    }
}
