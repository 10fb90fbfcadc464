//! The device against a real kernel's driver: a guest under QEMU echoes what it is sent. One boot for all of it.
//!
//! Needs `COFFER_TEST_IMAGE` (an image directory), `COFFER_TEST_KIT` (the QEMU kit) and `COFFER_TEST_ECHO_GUEST` (the
//! static build of `examples/echo-guest.rs`); `scripts/test` sets them. Without them it says NOT RUN.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BULK: usize = 64 * 1024 * 1024;
const CHUNK: usize = 64 * 1024;
const STALL: Duration = Duration::from_secs(1);
/// The whole test, boot included.
const LIMIT: Duration = Duration::from_secs(240);

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn environment(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(name)?);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    Some(if path.is_absolute() { path } else { root.join(path) })
}

/// The image's initramfs with another `/init` laid over it: the kernel unpacks one archive after the other.
fn initramfs(image: &Path, guest: &Path, out: &Path) {
    let mut archive = std::fs::read(image.join("initrd.img")).expect("read initrd.img");
    archive.resize(archive.len().next_multiple_of(4), 0);
    let init = std::fs::read(guest).expect("read the echo guest");
    let size = u32::try_from(init.len()).expect("a small program");
    let mut writer = cpio::newc::Builder::new("init").mode(0o100_755).write(&mut archive, size);
    writer.write_all(&init).expect("write init");
    writer.finish().expect("end init");
    cpio::newc::trailer(&mut archive).expect("end the archive");
    std::fs::write(out, archive).expect("write the initramfs");
}

fn kit_command(kit: &Path) -> Command {
    // kit.json is flat and ours: a few fields, no JSON library for one test.
    let text = std::fs::read_to_string(kit.join("kit.json")).expect("read kit.json");
    let after = |name: &str| text.split(&format!("\"{name}\"")).nth(1).expect("a field of kit.json").to_owned();
    let string = |name: &str| after(name).split('"').nth(1).expect("a string").to_owned();
    let list = |name: &str| -> Vec<PathBuf> {
        let inside =
            after(name).split('[').nth(1).and_then(|s| s.split(']').next().map(str::to_owned)).expect("a list");
        inside.split('"').skip(1).step_by(2).map(|s| kit.join(s)).collect()
    };
    let mut command = Command::new(kit.join(string("loader")));
    let libraries: Vec<String> = list("library_path").iter().map(|p| p.display().to_string()).collect();
    command.arg("--library-path").arg(libraries.join(":")).arg(kit.join(string("binary")));
    for dir in list("data") {
        command.arg("-L").arg(dir);
    }
    command
}

fn connect(uds: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(uds).expect("connect to the device");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(b"CONNECT 5000\n").expect("ask");
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).expect("the device's answer");
        line.extend(byte);
    }
    assert!(line.starts_with(b"OK "), "{}", String::from_utf8_lossy(&line));
    stream
}

