//! `/init` of the image that `scripts/bench guest` measures in, in front of the simulator's shim: PID 1 becomes the shim, and a
//! process beside it serves, on vsock port 5000, what the session is compared with: raw streams and OpenSSH. Not part of any
//! other image.
//!
//! ```text
//!   this program ++ shim ++ length of the shim, 16 hex digits
//!   PID 1 ──┬── becomes the shim, which becomes the agent
//!           └── waits for the agent's root, enters it with mounts of its own, serves
//! ```
//! A connection begins with a line: `sink N`, `source N`, `echo`, `key LINE` (who may log in), `sshd`, `times`.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

const PORT: u32 = 5000;
/// The first line is shorter, in bytes.
const LINE_MAX: usize = 4096;
/// Of one read and one write, in bytes.
const CHUNK: usize = 256 * 1024;
/// Where the agent's root is seen from outside of it.
const OTHER: &str = "/carrier/1/root";
const SSHD: &str = "/usr/sbin/sshd";
const CONFIG: &str = "HostKey /run/sshd/key\nAuthorizedKeysFile /run/sshd/authorized\nUsePAM no\nPasswordAuthentication no\n\
                      KbdInteractiveAuthentication no\nPidFile none\nLogLevel ERROR\n";

fn main() -> io::Result<()> {
    if std::process::id() == 1 {
        return Err(become_shim());
    }
    enter()?;
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, PORT)?;
    println!("bench-guest: listening");
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || serve(stream));
    }
    Ok(())
}

/// Starts the other process and executes the shim in this one; answers only why that was not possible.
fn become_shim() -> io::Error {
    let ready = || -> io::Result<()> {
        let all = fs::read("/init")?;
        let (rest, length) = all.split_at(all.len().saturating_sub(16));
        let length = std::str::from_utf8(length).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let shim = length.and_then(|length| rest.get(rest.len().checked_sub(length)?..));
        fs::write("/shim", shim.ok_or_else(|| io::Error::other("expected a shim at the end of /init"))?)?;
        fs::set_permissions("/shim", fs::Permissions::from_mode(0o755))?;
        Command::new("/init").spawn().map(drop)
    };
    match ready() {
        Ok(()) => Command::new("/shim").arg0("/init").exec(),
        Err(error) => error,
    }
}

/// Waits until the agent has its root, goes there, and makes ready what sshd needs, in mounts that nobody else sees.
#[allow(unsafe_code, reason = "unshare is unsafe to call")]
fn enter() -> io::Result<()> {
    fs::create_dir_all("/carrier")?;
    mount("proc", "/carrier", "proc", MountFlags::empty(), None)?;
    while !Path::new(OTHER).join("usr/sbin/sshd").exists() {
        std::thread::sleep(Duration::from_millis(50));
    }
    rustix::process::chroot(OTHER)?;
    std::env::set_current_dir("/")?;
    // SAFETY: this process has one thread and shares its root and mounts with nobody's memory.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), Some(c"mode=0755,size=4m"))?;
    mount("tmpfs", "/workspace", "tmpfs", MountFlags::empty(), Some(c"mode=0755,uid=10000,gid=10000,size=4m"))?;
    fs::create_dir("/run/sshd")?;
    let users = fs::read_to_string("/etc/passwd")?;
    fs::write("/run/passwd", format!("{users}sshd:*:906:65534::/run/sshd:/bin/false\n"))?;
    mount_bind("/run/passwd", "/etc/passwd")?;
    fs::write("/run/sshd/config", CONFIG)?;
    let mut keygen = Command::new("/usr/bin/ssh-keygen");
    let made = keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", "/run/sshd/key"]).status()?;
    if made.success() { Ok(()) } else { Err(io::Error::other("expected ssh-keygen to make a host key")) }
}

fn serve(mut stream: VsockStream) -> io::Result<()> {
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" && line.len() < LINE_MAX {
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
    let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
    let mut left: usize = rest.parse().unwrap_or(0);
    let mut buffer = vec![0x5a; CHUNK];
    match word {
        "sink" => {
            while left > 0 {
                let length = stream.read(&mut buffer)?;
                left = left.checked_sub(length).filter(|_| length > 0).ok_or(io::ErrorKind::UnexpectedEof)?;
            }
            stream.write_all(b"ok\n")
        }
        "source" => {
            while left > 0 {
                let part = left.min(CHUNK);
                stream.write_all(buffer.get(..part).unwrap_or_default())?;
                left -= part;
            }
            Ok(())
        }
        "echo" => loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            stream.write_all(buffer.get(..length).unwrap_or_default())?;
        },
        "key" => {
            fs::write("/run/sshd/authorized", format!("{rest}\n"))?;
            stream.write_all(b"ok\n")
        }
        "sshd" => {
            let end = || stream.as_fd().try_clone_to_owned().map(Stdio::from);
            let mut sshd = Command::new(SSHD);
            sshd.args(["-i", "-e", "-f", "/run/sshd/config"]).stdin(end()?).stdout(end()?);
            let mut sshd = sshd.spawn()?;
            drop(stream);
            sshd.wait().map(drop)
        }
        "times" => stream.write_all(times()?.as_bytes()),
        _ => stream.write_all(b"expected sink, source, echo, key, sshd or times\n"),
    }
}

/// Of each process its number, the hundredths of a second that it has used so far, in user space and in the kernel, the same of
/// its children that are gone, and its name.
fn times() -> io::Result<String> {
    let stat = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("stat")).ok()?;
        let words = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        let name = text.split_once('(')?.1.rsplit_once(") ")?.0;
        let name = if words.is_empty() { format!("[{name}]") } else { words };
        Some(format!("{} {} {}\n", text.split(' ').next()?, fields.get(11..15)?.join(" "), name.trim_end()))
    };
    Ok(fs::read_dir("/proc")?.flatten().filter_map(stat).collect())
}
