//! R1 to R9: framing, parsing, image, quotes, platform, boot, configuration, opening.

use coffer_evidence::bundle::Parts;
use coffer_evidence::collateral::{COLLATERAL_MAX, Collateral, CollateralError};
use coffer_evidence::config::Launch;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{Digest256, SessionId};
use coffer_evidence::intent::PooledAllowed;
use coffer_evidence::manifest::{ImageManifest, Profile, Register};
use coffer_evidence::sign::PublicKey;
use coffer_evidence::verify::{
    Accepted, AppraisalPolicy, CheckResult, INTEL_ROOT_DER, Options, Rule, Verdict, verify_bundle,
};

use crate::judging::{options, refused, sealed_parts, unaccepted, verify, verify_parts, with_policy};
use crate::platform::{DECEMBER, Dates, MID_NOVEMBER, NOVEMBER, ROOT_DER, Tcb, Td, pem};
use crate::session::{Recipe, key, opening, publisher, sealed};

#[test]
fn bytes_that_are_no_bundle_are_refused_by_framing() {
    for bytes in [Vec::new(), b"no bundle".to_vec(), vec![0; 10_240]] {
        refused(&verify_bundle(&bytes, &options()), Rule::R1, Rule::R1.title());
    }
    let mut longer = sealed(&Recipe::default());
    longer.extend([0; 512]);
    refused(&verify_bundle(&longer, &options()), Rule::R1, Rule::R1.title());
}

#[test]
fn a_member_that_does_not_parse_is_refused_by_name() {
    type Break = (&'static str, fn(&mut Parts));
    let breaks: [Break; 9] = [
        ("config.cbor", |parts| parts.config.push(0)),
        ("image.dsse", |parts| parts.image_dsse.insert(0, b' ')),
        ("open.cbor", |parts| parts.open_map.push(0)),
        ("open.collateral", |parts| parts.open_collateral.truncate(10)),
        ("events.cbor", |parts| parts.events[1].push(0)),
        ("leaves", |parts| parts.leaves[1].push(0)),
        ("seal.cbor", |parts| parts.seal.as_mut().unwrap().map.push(0)),
        ("statement.dsse", |parts| parts.seal.as_mut().unwrap().statement.push(b'\n')),
        ("receipt.cbor", |parts| parts.receipt = Some(vec![0x80])),
    ];
    for (name, break_it) in breaks {
        let mut parts = sealed_parts();
        break_it(&mut parts);
        refused(&verify_parts(&parts), Rule::R2, name);
    }
}

/// What the verifier would not take is not taken from an operator's file either.
#[test]
fn collateral_over_its_cap_is_refused_unread_by_the_verifier_and_at_its_source() {
    let with = |size: usize| {
        let mut parts = sealed_parts();
        let mut set = Collateral::parse(&parts.open_collateral).expect("collateral");
        set.pck_certificate_chain = Some(vec![b'x'; size - parts.open_collateral.len() - 6]);
        parts.open_collateral = set.to_bytes();
        assert_eq!(parts.open_collateral.len(), size);
        (verify_parts(&parts), Collateral::from_json(&set.to_json()))
    };
    let (report, read) = with(COLLATERAL_MAX);
    refused(&report, Rule::R4, "opening quote");
    assert!(read.is_ok());
    let (report, read) = with(COLLATERAL_MAX + 1);
    refused(&report, Rule::R2, "open.collateral");
    assert!(report.human().contains("at most 1048576 bytes, found 1048577"), "{}", report.human());
    assert!(matches!(read, Err(CollateralError::TooLarge(1_048_577))), "{read:?}");
}

#[test]
fn a_leaf_of_an_unknown_kind_is_refused() {
    let mut parts = sealed_parts();
    // Key 4 (kind) of leaf 0 is 0 (open): make it 9 (secret), which nothing makes yet.
    let position = parts.leaves[0].windows(2).position(|pair| pair == [4, 0]).expect("the kind");
    parts.leaves[0][position + 1] = 9;
    refused(&verify_parts(&parts), Rule::R2, "leaves");
}

#[test]
fn an_image_that_the_intent_does_not_name_is_refused() {
    let recipe = Recipe { intent: |intent| intent.image = Digest256::of(b"another"), ..Recipe::default() };
    refused(&verify(&recipe), Rule::R3, "manifest is the one the intent names");
}

#[test]
fn a_manifest_whose_own_signature_is_broken_is_refused_though_nobody_pinned_its_publisher() {
    let mut parts = sealed_parts();
    let text = String::from_utf8(parts.image_dsse.clone()).unwrap();
    let at = text.find("\"sig\":\"").unwrap() + 7;
    let mut bytes = text.into_bytes();
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    parts.image_dsse = bytes;
    refused(&verify_parts(&parts), Rule::R3, "manifest signature");
}

#[test]
fn a_publisher_that_the_policy_does_not_name_is_not_accepted() {
    let policy = format!("anchor = \"simulated\"\npublishers = [\"{}\"]", PublicKey::of(&publisher()));
    let bundle = sealed(&Recipe::default());
    let report = verify_bundle(&bundle, &with_policy(&policy));
    assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes), "{}", report.human());
    assert_eq!(report.image.unwrap().publisher, Some(PublicKey::of(&publisher()).to_string()));
    let other = sealed(&Recipe { publisher: key(77), ..Recipe::default() });
    unaccepted(&verify_bundle(&other, &with_policy(&policy)), Verdict::Sealed, Accepted::No, "publisher");
}

