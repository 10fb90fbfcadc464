//! Keeps one connection to the host: sends a [`Stream`] from its start, and again from its start when the host
//! comes back. What the host sends is handed on whole frame by whole frame, or not expected at all.

use super::stream::Stream;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};

/// Between two tries to reach a host that is away: the link offers no event for its return.
const PAUSE_MAX: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// How to reach the host.
pub trait Connect: Send + Sync + 'static {
    /// A connection.
    type Connection: AsyncRead + AsyncWrite + Send + 'static;
    /// Connects once.
    fn connect(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

/// What an outlet has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Connections that were made.
    pub connections: u64,
    /// Bytes of the stream sent on the present one.
    pub sent: u64,
}

/// Carries a stream to the host for as long as the machine runs.
pub async fn carry<C: Connect>(
    connect: C,
    stream: Arc<Stream>,
    frames: Option<Inbound>,
    progress: watch::Sender<Progress>,
) {
    let mut pause = PAUSE_MIN;
    loop {
        if let Ok(connection) = connect.connect().await {
            pause = PAUSE_MIN;
            progress.send_modify(|progress| {
                progress.connections += 1;
                progress.sent = 0;
            });
            let (reader, writer) = tokio::io::split(connection);
            tokio::select! {
                _ = write(writer, &stream, &progress) => {}
                () = read(reader, frames.as_ref()) => {}
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    stream: &Stream,
    progress: &watch::Sender<Progress>,
) -> io::Result<()> {
    let mut at = 0;
    loop {
        let bytes = stream.read(at).await;
        writer.write_all(&bytes).await?;
        writer.flush().await?;
        at += bytes.len() as u64;
        progress.send_modify(|progress| progress.sent = at);
    }
}

/// Where the host's frames go: their bytes without the length.
#[derive(Debug)]
pub struct Inbound {
    /// Takes them.
    pub frames: mpsc::Sender<Vec<u8>>,
    /// Largest frame; a larger one ends the connection.
    pub most: usize,
}

/// Ends when the host closes the connection, or sends what nobody expects.
async fn read(mut reader: impl AsyncRead + Unpin, inbound: Option<&Inbound>) {
    let Some(inbound) = inbound else {
        // Nothing is expected: one byte, or the end, is the end.
        drop(reader.read_u8().await);
        return;
    };
    while let Ok(length) = reader.read_u32_le().await {
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= inbound.most) else { return };
        let mut frame = vec![0; length];
        if reader.read_exact(&mut frame).await.is_err() || inbound.frames.send(frame).await.is_err() {
            return;
        }
    }
}

/// A port of the host.
#[derive(Debug, Clone, Copy)]
pub struct HostPort(pub u32);

impl Connect for HostPort {
    type Connection = tokio_vsock::VsockStream;

    async fn connect(&self) -> io::Result<Self::Connection> {
        tokio_vsock::VsockStream::connect(tokio_vsock::VsockAddr::new(crate::fixed::HOST_CID, self.0)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{UnixListener, UnixStream};

    struct Path(std::path::PathBuf);

    impl Connect for Path {
        type Connection = UnixStream;
        async fn connect(&self) -> io::Result<UnixStream> {
            UnixStream::connect(&self.0).await
        }
    }

    #[tokio::test]
    async fn a_host_that_comes_back_hears_everything_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host");
        let listener = UnixListener::bind(&path).unwrap();
        let stream = Arc::new(Stream::new(1 << 20));
        stream.push(b"hello").unwrap();
        let (frames, mut received) = mpsc::channel(1);
        let inbound = Inbound { frames, most: 16 };
        let task = tokio::spawn(carry(Path(path), stream.clone(), Some(inbound), watch::Sender::default()));

        let mut bytes = [0; 5];
        let (mut first, _) = listener.accept().await.unwrap();
        first.read_exact(&mut bytes).await.unwrap();
        drop(first);
        stream.push(b" again").unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        let mut bytes = [0; 11];
        second.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"hello again");
        second.write_all(b"\x03\0\0\0abc").await.unwrap();
        assert_eq!(received.recv().await.unwrap(), b"abc");
        // A frame above the limit ends the connection.
        second.write_all(b"\x11\0\0\0").await.unwrap();
        assert_eq!(second.read(&mut bytes).await.unwrap(), 0);
        task.abort();
    }
}
