//! R2: members in another form than their one, each with an index made for it.

use coffer_evidence::cbor::{Key, Value, decode, encode};
use coffer_evidence::collateral::{COLLATERAL_MAX, Collateral};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::verify::Rule;

use crate::archive::{indexed, members};
use crate::session::{Ending, Recipe, key, parts, with_receipt};
use crate::vector::{Vector, vector};

fn map(bytes: &[u8]) -> Vec<(Key, Value)> {
    match decode(bytes) {
        Ok(Value::Map(map)) => map,
        other => panic!("a map, found {other:?}"),
    }
}

fn with_unknown_key(bytes: &[u8]) -> Vec<u8> {
    let mut map = map(bytes);
    map.push((Key::Unsigned(200), Value::Unsigned(0)));
    encode(&Value::Map(map))
}

fn without_first_key(bytes: &[u8]) -> Vec<u8> {
    encode(&Value::Map(map(bytes).split_off(1)))
}

fn with_text_first(bytes: &[u8]) -> Vec<u8> {
    let mut map = map(bytes);
    map[0].1 = Value::Text("1".to_owned());
    encode(&Value::Map(map))
}

fn with_trailing_byte(bytes: &[u8]) -> Vec<u8> {
    [bytes, &[0]].concat()
}

/// The number of entries in one byte more than it needs.
fn with_long_head(bytes: &[u8]) -> Vec<u8> {
    assert!((0xa0..0xb8).contains(&bytes[0]), "a short map");
    [&[0xb8, bytes[0] - 0xa0], &bytes[1..]].concat()
}

fn with_indefinite_length(bytes: &[u8]) -> Vec<u8> {
    [&[0xbf], &bytes[1..], &[0xff]].concat()
}

fn with_tag(bytes: &[u8]) -> Vec<u8> {
    [&[0xc0], bytes].concat()
}

fn with_first_keys_swapped(bytes: &[u8]) -> Vec<u8> {
    // Both entries re-encoded by themselves, so that the encoder cannot sort them.
    let entries: Vec<Vec<u8>> =
        map(bytes).into_iter().map(|entry| encode(&Value::Map(vec![entry]))[1..].to_vec()).collect();
    let mut out = vec![bytes[0]];
    for at in [1, 0].into_iter().chain(2..entries.len()) {
        out.extend(&entries[at]);
    }
    assert_eq!(out.len(), bytes.len());
    out
}

type Change = (&'static str, &'static str, fn(&[u8]) -> Vec<u8>);

const CHANGES: [Change; 8] = [
    ("unknown-key", "has a key that nobody knows", with_unknown_key),
    ("missing-key", "lacks its first key", without_first_key),
    ("wrong-type", "has text where its first key has something else", with_text_first),
    ("trailing-byte", "is followed by one byte", with_trailing_byte),
    ("long-head", "writes its length in a longer form", with_long_head),
    ("indefinite", "has indefinite length", with_indefinite_length),
    ("tagged", "is tagged", with_tag),
    ("keys-swapped", "has its first two keys out of order", with_first_keys_swapped),
];

/// A map in each of its other forms.
pub(crate) fn broken(bytes: &[u8]) -> Vec<(&'static str, &'static str, Vec<u8>)> {
    CHANGES.map(|(name, change, made)| (name, change, made(bytes))).to_vec()
}

/// The bundle with its receipt, one member replaced.
fn replaced(member: &str, content: Vec<u8>) -> Vec<u8> {
    let recipe = Recipe::default();
    let mut all = members(&with_receipt(&recipe, parts(&recipe, Ending::Sealed)));
    all.iter_mut().find(|(name, _)| name == member).expect("the member").1 = content;
    indexed(&all)
}

fn of_member(member: &'static str, name: &str, change: impl Into<String>, made: fn(&[u8]) -> Vec<u8>) -> Vector {
    let recipe = Recipe::default();
    let all = members(&with_receipt(&recipe, parts(&recipe, Ending::Sealed)));
    let found = &all.iter().find(|(name, _)| name == member).expect("the member").1;
    let short = member.replace('.', "-");
    vector(format!("form-{short}-{name}"), change, replaced(member, made(found))).refused(Rule::R2, member)
}

