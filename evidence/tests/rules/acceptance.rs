//! R16 to R19: private parts, receipt, expectations, appraisal.

use coffer_evidence::bundle::{self};
use coffer_evidence::call::Disclosed;
use coffer_evidence::ids::{Digest256, InstanceId, SessionId};
use coffer_evidence::note::{Checkpoint, sign_note};
use coffer_evidence::quote::Quote;
use coffer_evidence::sign::PublicKey;
use coffer_evidence::tree::{Tree, leaf_hash};
use coffer_evidence::verify::{
    Accepted, AnyOwner, CheckResult, Expectations, ExpectedRegister, Options, RegisterName, Rule, Verdict,
    verify_bundle,
};

use crate::judging::{options, refused, sealed_parts, unaccepted, verify, verify_parts, with_policy};
use crate::platform::{NOVEMBER, PLATFORM_INSTANCE, PPID, Tcb};
use crate::session::{Ending, Recipe, key, log_key, opening, owner, parts, sealed};

#[test]
fn a_disclosed_part_must_open_the_commitment_of_its_own_leaf() {
    let changes: [fn(&mut Vec<Disclosed>); 4] = [
        |disclosed| disclosed[0].bytes[5] ^= 1,
        |disclosed| disclosed[0].salt[0] ^= 1,
        // Swapped between leaves.
        |disclosed| {
            let (a, b) = (disclosed[0].index, disclosed[2].index);
            (disclosed[0].index, disclosed[2].index) = (b, a);
            disclosed.sort_by_key(|part| part.index);
        },
        |disclosed| disclosed.last_mut().unwrap().index = 1000,
    ];
    for change in changes {
        let mut parts = sealed_parts();
        change(parts.disclosed.as_mut().unwrap());
        refused(&verify_parts(&parts), Rule::R16, "plain private parts open commitments");
    }
}

#[test]
fn private_parts_and_receipt_may_be_withheld_without_touching_the_verdict() {
    let whole = verify(&Recipe::default());
    let mut parts = sealed_parts();
    parts.disclosed.as_mut().unwrap().remove(1);
    let some = verify_parts(&parts);
    parts.disclosed = None;
    let none = verify_parts(&parts);
    for report in [&some, &none] {
        assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes));
        assert_eq!(report.core_id, whole.core_id);
        assert_ne!(report.bundle_id, whole.bundle_id);
    }
}

#[test]
fn a_receipt_for_something_else_is_refused() {
    let with = |receipt| Recipe { receipt, ..Recipe::default() };
    refused(&verify(&with(|receipt| receipt.core_id = Digest256::of(b""))), Rule::R17, "host receipt (claim)");
    refused(&verify(&with(|receipt| receipt.final_quote = None)), Rule::R17, "host receipt (claim)");
    let recipe = Recipe { host: key(50), ..Recipe::default() };
    refused(&verify(&recipe), Rule::R2, "receipt.cbor");
}

#[test]
fn expectations_hold_or_the_bundle_is_not_accepted() {
    let bundle = sealed(&Recipe::default());
    let genuine = opening(&Recipe::default());
    let log = parts(&Recipe::default(), Ending::Sealed);
    let expect = |expect| verify_bundle(&bundle, &Options { expect, ..options() });
    let none = Expectations::default;

    let met = Expectations {
        session: Some(genuine.intent.session),
        owner: Some(PublicKey::of(&owner())),
        instance: Some(genuine.open.instance()),
        seen_note: Some(log.checkpoint),
        registers: registers(&log.seal.as_ref().expect("sealed").quote),
    };
    let report = expect(met);
    assert_eq!(report.accepted, Accepted::Yes, "{}", report.human());
    assert_eq!(report.checks.iter().filter(|check| check.rule == Rule::R18).count(), 5);

    let session = Some(SessionId::new([1; 16]));
    unaccepted(&expect(Expectations { session, ..none() }), Verdict::Sealed, Accepted::No, "expected session");
    let other = Some(PublicKey::of(&key(66)));
    unaccepted(&expect(Expectations { owner: other, ..none() }), Verdict::Sealed, Accepted::No, "expected owner");
    let instance = Some(InstanceId::new([1; 32]));
    unaccepted(&expect(Expectations { instance, ..none() }), Verdict::Sealed, Accepted::No, "expected instance");
    for mut register in registers(&log.seal.expect("sealed").quote) {
        register.value[47] ^= 1;
        let report = expect(Expectations { registers: vec![register], ..none() });
        unaccepted(&report, Verdict::Sealed, Accepted::No, "expected registers");
        assert!(report.human().contains(register.name.key()), "{}", report.human());
    }
}

/// Every register as it is in this quote.
fn registers(quote: &[u8]) -> Vec<ExpectedRegister> {
    let quote = Quote::parse(quote).expect("a quote");
    RegisterName::ALL.iter().map(|name| ExpectedRegister { name: *name, value: *name.of(&quote) }).collect()
}

