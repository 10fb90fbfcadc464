//! Every byte of a bundle changed: without a new index, then member by member with one, as a forger would.

use std::ops::Range;

use coffer_evidence::bundle;
use coffer_evidence::ids::Digest256;
use coffer_evidence::verify::{Report, Rule, Verdict, verify_bundle};

use crate::archive::{BLOCK, Members, indexed, members};
use crate::judging::{options, refused};
use crate::sources::{every_member, killed_small, receipted_small, refused_somewhere, sealed_small, signed_small};
use crate::spread::{Form, spread};

/// Members longer than this are not swept byte by byte in the short form.
const LONG: usize = 2000;
/// One byte in so many of a long member, in the short form. Not a multiple of anything in the formats.
const STEP: usize = 5;

/// What becomes of a byte: in the short form one bit of it, another one each time.
fn changes(form: Form, count: usize, byte: u8) -> Vec<u8> {
    match form {
        Form::Short => vec![byte ^ (1 << (count % 8))],
        Form::Long => {
            let mut all: Vec<u8> = (0..8).map(|bit| byte ^ (1 << bit)).collect();
            all.extend([0, 0xff, !byte].iter().filter(|other| **other != byte));
            all.dedup();
            all
        }
    }
}

#[test]
fn every_byte_changed_without_a_new_index_is_refused_by_framing() {
    let archive = bundle::write(&receipted_small());
    let form = Form::asked();
    let judged = spread("bytes, no new index", archive.len(), |at| {
        let values = changes(form, at, archive[at]);
        for value in &values {
            let mut changed = archive.clone();
            changed[at] = *value;
            refused(&verify_bundle(&changed, &options()), Rule::R1, Rule::R1.title());
        }
        values.len()
    });
    assert!(judged >= archive.len(), "{judged} bundles for {} bytes", archive.len());
}

/// A member in an archive, and where its digest stands in the index.
struct Slot {
    name: String,
    content: Range<usize>,
    digest: usize,
}

/// Two members may have the same digest: rows are looked for one after the other.
fn slots(archive: &[u8], members: &Members) -> Vec<Slot> {
    let (mut at, mut row) = (0, BLOCK);
    let size = |at: usize| {
        let digits = std::str::from_utf8(&archive[at + 124..at + 135]).expect("octal digits");
        usize::from_str_radix(digits, 8).expect("octal digits")
    };
    at += BLOCK + size(at).next_multiple_of(BLOCK);
    let slot = |(name, content): &(String, Vec<u8>)| {
        let start = at + BLOCK;
        at = start + content.len().next_multiple_of(BLOCK);
        let digest = Digest256::of(content);
        let found = archive[row..].windows(32).position(|window| window == digest.as_bytes()).expect("its row");
        let slot = Slot { name: name.clone(), content: start..start + content.len(), digest: row + found };
        row = slot.digest + 32;
        slot
    };
    members.iter().map(slot).collect()
}

/// The bytes whose change no rule notices, each with its reason in `docs/verifier-rules.md`. This list is the whole of it: a free
/// byte that is not here fails the sweep, and so does a byte here that is not free.
fn free(name: &str, content: &[u8], at: usize, value: u8) -> bool {
    match name {
        // Nobody gave an identity: what is encrypted is not read.
        "private.age" => true,
        // Of one part: an array's head, a pair's, the index in one byte, the head of the ciphertext in two.
        "private.bin" => at >= 5 || (at == 2 && value <= 0x17),
        "ccel" => free_in_log(content, at, value),
        _ => false,
    }
}

const EV_NO_ACTION: u32 = 3;

/// What no register covers: parts of the first event, types, payloads.
fn free_in_log(log: &[u8], at: usize, value: u8) -> bool {
    let number = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().expect("four bytes"));
    match at {
        // The register and the size of integers of the first event have two values each.
        0 => return value <= 1,
        55 => return matches!(value, 1 | 2),
        // Platform class and errata.
        48..52 | 54 => return true,
        _ => {}
    }
    let mut event = 32 + number(28) as usize;
    // Register, type, one algorithm, digest, size, payload; then what fills the memory area.
    while event + 66 <= at && log[event] != 0xff {
        let next = event + 66 + number(event + 62) as usize;
        if at < next {
            return true;
        }
        event = next;
    }
    if log[event] == 0xff {
        return false;
    }
    let (kind, size) = (event + 4..event + 8, event + 62..event + 66);
    let mut changed = log.to_vec();
    changed[at] = value;
    if size.contains(&at) {
        // The last payload may reach into the padding; any other would swallow events.
        if log[size.end + number(size.start) as usize] != 0xff {
            return false;
        }
        let made = u32::from_le_bytes(changed[size.clone()].try_into().expect("four bytes")) as usize;
        return changed.get(size.end + made..).is_some_and(|rest| rest.iter().all(|byte| *byte == 0xff));
    }
    // An event that is not extended must have a digest of zeros.
    kind.contains(&at) && changed[kind] != EV_NO_ACTION.to_le_bytes()
}

