//! Bundles put together from the members of several valid ones. A record is whole only if everything in it is of one TD.

use std::collections::BTreeMap;

use coffer_evidence::bundle::{ORDER, Parts};
use coffer_evidence::verify::{Accepted, Rule, Verdict};

use crate::archive::{Members, members};
use crate::boot_log::{log, small_boot};
use crate::judging::refused;
use crate::session::{Ending, Recipe, parts, with_receipt};
use crate::sources::{judged, killed_small, other_everything, other_session, sealed_small, small, twin};
use crate::spread::{Form, spread};

/// Any set under which the quotes verify is as good as another, whoever fetched it (`docs/verifier-rules.md`).
const ENDORSEMENTS: [&str; 2] = ["open.collateral", "seal.collateral"];

/// A member by its name; what a source does not have is missing.
type Source = BTreeMap<&'static str, Vec<u8>>;

fn source(parts: &Parts) -> Source {
    let place = |name: &str| ORDER.iter().find(|known| **known == name).copied().expect("a known name");
    members(parts).into_iter().map(|(name, content)| (place(&name), content)).collect()
}

fn with_log(recipe: &Recipe) -> Parts {
    Parts { ccel: Some(log(&small_boot())), ..parts(recipe, Ending::Sealed) }
}

/// A; another session of its image; one where everything is another's; A's twin; A had it been killed.
fn sources() -> [Source; 5] {
    [sealed_small(), with_log(&other_session()), with_log(&other_everything()), with_log(&twin()), killed_small()]
        .map(|parts| source(&parts))
}

fn in_order(source: &Source) -> Members {
    let named = ORDER.iter().filter_map(|name| Some(((*name).to_owned(), source.get(name)?.clone())));
    named.collect()
}

fn names(a: &Source, b: &Source) -> Vec<&'static str> {
    ORDER.iter().copied().filter(|name| a.get(name) != b.get(name)).collect()
}

fn take(into: &mut Source, from: &Source, name: &'static str) {
    match from.get(name) {
        Some(content) => into.insert(name, content.clone()),
        None => into.remove(name),
    };
}

/// Judges a mixture: whole exactly if it is one of the sealed sources, endorsements apart; else refused, or at most a prefix
/// that is not accepted.
fn judge(mixed: &Source, sources: &[Source], what: &str) {
    let report = judged(&in_order(mixed));
    let same = |source: &&Source| names(mixed, source).iter().all(|name| ENDORSEMENTS.contains(name));
    let endorsed = ENDORSEMENTS.iter().all(|name| mixed.contains_key(name));
    let whole = sources.iter().filter(|source| endorsed && source.contains_key("seal.cbor")).find(same);
    let expected = (Verdict::Sealed, Accepted::Yes);
    assert_eq!((report.verdict, report.accepted) == expected, whole.is_some(), "{what}\n{}", report.human());
    if whole.is_some() {
        return;
    }
    assert_eq!(report.accepted, Accepted::No, "{what}\n{}", report.human());
    if report.verdict == Verdict::Aborted {
        assert!(!mixed.contains_key("seal.cbor"), "{what}");
        let prefix = |source: &Source| {
            names(mixed, source).iter().all(|name| {
                let of_seal = name.starts_with("seal.") || *name == "statement.dsse";
                of_seal || *name == "disclosed.cbor" || ENDORSEMENTS.contains(name)
            })
        };
        assert!(sources.iter().any(prefix), "{what}: a prefix of nothing\n{}", report.human());
    } else {
        assert_eq!(report.verdict, Verdict::Invalid, "{what}\n{}", report.human());
    }
}

#[test]
fn the_sources_are_valid_and_differ_where_they_should() {
    let sources = sources();
    for (number, source) in sources.iter().enumerate() {
        let expected = if number == 4 { Verdict::Aborted } else { Verdict::Sealed };
        let report = judged(&in_order(source));
        assert_eq!(report.verdict, expected, "source {number}\n{}", report.human());
    }
    let differing = |at: usize| names(&sources[0], &sources[at]).len();
    assert_eq!([differing(1), differing(2), differing(3), differing(4)], [11, 11, 8, 8]);
}

#[test]
fn every_choice_of_members_between_two_bundles_is_whole_only_if_it_is_one_of_them() {
    let sources = sources();
    for (number, donor) in sources.iter().enumerate().skip(1) {
        let differing = names(&sources[0], donor);
        let count = spread(&format!("choices between two, {number}"), 1 << differing.len(), |choice| {
            let mut mixed = sources[0].clone();
            let chosen = differing.iter().enumerate().filter(|(bit, _)| choice >> bit & 1 == 1).map(|(_, name)| *name);
            let chosen: Vec<&'static str> = chosen.collect();
            chosen.iter().for_each(|name| take(&mut mixed, donor, name));
            judge(&mixed, &sources, &format!("{chosen:?} of {number}"));
            1
        });
        assert_eq!(count, 1 << differing.len());
    }
}

#[test]
fn every_pair_of_members_from_any_two_bundles_makes_no_other_bundle_whole() {
    let sources = sources();
    let bases = if Form::asked() == Form::Long { vec![0, 1, 2, 3, 4] } else { vec![0, 4] };
    let mut cases = Vec::new();
    for base in bases {
        for (at, first) in ORDER.iter().enumerate() {
            for second in &ORDER[at + 1..] {
                for (one, other) in (0..25).map(|n| (n / 5, n % 5)) {
                    // What would change nothing, or is of one donor alone, is judged elsewhere or not at all.
                    let changes = |from: usize, name| sources[base].get(name) != sources[from].get(name);
                    if one != other && changes(one, first) && changes(other, second) {
                        cases.push((base, *first, one, *second, other));
                    }
                }
            }
        }
    }
    let judged = spread("pairs from two", cases.len(), |case| {
        let (base, first, one, second, other) = cases[case];
        let mut mixed = sources[base].clone();
        take(&mut mixed, &sources[one], first);
        take(&mut mixed, &sources[other], second);
        judge(&mixed, &sources, &format!("{first} of {one} and {second} of {other} in {base}"));
        1
    });
    assert!(judged >= 900, "{judged} pairs");
}

/// A receipt binds the whole: it fits no other bundle, and not its own with other endorsements.
#[test]
fn a_receipt_fits_its_own_bundle_alone() {
    let recipes = [small(), other_session(), other_everything(), twin()];
    let with_receipts: Vec<Source> =
        recipes.iter().map(|recipe| source(&with_receipt(recipe, with_log(recipe)))).collect();
    for (at, bundle) in with_receipts.iter().enumerate() {
        for (of, donor) in with_receipts.iter().enumerate() {
            let mut mixed = bundle.clone();
            take(&mut mixed, donor, "receipt.cbor");
            let report = judged(&in_order(&mixed));
            if at == of {
                assert_eq!(report.verdict, Verdict::Sealed, "{}", report.human());
            } else if (at == 2) == (of == 2) {
                refused(&report, Rule::R17, "host receipt (claim)");
            } else {
                // Another host signed it.
                refused(&report, Rule::R2, "receipt.cbor");
            }
        }
        let mut endorsed = bundle.clone();
        take(&mut endorsed, &with_receipts[if at == 1 { 0 } else { 1 }], "seal.collateral");
        refused(&judged(&in_order(&endorsed)), Rule::R17, "host receipt (claim)");
    }
}
