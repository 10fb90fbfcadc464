//! One real guest and everything a host must be for it, without `cofferd`: the vsock device, the simulator, QEMU, and the
//! two ports that the guest dials. The tests see what the guest said, unfiltered. Not a model of the orchestrator.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use coffer_evidence::config::{Config, HostPart, Launch, boot_disk, measured_config};
use coffer_evidence::dsse::Envelope;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{Digest256, Digest384, Identity, SessionId};
use coffer_evidence::intent::{
    Authority, Durability, Intent, Limits, PooledAllowed, RecordRequired, Shape, sign_intent,
};
use coffer_evidence::link::{Frame, Mirror, ToGuest, ToHost};
use coffer_evidence::manifest::ImageManifest;
use coffer_evidence::sign::PublicKey;
use coffer_proto::guest::v1::CallHeader;
use ed25519_dalek::SigningKey;

use crate::host::binaries;
use crate::kit::{KillOnDrop, kit_directory, qemu_command};

/// The policy of sessions in tests that are about something else: what is not there must be told by the kernel.
pub const PERMIT_ALL: &str = "@id(\"all\") permit (principal, action, resource);\n";

/// Ports of the host that the guest dials, and the guest's port of tools.
const PORT_CONTROL: u32 = 1024;
const PORT_SIMULATOR: u32 = 1025;
const PORT_MIRROR: u32 = 1027;
pub(crate) const PORT_TOOLS: u32 = 1030;

/// What a test chooses.
pub struct Plan {
    /// The image directory.
    pub image: PathBuf,
    /// Limits of the intent.
    pub limits: Limits,
    /// The policy of the session.
    pub policy: &'static str,
    /// Who may call.
    pub identities: &'static [&'static str],
    /// What happens to the boot disk after the host wrote it and measured its contents.
    pub tamper: fn(&mut Vec<u8>),
}

impl Plan {
    /// Nothing unusual.
    #[must_use]
    pub fn plain(image: PathBuf) -> Self {
        let (policy, identities) = (PERMIT_ALL, &["default"][..]);
        Self { image, limits: Limits::default(), policy, identities, tamper: |_| {} }
    }
}

/// A guest and what carries it; all of it ends on drop.
pub struct Guest {
    /// The session of the intent.
    pub session: SessionId,
    /// The configuration that was measured.
    pub config: Vec<u8>,
    /// What the guest says on the control port.
    pub control: Receiver<ToHost>,
    /// What it mirrors.
    pub mirror: Receiver<Mirror>,
    /// When QEMU was started.
    pub started: Instant,
    orders: Receiver<UnixStream>,
    order_stream: Option<UnixStream>,
    directory: tempfile::TempDir,
    qemu: KillOnDrop,
    simulator: KillOnDrop,
    _device: KillOnDrop,
}

/// Unix seconds.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

impl Guest {
    /// Starts everything; returns once QEMU runs.
    ///
    /// # Errors
    /// When a program or a file is missing.
    pub fn boot(plan: &Plan) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("coffer-guest.").tempdir().context("make a directory")?;
        let path = |name: &str| directory.path().join(name);
        let (config, intent) = configure(plan)?;
        let mut disk = boot_disk::write(&config, plan.policy.as_bytes());
        (plan.tamper)(&mut disk);
        std::fs::write(path("boot.img"), disk)?;

