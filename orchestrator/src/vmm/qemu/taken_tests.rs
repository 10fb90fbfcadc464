//! What a real QEMU says to the command lines of [`argv`]. Two passes over each, emulated, because there is no TDX here: the whole
//! line up to the missing KVM, where QEMU has read the TDX object and no device yet; then the line without what needs TDX, stopped
//! before the first instruction, where it has taken every device. In both, each property misspelt in turn is refused.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coffer_evidence::intent::Shape;
use coffer_evidence::manifest::Profile;
use serde_json::Value;

use super::argv::fixtures::machine;
use super::argv::{Cpu, Surroundings, argv};
use super::kit::QemuProgram;
use crate::link::GuestDevice;
use crate::vmm::Machine;

/// How long QEMU may take to end or to stand still.
const LIMIT: Duration = Duration::from_secs(60);
/// Options whose value is a list of properties.
const LISTS: [&str; 9] =
    ["-name", "-machine", "-accel", "-object", "-drive", "-device", "-chardev", "-qmp", "-sandbox"];
/// Options whose value is one word, or none.
const PLAIN: [&str; 9] = ["-cpu", "-smp", "-m", "-bios", "-kernel", "-initrd", "-append", "-serial", "-display"];
const FLAGS: [&str; 3] = ["-nodefaults", "-no-user-config", "-no-reboot"];

/// Image and kit; none where no guest is to be booted.
fn files() -> Option<(PathBuf, PathBuf)> {
    let environment = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        Some(Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.join(path))
    };
    let found = environment("COFFER_TEST_IMAGE").zip(environment("COFFER_TEST_KIT"));
    if found.is_none() {
        let required = std::env::var_os("COFFER_TEST_GUESTS").is_some_and(|value| value == "required");
        assert!(!required, "COFFER_TEST_IMAGE and COFFER_TEST_KIT are not set");
        eprintln!("NOT RUN: COFFER_TEST_IMAGE and COFFER_TEST_KIT are not set");
    }
    found
}

/// A child that does not outlive its owner.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// How the vsock device is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Kernel,
    VhostUser,
}

/// What QEMU made of a command line.
#[derive(Debug)]
enum Taken {
    /// It ended; its last words.
    Refused(String),
    /// It stands before the first instruction of the guest.
    Stopped(Stopped),
}

/// What a stopped QEMU says of its machine.
#[derive(Debug)]
struct Stopped {
    status: Value,
    memory: Value,
    disks: Value,
}

struct Bench {
    dir: tempfile::TempDir,
    image: PathBuf,
    qemu: QemuProgram,
}

