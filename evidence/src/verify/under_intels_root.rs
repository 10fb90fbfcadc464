//! Whole bundles as they are judged under Intel's root. Nobody can make one without a TDX host, so in these unit tests, and in no
//! product, one more certificate has the label of Intel's root: a twin of the simulator's, whose key is published. Everything
//! behind the label runs as it is; that the label is Intel's alone is tested with the anchors, on bytes.

use std::sync::LazyLock;

use super::{
    AcceptPrefix, AcceptSimulated, Accepted, AnyOwner, AppraisalPolicy, OpeningError, Options, Platform, Report, Rule,
    TrustAnchor, Verdict, VerifiedOpening, verify_bundle, verify_opening,
};
use crate::bundle::{self, Parts};
use crate::collateral::Collateral;
use crate::fields::Canonical as _;
use crate::fixtures::boot_log::{log, small_boot};
use crate::fixtures::booted::{booted, named};
use crate::fixtures::certificates::{rooted, third_root};
use crate::fixtures::platform::{Dates, PLATFORM_INSTANCE, ROOT_DER, Tcb, collateral};
use crate::fixtures::session::{AT, Ending, PERMIT_ALL, Recipe, opening, owner, parts, publisher, talk};
use crate::leaf::{Leaf, Public, StepResult};
use crate::manifest::{ImageManifest, Profile};
use crate::sign::PublicKey;

/// Stands in for Intel's root.
pub(super) static STAND_IN: LazyLock<Vec<u8>> = LazyLock::new(third_root);

fn root() -> &'static [u8] {
    STAND_IN.as_slice()
}

/// An image for TDX hosts.
fn for_tdx(manifest: &mut ImageManifest) {
    named(manifest);
    manifest.profile = Profile::Tdx;
}

fn recipe() -> Recipe {
    Recipe { opening_root: root(), final_root: root(), manifest: for_tdx, opening_td: booted, ..Recipe::default() }
}

fn made(recipe: &Recipe, ending: Ending) -> Parts {
    let mut parts = Parts { ccel: Some(log(&small_boot())), ..parts(recipe, ending) };
    rooted(&mut parts.open_collateral, root());
    if let Some(seal) = &mut parts.seal {
        rooted(&mut seal.collateral, root());
    }
    parts
}

/// Everything pinned that an organisation would pin.
fn pins() -> String {
    let (publisher, owner) = (PublicKey::of(&publisher()), PublicKey::of(&owner()));
    format!("anchor = \"intel.der\"\npublishers = [\"{publisher}\"]\nowners = [\"{owner}\"]\n")
}

fn options(policy: &str) -> Options {
    let policy = AppraisalPolicy::parse(policy).expect("a policy").with_anchor_file(root().to_vec());
    Options { at: AT, policy: Some(policy), ..Options::default() }
}

fn judged(parts: &Parts, options: &Options) -> Report {
    verify_bundle(&bundle::write(parts), options)
}

#[track_caller]
fn is(report: &Report, verdict: Verdict, accepted: Accepted, in_the_way: &[(Rule, &str)]) {
    let found: Vec<(Rule, &str)> = report.obstacles().map(|check| (check.rule, check.name)).collect();
    let all = (report.verdict, report.accepted, found.as_slice());
    assert_eq!(all, (verdict, accepted, in_the_way), "{}", report.human());
}

fn row<'a>(report: &'a Report, name: &str) -> &'a str {
    let row = report.checks.iter().find(|check| check.name == name);
    row.map_or_else(|| panic!("no row {name}:\n{}", report.human()), |check| check.reason.as_str())
}

#[test]
fn a_sealed_bundle_of_a_pinned_publisher_and_owner_is_accepted_without_any_flag() {
    let report = judged(&made(&recipe(), Ending::Sealed), &options(&pins()));
    is(&report, Verdict::Sealed, Accepted::Yes, &[]);
    assert_eq!(report.platform.as_deref(), Some("tdx"));
    assert_eq!(row(&report, "platform list"), "the policy names none");
    assert_eq!(row(&report, "region"), "none is demanded");
    assert!(report.checks.iter().all(|check| check.name != "platform is real"), "{}", report.human());
}

#[test]
fn what_is_said_of_a_sealed_bundle_is_what_the_specification_lets_be_said() {
    let report = judged(&made(&recipe(), Ending::Sealed), &options(&pins()));
    let sealed = format!(
        "A TD on platform {}, TCB status UpToDate under Intel collateral issued 2026-11-01T00:00:00Z, booted image base 1 \
         published by {}, recorded these 9 leaves and no others in this instance, and sealed. The guest attested the scrub steps \
         before the seal. Time of day, location, the cause of a close by the host, and destruction of memory are not proven. Other \
         sessions, or twins of this one, may exist.",
        hex::encode(PLATFORM_INSTANCE),
        PublicKey::of(&publisher()),
    );
    assert_eq!(
        report.words,
        [
            sealed.as_str(),
            "The host ordered these calls for its clients and could have added or changed any.",
            "Tools killed, tool secrets zeroised, memory file systems unmounted and freed, log key destroyed, before the final quote.",
        ]
    );
}

