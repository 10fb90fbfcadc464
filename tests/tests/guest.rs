//! The guest by itself: what a real one says to its host, from the first frame to the power-off, and that the evidence it
//! leaves is what the verifier calls sealed. `cofferd` takes no part. Five boots.
//!
//! Needs `COFFER_TEST_IMAGE` (set by `scripts/test`); without it every test says NOT RUN.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use coffer_evidence::bundle::{Parts, SealParts, write};
use coffer_evidence::call::Disclosed;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::intent::Limits;
use coffer_evidence::leaf::{Leaf, Public, StepResult};
use coffer_evidence::link::{Mirror, ToGuest, ToHost};
use coffer_evidence::seal::{ClosedBy, Reason, SealMap};
use coffer_evidence::verify::{
    AcceptSimulated, Accepted, AnyOwner, Options, Platform, TrustAnchor, Verdict, verify_bundle, verify_opening,
};
use coffer_proto::guest::v1 as pb;
use coffer_tests::guest::{Guest, PERMIT_ALL, Plan, call_header, now};
use coffer_tests::needs_an_image;
use tokio_stream::StreamExt as _;

/// From the start of QEMU to the frame, on a machine that does other things too.
const BOOT: Duration = Duration::from_secs(90);
/// For everything that a running guest does at once.
const SOON: Duration = Duration::from_secs(20);

/// What the guest mirrored.
#[derive(Default)]
struct Record {
    leaves: BTreeMap<u64, Vec<u8>>,
    private: BTreeMap<u64, ([u8; 32], Vec<u8>)>,
    events: BTreeMap<u64, Vec<u8>>,
    note: Vec<u8>,
}

impl Record {
    /// Takes what comes until the record is as large as the seal says.
    fn read_to_seal(&mut self, guest: &Guest, seal: &SealMap) -> anyhow::Result<()> {
        while (self.leaves.len() as u64) < seal.size || (self.events.len() as u64) < seal.events {
            match guest.mirror.recv_timeout(SOON).context("the record is shorter than the seal says")? {
                Mirror::Leaf { index, bytes } => drop(self.leaves.insert(index, bytes)),
                Mirror::Private { index, salt, bytes } => drop(self.private.insert(index, (salt, bytes))),
                Mirror::Event { index, bytes } => drop(self.events.insert(index, bytes)),
                Mirror::Note(note) => self.note = note,
            }
        }
        Ok(())
    }
}

struct Opened {
    map: Vec<u8>,
    quote: Vec<u8>,
    collateral: coffer_evidence::collateral::Collateral,
}

/// Hello, then Ready, and the opening holds under the simulator's root.
fn open(guest: &Guest, image: &Path) -> anyhow::Result<Opened> {
    match guest.hear(BOOT)? {
        ToHost::Hello { session, agent_svn } => assert_eq!((session, agent_svn), (guest.session, 1)),
        other => bail!("expected hello, found {other:?}"),
    }
    let hello = guest.started.elapsed();
    let ready = guest.hear(BOOT)?;
    let ToHost::Ready { open_map: map, opening_quote: quote, ccel } = ready else {
        bail!("expected ready, found {ready:?}; the console:\n{}", guest.console())
    };
    assert_eq!(ccel, None, "the simulated platform has no event log");
    println!("hello after {hello:.2?}, ready after {:.2?}", guest.started.elapsed());
    let collateral = coffer_tdx_sim::collateral::collateral(now() - 60)?;
    let dsse = std::fs::read(image.join("image.dsse"))?;
    let policy = PERMIT_ALL.as_bytes();
    let anchor = TrustAnchor::Simulated;
    let verified = verify_opening(&map, &quote, &collateral, &dsse, &[], &guest.config, policy, now(), &anchor)?;
    assert_eq!(verified.platform, Platform::Simulated);
    let refused =
        verify_opening(&map, &quote, &collateral, &dsse, &[], &guest.config, policy, now(), &TrustAnchor::Intel);
    assert!(refused.is_err(), "a simulated opening under Intel's root");
    Ok(Opened { map, quote, collateral })
}

