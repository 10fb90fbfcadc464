//! Certificates that the published ones are not: the simulator's keys are public, so anyone can sign others with them.

use coffer_evidence::collateral::Collateral;
use coffer_evidence::fields::Canonical as _;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, Signature, SigningKey};
use p256::pkcs8::DecodePrivateKey as _;

use crate::der::{enclosed, item, signed};
use crate::platform::{PCK_CA_KEY, PCK_DER, PLATFORM_INSTANCE, PPID, ROOT_DER, pem};

/// The other form, (r, n - s), of an ECDSA signature.
pub(crate) fn negated(signature: &Signature) -> Signature {
    let (r, s) = signature.split_scalars();
    Signature::from_scalars(r, -s).expect("a signature")
}

/// The same signed bytes under another signature.
fn resigned(der: &[u8], sign: impl Fn(&[u8], Signature) -> Signature) -> Vec<u8> {
    let (tbs, rest) = signed(der);
    let (algorithm, bits) = rest.split_at(item(rest).1);
    // A bit string begins with the number of bits that it does not use.
    let found = DerSignature::try_from(&bits[item(bits).0 + 1..]).expect("a signature");
    let made = DerSignature::from(sign(tbs, Signature::try_from(found).expect("a signature")));
    enclosed(0x30, &[tbs, algorithm, &enclosed(3, &[&[0], made.as_bytes()].concat())].concat())
}

/// A root that verifies all that the published one does, and is not it: its signature of itself is in its second form.
pub(crate) fn third_root() -> Vec<u8> {
    resigned(ROOT_DER, |_, signature| negated(&signature))
}

/// A certificate of the PCK key in which `found` reads `made`, signed by the authority.
fn pck(found: &[u8], made: &[u8]) -> Vec<u8> {
    assert_eq!(found.len(), made.len());
    let mut der = PCK_DER.to_vec();
    let mut places = der.windows(found.len()).enumerate().filter(|(_, window)| *window == found).map(|(at, _)| at);
    let at = places.next().expect("what is to be changed");
    assert_eq!(places.next(), None, "it stands there once");
    der[at..at + made.len()].copy_from_slice(made);
    let authority = SigningKey::from_pkcs8_pem(PCK_CA_KEY).expect("a published key");
    resigned(&der, |tbs, _| authority.sign(tbs))
}

/// Of another platform instance.
pub(crate) fn other_instance() -> Vec<u8> {
    pck(&PLATFORM_INSTANCE, b"SIMULATED PIID\0\x01")
}

/// Of another provisioning id.
pub(crate) fn other_ppid() -> Vec<u8> {
    pck(&PPID, b"SIMULATED PPID\0\x01")
}

/// The configuration of a platform in Intel's extension: an object identifier that ends in `number`, then a boolean.
fn configured(number: u8) -> Vec<u8> {
    let no = [0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 1, 0x0d, 1, 7, number, 1, 1, 0];
    let mut yes = no;
    yes[13] = 0xff;
    pck(&no, &yes)
}

pub(crate) fn dynamic() -> Vec<u8> {
    configured(1)
}

pub(crate) fn cached_keys() -> Vec<u8> {
    configured(2)
}

pub(crate) fn smt() -> Vec<u8> {
    configured(3)
}

/// The chains of a collateral set end in this root instead of the published one.
pub(crate) fn rooted(bytes: &mut Vec<u8>, root: &[u8]) {
    let mut set = Collateral::parse(bytes).expect("collateral");
    for chain in [&mut set.pck_crl_issuer_chain, &mut set.tcb_info_issuer_chain, &mut set.qe_identity_issuer_chain] {
        let text = String::from_utf8(std::mem::take(chain)).expect("PEM");
        *chain = text.replace(&pem(ROOT_DER), &pem(root)).into_bytes();
    }
    *bytes = set.to_bytes();
}
