//! The doors for fuzzing: what reads the words of a hostile guest, without sockets and tasks.

use std::io;
use std::path::Path;

use coffer_evidence::ids::SessionId;

use crate::host::session_dir::SessionDir;
use crate::session::conversation::Conversation;
use crate::session::machine::Event;
use crate::session::mirror::{MirrorStore, Record, Telling};
use crate::session::signal::Signal;

/// What a control frame made known to the owner task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing: a hello, or a repetition.
    Nothing,
    /// The opening.
    Opened,
    /// That the agent closes.
    Closing,
    /// The seal.
    Sealed,
    /// That the agent failed, in words that reach a terminal.
    Failed(String),
}

/// The control connections of one session.
pub struct Control(Conversation);

impl Control {
    /// Of this session.
    #[must_use]
    pub fn new(session: [u8; 16]) -> Self {
        Self(Conversation::unkept(SessionId::new(session)))
    }

    /// The frame at this place of a connection.
    ///
    /// # Errors
    /// The violation, in words.
    pub fn take(&mut self, place: usize, frame: &[u8]) -> Result<Heard, String> {
        Ok(match self.0.take(place, frame)? {
            None => Heard::Nothing,
            Some(Signal::Opened(_)) => Heard::Opened,
            Some(Signal::Sealed(_)) => Heard::Sealed,
            Some(Signal::Event(Event::GuestClosing(_))) => Heard::Closing,
            Some(Signal::Event(Event::GuestFailed(words))) => Heard::Failed(words),
            Some(other) => unreachable!("a frame of the guest became {other:?}"),
        })
    }
}

/// The record mirror of one session.
pub struct Mirrored {
    dir: SessionDir,
    store: MirrorStore,
    telling: Telling,
}

/// The record as it is read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Leaves in order.
    pub leaves: Vec<Vec<u8>>,
    /// Private parts: index, salt, bytes.
    pub private: Vec<(u64, [u8; 32], Vec<u8>)>,
    /// RTMR3 events in order.
    pub events: Vec<Vec<u8>>,
    /// The last note, where it is text.
    pub note: Option<String>,
}

impl Mirrored {
    /// In a session directory that is made below `sessions`.
    ///
    /// # Errors
    /// When the files cannot be made.
    pub fn create(sessions: &Path, leaves_max: u64) -> io::Result<Self> {
        let dir = SessionDir::at(sessions, SessionId::new([1; 16]), None);
        dir.create()?;
        Ok(Self { store: MirrorStore::create(dir.clone(), leaves_max)?, dir, telling: Telling::default() })
    }

    /// The guest comes back and starts from the beginning.
    pub fn reconnect(&mut self) {
        self.telling = Telling::default();
    }

    /// One frame; how many leaves and events are here after it.
    ///
    /// # Errors
    /// The violation, in words.
    pub fn accept(&mut self, frame: &[u8]) -> Result<(u64, u64), String> {
        let progress = self.store.accept(&mut self.telling, frame).map_err(|error| error.to_string())?;
        Ok((progress.leaves, progress.events))
    }

    /// What would go into a bundle.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn read(&self) -> io::Result<Told> {
        let record = Record::read(&self.dir)?;
        let private = record.private.into_iter().map(|part| (part.index, part.salt, part.bytes)).collect();
        Ok(Told { leaves: record.leaves, private, events: record.events, note: record.note })
    }
}