#[test]
fn grace_advisories_and_the_platforms_set_up_are_appraised() {
    let policy = |line: &str| with_policy(&format!("anchor = \"simulated\"\n{line}"));
    let late = sealed(&Recipe { tcb: Tcb { status: "OutOfDate", ..Tcb::UP_TO_DATE }, ..Recipe::default() });
    // The TCB level of these platforms is of 2026-01-01, 318 days before the middle of November.
    for (days, accepted) in [(0, Accepted::No), (317, Accepted::No), (318, Accepted::Yes), (3_650, Accepted::Yes)] {
        let report = verify_bundle(&late, &policy(&format!("tcb_grace_days = {days}")));
        assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, accepted), "{days}: {}", report.human());
    }
    let hard = sealed(&Recipe { tcb: Tcb { status: "SWHardeningNeeded", ..Tcb::UP_TO_DATE }, ..Recipe::default() });
    let report = verify_bundle(&hard, &policy("tcb_grace_days = 3650"));
    unaccepted(&report, Verdict::Sealed, Accepted::No, "TCB status");

    let advised =
        sealed(&Recipe { tcb: Tcb { advisory: Some("INTEL-SA-01036"), ..Tcb::UP_TO_DATE }, ..Recipe::default() });
    let refusing = |id| verify_bundle(&advised, &policy(&format!("refused_advisories = [\"{id}\"]")));
    unaccepted(&refusing("INTEL-SA-01036"), Verdict::Sealed, Accepted::No, "advisories");
    unaccepted(&refusing("intel-sa-01036"), Verdict::Sealed, Accepted::No, "advisories");
    assert_eq!(refusing("INTEL-SA-01037").accepted, Accepted::Yes);

    // The simulator's certificate states that it is none of these; real ones that are, are in `quote_vectors.rs`.
    let genuine = sealed(&Recipe::default());
    let closed = verify_bundle(&genuine, &policy("dynamic_platform = false\ncached_keys = false\nsmt = false"));
    assert_eq!(closed.accepted, Accepted::Yes, "{}", closed.human());
    let row = closed.checks.iter().find(|check| check.name == "platform configuration").expect("a row");
    assert_eq!(row.result, CheckResult::Pass);
}

#[test]
fn a_note_seen_during_the_session_must_be_a_prefix_of_the_bundles_log() {
    let whole = parts(&Recipe::default(), Ending::Sealed);
    let origin = opening(&Recipe::default()).intent.origin();
    let note =
        |size: u64, root: Digest256, by: u8| sign_note(&key(by), &Checkpoint { origin: origin.clone(), size, root });
    let two = {
        let mut tree = Tree::new();
        whole.leaves[..2].iter().for_each(|leaf| tree.append(leaf_hash(leaf)));
        tree.root()
    };
    let bundle = bundle::write(&whole);
    let seen = |note: String| {
        let expect = Expectations { seen_note: Some(note), ..Expectations::default() };
        verify_bundle(&bundle, &Options { expect, ..options() })
    };
    assert_eq!(PublicKey::of(&key(3)), PublicKey::of(&log_key()));
    assert_eq!(seen(note(2, two, 3)).accepted, Accepted::Yes);
    for wrong in [note(2, two, 9), note(3, two, 3), note(1000, two, 3), "no note".to_owned()] {
        unaccepted(&seen(wrong), Verdict::Sealed, Accepted::No, "seen note");
    }
}

#[test]
fn an_owner_that_the_policy_does_not_name_is_not_accepted() {
    let bundle = sealed(&Recipe::default());
    let named = format!("anchor = \"simulated\"\nowners = [\"{}\"]", PublicKey::of(&owner()));
    assert_eq!(verify_bundle(&bundle, &with_policy(&named)).accepted, Accepted::Yes);
    let other = format!("anchor = \"simulated\"\nowners = [\"{}\"]", PublicKey::of(&key(66)));
    let report = verify_bundle(&bundle, &with_policy(&other));
    unaccepted(&report, Verdict::Sealed, Accepted::No, "owner");
    // A list that was written down wins over the flag.
    let any = Options { any_owner: AnyOwner::Yes, ..with_policy(&other) };
    unaccepted(&verify_bundle(&bundle, &any), Verdict::Sealed, Accepted::No, "owner");
}

#[test]
fn svn_terms_platform_region_and_evaluation_number_are_appraised() {
    let platform = |id: [u8; 16], region: &str| {
        format!(
            "anchor = \"simulated\"\n[[platforms]]\nid = \"{}\"\nname = \"rack 7\"\nregion = \"{region}\"",
            hex::encode(id)
        )
    };
    let demanding = Recipe { intent: |intent| intent.region = "eu".to_owned(), ..Recipe::default() };
    let yes = [
        (Recipe::default(), "anchor = \"simulated\"\nminimum_svn = 1\nminimum_evaluation_data_number = 17".to_owned()),
        (demanding.clone(), platform(PLATFORM_INSTANCE, "eu")),
        (demanding.clone(), platform(PPID, "eu")),
        (Recipe::default(), platform(PPID, "us")),
    ];
    for (recipe, policy) in yes {
        let report = verify_bundle(&sealed(&recipe), &with_policy(&policy));
        assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes), "{}", report.human());
    }
    let no = [
        ("image svn", Recipe::default(), "anchor = \"simulated\"\nminimum_svn = 2".to_owned()),
        (
            "TCB evaluation data number",
            Recipe::default(),
            "anchor = \"simulated\"\nminimum_evaluation_data_number = 18".to_owned(),
        ),
        ("platform list", Recipe::default(), platform([0; 16], "eu")),
        ("region", demanding, platform(PPID, "us")),
        (
            "image not after",
            Recipe { manifest: |manifest| manifest.not_after = NOVEMBER - 1, ..Recipe::default() },
            "anchor = \"simulated\"".to_owned(),
        ),
        (
            "intent not after",
            Recipe { intent: |intent| intent.not_after = NOVEMBER - 1, ..Recipe::default() },
            "anchor = \"simulated\"".to_owned(),
        ),
    ];
    for (name, recipe, policy) in no {
        unaccepted(&verify_bundle(&sealed(&recipe), &with_policy(&policy)), Verdict::Sealed, Accepted::No, name);
    }
}

#[test]
fn the_policys_digest_is_printed() {
    let text = "anchor = \"simulated\"\n";
    let report = verify_bundle(&sealed(&Recipe::default()), &with_policy(text));
    assert_eq!(report.policy_digest, Some(Digest256::of(text.as_bytes()).to_string()));
}
