//! What a tool can reach: every attempt of `tests/attempts` as each of two identities, and from one identity into the
//! other's, each with the errno that it gets; and as a control the same program as root of a bare guest, where it gets through.
//!
//! Needs `COFFER_TEST_IMAGE` and `COFFER_TEST_ATTEMPTS` (set by `scripts/test`); without them every test says NOT RUN. Two boots.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::leaf::{Leaf, Public, StepResult};
use coffer_evidence::link::{Mirror, ToGuest, ToHost};
use coffer_evidence::seal::{Reason, SealMap};
use coffer_proto::guest::v1 as pb;
use coffer_tests::guest::{Guest, Plan, call_header};
use coffer_tests::kit::{KillOnDrop, kit_directory, qemu_command};
use coffer_tests::needs_an_image;
use libc::{EACCES, EAFNOSUPPORT, EMFILE, ENOENT, ENOSYS, EPERM, EROFS, ESRCH, EXDEV};

const BOOT: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_secs(30);

/// Two identities of one session. The first shares one directory with the second, which may only read it.
const POLICY: &str = r#"
@id("run") permit (principal, action == Action::"exec", resource in Path::"/usr");
@id("maker-runs") permit (principal == Identity::"maker", action == Action::"exec", resource in Path::"/workspace/maker");
@id("maker-works") permit (principal == Identity::"maker", action in Action::"file", resource in Path::"/workspace/maker");
@id("maker-shares") permit (principal == Identity::"maker", action in Action::"file", resource in Path::"/workspace/shared");
@id("reader-runs") permit (principal == Identity::"reader", action == Action::"exec", resource in Path::"/workspace/reader");
@id("reader-works") permit (principal == Identity::"reader", action in Action::"file", resource in Path::"/workspace/reader");
@id("reader-reads") permit (principal == Identity::"reader", action == Action::"file.read", resource in Path::"/workspace/shared");
"#;
const IDENTITIES: &[&str] = &["maker", "reader"];

/// What each attempt gets in a jail. In the control every one gets 0.
const TABLE: &[(&str, i32)] = &[
    ("kill-a-neighbour", ESRCH),
    ("kill-the-first-process", EPERM),
    ("trace-the-first-process", EPERM),
    ("trace-a-neighbour", ESRCH),
    ("read-environment-of-first", EACCES),
    ("read-maps-of-first", EACCES),
    ("read-memory-of-first", EACCES),
    ("list-descriptors-of-first", EACCES),
    ("enter-root-of-first", EACCES),
    ("execute-program-of-first", EACCES),
    ("reach-into-memory-of-first", EPERM),
    ("take-descriptor-of-first", EPERM),
    ("set-limits-of-first", EPERM),
    ("renice-first", EPERM),
    ("pin-first", EPERM),
    ("become-root", EPERM),
    ("become-group-root", EPERM),
    ("join-groups", EPERM),
    ("take-capabilities", EPERM),
    ("drop-bounding-set", EPERM),
    ("give-a-file-to-root", EPERM),
    ("raise-priority", EACCES),
    ("run-in-real-time", EPERM),
    ("raise-open-files", EPERM),
    ("escape-the-memory-killer", EACCES),
    ("change-execution-domain", EPERM),
    ("mount", EPERM),
    ("unmount", EPERM),
    ("open-a-file-system", EPERM),
    ("clone-a-mount", EPERM),
    ("change-a-mount", EPERM),
    ("change-root", EPERM),
    ("new-user-namespace", EPERM),
    ("new-mount-namespace", EPERM),
    ("new-network-namespace", EPERM),
    ("new-process-namespace", EPERM),
    ("new-ipc-namespace", EPERM),
    ("join-a-namespace", EPERM),
    ("clone-into-a-user-namespace", EPERM),
    ("clone3", ENOSYS),
    ("bpf", EPERM),
    ("io-uring", EPERM),
    ("keyring", EPERM),
    ("add-a-key", EPERM),
    ("measure-performance", EPERM),
    ("handle-page-faults", EPERM),
    ("watch-every-file", EPERM),
    ("name-a-file-by-handle", EPERM),
    ("set-the-clock", EPERM),
    ("rename-the-host", EPERM),
    ("rename-the-domain", EPERM),
    ("arm-the-reset-key", EPERM),
    ("read-the-kernel-log", EPERM),
    ("use-ports", EPERM),
    ("hang-up", EPERM),
    ("compare-kernel-objects", EPERM),
    ("type-into-a-terminal", EPERM),
    ("executable-memory-file", EPERM),
    ("queue-messages", EMFILE),
    ("make-a-device", EACCES),
    ("open-memory", ENOENT),
    ("open-kernel-messages", ENOENT),
    ("open-the-console", ENOENT),
    ("open-kernel-core", EACCES),
    ("request-the-system", EACCES),
    ("change-core-pattern", EACCES),
    ("read-block-devices", ENOENT),
    ("read-the-simulators-registers", ENOENT),
    ("write-system-files", EROFS),
    ("make-files-in-the-root", EROFS),
    ("execute-from-tmp", EACCES),
    ("execute-a-memory-file", EACCES),
    ("trusted-attribute", EPERM),
    ("change-the-mode-of-root", EPERM),
    ("raw-socket", EPERM),
    ("packet-socket", EAFNOSUPPORT),
    ("vsock", EAFNOSUPPORT),
    ("audit-socket", EPERM),
    ("device-events", EPERM),
    ("bind-a-low-port", EACCES),
    ("add-an-address", EPERM),
];