#[test]
fn a_foreign_root_is_refused_whoever_signed_below_it() {
    let mut foreign = ROOT_DER.to_vec();
    let last = foreign.len() - 1;
    foreign[last] ^= 1;
    let mut parts = sealed_parts();
    let quote = parts.open_quote.clone();
    let (before, after) = (pem(ROOT_DER), pem(&foreign));
    assert_eq!(before.len(), after.len());
    let at = quote.windows(before.len()).position(|window| window == before.as_bytes()).unwrap();
    parts.open_quote[at..at + after.len()].copy_from_slice(after.as_bytes());
    let report = verify_parts(&parts);
    refused(&report, Rule::R4, "opening quote");
    assert!(report.human().contains("none of the trust anchors"));
}

#[test]
fn a_quote_that_only_carries_intels_root_is_refused() {
    let recipe = Recipe { final_root: INTEL_ROOT_DER, ..Recipe::default() };
    let report = verify(&recipe);
    refused(&report, Rule::R4, "final quote");
    assert_eq!(report.platform, None);
}

#[test]
fn a_simulated_bundle_is_refused_under_the_intel_anchor() {
    let report = verify_bundle(&sealed(&Recipe::default()), &with_policy("anchor = \"intel\""));
    refused(&report, Rule::R4, "opening quote");
    assert_eq!(report.platform, None);
}

#[test]
fn an_anchor_file_with_a_third_root_verifies_nothing_and_one_with_the_published_root_is_labelled_by_it() {
    let policy = |der: &[u8]| {
        let policy = AppraisalPolicy::parse("anchor = \"root.der\"").unwrap().with_anchor_file(der.to_vec());
        Options { policy: Some(policy), ..options() }
    };
    let bundle = sealed(&Recipe::default());
    assert_eq!(verify_bundle(&bundle, &policy(ROOT_DER)).platform.as_deref(), Some("simulated"));
    refused(&verify_bundle(&bundle, &policy(b"another")), Rule::R4, "opening quote");
    refused(&verify_bundle(&bundle, &with_policy("anchor = \"root.der\"")), Rule::R4, "opening quote");
}

#[test]
fn trailing_bytes_after_a_quote_are_refused_even_when_they_are_zero() {
    for trailing in [0u8, 1] {
        let mut parts = sealed_parts();
        parts.open_quote.push(trailing);
        refused(&verify_parts(&parts), Rule::R4, "opening quote");
        let mut parts = sealed_parts();
        parts.seal.as_mut().unwrap().quote.push(trailing);
        refused(&verify_parts(&parts), Rule::R4, "final quote");
    }
}

