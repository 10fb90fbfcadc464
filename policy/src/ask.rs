//! A question to a policy: may this identity do this, to this, now?

use std::collections::{BTreeSet, HashSet};

use cedar_policy::{Context, Entities, Entity, Request, RestrictedExpression};
use thiserror::Error;

use crate::action::{Action, Kind};
use crate::counters::Usage;
use crate::domain::domain;
use crate::names::IdentityName;
use crate::paths::{AbsolutePath, PathError};

/// The longest name of a resource that is no path, in bytes.
pub(crate) const NAME_LENGTH_MAX: usize = 255;

/// What something is done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A file or directory.
    Path(AbsolutePath),
    /// A program, and the arguments of the call, its name as the first.
    Program(AbsolutePath, Vec<String>),
    /// A remote, a host, a model, a secret: which, the action says.
    Named(String),
}

/// Why a question makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AskError {
    /// No path.
    #[error("the resource of {action}")]
    Path {
        /// What was asked for.
        action: Action,
        /// Why.
        #[source]
        source: PathError,
    },
    /// No name.
    #[error("expected a name of 1 to {NAME_LENGTH_MAX} bytes without spaces and control characters")]
    Name,
    /// Arguments of something that takes none.
    #[error("expected arguments for `exec` only, found some for {0}: leave them out")]
    Arguments(Action),
    /// Another kind of resource.
    #[error("expected a {expected} for {action}, found another kind of resource", expected = .0.kind().as_str(), action = .0)]
    Kind(Action),
}

impl Resource {
    /// The resource that a text means for this action.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn parse(action: Action, text: &str, argv: Vec<String>) -> Result<Self, AskError> {
        let path = || text.parse().map_err(|source| AskError::Path { action, source });
        match action.kind() {
            Kind::Program => Ok(Self::Program(path()?, argv)),
            _ if !argv.is_empty() => Err(AskError::Arguments(action)),
            Kind::Path => Ok(Self::Path(path()?)),
            Kind::Remote | Kind::Host | Kind::Model | Kind::Secret if is_resource_name(text) => {
                Ok(Self::Named(text.to_owned()))
            }
            Kind::Remote | Kind::Host | Kind::Model | Kind::Secret => Err(AskError::Name),
        }
    }
}

/// Whether a text can name a remote, a host, a model or a secret.
pub(crate) fn is_resource_name(text: &str) -> bool {
    let odd = |c: char| c.is_control() || c.is_whitespace();
    !text.is_empty() && text.len() <= NAME_LENGTH_MAX && !text.contains(odd)
}

/// Who asks, for what, with what counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    identity: IdentityName,
    action: Action,
    resource: Resource,
    usage: Usage,
}

impl Ask {
    /// A question.
    ///
    /// # Errors
    /// [`AskError::Kind`] when the action is not done to such a thing.
    pub fn new(identity: IdentityName, action: Action, resource: Resource, usage: Usage) -> Result<Self, AskError> {
        let fits = match &resource {
            Resource::Path(_) => action.kind() == Kind::Path,
            Resource::Program(..) => action.kind() == Kind::Program,
            Resource::Named(_) => !matches!(action.kind(), Kind::Path | Kind::Program),
        };
        if fits { Ok(Self { identity, action, resource, usage }) } else { Err(AskError::Kind(action)) }
    }

    /// What is asked for.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    /// The name of the resource: a path as text, or the name.
    #[must_use]
    pub fn resource(&self) -> &str {
        match &self.resource {
            Resource::Path(path) | Resource::Program(path, _) => path.as_str(),
            Resource::Named(name) => name,
        }
    }

