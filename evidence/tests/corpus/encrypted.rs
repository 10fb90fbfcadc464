//! R2 and R16 of encrypted parts. Wrapping a key draws randomness, so `private.age` is a file here: 32 bytes `K`, made by the
//! age program for [`IDENTITY`].

use coffer_evidence::bundle::{EncryptedMembers, Parts};
use coffer_evidence::leaf::{Leaf, Opened};
use coffer_evidence::private::{EncryptedPart, Place, WRAPPED_MAX};
use coffer_evidence::verify::Rule;

use crate::opening::sealed;
use crate::session::{Ending, K, Recipe, encrypted, opening, parts};
use crate::vector::{Flag, Vector, of};

/// Whose `private.age` is.
const IDENTITY: &str = "AGE-SECRET-KEY-18WV8626MM8S2AF6WAD3JC6R260RNQTYGHY96CQMJDPRL54PMZNPQKHUGT3\n";
/// Somebody else.
const STRANGER: &str = "AGE-SECRET-KEY-1EDZ4XTNUEHLK2G7ECQM2H333YM8SPLMXFUS93XLJD9TC86RN2W9SMSE8V9\n";
const WRAPPED: &[u8] = include_bytes!("private.age");

const KEY: &str = "key of encrypted private parts";
const PARTS: &str = "encrypted private parts open commitments";

pub(crate) fn vectors() -> Vec<Vector> {
    [good(), forms(), keys(), contents()].concat()
}

pub(crate) fn own() -> Flag {
    Flag::Identity(IDENTITY)
}

fn genuine() -> Parts {
    with_parts(&Recipe::default())
}

/// A sealed session whose private parts are encrypted for [`own`].
pub(crate) fn with_parts(recipe: &Recipe) -> Parts {
    encrypted(recipe, sealed(recipe), WRAPPED)
}

fn members(parts: &mut Parts) -> &mut EncryptedMembers {
    parts.encrypted.as_mut().expect("encrypted parts")
}

fn changed(by: impl FnOnce(&mut EncryptedMembers)) -> Parts {
    let mut parts = genuine();
    by(members(&mut parts));
    parts
}

fn good() -> Vec<Vector> {
    let killed = encrypted(&Recipe::default(), parts(&Recipe::default(), Ending::Killed), WRAPPED);
    vec![
        of("sealed-with-encrypted-parts", "nothing; private parts are encrypted, and opened", &genuine()).flag(own()),
        of("encrypted-parts-unread", "nothing; nobody opens the encrypted parts", &genuine()),
        of("encrypted-part-withheld", "one of the encrypted parts is left out", &changed(|m| drop(m.parts.remove(2))))
            .flag(own()),
        of("encrypted-parts-none", "every encrypted part is left out", &changed(|m| m.parts.clear())).flag(own()),
        of("encrypted-parts-withheld", "an identity, and nothing to open with it", &sealed(&Recipe::default()))
            .flag(own()),
        of("prefix-with-encrypted-parts", "a session that was killed, its parts opened", &killed)
            .aborted()
            .flag(Flag::Prefix)
            .flag(own()),
    ]
}

fn forms() -> Vec<Vector> {
    let short = EncryptedPart { index: 1, ciphertext: vec![0; 51] };
    let swapped = changed(|m| m.parts.swap(0, 1));
    let twice = changed(|m| m.parts.insert(1, m.parts[0].clone()));
    let short = changed(|m| m.parts = vec![short]);
    [
        ("order", "the first two encrypted parts are out of order", swapped),
        ("twice", "an encrypted part stands there twice", twice),
        ("short", "an encrypted part is too short for a salt and a tag", short),
    ]
    .map(|(name, change, parts)| {
        of(format!("form-private-bin-{name}"), change, &parts).refused(Rule::R2, "private.bin")
    })
    .to_vec()
}

