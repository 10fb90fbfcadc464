//! R14: the seal, its quote and its statement.

use coffer_evidence::bundle::Parts;
use coffer_evidence::ids::{Digest256, Digest384, InstanceId, SessionId};
use coffer_evidence::rtmr::Rtmr;
use coffer_evidence::seal::{ClosedBy, Reason, SealMap};
use coffer_evidence::verify::Rule;

use crate::opening::{seal, sealed};
use crate::session::{Recipe, key};
use crate::vector::{Vector, of};

fn bad(check: &'static str, name: &str, change: &str, recipe: Recipe) -> Vector {
    of(name, change, &sealed(&recipe)).refused(Rule::R14, check)
}

/// The bundle with parts of another one in it, which differs in the reason for its end.
fn mixed(check: &'static str, name: &str, change: &str, mix: fn(&mut Parts, Parts)) -> Vector {
    let mut parts = sealed(&Recipe::default());
    mix(&mut parts, sealed(&Recipe { seal: |map| map.reason = Reason::TtlExpired, ..Recipe::default() }));
    of(name, change, &parts).refused(Rule::R14, check)
}

pub(crate) fn vectors() -> Vec<Vector> {
    type Change = (&'static str, fn(&mut SealMap));
    let fields: [Change; 9] = [
        ("session", |map| map.session = SessionId::new([1; 16])),
        ("instance", |map| map.instance = InstanceId::new([1; 32])),
        ("configuration", |map| map.config_digest = Digest384::of(b"")),
        ("opening-quote", |map| map.opening_quote = Digest256::of(b"")),
        ("size", |map| map.size += 1),
        ("root", |map| map.root = Digest256::of(b"")),
        ("events", |map| map.events -= 1),
        ("rtmr3", |map| map.rtmr3 = Rtmr::ZERO),
        ("scrub-leaf", |map| map.scrub_leaf = Digest256::of(b"")),
    ];
    let recomputed = "seal is the one recomputed";
    let mut vectors: Vec<Vector> = fields
        .into_iter()
        .map(|(field, seal)| {
            let recipe = Recipe { seal, ..Recipe::default() };
            bad(recomputed, &format!("seal-{field}"), &format!("the seal names another {field}"), recipe)
        })
        .collect();
    let mut stolen = sealed(&Recipe::default());
    stolen.seal = sealed(&Recipe { open: |open| open.random = [0x77; 32], ..Recipe::default() }).seal;
    let change = "the seal is that of a twin, launched from the same configuration";
    vectors.push(of("twin", change, &stolen).refused(Rule::R14, recomputed));
    let extended = Recipe { final_td: |td| td.rtmr[3][0] ^= 1, ..Recipe::default() };
    let unsealed = Recipe { events: |events| drop(events.pop()), ..Recipe::default() };
    let client = Recipe { seal: |map| map.closed_by = ClosedBy::Client, ..Recipe::default() };
    let other_key = Recipe { statement_key: key(9), ..Recipe::default() };
    let bound = "final report data binds the seal";
    let statement = "statement";
    vectors.extend([
        mixed(bound, "seal-map-swapped", "another seal map", |parts, other| {
            seal(parts).map = other.seal.expect("a seal").map;
        }),
        mixed(bound, "final-quote-swapped", "another final quote of the same TD", |parts, other| {
            seal(parts).quote = other.seal.expect("a seal").quote;
        }),
        bad(
            "final RTMR3 is the replay of all events",
            "foreign-extend",
            "RTMR3 was extended by somebody else before the final quote",
            extended,
        ),
        bad("last events are checkpoint and sealed", "no-sealed-event", "no event seals the log", unsealed),
        bad("who closed it is shown", "closed-by-client", "the seal says that a client closed the session", client),
        bad(statement, "statement-key", "another key signed the statement", other_key),
        mixed(statement, "statement-swapped", "the statement is about another seal", |parts, other| {
            seal(parts).statement = other.seal.expect("a seal").statement;
        }),
    ]);
    vectors
}