    /// The question in Cedar's types. None for what the engine refuses to be asked, which nobody can bring about. Of the
    /// directories above the resource only those are put in that the policy names: nothing else can be asked of it, and a
    /// path has as many as a client likes.
    pub(crate) fn question(&self, named: &BTreeSet<String>) -> Option<(Request, Entities)> {
        let domain = domain();
        let kind = self.action.kind();
        let uid = domain.resource(kind, self.resource());
        let above = |path: &AbsolutePath| -> HashSet<_> {
            let above = path.ancestors().filter(|above| named.contains(*above));
            above.map(|above| domain.resource(Kind::Path, above)).collect()
        };
        let parents = match &self.resource {
            Resource::Path(path) => above(path),
            // A program is in its own path, too: `in` then means to a decision what it means to the kernel.
            Resource::Program(path, _) => {
                let mut parents = above(path);
                parents.insert(domain.resource(Kind::Path, path.as_str()));
                parents
            }
            Resource::Named(_) => HashSet::new(),
        };
        let entity = Entity::new_no_attrs(uid.clone(), parents);
        let entities = domain.actions.clone().add_entities([entity], None).ok()?;
        let (principal, action) = (domain.identity(self.identity.as_str()), domain.action(self.action));
        let request = Request::new(principal, action, uid, self.context()?, Some(&domain.schema)).ok()?;
        Some((request, entities))
    }

    fn context(&self) -> Option<Context> {
        let Usage { calls, running, seconds, input_bytes, output_bytes } = self.usage;
        let long = |number: u64| RestrictedExpression::new_long(i64::try_from(number).unwrap_or(i64::MAX));
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let mut pairs = vec![
            ("calls", long(calls)),
            ("running", long(running)),
            ("seconds", long(seconds)),
            ("input_bytes", long(input_bytes)),
            ("output_bytes", long(output_bytes)),
        ];
        if let Resource::Program(_, argv) = &self.resource {
            let set = RestrictedExpression::new_set(argv.iter().map(|argument| text(argument)));
            let first = argv.get(1).map_or("", String::as_str);
            pairs.extend([("argv", set), ("first", text(first)), ("command", text(&argv.join(" ")))]);
        }
        Context::from_pairs(pairs.into_iter().map(|(key, value)| (key.to_owned(), value))).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(action: Action) -> Resource {
        match action.kind() {
            Kind::Path => Resource::Path("/workspace/a".parse().unwrap()),
            Kind::Program => Resource::Program("/usr/bin/git".parse().unwrap(), vec!["git".into(), "log".into()]),
            Kind::Remote | Kind::Host | Kind::Model | Kind::Secret => Resource::Named("origin".into()),
        }
    }

    #[test]
    fn every_action_can_be_asked_for_within_the_schema_and_the_largest_counters_too() {
        let most = u64::MAX;
        let usage = Usage { calls: most, running: most, seconds: most, input_bytes: most, output_bytes: most };
        for action in Action::ALL {
            let ask = Ask::new("coder".parse().unwrap(), *action, resource(*action), usage).unwrap();
            assert!(ask.question(&["/workspace".to_owned()].into()).is_some(), "{action}");
        }
    }

    #[test]
    fn what_an_action_is_not_done_to_is_refused() {
        let new = |action, resource| Ask::new("coder".parse().unwrap(), action, resource, Usage::default());
        for action in Action::ALL {
            for other in Action::ALL {
                let named = |kind| !matches!(kind, Kind::Path | Kind::Program);
                let same = action.kind() == other.kind() || (named(action.kind()) && named(other.kind()));
                assert_eq!(new(*action, resource(*other)).is_ok(), same, "{action} on that of {other}");
            }
        }
        let parse = |action, text| Resource::parse(action, text, Vec::new());
        assert!(matches!(parse(Action::FileRead, "a"), Err(AskError::Path { .. })));
        assert_eq!(parse(Action::NetConnect, "a b"), Err(AskError::Name));
        assert_eq!(parse(Action::NetConnect, ""), Err(AskError::Name));
        let arguments = Resource::parse(Action::FileRead, "/a", vec!["x".into()]);
        assert_eq!(arguments, Err(AskError::Arguments(Action::FileRead)));
    }
}
