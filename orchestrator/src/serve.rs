//! `cofferd serve`: chooses the adapters, opens state and socket, serves, and on a signal brings every session to its
//! end. The only place that names concrete adapters.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coffer_evidence::ids::Digest256;
use coffer_evidence::manifest::Profile;
use coffer_evidence::seal::Reason;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::api;
use crate::config::{Accelerator, Config, LinkKind, Telemetry, TelemetryFormat};
use crate::endorsements::{CollateralFile, Endorsements, SimulatorProgram, Source};
use crate::host::cgroup::CgroupRoot;
use crate::host::{key, process, state_dir};
use crate::image::Catalogue;
use crate::link::Link;
use crate::link::kernel::{self, KernelLink};
use crate::link::vhost_user::VhostUserLink;
use crate::session::perform::{ASSEMBLING_MAX, Host, chain};
use crate::session::registry::{Registry, Rules};
use crate::session::types::Ending;
use crate::store::UidRange;
use crate::store::embedded::EmbeddedStore;
use crate::store::vault::Vault;
use crate::vmm::qemu::QemuVmm;
use crate::vmm::qemu::argv::Cpu;
use crate::vmm::stand_in::StandIn;

/// How long a guest may boot, in seconds: with hardware, and emulated.
const BOOT_KVM_S: u64 = 120;
const BOOT_TCG_S: u64 = 300;

/// Why the API cannot be listened for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("expected XDG_RUNTIME_DIR to be an absolute path: set it, or name a socket with --socket")]
    NoRuntimeDirectory,
    #[error("the socket {} is in use by another cofferd: stop that one, or name another with --socket", path.display())]
    InUse { path: PathBuf },
    #[error("{what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

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
            tdx: config.vmm.collateral.clone().map(|file| Arc::new(CollateralFile(file)) as Arc<dyn Source>),
        },
        images: Catalogue::new(images, config.publishers()?),
        cgroups: prepare_cgroups(),
        uids: is_root.then_some(UidRange { first: config.vmm.uid_first, count: config.vmm.uid_count }),
        key: key::load_or_make(&state.host_key())?,
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
    warn_without_images(&host, config.default_image()?);
    tracing::info!(state = %state.root().display(), serves = ?rules.serves, ?cpu, is_root, "cofferd starts");
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let registry = Registry::start(host, rules).await?;

    let socket = match socket.or_else(|| config.listen.socket.clone()) {
        Some(socket) => socket,
        None => default_socket()?,
    };
    let listener = listen(&socket).await?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn(api::serve(
        Arc::clone(&registry),
        config.default_image()?,
        listener,
        stop.clone().cancelled_owned(),
    ));
    // The word that scripts wait for.
    println!("cofferd: listening on {}", socket.display());

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
    drop(std::fs::remove_file(&socket));
    if let Some(root) = &registry.host().cgroups {
        root.remove_if_empty();
    }
    Ok(())
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

fn choose_link(kind: LinkKind, launcher: &Path, program: PathBuf) -> Arc<dyn Link> {
    let kernel = match kind {
        LinkKind::Kernel => true,
        LinkKind::VhostUser => false,
        LinkKind::Auto => Path::new(kernel::DEVICE).exists(),
    };
    if kernel {
        Arc::new(KernelLink::default())
    } else {
        Arc::new(VhostUserLink { launcher: launcher.to_path_buf(), program })
    }
}

/// `/dev/kvm` alone says little: without vmx or svm it is a paravirtual one that cannot run a stock kernel.
fn choose_cpu(accelerator: Accelerator) -> Cpu {
    let usable = || {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let virtual_machines = flags
            .lines()
            .find_map(|line| line.strip_prefix("flags"))
            .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"));
        virtual_machines && std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
    };
    match accelerator {
        Accelerator::Kvm => Cpu::Kvm,
        Accelerator::Tcg => Cpu::Tcg,
        Accelerator::Auto if usable() => Cpu::Kvm,
        Accelerator::Auto => Cpu::Tcg,
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

fn default_socket() -> Result<PathBuf, ListenError> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/run/coffer/cofferd.sock"));
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    runtime.map(|path| path.join("coffer/cofferd.sock")).ok_or(ListenError::NoRuntimeDirectory)
}

/// Listens; a socket that an earlier life left behind makes way, one that somebody answers on does not.
async fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |what| {
        let path = path.to_path_buf();
        move |source| ListenError::Io { what, path, source }
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed("expected to make the directory of the socket"))?;
    }
    if path.exists() {
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(ListenError::InUse { path: path.to_path_buf() });
        }
        std::fs::remove_file(path).map_err(failed("expected to remove the stale socket"))?;
    }
    // Ready with its mode before anybody can find it by its name.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    drop(std::fs::remove_file(&fresh));
    let listener = UnixListener::bind(&fresh).map_err(failed("expected to listen on"))?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o660)).map_err(failed("expected to chmod"))?;
    std::fs::rename(&fresh, path).map_err(failed("expected to put in place"))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_makes_way_and_a_live_one_does_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run/cofferd.sock");
        let first = listen(&path).await.expect("listen");
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o660);
        assert!(matches!(listen(&path).await, Err(ListenError::InUse { .. })));
        drop(first);
        listen(&path).await.expect("the stale one is replaced");
    }
}
