//! Whole bundles. Nothing but the seeds is ever accepted, however the index was made to fit.

use coffer_evidence::bundle::{self, Bundle, Parts, SealParts};
use coffer_evidence::call::read_disclosed;
use coffer_evidence::cbor::{Value, decode};
use coffer_evidence::quote::Quote;
use coffer_evidence::verify::{Accepted, Report, Verdict, verify_bundle};

use crate::fixtures;
use crate::script::Script;

/// A bundle as it is: framing, and every rule.
pub fn bundle(data: &[u8]) {
    if let Ok(read) = bundle::read(data) {
        if let Some(receipt) = read.member("receipt.cbor") {
            assert_eq!(read.with_receipt(receipt.to_vec()), data, "another form of a bundle was accepted");
        }
        let receipted = bundle::read(&read.with_receipt(b"another".to_vec())).expect("our own bundle");
        assert_eq!(receipted.core_id(), read.core_id(), "a receipt changes the core");
    }
    let report = judged(data);
    if report.accepted == Accepted::Yes {
        assert!(fixtures::genuine().iter().any(|known| known == data), "a bundle that nobody made was accepted");
    }
}

/// Verifies, and holds the report to itself.
fn judged(data: &[u8]) -> Report {
    let report = verify_bundle(data, &fixtures::options());
    let line = report.json_line();
    let json: serde_json::Value = serde_json::from_str(&line).expect("the report is JSON");
    let again: serde_json::Value = serde_json::from_str(&json.to_string()).expect("and comes back");
    assert_eq!(json, again);
    assert!(!line.contains('\n'), "one line");
    let accepted = match report.accepted {
        Accepted::Yes => ("yes", 0),
        Accepted::No => ("no", 1),
        Accepted::CannotTell => ("cannot_tell", 2),
    };
    assert_eq!((json["accepted"].as_str(), report.exit_code()), (Some(accepted.0), accepted.1));
    let sound = matches!(report.verdict, Verdict::Sealed | Verdict::Aborted);
    assert!(sound || report.accepted != Accepted::Yes, "an {:?} bundle was accepted", report.verdict);
    assert!(sound || report.words.is_empty() || report.verdict == Verdict::Indeterminate, "words about a bad bundle");
    let shown = report.human();
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "a bundle's own bytes reach the terminal");
    report
}

/// The sealed seed with some of its members changed as a script says, and an index that fits.
///
/// ```text
/// u8 number of changes, then each: u8 member, u8 kind, u16 place, u16 length and bytes
/// ```
pub fn members(data: &[u8]) {
    let seed = fixtures::sealed_bundle();
    let mut parts = parts_of(seed);
    let mut script = Script::new(data);
    for _ in 0..1 + script.u8() % 4 {
        change(&mut parts, &mut script);
    }
    let forged = bundle::write(&parts);
    let report = judged(&forged);
    if report.accepted == Accepted::Yes {
        let forged = bundle::read(&forged).expect("it was accepted");
        for name in ["config.cbor", "policy", "image.dsse", "open.cbor", "open.quote", "events.cbor", "leaves"] {
            assert_eq!(forged.member(name), seed.member(name), "{name} was changed and accepted");
        }
        assert_eq!(forged.member("checkpoint"), seed.member("checkpoint"));
        for name in ["seal.cbor", "statement.dsse", "disclosed.cbor", "receipt.cbor"] {
            let same = forged.member(name).is_none() || forged.member(name) == seed.member(name);
            assert!(same, "{name} was changed and accepted");
        }
        if let Some(quote) = forged.member("seal.quote") {
            // The form of its signature is free, and a NUL after its chain: `rules::free`. What it says is not.
            let says = |quote: &[u8]| Quote::parse(quote).map(|quote| quote.report().clone());
            assert_eq!(says(quote), says(seed.member("seal.quote").expect("a member")));
        }
    }
}

