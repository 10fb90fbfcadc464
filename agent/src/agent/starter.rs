//! The agent's side of the link to init: starts calls by the index of their intent and hears how they ended.

use super::link::Link;
use crate::channel::ChannelError;
use crate::frames::start::{Exit, ToAgent, ToInit};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

/// Starts and ends calls.
#[derive(Debug, Clone)]
pub struct Starter {
    link: Arc<Link<ToInit, ToAgent>>,
    slots: Arc<Mutex<HashMap<u64, Slot>>>,
}

/// A started program.
#[derive(Debug)]
pub struct Process {
    /// Its stdin; dropping it is the end of input.
    pub stdin: pipe::Sender,
    /// Its stdout.
    pub stdout: pipe::Receiver,
    /// Its stderr.
    pub stderr: pipe::Receiver,
    /// Answers when every process of the call is gone.
    pub exit: oneshot::Receiver<Exit>,
}

/// A program that did not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotStarted {
    /// Word of `spawn::Stage`.
    pub stage: String,
    /// The system's answer.
    pub errno: i32,
}

/// Why the machine is about to end, in init's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal {
    /// What was being done.
    pub stage: String,
    /// What went wrong.
    pub detail: String,
}

#[derive(Debug)]
struct Slot {
    started: Option<oneshot::Sender<Result<[OwnedFd; 3], NotStarted>>>,
    exited: oneshot::Sender<Exit>,
    exit: Option<oneshot::Receiver<Exit>>,
}

impl Starter {
    /// Wraps the link; [`Starter::listen`] must run beside it.
    pub fn new(link: Link<ToInit, ToAgent>) -> Self {
        Self { link: Arc::new(link), slots: Arc::default() }
    }

    /// Hands init's messages to whom they concern. Ends with the reason why init cannot be used any more.
    pub async fn listen(self) -> Fatal {
        let lost = |detail: String| Fatal { stage: "init".into(), detail };
        loop {
            match self.link.receive().await {
                Ok((ToAgent::Fatal { stage, detail }, _)) => return Fatal { stage, detail },
                Ok((message, descriptors)) => {
                    if self.deliver(message, descriptors).is_none() {
                        return lost("init spoke of a call that does not exist".into());
                    }
                }
                Err(error) => return lost(error.to_string()),
            }
        }
    }

    fn deliver(&self, message: ToAgent, descriptors: Vec<OwnedFd>) -> Option<()> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waited may be gone; that is its own affair.
        match message {
            ToAgent::Started { intent } => {
                let pipes: [OwnedFd; 3] = descriptors.try_into().ok()?;
                drop(slots.get_mut(&intent)?.started.take()?.send(Ok(pipes)));
            }
            ToAgent::NotStarted { intent, stage, errno } => {
                let errno = i32::try_from(errno).ok()?;
                drop(slots.remove(&intent)?.started.take()?.send(Err(NotStarted { stage, errno })));
            }
            ToAgent::Exited { intent, exit } => drop(slots.remove(&intent)?.exited.send(exit)),
            ToAgent::Fatal { .. } => return None,
        }
        Some(())
    }

    /// Starts the call that was logged under this index.
    pub async fn start(&self, intent: u64, request: Vec<u8>) -> Result<Result<Process, NotStarted>, ChannelError> {
        let (started, when_started) = oneshot::channel();
        let (exited, exit) = oneshot::channel();
        let slot = Slot { started: Some(started), exited, exit: Some(exit) };
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).insert(intent, slot);
        self.link.send(&ToInit::Start { intent, request }).await?;
        let pipes = match when_started.await.map_err(|_| ChannelError::Closed)? {
            Ok(pipes) => pipes,
            Err(error) => return Ok(Err(error)),
        };
        let exit = self.take_exit(intent).ok_or(ChannelError::Closed)?;
        let process = process(pipes, exit).map_err(|error| {
            ChannelError::System(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
        })?;
        Ok(Ok(process))
    }

    /// Asks for the end of one call. One that is over is left alone.
    pub async fn cancel(&self, intent: u64) -> Result<(), ChannelError> {
        self.link.send(&ToInit::Cancel { intent }).await
    }

    /// Asks for the end of every call, now and later.
    pub async fn end_calls(&self) -> Result<(), ChannelError> {
        self.link.send(&ToInit::EndCalls).await
    }

    /// Asks for the end of the machine.
    pub async fn power_off(&self) -> Result<(), ChannelError> {
        self.link.send(&ToInit::PowerOff).await
    }

    /// The receiver waits in the slot, so that an exit that comes at once is not lost.
    fn take_exit(&self, intent: u64) -> Option<oneshot::Receiver<Exit>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get_mut(&intent)?.exit.take()
    }
}

fn process([stdin, stdout, stderr]: [OwnedFd; 3], exit: oneshot::Receiver<Exit>) -> std::io::Result<Process> {
    Ok(Process {
        stdin: pipe::Sender::from_owned_fd(stdin)?,
        stdout: pipe::Receiver::from_owned_fd(stdout)?,
        stderr: pipe::Receiver::from_owned_fd(stderr)?,
        exit,
    })
}