impl Bench {
    fn new((image, kit): (PathBuf, PathBuf)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("boot.img"), [0; 4096]).expect("write");
        Self { dir, image, qemu: QemuProgram::find(None, Some(&kit)).expect("the kit") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The product's own command line, over files that are here.
    fn line(&self, profile: Profile, shape: Shape, link: Link) -> Vec<String> {
        let link = match link {
            Link::Kernel => GuestDevice::Kernel { cid: 5_000 },
            Link::VhostUser => GuestDevice::VhostUser { socket: self.path("vhost.sock") },
        };
        let (boot_disk, run) = (self.path("boot.img"), self.dir.path().to_path_buf());
        let (image, console) = (self.image.clone(), self.path("console"));
        let machine = Machine { boot_disk, run, image, console, shape, ..machine(profile, link) };
        let host = Surroundings { cpu: Cpu::Tcg, quote_socket: Path::new("/var/run/tdx-qgs/qgs.socket") };
        argv(&machine, host).expect("text")
    }

    /// Starts QEMU and waits for its end or for its word that it stands still; then it is ended.
    fn run(&self, arguments: &[String]) -> Taken {
        let _device = arguments.iter().any(|a| a.starts_with("vhost-user-vsock-pci")).then(|| self.vsock_device());
        let socket = self.path("qmp.sock");
        drop(std::fs::remove_file(&socket));
        let listener = UnixListener::bind(&socket).expect("listen");
        listener.set_nonblocking(true).expect("a listener that does not wait");
        let mut command = Command::new(&self.qemu.prefix[0]);
        command.args(&self.qemu.prefix[1..]).args(arguments).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut qemu = KillOnDrop(command.spawn().expect("run QEMU"));
        let until = Instant::now() + LIMIT;
        let mut connected = None;
        while connected.is_none() && qemu.0.try_wait().expect("wait").is_none() {
            assert!(Instant::now() < until, "QEMU neither ends nor dials: {arguments:?}");
            connected = listener.accept().ok();
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(stopped) = connected.and_then(|(stream, _)| converse(stream)) {
            return Taken::Stopped(stopped);
        }
        // It closed the connection, or never made one: it is on its way out.
        let status = qemu.0.wait().expect("wait");
        let mut said = String::new();
        qemu.0.stderr.take().expect("stderr").read_to_string(&mut said).expect("read");
        assert_eq!(status.code(), Some(1), "QEMU ends by refusing: {said}");
        Taken::Refused(said)
    }

    fn refusal(&self, arguments: &[String]) -> String {
        match self.run(arguments) {
            Taken::Refused(said) => said,
            Taken::Stopped(_) => panic!("QEMU took {arguments:?}"),
        }
    }

    fn stopped(&self, arguments: &[String]) -> Stopped {
        match self.run(arguments) {
            Taken::Stopped(stopped) => stopped,
            Taken::Refused(said) => panic!("QEMU refused {arguments:?}: {said}"),
        }
    }

    /// A device process serves one machine in its life.
    fn vsock_device(&self) -> KillOnDrop {
        let program = vsock_program().expect("coffer-vsock beside this test");
        let (socket, uds) = (self.path("vhost.sock"), self.path("vsock.sock"));
        for old in [&socket, &uds] {
            drop(std::fs::remove_file(old));
        }
        let mut command = Command::new(program);
        command.args(["--cid", "5000", "--vhost-socket"]).arg(socket).arg("--uds").arg(uds);
        let mut device = KillOnDrop(command.stdout(Stdio::piped()).spawn().expect("start coffer-vsock"));
        let mut line = String::new();
        BufReader::new(device.0.stdout.take().expect("stdout")).read_line(&mut line).expect("read");
        assert_eq!(line, "coffer-vsock: ready\n");
        device
    }
}

/// `coffer-vsock` as the same build has it: the workspace's tests are two directories below.
fn vsock_program() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.parent()?.parent()?.join("coffer-vsock");
    program.is_file().then_some(program)
}

/// What the machine says of itself over QMP; none when QEMU ends instead. It answers when it has made every device.
fn converse(stream: UnixStream) -> Option<Stopped> {
    stream.set_nonblocking(false).expect("a stream that waits");
    stream.set_read_timeout(Some(LIMIT)).expect("a stream with a limit");
    let (mut writer, mut reader) = (stream.try_clone().expect("a second descriptor"), BufReader::new(stream));
    let mut ask = |command: &str| -> Option<Value> {
        writer.write_all(format!("{{\"execute\":\"{command}\"}}\n").as_bytes()).ok()?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let mut said: Value = serde_json::from_str(&line).expect("a line of JSON");
            assert!(said.get("error").is_none(), "{command}: {said}");
            if let Some(answer) = said.get_mut("return") {
                return Some(answer.take());
            }
        }
    };
    ask("qmp_capabilities")?;
    let (status, memory, disks) = (ask("query-status")?, ask("query-memdev")?, ask("query-block")?);
    Some(Stopped { status, memory, disks })
}

/// Another word in the place of an option's value.
fn with(mut arguments: Vec<String>, option: &str, value: &str) -> Vec<String> {
    let at = arguments.iter().position(|found| found == option).expect("the option");
    arguments[at + 1] = value.to_owned();
    arguments
}

