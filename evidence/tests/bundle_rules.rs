//! Each rule refuses what it must, for its own cause, on bundles that are right everywhere else.
#![cfg(feature = "verifier")]

#[path = "support/platform.rs"]
mod platform;
#[path = "support/session.rs"]
mod session;

use coffer_evidence::bundle::{self, Parts};
use coffer_evidence::config::Launch;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{CallId, Digest256};
use coffer_evidence::intent::{Authority, Durability};
use coffer_evidence::leaf::{CauseClass, LimitKind, Method, Public};
use coffer_evidence::manifest::{Profile, Register};
use coffer_evidence::note::{Checkpoint, sign_note};
use coffer_evidence::rtmr::Rtmr3Event;
use coffer_evidence::seal::Reason;
use coffer_evidence::sign::PublicKey;
use coffer_evidence::verify::{
    AcceptPrefix, AcceptSimulated, Accepted, AnyOwner, AppraisalPolicy, CheckResult, Expectations, Options, Report,
    Rule, SIMULATED_ROOT_DER, Verdict, verify_bundle,
};
use platform::{DECEMBER, Dates, MID_NOVEMBER, NOVEMBER, PLATFORM_INSTANCE, PPID, ROOT_DER, Tcb, pem};
use session::{AT, Ending, Recipe, key, log_key, opening, owner, parts, plain, publisher, sealed, with_receipt};

fn options() -> Options {
    Options { at: AT, accept_simulated: AcceptSimulated::Yes, ..Options::default() }
}

fn with_policy(text: &str) -> Options {
    Options { policy: Some(AppraisalPolicy::parse(text).expect("a policy")), ..options() }
}

fn verify(recipe: &Recipe) -> Report {
    verify_bundle(&sealed(recipe), &options())
}

fn verify_parts(parts: &Parts) -> Report {
    verify_bundle(&bundle::write(parts), &options())
}

/// The one check that decided, by rule and name.
fn decided(report: &Report) -> Vec<(Rule, &'static str)> {
    report.obstacles().map(|check| (check.rule, check.name)).collect()
}

#[track_caller]
fn refused(report: &Report, rule: Rule, name: &str) {
    assert_eq!(report.verdict, Verdict::Invalid, "{}", report.human());
    assert_eq!(report.accepted, Accepted::No);
    assert_eq!(report.exit_code(), 1);
    let found = decided(report);
    assert!(
        matches!(found.as_slice(), [(r, n)] if *r == rule && *n == name),
        "expected {rule:?} {name}: {found:?}\n{}",
        report.human()
    );
    let later = report.checks.iter().filter(|check| check.rule > rule);
    assert!(
        later.into_iter().all(|check| check.result == CheckResult::NotEvaluated),
        "a rule after {rule:?} was evaluated"
    );
}

#[track_caller]
fn unaccepted(report: &Report, verdict: Verdict, accepted: Accepted, name: &str) {
    assert_eq!((report.verdict, report.accepted), (verdict, accepted), "{}", report.human());
    let found = decided(report);
    assert!(found.iter().any(|(_, found)| *found == name), "expected {name}: {found:?}");
}

fn sealed_parts() -> Parts {
    parts(&Recipe::default(), Ending::Sealed)
}

#[test]
fn the_simulators_published_root_is_the_pinned_one() {
    assert_eq!(ROOT_DER, SIMULATED_ROOT_DER);
}

#[test]
fn a_whole_simulated_bundle_is_sealed_and_accepted_on_request_alone() {
    let report = verify(&Recipe::default());
    assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes), "{}", report.human());
    assert_eq!(report.exit_code(), 0);
    assert_eq!(report.platform.as_deref(), Some("simulated"));
    assert_eq!(report.extent.as_deref(), Some("whole(9)"));
    assert_eq!(report.authority, Some("delegated"));
    assert_eq!(
        (report.outcome, report.reason.as_deref(), report.closed_by.as_deref()),
        (Some("sealed"), Some("user_closed"), Some("host"))
    );
    assert_eq!(report.as_of, Some(NOVEMBER));
    assert_eq!(
        report.words,
        ["Anyone can forge this.", "The host ordered these calls for its clients and could have added or changed any."]
    );
    let not_built: Vec<Rule> =
        report.checks.iter().filter(|check| check.reason == "not built yet").map(|check| check.rule).collect();
    assert_eq!(not_built, [Rule::R12, Rule::R15]);
    assert!(decided(&report).is_empty());
}

