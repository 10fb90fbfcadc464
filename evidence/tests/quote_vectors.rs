//! Real quotes, at the times and with the results that the vectors' README states, each refusal for its own cause.
#![cfg(feature = "verifier")]

#[path = "support/vectors.rs"]
mod vectors;

use coffer_evidence::collateral::Collateral;
use coffer_evidence::quote::{AttributeFault, BodyForm, Quote, QuoteError};
use coffer_evidence::verify::{Moment, Padding, QuoteRefusal, TcbStatus, TrustAnchor, VerifiedQuote, verify_quote};
use vectors::{collateral, not_run, vector};

const TDX_QUOTE: &str = "dcap-qvl/tdx_quote";
const TDX_QUOTE_COLLATERAL: &str = "dcap-qvl/tdx_quote_collateral.json";
const OUTDATED: &str = "dcap-qvl/tdx_quote_outdated";
const OUTDATED_COLLATERAL: &str = "dcap-qvl/tdx_quote_outdated_collateral.json";
const EXTENDED: &str = "dcap-qvl/tdx_quote_td15ex";
const EXTENDED_COLLATERAL: &str = "dcap-qvl/tdx_quote_td15ex_collateral.json";
const DEBUG: &str = "trustee/tdx_quote_4.dat";
const GCP: &str = "attested-tls/gcp-tdx-1782809233226668671";
const GCP_COLLATERAL: &str = "attested-tls/gcp-tdx-collateral-1782809233226668671.yaml";
const DSTACK: &str = "dstack/quote-report.json";
const IN_WINDOW: u64 = 1_750_415_547;

fn verify(quote: &[u8], collateral: &Collateral, at: u64) -> Result<VerifiedQuote, QuoteRefusal> {
    verify_quote(quote, collateral, &TrustAnchor::pinned(), Moment::At(at), Padding::Zeros)
}

fn quote_of(path: &str) -> Option<Vec<u8>> {
    let bytes = vector(path)?;
    if path != DSTACK {
        return Some(bytes);
    }
    let report: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    Some(hex::decode(report["quote"].as_str().expect("a quote")).expect("hex"))
}

#[test]
fn our_parser_reads_real_quotes_as_dcap_qvl_does() {
    for (path, used, form) in [
        (TDX_QUOTE, 4936, BodyForm::V10),
        (OUTDATED, 5006, BodyForm::V15),
        (DEBUG, 4936, BodyForm::V10),
        (GCP, 4935, BodyForm::V10),
        (DSTACK, 4936, BodyForm::V10),
        (EXTENDED, 5247, BodyForm::V15Extended),
    ] {
        let Some(bytes) = quote_of(path) else {
            not_run(path);
            continue;
        };
        let ours = Quote::parse(&bytes).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!((ours.used_length(), ours.body_form()), (used, form), "{path}");
        assert_eq!(Quote::cut(&bytes).unwrap(), &bytes[..used], "{path}");
        let theirs = dcap_qvl::quote::Quote::parse(&bytes).expect("dcap-qvl parses it");
        let report = theirs.report.as_td10().expect("a TD report");
        assert_eq!(ours.tee_tcb_svn(), &report.tee_tcb_svn);
        assert_eq!(ours.mr_seam(), &report.mr_seam);
        assert_eq!(ours.mrsigner_seam(), &report.mr_signer_seam);
        assert_eq!(ours.td_attributes().to_le_bytes(), report.td_attributes);
        assert_eq!(ours.xfam().to_le_bytes(), report.xfam);
        assert_eq!(ours.mrtd(), &report.mr_td);
        assert_eq!(ours.mr_config_id(), &report.mr_config_id);
        assert_eq!(ours.mr_owner(), &report.mr_owner);
        assert_eq!(ours.mr_owner_config(), &report.mr_owner_config);
        assert_eq!(ours.rtmrs(), &[report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3]);
        assert_eq!(ours.report_data(), &report.report_data);
        assert_eq!(ours.td_id().copied(), theirs.report.as_td15_ex().map(|extended| extended.td_id));
        let chain = ours.pck_chain().expect("a canonical chain");
        let theirs = dcap_qvl::intel::extract_cert_chain(&theirs).expect("a chain");
        assert_eq!(vec![chain.leaf, chain.issuer, chain.root], theirs, "{path}");
    }
}

