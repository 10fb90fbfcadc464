//! One rule of a policy, as far as its scope goes: what can be said of it without a call.

use std::collections::BTreeSet;

use cedar_policy as cedar;
use cedar_policy::{ActionConstraint, EntityTypeName, EntityUid, PrincipalConstraint, ResourceConstraint};

use crate::action::{Action, Kind};
use crate::domain::domain;
use crate::names::{IdentityName, RuleId};
use crate::paths::AbsolutePath;
use crate::problem::Place;
use crate::scan::Words;

/// What a rule that matches does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Allows, if nothing forbids.
    Permit,
    /// Forbids, whatever allows.
    Forbid,
}

impl Effect {
    /// The word in a policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Forbid => "forbid",
        }
    }
}

/// Whether a rule has `when` or `unless`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its scope says all.
    None,
    /// It has some.
    Some,
}

/// A rule of a policy.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(crate) id: RuleId,
    pub(crate) effect: Effect,
    pub(crate) place: Place,
    pub(crate) condition: Condition,
    pub(crate) principal: Principal,
    pub(crate) actions: Actions,
    pub(crate) resource: Scope,
    /// Its text, annotation to semicolon, and where that begins.
    pub(crate) text: String,
    pub(crate) offset: usize,
}

/// Whom a scope names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    Any,
    One(IdentityName),
    /// Something that is no identity.
    Nobody,
}

impl Principal {
    /// Whether this identity is meant.
    pub(crate) fn is(&self, identity: &IdentityName) -> bool {
        match self {
            Self::Any => true,
            Self::One(name) => name == identity,
            Self::Nobody => false,
        }
    }

    /// Whether there is somebody whom both mean.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nobody, _) | (_, Self::Nobody) => false,
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::One(one), Self::One(other)) => one == other,
        }
    }

    /// Whether everybody whom the other means is meant.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        *self == Self::Any || self == other
    }
}

/// Which actions a scope names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Actions {
    Any,
    These(BTreeSet<Action>),
}

impl Actions {
    pub(crate) fn includes(&self, action: Action) -> bool {
        match self {
            Self::Any => true,
            Self::These(these) => these.contains(&action),
        }
    }
}

/// Which resources a scope names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Any,
    /// `is T`.
    All(Kind),
    /// `== T::"…"`, and `in` something that holds nothing else.
    Only(Kind, String),
    /// `in Path::"…"`.
    Beneath(AbsolutePath),
    /// `is T in Path::"…"`.
    AllBeneath(Kind, AbsolutePath),
    /// What nothing is.
    Nothing,
}

/// The paths that a scope means, for one kind of resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Region {
    /// One path.
    Exact(AbsolutePath),
    /// One path and all beneath it.
    Beneath(AbsolutePath),
}

impl Region {
    pub(crate) const fn path(&self) -> &AbsolutePath {
        match self {
            Self::Exact(path) | Self::Beneath(path) => path,
        }
    }

    /// Whether every path of the other is in this one.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(other)) => one == other,
            (Self::Exact(_), Self::Beneath(_)) => false,
            (Self::Beneath(path), other) => path.contains(other.path()),
        }
    }

    /// Whether some path is in both. Of two paths in a tree one holds the other, or they have nothing in common.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(other)) => one == other,
            (Self::Exact(exact), Self::Beneath(top)) | (Self::Beneath(top), Self::Exact(exact)) => top.contains(exact),
            (Self::Beneath(one), Self::Beneath(other)) => one.contains(other) || other.contains(one),
        }
    }
}

impl Scope {
    /// Whether it can mean resources of this kind.
    pub(crate) fn means(&self, kind: Kind) -> bool {
        match self {
            Self::Any => true,
            Self::All(only) | Self::Only(only, _) | Self::AllBeneath(only, _) => *only == kind,
            Self::Beneath(_) => matches!(kind, Kind::Path | Kind::Program),
            Self::Nothing => false,
        }
    }

    /// The paths of this kind that it means; none for kinds that are no paths.
    pub(crate) fn region(&self, kind: Kind) -> Option<Region> {
        if !matches!(kind, Kind::Path | Kind::Program) || !self.means(kind) {
            return None;
        }
        match self {
            Self::Any | Self::All(_) => Some(Region::Beneath(AbsolutePath::root())),
            Self::Only(_, path) => path.parse().ok().map(Region::Exact),
            Self::Beneath(path) | Self::AllBeneath(_, path) => Some(Region::Beneath(path.clone())),
            Self::Nothing => None,
        }
    }
}