pub(crate) fn vectors() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for member in ["config.cbor", "open.cbor", "open.collateral", "seal.cbor", "seal.collateral"] {
        for (name, change, made) in CHANGES {
            vectors.push(of_member(member, name, format!("{member} {change}"), made));
        }
    }
    // Items of the two lists, and the lists.
    for (name, change, made) in CHANGES {
        let mut changed = parts(&Recipe::default(), Ending::Sealed);
        changed.leaves[1] = made(&changed.leaves[1]);
        let leaf = crate::vector::of(format!("form-leaf-{name}"), format!("leaf 1 {change}"), &changed);
        vectors.push(leaf.refused(Rule::R2, "leaves"));
    }
    let leaves: [Change; 4] = [
        ("cut", "the last leaf is cut short", |bytes| bytes[..bytes.len() - 1].to_vec()),
        ("half-length", "two bytes of a length follow the last leaf", |bytes| [bytes, &[0, 0]].concat()),
        ("over-cap", "a length over 64 KiB follows the last leaf", |bytes| {
            [bytes, &65_537_u32.to_le_bytes(), &[0; 65_537]].concat()
        }),
        ("kind", "leaf 0 is of a kind that has no layout", |bytes| {
            let mut bytes = bytes.to_vec();
            let at = bytes.windows(2).position(|pair| pair == [4, 0]).expect("the kind of leaf 0");
            bytes[at + 1] = 9;
            bytes
        }),
    ];
    for (name, change, made) in leaves {
        vectors.push(of_member("leaves", name, change, made));
    }
    let events: [Change; 5] = [
        ("trailing-byte", "a byte follows the list of events", with_trailing_byte),
        ("no-list", "a number stands in place of the list of events", |_| vec![0]),
        ("map", "an empty map stands in place of the list of events", |_| vec![0xa0]),
        ("item", "one more event, which is a number", |bytes| [&[bytes[0] + 1], &bytes[1..], &[0]].concat()),
        ("garbage", "one more event, of bytes that are no event", |bytes| {
            [&[bytes[0] + 1], &bytes[1..], &[0x41, 0]].concat()
        }),
    ];
    for (name, change, made) in events {
        vectors.push(of_member("events.cbor", name, change, made));
    }
    for member in ["image.dsse", "statement.dsse"] {
        vectors.push(of_member(member, "space", format!("a space stands before {member}"), |b| [b" ", b].concat()));
        vectors.push(of_member(member, "line-feed", format!("a line feed follows {member}"), |b| [b, b"\n"].concat()));
        vectors.push(of_member(member, "not-json", format!("{member} is no JSON"), |_| b"{".to_vec()));
        vectors.push(of_member(member, "unknown-key", format!("{member} has a key that nobody knows"), |bytes| {
            [b"{\"more\":1,", &bytes[1..]].concat()
        }));
    }
    vectors.push(of_member("checkpoint", "not-utf8", "the note is not UTF-8", |bytes| [bytes, &[0xff]].concat()));
    vectors.push(of_member("disclosed.cbor", "no-list", "disclosed.cbor is a number", |_| vec![0]));
    vectors.push(of_member("disclosed.cbor", "trailing-byte", "a byte follows disclosed.cbor", with_trailing_byte));
    let mut unordered = parts(&Recipe::default(), Ending::Sealed);
    unordered.disclosed.as_mut().expect("parts").swap(0, 1);
    let change = "the first two disclosed parts are out of order";
    vectors
        .push(crate::vector::of("form-disclosed-cbor-order", change, &unordered).refused(Rule::R2, "disclosed.cbor"));
    vectors.push(of_member("receipt.cbor", "no-receipt", "the receipt is an empty list", |_| vec![0x80]));
    vectors.push(of_member("receipt.cbor", "trailing-byte", "a byte follows the receipt", with_trailing_byte));
    let recipe = Recipe { host: key(50), ..Recipe::default() };
    let other_host = with_receipt(&recipe, parts(&recipe, Ending::Sealed));
    let change = "the receipt is signed by a key that is not the host's";
    vectors.push(crate::vector::of("receipt-of-another-host", change, &other_host).refused(Rule::R2, "receipt.cbor"));
    for member in ["open.collateral", "seal.collateral"] {
        let change = format!("{member} is over 1 MiB");
        vectors.push(of_member(member, "over-cap", change, |bytes| {
            let mut set = Collateral::parse(bytes).expect("collateral");
            set.pck_certificate_chain = Some(vec![b'x'; COLLATERAL_MAX]);
            set.to_bytes()
        }));
    }
    let mut pooled = members(&parts(&Recipe::default(), Ending::Sealed));
    pooled.insert(3, ("pool.cbor".to_owned(), b"pool".to_vec()));
    let change = "four letters stand in place of a pool configuration";
    vectors.push(vector("pool-configuration", change, indexed(&pooled)).refused(Rule::R2, "pool.cbor"));
    vectors
}
