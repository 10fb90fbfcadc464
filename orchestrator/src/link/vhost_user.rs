//! The link through `coffer-vsock`: one process per session, in the session's jail, that serves the guest's vsock device
//! and turns its connections into connections to unix sockets. It outlives this process, and a hostile guest that breaks
//! it has broken a jailed process of its own session.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::{
    Dial, GuestDevice, GuestStream, Link, OpenLink, PORT_CONTROL, PORT_RECORD, Place, Tasks, WAITING_MAX, next,
};
use crate::host::process::ProcessRecord;
use crate::host::session_dir::remove_if_there;
use crate::jail::{self, Access, Exposure, Helper, JailSpec, text};
use crate::vmm::LaunchError;

/// What `coffer-vsock` says when QEMU may connect.
const READY: &str = "coffer-vsock: ready";
/// How long the device may take to answer a dial: the guest's kernel answers, not its programs.
const DIAL: Duration = Duration::from_secs(10);
/// The longest answer to a dial in bytes: `OK <port>\n`.
const ANSWER_MAX: usize = 32;

/// Starts one `coffer-vsock` per session.
pub(crate) struct VhostUserLink {
    /// This executable, which is also the jail.
    pub(crate) launcher: PathBuf,
    /// `coffer-vsock`.
    pub(crate) program: PathBuf,
}

impl Link for VhostUserLink {
    fn open(&self, place: Place) -> BoxFuture<'_, Result<OpenLink, LaunchError>> {
        Box::pin(async move {
            if !self.program.is_file() {
                return Err(missing(&self.program));
            }
            let mut link = ports(&place)?;
            let (socket, uds) = (place.run.join("vhost.sock"), place.run.join("vsock.sock"));
            let spec = JailSpec {
                argv: vec![
                    text(&self.program)?,
                    "--cid".to_owned(),
                    place.cid.to_string(),
                    "--vhost-socket".to_owned(),
                    text(&socket)?,
                    "--uds".to_owned(),
                    text(&uds)?,
                ],
                record: place.process_record.clone(),
                cgroup_procs: place.cgroup_procs.clone(),
                uid: place.uid,
                groups: Vec::new(),
                expose: vec![
                    Exposure { path: self.program.clone(), access: Access::ReadOnly },
                    Exposure { path: place.run.clone(), access: Access::ReadWrite },
                ],
            };
            let helper = Helper { name: "coffer-vsock", ready: READY, setting: "vmm.vsock_device" };
            link.program = Some(jail::start_helper(&self.launcher, &spec, &place.complaints, helper).await?);
            Ok(link)
        })
    }

    fn adopt(&self, place: Place) -> BoxFuture<'_, Result<OpenLink, LaunchError>> {
        Box::pin(async move {
            // A device that is gone has taken the guest's link with it: QEMU does not dial it again.
            let running = ProcessRecord::open_recorded(&place.process_record);
            running.ok_or(LaunchError::Gone { program: "coffer-vsock" })?;
            ports(&place)
        })
    }
}

/// Listens on the guest's host ports and knows the way to the guest; the device's program is not started here.
fn ports(place: &Place) -> Result<OpenLink, LaunchError> {
    let uds = place.run.join("vsock.sock");
    let mut tasks = Tasks::default();
    let control = listen(&port_socket(&uds, PORT_CONTROL), place.uid, &mut tasks)?;
    let record = listen(&port_socket(&uds, PORT_RECORD), place.uid, &mut tasks)?;
    let device = GuestDevice::VhostUser { socket: place.run.join("vhost.sock") };
    Ok(OpenLink { device, control, record, dial: Arc::new(UnixDial { uds }), program: None, tasks })
}

/// The program is not where it should be.
pub(crate) fn missing(program: &Path) -> LaunchError {
    let hint = "install it beside cofferd, or set vmm.vsock_device";
    LaunchError::Missing { what: "coffer-vsock", path: program.to_path_buf(), hint }
}

/// Where the device connects for the guest's connections to a host port.
pub(crate) fn port_socket(uds: &Path, port: u32) -> PathBuf {
    let mut name = uds.as_os_str().to_owned();
    name.push(format!("_{port}"));
    PathBuf::from(name)
}

