//! R15: strict sessions, in which an effect waits until its caller or a witness has signed that it saw the intent in the log.

use coffer_evidence::call_header::{Said, Speaker};
use coffer_evidence::ids::{Digest256, Identity};
use coffer_evidence::intent::Durability;
use coffer_evidence::leaf::CauseClass;
use coffer_evidence::sign::PublicKey;
use coffer_evidence::verify::Rule;

use crate::chains::said;
use crate::opening::sealed;
use crate::session::talk::{Talk, acknowledged, end_to_end_strict, identity, identity_key, witness_key, witnessed};
use crate::session::{Ending, Recipe, host, key, parts};
use crate::vector::{Flag, Vector, of};

const COVERED: &str = "started effects were acknowledged";
const GENUINE: &str = "acks name checkpoints of this log";

type Script = fn(&mut Talk<'_>);

fn strict(talk: Script) -> Recipe {
    Recipe { intent: end_to_end_strict, ..said(talk) }
}

pub(crate) fn vectors() -> Vec<Vector> {
    [good(), bad()].concat()
}

fn good() -> Vec<Vector> {
    let made = |name: &str, change: &str, talk: Script| of(name, change, &sealed(&strict(talk)));
    let killed = parts(&strict(acknowledged), Ending::Killed);
    let delegated: Recipe = Recipe {
        intent: |intent| intent.durability = Durability::Strict,
        ..said(|talk| {
            let mut caller = talk.open(&identity(), &identity_key(), 2);
            talk.ask(&mut caller, 1);
            talk.ack(&mut caller);
            talk.completed(1);
        })
    };
    vec![
        made("strict-acked-by-its-caller", "nothing; the caller acknowledged each intent", acknowledged),
        made("strict-acked-by-a-witness", "nothing; a witness acknowledged both intents at once", witnessed),
        made("strict-acked-on-another-channel", "nothing; the caller acknowledged on its second channel", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            let mut second = talk.open(&identity(), &identity_key(), 3);
            talk.ask(&mut caller, 1);
            talk.ack(&mut second);
            talk.completed(1);
        }),
        made("strict-not-started", "nothing; nobody acknowledged, and the call was not started", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            talk.outcome(1, CauseClass::NotStarted, None);
        }),
        of("strict-prefix", "the guest was killed while an ack was outstanding", &killed).aborted().flag(Flag::Prefix),
        of("strict-delegated", "nothing; the delegate key acknowledged the intent", &sealed(&delegated)),
    ]
}

fn another() -> Identity {
    Identity::new("other").expect("an identity")
}

fn bad() -> Vec<Vector> {
    type Bad = (&'static str, &'static str, &'static str, Script);
    let bad: [Bad; 7] = [
        (
            "ack-by-the-host-only",
            "an effect began, and only the host can have told the guest to begin",
            COVERED,
            |talk| {
                let (_, mut caller) = talk.owner_and_identity();
                talk.ask(&mut caller, 1);
                talk.checkpoint();
                talk.completed(1);
            },
        ),
        ("ack-by-the-owner-only", "an effect began after an ack of the owner, who releases nothing", COVERED, |talk| {
            let (mut owner, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            talk.ack(&mut owner);
            talk.completed(1);
        }),
        ("ack-of-less", "an effect began after an ack of the leaves before its intent", COVERED, |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            let seen = talk.checkpoint();
            talk.ask(&mut caller, 1);
            talk.say(&mut caller, Said::Ack { seen });
            talk.completed(1);
        }),
        ("ack-after-the-outcome", "the ack comes after the outcome", COVERED, |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            talk.completed(1);
            talk.ack(&mut caller);
        }),
        ("ack-of-another-root", "an ack names a root that the log never had", GENUINE, |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            let mut seen = talk.checkpoint();
            seen.root = Digest256::of(b"another");
            talk.say(&mut caller, Said::Ack { seen });
            talk.completed(1);
        }),
        ("ack-of-no-checkpoint", "an ack names a size at which no checkpoint was made", GENUINE, |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            let seen = talk.checkpoint();
            talk.checkpoints.pop();
            talk.say(&mut caller, Said::Ack { seen });
            talk.completed(1);
        }),
        ("ack-of-what-is-to-come", "an ack names more leaves than there were", GENUINE, |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            let mut seen = talk.checkpoint();
            seen.size += 100;
            talk.say(&mut caller, Said::Ack { seen });
            talk.completed(1);
        }),
    ];
    let other = Recipe {
        intent: |intent| {
            end_to_end_strict(intent);
            intent.identities.insert(another(), PublicKey::of(&key(16)));
        },
        ..said(|talk| {
            let (_, mut caller) = talk.owner_and_identity();
            let mut other = talk.open(&Speaker::Identity(another()), &key(16), 3);
            talk.ask(&mut caller, 1);
            talk.ack(&mut other);
            talk.completed(1);
        })
    };
    let mut vectors: Vec<Vector> = bad
        .into_iter()
        .map(|(name, change, check, talk)| of(name, change, &sealed(&strict(talk))).refused(Rule::R15, check))
        .collect();
    let change = "an effect began after an ack of another identity than its caller";
    vectors.push(of("ack-by-another-identity", change, &sealed(&other)).refused(Rule::R15, COVERED));
    let forged: Script = |talk| {
        let (_, mut caller) = talk.owner_and_identity();
        let mut witness = talk.open(&Speaker::Witness(0), &witness_key(), 3);
        witness.key = host();
        talk.ask(&mut caller, 1);
        talk.ack(&mut witness);
        talk.completed(1);
    };
    let change = "the ack of a witness is signed by the host";
    vectors
        .push(of("ack-signed-by-the-host", change, &sealed(&strict(forged))).refused(Rule::R12, "header signatures"));
    vectors
}
