//! Each ECDSA signature (r, s) of a bundle in its second form, (r, n - s), and the other freedoms that no change of one byte
//! shows. `docs/verifier-rules.md` lists what is free; here each is shown to be free still, and the rest refused still.

use coffer_evidence::bundle::{Parts, SealParts};
use coffer_evidence::collateral::Collateral;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::verify::{Accepted, Rule, Verdict};
use p256::ecdsa::{DerSignature, Signature};

use crate::der::{enclosed, item, signed};
use crate::judging::{refused, verify_parts};
use crate::platform::pem;
use crate::sources::sealed_small;

fn negated(signature: &Signature) -> Signature {
    let (r, s) = signature.split_scalars();
    Signature::from_scalars(r, -s).expect("a signature")
}

fn second_raw(bytes: &mut [u8]) {
    let other = negated(&Signature::from_slice(bytes).expect("a signature"));
    bytes.copy_from_slice(&other.to_bytes());
}

/// A certificate or revocation list, which is a sequence of what is signed, the algorithm, and the signature.
fn second_signed(der: &[u8]) -> Vec<u8> {
    let (signed, rest) = signed(der);
    let (algorithm, bits) = rest.split_at(item(rest).1);
    // A bit string begins with the number of bits that it does not use.
    let signature = DerSignature::try_from(&bits[item(bits).0 + 1..]).expect("a signature");
    let other = DerSignature::from(negated(&Signature::try_from(signature).expect("a signature")));
    let bits = enclosed(3, &[&[0], other.as_bytes()].concat());
    let whole = enclosed(0x30, &[signed, algorithm, &bits].concat());
    assert_ne!(whole, der);
    whole
}

/// Certificate `number` of a chain in PEM.
fn second_certificate(chain: &[u8], number: usize) -> Vec<u8> {
    use base64::Engine as _;
    let text = std::str::from_utf8(chain).expect("PEM");
    let bodies = text.split("-----BEGIN CERTIFICATE-----\n").skip(1);
    let decode = |body: &str| {
        let lines: String = body.lines().take_while(|line| !line.starts_with('-')).collect();
        base64::engine::general_purpose::STANDARD.decode(lines).expect("base64")
    };
    let changed = bodies.map(decode).enumerate().map(|(at, der)| {
        let der = if at == number { second_signed(&der) } else { der };
        pem(&der)
    });
    changed.collect::<String>().into_bytes()
}

/// Where the signatures stand in a version 4 quote, and the PEM after all else.
const OF_QUOTE: std::ops::Range<usize> = 636..700;
const OF_ENCLAVE: std::ops::Range<usize> = 1154..1218;

fn chain_at(quote: &[u8]) -> usize {
    let begin = b"-----BEGIN";
    quote.windows(begin.len()).position(|window| window == begin).expect("a chain")
}

/// Puts another chain into a quote, and its length into the three around it.
fn with_chain(quote: &mut Vec<u8>, chain: &[u8]) {
    let at = chain_at(quote);
    let before = quote.len() - at;
    quote.truncate(at);
    quote.extend(chain);
    for length in [632, 766, at - 4] {
        let found = u32::from_le_bytes(quote[length..length + 4].try_into().expect("a length"));
        let made = found as usize - before + chain.len();
        quote[length..length + 4].copy_from_slice(&u32::try_from(made).expect("short").to_le_bytes());
    }
}

fn certificate_of(quote: &mut Vec<u8>, number: usize) {
    let chain = second_certificate(&quote[chain_at(quote)..], number);
    with_chain(quote, &chain);
}

fn seal(parts: &mut Parts) -> &mut SealParts {
    parts.seal.as_mut().expect("a seal")
}

fn collateral(bytes: &mut Vec<u8>, change: fn(&mut Collateral)) {
    let mut set = Collateral::parse(bytes).expect("collateral");
    change(&mut set);
    *bytes = set.to_bytes();
}

type Change<T> = fn(&mut T);

