//! The link to init as the notary hears it: answers to what it asked, and between them what init says by itself of calls that
//! ended. Whoever waits for an answer keeps what comes before it, in order, for [`super::records`].

use crate::channel::{Channel, ChannelError, Wait};
use crate::frames::warrant::{ToInit, ToNotary};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use thiserror::Error;

/// Words that are kept at most: each call ends once, and far fewer run at once.
const KEPT_MAX: usize = 1024;

/// A message of init and its descriptors.
pub type Word = (ToNotary, Vec<OwnedFd>);

/// What was not heard.
#[derive(Debug, Error)]
pub enum HeardError {
    /// The link failed.
    #[error("the link to init failed")]
    Link(#[from] ChannelError),
    /// Init tells the ends of calls that cannot all have run.
    #[error("expected at most {KEPT_MAX} ends of calls before an answer of init, found more")]
    TooMuch,
}

/// The notary's end of the link.
#[derive(Debug)]
pub struct Init {
    link: Channel<ToInit, ToNotary>,
    kept: RefCell<VecDeque<Word>>,
}

impl Init {
    /// Takes the link over.
    pub fn new(link: Channel<ToInit, ToNotary>) -> Self {
        Self { link, kept: RefCell::default() }
    }

    /// Says or asks something.
    pub fn send(&self, message: &ToInit) -> Result<(), ChannelError> {
        self.link.send(message, &[], Wait::Block)
    }

    /// Waits for the answer to what was asked.
    pub fn answer(&self) -> Result<Word, HeardError> {
        loop {
            let word = self.link.receive(Wait::Block)?;
            match word.0 {
                ToNotary::Recorded { .. } | ToNotary::NotStarted { .. } => {
                    let mut kept = self.kept.borrow_mut();
                    if kept.len() >= KEPT_MAX {
                        return Err(HeardError::TooMuch);
                    }
                    kept.push_back(word);
                }
                ToNotary::Scrubbed { .. } | ToNotary::Opened | ToNotary::NotOpened { .. } => return Ok(word),
            }
        }
    }

    /// What init said next without being asked, if it has.
    pub fn said(&self) -> Result<Option<Word>, ChannelError> {
        if let Some(word) = self.kept.borrow_mut().pop_front() {
            return Ok(Some(word));
        }
        match self.link.receive(Wait::Never) {
            Ok(word) => Ok(Some(word)),
            Err(ChannelError::WouldBlock) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Init {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::channel;
    use crate::frames::observe::Coverage;
    use crate::sealed;

    #[test]
    fn ends_of_calls_before_an_answer_are_kept_in_order_with_their_files() {
        let (init, notary) = channel::pair::<ToNotary, ToInit>().unwrap();
        let notary = Init::new(notary);
        let file = sealed::seal(b"record").unwrap();
        let recorded = ToNotary::Recorded { intent: 3, coverage: Coverage::Whole };
        init.send(&recorded, &[file.as_fd()], Wait::Never).unwrap();
        init.send(&ToNotary::NotStarted { intent: 4 }, &[], Wait::Never).unwrap();
        init.send(&ToNotary::NotOpened { errno: 2 }, &[], Wait::Never).unwrap();
        init.send(&ToNotary::NotStarted { intent: 5 }, &[], Wait::Never).unwrap();
        assert_eq!(notary.answer().unwrap().0, ToNotary::NotOpened { errno: 2 });
        let (first, files) = notary.said().unwrap().unwrap();
        assert_eq!((first, files.len()), (recorded, 1));
        assert_eq!(sealed::read(&files[0], 100).unwrap(), b"record");
        for intent in [4, 5] {
            assert_eq!(notary.said().unwrap().unwrap().0, ToNotary::NotStarted { intent });
        }
        assert!(notary.said().unwrap().is_none());
    }

    #[test]
    fn what_is_kept_has_a_limit() {
        let (init, notary) = channel::pair::<ToNotary, ToInit>().unwrap();
        let notary = Init::new(notary);
        let telling = std::thread::spawn(move || {
            for intent in 0..=KEPT_MAX as u64 {
                init.send(&ToNotary::NotStarted { intent }, &[], Wait::Block).unwrap();
            }
            init
        });
        assert!(matches!(notary.answer(), Err(HeardError::TooMuch)));
        drop(telling.join().unwrap());
    }
}
