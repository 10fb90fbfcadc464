//! Standard input for a call. Read by a thread of its own that nobody waits for: a read from a terminal cannot be taken
//! back, and must not keep the command from ending.

use std::io::Read as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use coffer_client::calls::CHUNK;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

/// Whether the program gets this command's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// What comes in goes on.
    Passed,
    /// The program finds an empty input.
    Empty,
}

/// Standard input, or an empty one.
#[derive(Debug)]
pub(crate) struct Stdin {
    chunks: mpsc::Receiver<std::io::Result<Vec<u8>>>,
    rest: std::collections::VecDeque<u8>,
}

impl Stdin {
    pub(crate) fn open(input: Input) -> Self {
        // One chunk ahead: input that no program asked for is not taken from whoever else may want it.
        let (sender, chunks) = mpsc::channel(1);
        if input == Input::Passed {
            std::thread::spawn(move || read(&sender));
        }
        Self { chunks, rest: std::collections::VecDeque::new() }
    }
}

fn read(sender: &mpsc::Sender<std::io::Result<Vec<u8>>>) {
    let mut stdin = std::io::stdin().lock();
    loop {
        let mut buffer = vec![0; CHUNK];
        let chunk = match stdin.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                buffer.truncate(length);
                Ok(buffer)
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = chunk.is_err();
        if sender.blocking_send(chunk).is_err() || failed {
            return;
        }
    }
}

impl AsyncRead for Stdin {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.rest.is_empty() {
            match std::task::ready!(self.chunks.poll_recv(context)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                Some(Ok(chunk)) => self.rest = chunk.into(),
            }
        }
        let (front, _) = self.rest.as_slices();
        let length = front.len().min(buffer.remaining());
        buffer.put_slice(front.get(..length).unwrap_or_default());
        self.rest.drain(..length);
        Poll::Ready(Ok(()))
    }
}