#[test]
fn simulated_evidence_is_not_accepted_unless_asked_for_and_the_report_says_why() {
    let report = verify_bundle(&sealed(&Recipe::default()), &Options { at: AT, ..Options::default() });
    unaccepted(&report, Verdict::Sealed, Accepted::No, "platform is real");
    assert_eq!(report.exit_code(), 1);
    assert!(report.human().contains("--accept-simulated"));
    assert!(report.human().contains("Anyone can forge this."));
}

#[test]
fn the_json_verdict_is_one_line_with_the_fixed_fields_in_their_order() {
    let line = verify(&Recipe::default()).json_line();
    assert!(!line.contains('\n'));
    let fields = [
        "schema",
        "verdict",
        "accepted",
        "platform",
        "authority",
        "outcome",
        "reason",
        "closed_by",
        "session",
        "instance",
        "extent",
        "image",
        "policy_digest",
        "at",
        "as_of",
        "checks",
        "bundle_id",
        "core_id",
        "words",
    ];
    let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let object = value.as_object().expect("an object");
    assert_eq!(object.len(), fields.len());
    let positions: Vec<usize> =
        fields.iter().map(|field| line.find(&format!("\"{field}\":")).expect("the field")).collect();
    assert!(object.keys().all(|key| fields.contains(&key.as_str())));
    // `reason` and others occur again inside the checks: what counts is that first places rise.
    assert!(positions.is_sorted(), "{line}");
    assert!(line.starts_with(
        "{\"schema\":\"coffer.verdict.v1\",\"verdict\":\"sealed\",\"accepted\":\"yes\",\"platform\":\"simulated\""
    ));
    let image = value["image"].as_object().expect("an object");
    assert!(["name", "digest", "publisher"].iter().all(|field| image.contains_key(*field)) && image.len() == 3);
    for check in value["checks"].as_array().expect("an array") {
        let check = check.as_object().expect("an object");
        assert!(
            ["rule", "name", "result", "reason"].iter().all(|field| check.contains_key(*field)) && check.len() == 4
        );
    }
}

#[test]
fn the_same_bundle_policy_and_time_give_the_same_bytes() {
    let bytes = sealed(&Recipe::default());
    assert_eq!(bytes, sealed(&Recipe::default()), "the fixture is deterministic");
    let (a, b) = (verify_bundle(&bytes, &options()), verify_bundle(&bytes, &options()));
    assert_eq!(a.json_line(), b.json_line());
    assert_eq!(a.human(), b.human());
}

#[test]
fn every_rule_has_a_row_in_order_whatever_the_input() {
    for bytes in [Vec::new(), vec![0; 1024], sealed(&Recipe::default())] {
        let report = verify_bundle(&bytes, &options());
        let mut rules: Vec<Rule> = report.checks.iter().map(|check| check.rule).collect();
        assert!(rules.is_sorted());
        rules.dedup();
        assert_eq!(rules, Rule::ALL);
    }
}

// R1, R2 -----------------------------------------------------------------------------------------------------------------------

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

#[test]
fn a_leaf_of_an_unknown_kind_is_refused() {
    let mut parts = sealed_parts();
    // Key 4 (kind) of leaf 0 is 0 (open): make it 9 (secret), which nothing makes yet.
    let position = parts.leaves[0].windows(2).position(|pair| pair == [4, 0]).expect("the kind");
    parts.leaves[0][position + 1] = 9;
    refused(&verify_parts(&parts), Rule::R2, "leaves");
}

// R3 ---------------------------------------------------------------------------------------------------------------------------

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