/// Listens on a socket that only the session's uid (and root) may connect to.
pub(crate) fn listen(
    path: &Path,
    uid: Option<u32>,
    tasks: &mut Tasks,
) -> Result<mpsc::Receiver<GuestStream>, LaunchError> {
    let failed = |source| LaunchError::Io { path: path.to_path_buf(), source };
    let listener = bind(path, uid).map_err(failed)?;
    let (sender, receiver) = mpsc::channel::<GuestStream>(WAITING_MAX);
    tasks.spawn(async move {
        loop {
            let (stream, _) = next(|| listener.accept()).await;
            if sender.send(Box::new(stream)).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Makes a socket for the session's uid alone, in the place of one that an earlier life of this process made.
///
/// The directory is the session's, too. Nothing there is followed: a name is removed or made, and what this process has
/// just made nobody else may move away, because the directory is sticky.
pub(crate) fn bind(path: &Path, uid: Option<u32>) -> io::Result<UnixListener> {
    remove_if_there(path)?;
    let listener = UnixListener::bind(path)?;
    own(path, uid)?;
    Ok(listener)
}

/// Gives a socket to the session's uid alone.
fn own(path: &Path, uid: Option<u32>) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    match uid {
        Some(uid) => std::os::unix::fs::lchown(path, Some(uid), Some(uid)),
        None => Ok(()),
    }
}

/// Dials through the device's socket.
pub(crate) struct UnixDial {
    pub(crate) uds: PathBuf,
}

impl Dial for UnixDial {
    fn dial(&self, port: u32) -> BoxFuture<'_, io::Result<GuestStream>> {
        Box::pin(async move {
            let dialling = async {
                let mut stream = UnixStream::connect(&self.uds).await?;
                stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
                let mut line = Vec::new();
                // A byte at a time: what follows the line is the guest's.
                while line.last() != Some(&b'\n') {
                    if line.len() >= ANSWER_MAX {
                        return Err(io::Error::other("the device's answer is no line"));
                    }
                    line.push(stream.read_u8().await?);
                }
                if !line.starts_with(b"OK ") {
                    return Err(io::Error::other("the device refused the connection"));
                }
                Ok(Box::new(stream) as GuestStream)
            };
            tokio::time::timeout(DIAL, dialling).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dial_takes_the_answer_line_and_no_byte_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let uds = dir.path().join("vsock.sock");
        let listener = UnixListener::bind(&uds).expect("listen");
        let device = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut line = [0; 13];
            stream.read_exact(&mut line).await.expect("the dial");
            assert_eq!(&line, b"CONNECT 1030\n");
            stream.write_all(b"OK 1073741824\nhello").await.expect("answer");
        });
        let mut stream = UnixDial { uds }.dial(PORT_TOOLS_FOR_TEST).await.expect("connected");
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.expect("read");
        assert_eq!(rest, "hello");
        device.await.expect("device");
    }

    const PORT_TOOLS_FOR_TEST: u32 = super::super::PORT_TOOLS;

    #[tokio::test]
    async fn an_endless_or_other_answer_is_refused() {
        for answer in [&b"NO\n"[..], &[b'x'; 64]] {
            let dir = tempfile::tempdir().expect("a directory");
            let uds = dir.path().join("vsock.sock");
            let listener = UnixListener::bind(&uds).expect("listen");
            let device = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("accept");
                stream.write_all(answer).await.expect("answer");
                stream
            });
            assert!(UnixDial { uds }.dial(1).await.is_err());
            device.await.expect("device");
        }
    }

    #[tokio::test]
    async fn a_port_is_for_the_session_alone_and_hands_connections_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = port_socket(&dir.path().join("vsock.sock"), PORT_CONTROL);
        let mut tasks = Tasks::default();
        let mut connections = listen(&path, None, &mut tasks).expect("listen");
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        let mut guest = UnixStream::connect(&path).await.expect("connect");
        guest.write_all(b"x").await.expect("write");
        let mut host = connections.recv().await.expect("a connection");
        assert_eq!(host.read_u8().await.expect("a byte"), b'x');
        drop(tasks);
        assert!(connections.recv().await.is_none(), "the listener ends with the link");
        let mut tasks = Tasks::default();
        let mut connections = listen(&path, None, &mut tasks).expect("listen again in its place");
        drop(UnixStream::connect(&path).await.expect("connect"));
        assert!(connections.recv().await.is_some());
    }
}