#[test]
fn a_debug_td_is_refused_for_its_debug_bit() {
    let recipe = Recipe { opening_td: |td| td.td_attributes |= 1, ..Recipe::default() };
    let report = verify(&recipe);
    refused(&report, Rule::R4, "opening quote");
    assert!(report.human().contains("DEBUG"));
}

#[test]
fn a_revoked_platform_is_refused_and_an_outdated_one_is_not_accepted() {
    let with = |status| Recipe { tcb: Tcb { status, ..Tcb::UP_TO_DATE }, ..Recipe::default() };
    refused(&verify(&with("Revoked")), Rule::R4, "opening quote");
    unaccepted(&verify(&with("OutOfDate")), Verdict::Sealed, Accepted::No, "TCB status");
    let lenient = with_policy("anchor = \"simulated\"\ntcb_statuses = [\"UpToDate\", \"OutOfDate\"]");
    assert_eq!(verify_bundle(&sealed(&with("OutOfDate")), &lenient).accepted, Accepted::Yes);
}

#[test]
fn old_collateral_leaves_the_verdict_and_cannot_be_accepted_for_now() {
    let bundle = sealed(&Recipe::default());
    for at in [NOVEMBER, MID_NOVEMBER, DECEMBER - 1] {
        assert_eq!(verify_bundle(&bundle, &Options { at, ..options() }).accepted, Accepted::Yes, "{at}");
    }
    for at in [0, NOVEMBER - 1, DECEMBER, DECEMBER + 1, u64::MAX / 2] {
        let report = verify_bundle(&bundle, &Options { at, ..options() });
        unaccepted(&report, Verdict::Sealed, Accepted::CannotTell, "collateral is current");
        assert_eq!(report.exit_code(), 2);
        assert_eq!(report.human().contains("ended 2026-12-01T00:00:00Z; --at"), at >= DECEMBER, "{}", report.human());
    }
}

#[test]
fn the_two_quotes_may_have_collateral_of_different_dates() {
    let report = verify(&Recipe { opening_dates: Dates::OCTOBER, ..Recipe::default() });
    assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes), "{}", report.human());
    assert_eq!(report.as_of, Some(NOVEMBER));
}

#[test]
fn an_image_made_for_real_tdx_is_refused_under_the_simulator_root() {
    let recipe = Recipe { manifest: |manifest| manifest.profile = Profile::Tdx, ..Recipe::default() };
    refused(&verify(&recipe), Rule::R5, "image profile fits the root");
}

