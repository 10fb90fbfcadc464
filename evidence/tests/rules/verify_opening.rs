//! What a host checks before it calls a session ready, on simulated openings and on a real quote.

use coffer_evidence::collateral::Collateral;
use coffer_evidence::config::Launch;
use coffer_evidence::intent::PooledAllowed;
use coffer_evidence::manifest::Profile;
use coffer_evidence::sign::PublicKey;
use coffer_evidence::verify::{OpeningError, Platform, Rule, TrustAnchor, VerifiedOpening, verify_opening};

use crate::boot_log::{log, small_boot};
use crate::booted::{booted, named};
use crate::platform::{self, DECEMBER, Dates, Tcb};
use crate::session::{AT, Opening, PERMIT_ALL, Recipe, key, log_key, opening, publisher};
use crate::vectors::{collateral, not_run, vector};

fn simulated() -> Collateral {
    platform::collateral(Dates::NOVEMBER, Tcb::UP_TO_DATE)
}

fn check(opening: &Opening, publishers: &[PublicKey], at: u64) -> Result<VerifiedOpening, OpeningError> {
    let open = coffer_evidence::fields::Canonical::to_bytes(&opening.open);
    verify_opening(
        &open,
        &opening.quote,
        &simulated(),
        &opening.image_dsse,
        publishers,
        &opening.config,
        PERMIT_ALL.as_bytes(),
        at,
        &TrustAnchor::Simulated,
    )
}

#[test]
fn a_genuine_opening_is_verified_and_its_keys_are_handed_out() {
    let opening = opening(&Recipe::default());
    let verified = check(&opening, &[PublicKey::of(&publisher())], AT).expect("a genuine opening");
    assert_eq!(verified.platform, Platform::Simulated);
    assert_eq!(verified.instance, opening.open.instance());
    assert_eq!(verified.log_key, PublicKey::of(&log_key()));
    assert_eq!(verified.publisher, Some(PublicKey::of(&publisher())));
    assert_eq!(verified.quote, opening.quote);
}

#[test]
fn padding_of_the_quoting_service_is_cut_before_anything_is_hashed() {
    let mut padded = opening(&Recipe::default());
    let quote = padded.quote.clone();
    padded.quote.resize(8000, 0);
    assert_eq!(check(&padded, &[], AT).expect("a padded quote").quote, quote);
    *padded.quote.last_mut().expect("bytes") = 1;
    assert_eq!(check(&padded, &[], AT).expect_err("rubbish").rule, Rule::R4);
}

#[test]
fn an_opening_is_refused_by_the_rule_that_it_breaks() {
    let cases: [(Rule, Recipe); 7] = [
        (
            Rule::R3,
            Recipe { intent: |intent| intent.image = coffer_evidence::ids::Digest256::of(b""), ..Recipe::default() },
        ),
        (Rule::R4, Recipe { opening_td: |td| td.td_attributes |= 1, ..Recipe::default() }),
        (Rule::R5, Recipe { manifest: |manifest| manifest.profile = Profile::Tdx, ..Recipe::default() }),
        (Rule::R7, Recipe { opening_td: |td| td.rtmr[1][0] ^= 1, ..Recipe::default() }),
        (Rule::R8, Recipe { config: |config| config.owner_sig[0] ^= 1, ..Recipe::default() }),
        (Rule::R8, Recipe { opening_td: |td| td.mr_config_id[0] ^= 1, ..Recipe::default() }),
        (Rule::R9, Recipe { opening_td: |td| td.rtmr[3] = [0; 48], ..Recipe::default() }),
    ];
    for (rule, recipe) in cases {
        let error = check(&opening(&recipe), &[], AT).expect_err("a broken opening");
        assert_eq!(error.rule, rule, "{error}");
    }
}

#[test]
fn a_publisher_that_is_not_pinned_and_stale_collateral_are_refused() {
    let opening = opening(&Recipe::default());
    assert_eq!(check(&opening, &[PublicKey::of(&key(77))], AT).expect_err("a stranger").rule, Rule::R3);
    assert!(check(&opening, &[], AT).is_ok(), "none is pinned, and anyone can forge this anyway");
    let stale = check(&opening, &[], DECEMBER).expect_err("stale collateral");
    assert_eq!((stale.rule, stale.name), (Rule::R4, "collateral is current"));
}

#[test]
fn the_event_log_of_an_opening_may_be_absent_on_the_simulated_platform_and_must_be_true() {
    let verified = check(&opening(&Recipe::default()), &[], AT).expect("a genuine opening");
    assert_eq!(verified.judge_event_log(None), Ok(()));
    for ccel in [b"garbage".to_vec(), log(&small_boot())] {
        let error = verified.judge_event_log(Some(&ccel)).expect_err("another boot");
        assert_eq!((error.rule, error.name), (Rule::R7, "event log (CCEL) replays"));
    }
    let with = Recipe { manifest: named, opening_td: booted, ..Recipe::default() };
    let verified = check(&opening(&with), &[], AT).expect("a genuine opening");
    assert_eq!(verified.judge_event_log(Some(&log(&small_boot()))), Ok(()));
}

#[test]
fn an_image_made_for_the_simulator_is_refused_under_intels_root() {
    let path = "dcap-qvl/tdx_quote";
    let (Some(quote), Some(set)) = (vector(path), collateral("dcap-qvl/tdx_quote_collateral.json")) else {
        return not_run(path);
    };
    let judge = |recipe: &Recipe| {
        let opening = opening(recipe);
        verify_opening(
            &coffer_evidence::fields::Canonical::to_bytes(&opening.open),
            &quote,
            &set,
            &opening.image_dsse,
            &[],
            &opening.config,
            PERMIT_ALL.as_bytes(),
            1_750_415_547,
            &TrustAnchor::Intel,
        )
        .expect_err("a real quote of another TD")
    };
    let mixed = judge(&Recipe::default());
    assert_eq!((mixed.rule, mixed.name), (Rule::R5, "image profile fits the root"));
    // The control: with the right profile the next thing that is wrong is the boot.
    let fitting = judge(&Recipe { manifest: |manifest| manifest.profile = Profile::Tdx, ..Recipe::default() });
    assert_eq!(fitting.rule, Rule::R7);
}

#[test]
fn an_opening_from_a_pool_without_its_pool_configuration_is_refused() {
    let pooled = opening(&Recipe {
        intent: |intent| intent.pooled = PooledAllowed::Yes,
        config: |config| config.host.launch = Launch::Pooled,
        open: |open| (open.launch, open.bind_nonce) = (Launch::Pooled, Some([7; 32])),
        ..Recipe::default()
    });
    let refused = check(&pooled, &[], AT).expect_err("nobody knows what its registers must hold");
    assert_eq!((refused.rule, refused.name), (Rule::R8, "pool configuration"));
}
