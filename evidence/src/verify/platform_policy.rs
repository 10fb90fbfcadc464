//! What an appraisal policy says about the platform behind a verified quote: TCB status and its grace, advisories, edition of
//! Intel's TCB data, and how the platform is set up. One judgement for quotes in bundles (R19) and for quotes alone.

use serde::Deserialize;

use super::dates::date;
use super::endorsed::VerifiedQuote;

/// Seconds of a day.
const DAY: u64 = 24 * 60 * 60;
/// The longest grace in days.
pub(super) const GRACE_DAYS_MAX: u64 = 3_650;

/// Intel's names for how current a platform's TCB is. `Revoked` is missing: it is refused before any policy is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[expect(missing_docs, reason = "Intel's own names")]
pub enum TcbStatus {
    UpToDate,
    SWHardeningNeeded,
    ConfigurationNeeded,
    ConfigurationAndSWHardeningNeeded,
    OutOfDate,
    OutOfDateConfigurationNeeded,
    TDRelaunchAdvised,
    TDRelaunchAdvisedConfigurationNeeded,
}

impl TcbStatus {
    /// What the status would be were the TCB not out of date; none of one that is not.
    const fn forgiven(self) -> Option<Self> {
        match self {
            Self::OutOfDate => Some(Self::UpToDate),
            Self::OutOfDateConfigurationNeeded => Some(Self::ConfigurationNeeded),
            Self::UpToDate
            | Self::SWHardeningNeeded
            | Self::ConfigurationNeeded
            | Self::ConfigurationAndSWHardeningNeeded
            | Self::TDRelaunchAdvised
            | Self::TDRelaunchAdvisedConfigurationNeeded => None,
        }
    }
}

impl std::fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// A fact about a platform that its PCK certificate states, or leaves open: certificates of the processor CA do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Stated {
    Yes,
    No,
    NotStated,
}

/// How a platform is set up, as its PCK certificate states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlatformConfiguration {
    /// More than one processor package may be in it, and packages may change.
    pub dynamic_platform: Stated,
    /// Its keys are kept by the registration service.
    pub cached_keys: Stated,
    /// Simultaneous multithreading is on.
    pub smt: Stated,
}

/// Whether a platform may be so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Allowed {
    Yes,
    No,
}

/// What a policy asks of platforms. The default accepts an up-to-date platform of any set-up: those of the large clouds are
/// dynamic, cache their keys and run with SMT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlatformPolicy {
    /// Accepted TCB statuses.
    pub tcb_statuses: Vec<TcbStatus>,
    /// For how many days after the date of its TCB level a platform that is out of date counts as if it were not.
    pub tcb_grace_days: u64,
    /// Lowest TCB evaluation data number of the collateral.
    pub minimum_evaluation_data_number: Option<u64>,
    /// Intel's advisories (`INTEL-SA-...`) that must not apply.
    pub refused_advisories: Vec<String>,
    /// Dynamic platforms.
    pub dynamic_platform: Allowed,
    /// Cached keys.
    pub cached_keys: Allowed,
    /// SMT.
    pub smt: Allowed,
}

impl Default for PlatformPolicy {
    fn default() -> Self {
        Self {
            tcb_statuses: vec![TcbStatus::UpToDate],
            tcb_grace_days: 0,
            minimum_evaluation_data_number: None,
            refused_advisories: Vec::new(),
            dynamic_platform: Allowed::Yes,
            cached_keys: Allowed::Yes,
            smt: Allowed::Yes,
        }
    }
}

/// How one question about the platform is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Answer {
    Accepted(String),
    Refused(String),
    /// The policy does not ask.
    NotAsked,
}

