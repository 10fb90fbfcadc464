//! What the agent of one session said on its control connections, in order: held to it when it repeats itself, and kept in
//! the session's directory, so that a control plane that comes back has heard it, too. Framing and orders are not here.

use std::fs::File;
use std::io::Write as _;

use coffer_evidence::ids::{Digest256, SessionId};
use coffer_evidence::link::{Frame as _, ToHost};

use super::evidence::GuestSeal;
use super::machine::Event;
use super::mirror::unframe;
use super::signal::{Opening, Signal};
use super::types::Ending;
use crate::host::session_dir::{Readers, SessionDir};

/// More than the agent says in a life: hello, ready, closing, sealed, failed.
const FRAMES_MAX: usize = 8;
/// All that is kept of it, in bytes: quotes, an event log and maps take a tenth of this.
const KEPT_MAX: u64 = 1024 * 1024;
/// Name of the file: `u32le length ‖ frame`, one after the other.
const SAID: &str = "said";

/// The agent's words so far.
#[derive(Debug)]
pub(crate) struct Conversation {
    session: SessionId,
    said: Vec<Digest256>,
    /// Heard by an earlier life of this process and not yet by this one.
    earlier: Vec<Vec<u8>>,
    ready: bool,
    /// None when it cannot be kept any more: the agent can still repeat it.
    file: Option<File>,
    /// Length of the file.
    kept: u64,
}

impl Conversation {
    /// Nothing is said yet; the file is made.
    pub(crate) fn begin(session: SessionId, dir: &SessionDir) -> std::io::Result<Self> {
        let file = dir.create_file(SAID, Readers::Host)?;
        Ok(Self { session, said: Vec::new(), earlier: Vec::new(), ready: false, file: Some(file), kept: 0 })
    }

    /// As an earlier life of this process left it. Half a frame at the end is dropped: the agent repeats it.
    pub(crate) fn resume(session: SessionId, dir: &SessionDir) -> std::io::Result<Self> {
        let (file, bytes) = dir.reopen(SAID)?;
        let earlier = unframe(&bytes);
        let kept = earlier.iter().map(|frame| frame.len() as u64 + 4).sum();
        file.set_len(kept)?;
        Ok(Self { session, said: Vec::new(), earlier, ready: false, file: Some(file), kept })
    }

    /// The seal that an earlier life of this process heard, if any.
    pub(crate) fn kept_seal(dir: &SessionDir) -> std::io::Result<Option<GuestSeal>> {
        let (_, bytes) = dir.reopen(SAID)?;
        Ok(unframe(&bytes).iter().find_map(|frame| match ToHost::decode(frame) {
            Ok(ToHost::Sealed { seal_map, seal_quote, statement }) => {
                Some(GuestSeal { map: seal_map, quote: seal_quote, statement })
            }
            _ => None,
        }))
    }

    /// For tests and fuzzing, which keep nothing.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn unkept(session: SessionId) -> Self {
        Self { session, said: Vec::new(), earlier: Vec::new(), ready: false, file: None, kept: 0 }
    }

    /// Whether anything was said.
    pub(crate) fn has_begun(&self) -> bool {
        !self.said.is_empty()
    }

    /// What an earlier life of this process heard, as this one hears it.
    pub(crate) fn recall(&mut self) -> Result<Vec<Signal>, String> {
        let mut signals = Vec::new();
        for frame in std::mem::take(&mut self.earlier) {
            signals.extend(self.hear(&frame)?);
        }
        Ok(signals)
    }

    /// Takes the frame at this place of a connection: nothing when it is a repetition.
    pub(crate) fn take(&mut self, place: usize, frame: &[u8]) -> Result<Option<Signal>, String> {
        if let Some(known) = self.said.get(place) {
            let same = *known == Digest256::of(frame);
            return if same { Ok(None) } else { Err("the agent said something else than before".to_owned()) };
        }
        let signal = self.hear(frame)?;
        self.keep(frame);
        Ok(signal)
    }

    /// A new word.
    fn hear(&mut self, frame: &[u8]) -> Result<Option<Signal>, String> {
        if self.said.len() >= FRAMES_MAX {
            return Err(format!("the agent said more than {FRAMES_MAX} things"));
        }
        let message = ToHost::decode(frame).map_err(|error| error.to_string())?;
        let place = self.said.len();
        self.said.push(Digest256::of(frame));
        let signal = match (place, message) {
            (0, ToHost::Hello { session, .. }) if session == self.session => return Ok(None),
            (0, ToHost::Hello { session, .. }) => return Err(format!("the guest says that it is session {session}")),
            // One that refuses its configuration knows no session to say hello for.
            (_, ToHost::Failed { stage, detail }) => Signal::Event(Event::GuestFailed(printable(&stage, &detail))),
            (0, _) => return Err("expected the agent's hello first".to_owned()),
            (_, ToHost::Hello { .. }) => return Err("the agent said hello twice".to_owned()),
            (_, ToHost::Ready { .. }) if self.ready => return Err("the agent said ready twice".to_owned()),
            (_, ToHost::Ready { open_map, opening_quote, ccel }) => {
                self.ready = true;
                Signal::Opened(Opening { open_map, quote: opening_quote, ccel })
            }
            (_, ToHost::Closing { reason, closed_by }) => {
                Signal::Event(Event::GuestClosing(Ending { reason, closed_by }))
            }
            (_, ToHost::Sealed { .. }) if !self.ready => return Err("sealed before it was ready".to_owned()),
            (_, ToHost::Sealed { seal_map, seal_quote, statement }) => {
                Signal::Sealed(GuestSeal { map: seal_map, quote: seal_quote, statement })
            }
        };
        Ok(Some(signal))
    }

    /// Before anybody acts on it. One that cannot be kept must be repeated to a control plane that comes back.
    fn keep(&mut self, frame: &[u8]) {
        let Some(file) = &mut self.file else { return };
        // Frames are below the cap of the connection's codec, which is a u32.
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let framed = [&length.to_le_bytes(), frame].concat();
        self.kept = self.kept.saturating_add(framed.len() as u64);
        let written = if self.kept > KEPT_MAX {
            Err(std::io::Error::other(format!("it is more than {KEPT_MAX} bytes")))
        } else {
            file.write_all(&framed)
        };
        if let Err(error) = written {
            tracing::warn!(session = %self.session, %error, "what the agent says cannot be kept for a restart");
            self.file = None;
        }
    }
}

