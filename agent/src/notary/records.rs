//! What calls did with files, on its way into their outcomes. It comes from init, never from the agent, which has no say in it: the
//! agent tells how a call ended, and whether it ran at all must fit what init said.

use super::heard::Init;
use super::live::NotaryError;
use crate::frames::observe::{Coverage, RECORD_MAX};
use crate::frames::warrant::ToNotary;
use crate::sealed;
use coffer_evidence::file_record::EncodedRecord;
use coffer_evidence::leaf::CauseClass;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

/// What init said of calls that have no outcome yet, by the index of their intent: as many as calls run at once.
#[derive(Debug, Default)]
pub(super) struct Records(BTreeMap<u64, Said>);

/// How a call ended, as init saw it.
#[derive(Debug)]
enum Said {
    Ran(OwnedFd, Coverage),
    NotStarted,
}

impl Records {
    /// Takes what init has said so far. It says it before the agent hears that the call has ended.
    pub(super) fn hear(&mut self, init: &Init, runs: impl Fn(u64) -> bool) -> Result<(), NotaryError> {
        while let Some(word) = init.said()? {
            let (intent, said) = match word {
                (ToNotary::Recorded { intent, coverage }, mut descriptors) => {
                    let file = descriptors.pop().filter(|_| descriptors.is_empty());
                    let file = file.ok_or_else(|| NotaryError::new("record", "expected one descriptor with it"))?;
                    (intent, Said::Ran(file, coverage))
                }
                (ToNotary::NotStarted { intent }, _) => (intent, Said::NotStarted),
                _ => return Err(NotaryError::new("record", "init said something else")),
            };
            // Without init's word no outcome is taken, so a call that has one cannot end again.
            if !runs(intent) || self.0.insert(intent, said).is_some() {
                return Err(NotaryError::new("record", "init told the end of a call that does not run"));
            }
        }
        Ok(())
    }

    /// The record of a call, for an outcome of this cause; `None` when no program ran.
    pub(super) fn take(
        &mut self,
        intent: u64,
        cause: CauseClass,
    ) -> Result<Option<(EncodedRecord, Coverage)>, NotaryError> {
        let ran = match cause {
            CauseClass::Completed
            | CauseClass::Failed
            | CauseClass::Signalled
            | CauseClass::TimedOut
            | CauseClass::Cancelled
            | CauseClass::OutOfMemory
            | CauseClass::SessionClosing
            | CauseClass::RecordIncomplete => true,
            CauseClass::FailedToStart => false,
            // Whoever tells an outcome has seen the call end, or heard that it was tried.
            CauseClass::NotStarted | CauseClass::OutcomeUnknown => {
                return Err(NotaryError::new("agent", "it tells an end that it cannot know of"));
            }
        };
        match self.0.remove(&intent) {
            Some(Said::Ran(file, coverage)) if ran => match sealed::read(&file, RECORD_MAX) {
                Ok(bytes) => Ok(Some((EncodedRecord::unread(bytes), coverage))),
                Err(errno) => Err(NotaryError::new("record", errno)),
            },
            Some(Said::NotStarted) if !ran => Ok(None),
            _ => Err(NotaryError::new("agent", "it tells an end that is not the one init saw")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::channel::{self, Channel, Wait};
    use crate::frames::warrant::ToInit;
    use coffer_evidence::file_record::FileRecord;
    use std::os::fd::AsFd as _;

    /// Init's end, and the notary's.
    fn link() -> (Channel<ToNotary, ToInit>, Init) {
        let (init, notary) = channel::pair().unwrap();
        (init, Init::new(notary))
    }

    fn told(intents: &[u64], runs: impl Fn(u64) -> bool) -> Result<Records, NotaryError> {
        let (init, notary) = link();
        for intent in intents {
            let file = sealed::seal(EncodedRecord::of(&FileRecord::default()).as_bytes()).unwrap();
            let message = ToNotary::Recorded { intent: *intent, coverage: Coverage::Partial };
            init.send(&message, &[file.as_fd()], Wait::Never).unwrap();
        }
        let mut records = Records::default();
        records.hear(&notary, runs)?;
        Ok(records)
    }

    #[test]
    fn an_outcome_has_the_record_that_init_told_and_none_without() {
        let mut records = told(&[3, 5], |_| true).unwrap();
        let (record, coverage) = records.take(5, CauseClass::Completed).unwrap().unwrap();
        assert_eq!((record.read().unwrap(), coverage), (FileRecord::default(), Coverage::Partial));
        assert!(records.take(5, CauseClass::Completed).is_err(), "a program ran, and nothing was told of it");
        assert!(records.take(3, CauseClass::FailedToStart).is_err(), "a program ran, whatever the agent says");
        for cause in [CauseClass::NotStarted, CauseClass::OutcomeUnknown] {
            assert!(told(&[3], |_| true).unwrap().take(3, cause).is_err(), "{cause:?}");
        }
    }

    #[test]
    fn that_nothing_ran_is_taken_of_init_alone() {
        let mut records = Records::default();
        assert!(records.take(5, CauseClass::FailedToStart).is_err(), "it may be running");
        let (init, notary) = link();
        init.send(&ToNotary::NotStarted { intent: 5 }, &[], Wait::Never).unwrap();
        records.hear(&notary, |_| true).unwrap();
        assert_eq!(records.take(5, CauseClass::FailedToStart), Ok(None));
        init.send(&ToNotary::NotStarted { intent: 6 }, &[], Wait::Never).unwrap();
        records.hear(&notary, |_| true).unwrap();
        assert!(records.take(6, CauseClass::Completed).is_err(), "nothing ran, whatever the agent says");
    }

    #[test]
    fn a_record_of_a_call_that_does_not_run_is_an_error() {
        assert!(told(&[3], |intent| intent != 3).is_err());
        assert!(told(&[3, 3], |_| true).is_err());
        let (init, notary) = link();
        init.send(&ToNotary::Recorded { intent: 1, coverage: Coverage::Whole }, &[], Wait::Never).unwrap();
        assert!(Records::default().hear(&notary, |_| true).is_err(), "without its file");
        init.send(&ToNotary::Opened, &[], Wait::Never).unwrap();
        assert!(Records::default().hear(&notary, |_| true).is_err());
    }
}
