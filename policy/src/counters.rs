//! What each identity has done in the session so far: state beside the policy, which budgets are written over.
//!
//! A budget is checked when a call begins. It stops the next call, not the one that runs; how long that may run and how
//! much it may put out is a limit of the call itself.

use std::collections::BTreeMap;

use crate::names::IdentityName;

/// The most identities that are counted: those of a session.
pub const IDENTITIES_MAX: usize = 256;

/// The counters of one identity, as a policy sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Calls that were allowed and have begun.
    pub calls: u64,
    /// Those of them that have not ended.
    pub running: u64,
    /// Run time of the calls that have ended, whole seconds.
    pub seconds: u64,
    /// Bytes that calls were given: stdin, files written, trees uploaded.
    pub input_bytes: u64,
    /// Bytes that calls put out: stdout and stderr, files read, trees downloaded; delivered or not.
    pub output_bytes: u64,
}

/// What one call that has ended took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// How long it ran, in milliseconds.
    pub milliseconds: u64,
    /// Bytes that it was given.
    pub input_bytes: u64,
    /// Bytes that it put out.
    pub output_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    calls: u64,
    running: u64,
    milliseconds: u64,
    input_bytes: u64,
    output_bytes: u64,
}

/// The counters of a session. They only grow, but for the calls that run, and stay at their largest value.
#[derive(Clone, Debug, Default)]
pub struct Counters(BTreeMap<IdentityName, Counted>);

impl Counters {
    /// Zero for each of these identities; for no others, and for at most [`IDENTITIES_MAX`].
    #[must_use]
    pub fn new(identities: impl IntoIterator<Item = IdentityName>) -> Self {
        Self(identities.into_iter().take(IDENTITIES_MAX).map(|name| (name, Counted::default())).collect())
    }

    /// What a call that is asked for now is judged by. Zero for an identity that is not counted.
    #[must_use]
    pub fn of(&self, identity: &IdentityName) -> Usage {
        let counted = self.0.get(identity).copied().unwrap_or_default();
        Usage {
            calls: counted.calls,
            running: counted.running,
            seconds: counted.milliseconds / 1000,
            input_bytes: counted.input_bytes,
            output_bytes: counted.output_bytes,
        }
    }

    /// A call was allowed.
    pub fn began(&mut self, identity: &IdentityName) {
        if let Some(counted) = self.0.get_mut(identity) {
            counted.calls = counted.calls.saturating_add(1);
            counted.running = counted.running.saturating_add(1);
        }
    }

    /// A call that began has ended.
    pub fn ended(&mut self, identity: &IdentityName, run: Run) {
        if let Some(counted) = self.0.get_mut(identity) {
            counted.running = counted.running.saturating_sub(1);
            counted.milliseconds = counted.milliseconds.saturating_add(run.milliseconds);
            counted.input_bytes = counted.input_bytes.saturating_add(run.input_bytes);
            counted.output_bytes = counted.output_bytes.saturating_add(run.output_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> IdentityName {
        text.parse().unwrap()
    }

    #[test]
    fn a_call_counts_when_it_begins_and_what_it_took_when_it_ends() {
        let (coder, tester) = (name("coder"), name("tester"));
        let mut counters = Counters::new([coder.clone(), tester.clone()]);
        counters.began(&coder);
        counters.began(&coder);
        assert_eq!(counters.of(&coder), Usage { calls: 2, running: 2, ..Usage::default() });
        counters.ended(&coder, Run { milliseconds: 1999, input_bytes: 3, output_bytes: 4 });
        let one = Usage { calls: 2, running: 1, seconds: 1, input_bytes: 3, output_bytes: 4 };
        assert_eq!(counters.of(&coder), one);
        // Parts of a second are kept.
        counters.ended(&coder, Run { milliseconds: 1, ..Run::default() });
        assert_eq!(counters.of(&coder), Usage { running: 0, seconds: 2, ..one });
        assert_eq!(counters.of(&tester), Usage::default());
    }

    #[test]
    fn counters_stay_at_their_ends_and_count_nobody_else() {
        let coder = name("coder");
        let mut counters = Counters::new([coder.clone()]);
        counters.ended(&coder, Run { milliseconds: u64::MAX, input_bytes: u64::MAX, output_bytes: u64::MAX });
        counters.ended(&coder, Run { milliseconds: 1, input_bytes: 1, output_bytes: 1 });
        let most =
            Usage { seconds: u64::MAX / 1000, input_bytes: u64::MAX, output_bytes: u64::MAX, ..Usage::default() };
        assert_eq!(counters.of(&coder), most);
        counters.began(&name("other"));
        assert_eq!(counters.of(&name("other")), Usage::default());
    }

    #[test]
    fn identities_end_at_their_limit() {
        let names: Vec<_> = (0..=IDENTITIES_MAX).map(|n| name(&format!("i{n}"))).collect();
        let mut counters = Counters::new(names.clone());
        names.iter().for_each(|name| counters.began(name));
        let counted = names.iter().filter(|name| counters.of(name).calls == 1).count();
        assert_eq!(counted, IDENTITIES_MAX);
    }
}