fn keys() -> Vec<Vector> {
    let flipped = changed(|m| *m.key.last_mut().expect("a byte") ^= 1);
    let cut = changed(|m| m.key.truncate(m.key.len() - 1));
    let other = changed(|m| m.key = b"no age".to_vec());
    let long = changed(|m| m.key.resize(WRAPPED_MAX + 1, 0));
    let mut vectors: Vec<Vector> = [
        ("changed", "the last byte of private.age", flipped),
        ("cut", "private.age lacks its last byte", cut),
        ("no-age", "private.age is no age file", other),
        ("over-cap", "private.age is over 16 KiB", long),
    ]
    .map(|(name, change, parts)| of(format!("private-age-{name}"), change, &parts).flag(own()).refused(Rule::R16, KEY))
    .to_vec();
    let change = "nothing; the identity is not one of those that private.age is for";
    let stranger = of("private-age-for-others", change, &genuine()).flag(Flag::Identity(STRANGER));
    vectors.push(stranger.unsettled(Rule::R16, KEY));
    vectors
}

/// A part sealed under K for a leaf, with the salt and content of any disclosed part.
fn part(at: usize, content: usize) -> EncryptedPart {
    let parts = sealed(&Recipe::default());
    let place =
        Place { instance: opening(&Recipe::default()).open.instance(), index: at as u64, leaf: &parts.leaves[at] };
    let disclosed = &parts.disclosed.as_ref().expect("parts")[content];
    K.seal(&place, &Opened { salt: disclosed.salt, bytes: disclosed.bytes.clone() }).expect("a part")
}

fn contents() -> Vec<Vector> {
    type Change = fn(&mut EncryptedMembers);
    let changes: [(&str, &str, Change); 8] = [
        ("encrypted-parts-swapped", "two ciphertexts are swapped between their leaves", |m| {
            let first = m.parts[0].ciphertext.clone();
            m.parts[0].ciphertext = std::mem::replace(&mut m.parts[2].ciphertext, first);
        }),
        ("encrypted-part-changed", "a byte of a ciphertext", |m| m.parts[1].ciphertext[5] ^= 1),
        ("encrypted-part-tag", "a byte of a tag", |m| *m.parts[1].ciphertext.last_mut().expect("a tag") ^= 1),
        ("encrypted-part-cut", "a ciphertext lacks its last byte", |m| {
            m.parts[1].ciphertext.pop();
        }),
        ("encrypted-part-of-another", "a part is sealed under K with another part's content", |m| {
            m.parts[0] = part(1, 2);
        }),
        ("encrypted-part-of-no-leaf", "an encrypted part for a leaf that there is not", |m| {
            let ciphertext = m.parts[0].ciphertext.clone();
            m.parts.push(EncryptedPart { index: 1000, ciphertext });
        }),
        ("encrypted-part-of-a-bare-leaf", "a part is sealed under K for leaf 0, which commits to nothing", |m| {
            m.parts.insert(0, part(0, 0));
        }),
        ("private-bin-of-no-key", "K opens none of the ciphertexts", |m| {
            m.parts.truncate(1);
            m.parts[0].ciphertext = vec![0x55; 60];
        }),
    ];
    let mut vectors: Vec<Vector> = changes
        .into_iter()
        .map(|(name, change, by)| of(name, change, &changed(by)).flag(own()).refused(Rule::R16, PARTS))
        .collect();
    let twin = Recipe { open: |open| open.random = [0x0c; 32], ..Recipe::default() };
    let mut mixed = genuine();
    mixed.encrypted = encrypted(&twin, sealed(&twin), WRAPPED).encrypted;
    let change = "the encrypted parts are those of a twin";
    vectors.push(of("encrypted-parts-of-a-twin", change, &mixed).flag(own()).refused(Rule::R16, PARTS));
    vectors.push(contradiction());
    vectors
}

/// The first call's intent commits to what is an outcome.
fn contradiction() -> Vector {
    let leaves = |leaves: &mut Vec<Leaf>| leaves[1].commitment = leaves[2].commitment;
    let recipe = Recipe { leaves, ..Recipe::default() };
    let mut lying = sealed(&recipe);
    let plain = lying.disclosed.as_mut().expect("parts");
    (plain[0].salt, plain[0].bytes) = (plain[1].salt, plain[1].bytes.clone());
    let change = "the guest committed to an outcome where its leaf says intent, and encrypted it";
    of("encrypted-part-contradicts-leaf", change, &encrypted(&recipe, lying, WRAPPED))
        .flag(own())
        .rejected(Rule::R16, "encrypted private parts agree with leaves")
}