#[test]
fn the_second_form_of_every_signature_of_a_quote_is_refused_at_the_opening_and_free_at_the_end() {
    let changes: [Change<Vec<u8>>; 3] = [
        |quote| second_raw(&mut quote[OF_QUOTE]),
        |quote| second_raw(&mut quote[OF_ENCLAVE]),
        |quote| certificate_of(quote, 0),
    ];
    let genuine = verify_parts(&sealed_small());
    for change in changes {
        let mut parts = sealed_small();
        change(&mut parts.open_quote);
        refused(&verify_parts(&parts), Rule::R10, "leaves in order");
        let mut parts = sealed_small();
        change(&mut seal(&mut parts).quote);
        let report = verify_parts(&parts);
        assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::Yes), "{}", report.human());
        assert_eq!((report.instance, report.extent, report.words), {
            (genuine.instance.clone(), genuine.extent.clone(), genuine.words.clone())
        });
    }
    // The root is compared with the pinned one, and the authority's certificate with that in the collateral.
    let mut parts = sealed_small();
    certificate_of(&mut seal(&mut parts).quote, 2);
    refused(&verify_parts(&parts), Rule::R4, "final quote");
    let mut parts = sealed_small();
    certificate_of(&mut seal(&mut parts).quote, 1);
    refused(&verify_parts(&parts), Rule::R4, "final quote");
    collateral(&mut seal(&mut parts).collateral, |set| {
        set.pck_crl_issuer_chain = second_certificate(&set.pck_crl_issuer_chain, 0);
    });
    assert_eq!(verify_parts(&parts).verdict, Verdict::Sealed);
}

#[test]
fn endorsements_have_second_forms_and_may_repeat_the_quotes_chain_and_nothing_else() {
    let free: [Change<Collateral>; 6] = [
        |set| set.root_ca_crl = second_signed(&set.root_ca_crl),
        |set| set.pck_crl = second_signed(&set.pck_crl),
        |set| second_raw(&mut set.tcb_info_signature),
        |set| second_raw(&mut set.qe_identity_signature),
        |set| set.tcb_info_issuer_chain = second_certificate(&set.tcb_info_issuer_chain, 0),
        |set| set.qe_identity_issuer_chain = second_certificate(&set.qe_identity_issuer_chain, 0),
    ];
    let refused_ones: [Change<Collateral>; 10] = [
        |set| set.pck_crl_issuer_chain = second_certificate(&set.pck_crl_issuer_chain, 0),
        |set| set.pck_crl_issuer_chain = second_certificate(&set.pck_crl_issuer_chain, 1),
        |set| set.tcb_info_issuer_chain = second_certificate(&set.tcb_info_issuer_chain, 1),
        |set| set.qe_identity_issuer_chain = second_certificate(&set.qe_identity_issuer_chain, 1),
        |set| set.tcb_info.push(b' '),
        |set| set.qe_identity.insert(0, b'\n'),
        |set| set.root_ca_crl.push(0),
        |set| set.pck_crl.push(0),
        |set| std::mem::swap(&mut set.root_ca_crl, &mut set.pck_crl),
        |set| std::mem::swap(&mut set.tcb_info_signature, &mut set.qe_identity_signature),
    ];
    let both = |change: Change<Collateral>| {
        let mut first = sealed_small();
        collateral(&mut first.open_collateral, change);
        let mut last = sealed_small();
        collateral(&mut seal(&mut last).collateral, change);
        [(first, "opening quote"), (last, "final quote")].map(|(parts, name)| (verify_parts(&parts), name))
    };
    for (number, change) in free.into_iter().enumerate() {
        for (report, name) in both(change) {
            let found = (report.verdict, report.accepted);
            assert_eq!(found, (Verdict::Sealed, Accepted::Yes), "{number}, {name}\n{}", report.human());
        }
    }
    for change in refused_ones {
        both(change).iter().for_each(|(report, name)| refused(report, Rule::R4, name));
    }
    let mut parts = sealed_small();
    let chain = parts.open_quote[chain_at(&parts.open_quote)..].to_vec();
    for (tail, verdict) in [(&b""[..], Verdict::Sealed), (b"\0", Verdict::Sealed), (b"\n", Verdict::Invalid)] {
        let mut set = Collateral::parse(&parts.open_collateral).expect("collateral");
        set.pck_certificate_chain = Some([&chain, tail].concat());
        parts.open_collateral = set.to_bytes();
        assert_eq!(verify_parts(&parts).verdict, verdict, "{tail:?}");
    }
}
