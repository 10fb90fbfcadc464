//! What an identity of a session may do. Pure: no I/O, no clock, no async.
//!
//! A policy is one text in the language Cedar over the domain of `domain.cedarschema`. From it come two things: the
//! *decision* about one call ([`Policy::decide`]), and the *grants* that the kernel is told for all processes of an
//! identity ([`Policy::grants`]). What the two could not agree on is refused when the text is parsed. The language is
//! explained in `docs/policy.md`.
//!
//! ```text
//!  text ─ parse ─> Policy ──┬─ decide(ask)     ─> Allowed{rules} | Denied{rules, why}     one call, by the agent
//!           │               ├─ grants(identity) ─> paths and access                        its processes, by the kernel
//!           ▼               └─ explain(ask)    ─> which rules matched, which did not      for people
//!        Problems
//! ```
//!
//! It is not the enforcement: the agent refuses calls by it, the kernel refuses the rest by the grants.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod action;
mod ask;
mod bounds;
mod counters;
mod decide;
mod domain;
mod explain;
mod grants;
mod names;
mod parse;
mod paths;
mod problem;
mod rules;
mod scan;
pub mod texts;
mod warnings;

pub use action::{Action, Kind};
pub use ask::{Ask, AskError, Resource};
pub use counters::{Counters, IDENTITIES_MAX, Run, Usage};
pub use decide::{DECISION_RULES_MAX, Decision, Why};
pub use explain::{Clause, Explained, Explanation, Match};
pub use grants::{Access, Grant, Reach};
pub use names::{IdentityName, NameError, RuleId};
pub use parse::{DEPTH_MAX, POLICY_MAX, Policy, RULE_WORDS_MAX, RULES_MAX};
pub use paths::{AbsolutePath, JOINED_MAX, PATH_MAX, PathError};
pub use problem::{PROBLEMS_MAX, Place, Problem, Problems};
pub use rules::{Condition, Effect, Rule};