fn header() -> anyhow::Result<Option<pb::CallHeader>> {
    call_header("")
}

type Tools = pb::tool_service_client::ToolServiceClient<tonic::transport::Channel>;

async fn connect(guest: &Guest) -> anyhow::Result<Tools> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("unix:{}", guest.tools()?.display()))?;
    Ok(Tools::new(endpoint.connect().await?))
}

/// How a program ended, its stdout, its stderr.
type Ended = (pb::Exited, String, String);

/// Runs a program to its end.
async fn exec(tools: &Tools, argv: &[&str], timeout: Option<Duration>, stdin: &'static [u8]) -> anyhow::Result<Ended> {
    exec_telling(tools, argv, timeout, stdin, None).await
}

/// Runs a program to its end, and tells when it has begun.
async fn exec_telling(
    tools: &Tools,
    argv: &[&str],
    timeout: Option<Duration>,
    stdin: &'static [u8],
    begun: Option<std::sync::mpsc::Sender<()>>,
) -> anyhow::Result<Ended> {
    use pb::exec_request::Request;
    use pb::exec_response::Response;
    let start = pb::ExecStart {
        header: header()?,
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        timeout_ms: timeout.map_or(0, |timeout| timeout.as_millis() as i64),
        ..pb::ExecStart::default()
    };
    let requests = [Request::Start(start), Request::Stdin(stdin.into()), Request::StdinEof(pb::StdinEof {})];
    let requests = requests.map(|request| pb::ExecRequest { request: Some(request) });
    // The stream stays open: its end is the end of input, not of interest.
    let requests = tokio_stream::iter(requests).chain(tokio_stream::pending());
    let mut responses = tools.clone().exec(requests).await?.into_inner();
    let (mut out, mut err, mut exited) = (Vec::new(), Vec::new(), None);
    while let Some(message) = responses.message().await? {
        match message.response {
            Some(Response::Stdout(output)) => out.extend_from_slice(&output.data),
            Some(Response::Stderr(output)) => err.extend_from_slice(&output.data),
            Some(Response::Exited(last)) => exited = Some(last),
            Some(Response::Started(_)) => drop(begun.as_ref().map(|begun| begun.send(()))),
            Some(Response::StdinTaken(_)) | None => {}
        }
    }
    Ok((exited.context("an exit at the end of the call")?, String::from_utf8(out)?, String::from_utf8(err)?))
}

/// The output of a shell script.
async fn sh(tools: &Tools, script: &str) -> anyhow::Result<String> {
    Ok(exec(tools, &["sh", "-c", script], None, b"").await?.1)
}

