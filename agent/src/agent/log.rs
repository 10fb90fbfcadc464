//! The agent's side of the link to the notary: asks for leaves, and passes records on to the mirror.

use super::link::Link;
use super::stream::Stream;
use crate::channel::ChannelError;
use crate::frames::log::{Refusal, ToAgent, ToNotary};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Questions that wait for the notary: as many as calls can run, twice over.
const QUESTIONS: usize = 64;

/// Nothing was logged.
#[derive(Debug, Error)]
pub enum LogError {
    /// The notary refuses this entry.
    #[error("the notary refused the entry: {0:?}")]
    Refused(Refusal),
    /// The notary is gone, and the machine with it.
    #[error("the notary does not answer")]
    Gone,
}

/// The closed log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedLog {
    /// Seal map bytes.
    pub seal_map: Vec<u8>,
    /// Final quote.
    pub quote: Vec<u8>,
    /// DSSE envelope.
    pub statement: Vec<u8>,
}

/// Asks the notary. Questions are put, and answered, in one order.
#[derive(Debug, Clone)]
pub struct Log {
    questions: mpsc::Sender<(ToNotary, oneshot::Sender<ToAgent>)>,
}

impl Log {
    /// Starts to speak on the link. The future carries it and ends when the notary cannot be used any more.
    pub fn new(link: Link<ToNotary, ToAgent>, record: Arc<Stream>) -> (Self, impl Future<Output = String>) {
        let (questions, asked) = mpsc::channel(QUESTIONS);
        (Self { questions }, carry(link, record, asked))
    }

    /// Appends a leaf; answers its index.
    pub async fn append(&self, entry: ToNotary) -> Result<u64, LogError> {
        match self.ask(entry).await? {
            ToAgent::Appended { index } => Ok(index),
            ToAgent::Refused { refusal } => Err(LogError::Refused(refusal)),
            _ => Err(LogError::Gone),
        }
    }

    /// Has a commit signed for a call that runs and whose request is a git commit; answers the armor.
    pub async fn sign(&self, intent: u64, commit: Vec<u8>) -> Result<String, LogError> {
        match self.ask(ToNotary::Sign { intent, commit }).await? {
            ToAgent::Signed { signature } => Ok(signature),
            ToAgent::Refused { refusal } => Err(LogError::Refused(refusal)),
            _ => Err(LogError::Gone),
        }
    }

    /// Closes the log.
    pub async fn seal(&self, reason: u64, closed_by: u64) -> Result<SealedLog, LogError> {
        match self.ask(ToNotary::Seal { reason, closed_by }).await? {
            ToAgent::Sealed { seal_map, quote, statement } => Ok(SealedLog { seal_map, quote, statement }),
            _ => Err(LogError::Gone),
        }
    }

    async fn ask(&self, question: ToNotary) -> Result<ToAgent, LogError> {
        let (answer, answered) = oneshot::channel();
        self.questions.send((question, answer)).await.map_err(|_| LogError::Gone)?;
        answered.await.map_err(|_| LogError::Gone)
    }
}

/// Two sides that do not wait for each other: a notary that is busy telling must not keep us from hearing it.
async fn carry(
    link: Link<ToNotary, ToAgent>,
    record: Arc<Stream>,
    mut asked: mpsc::Receiver<(ToNotary, oneshot::Sender<ToAgent>)>,
) -> String {
    let (waiting, mut first) = mpsc::unbounded_channel::<oneshot::Sender<ToAgent>>();
    let ask = async {
        while let Some((question, answer)) = asked.recv().await {
            // Bounded by the number of calls: each waits for its answer before it asks again.
            if waiting.send(answer).is_err() {
                break;
            }
            if let Err(error) = link.send(&question).await {
                return error.to_string();
            }
        }
        std::future::pending().await
    };
    let hear = async {
        loop {
            match link.receive().await {
                Ok((ToAgent::Record { frame }, _)) => {
                    if let Err(full) = record.push(&frame) {
                        return full.to_string();
                    }
                }
                Ok((answer, _)) => match first.try_recv() {
                    Ok(waiter) => drop(waiter.send(answer)),
                    Err(_) => return "the notary answered without being asked".to_owned(),
                },
                Err(ChannelError::Closed) => return "the notary closed its socket".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    };
    tokio::select! {
        why = ask => why,
        why = hear => why,
    }
}
