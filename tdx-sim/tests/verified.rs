//! Simulated quotes and collateral go through the same verifier as real ones, under the simulator's root and no other.

use coffer_tdx_sim::collateral::{VALIDITY_SECONDS, collateral};
use coffer_tdx_sim::pki::ROOT_DER;
use coffer_tdx_sim::protocol::Registers;
use coffer_tdx_sim::quote::quote;
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteClaims, QuoteCollateralV3, QuotePolicy};

const AT: u64 = 1_770_000_000;

fn simulated() -> (Vec<u8>, QuoteCollateralV3) {
    let bytes: Vec<u8> = (1..=8).flat_map(|n| [n; 48]).collect();
    let registers = Registers::from_bytes(&bytes).expect("eight registers");
    let json = collateral(AT).expect("collateral").to_json();
    (quote(&registers, &[0x42; 64]), serde_json::from_slice(&json).expect("the JSON form of dcap-qvl"))
}

fn strictly(verifier: &QuoteVerifier, at: u64) -> Result<QuoteClaims, String> {
    let (quote, collateral) = simulated();
    verifier.verify_with_policy(&quote, &collateral, at, &QuotePolicy::strict(at)).map_err(|error| format!("{error:#}"))
}

#[test]
fn a_simulated_quote_is_up_to_date_under_the_simulated_root_and_the_strictest_policy() {
    let verifier = QuoteVerifier::new(ROOT_DER.to_vec());
    let claims = strictly(&verifier, AT).expect("accepted");
    assert_eq!(claims.tcb.status.to_string(), "UpToDate");
    assert_eq!(claims.platform.pck.fmspc, *b"SIM\0\0\0");
    assert_eq!(claims.report.as_td10().expect("a TD report").report_data, [0x42; 64]);
}

#[test]
fn a_simulated_quote_is_refused_under_the_root_of_intel() {
    let error = strictly(&QuoteVerifier::new_prod(), AT).expect_err("refused");
    assert!(error.contains("CRL"), "{error}");
}

#[test]
fn collateral_is_valid_for_thirty_days_from_its_time_of_issue() {
    let verifier = QuoteVerifier::new(ROOT_DER.to_vec());
    assert!(strictly(&verifier, AT + VALIDITY_SECONDS - 1).is_ok());
    let early = strictly(&verifier, AT - 1).expect_err("not yet issued");
    assert!(early.contains("in the future"), "{early}");
    assert!(strictly(&verifier, AT + VALIDITY_SECONDS + 1).is_err());
}

#[test]
fn a_changed_register_or_report_data_breaks_the_signature() {
    let verifier = QuoteVerifier::new(ROOT_DER.to_vec());
    let (quote, collateral) = simulated();
    for at in [28, 168, 184, 376, 520, 568] {
        let mut other = quote.clone();
        other[at] ^= 1;
        assert!(verifier.verify(&other, &collateral, AT).is_err(), "byte {at}");
    }
    assert!(verifier.verify(&quote, &collateral, AT).is_ok());
}