/// What the reader tries on what is the maker's, in Python: it prints the errno, or `ok`.
const INTO: &[(&str, &str, i32)] = &[
    ("see a file", "os.stat('/workspace/maker/secret')", ENOENT),
    ("open a file", "open('/workspace/maker/secret')", ENOENT),
    ("list a directory", "os.listdir('/workspace/maker')", ENOENT),
    ("through a link", "os.symlink('/workspace/maker/secret', 'l1'); open('l1')", ENOENT),
    ("through a link out of the tree", "os.symlink('../maker/secret', 'l2'); open('l2')", ENOENT),
    ("by a second name", "os.link('/workspace/maker/secret', 'h1')", ENOENT),
    ("by a second name for what is shared", "os.link('/workspace/shared/file', 'h2')", EXDEV),
    (
        "through a descriptor",
        "d = os.open('/workspace', os.O_PATH); os.open('/proc/self/fd/%d/maker/secret' % d, 0)",
        ENOENT,
    ),
    ("above one's own root", "os.open('/workspace/reader/../maker/secret', 0)", ENOENT),
    ("run a program", "os.execv('/workspace/maker/program', ['x'])", ENOENT),
    ("run what is shared", "os.execv('/workspace/shared/program', ['x'])", EACCES),
    ("write what is shared", "open('/workspace/shared/file', 'w')", EROFS),
    ("make a file in what is shared", "open('/workspace/shared/new', 'w')", EROFS),
    ("change a mode in what is shared", "os.chmod('/workspace/shared/file', 0)", EROFS),
    ("change times in what is shared", "os.utime('/workspace/shared/file')", EROFS),
    ("remove what is shared", "os.unlink('/workspace/shared/file')", EROFS),
    ("rename what is shared", "os.rename('/workspace/shared/file', '/workspace/shared/x')", EROFS),
    ("move what is shared away", "os.rename('/workspace/shared/file', 'x')", EXDEV),
    (
        "talk to a socket in what is shared",
        "s = socket.socket(socket.AF_UNIX); s.connect('/workspace/shared/socket')",
        EACCES,
    ),
    ("talk to an abstract socket", "s = socket.socket(socket.AF_UNIX); s.connect('\\0maker')", libc::ECONNREFUSED),
    ("talk to a port", "s = socket.create_connection(('127.0.0.1', 4242))", libc::ECONNREFUSED),
    ("make a file beside one's own", "open('/workspace/new', 'w')", EROFS),
    ("write outside of the workspace", "open('/var/x', 'w')", EROFS),
];