#[test]
fn the_report_of_a_known_quote_has_the_published_values() {
    let Some(bytes) = vector(TDX_QUOTE) else { return not_run(TDX_QUOTE) };
    let quote = Quote::parse(&bytes).unwrap();
    assert_eq!(quote.header().version, 4);
    assert_eq!(hex::encode(quote.tee_tcb_svn()), "06010300000000000000000000000000");
    assert_eq!(quote.td_attributes(), 0x1000_0000);
    assert_eq!(hex::encode(quote.xfam().to_le_bytes()), "e702060000000000");
    assert!(hex::encode(quote.mrtd()).starts_with("91eb2b44d141d4ec"));
    assert!(hex::encode(quote.rtmr(2).unwrap()).starts_with("d833feef2cd94514"));
    assert_eq!(quote.rtmr(3), Some(&[0; 48]));
    assert_eq!(quote.rtmr(4), None);
    assert!(hex::encode(quote.report_data()).starts_with("9a9d48e7f6799642"));
}

#[test]
fn real_quotes_give_the_published_result_at_every_published_time() {
    let up_to_date = Ok(TcbStatus::UpToDate);
    let table: [(&str, &str, u64, Result<TcbStatus, &str>); 21] = [
        (TDX_QUOTE, TDX_QUOTE_COLLATERAL, IN_WINDOW, up_to_date),
        (TDX_QUOTE, TDX_QUOTE_COLLATERAL, 1_750_329_147, up_to_date),
        (TDX_QUOTE, TDX_QUOTE_COLLATERAL, 1_752_919_234, up_to_date),
        (TDX_QUOTE, TDX_QUOTE_COLLATERAL, 1_750_329_146, Err("issue date is in the future")),
        (TDX_QUOTE, TDX_QUOTE_COLLATERAL, 1_752_919_235, Err("CrlExpired")),
        (TDX_QUOTE, TDX_QUOTE_COLLATERAL, 1_753_000_000, Err("TCBInfo expired")),
        (TDX_QUOTE, TDX_QUOTE_COLLATERAL, 1_780_000_000, Err("CrlExpired")),
        (TDX_QUOTE, OUTDATED_COLLATERAL, 1_771_498_731, Err("Fmspc mismatch")),
        (TDX_QUOTE, GCP_COLLATERAL, 1_782_893_539, Err("Fmspc mismatch")),
        (OUTDATED, OUTDATED_COLLATERAL, 1_771_498_731, Err("No matching TCB level found")),
        (OUTDATED, OUTDATED_COLLATERAL, 1_771_412_331, Err("No matching TCB level found")),
        (OUTDATED, OUTDATED_COLLATERAL, 1_774_003_274, Err("No matching TCB level found")),
        (OUTDATED, OUTDATED_COLLATERAL, 1_771_412_330, Err("issue date is in the future")),
        (OUTDATED, OUTDATED_COLLATERAL, 1_774_003_275, Err("CrlExpired")),
        (GCP, GCP_COLLATERAL, 1_782_893_539, up_to_date),
        (GCP, GCP_COLLATERAL, 1_782_807_139, up_to_date),
        (GCP, GCP_COLLATERAL, 1_785_398_027, up_to_date),
        (GCP, GCP_COLLATERAL, 1_782_807_138, Err("issue date is in the future")),
        (GCP, GCP_COLLATERAL, 1_785_398_028, Err("TCBInfo expired")),
        (DSTACK, OUTDATED_COLLATERAL, 1_771_498_731, up_to_date),
        (DSTACK, OUTDATED_COLLATERAL, 1_774_003_275, Err("CrlExpired")),
    ];
    for (path, collateral_path, at, expected) in table {
        let (Some(bytes), Some(set)) = (quote_of(path), collateral(collateral_path)) else {
            not_run(&format!("{path} with {collateral_path}"));
            continue;
        };
        match (verify(&bytes, &set, at), expected) {
            (Ok(verified), Ok(status)) => {
                assert_eq!(verified.tcb_status(), status, "{path} at {at}");
                assert_eq!(verified.anchor(), &TrustAnchor::Intel);
            }
            (Err(refusal), Err(cause)) => {
                assert!(refusal.to_string().contains(cause), "{path} at {at}: expected {cause}, found {refusal}");
            }
            (found, expected) => panic!("{path} at {at}: expected {expected:?}, found {found:?}"),
        }
    }
}

