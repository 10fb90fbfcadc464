//! The decision about one call.

use std::collections::BTreeSet;

use cedar_policy::{AuthorizationError, Authorizer, PolicyId};

use crate::ask::Ask;
use crate::names::RuleId;
use crate::parse::Policy;

/// The most rules that a decision names: as many as a leaf of the action log holds. With more, the first of them in
/// alphabetical order; all of them can be had again from the text, which is in the evidence.
pub const DECISION_RULES_MAX: usize = 64;

/// Whether a call may begin, and by which rules. Their ids are sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Allowed {
        /// The permits that matched.
        rules: Vec<RuleId>,
    },
    /// It may not.
    Denied {
        /// The rules that deny it; none when it is only that nothing allows it.
        rules: Vec<RuleId>,
        /// Why.
        why: Why,
    },
}

/// Why a call may not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No permit matches.
    NoRule,
    /// A forbid matches.
    Forbidden,
    /// A rule could not be judged, a sum that is too large for example. Nothing is allowed then: it might have been a
    /// forbid.
    RuleFailed,
}

impl Policy {
    /// Decides about one call. Denied is what no permit allows, what a forbid forbids, and everything as long as a rule
    /// cannot be judged.
    #[must_use]
    pub fn decide(&self, ask: &Ask) -> Decision {
        let Some((request, entities)) = ask.question(self.paths()) else {
            return Decision::Denied { rules: Vec::new(), why: Why::RuleFailed };
        };
        let response = Authorizer::new().is_authorized(&request, self.set(), &entities);
        let reasons = sorted(response.diagnostics().reason());
        let failed = sorted(response.diagnostics().errors().map(|error| match error {
            AuthorizationError::PolicyEvaluationError(error) => error.policy_id(),
        }));
        match response.decision() {
            cedar_policy::Decision::Deny if !reasons.is_empty() => {
                Decision::Denied { rules: reasons, why: Why::Forbidden }
            }
            _ if !failed.is_empty() => Decision::Denied { rules: failed, why: Why::RuleFailed },
            cedar_policy::Decision::Allow => Decision::Allowed { rules: reasons },
            cedar_policy::Decision::Deny => Decision::Denied { rules: Vec::new(), why: Why::NoRule },
        }
    }
}

/// The ids as rules have them: the parser gave each policy of the set the id of its rule.
fn sorted<'a>(ids: impl Iterator<Item = &'a PolicyId>) -> Vec<RuleId> {
    let ids: BTreeSet<RuleId> = ids.filter_map(|id| id.to_string().parse().ok()).collect();
    ids.into_iter().take(DECISION_RULES_MAX).collect()
}