/// Emulated, up to where QEMU misses KVM.
fn emulated(arguments: Vec<String>) -> Vec<String> {
    with(with(arguments, "-accel", "tcg,thread=multi"), "-cpu", "max")
}

/// The second pass: no TDX, and stopped.
fn without_tdx(arguments: Vec<String>) -> Vec<String> {
    let mut arguments = emulated(arguments);
    let object = arguments.iter().position(|found| found.starts_with("{\"qom-type\":\"tdx-guest\""));
    if let Some(object) = object {
        arguments.drain(object - 1..=object);
    }
    let mut arguments: Vec<String> =
        arguments.iter().map(|found| found.replace(",confidential-guest-support=tdx0", "")).collect();
    assert!(!arguments.iter().any(|found| found.contains("tdx0")), "something else names the TD: {arguments:?}");
    arguments.push("-S".to_owned());
    arguments
}

/// The line without one device.
fn without_device(mut arguments: Vec<String>, name: &str) -> Vec<String> {
    let at = arguments.iter().position(|found| found.starts_with(name)).expect("the device");
    arguments.drain(at - 1..=at);
    arguments
}

/// A line with one property misspelt.
struct Misspelt {
    option: String,
    name: String,
    /// The whole value of the option, with the wrong name in it.
    value: String,
    line: Vec<String>,
}

/// One for every property that a line names.
fn misspelt(arguments: &[String]) -> Vec<Misspelt> {
    let mut all = Vec::new();
    let mut at = 0;
    while at < arguments.len() {
        let option = arguments[at].as_str();
        if FLAGS.contains(&option) || option == "-S" {
            at += 1;
            continue;
        }
        assert!(LISTS.contains(&option) || PLAIN.contains(&option), "{option}: has it properties?");
        let parts: Vec<&str> = arguments[at + 1].split(',').collect();
        for (n, part) in parts.iter().enumerate().filter(|_| LISTS.contains(&option)) {
            // The first may be a value alone.
            let Some((name, rest)) = part.split_once('=') else { continue };
            let wrong = format!("{name}x={rest}");
            let mut parts = parts.clone();
            parts[n] = &wrong;
            let (mut line, value) = (arguments.to_vec(), parts.join(","));
            line[at + 1].clone_from(&value);
            all.push(Misspelt { option: option.to_owned(), name: name.to_owned(), value, line });
        }
        at += 2;
    }
    all
}

#[test]
fn a_real_qemu_takes_the_tdx_command_line_up_to_the_hardware() {
    let Some(files) = files() else { return };
    let bench = Bench::new(files);
    for shape in Shape::ALL {
        let line = emulated(bench.line(Profile::Tdx, shape, Link::Kernel));
        let found = bench.refusal(&line);
        assert!(found.contains("tdx-guest: KVM required"), "{found}");
        let object = line.iter().find(|found| found.starts_with('{')).expect("the TDX object");
        let Ok(Value::Object(fields)) = serde_json::from_str(object) else { panic!("{object}") };
        let names: Vec<&str> = fields.keys().map(String::as_str).chain(["type", "path"]).collect();
        assert_eq!(names.len(), 8, "{names:?}");
        // What stands in the object, and what QEMU reads before it.
        let in_object = names.iter().map(|name| (format!("\"{name}\":"), format!("\"{name}x\":")));
        let before = [("smm=off", "smmx=off"), ("guest-support=", "guest-supportx="), ("=tdx0", "=tdx1")];
        let before = before.map(|(from, to)| (from.to_owned(), to.to_owned()));
        for (from, to) in in_object.chain(before) {
            let changed: Vec<String> = line.iter().map(|found| found.replace(&from, &to)).collect();
            assert_ne!(changed, line, "{from}");
            let found = bench.refusal(&changed);
            assert!(!found.contains("KVM required"), "{to} is not read before KVM is missed: {found}");
        }
    }
}