#[test]
fn platforms_of_large_clouds_pass_by_default_and_only_where_their_set_up_is_allowed() {
    use coffer_evidence::verify::{Allowed, Answer, PlatformPolicy};
    let closed = PlatformPolicy { dynamic_platform: Allowed::No, ..PlatformPolicy::default() };
    for (path, set, at) in [
        (TDX_QUOTE, TDX_QUOTE_COLLATERAL, IN_WINDOW),
        (GCP, GCP_COLLATERAL, 1_782_893_539),
        (DSTACK, OUTDATED_COLLATERAL, 1_771_498_731),
    ] {
        let (Some(bytes), Some(set)) = (quote_of(path), collateral(set)) else {
            not_run(path);
            continue;
        };
        let verified = verify(&bytes, &set, at).expect("genuine");
        let answers = PlatformPolicy::default().judge(&verified, at);
        assert!(answers.iter().all(|(_, answer)| !matches!(answer, Answer::Refused(_))), "{path}: {answers:?}");
        let refused = closed.judge(&verified, at);
        let why = refused.iter().find_map(|(name, answer)| match answer {
            Answer::Refused(why) => Some((*name, why.as_str())),
            Answer::Accepted(_) | Answer::NotAsked => None,
        });
        assert_eq!(why, Some(("platform configuration", "a dynamic platform is not allowed")), "{path}");
    }
}

#[test]
fn the_as_of_time_is_the_latest_issue_date_of_the_set_and_inside_its_window() {
    for (path, set, as_of) in [(TDX_QUOTE, TDX_QUOTE_COLLATERAL, 1_750_329_147), (GCP, GCP_COLLATERAL, 1_782_807_139)] {
        let (Some(bytes), Some(set)) = (quote_of(path), collateral(set)) else {
            not_run(path);
            continue;
        };
        let verified = verify_quote(&bytes, &set, &TrustAnchor::pinned(), Moment::AsOf, Padding::Zeros)
            .expect("valid as of issue");
        assert_eq!(verified.as_of(), as_of);
        assert!(verified.as_of() < verified.expires());
    }
}

#[test]
fn an_extended_report_with_its_collateral_is_verified() {
    let (Some(bytes), Some(set)) = (vector(EXTENDED), collateral(EXTENDED_COLLATERAL)) else {
        return not_run(EXTENDED);
    };
    let verified = verify_quote(&bytes, &set, &TrustAnchor::pinned(), Moment::AsOf, Padding::None);
    let verified = verified.unwrap_or_else(|refusal| panic!("{refusal}"));
    assert!(verified.quote().td_id().is_some());
}

#[test]
fn the_debug_quote_is_refused_for_its_debug_bit_and_nothing_else() {
    let Some(bytes) = vector(DEBUG) else { return not_run(DEBUG) };
    let quote = Quote::parse(&bytes).unwrap();
    assert_eq!(quote.report().td_attributes.faults(), [AttributeFault::Debug]);
    let Some(set) = collateral(TDX_QUOTE_COLLATERAL) else { return not_run(TDX_QUOTE_COLLATERAL) };
    assert_eq!(verify(&bytes, &set, IN_WINDOW), Err(QuoteRefusal::Attributes(AttributeFault::Debug)));
}

#[test]
fn a_real_quote_is_refused_under_any_other_anchor() {
    let (Some(bytes), Some(set)) = (vector(TDX_QUOTE), collateral(TDX_QUOTE_COLLATERAL)) else {
        return not_run(TDX_QUOTE);
    };
    for anchors in [vec![], vec![TrustAnchor::Simulated], vec![TrustAnchor::Der(vec![0x30, 0])]] {
        let found = verify_quote(&bytes, &set, &anchors, Moment::At(IN_WINDOW), Padding::Zeros);
        assert_eq!(found, Err(QuoteRefusal::ForeignRoot));
    }
}

#[test]
fn each_published_mutation_is_refused_for_its_own_cause() {
    let (Some(bytes), Some(set)) = (vector(TDX_QUOTE), collateral(TDX_QUOTE_COLLATERAL)) else {
        return not_run(TDX_QUOTE);
    };
    let table: [(usize, u8, &str); 15] = [
        (28, 1, "report signature is invalid"),
        (168, 1, "DEBUG"),
        (170, 1, "report signature is invalid"),
        (184, 1, "report signature is invalid"),
        (376, 1, "report signature is invalid"),
        (520, 1, "report signature is invalid"),
        (568, 1, "report signature is invalid"),
        (640, 1, "report signature is invalid"),
        (700, 1, "QE report hash mismatch"),
        (800, 1, "Signature is invalid for qe_report"),
        (1160, 1, "Signature is invalid for qe_report"),
        (0, 1, "body type"),
        (2, 1, "attestation key type"),
        (4, 1, "TEE type"),
        (12, 1, "vendor id"),
    ];
    for (offset, bit, cause) in table {
        let mut changed = bytes.clone();
        changed[offset] ^= bit;
        let refusal = verify(&changed, &set, IN_WINDOW).expect_err("a changed quote");
        assert!(refusal.to_string().contains(cause), "byte {offset}: expected {cause}, found {refusal}");
    }
    for length in [0, 48, 632, 4935] {
        let refusal = verify(&bytes[..length], &set, IN_WINDOW).expect_err("a cut quote");
        assert!(matches!(refusal, QuoteRefusal::Parse(QuoteError::Truncated { .. })), "{length}: {refusal}");
    }
}