async fn programs(tools: &Tools) -> anyhow::Result<()> {
    let begin = Instant::now();
    let (exited, out, err) = exec(tools, &["sh", "-c", "echo hello; echo wrong >&2; exit 7"], None, b"").await?;
    println!("first exec {:.1?}", begin.elapsed());
    assert_eq!((exited.cause(), exited.code, &*out, &*err), (pb::ExitCause::Exited, 7, "hello\n", "wrong\n"));
    let mut times = Vec::new();
    for _ in 0..20 {
        let begin = Instant::now();
        let (exited, ..) = exec(tools, &["true"], None, b"").await?;
        assert_eq!((exited.cause(), exited.code), (pb::ExitCause::Exited, 0));
        times.push(begin.elapsed());
    }
    times.sort();
    let spawn = "import os, time\nt = []\nfor _ in range(20):\n b = time.monotonic()\n \
                 os.waitpid(os.posix_spawn('/usr/bin/true', ['true'], {}), 0)\n t.append(time.monotonic() - b)\n\
                 print(round(sorted(t)[10] * 1e3, 1))";
    let (_, alone, _) = exec(tools, &["python3", "-c", spawn], None, b"").await?;
    println!(
        "exec true: median {:.1?}, slowest {:.1?}; by itself in the guest: {} ms",
        times[10],
        times[19],
        alone.trim()
    );

    let (exited, out, _) = exec(tools, &["tr", "a-z", "A-Z"], None, b"shout").await?;
    assert_eq!((exited.code, &*out), (0, "SHOUT"));
    let who = "id -u; id -g; id -G; echo $HOME; pwd; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status";
    let out = sh(tools, who).await?;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..5], ["10000", "10000", "10000", "/workspace", "/workspace"], "{out}");
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(lines.contains(&line), "{line} in {out}");
    }
    // The host is out of reach of tools, and so are the registers.
    let dial = "import socket\ntry:\n socket.socket(socket.AF_VSOCK)\nexcept OSError as error: print(error.errno)";
    let (_, out, err) = exec(tools, &["python3", "-c", dial], None, b"").await?;
    assert_eq!(out, "97\n", "{err}");
    let there = "ls -d /sys/devices/virtual /sys/kernel /sys/fs /sys/class /dev/vda /run/* 2>/dev/null; ls -d /sys/devices/system/cpu";
    assert_eq!(sh(tools, there).await?, "/sys/devices/system/cpu\n", "and the control");
    // Nor is there any other process: the warden of the call, and what the call itself runs.
    assert_eq!(sh(tools, "ls /proc | grep -c '^[0-9]'").await?, "4\n");

    for (program, errno) in [("/no/such/program", 2), ("/etc/passwd", 13)] {
        let (exited, ..) = exec(tools, &[program], None, b"").await?;
        assert_eq!((exited.cause(), exited.errno), (pb::ExitCause::FailedToStart, errno), "{program}");
    }
    let (exited, ..) = exec(tools, &["sh", "-c", "kill -9 $$"], None, b"").await?;
    assert_eq!((exited.cause(), exited.signal), (pb::ExitCause::Signalled, 9));

    // Time out: the whole tree goes, a child that left the session and ignores the signal included.
    // No other call sees processes; what they write to the identity's `/tmp`, one does.
    let script = "import os, signal, time\nsignal.signal(15, signal.SIG_IGN)\nif os.fork() == 0:\n os.setsid()\n \
                  while True: open('/tmp/beat', 'a').write('x'); time.sleep(0.05)\ntime.sleep(7654)";
    let (exited, ..) = exec(tools, &["python3", "-c", script], Some(Duration::from_secs(8)), b"").await?;
    assert_eq!(exited.cause(), pb::ExitCause::TimedOut);
    let beats = "[ -s /tmp/beat ] || echo never; a=$(wc -c </tmp/beat); sleep 1; [ $a = $(wc -c </tmp/beat) ] && echo over; rm /tmp/beat";
    assert_eq!(sh(tools, beats).await?, "over\n", "a process of the call that timed out is still there");
    Ok(())
}

/// What a tool could leave behind for a later call, or for whoever finds the memory: it can write to three places, all of
/// which the scrub unmounts, and can make nothing in the kernel that lives on without a process.
async fn nothing_stays(tools: &Tools) -> anyhow::Result<()> {
    let writable = "find / -path /proc -prune -o -path '/workspace/*' -prune -o \\( -type d -o -type b -o -type p \\) -writable -print 2>/dev/null";
    let mut found: Vec<String> = sh(tools, writable).await?.lines().map(str::to_owned).collect();
    found.sort();
    assert_eq!(found, ["/dev/shm", "/tmp", "/workspace"]);
    let write = "for d in / /etc /usr/bin /var /var/lib /run /run/lock /root /dev /sys/fs/cgroup; do \
                 echo x >$d/left 2>/dev/null && echo $d; done; echo x >/var/tmp/left && ls /tmp/left && rm /tmp/left; true";
    assert_eq!(sh(tools, write).await?, "/tmp/left\n");
    // Numbers of x86-64. What a call makes in the kernel goes with it: the second asks for what the first made.
    let calls = "import ctypes, errno\n\
                c = ctypes.CDLL(None, use_errno=True)\n\
                def call(name, *a):\n \
                 r = c.syscall(*a)\n \
                 print(name, 'made' if r >= 0 else errno.errorcode[ctypes.get_errno()])\n";
    let make = "call('shm', 29, 7, 4096, 0o1600)\n\
                call('sem', 64, 7, 1, 0o1600)\n\
                call('msg', 68, 7, 0o1600)\n\
                call('queue', 240, b'left', 0o102, 0o600, None)\n\
                call('own key', 248, b'user', b'left', b'x', 1, ctypes.c_int(-2))\n";
    let find = "call('shm', 29, 7, 4096, 0o600)\n\
                call('sem', 64, 7, 1, 0o600)\n\
                call('msg', 68, 7, 0o600)\n\
                call('queue', 240, b'left', 2, 0, None)\n";
    let (_, made, err) = exec(tools, &["python3", "-c", &format!("{calls}{make}{find}")], None, b"").await?;
    let there = "shm made\nsem made\nmsg made\nqueue ENOENT\n";
    assert_eq!(made, format!("shm made\nsem made\nmsg made\nqueue EMFILE\nown key EPERM\n{there}"), "{err}");
    let (_, found, err) = exec(tools, &["python3", "-c", &format!("{calls}{find}")], None, b"").await?;
    assert_eq!(found, "shm ENOENT\nsem ENOENT\nmsg ENOENT\nqueue ENOENT\n", "{err}");
    Ok(())
}

