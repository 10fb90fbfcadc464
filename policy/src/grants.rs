//! What the kernel is told: which paths the processes of an identity may read, write, delete beneath and execute. Derived
//! from the scopes of the rules alone, so that a person can read it off the text.
//!
//! ```text
//!  permit, no condition, file.*   ─> Read, Write, Delete on its paths
//!  permit, no condition, exec     ─> Execute on its paths
//!  permit, a condition,  file.*   ─> nothing: the built-in calls alone may use it
//!  permit, a condition,  exec     ─> Execute all the same: the condition was judged on the call's argv, and a kernel
//!                                    that refused the file would refuse the call that was allowed
//!  forbid, no condition           ─> drops what its paths cover; a smaller one is refused (`bounds`)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::action::Action;
use crate::names::IdentityName;
use crate::parse::Policy;
use crate::paths::AbsolutePath;
use crate::rules::{Condition, Effect, Region, Rule};

/// What a process may do to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Read files, list directories.
    Read,
    /// Make files and directories, change files.
    Write,
    /// Remove files and directories.
    Delete,
    /// Execute files.
    Execute,
}

impl Access {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Execute => "execute",
        }
    }

    /// The action whose permits give it.
    #[must_use]
    pub const fn action(self) -> Action {
        match self {
            Self::Read => Action::FileRead,
            Self::Write => Action::FileWrite,
            Self::Delete => Action::FileDelete,
            Self::Execute => Action::Exec,
        }
    }

    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Delete, Self::Execute];
}

/// How far a grant goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// The one path (`resource == …`). Landlock gives what it gives on a directory to all beneath: whoever enforces this
    /// must leave it out when the path is a directory.
    Exact,
    /// The path and everything beneath it (`resource in …`).
    Beneath,
}

/// What the processes of an identity may do at a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// Where.
    pub path: AbsolutePath,
    /// And how far.
    pub reach: Reach,
    /// What. Never empty.
    pub access: BTreeSet<Access>,
}

/// What one permit gives before anything is dropped.
pub(crate) struct Given {
    pub(crate) access: Access,
    pub(crate) region: Region,
}

/// What this permit gives. Nothing for a forbid.
pub(crate) fn given(rule: &Rule) -> impl Iterator<Item = Given> {
    Access::ALL.into_iter().filter_map(move |access| {
        let action = access.action();
        let counts = rule.condition == Condition::None || access == Access::Execute;
        if rule.effect == Effect::Forbid || !counts || !rule.actions.includes(action) {
            return None;
        }
        Some(Given { access, region: rule.resource.region(action.kind())? })
    })
}

/// Whether this forbid takes from the kernel what was given: without a condition, and all of it.
pub(crate) fn drops(forbid: &Rule, given: &Given) -> bool {
    forbid.effect == Effect::Forbid
        && forbid.condition == Condition::None
        && meeting(forbid, given).is_some_and(|region| region.covers(&given.region))
}

/// The paths that a forbid speaks of where it meets what was given.
pub(crate) fn meeting(forbid: &Rule, given: &Given) -> Option<Region> {
    let action = given.access.action();
    let region = forbid.resource.region(action.kind()).filter(|_| forbid.actions.includes(action))?;
    region.meets(&given.region).then_some(region)
}

impl Policy {
    /// What the kernel is to allow the processes of this identity, by path. Everything else it refuses them.
    ///
    /// Each [`Access`] at a path comes from a permit whose action, principal and resource scopes say so. The files of
    /// [`Access::Read`] can also be run: by an interpreter, or by the dynamic loader (`docs/policy.md`).
    #[must_use]
    pub fn grants(&self, identity: &IdentityName) -> Vec<Grant> {
        let rules = || self.rules().iter().filter(|rule| rule.principal.is(identity));
        let mut grants: BTreeMap<(AbsolutePath, Reach), BTreeSet<Access>> = BTreeMap::new();
        for given in rules().flat_map(given) {
            if rules().any(|rule| drops(rule, &given)) {
                continue;
            }
            let place = match given.region {
                Region::Exact(path) => (path, Reach::Exact),
                Region::Beneath(path) => (path, Reach::Beneath),
            };
            grants.entry(place).or_default().insert(given.access);
        }
        grants.into_iter().map(|((path, reach), access)| Grant { path, reach, access }).collect()
    }
}