/// An owner who named this instance would not have named its twin; where nobody named one, both are accepted.
#[test]
fn twins_are_said_to_be_unaccepted_only_where_the_owner_named_this_one() {
    let named = Recipe { intent: talk::end_to_end, talk: Some(talk::usual), ..recipe() };
    for (recipe, words) in [(named, "or unaccepted twins of this one"), (recipe(), "or twins of this one")] {
        let report = judged(&made(&recipe, Ending::Sealed), &options(&pins()));
        is(&report, Verdict::Sealed, Accepted::Yes, &[]);
        assert!(report.words.iter().any(|said| said.contains(words)), "{words}: {:?}", report.words);
    }
}

#[test]
fn erasure_is_not_said_where_a_step_failed_or_is_missing() {
    let failed = |leaves: &mut Vec<Leaf>| {
        let Public::Scrub { steps } = &mut leaves[7].public else { panic!("leaf 7 scrubs") };
        steps[1].1 = StepResult::Failed;
    };
    let missing = |leaves: &mut Vec<Leaf>| {
        let Public::Scrub { steps } = &mut leaves[7].public else { panic!("leaf 7 scrubs") };
        steps.pop();
    };
    let idle = |leaves: &mut Vec<Leaf>| {
        let Public::Scrub { steps } = &mut leaves[7].public else { panic!("leaf 7 scrubs") };
        steps.iter_mut().for_each(|step| step.1 = StepResult::NothingToDo);
    };
    let twice = |leaves: &mut Vec<Leaf>| {
        let Public::Scrub { steps } = &mut leaves[7].public else { panic!("leaf 7 scrubs") };
        steps.push((steps[1].0, StepResult::Failed));
    };
    type Change = fn(&mut Vec<Leaf>);
    let changes: [(Change, bool); 4] = [(failed, false), (missing, false), (twice, false), (idle, true)];
    for (leaves, said) in changes {
        let report = judged(&made(&Recipe { leaves, ..recipe() }, Ending::Sealed), &options(&pins()));
        is(&report, Verdict::Sealed, Accepted::Yes, &[]);
        assert_eq!(report.words.iter().any(|words| words.contains("zeroised")), said, "{:?}", report.words);
    }
}

#[test]
fn an_unknown_publisher_leaves_the_verdict_open() {
    let owner = PublicKey::of(&owner());
    let named = "manifest signed by a pinned publisher";
    let whole = made(&recipe(), Ending::Sealed);
    let report = judged(&whole, &options(&format!("anchor = \"intel.der\"\nowners = [\"{owner}\"]\n")));
    is(&report, Verdict::Indeterminate, Accepted::CannotTell, &[(Rule::R3, named), (Rule::R19, "publisher")]);
    assert_eq!(report.words, [""; 0], "nothing is said of it");
    // A list without the publisher is an answer.
    let other = format!("anchor = \"intel.der\"\npublishers = [\"{owner}\"]\nowners = [\"{owner}\"]\n");
    let report = judged(&whole, &options(&other));
    is(&report, Verdict::Indeterminate, Accepted::No, &[(Rule::R3, named), (Rule::R19, "publisher")]);
}

#[test]
fn an_owner_whom_nobody_names_is_not_told_to_be_one() {
    let whole = made(&recipe(), Ending::Sealed);
    let publisher = PublicKey::of(&publisher());
    let unnamed = options(&format!("anchor = \"intel.der\"\npublishers = [\"{publisher}\"]\n"));
    is(&judged(&whole, &unnamed), Verdict::Sealed, Accepted::CannotTell, &[(Rule::R19, "owner")]);
    let any = Options { any_owner: AnyOwner::Yes, ..unnamed };
    is(&judged(&whole, &any), Verdict::Sealed, Accepted::Yes, &[]);
    let other = format!("anchor = \"intel.der\"\npublishers = [\"{publisher}\"]\nowners = [\"{publisher}\"]\n");
    let other = Options { any_owner: AnyOwner::Yes, ..options(&other) };
    is(&judged(&whole, &other), Verdict::Sealed, Accepted::No, &[(Rule::R19, "owner")]);
}

#[test]
fn the_event_log_may_not_be_absent_and_must_replay() {
    let absent = Parts { ccel: None, ..made(&recipe(), Ending::Sealed) };
    let check = (Rule::R7, "event log (CCEL) replays");
    is(&judged(&absent, &options(&pins())), Verdict::Indeterminate, Accepted::CannotTell, &[check]);
    let shorter = Parts { ccel: Some(log(&small_boot()[..4])), ..made(&recipe(), Ending::Sealed) };
    is(&judged(&shorter, &options(&pins())), Verdict::Invalid, Accepted::No, &[check]);
}

#[test]
fn an_image_of_the_simulator_is_refused() {
    let simulated = |manifest: &mut ImageManifest| {
        named(manifest);
        manifest.profile = Profile::Simulated;
    };
    let report = judged(&made(&Recipe { manifest: simulated, ..recipe() }, Ending::Sealed), &options(&pins()));
    is(&report, Verdict::Invalid, Accepted::No, &[(Rule::R5, "image profile fits the root")]);
}

