//! Bundles and members cut at every length, and what a cut bundle may be filled up with.

use coffer_evidence::bundle;
use coffer_evidence::verify::{Rule, Verdict, verify_bundle};

use crate::archive::{Members, indexed, members};
use crate::judging::{options, refused};
use crate::sources::{every_member, judged, killed_small, receipted_small, refused_somewhere};
use crate::spread::{Form, spread};

/// Bytes without a pattern, the same every time.
fn noise(seed: usize, count: usize) -> Vec<u8> {
    let mut state = seed as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(&mut next).take(count).collect()
}

/// Alone, and with zeros or noise: up to the old length, by two blocks, and by one byte.
fn tails(cut: &[u8], whole: usize) -> Vec<Vec<u8>> {
    let left = whole - cut.len();
    let tails = [vec![], vec![0; left], vec![0; 1024], vec![0], noise(cut.len(), left), vec![0xff]];
    tails.iter().map(|tail| [cut, tail].concat()).collect()
}

#[test]
fn a_bundle_cut_at_any_length_is_refused_by_framing_whatever_follows() {
    for (name, parts) in [("sealed", receipted_small()), ("prefix", killed_small())] {
        let archive = bundle::write(&parts);
        let judged = spread(&format!("lengths, {name}"), archive.len(), |length| {
            let others = tails(&archive[..length], archive.len());
            let changed: Vec<&Vec<u8>> = others.iter().filter(|other| **other != archive).collect();
            for other in &changed {
                refused(&verify_bundle(other, &options()), Rule::R1, Rule::R1.title());
            }
            changed.len()
        });
        assert!(judged >= 4 * archive.len(), "{judged} bundles for {} lengths", archive.len());
    }
}

/// Whether a member may have any length: nothing reads it, or the length of its padding is nobody's (`docs/verifier-rules.md`).
fn free(name: &str, content: &[u8], changed: &[u8]) -> bool {
    let log = content.len() - content.iter().rev().take_while(|byte| **byte == 0xff).count();
    match name {
        "private.age" => true,
        "ccel" => {
            let padding = changed.get(log..).unwrap_or_default();
            changed.starts_with(&content[..log])
                && (padding.iter().all(|byte| *byte == 0xff) || padding.iter().all(|byte| *byte == 0))
        }
        // The final NUL that quoting enclaves write is inside the lengths of the quote, so that no cut makes or takes one.
        _ => false,
    }
}

fn sweep(what: &str, all: &Members, verdict: Verdict) {
    assert_eq!(judged(all).verdict, verdict);
    let mut cases = Vec::new();
    for (at, (name, content)) in all.iter().enumerate() {
        let step = if Form::asked() == Form::Long || content.len() <= 600 { 1 } else { 7 };
        cases.extend((0..content.len()).step_by(step).map(|length| (at, content[..length].to_vec())));
        for tail in [&[0][..], &[0xff], b"\n", content, &[0; 512]] {
            cases.push((at, [content.as_slice(), tail].concat()));
        }
        // Nothing but noise and nothing but zeros of the same length.
        cases.push((at, noise(at, content.len())));
        cases.push((at, vec![0; content.len()]));
        assert!(name.starts_with("endpoint/") || !content.is_empty(), "{name} is empty");
    }
    let judged = spread(what, cases.len(), |case| {
        let (at, changed) = &cases[case];
        let mut members = all.clone();
        let (name, content) = &mut members[*at];
        let is_free = free(name, content, changed);
        let here = format!("{name} of {} bytes made {} bytes", content.len(), changed.len());
        content.clone_from(changed);
        let report = verify_bundle(&indexed(&members), &options());
        if is_free {
            assert_eq!(report.verdict, verdict, "{here} is no longer free\n{}", report.human());
        } else {
            refused_somewhere(&report, &here);
        }
        1
    });
    assert_eq!(judged, cases.len());
}

#[test]
fn a_member_of_any_other_length_is_refused_or_listed_as_free() {
    sweep("members' lengths, sealed", &every_member(), Verdict::Sealed);
    sweep("members' lengths, prefix", &members(&killed_small()), Verdict::Aborted);
}