        let (said, control) = mpsc::channel();
        let (connected, orders) = mpsc::channel();
        listen(&path(&format!("vsock.sock_{PORT_CONTROL}")), said, Some(connected))?;
        let (mirrored, mirror) = mpsc::channel();
        listen(&path(&format!("vsock.sock_{PORT_MIRROR}")), mirrored, None)?;
        let measured = measured_config(&config, &intent);
        let mut simulator = Command::new(binaries().join("coffer-tdx-sim"));
        simulator.args(["serve", "--shape", "s1", "--socket"]).arg(path(&format!("vsock.sock_{PORT_SIMULATOR}")));
        for (option, file) in [
            ("--firmware", "firmware.fd"),
            ("--kernel", "vmlinuz"),
            ("--initrd", "initrd.img"),
            ("--cmdline", "cmdline"),
        ] {
            simulator.arg(option).arg(plan.image.join(file));
        }
        for (option, register) in [
            ("--mrconfigid", measured.mr_config_id),
            ("--mrowner", measured.mr_owner),
            ("--mrownerconfig", measured.mr_owner_config),
        ] {
            simulator.arg(option).arg(hex(&register));
        }
        let simulator = ready(simulator, "coffer-tdx-sim: ready")?;
        let mut device = Command::new(binaries().join("coffer-vsock"));
        device.args(["--cid", "4096", "--vhost-socket"]).arg(path("vhost.sock")).arg("--uds").arg(path("vsock.sock"));
        let device = ready(device, "coffer-vsock: ready")?;
        let started = Instant::now();
        let qemu = KillOnDrop(qemu(plan, directory.path())?);
        Ok(Self {
            session: intent.session,
            config,
            control,
            mirror,
            started,
            orders,
            order_stream: None,
            directory,
            qemu,
            simulator,
            _device: device,
        })
    }

    /// Everything the guest wrote to its console.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What the guest says next.
    ///
    /// # Errors
    /// When it says nothing in time, with its console.
    pub fn hear(&self, limit: Duration) -> anyhow::Result<ToHost> {
        self.control
            .recv_timeout(limit)
            .with_context(|| format!("the guest says nothing; its console:\n{}", self.console()))
    }

    /// Orders something on the control connection.
    ///
    /// # Errors
    /// When there is none.
    pub fn order(&mut self, order: ToGuest) -> anyhow::Result<()> {
        while let Ok(stream) = self.orders.try_recv() {
            self.order_stream = Some(stream);
        }
        self.order_stream.as_mut().context("expected a control connection")?.write_all(&order.to_wire())?;
        Ok(())
    }

    /// Waits until QEMU ends by itself.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn powered_off(&mut self, limit: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + limit;
        while self.qemu.0.try_wait()?.is_none() {
            if Instant::now() > until {
                bail!("expected the guest to power off within {limit:?}; its console:\n{}", self.console());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The socket of the vsock device, on which a host reaches the guest's ports.
    #[must_use]
    pub fn device(&self) -> PathBuf {
        self.directory.path().join("vsock.sock")
    }

    /// A unix socket on which the guest's tool service answers: each connection is carried to the guest's port.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn tools(&self) -> anyhow::Result<PathBuf> {
        let (socket, device) = (self.directory.path().join("tools.sock"), self.device());
        let listener = UnixListener::bind(&socket)?;
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                match dial(&device, PORT_TOOLS) {
                    Ok(far) => splice(near, far),
                    Err(error) => eprintln!("the guest's port of tools: {error:#}"),
                }
            }
        });
        Ok(socket)
    }

    /// Ends the simulator under the running guest.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn lose_simulator(&mut self) -> anyhow::Result<()> {
        self.simulator.0.kill()?;
        self.simulator.0.wait()?;
        Ok(())
    }

    /// Closes the control connection, as a host does that is restarted; the guest dials again.
    ///
    /// # Errors
    /// When there is none.
    pub fn hang_up(&mut self) -> anyhow::Result<()> {
        while let Ok(stream) = self.orders.try_recv() {
            self.order_stream = Some(stream);
        }
        let stream = self.order_stream.take().context("expected a control connection")?;
        Ok(stream.shutdown(Shutdown::Both)?)
    }
}

/// A signed intent for the image, and the host's part to it.
fn configure(plan: &Plan) -> anyhow::Result<(Vec<u8>, Intent)> {
    let envelope = Envelope::parse(&std::fs::read(plan.image.join("image.dsse"))?).context("parse image.dsse")?;
    let manifest = ImageManifest::parse(envelope.unverified_payload()).context("parse the manifest")?;
    let image = (ImageManifest::digest(envelope.unverified_payload()), manifest.svn);
    config(image, plan.policy, plan.identities, plan.limits)
}

/// The config of a fresh session of an image, by its digest and version, and its intent.
///
/// # Errors
/// When a name is none, or the system has no random bytes.
pub fn config(
    (image, minimum_svn): (Digest256, u64),
    policy: &str,
    identities: &[&str],
    limits: Limits,
) -> anyhow::Result<(Vec<u8>, Intent)> {
    let key = |seed: u8| SigningKey::from_bytes(&[seed; 32]);
    let names = identities.iter().map(|name| Identity::new(name).with_context(|| format!("the name {name}")));
    let identities = names.map(|name| Ok((name?, PublicKey::of(&key(2))))).collect::<anyhow::Result<_>>()?;
    let intent = Intent {
        audience: "local".into(),
        session: SessionId::new(random()?),
        nonce: random()?,
        owner: PublicKey::of(&key(1)),
        tenant: "acme".into(),
        region: String::new(),
        image,
        policy: Digest384::of(policy.as_bytes()),
        identities,
        authority: Authority::Delegated,
        durability: Durability::Relaxed,
        witnesses: Vec::new(),
        limits,
        recipients: Vec::new(),
        minimum_svn,
        issued_at: now() - 10,
        not_after: now() + 600,
        shape: Shape::S1,
        pooled: PooledAllowed::No,
        record: RecordRequired::No,
    };
    let owner_sig = sign_intent(&key(1), &intent);
    let host = HostPart {
        host_key: PublicKey::of(&key(3)),
        launch: Launch::Cold,
        labels: [("rack".into(), "a1".into())].into(),
    };
    Ok((Config { intent: intent.to_bytes(), owner_sig, host }.to_bytes(), intent))
}