#[test]
fn a_changed_body_header_of_a_version_5_quote_is_refused_before_any_signature() {
    let Some(bytes) = vector(OUTDATED) else { return not_run(OUTDATED) };
    for (offset, expected) in
        [(48, QuoteError::BodyType(0x83)), (50, QuoteError::BodySize { expected: 648, found: 648 ^ 0x80 })]
    {
        let mut changed = bytes.clone();
        changed[offset] ^= 0x80;
        assert_eq!(Quote::parse(&changed), Err(expected));
    }
}

#[test]
fn no_flip_of_a_single_bit_passes_anywhere_in_a_real_quote() {
    let (Some(bytes), Some(set)) = (vector(TDX_QUOTE), collateral(TDX_QUOTE_COLLATERAL)) else {
        return not_run(TDX_QUOTE);
    };
    let bytes = Quote::cut(&bytes).unwrap();
    let mut changed = bytes.to_vec();
    for position in 0..bytes.len() {
        // Every bit of what dcap-qvl lets pass (lengths, types, PEM text); elsewhere one bit a byte, another one each time.
        let loose = matches!(position, 632..636 | 764..770 | 1252..1258 | 3900..);
        let bits = if loose { 0..8 } else { position % 8..position % 8 + 1 };
        for bit in bits {
            changed[position] ^= 1 << bit;
            assert!(verify(&changed, &set, IN_WINDOW).is_err(), "byte {position} bit {bit} is free");
            changed[position] ^= 1 << bit;
        }
    }
    assert!(verify(&changed, &set, IN_WINDOW).is_ok());
}

#[test]
fn only_zeros_may_follow_a_quote_and_none_inside_a_bundle() {
    let (Some(bytes), Some(set)) = (vector(TDX_QUOTE), collateral(TDX_QUOTE_COLLATERAL)) else {
        return not_run(TDX_QUOTE);
    };
    let in_bundle =
        |quote: &[u8]| verify_quote(quote, &set, &TrustAnchor::pinned(), Moment::At(IN_WINDOW), Padding::None);
    let cut = Quote::cut(&bytes).unwrap();
    assert!(in_bundle(cut).is_ok());
    assert_eq!(in_bundle(&bytes), Err(QuoteRefusal::Padded { surplus: 70 }));
    for position in [4936, 4970, 5005] {
        let mut changed = bytes.clone();
        changed[position] = 1;
        let expected = QuoteRefusal::Parse(QuoteError::Trailing { used: 4936, offset: position });
        assert_eq!(verify(&changed, &set, IN_WINDOW), Err(expected));
    }
}

#[test]
fn no_prefix_of_a_quote_parses_and_none_panics() {
    for path in [TDX_QUOTE, OUTDATED, EXTENDED] {
        let Some(bytes) = vector(path) else {
            not_run(path);
            continue;
        };
        let used = Quote::parse(&bytes).unwrap().used_length();
        for length in 0..used {
            assert!(Quote::parse(&bytes[..length]).is_err(), "{path} cut to {length}");
        }
    }
}

#[test]
fn collateral_in_another_form_is_refused() {
    let (Some(bytes), Some(set)) = (vector(TDX_QUOTE), collateral(TDX_QUOTE_COLLATERAL)) else {
        return not_run(TDX_QUOTE);
    };
    let refused = |change: &dyn Fn(&mut Collateral)| {
        let mut changed = set.clone();
        change(&mut changed);
        matches!(verify(&bytes, &changed, IN_WINDOW), Err(QuoteRefusal::Collateral { .. } | QuoteRefusal::Parse(_)))
    };
    assert!(refused(&|set| set.pck_crl_issuer_chain.push(b'\n')));
    assert!(refused(&|set| set.pck_crl_issuer_chain = set.tcb_info_issuer_chain.clone()));
    assert!(refused(&|set| set.tcb_info_issuer_chain.truncate(100)));
    assert!(refused(&|set| set.qe_identity_issuer_chain = set.pck_crl_issuer_chain.repeat(2)));
    assert!(refused(&|set| set.tcb_info = b"{}".to_vec()));
    assert!(refused(&|set| set.root_ca_crl.clear()));
    assert!(refused(&|set| set.pck_certificate_chain = Some(set.pck_crl_issuer_chain.clone())));
}