/// What the maker, who owns every file of the workspace on disk, tries on what is the reader's.
const BACK: &[&str] = &[
    "os.stat('/workspace/reader/attempts')",
    "open('/workspace/reader/attempts', 'rb')",
    "os.listdir('/workspace/reader')",
    "os.link('/workspace/reader/attempts', 'h3')",
    "os.execv('/workspace/reader/attempts', ['x', 'names'])",
];

/// What the maker does with its own at the same time: the controls of the above.
const OWN: &[(&str, &str)] = &[
    ("see, open, list", "os.stat('secret'); open('secret').read(); os.listdir('.')"),
    ("through a link", "os.symlink('/workspace/maker/secret', 'l'); open('l')"),
    ("by a second name", "os.link('secret', 'h')"),
    ("through a descriptor", "d = os.open('/workspace', os.O_PATH); os.open('/proc/self/fd/%d/maker/secret' % d, 0)"),
    (
        "write, change, rename, remove what is shared",
        "p = '/workspace/shared/mine'; open(p, 'w'); os.chmod(p, 0o600); os.utime(p); os.rename(p, p + 'x'); os.unlink(p + 'x')",
    ),
    ("talk to a socket in what is shared", "s = socket.socket(socket.AF_UNIX); s.connect('/workspace/shared/socket')"),
    ("talk to a port", "s = socket.create_connection(('127.0.0.1', 4242))"),
];

type Tools = pb::tool_service_client::ToolServiceClient<tonic::transport::Channel>;

/// Runs a program in the identity's directory; `ready` hears its first output.
async fn exec(
    tools: &Tools,
    identity: &str,
    argv: &[&str],
    ready: Option<tokio::sync::oneshot::Sender<()>>,
) -> anyhow::Result<(pb::Exited, String)> {
    use pb::exec_response::Response;
    let start = pb::ExecStart {
        header: call_header(identity)?,
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        cwd: identity.into(),
        ..pb::ExecStart::default()
    };
    let start = pb::ExecRequest { request: Some(pb::exec_request::Request::Start(start)) };
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(start), tokio_stream::pending());
    let mut responses = tools.clone().exec(requests).await?.into_inner();
    let (mut out, mut exited, mut ready) = (Vec::new(), None, ready);
    while let Some(message) = responses.message().await? {
        match message.response {
            Some(Response::Stdout(output) | Response::Stderr(output)) => {
                out.extend_from_slice(&output.data);
                let _ = ready.take().map(|ready| ready.send(()));
            }
            Some(Response::Exited(last)) => exited = Some(last),
            _ => {}
        }
    }
    Ok((exited.context("an exit at the end of the call")?, String::from_utf8_lossy(&out).into_owned()))
}

/// Writes a file as the identity.
async fn write(tools: &mut Tools, identity: &str, path: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
    use pb::write_file_request::Request;
    let start =
        pb::WriteFileStart { header: call_header(identity)?, path: path.into(), mode, ..pb::WriteFileStart::default() };
    let mut requests = vec![Request::Start(start)];
    requests.extend(content.chunks(60_000).map(|chunk| Request::Data(chunk.to_vec().into())));
    let requests: Vec<_> =
        requests.into_iter().map(|request| pb::WriteFileRequest { request: Some(request) }).collect();
    tools.write_file(tokio_stream::iter(requests)).await?;
    Ok(())
}

fn attempts_program() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("COFFER_TEST_ATTEMPTS")?);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    Some(if path.is_absolute() { path } else { root.join(path) })
}

macro_rules! needs_attempts {
    () => {
        match attempts_program() {
            Some(path) => path,
            None => {
                let required = std::env::var_os("COFFER_TEST_GUESTS").is_some_and(|value| value == "required");
                assert!(!required, "COFFER_TEST_ATTEMPTS is not set");
                eprintln!("NOT RUN: COFFER_TEST_ATTEMPTS is not set");
                return Ok(());
            }
        }
    };
}