impl PlatformPolicy {
    /// Every question, by the name of its row, over one quote. `at` is unix seconds and matters for the grace alone.
    #[must_use]
    pub fn judge(&self, quote: &VerifiedQuote, at: u64) -> [(&'static str, Answer); 4] {
        [
            ("TCB status", self.status(quote, at)),
            ("TCB evaluation data number", self.evaluation_data_number(quote)),
            ("advisories", self.advisories(quote)),
            ("platform configuration", self.configuration(quote.configuration())),
        ]
    }

    fn status(&self, quote: &VerifiedQuote, at: u64) -> Answer {
        let status = quote.tcb_status();
        if self.tcb_statuses.contains(&status) {
            return Answer::Accepted(status.to_string());
        }
        let end = quote.tcb_date().saturating_add(self.tcb_grace_days.saturating_mul(DAY));
        match status.forgiven().filter(|forgiven| self.tcb_grace_days > 0 && self.tcb_statuses.contains(forgiven)) {
            Some(_) if at <= end => Answer::Accepted(format!("{status}, within its grace until {}", date(end))),
            Some(_) => Answer::Refused(format!("{status}, and its grace ended {}", date(end))),
            None => Answer::Refused(format!("{status} is not an accepted status")),
        }
    }

    fn evaluation_data_number(&self, quote: &VerifiedQuote) -> Answer {
        let found = quote.evaluation_data_number();
        match self.minimum_evaluation_data_number {
            None => Answer::NotAsked,
            Some(wanted) if u64::from(found) >= wanted => Answer::Accepted(found.to_string()),
            Some(wanted) => Answer::Refused(format!("at least {wanted} is asked for, found {found}")),
        }
    }

    fn advisories(&self, quote: &VerifiedQuote) -> Answer {
        if self.refused_advisories.is_empty() {
            return Answer::NotAsked;
        }
        let refused = |id: &&String| self.refused_advisories.iter().any(|refused| refused.eq_ignore_ascii_case(id));
        match quote.advisories().iter().find(refused) {
            Some(id) => Answer::Refused(format!("{id} applies to the platform, and is refused")),
            None => Answer::Accepted(String::new()),
        }
    }

    fn configuration(&self, found: PlatformConfiguration) -> Answer {
        let questions = [
            ("a dynamic platform", self.dynamic_platform, found.dynamic_platform),
            ("cached keys", self.cached_keys, found.cached_keys),
            ("SMT", self.smt, found.smt),
        ];
        if questions.iter().all(|(_, allowed, _)| *allowed == Allowed::Yes) {
            return Answer::NotAsked;
        }
        for (what, allowed, stated) in questions {
            match (allowed, stated) {
                (Allowed::Yes, _) | (Allowed::No, Stated::No) => {}
                (Allowed::No, Stated::Yes) => return Answer::Refused(format!("{what} is not allowed")),
                (Allowed::No, Stated::NotStated) => {
                    return Answer::Refused(format!(
                        "{what} is not allowed, and the PCK certificate does not state it"
                    ));
                }
            }
        }
        Answer::Accepted(String::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_up_is_refused_when_it_is_stated_or_left_open_and_not_allowed() {
        let found = |dynamic_platform| PlatformConfiguration {
            dynamic_platform,
            cached_keys: Stated::NotStated,
            smt: Stated::Yes,
        };
        let closed = PlatformPolicy { dynamic_platform: Allowed::No, ..PlatformPolicy::default() };
        assert!(matches!(closed.configuration(found(Stated::No)), Answer::Accepted(_)));
        assert!(matches!(closed.configuration(found(Stated::Yes)), Answer::Refused(why) if why.contains("dynamic")));
        assert!(
            matches!(closed.configuration(found(Stated::NotStated)), Answer::Refused(why) if why.contains("does not state"))
        );
        let keys = PlatformPolicy { cached_keys: Allowed::No, ..PlatformPolicy::default() };
        assert!(matches!(keys.configuration(found(Stated::No)), Answer::Refused(why) if why.contains("cached keys")));
        let smt = PlatformPolicy { smt: Allowed::No, ..PlatformPolicy::default() };
        assert!(matches!(smt.configuration(found(Stated::No)), Answer::Refused(why) if why.contains("SMT")));
        assert_eq!(PlatformPolicy::default().configuration(found(Stated::Yes)), Answer::NotAsked);
    }

    #[test]
    fn only_what_is_out_of_date_can_be_forgiven() {
        assert_eq!(TcbStatus::OutOfDate.forgiven(), Some(TcbStatus::UpToDate));
        assert_eq!(TcbStatus::OutOfDateConfigurationNeeded.forgiven(), Some(TcbStatus::ConfigurationNeeded));
        for status in [
            TcbStatus::UpToDate,
            TcbStatus::SWHardeningNeeded,
            TcbStatus::ConfigurationNeeded,
            TcbStatus::ConfigurationAndSWHardeningNeeded,
            TcbStatus::TDRelaunchAdvised,
            TcbStatus::TDRelaunchAdvisedConfigurationNeeded,
        ] {
            assert_eq!(status.forgiven(), None, "{status}");
        }
    }

    /// Of the TCB level of 2026-01-01.
    fn quote(status: &'static str) -> VerifiedQuote {
        use crate::fixtures::platform::{Dates, PCK_DER, ROOT_DER, Tcb, Td, collateral, quote_with_chain};
        use crate::verify::{Moment, Padding, TrustAnchor, verify_quote};
        let bytes = quote_with_chain(&Td::default(), &[7; 64], PCK_DER, ROOT_DER);
        let set = collateral(Dates::NOVEMBER, Tcb { status, ..Tcb::UP_TO_DATE });
        verify_quote(&bytes, &set, &[TrustAnchor::Simulated], Moment::AsOf, Padding::None).expect("genuine")
    }

    #[test]
    fn grace_is_for_what_would_be_accepted_up_to_date_and_only_where_it_is_given() {
        const LEVEL: u64 = 1_767_225_600;
        let late = quote("OutOfDate");
        assert_eq!(late.tcb_date(), LEVEL);
        let status = |policy: &PlatformPolicy, quote: &VerifiedQuote, at| policy.judge(quote, at)[0].1.clone();
        let refused = |answer: &Answer, why: &str| matches!(answer, Answer::Refused(told) if told.contains(why));
        let strict = PlatformPolicy { tcb_grace_days: 0, ..PlatformPolicy::default() };
        for at in [0, LEVEL, LEVEL + 1] {
            let answer = status(&strict, &late, at);
            assert!(refused(&answer, "OutOfDate is not an accepted status"), "{at}: {answer:?}");
        }
        let patient = PlatformPolicy { tcb_grace_days: 10, ..PlatformPolicy::default() };
        assert!(matches!(status(&patient, &late, LEVEL + 10 * DAY), Answer::Accepted(_)));
        assert!(refused(&status(&patient, &late, LEVEL + 10 * DAY + 1), "its grace ended"));
        // Up to date it would still need a configuration that the policy does not accept.
        let worse = quote("OutOfDateConfigurationNeeded");
        assert!(refused(&status(&patient, &worse, LEVEL), "is not an accepted status"));
    }
}