/// A call that takes all it can get ends, or is ended; the session and every other call go on.
async fn greed(tools: &Tools) -> anyhow::Result<()> {
    let hog = "b = []\nwhile True: b.append(bytearray(16 << 20))";
    let begin = Instant::now();
    let (exited, ..) = exec(tools, &["sh", "-c", "python3 -c \"$0\"; sleep 600", hog], None, b"").await?;
    println!("memory: {:?} after {:.1?}", exited.cause(), begin.elapsed());
    assert_eq!(exited.cause(), pb::ExitCause::OutOfMemory);

    // Every process makes others as fast as it can, and none of them ever ends by itself.
    let bomb = "import os\nwhile True:\n try: os.fork()\n except OSError: pass";
    let (begun, has_begun) = std::sync::mpsc::channel();
    let bombing = {
        let tools = tools.clone();
        let limit = Some(Duration::from_secs(5));
        tokio::spawn(async move { exec_telling(&tools, &["python3", "-c", bomb], limit, b"", Some(begun)).await })
    };
    tokio::task::spawn_blocking(move || has_begun.recv_timeout(SOON)).await??;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begin = Instant::now();
    let meanwhile = sh(tools, "echo here").await?;
    println!("a call beside the bomb took {:.1?}", begin.elapsed());
    assert_eq!(meanwhile, "here\n");
    let (exited, ..) = bombing.await??;
    assert_eq!(exited.cause(), pb::ExitCause::TimedOut);
    let (exited, ..) = exec(tools, &["true"], None, b"").await?;
    assert_eq!((exited.cause(), exited.code), (pb::ExitCause::Exited, 0));
    // A call has room for so many processes, its own first one among them, and no more.
    let count = "import os, time\nn = 1\ntry:\n while n < 5000:\n  if os.fork() == 0: time.sleep(600)\n  n += 1\n\
                 except OSError as error: print(n, error.errno, flush=True)\nos.kill(0, 9)";
    let (_, out, err) = exec(tools, &["python3", "-c", count], None, b"").await?;
    assert_eq!(out, "512 11\n", "{err}");
    Ok(())
}

