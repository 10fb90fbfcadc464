//! The domain in Cedar's own types: the schema, the actions as entities, the names of types.

use std::str::FromStr as _;
use std::sync::LazyLock;

use cedar_policy::{Entities, EntityId, EntityTypeName, EntityUid, Schema};

use crate::action::{Action, Kind};

/// What a policy may speak of, in Cedar's language for schemas.
const SCHEMA: &str = include_str!("domain.cedarschema");

/// The type of principals.
pub(crate) const IDENTITY: &str = "Identity";
const ACTION: &str = "Action";

pub(crate) struct Domain {
    pub(crate) schema: Schema,
    /// The actions and their groups.
    pub(crate) actions: Entities,
    identity: EntityTypeName,
    action: EntityTypeName,
    kinds: Vec<(Kind, EntityTypeName)>,
}

/// Our own text and names: whether they are good does not hang on anybody's input.
#[expect(clippy::expect_used, reason = "the schema is a constant, and every test fails when it does not hold")]
static DOMAIN: LazyLock<Domain> = LazyLock::new(|| {
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).expect("the schema of the domain");
    let actions = schema.action_entities().expect("the actions of the domain");
    let name = |name: &str| EntityTypeName::from_str(name).expect("the name of a type");
    let kinds = Kind::ALL.map(|kind| (kind, name(kind.as_str()))).to_vec();
    Domain { schema, actions, identity: name(IDENTITY), action: name(ACTION), kinds }
});

pub(crate) fn domain() -> &'static Domain {
    &DOMAIN
}

impl Domain {
    pub(crate) fn identity(&self, name: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.identity.clone(), EntityId::new(name))
    }

    pub(crate) fn action(&self, action: Action) -> EntityUid {
        EntityUid::from_type_name_and_id(self.action.clone(), EntityId::new(action.as_str()))
    }

    pub(crate) fn resource(&self, kind: Kind, name: &str) -> EntityUid {
        let known = self.kinds.iter().find(|(known, _)| *known == kind).map(|(_, name)| name.clone());
        // Every kind is in the list; a resource of the identities' type matches no rule over resources.
        let type_name = known.unwrap_or_else(|| self.identity.clone());
        EntityUid::from_type_name_and_id(type_name, EntityId::new(name))
    }

    /// The kind that a type's name stands for.
    pub(crate) fn kind(&self, name: &EntityTypeName) -> Option<Kind> {
        self.kinds.iter().find(|(_, known)| known == name).map(|(kind, _)| *kind)
    }

    pub(crate) fn is_identity(&self, name: &EntityTypeName) -> bool {
        *name == self.identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_schema_and_the_code_know_the_same_actions_types_and_groups() {
        let domain = domain();
        let in_schema: BTreeSet<String> = domain.schema.actions().map(|uid| uid.id().unescaped().to_owned()).collect();
        let groups: BTreeSet<&str> = Action::ALL.iter().filter_map(|action| action.group()).collect();
        let in_code: BTreeSet<String> =
            Action::ALL.iter().map(|a| a.as_str()).chain(groups.clone()).map(str::to_owned).collect();
        assert_eq!(in_schema, in_code);
        let types: BTreeSet<String> = domain.schema.entity_types().map(ToString::to_string).collect();
        let known: BTreeSet<String> =
            Kind::ALL.iter().map(|k| k.as_str()).chain([IDENTITY]).map(str::to_owned).collect();
        assert_eq!(types, known);
        for action in Action::ALL {
            let uid = domain.action(*action);
            let resources: Vec<String> =
                domain.schema.resources_for_action(&uid).unwrap().map(ToString::to_string).collect();
            assert_eq!(resources, [action.kind().as_str()], "{action}");
            let entity = domain.actions.get(&uid).unwrap();
            for group in &groups {
                let group_uid = EntityUid::from_type_name_and_id(domain.action.clone(), EntityId::new(group));
                let is_in = domain.actions.is_ancestor_of(&group_uid, &entity.uid());
                assert_eq!(is_in, action.group() == Some(group), "{action} in {group}");
            }
        }
    }
}
