//! R16 to R18: disclosed parts, the receipt, and what was expected.

use coffer_evidence::bundle::{self, Parts};
use coffer_evidence::call::Disclosed;
use coffer_evidence::ids::{Digest256, InstanceId, SessionId};
use coffer_evidence::leaf::{CauseClass, Public};
use coffer_evidence::note::{Checkpoint, sign_note};
use coffer_evidence::quote::Quote;
use coffer_evidence::receipt::Receipt;
use coffer_evidence::sign::PublicKey;
use coffer_evidence::verify::{RegisterName, Rule};

use crate::opening::{seal, sealed};
use crate::record::second_form;
use crate::session::{Recipe, key, log_key, opening, with_receipt};
use crate::vector::{Flag, Vector, of};

pub(crate) fn vectors() -> Vec<Vector> {
    [private(), receipt(), expected(), seen()].concat()
}

fn private() -> Vec<Vector> {
    type Change = (&'static str, &'static str, fn(&mut Vec<Disclosed>));
    let changes: [Change; 5] = [
        ("part-changed", "a byte of a disclosed part", |parts| parts[0].bytes[5] ^= 1),
        ("part-salt", "a byte of a disclosed part's salt", |parts| parts[0].salt[0] ^= 1),
        ("parts-swapped", "two disclosed parts are swapped between their leaves", |parts| {
            (parts[0].index, parts[2].index) = (parts[2].index, parts[0].index);
            parts.sort_by_key(|part| part.index);
        }),
        ("part-of-no-leaf", "a disclosed part of a leaf that there is not", |parts| {
            parts.last_mut().expect("a part").index = 1000;
        }),
        ("part-of-a-bare-leaf", "a disclosed part of leaf 0, which commits to nothing", |parts| parts[0].index = 0),
    ];
    let mut vectors: Vec<Vector> = changes
        .into_iter()
        .map(|(name, change, by)| {
            let mut parts = sealed(&Recipe::default());
            by(parts.disclosed.as_mut().expect("disclosed parts"));
            of(name, change, &parts).refused(Rule::R16, "plain private parts open commitments")
        })
        .collect();
    let leaves = |leaves: &mut Vec<coffer_evidence::leaf::Leaf>| {
        let Public::Outcome { cause, .. } = &mut leaves[2].public else { panic!("leaf 2 is an outcome") };
        *cause = CauseClass::ALL.iter().copied().find(|cause| *cause != CauseClass::Completed).expect("another cause");
    };
    let parts = sealed(&Recipe { leaves, ..Recipe::default() });
    vectors.push(
        of("part-contradicts-leaf", "the guest recorded another cause than its leaf says", &parts)
            .rejected(Rule::R16, "plain private parts agree with leaves"),
    );
    vectors
}