async fn files(tools: &mut Tools) -> anyhow::Result<()> {
    let data: Vec<u8> = (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    sh(tools, "mkdir deep").await?;
    let start = pb::WriteFileStart { header: header()?, path: "deep/file".into(), mode: 0o600, precondition: None };
    let mut requests = vec![pb::write_file_request::Request::Start(start)];
    requests.extend(data.chunks(60_000).map(|chunk| pb::write_file_request::Request::Data(chunk.to_vec().into())));
    let requests: Vec<_> =
        requests.into_iter().map(|request| pb::WriteFileRequest { request: Some(request) }).collect();
    let written = tools.write_file(tokio_stream::iter(requests)).await?.into_inner();
    assert_eq!(written.size, data.len() as u64);

    let request = pb::ReadFileRequest { header: header()?, path: "deep/file".into(), offset: 5, length: 0 };
    let mut stream = tools.read_file(request).await?.into_inner();
    let (mut read, mut trailer) = (Vec::new(), None);
    while let Some(message) = stream.message().await? {
        match message.response {
            Some(pb::read_file_response::Response::Data(bytes)) => read.extend_from_slice(&bytes),
            Some(pb::read_file_response::Response::Trailer(last)) => trailer = Some(last),
            _ => {}
        }
    }
    assert!(read == data[5..], "the file reads back from its fifth byte");
    assert_eq!(trailer.context("a trailer")?.size, read.len() as u64);

    let stat = pb::StatRequest { header: header()?, path: "deep/file".into() };
    let entry = tools.stat(stat).await?.into_inner().entry.context("an entry")?;
    assert_eq!((entry.size, entry.mode & 0o777), (data.len() as u64, 0o600));
    let list = pb::ListDirectoryRequest { header: header()?, ..Default::default() };
    let entries = tools.list_directory(list).await?.into_inner().entries;
    assert_eq!(entries.iter().map(|entry| &entry.name[..]).collect::<Vec<_>>(), [&b"deep"[..]]);
    let stat = pb::StatRequest { header: header()?, path: "../etc/passwd".into() };
    assert_eq!(tools.stat(stat).await.expect_err("a way up").code(), tonic::Code::InvalidArgument);
    // The policy of this session grants everything, what is outside of the workspace too.
    let stat = pb::StatRequest { header: header()?, path: "/etc/passwd".into() };
    assert!(tools.stat(stat).await?.into_inner().entry.context("an entry")?.size > 0);
    trees(tools, &data).await
}

/// A tree goes up and comes down unchanged.
async fn trees(tools: &mut Tools, data: &[u8]) -> anyhow::Result<()> {
    let mut archive = tar::Builder::new(Vec::new());
    let header_of = |kind, size| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o755);
        header
    };
    archive.append_data(&mut header_of(tar::EntryType::Directory, 0), "a", &[][..])?;
    archive.append_data(&mut header_of(tar::EntryType::Regular, data.len() as u64), "a/data", data)?;
    archive.append_link(&mut header_of(tar::EntryType::Symlink, 0), "a/link", "data")?;
    let archive = archive.into_inner()?;
    let start = pb::UploadStart { header: header()?, path: "tree".into() };
    let mut requests = vec![pb::upload_request::Request::Start(start)];
    requests.extend(archive.chunks(65_536).map(|chunk| pb::upload_request::Request::Data(chunk.to_vec().into())));
    let requests: Vec<_> = requests.into_iter().map(|request| pb::UploadRequest { request: Some(request) }).collect();
    let uploaded = tools.upload(tokio_stream::iter(requests)).await?.into_inner();
    assert_eq!(uploaded.bytes, archive.len() as u64);
    assert_eq!(
        sh(tools, "find tree | sort; readlink tree/a/link").await?,
        "tree\ntree/a\ntree/a/data\ntree/a/link\ndata\n"
    );

    let request = pb::DownloadRequest { header: header()?, path: "tree".into() };
    let mut stream = tools.download(request).await?.into_inner();
    let mut packed = Vec::new();
    while let Some(message) = stream.message().await? {
        if let Some(pb::download_response::Response::Data(bytes)) = message.response {
            packed.extend_from_slice(&bytes);
        }
    }
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(&packed[..]).entries()? {
        let mut entry = entry?;
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content)?;
        let link = entry.link_name_bytes().map(|link| link.into_owned());
        found.insert(entry.path()?.display().to_string().trim_end_matches('/').to_owned(), link.unwrap_or(content));
    }
    let ends = |end: &str| found.iter().find(|(name, _)| name.ends_with(end)).map(|(_, content)| &content[..]);
    assert!(ends("a/data") == Some(data), "{:?}", found.keys());
    assert_eq!(ends("a/link"), Some(&b"data"[..]));
    Ok(())
}

