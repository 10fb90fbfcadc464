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
    /// Its streams.
    pub wires: Wires,
    /// Answers when every process of the call is gone.
    pub exit: oneshot::Receiver<Exit>,
}

/// What a program reads and writes.
#[derive(Debug)]
pub enum Wires {
    /// Three pipes.
    Pipes {
        /// Dropping it is the end of input.
        stdin: pipe::Sender,
        /// Its stdout.
        stdout: pipe::Receiver,
        /// Its stderr.
        stderr: pipe::Receiver,
    },
    /// A terminal.
    Terminal {
        /// What is typed.
        input: pipe::Sender,
        /// What is shown.
        output: pipe::Receiver,
        /// The master, for its size and its characters.
        master: OwnedFd,
    },
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
    started: Option<oneshot::Sender<Result<Vec<OwnedFd>, NotStarted>>>,
    exited: oneshot::Sender<Exit>,
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
                drop(slots.get_mut(&intent)?.started.take()?.send(Ok(descriptors)));
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
        // `exit` stays here: a program that ends at once has its slot removed before it is known to have started.
        let slot = Slot { started: Some(started), exited };
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).insert(intent, slot);
        self.link.send(&ToInit::Start { intent, request }).await?;
        let descriptors = match when_started.await.map_err(|_| ChannelError::Closed)? {
            Ok(descriptors) => descriptors,
            Err(error) => return Ok(Err(error)),
        };
        let wires = wires(descriptors).map_err(|error| {
            ChannelError::System(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
        })?;
        Ok(Ok(Process { wires, exit }))
    }

    /// Sends a signal to the program of one call. One that is over is left alone.
    pub async fn signal(&self, intent: u64, signal: i32) -> Result<(), ChannelError> {
        self.link.send(&ToInit::Signal { intent, signal }).await
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
}

fn wires(mut descriptors: Vec<OwnedFd>) -> std::io::Result<Wires> {
    let unexpected = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    match descriptors.len() {
        1 => {
            let master = descriptors.pop().ok_or_else(unexpected)?;
            // One file for all three: none of them may wait.
            rustix::io::ioctl_fionbio(&master, true)?;
            let input = pipe::Sender::from_owned_fd_unchecked(master.try_clone()?)?;
            let output = pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?;
            Ok(Wires::Terminal { input, output, master })
        }
        3 => {
            let [stdin, stdout, stderr]: [OwnedFd; 3] = descriptors.try_into().map_err(|_| unexpected())?;
            Ok(Wires::Pipes {
                stdin: pipe::Sender::from_owned_fd(stdin)?,
                stdout: pipe::Receiver::from_owned_fd(stdout)?,
                stderr: pipe::Receiver::from_owned_fd(stderr)?,
            })
        }
        _ => Err(unexpected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{self, Wait};
    use crate::frames::start::Cause;
    use std::os::fd::AsFd as _;

    #[tokio::test]
    async fn an_exit_that_comes_right_after_the_start_is_not_lost() {
        let (near, init) = channel::pair::<ToInit, ToAgent>().unwrap();
        let starter = Starter::new(Link::new(near).unwrap());
        tokio::spawn(starter.clone().listen());
        let starting = tokio::spawn(async move { starter.start(7, vec![1]).await });
        tokio::task::spawn_blocking(move || {
            let (ToInit::Start { intent, .. }, _) = init.receive(Wait::Block).unwrap() else { panic!("a start") };
            let ((stdin, stdin_write), (stdout_read, stdout), (stderr_read, stderr)) = (pipe(), pipe(), pipe());
            drop((stdin, stdout, stderr));
            let pipes = [stdin_write.as_fd(), stdout_read.as_fd(), stderr_read.as_fd()];
            init.send(&ToAgent::Started { intent }, &pipes, Wait::Block).unwrap();
            let exit = Exit {
                cause: Cause::Ended,
                code: Some(0),
                signal: None,
                wall_ms: 0,
                user_us: 0,
                system_us: 0,
                max_rss_kib: 0,
            };
            init.send(&ToAgent::Exited { intent, exit }, &[], Wait::Block).unwrap();
            // Both are there before anybody is told of the first.
            init
        })
        .await
        .unwrap();
        let process = starting.await.unwrap().unwrap().unwrap();
        assert_eq!(process.exit.await.unwrap().code, Some(0));
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
    }
}