fn receipt() -> Vec<Vector> {
    type Change = (&'static str, fn(&mut Receipt));
    let changes: [Change; 4] = [
        ("session", |receipt| receipt.session = SessionId::new([1; 16])),
        ("instance", |receipt| receipt.instance = InstanceId::new([1; 32])),
        ("final-quote", |receipt| receipt.final_quote = None),
        ("bundle", |receipt| receipt.core_id = Digest256::of(b"")),
    ];
    let check = "host receipt (claim)";
    let mut vectors: Vec<Vector> = changes
        .into_iter()
        .map(|(field, receipt)| {
            let recipe = Recipe { receipt, ..Recipe::default() };
            let parts = with_receipt(&recipe, sealed(&recipe));
            let change = format!("the receipt is for another {field}");
            of(format!("receipt-{field}"), change, &parts).refused(Rule::R17, check)
        })
        .collect();
    let whole = || with_receipt(&Recipe::default(), sealed(&Recipe::default()));
    let stripped = Parts { seal: None, ..whole() };
    let change = "the seal is taken away, and the receipt for the whole is left";
    vectors.push(of("receipt-of-a-stripped-seal", change, &stripped).aborted().refused(Rule::R17, check));
    let mut second = whole();
    second_form(&mut seal(&mut second).quote);
    let change = "s of the final quote's signature is n - s, and the receipt names the other form";
    vectors.push(of("receipt-of-the-first-form", change, &second).refused(Rule::R17, check));
    vectors
}

fn expected() -> Vec<Vector> {
    let genuine = sealed(&Recipe::default());
    let with =
        |name: &str, change: &str, flag: Flag, check| of(name, change, &genuine).flag(flag).rejected(Rule::R18, check);
    let mut vectors = vec![
        with(
            "expected-session",
            "nothing; another session is expected",
            Flag::Session(SessionId::new([1; 16]).to_string()),
            "expected session",
        ),
        with(
            "expected-owner",
            "nothing; another owner is expected",
            Flag::Owner(PublicKey::of(&key(66)).to_string()),
            "expected owner",
        ),
        with(
            "expected-instance",
            "nothing; another instance is expected",
            Flag::Instance(InstanceId::new([1; 32]).to_string()),
            "expected instance",
        ),
    ];
    for register in RegisterName::ALL {
        let policy = format!("anchor = \"simulated\"\n[expect]\n{} = \"{}\"\n", register.key(), "f7".repeat(48));
        let change = format!("nothing; the policy expects another {}", register.key());
        let vector = of(format!("expected-{}", register.key()), change, &genuine);
        vectors.push(vector.policy(policy).rejected(Rule::R18, "expected registers"));
    }
    let policy = format!("anchor = \"simulated\"\n[expect]\nsession = \"{}\"\n", SessionId::new([1; 16]));
    let vector = of("expected-session-in-the-policy", "nothing; the policy expects another session", &genuine);
    vectors.push(vector.policy(policy).rejected(Rule::R18, "expected session"));
    vectors.push(met());
    vectors
}

/// The control: everything that can be expected, and is so.
fn met() -> Vector {
    let parts = sealed(&Recipe::default());
    let opening = opening(&Recipe::default());
    let quote = Quote::parse(&parts.seal.as_ref().expect("a seal").quote).expect("a quote");
    let mut policy = format!(
        "anchor = \"simulated\"\n[expect]\nsession = \"{}\"\nowner = \"{}\"\ninstance = \"{}\"\n",
        opening.intent.session,
        opening.intent.owner,
        opening.open.instance()
    );
    for register in RegisterName::ALL {
        policy.push_str(&format!("{} = \"{}\"\n", register.key(), hex::encode(register.of(&quote))));
    }
    of("everything-expected", "nothing; all that can be expected is expected, and met", &parts)
        .policy(policy)
        .flag(Flag::Session(opening.intent.session.to_string()))
        .flag(Flag::Owner(opening.intent.owner.to_string()))
        .flag(Flag::Instance(opening.open.instance().to_string()))
        .flag(Flag::Seen(parts.checkpoint.clone()))
}

fn seen() -> Vec<Vector> {
    let parts = sealed(&Recipe::default());
    let bundle = bundle::write(&parts);
    let origin = opening(&Recipe::default()).intent.origin();
    let note = |size, by: u8| {
        let root = Digest256::of(b"another");
        sign_note(&key(by), &Checkpoint { origin: origin.clone(), size, root })
    };
    assert_eq!(PublicKey::of(&key(3)), PublicKey::of(&log_key()));
    [
        ("seen-another-history", "nothing; a note of another history was seen", note(3, 3)),
        ("seen-beyond-the-end", "nothing; a note of a longer log was seen", note(1000, 3)),
        ("seen-of-another-key", "nothing; a note of another log was seen", note(3, 9)),
        ("seen-no-note", "nothing; what was seen is no note", "no note".to_owned()),
    ]
    .into_iter()
    .map(|(name, change, seen)| {
        let vector = crate::vector::vector(name, change, bundle.clone()).flag(Flag::Seen(seen));
        vector.rejected(Rule::R18, "seen note")
    })
    .collect()
}