#[test]
fn another_td_at_the_seal_is_refused_by_each_register_that_tells_it_apart() {
    type Change = (&'static str, fn(&mut Td));
    let changes: [Change; 8] = [
        ("XFAM", |td| td.xfam ^= 4),
        ("TD attributes", |td| td.td_attributes |= 1 << 30),
        ("MRTD", |td| td.mrtd[0] ^= 1),
        ("RTMR0", |td| td.rtmr[0][0] ^= 1),
        ("RTMR1", |td| td.rtmr[1][0] ^= 1),
        ("RTMR2", |td| td.rtmr[2][0] ^= 1),
        ("MRCONFIGID", |td| td.mr_config_id[0] ^= 1),
        ("MROWNER", |td| td.mr_owner[0] ^= 1),
    ];
    for (register, final_td) in changes {
        let report = verify(&Recipe { final_td, ..Recipe::default() });
        refused(&report, Rule::R6, "same TD and platform");
        assert!(report.obstacles().any(|check| check.reason.contains(register)), "{register}");
    }
}

#[test]
fn boot_registers_other_than_the_manifests_are_refused() {
    let changes: [fn(&mut ImageManifest); 4] = [
        |manifest| manifest.shapes.get_mut("s1").unwrap().mrtd = Register([1; 48]),
        |manifest| manifest.shapes.get_mut("s1").unwrap().rtmr0 = Register([1; 48]),
        |manifest| manifest.shapes.get_mut("s1").unwrap().rtmr1 = Register([1; 48]),
        |manifest| manifest.shapes.get_mut("s1").unwrap().rtmr2 = Register([1; 48]),
    ];
    for manifest in changes {
        refused(&verify(&Recipe { manifest, ..Recipe::default() }), Rule::R7, "MRTD and RTMR0-2 are the manifest's");
    }
    let none = Recipe { manifest: |manifest| manifest.shapes.clear(), ..Recipe::default() };
    refused(&verify(&none), Rule::R7, "MRTD and RTMR0-2 are the manifest's");
}

#[test]
fn an_intent_that_its_owner_did_not_sign_is_refused() {
    let recipe = Recipe { config: |config| config.owner_sig[0] ^= 1, ..Recipe::default() };
    refused(&verify(&recipe), Rule::R8, "owner's signature");
    let recipe = Recipe { config: |config| config.owner_sig = [0; 64], ..Recipe::default() };
    refused(&verify(&recipe), Rule::R8, "owner's signature");
    let forged = Recipe { intent: |intent| intent.owner = PublicKey::of(&key(66)), ..Recipe::default() };
    refused(&verify(&forged), Rule::R8, "owner's signature");
}

#[test]
fn a_changed_policy_text_is_refused() {
    let mut parts = sealed_parts();
    parts.policy = b"forbid (principal, action, resource);\n".to_vec();
    refused(&verify_parts(&parts), Rule::R8, "policy is the one the intent names");
}

#[test]
fn configuration_registers_of_another_configuration_are_refused() {
    let recipe = Recipe { opening_td: |td| td.mr_config_id[47] ^= 1, ..Recipe::default() };
    refused(&verify(&recipe), Rule::R8, "configuration registers");
    let recipe = Recipe { opening_td: |td| td.mr_owner_config = [0; 48], ..Recipe::default() };
    refused(&verify(&recipe), Rule::R8, "configuration registers");
}

#[test]
fn an_image_below_the_svn_that_its_intent_asks_for_is_refused_and_the_agents_svn_does_not_stand_in_for_it() {
    const NAME: &str = "image svn is what the intent asks for";
    let at: [fn(&mut ImageManifest); 2] = [|manifest| manifest.svn = 5, |manifest| manifest.svn = 6];
    for manifest in at {
        // The agent's own svn is lower than what is asked of the image.
        let recipe = Recipe { manifest, intent: |intent| intent.minimum_svn = 5, ..Recipe::default() };
        let report = verify(&recipe);
        assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes), "{}", report.human());
    }
    let below = Recipe {
        manifest: |manifest| manifest.svn = 4,
        intent: |intent| intent.minimum_svn = 5,
        open: |open| open.agent_svn = 9,
        ..Recipe::default()
    };
    let report = verify(&below);
    refused(&report, Rule::R8, NAME);
    assert!(report.human().contains("at least 5 is asked for, the image has 4"));
}

#[test]
fn an_open_map_that_is_not_the_quotes_or_not_the_configurations_is_refused() {
    let mut parts = sealed_parts();
    let mut open = opening(&Recipe::default()).open;
    open.random = [1; 32];
    parts.open_map = open.to_bytes();
    refused(&verify_parts(&parts), Rule::R9, "opening report data binds the open map");
    let recipe = Recipe { open: |open| open.session = SessionId::new([1; 16]), ..Recipe::default() };
    refused(&verify(&recipe), Rule::R9, "open map fits the configuration");
    let recipe = Recipe { opening_td: |td| td.rtmr[3] = [0; 48], ..Recipe::default() };
    refused(&verify(&recipe), Rule::R9, "opening RTMR3 is the replay of event 0");
}

#[test]
fn a_pooled_launch_needs_the_intents_leave_and_a_pool_configuration() {
    let recipe = Recipe { config: |config| config.host.launch = Launch::Pooled, ..Recipe::default() };
    refused(&verify(&recipe), Rule::R8, "launch is one that the intent allows");
    let recipe = Recipe { intent: |intent| intent.pooled = PooledAllowed::Yes, ..recipe };
    let report = verify(&recipe);
    assert_ne!(report.verdict, Verdict::Sealed);
    assert_ne!(report.accepted, Accepted::Yes);
    let missing = report.checks.iter().find(|check| check.name == "pool configuration").expect("a row");
    assert_eq!(missing.result, CheckResult::CannotTell, "{}", report.human());
}