#[test]
fn a_guest_says_hello_and_ready_runs_tools_seals_and_powers_off() -> anyhow::Result<()> {
    let image = needs_an_image!();
    let mut guest = Guest::boot(&Plan::plain(image.clone()))?;
    let opened = open(&guest, &image)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let tools = runtime
        .block_on(async {
            let mut tools = connect(&guest).await?;
            programs(&tools).await?;
            files(&mut tools).await?;
            nothing_stays(&tools).await?;
            greed(&tools).await?;
            anyhow::Ok(tools)
        })
        .with_context(|| guest.console())?;

    // A call that runs when the session is closed ends with it, and has its outcome like every other.
    let (begun, has_begun) = std::sync::mpsc::channel();
    let late = runtime.spawn(async move { exec_telling(&tools, &["sleep", "600"], None, b"", Some(begun)).await });
    has_begun.recv_timeout(SOON).context("the call that is to be interrupted")?;
    let closing = Instant::now();
    guest.order(ToGuest::Close { reason: Reason::UserClosed })?;
    let ToHost::Sealed { seal_map, seal_quote, statement } = guest.hear(SOON)? else { bail!("expected sealed") };
    println!("sealed {:.0?} after close", closing.elapsed());
    let seal = SealMap::parse(&seal_map)?;
    assert_eq!((seal.closed_by, seal.reason), (ClosedBy::Host, Reason::UserClosed));
    let (exited, ..) = runtime.block_on(late)??;
    assert_eq!(exited.cause(), pb::ExitCause::SessionClosing);
    let mut record = Record::default();
    record.read_to_seal(&guest, &seal)?;
    scrubbed(&record)?;
    let stored = Instant::now();
    guest.order(ToGuest::Stored)?;
    guest.powered_off(SOON)?;
    println!("off {:.0?} after stored; console:\n{}", stored.elapsed(), guest.console());
    assert!(resident_kib(&guest.console(), "agent")? <= 20 * 1024, "the agent's budget");

    let collateral = opened.collateral.to_bytes();
    let disclosed = record.private.into_iter().map(|(index, (salt, bytes))| Disclosed { index, salt, bytes });
    let bundle = write(&Parts {
        config: guest.config.clone(),
        policy: PERMIT_ALL.into(),
        image_dsse: std::fs::read(image.join("image.dsse"))?,
        open_map: opened.map,
        open_quote: opened.quote,
        open_collateral: collateral.clone(),
        ccel: None,
        events: record.events.into_values().collect(),
        leaves: record.leaves.into_values().collect(),
        checkpoint: String::from_utf8(record.note)?,
        encrypted: None,
        disclosed: Some(disclosed.collect()),
        seal: Some(SealParts { map: seal_map, quote: seal_quote, collateral, statement }),
        receipt: None,
    });
    let options =
        Options { at: now(), accept_simulated: AcceptSimulated::Yes, any_owner: AnyOwner::Yes, ..Options::default() };
    let report = verify_bundle(&bundle, &options);
    println!("bundle of {} bytes, {} leaves", bundle.len(), seal.size);
    assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes), "{report:#?}");
    let refused = verify_bundle(&bundle, &Options { accept_simulated: AcceptSimulated::No, ..options });
    assert_eq!((refused.verdict, refused.accepted), (Verdict::Sealed, Accepted::No));
    Ok(())
}

/// The largest resident set of one of the guest's own processes, as its init tells at the end.
fn resident_kib(console: &str, process: &str) -> anyhow::Result<u64> {
    let line = console.lines().find(|line| line.contains("resident at most: ")).context("a line about memory")?;
    let size = line.split_once(&format!("{process} ")).and_then(|(_, rest)| rest.split(' ').next());
    size.and_then(|size| size.parse().ok()).with_context(|| format!("the size of the {process} in {line:?}"))
}

/// The leaf before the last tells each step of the scrub; none may have failed.
fn scrubbed(record: &Record) -> anyhow::Result<()> {
    let (_, leaf) = record.leaves.iter().rev().nth(1).context("a leaf before the last")?;
    let Public::Scrub { steps } = Leaf::parse(leaf)?.public else { bail!("expected the scrub leaf before the last") };
    assert_eq!(steps.len(), 5, "{steps:?}");
    assert!(steps.iter().all(|(_, result)| *result != StepResult::Failed), "{steps:?}");
    Ok(())
}