impl Rule {
    /// What `@id` says.
    #[must_use]
    pub const fn id(&self) -> &RuleId {
        &self.id
    }

    /// What it does.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        self.effect
    }

    /// Where it begins.
    #[must_use]
    pub const fn place(&self) -> Place {
        self.place
    }

    /// Whether it has conditions.
    #[must_use]
    pub const fn condition(&self) -> Condition {
        self.condition
    }

    /// The actions that it can speak of: those of its scope that are done to what its scope names.
    pub(crate) fn reach(&self) -> impl Iterator<Item = Action> {
        let all = Action::ALL.iter().copied();
        all.filter(|action| self.actions.includes(*action) && self.resource.means(action.kind()))
    }

    /// Reads the scope of a rule. Its names and paths have been checked.
    pub(crate) fn read(policy: &cedar::Policy, id: RuleId, place: Place, text: &str, offset: usize) -> Self {
        Self {
            id,
            effect: match policy.effect() {
                cedar::Effect::Permit => Effect::Permit,
                cedar::Effect::Forbid => Effect::Forbid,
            },
            place,
            condition: if policy.has_non_scope_constraint() { Condition::Some } else { Condition::None },
            principal: principal(&policy.principal_constraint()),
            actions: actions(&policy.action_constraint()),
            resource: resource(&policy.resource_constraint()),
            text: text.to_owned(),
            offset,
        }
    }

    /// Whether a word stands in one of its conditions outside of strings.
    pub(crate) fn conditions_name(&self, name: &str) -> bool {
        let clauses = crate::scan::parts(&self.text).clauses;
        clauses.into_iter().any(|(_, body)| {
            let body = self.text.get(body).unwrap_or_default();
            Words::new(body).any(|word| body.get(word) == Some(name))
        })
    }
}

fn principal(constraint: &PrincipalConstraint) -> Principal {
    let is_identity = |name: &EntityTypeName| domain().is_identity(name);
    let one = |uid: &EntityUid| {
        let name = uid.id().unescaped().parse().ok().filter(|_| is_identity(uid.type_name()));
        name.map_or(Principal::Nobody, Principal::One)
    };
    match constraint {
        PrincipalConstraint::Any => Principal::Any,
        PrincipalConstraint::Is(name) if is_identity(name) => Principal::Any,
        PrincipalConstraint::Is(_) => Principal::Nobody,
        // Identities are in nothing but themselves.
        PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) => one(uid),
        PrincipalConstraint::IsIn(name, uid) if is_identity(name) => one(uid),
        PrincipalConstraint::IsIn(..) => Principal::Nobody,
    }
}

fn actions(constraint: &ActionConstraint) -> Actions {
    let exact = |uid: &EntityUid| uid.id().unescaped().parse::<Action>().ok();
    match constraint {
        ActionConstraint::Any => Actions::Any,
        ActionConstraint::Eq(uid) => Actions::These(exact(uid).into_iter().collect()),
        ActionConstraint::In(uids) => {
            let named = |action: &Action| {
                let of = |uid: &EntityUid| exact(uid) == Some(*action) || action.group() == Some(uid.id().unescaped());
                uids.iter().any(of)
            };
            Actions::These(Action::ALL.iter().copied().filter(named).collect())
        }
    }
}

fn resource(constraint: &ResourceConstraint) -> Scope {
    let kind = |name: &EntityTypeName| domain().kind(name);
    let only = |uid: &EntityUid| match kind(uid.type_name()) {
        Some(kind) => Scope::Only(kind, uid.id().unescaped().to_owned()),
        None => Scope::Nothing,
    };
    let path = |uid: &EntityUid| match kind(uid.type_name()) {
        Some(Kind::Path) => uid.id().unescaped().parse::<AbsolutePath>().ok(),
        _ => None,
    };
    match constraint {
        ResourceConstraint::Any => Scope::Any,
        ResourceConstraint::Is(name) => kind(name).map_or(Scope::Nothing, Scope::All),
        ResourceConstraint::Eq(uid) => only(uid),
        // Only paths hold anything.
        ResourceConstraint::In(uid) => path(uid).map_or_else(|| only(uid), Scope::Beneath),
        ResourceConstraint::IsIn(name, uid) => match (kind(name), path(uid)) {
            (Some(kind @ (Kind::Path | Kind::Program)), Some(path)) => Scope::AllBeneath(kind, path),
            (Some(of), None) if kind(uid.type_name()) == Some(of) => only(uid),
            _ => Scope::Nothing,
        },
    }
}
