//! R1: archives that are not the one form of a bundle.

use coffer_evidence::bundle::{REQUIRED, SEAL};
use coffer_evidence::ids::Digest256;
use coffer_evidence::verify::Rule;

use crate::archive::{BLOCK, Members, checksum, header, index, indexed, members, raw};
use crate::session::{Ending, Recipe, parts};
use crate::vector::{Vector, vector};

const NAME: &str = "framing, caps, order, index";

fn bad(name: impl AsRef<str>, change: impl Into<String>, bundle: Vec<u8>) -> Vector {
    vector(format!("framing-{}", name.as_ref()), change, bundle).refused(Rule::R1, NAME)
}

fn all() -> Members {
    members(&parts(&Recipe::default(), Ending::Sealed))
}

/// A field of the first header is changed, and its checksum made anew.
fn field(name: &str, at: usize, text: &[u8]) -> Vector {
    let mut archive = indexed(&all());
    let head: &mut [u8; BLOCK] = archive.first_chunk_mut().expect("a header");
    head[at..at + text.len()].copy_from_slice(text);
    checksum(head);
    bad(name, format!("the {name} field of the first header is another"), archive)
}

pub(crate) fn vectors() -> Vec<Vector> {
    let whole = indexed(&all());
    let cut = |length: usize| whole[..length].to_vec();
    let longer = |more: &[u8]| [whole.as_slice(), more].concat();
    let mut vectors = vec![
        bad("empty", "no bytes", Vec::new()),
        bad("text", "a line of text", b"no bundle\n".to_vec()),
        bad("zeros", "zeros alone", vec![0; 10_240]),
        bad("gzip", "the first bytes of a compressed archive", [&[0x1f, 0x8b, 8, 0], &whole[4..]].concat()),
        bad("cut-in-header", "cut within the first header", cut(100)),
        bad("cut-in-member", "cut in the middle", cut(whole.len() / 2)),
        bad("one-end-block", "one of the two end blocks is missing", cut(whole.len() - BLOCK)),
        bad("no-end", "both end blocks are missing", cut(whole.len() - 2 * BLOCK)),
        bad("third-end-block", "a third block of zeros", longer(&[0; BLOCK])),
        bad("byte-after-end", "one more byte", longer(&[0])),
        bad("second-archive", "the whole archive twice", longer(&whole)),
        field("mode", 100, b"0000755"),
        field("owner", 108, b"0000001"),
        field("time", 136, b"15100000000"),
        field("type", 156, b"1"),
        field("link", 157, b"policy"),
        field("magic", 257, b"ustar  "),
        field("user", 265, b"root"),
        field("prefix", 345, b"x"),
    ];
    let mut padded = whole.clone();
    let end = BLOCK + index(&all()).1.len();
    assert_ne!(end % BLOCK, 0, "the index is padded");
    padded[end] = 1;
    vectors.push(bad("padding", "a padding byte after the index is not zero", padded));
    let mut broken = whole.clone();
    broken[148] ^= 1;
    vectors.push(bad("checksum", "a digit of the first header's checksum is another", broken));
    let mut huge = whole.clone();
    huge[..BLOCK].copy_from_slice(&header("index.cbor", 1 << 30));
    vectors.push(bad("size-over-cap", "the first header names 1 GiB", huge));
    let mut flipped = whole.clone();
    let last = whole.len() - 3 * BLOCK;
    flipped[last] ^= 1;
    vectors.push(bad("member-not-indexed", "a byte of the last member is changed, the index is not", flipped));

    for name in REQUIRED {
        let fewer: Members = all().into_iter().filter(|(n, _)| n != name).collect();
        vectors.push(bad(format!("without-{name}"), format!("{name} is missing, also in the index"), indexed(&fewer)));
    }
    for name in SEAL {
        let fewer: Members = all().into_iter().filter(|(n, _)| n != name).collect();
        vectors.push(bad(format!("without-{name}"), format!("of the seal only {name} is missing"), indexed(&fewer)));
    }
    vectors.push(bad("without-index", "the index is missing", raw(&all())));
    let mut swapped = all();
    swapped.swap(0, 1);
    vectors.push(bad("order", "the first two members are swapped, also in the index", indexed(&swapped)));
    let mut twice = all();
    twice.insert(1, twice[1].clone());
    vectors.push(bad("twice", "the policy is there twice, also in the index", indexed(&twice)));
    let mut unknown = all();
    unknown.push(("notes.txt".to_owned(), b"x".to_vec()));
    vectors.push(bad("unknown-member", "one more member, notes.txt", indexed(&unknown)));
    let mut escaping = all();
    escaping.push(("../policy".to_owned(), b"x".to_vec()));
    vectors.push(bad("path", "one more member, ../policy", indexed(&escaping)));
    let mut misnamed = all();
    misnamed.push((format!("endpoint/{}", Digest256::of(b"x")), b"y".to_vec()));
    vectors.push(bad("endpoint-name", "endpoint evidence under the digest of other bytes", indexed(&misnamed)));
    let other = [vec![index(&all()[1..])], all()].concat();
    vectors.push(bad("index-of-fewer", "the index leaves out the first member", raw(&other)));
    let mut reversed = all();
    reversed.reverse();
    let other = [vec![index(&reversed)], all()].concat();
    vectors.push(bad("index-order", "the index has the members in another order", raw(&other)));
    vectors
}