#[test]
fn a_seal_of_the_simulator_is_refused_and_so_is_its_opening() {
    let report = judged(&made(&Recipe { final_root: ROOT_DER, ..recipe() }, Ending::Sealed), &options(&pins()));
    is(&report, Verdict::Invalid, Accepted::No, &[(Rule::R4, "final quote")]);
    let report = judged(&made(&Recipe { opening_root: ROOT_DER, ..recipe() }, Ending::Sealed), &options(&pins()));
    is(&report, Verdict::Invalid, Accepted::No, &[(Rule::R4, "opening quote")]);
}

#[test]
fn a_prefix_is_genuine_and_accepted_on_request_alone() {
    let prefix = made(&recipe(), Ending::Killed);
    let report = judged(&prefix, &options(&pins()));
    is(&report, Verdict::Aborted, Accepted::No, &[(Rule::R19, "whole record")]);
    assert_eq!(
        report.words,
        [
            "A prefix of 6 leaves is genuine; nothing is known after it; a longer or sealed bundle may exist. The cause is the host's \
             claim.",
            "The host ordered these calls for its clients and could have added or changed any.",
        ]
    );
    let asked = Options { accept_prefix: AcceptPrefix::Yes, ..options(&pins()) };
    is(&judged(&prefix, &asked), Verdict::Aborted, Accepted::Yes, &[]);
}

#[test]
fn to_accept_the_simulated_changes_nothing() {
    let whole = made(&recipe(), Ending::Sealed);
    let with = Options { accept_simulated: AcceptSimulated::Yes, ..options(&pins()) };
    assert_eq!(judged(&whole, &with), judged(&whole, &options(&pins())));
    let stale = Tcb { status: "OutOfDate", ..Tcb::UP_TO_DATE };
    let report = judged(&made(&Recipe { tcb: stale, ..recipe() }, Ending::Sealed), &with);
    is(&report, Verdict::Sealed, Accepted::No, &[(Rule::R19, "TCB status")]);
}

#[test]
fn a_region_is_shown_by_the_platform_list_alone() {
    let demanding = Recipe { intent: |intent| intent.region = "eu".to_owned(), ..recipe() };
    let whole = made(&demanding, Ending::Sealed);
    let report = judged(&whole, &options(&pins()));
    is(&report, Verdict::Sealed, Accepted::Yes, &[]);
    assert_eq!(row(&report, "region"), "eu is demanded, not shown");
    let listed = |id: &[u8], region: &str| {
        let id = hex::encode(id);
        format!("{}[[platforms]]\nname = \"rack 7\"\nid = \"{id}\"\nregion = \"{region}\"\n", pins())
    };
    let report = judged(&whole, &options(&listed(&PLATFORM_INSTANCE, "eu")));
    is(&report, Verdict::Sealed, Accepted::Yes, &[]);
    assert_eq!((row(&report, "platform list"), row(&report, "region")), ("rack 7", "eu"));
    let elsewhere = judged(&whole, &options(&listed(&PLATFORM_INSTANCE, "us")));
    is(&elsewhere, Verdict::Sealed, Accepted::No, &[(Rule::R19, "region")]);
    let unlisted = judged(&whole, &options(&listed(&[7; 16], "eu")));
    is(&unlisted, Verdict::Sealed, Accepted::No, &[(Rule::R19, "platform list")]);
}

fn opening_judged(publishers: &[PublicKey]) -> Result<VerifiedOpening, OpeningError> {
    let opening = opening(&recipe());
    let mut set = collateral(Dates::NOVEMBER, Tcb::UP_TO_DATE).to_bytes();
    rooted(&mut set, root());
    verify_opening(
        &opening.open.to_bytes(),
        &opening.quote,
        &Collateral::parse(&set).expect("collateral"),
        &opening.image_dsse,
        publishers,
        &opening.config,
        PERMIT_ALL.as_bytes(),
        AT,
        &TrustAnchor::Der(root().to_vec()),
    )
}

#[test]
fn a_host_refuses_an_opening_of_an_unknown_publisher_or_without_its_event_log() {
    let verified = opening_judged(&[PublicKey::of(&publisher())]).expect("a genuine opening");
    assert_eq!((verified.platform, verified.publisher), (Platform::Tdx, Some(PublicKey::of(&publisher()))));
    assert_eq!(verified.judge_event_log(Some(&log(&small_boot()))), Ok(()));
    for absent in [None, Some(&log(&small_boot()[..4])[..]), Some(&b"garbage"[..])] {
        let refused = verified.judge_event_log(absent).expect_err("no event log that replays");
        assert_eq!((refused.rule, refused.name), (Rule::R7, "event log (CCEL) replays"));
    }
    for others in [&[][..], &[PublicKey::of(&owner())]] {
        let refused = opening_judged(others).expect_err("nobody pinned the publisher");
        assert_eq!((refused.rule, refused.name), (Rule::R3, "publisher"));
    }
}