/// What is said of a bundle apart from its name.
fn said(report: &Report) -> impl PartialEq + std::fmt::Debug + '_ {
    let image = report.image.as_ref().map(|image| (&image.name, &image.digest));
    (
        (report.verdict, report.accepted, report.outcome, &report.reason, &report.closed_by, &report.extent),
        (&report.session, &report.instance, &report.words, report.as_of, image),
    )
}

/// Changes each byte of the members that `chosen` gives a form, and puts its digest into the index.
fn sweep(what: &str, members: &Members, chosen: impl Fn(&str) -> Option<Form>) {
    let archive = indexed(members);
    let genuine = verify_bundle(&archive, &options());
    assert!(matches!(genuine.verdict, Verdict::Sealed | Verdict::Aborted), "{}", genuine.human());
    let mut cases = Vec::new();
    for slot in slots(&archive, members) {
        let Some(form) = chosen(&slot.name) else { continue };
        let step = if form == Form::Long || slot.content.len() <= LONG { 1 } else { STEP };
        let slot = std::sync::Arc::new(slot);
        cases.extend(slot.content.clone().step_by(step).map(|at| (slot.clone(), form, at)));
    }
    let judged = spread(what, cases.len(), |count| {
        let (slot, form, at) = &cases[count];
        let offset = at - slot.content.start;
        let values = changes(*form, count, archive[*at]);
        for value in &values {
            let mut changed = archive.clone();
            changed[*at] = *value;
            let digest = Digest256::of(&changed[slot.content.clone()]);
            changed[slot.digest..slot.digest + 32].copy_from_slice(digest.as_bytes());
            let report = verify_bundle(&changed, &options());
            let here = format!("{} byte {offset} made {value:#04x}", slot.name);
            if free(&slot.name, &archive[slot.content.clone()], offset, *value) {
                assert_eq!(said(&report), said(&genuine), "{here} is no longer free\n{}", report.human());
                continue;
            }
            refused_somewhere(&report, &here);
            let framing = report.obstacles().any(|check| check.rule == Rule::R1);
            assert_eq!(framing, slot.name.starts_with("endpoint/"), "{here}: the index was not made anew");
        }
        values.len()
    });
    assert!(judged >= cases.len() && !cases.is_empty());
}

#[test]
fn every_byte_of_every_member_of_a_reindexed_bundle_is_refused_or_listed_as_free() {
    let members = every_member();
    assert_eq!(members.len(), 18, "every member that such a bundle has");
    sweep("bytes, new index, sealed", &members, |_| Some(Form::asked()));
}

#[test]
fn every_byte_of_a_receipt_is_refused() {
    sweep("bytes, new index, receipt", &members(&receipted_small()), |name| (name == "receipt.cbor").then(Form::asked));
}

#[test]
fn every_byte_of_every_member_of_a_prefix_is_refused_or_listed_as_free() {
    let sealed = members(&sealed_small());
    let killed = members(&killed_small());
    sweep("bytes, new index, prefix", &killed, |name| {
        // What is the same as in the sealed bundle meets the same rules, and has its long form there.
        let same = killed.iter().find(|(known, _)| known == name).is_some_and(|member| sealed.contains(member));
        Some(if same { Form::Short } else { Form::asked() })
    });
}

/// What the other sweeps do not have: signed headers, acks, a pool configuration.
#[test]
fn every_byte_of_a_pooled_strict_end_to_end_bundle_is_refused() {
    const OWN: [&str; 5] = ["config.cbor", "pool.cbor", "open.cbor", "leaves", "disclosed.cbor"];
    let members = signed_small();
    assert!(OWN.iter().all(|own| members.iter().any(|(name, _)| name == own)));
    sweep("bytes, new index, signed", &members, |name| OWN.contains(&name).then(Form::asked));
}