/// The header of a call that nobody made before; the identity is the default one when it has no name.
///
/// # Errors
/// When the system has no random bytes.
pub fn call_header(identity: &str) -> anyhow::Result<Option<CallHeader>> {
    let mut id: [u8; 16] = random()?;
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    let salt = random::<32>()?.to_vec().into();
    Ok(Some(CallHeader { call_id: id.to_vec().into(), identity: identity.into(), salt }))
}

/// Fresh random bytes.
///
/// # Errors
/// When the system has none.
pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The argument list of `cofferd`'s simulated profile, without its jail.
fn qemu(plan: &Plan, directory: &Path) -> anyhow::Result<Child> {
    let image = &plan.image;
    let cmdline = std::fs::read_to_string(image.join("cmdline")).context("read the image's command line")?;
    let mut command = qemu_command(&kit_directory()?)?;
    command
        .args(["-machine", "q35,kernel-irqchip=split,smm=off,hpet=off,memory-backend=mem0"])
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2G"])
        .args(["-object", "memory-backend-memfd,id=mem0,size=2G,share=on"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
        .args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    for (option, file) in [("-bios", "firmware.fd"), ("-kernel", "vmlinuz"), ("-initrd", "initrd.img")] {
        command.arg(option).arg(image.join(file));
    }
    command.args(["-append", &cmdline]);
    for (id, file) in [
        ("coffer-root", image.join("root.erofs")),
        ("coffer-verity", image.join("root.verity")),
        ("coffer-boot", directory.join("boot.img")),
    ] {
        command.arg("-drive").arg(format!("if=none,id={id},format=raw,readonly=on,file={}", file.display()));
        command.arg("-device").arg(format!("virtio-blk-pci,drive={id},serial={id}"));
    }
    command
        .arg("-chardev")
        .arg(format!("socket,id=vsock0,path={}", directory.join("vhost.sock").display()))
        .args(["-device", "vhost-user-vsock-pci,chardev=vsock0"])
        .arg("-chardev")
        .arg(format!("file,id=console0,path={},append=on", directory.join("console").display()))
        .args(["-serial", "chardev:console0"])
        .stdin(Stdio::null());
    command.spawn().context("start QEMU")
}

/// Starts a helper and waits for its word.
fn ready(mut command: Command, word: &str) -> anyhow::Result<KillOnDrop> {
    let program = command.get_program().display().to_string();
    let mut child = KillOnDrop(command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {program}"))?);
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().context("stdout")?).read_line(&mut line)?;
    if line.trim_end() != word {
        bail!("expected {program} to say {word:?}, found {line:?}");
    }
    Ok(child)
}

/// Takes the guest's connections to a port, one after the other, and reads whole frames from each.
fn listen<F: Frame + Send + 'static>(
    socket: &Path,
    frames: Sender<F>,
    connections: Option<Sender<UnixStream>>,
) -> anyhow::Result<()> {
    let listener = UnixListener::bind(socket).with_context(|| format!("listen on {}", socket.display()))?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            if let (Some(connections), Ok(copy)) = (&connections, stream.try_clone()) {
                drop(connections.send(copy));
            }
            while let Some(frame) = read_frame::<F>(&mut stream) {
                if frames.send(frame).is_err() {
                    return;
                }
            }
        }
    });
    Ok(())
}

fn read_frame<F: Frame>(stream: &mut UnixStream) -> Option<F> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).ok()?;
    let mut body = vec![0; F::length(prefix).ok()?];
    stream.read_exact(&mut body).ok()?;
    F::decode(&body).ok()
}

/// Connects to a port of the guest through the socket of its device.
///
/// # Errors
/// When nobody listens there.
pub fn dial(device: &Path, port: u32) -> anyhow::Result<UnixStream> {
    let mut stream = UnixStream::connect(device)?;
    writeln!(stream, "CONNECT {port}")?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
        answer.extend(byte);
    }
    if !answer.starts_with(b"OK ") {
        bail!("expected OK, found {:?}", String::from_utf8_lossy(&answer));
    }
    Ok(stream)
}

/// Carries bytes both ways until both sides have ended.
fn splice(near: UnixStream, far: UnixStream) {
    for (from, to) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))] {
        let (Ok(mut from), Ok(mut to)) = (from, to) else { return };
        std::thread::spawn(move || {
            drop(std::io::copy(&mut from, &mut to));
            drop(to.shutdown(Shutdown::Write));
        });
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