/// Bytes that no shifted or repeated block equals.
fn pattern(offset: usize, out: &mut [u8]) {
    for (i, word) in out.chunks_exact_mut(8).enumerate() {
        let n = (offset / 8 + i) as u64;
        word.copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
}

#[test]
fn a_real_guest_echoes_64_mib_both_ways_while_eight_streams_do_round_trips() {
    let (Some(image), Some(kit), Some(guest)) =
        (environment("COFFER_TEST_IMAGE"), environment("COFFER_TEST_KIT"), environment("COFFER_TEST_ECHO_GUEST"))
    else {
        let required = std::env::var_os("COFFER_TEST_GUESTS").is_some_and(|value| value == "required");
        assert!(!required, "COFFER_TEST_IMAGE, COFFER_TEST_KIT and COFFER_TEST_ECHO_GUEST are not all set");
        eprintln!("NOT RUN: COFFER_TEST_IMAGE, COFFER_TEST_KIT and COFFER_TEST_ECHO_GUEST are not all set");
        return;
    };
    let begin = Instant::now();
    let work = tempfile::tempdir().expect("a directory");
    let (vhost, uds) = (work.path().join("vhost.sock"), work.path().join("vsock.sock"));
    initramfs(&image, &guest, &work.path().join("initrd"));

    let mut device = Command::new(env!("CARGO_BIN_EXE_coffer-vsock"))
        .args(["--cid", "4096", "--vhost-socket"])
        .arg(&vhost)
        .arg("--uds")
        .arg(&uds)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the device");
    let mut line = String::new();
    BufReader::new(device.stdout.take().expect("stdout")).read_line(&mut line).expect("the ready line");
    assert_eq!(line, "coffer-vsock: ready\n");
    let mut device = KillOnDrop(device);

    let mut qemu = kit_command(&kit);
    qemu.args(["-machine", "q35,kernel-irqchip=split,smm=off,hpet=off,memory-backend=mem0"])
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "512M"])
        .args(["-object", "memory-backend-memfd,id=mem0,size=512M,share=on"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(image.join("vmlinuz"))
        .arg("-initrd")
        .arg(work.path().join("initrd"))
        .args(["-append", "console=ttyS0 quiet panic=-1", "-chardev"])
        .arg(format!("socket,id=vsock0,path={}", vhost.display()))
        .args(["-device", "vhost-user-vsock-pci,chardev=vsock0"]);
    let mut qemu = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("start QEMU");
    let console = BufReader::new(qemu.stdout.take().expect("console"));
    let mut qemu = KillOnDrop(qemu);
    let mut seen = String::new();
    for line in console.lines() {
        let line = line.expect("the console");
        seen.push_str(&line);
        seen.push('\n');
        if line.contains("echo-guest: listening") {
            break;
        }
    }
    assert!(seen.contains("echo-guest: listening"), "the guest did not come up:\n{seen}");
    let booted = begin.elapsed();

    // Eight streams of small round trips, beside the bulk stream, until it is through.
    let done = std::sync::atomic::AtomicBool::new(false);
    let (mut trips, mut took) = (Vec::new(), Duration::ZERO);
    let mut stall = Duration::ZERO;
    std::thread::scope(|scope| {
        let small: Vec<_> = (0..8_u8)
            .map(|id| {
                let (uds, done) = (&uds, &done);
                scope.spawn(move || {
                    let mut stream = connect(uds);
                    let mut times = Vec::new();
                    for round in (0..=u8::MAX).cycle() {
                        let (message, mut back) = ([id ^ round; 64], [0; 64]);
                        let sent = Instant::now();
                        stream.write_all(&message).expect("send 64 bytes");
                        stream.read_exact(&mut back).expect("64 bytes back");
                        assert_eq!(message, back);
                        times.push(sent.elapsed());
                        if done.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                    }
                    times
                })
            })
            .collect();
        let bulk = connect(&uds);
        let mut writer = bulk.try_clone().expect("clone");
        let sent = Instant::now();
        scope.spawn(move || {
            let mut chunk = vec![0; CHUNK];
            for at in (0..BULK).step_by(CHUNK) {
                pattern(at, &mut chunk);
                writer.write_all(&chunk).expect("send bulk");
            }
            writer.shutdown(std::net::Shutdown::Write).expect("half close");
        });
        let mut reader = bulk;
        let (mut buffer, mut expected, mut at) = (vec![0; CHUNK], vec![0; CHUNK], 0);
        let mut last = Instant::now();
        while at < BULK {
            let room = CHUNK - at % CHUNK;
            let length = reader.read(&mut buffer[..room]).expect("bulk back");
            assert!(length > 0, "the stream ended after {at} bytes");
            stall = stall.max(last.elapsed());
            last = Instant::now();
            pattern(at - at % CHUNK, &mut expected);
            assert_eq!(buffer[..length], expected[at % CHUNK..at % CHUNK + length], "at byte {at}");
            at += length;
        }
        assert_eq!(reader.read(&mut buffer).expect("the end"), 0, "the guest's half close arrives");
        took = sent.elapsed();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for thread in small {
            trips.extend(thread.join().expect("a small stream"));
        }
    });

    trips.sort();
    let (median, slowest) = (trips[trips.len() / 2], trips[trips.len() - 1]);
    println!(
        "boot {booted:.1?}; 64 MiB both ways in {took:.2?} ({:.1} MiB/s each way), longest gap {stall:.0?}; {} round trips of 64 bytes: median {median:.2?}, slowest {slowest:.2?}",
        64.0 / took.as_secs_f64(),
        trips.len(),
    );
    assert!(stall < STALL, "the bulk stream stood still for {stall:?}");
    assert!(slowest < STALL, "a round trip took {slowest:?}");
    assert!(begin.elapsed() < LIMIT, "took {:?}", begin.elapsed());

    // The device ends by itself when QEMU is gone.
    let _ = qemu.0.kill();
    let status = device.0.wait().expect("the device ends");
    assert!(status.success(), "{status}");
}