fn word(disk: &[u8], at: usize) -> usize {
    u32::from_le_bytes([disk[at], disk[at + 1], disk[at + 2], disk[at + 3]]) as usize
}

/// One boot for each part: the guest notices, says why if it got that far, never says ready, and powers off by itself.
#[test]
fn a_boot_disk_with_one_byte_changed_powers_off_and_never_says_ready() -> anyhow::Result<()> {
    let image = needs_an_image!();
    type Tamper = fn(&mut Vec<u8>);
    let tampers: [(&str, Tamper, &str); 3] = [
        ("intent", |disk| disk[64] ^= 1, "the owner's signature"),
        // The last byte of the configuration is that of a label: well-formed either way, and only measured.
        (
            "host part",
            |disk| {
                let at = 15 + word(disk, 8);
                disk[at] ^= 1;
            },
            "mrconfigid is not",
        ),
        (
            "policy",
            |disk| {
                let at = 16 + word(disk, 8) + word(disk, 12) / 2;
                disk[at] ^= 1;
            },
            "a policy text with",
        ),
    ];
    for (part, tamper, reason) in tampers {
        let mut guest = Guest::boot(&Plan { tamper, ..Plan::plain(image.clone()) })?;
        let ToHost::Failed { stage, detail } = guest.hear(BOOT)? else { bail!("{part}: expected a failure") };
        println!("{part}: {stage}: {detail} after {:.2?}", guest.started.elapsed());
        assert!(detail.contains(reason), "{part}: {detail}");
        guest.powered_off(SOON)?;
        assert!(guest.control.try_recv().is_err(), "{part}: it said something after that");
    }
    Ok(())
}

/// Without a TD there are no registers to bind anything to: the image for TDX hosts ends before it has said a word.
#[test]
fn a_tdx_image_on_a_machine_that_is_no_td_powers_off_and_says_nothing() -> anyhow::Result<()> {
    let Some(image) = std::env::var_os("COFFER_TEST_TDX_IMAGE") else {
        anyhow::ensure!(!coffer_tests::guests_are_required(), "COFFER_TEST_TDX_IMAGE names no image directory");
        eprintln!("NOT RUN: COFFER_TEST_TDX_IMAGE names no image directory of the tdx profile");
        return Ok(());
    };
    let mut guest = Guest::boot(&Plan::plain(image.into()))?;
    guest.powered_off(BOOT)?;
    println!("off after {:.2?}; console:\n{}", guest.started.elapsed(), guest.console());
    assert!(guest.control.try_recv().is_err() && guest.mirror.try_recv().is_err(), "it said something");
    assert!(!guest.console().contains("coffer-agent"), "it has a console");
    Ok(())
}

/// The host comes back and hears everything again; then the quoting service goes away, the session closes itself for lack
/// of calls, and nothing is sealed any more.
#[test]
fn a_host_that_comes_back_hears_it_all_again_and_a_lost_simulator_means_no_seal() -> anyhow::Result<()> {
    let image = needs_an_image!();
    let limits = Limits { idle_s: 10, ..Limits::default() };
    let mut guest = Guest::boot(&Plan { limits, ..Plan::plain(image.clone()) })?;
    let opened = open(&guest, &image)?;
    guest.hang_up()?;
    let ToHost::Hello { session, .. } = guest.hear(SOON)? else { bail!("expected hello again") };
    assert_eq!(session, guest.session);
    let ToHost::Ready { open_map, opening_quote, .. } = guest.hear(SOON)? else { bail!("expected ready again") };
    assert!((open_map, opening_quote) == (opened.map, opened.quote), "another opening");

    guest.lose_simulator()?;
    let ToHost::Closing { reason, closed_by } = guest.hear(SOON)? else { bail!("expected that it closes itself") };
    assert_eq!((reason, closed_by), (Reason::IdleTimeout, ClosedBy::Agent));
    let ToHost::Failed { stage, detail } = guest.hear(SOON)? else { bail!("expected a failure") };
    println!("{stage}: {detail}");
    assert_eq!(stage, "rtmr3", "{detail}");
    guest.powered_off(SOON)
}