/// Every attempt, each in a call of its own, as this identity: all that is not as in the table.
async fn table(tools: &Tools, identity: &str) -> anyhow::Result<Vec<String>> {
    let program = format!("/workspace/{identity}/attempts");
    let (_, names) = exec(tools, identity, &[&program, "names"], None).await?;
    let listed: Vec<&str> = TABLE.iter().map(|(name, _)| *name).collect();
    ensure!(names.lines().eq(listed.iter().copied()), "the program and the table differ: {names}");
    let mut wrong = Vec::new();
    for (name, errno) in TABLE {
        let (exited, out) = exec(tools, identity, &[&program, name], None).await?;
        if (exited.cause(), exited.code) != (pb::ExitCause::Exited, *errno) {
            wrong.push(format!(
                "{identity}: {name}: expected {errno}, found {:?} {}: {out}",
                exited.cause(),
                exited.code
            ));
        }
        ensure!(exited.outcome_index > 0, "{name} left no outcome in the log");
    }
    Ok(wrong)
}

/// Runs a line of Python as the identity, and tells the errno that it met.
async fn python(tools: &Tools, identity: &str, line: &str) -> anyhow::Result<String> {
    let script =
        format!("import os, socket\ntry:\n exec({line:?})\n print('ok')\nexcept OSError as error: print(error.errno)");
    Ok(exec(tools, identity, &["python3", "-c", &script], None).await?.1.trim().to_owned())
}

async fn one_into_the_other(tools: &Tools) -> anyhow::Result<Vec<String>> {
    // The maker listens wherever one can, while all of it is tried.
    let listen = "import os, socket, time\n\
                  open('secret', 'w').write('secret')\n\
                  s = [socket.socket(socket.AF_UNIX) for _ in range(2)] + [socket.socket()]\n\
                  for s, a in zip(s, ['/workspace/shared/socket', '\\0maker', ('127.0.0.1', 4242)]): s.bind(a); s.listen(); globals().setdefault('k', []).append(s)\n\
                  print('ready', flush=True)\n\
                  time.sleep(600)";
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let listening = {
        let tools = tools.clone();
        tokio::spawn(async move { exec(&tools, "maker", &["python3", "-c", listen], Some(ready)).await })
    };
    tokio::time::timeout(SOON, is_ready).await??;
    let mut wrong = Vec::new();
    for (what, line) in OWN {
        let found = python(tools, "maker", line).await?;
        if found != "ok" {
            wrong.push(format!("the control, the maker on its own: {what}: {found}"));
        }
    }
    for (what, line, errno) in INTO {
        let found = python(tools, "reader", line).await?;
        if found != errno.to_string() {
            wrong.push(format!("the reader on the maker's: {what}: expected {errno}, found {found}"));
        }
    }
    for line in BACK {
        let found = python(tools, "maker", line).await?;
        if found != ENOENT.to_string() {
            wrong.push(format!("the maker on the reader's: {line}: expected {ENOENT}, found {found}"));
        }
    }
    ensure!(!listening.is_finished(), "the maker's listener ended early");
    listening.abort();
    Ok(wrong)
}

