//! What host and guest insist on before they act on a configuration, where no verdict would show it.

use coffer_evidence::admit;
use coffer_evidence::config::AdmissionError;
use coffer_evidence::ids::Identity;
use coffer_evidence::sign::PublicKey;

use crate::session::{Recipe, key, opening};

/// Tools of two identities would share everything but their names: no session is started that says they do not.
#[test]
fn an_intent_of_several_identities_is_not_admitted() {
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
    let error = admit(&opening(&two).config, two.policy.as_bytes(), None).expect_err("two identities");
    assert!(matches!(error, AdmissionError::Unsupported { expected: "one identity", .. }), "{error}");
}