/// The agent's words, without what a terminal would obey.
fn printable(stage: &str, detail: &str) -> String {
    format!("{stage}: {detail}").chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_evidence::seal::{ClosedBy, Reason};

    const SESSION: SessionId = SessionId::new([5; 16]);

    fn words() -> Vec<ToHost> {
        vec![
            ToHost::Hello { session: SESSION, agent_svn: 1 },
            ToHost::Ready { open_map: vec![1], opening_quote: vec![2], ccel: None },
            ToHost::Closing { reason: Reason::TtlExpired, closed_by: ClosedBy::Agent },
            ToHost::Sealed { seal_map: vec![3], seal_quote: vec![4], statement: vec![5] },
        ]
    }

    fn said(words: &[ToHost]) -> (tempfile::TempDir, SessionDir) {
        let root = tempfile::tempdir().expect("a directory");
        let dir = SessionDir::at(root.path(), SESSION, None);
        dir.create().expect("create");
        let mut conversation = Conversation::begin(SESSION, &dir).expect("begin");
        for (place, word) in words.iter().enumerate() {
            conversation.take(place, &word.encode()).expect("taken");
        }
        (root, dir)
    }

    #[test]
    fn what_was_said_before_a_restart_is_heard_again_once_and_held_against_the_agent() {
        let (_root, dir) = said(&words());
        let mut resumed = Conversation::resume(SESSION, &dir).expect("resume");
        let recalled = resumed.recall().expect("recalled");
        assert!(
            matches!(&recalled[..], [Signal::Opened(_), Signal::Event(Event::GuestClosing(_)), Signal::Sealed(_)]),
            "{recalled:?}"
        );
        assert!(resumed.has_begun());
        for (place, word) in words().iter().enumerate() {
            assert!(matches!(resumed.take(place, &word.encode()), Ok(None)), "{word:?} is a repetition");
        }
        let other = ToHost::Ready { open_map: vec![9], opening_quote: vec![2], ccel: None };
        assert!(resumed.take(1, &other.encode()).is_err());
        assert_eq!(Conversation::kept_seal(&dir).expect("read").map(|seal| seal.map), Some(vec![3]));
        // And once more: a second restart finds the same.
        let again = Conversation::resume(SESSION, &dir).expect("resume").recall().expect("recalled");
        assert_eq!(again.len(), recalled.len());
    }

    #[test]
    fn half_a_word_is_said_again_and_kept_whole() {
        let (_root, dir) = said(&words()[..2]);
        let path = dir.join(SAID);
        let whole = std::fs::read(&path).expect("read");
        std::fs::write(&path, &whole[..whole.len() - 1]).expect("cut");
        let mut resumed = Conversation::resume(SESSION, &dir).expect("resume");
        assert!(resumed.recall().expect("recalled").is_empty(), "a hello says nothing new");
        let ready = words().remove(1).encode();
        assert!(matches!(resumed.take(1, &ready), Ok(Some(Signal::Opened(_)))));
        assert_eq!(std::fs::read(&path).expect("read"), whole);
        assert_eq!(Conversation::kept_seal(&dir).expect("read"), None);
    }

    #[test]
    fn what_is_kept_has_a_limit_and_the_agent_can_still_be_heard() {
        let (_root, dir) = said(&words()[..1]);
        let mut conversation = Conversation::resume(SESSION, &dir).expect("resume");
        conversation.recall().expect("recalled");
        let large = ToHost::Ready { open_map: vec![0; 1 << 20], opening_quote: vec![2], ccel: None };
        assert!(matches!(conversation.take(1, &large.encode()), Ok(Some(Signal::Opened(_)))));
        conversation.take(2, &words()[2].encode()).expect("heard");
        let kept = std::fs::read(dir.join(SAID)).expect("read");
        assert_eq!(unframe(&kept).len(), 1, "a later word is not kept in the place of a missing one");
    }

    #[test]
    fn an_agent_says_no_more_than_its_limit() {
        let mut conversation = Conversation::unkept(SESSION);
        conversation.take(0, &words()[0].encode()).expect("hello");
        let closing = words()[2].encode();
        for place in 1..FRAMES_MAX {
            conversation.take(place, &closing).expect("below the limit");
        }
        let refused = conversation.take(FRAMES_MAX, &closing).expect_err("one too many");
        assert!(refused.contains("more than 8"), "{refused}");
    }
}
