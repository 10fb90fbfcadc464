//! What host and guest insist on before they act on a configuration, where no verdict would show it.

use coffer_evidence::admit;
use coffer_evidence::ids::Identity;
use coffer_evidence::sign::PublicKey;

use crate::session::{Recipe, key, opening};

#[test]
fn an_intent_of_several_identities_is_admitted() {
    let recipe = Recipe::default();
    let admitted = admit(&opening(&recipe).config, recipe.policy.as_bytes(), None).expect("one identity");
    assert_eq!(admitted.1.identities.len(), 1);
    let two = Recipe {
        intent: |intent| {
            let other = Identity::new("other").expect("an identity");
            intent.identities.insert(other, PublicKey::of(&key(7)));
        },
        ..Recipe::default()
    };
    let admitted = admit(&opening(&two).config, two.policy.as_bytes(), None).expect("two identities");
    assert_eq!(admitted.1.identities.len(), 2);
}
