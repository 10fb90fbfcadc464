//! A bundle re-indexed after a change in any one of its files, anywhere: refused, and never sealed.

use std::ops::Range;

use coffer_evidence::ids::Digest256;
use coffer_evidence::verify::{Accepted, Verdict, verify_bundle};

use crate::judging::options;
use crate::session::{Recipe, sealed};

const BLOCK: usize = 512;

/// Where each member's content lies in the archive.
fn members(archive: &[u8]) -> Vec<(String, Range<usize>)> {
    let mut members = Vec::new();
    let mut at = 0;
    while archive[at] != 0 {
        let name = archive[at..at + 100].split(|byte| *byte == 0).next().expect("a name");
        let size = std::str::from_utf8(&archive[at + 124..at + 135]).expect("octal digits");
        let size = usize::from_str_radix(size, 8).expect("octal digits");
        let start = at + BLOCK;
        members.push((String::from_utf8(name.to_vec()).expect("a name"), start..start + size));
        at = start + size.next_multiple_of(BLOCK);
    }
    members
}

/// Puts the digest of the changed member into the index, as a forger would.
fn reindex(archive: &mut [u8], before: &Digest256, content: Range<usize>) {
    let after = Digest256::of(&archive[content]);
    let at = archive.windows(32).position(|window| window == before.as_bytes()).expect("the digest in the index");
    archive[at..at + 32].copy_from_slice(after.as_bytes());
}

#[test]
fn a_reindexed_bundle_with_one_file_changed_anywhere_is_refused() {
    let archive = sealed(&Recipe::default());
    assert_eq!(verify_bundle(&archive, &options()).accepted, Accepted::Yes);
    let members = members(&archive);
    assert_eq!(members.len(), 16, "every member that such a bundle has");
    for (name, content) in members.iter().filter(|(name, _)| name != "index.cbor") {
        let digest = Digest256::of(&archive[content.clone()]);
        // Every byte of a short file, one in thirteen of a long one; another bit each time.
        let step = if content.len() < 600 { 1 } else { 13 };
        for (count, position) in content.clone().step_by(step).enumerate() {
            let mut changed = archive.clone();
            changed[position] ^= 1 << (count % 8);
            reindex(&mut changed, &digest, content.clone());
            let report = verify_bundle(&changed, &options());
            let offset = position - content.start;
            assert_eq!(report.verdict, Verdict::Invalid, "{name} byte {offset} is free\n{}", report.human());
            assert_eq!(report.accepted, Accepted::No);
        }
    }
}

#[test]
fn a_bundle_changed_without_a_new_index_is_refused_by_framing() {
    let archive = sealed(&Recipe::default());
    for (name, content) in members(&archive) {
        let mut changed = archive.clone();
        changed[content.start] ^= 1;
        let report = verify_bundle(&changed, &options());
        let row = report.obstacles().next().expect("an obstacle");
        assert_eq!(row.rule, coffer_evidence::verify::Rule::R1, "{name}");
    }
}
