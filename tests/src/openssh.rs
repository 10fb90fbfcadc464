//! OpenSSH over a connection that is already there, to a guest of `bench-guest`: the program `ssh` as people run it, and
//! its master's control socket spoken to directly, without the start of a program on the host. For `scripts/bench` alone.

use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::guest::dial;
use crate::host::binaries;
use crate::kit::KillOnDrop;

/// Where `bench-guest` listens.
pub const PORT: u32 = 5000;
/// For the first connection: keys are exchanged in an emulated machine.
const LOGIN: Duration = Duration::from_secs(60);
/// As the identity `default`.
const LOGIN_NAME: &str = "default@guest";

/// Numbers of OpenSSH's PROTOCOL.mux.
const HELLO: u32 = 1;
const VERSION: u32 = 4;
const NEW_SESSION: u32 = 0x1000_0002;
const SESSION_OPENED: u32 = 0x8000_0006;
const EXIT_MESSAGE: u32 = 0x8000_0004;
/// Longest message of the master that is read, in bytes.
const MESSAGE_MAX: u32 = 64 * 1024;

/// Asks `bench-guest` for something by its first line. It makes itself ready beside the agent, not before it.
///
/// # Errors
/// When the guest does not answer.
pub fn ask(device: &Path, line: &str) -> anyhow::Result<UnixStream> {
    let begin = Instant::now();
    let mut stream = loop {
        match dial(device, PORT) {
            Err(_) if begin.elapsed() < LOGIN => std::thread::sleep(Duration::from_millis(50)),
            result => break result?,
        }
    };
    stream.write_all(format!("{line}\n").as_bytes())?;
    Ok(stream)
}

/// Sends a descriptor with one byte of zero, as OpenSSH does.
///
/// # Errors
/// When the other side is gone.
pub fn send_descriptor(to: BorrowedFd<'_>, descriptor: BorrowedFd<'_>) -> anyhow::Result<()> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut buffer = SendAncillaryBuffer::new(&mut space);
    ensure!(buffer.push(SendAncillaryMessage::ScmRights(&descriptors)), "no room for a descriptor");
    sendmsg(to, &[IoSlice::new(&[0])], &mut buffer, SendFlags::empty())?;
    Ok(())
}

/// A connection, held by a master of its own.
pub struct Openssh {
    directory: tempfile::TempDir,
    _master: KillOnDrop,
}

impl Openssh {
    /// Logs in to the guest behind the socket of its vsock device.
    ///
    /// # Errors
    /// When that does not work in time.
    pub fn login(device: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("coffer-ssh.").tempdir()?;
        let (key, log) = (directory.path().join("key"), directory.path().join("log"));
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        ensure!(made.context("run ssh-keygen")?.success(), "expected ssh-keygen to make a key");
        let public = std::fs::read_to_string(key.with_extension("pub"))?;
        let mut answer = String::new();
        ask(device, &format!("key {}", public.trim_end()))?.read_to_string(&mut answer)?;
        ensure!(answer == "ok\n", "expected the guest to take a key, found {answer:?}");
        let mut master = command(&directory.path().join("control"));
        let proxy = format!("{} {} {PORT} sshd", binaries().join("guest-stream").display(), device.display());
        master
            .args(["-M", "-N", "-o", "ProxyUseFdpass=yes", "-o"])
            .arg(format!("ProxyCommand={proxy}"))
            .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-i"])
            .arg(&key)
            .arg(LOGIN_NAME)
            .stderr(std::fs::File::create(&log)?);
        let mut master = KillOnDrop(master.spawn().context("run ssh")?);
        let begin = Instant::now();
        while UnixStream::connect(directory.path().join("control")).is_err() {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = master.0.try_wait()? {
                bail!("ssh did not log in, {status}: {}", said());
            }
            ensure!(begin.elapsed() < LOGIN, "ssh did not log in within {LOGIN:?}: {}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Self { directory, _master: master })
    }

    fn control(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    /// `ssh -S control default@guest COMMAND`, a program on the host, to its end.
    ///
    /// # Errors
    /// When it fails.
    pub fn program(&self, remote: &str) -> anyhow::Result<()> {
        let status = command(&self.control()).args([LOGIN_NAME, remote]).status()?;
        ensure!(status.success(), "expected ssh {remote} to succeed, found {status}");
        Ok(())
    }

    /// The same without a program on the host: what `ssh` says to the master, said from here.
    ///
    /// # Errors
    /// When it fails.
    pub fn session(&self, remote: &str) -> anyhow::Result<()> {
        let mut master = UnixStream::connect(self.control())?;
        send(&mut master, &[HELLO.to_be_bytes(), VERSION.to_be_bytes()].concat())?;
        let (kind, _) = receive(&mut master)?;
        ensure!(kind == HELLO, "expected a hello of the master, found {kind:#x}");
        let mut asked = Vec::new();
        // Request, reserved, no terminal, no X11, no agent, no subsystem, no escape character, terminal, command.
        for number in [NEW_SESSION, 0, 0, 0, 0, 0, 0, u32::MAX, 0] {
            asked.extend(number.to_be_bytes());
        }
        asked.extend(u32::try_from(remote.len())?.to_be_bytes());
        asked.extend(remote.as_bytes());
        send(&mut master, &asked)?;
        let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
        for _ in 0..3 {
            send_descriptor(master.as_fd(), null.as_fd())?;
        }
        let (kind, said) = receive(&mut master)?;
        ensure!(
            kind == SESSION_OPENED,
            "expected an open session, found {kind:#x}: {}",
            String::from_utf8_lossy(&said)
        );
        let (kind, said) = receive(&mut master)?;
        // The session, then the status.
        ensure!(kind == EXIT_MESSAGE && said.get(4..8) == Some(&[0; 4]), "expected success, found {kind:#x} {said:?}");
        Ok(())
    }
}

/// `ssh` with nothing from the user's own configuration.
fn command(control: &Path) -> Command {
    let mut command = Command::new("ssh");
    command.args(["-F", "none", "-S"]).arg(control).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn send(to: &mut UnixStream, message: &[u8]) -> anyhow::Result<()> {
    to.write_all(&[&u32::try_from(message.len())?.to_be_bytes(), message].concat())?;
    Ok(())
}

/// The next message: its kind and what follows.
fn receive(from: &mut UnixStream) -> anyhow::Result<(u32, Vec<u8>)> {
    let mut number = [0; 4];
    from.read_exact(&mut number)?;
    let length = u32::from_be_bytes(number);
    ensure!((4..=MESSAGE_MAX).contains(&length), "expected a message of the master, found {length} bytes");
    from.read_exact(&mut number)?;
    let mut rest = vec![0; length as usize - 4];
    from.read_exact(&mut rest)?;
    Ok((u32::from_be_bytes(number), rest))
}