#[test]
fn no_attempt_of_any_identity_gets_anywhere() -> anyhow::Result<()> {
    let (image, program) = (needs_an_image!(), needs_attempts!());
    let mut guest = Guest::boot(&Plan { policy: POLICY, identities: IDENTITIES, ..Plan::plain(image) })?;
    let ToHost::Hello { .. } = guest.hear(BOOT)? else { bail!("expected hello") };
    let ToHost::Ready { .. } = guest.hear(BOOT)? else { bail!("expected ready") };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let wrong = runtime
        .block_on(async {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("unix:{}", guest.tools()?.display()))?;
            let mut tools = Tools::new(endpoint.connect().await?);
            let content = std::fs::read(&program)?;
            let mut wrong = Vec::new();
            for identity in IDENTITIES {
                write(&mut tools, identity, &format!("{identity}/attempts"), 0o755, &content).await?;
                wrong.extend(table(&tools, identity).await?);
            }
            for path in ["maker/program", "shared/program"] {
                write(&mut tools, "maker", path, 0o755, b"#!/usr/bin/sh\nexit 0\n").await?;
            }
            write(&mut tools, "maker", "shared/file", 0o666, b"shared").await?;
            wrong.extend(one_into_the_other(&tools).await?);
            anyhow::Ok(wrong)
        })
        .with_context(|| guest.console())?;
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
    guest.order(ToGuest::Close { reason: Reason::UserClosed })?;
    let ToHost::Sealed { seal_map, .. } = guest.hear(SOON)? else { bail!("expected sealed") };
    // What was mounted in the rooms went with them: no step of the scrub failed.
    let mut scrubbed = None;
    while scrubbed.is_none() {
        if let Mirror::Leaf { bytes, .. } = guest.mirror.recv_timeout(SOON).context("a scrub leaf")?
            && let Public::Scrub { steps } = Leaf::parse(&bytes)?.public
        {
            scrubbed = Some(steps);
        }
    }
    let steps = scrubbed.context("steps")?;
    assert!(steps.iter().all(|(_, result)| *result != StepResult::Failed), "{steps:?}; {}", guest.console());
    // Each attempt left an intent and an outcome.
    assert!(SealMap::parse(&seal_map)?.size > 2 * (TABLE.len() * IDENTITIES.len()) as u64);
    Ok(())
}

/// The image's initramfs with another `/init` laid over it: the kernel unpacks one archive after the other.
fn initramfs(image: &Path, init: &Path, out: &Path) -> anyhow::Result<()> {
    let mut archive = std::fs::read(image.join("initrd.img"))?;
    archive.resize(archive.len().next_multiple_of(4), 0);
    let init = std::fs::read(init)?;
    let mut writer = cpio::newc::Builder::new("init").mode(0o100_755).write(&mut archive, u32::try_from(init.len())?);
    writer.write_all(&init)?;
    writer.finish()?;
    cpio::newc::trailer(&mut archive)?;
    Ok(std::fs::write(out, archive)?)
}

#[test]
fn outside_of_a_jail_every_attempt_gets_through() -> anyhow::Result<()> {
    let (image, program) = (needs_an_image!(), needs_attempts!());
    let work = tempfile::tempdir()?;
    initramfs(&image, &program, &work.path().join("initrd"))?;
    let mut qemu = qemu_command(&kit_directory()?)?;
    qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "512M"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .args(["-device", "virtio-serial-pci"])
        .arg("-kernel")
        .arg(image.join("vmlinuz"))
        .arg("-initrd")
        .arg(work.path().join("initrd"))
        .args(["-append", "console=ttyS0 quiet panic=-1"]);
    let mut child = KillOnDrop(qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start QEMU")?);
    let console = BufReader::new(child.0.stdout.take().context("a console")?);
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || console.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let (mut results, mut seen) = (BTreeMap::new(), String::new());
    loop {
        let line = lines.recv_timeout(BOOT).with_context(|| format!("the control says nothing more:\n{seen}"))?;
        seen.push_str(&line);
        seen.push('\n');
        let Some((_, told)) = line.split_once("attempts: ") else { continue };
        if told.trim() == "control ends" {
            break;
        }
        if let Some((name, result)) = told.trim().split_once(' ') {
            results.insert(name.to_owned(), result.to_owned());
        }
    }
    let through = |name: &str| results.get(name).is_some_and(|result| result == "0");
    let held: Vec<_> =
        TABLE.iter().filter(|(name, _)| !through(name)).map(|(name, _)| (name, results.get(*name))).collect();
    assert!(held.is_empty(), "{held:?}\n{seen}");
    Ok(())
}
