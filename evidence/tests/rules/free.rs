//! An ECDSA signature (r, s) has a second form, (r, n - s), that verifies as well. Intel's quoting enclaves make both, so neither
//! can be refused for its form: what matters is what a second form of a quote can do.

use coffer_evidence::quote::Quote;
use coffer_evidence::verify::{Accepted, Rule, Verdict};
use p256::ecdsa::Signature;

use crate::judging::{refused, sealed_parts, verify_parts};
use crate::session::{Recipe, with_receipt};

/// Where r ‖ s of the attestation key's signature stands in a version 4 quote: header, report, length.
const SIGNATURE: std::ops::Range<usize> = 48 + 584 + 4..48 + 584 + 4 + 64;

fn second_form(quote: &mut [u8]) {
    let signature = Signature::from_slice(&quote[SIGNATURE]).expect("a signature");
    let (r, s) = signature.split_scalars();
    let other = Signature::from_scalars(r, -s).expect("a signature");
    assert_ne!(signature, other);
    quote[SIGNATURE].copy_from_slice(&other.to_bytes());
    assert!(Quote::parse(quote).is_ok());
}

/// Adds the NUL that real quoting enclaves write after the chain of certificates, and one to each length around it.
fn with_final_nul(quote: &mut Vec<u8>) {
    let authentication = usize::from(u16::from_le_bytes([quote[1218], quote[1219]]));
    let chain = 1218 + 2 + authentication + 2;
    for at in [632, 766, chain] {
        let length: [u8; 4] = quote[at..at + 4].try_into().expect("a length");
        quote[at..at + 4].copy_from_slice(&(u32::from_le_bytes(length) + 1).to_le_bytes());
    }
    quote.push(0);
    let parsed = Quote::parse(quote).expect("a quote");
    assert_eq!((parsed.used_length(), parsed.pck_chain().is_ok()), (quote.len(), true));
}

#[test]
fn the_nul_after_the_chain_is_free_in_the_final_quote_alone() {
    let mut parts = sealed_parts();
    with_final_nul(&mut parts.open_quote);
    refused(&verify_parts(&parts), Rule::R10, "leaves in order");
    let mut parts = sealed_parts();
    with_final_nul(&mut parts.seal.as_mut().expect("a seal").quote);
    assert_eq!(verify_parts(&parts).verdict, Verdict::Sealed);
}

#[test]
fn the_second_form_of_an_opening_quote_is_refused_by_leaf_0() {
    let mut parts = sealed_parts();
    second_form(&mut parts.open_quote);
    refused(&verify_parts(&parts), Rule::R10, "leaves in order");
}

/// Nothing inside the TD comes after the final quote. Its second form seals the same record, and no other.
#[test]
fn the_second_form_of_a_final_quote_says_the_same_and_does_not_fit_the_receipt() {
    let mut parts = sealed_parts();
    let first = verify_parts(&parts);
    second_form(&mut parts.seal.as_mut().expect("a seal").quote);
    let second = verify_parts(&parts);
    assert_eq!((second.verdict, second.accepted), (Verdict::Sealed, Accepted::Yes), "{}", second.human());
    assert_eq!((&second.instance, &second.extent, &second.words), (&first.instance, &first.extent, &first.words));
    assert_ne!(second.bundle_id, first.bundle_id);

    let mut receipted = with_receipt(&Recipe::default(), sealed_parts());
    second_form(&mut receipted.seal.as_mut().expect("a seal").quote);
    refused(&verify_parts(&receipted), Rule::R17, "host receipt (claim)");
}