// R4, R5, R6 -------------------------------------------------------------------------------------------------------------------

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
    let changes: [(&str, fn(&mut platform::Td)); 8] = [
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

// R7, R8, R9 -------------------------------------------------------------------------------------------------------------------

#[test]
fn boot_registers_other_than_the_manifests_are_refused() {
    let changes: [fn(&mut coffer_evidence::manifest::ImageManifest); 4] = [
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
fn an_open_map_that_is_not_the_quotes_or_not_the_configurations_is_refused() {
    let mut parts = sealed_parts();
    let mut open = opening(&Recipe::default()).open;
    open.random = [1; 32];
    parts.open_map = open.to_bytes();
    refused(&verify_parts(&parts), Rule::R9, "opening report data binds the open map");
    let recipe =
        Recipe { open: |open| open.session = coffer_evidence::ids::SessionId::new([1; 16]), ..Recipe::default() };
    refused(&verify(&recipe), Rule::R9, "open map fits the configuration");
    let recipe = Recipe { open: |open| open.agent_svn = 0, ..Recipe::default() };
    refused(&verify(&recipe), Rule::R9, "open map fits the configuration");
    let recipe = Recipe { opening_td: |td| td.rtmr[3] = [0; 48], ..Recipe::default() };
    refused(&verify(&recipe), Rule::R9, "opening RTMR3 is the replay of event 0");
}

#[test]
fn a_pooled_launch_cannot_be_told_yet() {
    let recipe = Recipe { config: |config| config.host.launch = Launch::Pooled, ..Recipe::default() };
    let report = verify(&recipe);
    assert_ne!(report.verdict, Verdict::Sealed);
    assert_ne!(report.accepted, Accepted::Yes);
}

// R10, R11 ---------------------------------------------------------------------------------------------------------------------

#[test]
fn a_changed_leaf_is_refused() {
    let mut parts = sealed_parts();
    // The wall-clock hint of leaf 3, key 9: no rule but the roots looks at it.
    let position = parts.leaves[3].windows(2).position(|pair| pair == [9, 0]).expect("the hint");
    parts.leaves[3][position + 1] = 1;
    refused(&verify_parts(&parts), Rule::R10, "root at each event");
}

#[test]
fn a_missing_last_leaf_is_refused() {
    let mut parts = sealed_parts();
    parts.leaves.pop();
    refused(&verify_parts(&parts), Rule::R10, "root at each event");
}

#[test]
fn a_leaf_too_many_is_refused() {
    let mut parts = parts(&Recipe::default(), Ending::Killed);
    let index = parts.leaves.len() as u64;
    let session = opening(&Recipe::default()).intent.session;
    parts.leaves.push(plain(session, index, Public::Limit { which: LimitKind::Idle }).to_bytes());
    refused(&verify_parts(&parts), Rule::R10, "root at each event");
}

#[test]
fn leaves_out_of_order_of_another_session_or_back_in_time_are_refused() {
    let changes: [fn(&mut Vec<coffer_evidence::leaf::Leaf>); 6] = [
        |leaves| leaves.swap(1, 2),
        |leaves| leaves[2].index = 7,
        |leaves| leaves[2].session = coffer_evidence::ids::SessionId::new([1; 16]),
        |leaves| leaves[3].monotonic_ns = 1,
        |leaves| leaves[0].public = Public::Limit { which: LimitKind::Idle },
        |leaves| {
            let Public::Open { opening_quote, .. } = &mut leaves[0].public else { panic!("leaf 0 opens") };
            *opening_quote = Digest256::of(b"another quote");
        },
    ];
    for leaves in changes {
        refused(&verify(&Recipe { leaves, ..Recipe::default() }), Rule::R10, "leaves in order");
    }
}

#[test]
fn events_out_of_order_are_refused() {
    let changes: [fn(&mut Vec<Rtmr3Event>); 5] = [
        |events| drop(events.remove(0)),
        |events| events.insert(1, events[0].clone()),
        |events| events.swap(1, 2),
        |events| events.insert(1, events[1].clone()),
        |events| {
            let sealed = events[3].clone();
            events.push(sealed);
        },
    ];
    for events in changes {
        refused(&verify(&Recipe { events, ..Recipe::default() }), Rule::R10, "root at each event");
    }
}

#[test]
fn a_note_of_another_key_another_log_or_another_size_is_refused() {
    const NAME: &str = "note is the last event's";
    refused(&verify(&Recipe { note_key: key(9), ..Recipe::default() }), Rule::R11, NAME);
    refused(&verify(&Recipe { checkpoint: |note| note.origin.push('x'), ..Recipe::default() }), Rule::R11, NAME);
    refused(&verify(&Recipe { checkpoint: |note| note.size = 2, ..Recipe::default() }), Rule::R11, NAME);
    refused(
        &verify(&Recipe { checkpoint: |note| note.root = Digest256::of(b""), ..Recipe::default() }),
        Rule::R11,
        NAME,
    );
}

// R13 --------------------------------------------------------------------------------------------------------------------------

#[test]
fn calls_without_their_one_intent_and_one_outcome_are_refused() {
    let changes: [fn(&mut Vec<coffer_evidence::leaf::Leaf>); 7] = [
        // Two decisions on one call.
        |leaves| leaves[3].call = leaves[1].call,
        // An outcome of a call that nobody ordered.
        |leaves| leaves[4].call = Some(CallId::new([99; 16])),
        // Two outcomes of one call.
        |leaves| {
            leaves[3] = leaves[2].clone();
            leaves[3].index = 3;
        },
        // An outcome of another method.
        |leaves| {
            let public =
                Public::Outcome { method: Method::Stat, cause: CauseClass::Completed, output_steps: 0, input_steps: 0 };
            leaves[2].public = public;
        },
        // No outcome.
        |leaves| {
            let limit = plain(leaves[6].session, 6, Public::Limit { which: LimitKind::Idle });
            leaves[6] = coffer_evidence::leaf::Leaf { monotonic_ns: leaves[6].monotonic_ns, ..limit };
        },
        // A wrong count.
        |leaves| leaves[8].public = Public::Seal { count: 8 },
        // Seal without scrub.
        |leaves| leaves[7].public = Public::Limit { which: LimitKind::Idle },
    ];
    for (number, leaves) in changes.into_iter().enumerate() {
        let report = verify(&Recipe { leaves, ..Recipe::default() });
        assert_eq!(
            decided(&report).first().map(|check| check.0),
            Some(Rule::R13),
            "change {number}\n{}",
            report.human()
        );
    }
}

// R14 --------------------------------------------------------------------------------------------------------------------------

#[test]
fn another_sessions_seal_is_refused() {
    let other = Recipe {
        intent: |intent| intent.session = coffer_evidence::ids::SessionId::new([0xee; 16]),
        ..Recipe::default()
    };
    let mut stolen = sealed_parts();
    stolen.seal = parts(&other, Ending::Sealed).seal;
    // The other session's TD has another configuration in its registers.
    refused(&verify_parts(&stolen), Rule::R6, "same TD and platform");
}

#[test]
fn the_seal_of_a_twin_from_the_same_configuration_is_refused() {
    let twin = Recipe { open: |open| open.random = [0x77; 32], ..Recipe::default() };
    let mut stolen = sealed_parts();
    stolen.seal = parts(&twin, Ending::Sealed).seal;
    refused(&verify_parts(&stolen), Rule::R14, "seal is the one recomputed");
}

#[test]
fn each_field_of_the_seal_is_recomputed() {
    let changes: [(&str, fn(&mut coffer_evidence::seal::SealMap)); 9] = [
        ("session", |map| map.session = coffer_evidence::ids::SessionId::new([1; 16])),
        ("instance", |map| map.instance = coffer_evidence::ids::InstanceId::new([1; 32])),
        ("configuration digest", |map| map.config_digest = coffer_evidence::ids::Digest384::of(b"")),
        ("opening quote", |map| map.opening_quote = Digest256::of(b"")),
        ("size", |map| map.size += 1),
        ("root", |map| map.root = Digest256::of(b"")),
        ("number of events", |map| map.events -= 1),
        ("RTMR3", |map| map.rtmr3 = coffer_evidence::rtmr::Rtmr::ZERO),
        ("scrub leaf", |map| map.scrub_leaf = Digest256::of(b"")),
    ];
    for (field, seal) in changes {
        let report = verify(&Recipe { seal, ..Recipe::default() });
        refused(&report, Rule::R14, "seal is the one recomputed");
        assert!(report.obstacles().any(|check| check.reason.ends_with(field)), "{field}");
    }
}

#[test]
fn a_seal_that_the_final_quote_does_not_bind_is_refused() {
    let other = Recipe { seal: |map| map.reason = Reason::TtlExpired, ..Recipe::default() };
    let mut parts = sealed_parts();
    let swapped = session::parts(&other, Ending::Sealed).seal.unwrap();
    parts.seal.as_mut().unwrap().map = swapped.map;
    refused(&verify_parts(&parts), Rule::R14, "final report data binds the seal");
}

#[test]
fn a_final_register_that_is_not_the_replay_of_the_events_is_refused() {
    let recipe = Recipe { final_td: |td| td.rtmr[3][0] ^= 1, ..Recipe::default() };
    refused(&verify(&recipe), Rule::R14, "final RTMR3 is the replay of all events");
}

#[test]
fn a_seal_without_its_last_two_events_is_refused() {
    let recipe = Recipe { events: |events| drop(events.pop()), ..Recipe::default() };
    refused(&verify(&recipe), Rule::R14, "last events are checkpoint and sealed");
}

#[test]
fn a_statement_by_another_key_or_about_another_seal_is_refused() {
    refused(&verify(&Recipe { statement_key: key(9), ..Recipe::default() }), Rule::R14, "statement");
    let other = Recipe { seal: |map| map.reason = Reason::TtlExpired, ..Recipe::default() };
    let mut parts = sealed_parts();
    parts.seal.as_mut().unwrap().statement = session::parts(&other, Ending::Sealed).seal.unwrap().statement;
    refused(&verify_parts(&parts), Rule::R14, "statement");
}

// Prefixes ---------------------------------------------------------------------------------------------------------------------

#[test]
fn a_killed_session_is_an_aborted_prefix_with_its_unknown_call_and_accepted_only_on_request() {
    let parts = parts(&Recipe::default(), Ending::Killed);
    let report = verify_parts(&parts);
    unaccepted(&report, Verdict::Aborted, Accepted::No, "whole record");
    assert_eq!((report.extent.as_deref(), report.outcome), (Some("prefix(6)"), Some("aborted")));
    assert_eq!((report.reason.as_deref(), report.closed_by.as_deref()), (None, None));
    assert!(
        report
            .checks
            .iter()
            .any(|check| check.rule == Rule::R13 && check.reason.starts_with("outcome unknown: default/"))
    );
    assert!(
        report
            .words
            .iter()
            .any(|words| words.starts_with("A prefix of 6 leaves is genuine; nothing is known after it;"))
    );
    let asked = Options { accept_prefix: AcceptPrefix::Yes, ..options() };
    assert_eq!(verify_bundle(&bundle::write(&parts), &asked).accepted, Accepted::Yes);
}

#[test]
fn a_sealed_bundle_stripped_of_its_seal_is_only_a_prefix_and_never_accepted() {
    let stripped = Parts { seal: None, ..sealed_parts() };
    let report = verify_parts(&stripped);
    unaccepted(&report, Verdict::Aborted, Accepted::No, "whole record");
    // Its receipt was for the whole.
    let receipted = Parts { seal: None, ..with_receipt(&Recipe::default(), sealed_parts()) };
    refused(&verify_parts(&receipted), Rule::R17, "host receipt (claim)");
}

#[test]
fn a_prefix_may_end_before_the_first_checkpoint() {
    let mut parts = parts(&Recipe::default(), Ending::Killed);
    parts.leaves.clear();
    parts.events.truncate(1);
    parts.checkpoint.clear();
    parts.disclosed = None;
    let report = verify_parts(&parts);
    assert_eq!((report.verdict, report.extent.as_deref()), (Verdict::Aborted, Some("prefix(0)")), "{}", report.human());
}

// R12, R15: fail closed ---------------------------------------------------------------------------------------------------------

#[test]
fn sessions_that_rest_on_rules_not_built_yet_are_not_told_to_be_sealed() {
    let recipe = Recipe { intent: |intent| intent.authority = Authority::EndToEnd, ..Recipe::default() };
    unaccepted(&verify(&recipe), Verdict::Indeterminate, Accepted::CannotTell, Rule::R12.title());
    let recipe = Recipe { intent: |intent| intent.durability = Durability::Strict, ..Recipe::default() };
    unaccepted(&verify(&recipe), Verdict::Indeterminate, Accepted::CannotTell, Rule::R15.title());
}

// R16, R17 ---------------------------------------------------------------------------------------------------------------------

#[test]
fn a_disclosed_part_must_open_the_commitment_of_its_own_leaf() {
    let changes: [fn(&mut Vec<coffer_evidence::call::Disclosed>); 4] = [
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

// R18, R19 ---------------------------------------------------------------------------------------------------------------------

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
    };
    let report = expect(met);
    assert_eq!(report.accepted, Accepted::Yes, "{}", report.human());
    assert_eq!(report.checks.iter().filter(|check| check.rule == Rule::R18).count(), 4);

    let session = Some(coffer_evidence::ids::SessionId::new([1; 16]));
    unaccepted(&expect(Expectations { session, ..none() }), Verdict::Sealed, Accepted::No, "expected session");
    let other = Some(PublicKey::of(&key(66)));
    unaccepted(&expect(Expectations { owner: other, ..none() }), Verdict::Sealed, Accepted::No, "expected owner");
    let instance = Some(coffer_evidence::ids::InstanceId::new([1; 32]));
    unaccepted(&expect(Expectations { instance, ..none() }), Verdict::Sealed, Accepted::No, "expected instance");
}

#[test]
fn a_note_seen_during_the_session_must_be_a_prefix_of_the_bundles_log() {
    let whole = parts(&Recipe::default(), Ending::Sealed);
    let origin = opening(&Recipe::default()).intent.origin();
    let note =
        |size: u64, root: Digest256, by: u8| sign_note(&key(by), &Checkpoint { origin: origin.clone(), size, root });
    let two = {
        let mut tree = coffer_evidence::tree::Tree::new();
        whole.leaves[..2].iter().for_each(|leaf| tree.append(coffer_evidence::tree::leaf_hash(leaf)));
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