fn parts_of(bundle: &Bundle) -> Parts {
    let member = |name: &str| bundle.member(name).unwrap_or_default().to_vec();
    let Ok(Value::Array(events)) = decode(bundle.member("events.cbor").unwrap_or_default()) else { unreachable!() };
    let events = events.into_iter().filter_map(|event| if let Value::Bytes(b) = event { Some(b) } else { None });
    Parts {
        config: member("config.cbor"),
        policy: member("policy"),
        image_dsse: member("image.dsse"),
        open_map: member("open.cbor"),
        open_quote: member("open.quote"),
        open_collateral: member("open.collateral"),
        ccel: bundle.member("ccel").map(<[u8]>::to_vec),
        events: events.collect(),
        leaves: leaves(bundle.member("leaves").unwrap_or_default()),
        checkpoint: String::from_utf8(member("checkpoint")).unwrap_or_default(),
        disclosed: bundle.member("disclosed.cbor").and_then(|bytes| read_disclosed(bytes).ok()),
        seal: bundle.is_sealed().then(|| SealParts {
            map: member("seal.cbor"),
            quote: member("seal.quote"),
            collateral: member("seal.collateral"),
            statement: member("statement.dsse"),
        }),
        receipt: bundle.member("receipt.cbor").map(<[u8]>::to_vec),
    }
}

fn leaves(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut leaves = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (leaf, after) = after.split_at((u32::from_le_bytes(*length) as usize).min(after.len()));
        leaves.push(leaf.to_vec());
        rest = after;
    }
    leaves
}

fn change(parts: &mut Parts, script: &mut Script<'_>) {
    let which = script.u8();
    let kind = script.u8();
    let place = usize::from(script.u16());
    let bytes = script.counted();
    let mut checkpoint = std::mem::take(&mut parts.checkpoint).into_bytes();
    match which % 18 {
        0 => edit(&mut parts.config, kind, place, bytes),
        1 => edit(&mut parts.policy, kind, place, bytes),
        2 => edit(&mut parts.image_dsse, kind, place, bytes),
        3 => edit(&mut parts.open_map, kind, place, bytes),
        4 => edit(&mut parts.open_quote, kind, place, bytes),
        5 => edit(&mut parts.open_collateral, kind, place, bytes),
        6 => edit(parts.ccel.get_or_insert_default(), kind, place, bytes),
        7 => edit_one(&mut parts.events, kind, place, bytes),
        8 => edit_one(&mut parts.leaves, kind, place, bytes),
        9 => edit(&mut checkpoint, kind, place, bytes),
        10 => parts.disclosed = read_disclosed(bytes).ok(),
        11 => edit(parts.receipt.get_or_insert_default(), kind, place, bytes),
        12 => parts.receipt = None,
        13 => parts.seal = None,
        other => {
            if let Some(seal) = &mut parts.seal {
                let member = [&mut seal.map, &mut seal.quote, &mut seal.collateral, &mut seal.statement].into_iter();
                if let Some(member) = member.into_iter().nth(usize::from(other - 14)) {
                    edit(member, kind, place, bytes);
                }
            }
        }
    }
    parts.checkpoint = String::from_utf8_lossy(&checkpoint).into_owned();
}

fn edit(member: &mut Vec<u8>, kind: u8, place: usize, bytes: &[u8]) {
    let at = place.min(member.len());
    let end = (at + bytes.len()).min(member.len());
    match kind % 4 {
        0 => drop(member.splice(at..end, bytes.iter().copied())),
        1 => drop(member.splice(at..at, bytes.iter().copied())),
        2 => drop(member.drain(at..end)),
        _ => *member = bytes.to_vec(),
    }
}

/// Entries of a list: changed, doubled, dropped, moved, added.
fn edit_one(list: &mut Vec<Vec<u8>>, kind: u8, place: usize, bytes: &[u8]) {
    let at = place % (list.len() + 1);
    match kind % 8 {
        4 => list.insert(at, bytes.to_vec()),
        5 if at < list.len() => drop(list.remove(at)),
        6 if at < list.len() => list.insert(at, list[at].clone()),
        7 if at + 1 < list.len() => list.swap(at, at + 1),
        other if at < list.len() => edit(&mut list[at], other, place / 7, bytes),
        _ => {}
    }
}