#[test]
fn a_real_qemu_takes_every_device_of_the_tdx_command_line_and_stands_still() {
    let Some(files) = files() else { return };
    let bench = Bench::new(files);
    for shape in Shape::ALL {
        let kernel = without_tdx(bench.line(Profile::Tdx, shape, Link::Kernel));
        let mut lines = vec![without_device(kernel.clone(), "vhost-vsock-pci")];
        if Path::new(crate::link::kernel::DEVICE).exists() {
            lines.push(kernel);
        } else {
            // Its properties are taken, and everything before it: it is the last device.
            let found = bench.refusal(&kernel);
            assert!(found.contains("/dev/vhost-vsock") || found.contains("failed to open vhost"), "{found}");
            eprintln!("NOT RUN: vhost-vsock-pci in a stopped QEMU: there is no {}", crate::link::kernel::DEVICE);
        }
        if vsock_program().is_some() {
            lines.push(without_tdx(bench.line(Profile::Tdx, shape, Link::VhostUser)));
            lines.push(without_tdx(bench.line(Profile::Simulated, shape, Link::VhostUser)));
        } else {
            eprintln!("NOT RUN: vhost-user-vsock-pci in a stopped QEMU: coffer-vsock is not built beside this test");
        }
        for line in lines {
            let found = bench.stopped(&line);
            assert_eq!(
                (found.status["running"].as_bool(), &found.status["status"]),
                (Some(false), &"prelaunch".into())
            );
            memory_is_as_planned(&found.memory, shape);
            let disks = found.disks.as_array().expect("disks");
            let names: Vec<&str> = disks.iter().filter_map(|disk| disk["device"].as_str()).collect();
            assert_eq!(names, ["coffer-root", "coffer-verity", "coffer-boot"], "{disks:?}");
            assert!(disks.iter().all(|disk| disk["inserted"]["ro"] == true && disk["removable"] == false), "{disks:?}");
        }
    }
}

/// One backend, shared with the vsock device and allocated as it is used.
fn memory_is_as_planned(memory: &Value, shape: Shape) {
    let bytes: u64 = match shape {
        Shape::S1 => 2 << 30,
    };
    let [backend] = memory.as_array().map(Vec::as_slice).unwrap_or_default() else {
        panic!("one memory backend: {memory}")
    };
    assert_eq!((&backend["id"], &backend["size"]), (&"mem0".into(), &bytes.into()), "{backend}");
    assert_eq!((&backend["share"], &backend["prealloc"]), (&true.into(), &false.into()), "{backend}");
}

#[test]
fn a_real_qemu_refuses_each_property_misspelt_of_every_device() {
    let Some(files) = files() else { return };
    let bench = Bench::new(files);
    let mut seen = std::collections::BTreeSet::new();
    for shape in Shape::ALL {
        let mut lines = vec![(Profile::Tdx, Link::Kernel)];
        if vsock_program().is_some() {
            lines.extend([(Profile::Tdx, Link::VhostUser), (Profile::Simulated, Link::VhostUser)]);
        } else {
            eprintln!("NOT RUN: properties of vhost-user-vsock-pci: coffer-vsock is not built beside this test");
        }
        for (profile, link) in lines {
            for Misspelt { option, name, value, line } in misspelt(&without_tdx(bench.line(profile, shape, link))) {
                if !seen.insert((shape, option.clone(), value.clone())) {
                    continue;
                }
                let found = bench.refusal(&line);
                // Without the host's device the last one is refused in any case: then it is the wrong name that must be told.
                let told = if name == "guest-cid" { "guest-cidx" } else { name.as_str() };
                assert!(found.contains(told), "{option} {value}: refused for something else: {found}");
            }
        }
    }
    for option in ["-name", "-machine", "-object", "-drive", "-device", "-qmp", "-sandbox"] {
        assert!(seen.iter().any(|(_, found, _)| found == option), "nothing of {option} was misspelt");
    }
}
