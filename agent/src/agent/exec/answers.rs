//! The stream of answers to one client of an exec: a queue of a few messages, and a last word that never waits for room.

use coffer_proto::guest::v1 as pb;
use pb::exec_response::Response;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tonic::Status;

/// Messages that may wait for a client: a few, so that a slow one is felt by the program soon.
const WAITING: usize = 4;

/// The task's end.
#[derive(Debug)]
pub struct Reply {
    messages: mpsc::Sender<pb::ExecResponse>,
    last: oneshot::Sender<Status>,
}

/// The client's end: gone when it is dropped.
#[derive(Debug)]
pub struct Answers {
    messages: mpsc::Receiver<pb::ExecResponse>,
    last: Option<oneshot::Receiver<Status>>,
}

/// A stream and whoever fills it.
pub fn answers() -> (Reply, Answers) {
    let (messages, receiver) = mpsc::channel(WAITING);
    let (last, status) = oneshot::channel();
    (Reply { messages, last }, Answers { messages: receiver, last: Some(status) })
}

fn message(response: Response) -> pb::ExecResponse {
    pb::ExecResponse { response: Some(response) }
}

impl Reply {
    /// Waits for room for a message, or until the client is gone.
    pub async fn room(&self) {
        drop(self.messages.reserve().await);
    }

    /// Sends the first message.
    pub fn greet(&self, started: pb::Started) {
        self.say(Response::Started(started));
    }

    /// Sends a message for which there is room: the stream is new, or [`Reply::room`] has just said so.
    pub fn say(&self, response: Response) {
        // A client that is gone is noticed where it matters.
        drop(self.messages.try_send(message(response)));
    }

    /// Sends one message; false when the client is gone.
    pub async fn send(&self, response: Response) -> bool {
        self.messages.send(message(response)).await.is_ok()
    }

    /// Resolves when the client is gone.
    pub async fn closed(&self) {
        self.messages.closed().await;
    }

    /// Ends the stream with this, after what is queued.
    pub fn end(self, status: Status) {
        // A client that is gone has no use for it.
        drop(self.last.send(status));
    }
}

impl Stream for Answers {
    type Item = Result<pb::ExecResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(message) = std::task::ready!(self.messages.poll_recv(context)) {
            return Poll::Ready(Some(Ok(message)));
        }
        let Some(last) = &mut self.last else { return Poll::Ready(None) };
        let status = std::task::ready!(Pin::new(last).poll(context));
        self.last = None;
        Poll::Ready(status.ok().map(Err))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt as _;

    #[tokio::test]
    async fn a_client_that_reads_nothing_still_gets_the_last_word_after_what_is_queued() {
        let (reply, mut answers) = answers();
        for _ in 0..WAITING {
            reply.greet(pb::Started::default());
        }
        reply.end(Status::aborted("elsewhere"));
        for _ in 0..WAITING {
            assert!(answers.next().await.unwrap().is_ok());
        }
        assert_eq!(answers.next().await.unwrap().unwrap_err().message(), "elsewhere");
        assert!(answers.next().await.is_none());
    }

    #[tokio::test]
    async fn a_stream_without_a_last_word_ends() {
        let (reply, mut answers) = answers();
        drop(reply);
        assert!(answers.next().await.is_none());
    }
}
