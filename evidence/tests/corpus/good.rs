//! Bundles of sessions that nobody touched, and those in which only what is free was.

use coffer_evidence::bundle::Parts;
use coffer_evidence::collateral::Collateral;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::Digest256;
use coffer_evidence::leaf::{Leaf, Method, Public};
use coffer_evidence::rtmr::Rtmr3Event;
use coffer_evidence::seal::{ClosedBy, Reason, SealMap};

use crate::archive::{indexed, members};
use crate::boot_log::{log, small_boot};
use crate::opening::{seal, sealed, with_log};
use crate::platform::{DECEMBER, Dates, NOVEMBER};
use crate::record::second_form;
use crate::session::{Ending, Recipe, parts, with_receipt};
use crate::vector::{Flag, Vector, of, vector};

pub(crate) fn vectors() -> Vec<Vector> {
    [whole(), endings(), prefixes(), free()].concat()
}

fn whole() -> Vec<Vector> {
    let default = Recipe::default;
    let denied = |leaves: &mut Vec<Leaf>| {
        // A call that is denied has no outcome: the leaf after it says something else of it.
        leaves[3].public = Public::Denied { method: Method::Exec, rules: Vec::new(), header: None };
        leaves[4].public = Public::Incomplete { method: Method::Exec };
    };
    let withheld = |parts: Parts| Parts { disclosed: None, ..parts };
    vec![
        of("sealed", "nothing", &sealed(&default())),
        of(
            "sealed-with-receipt",
            "nothing; the host's receipt is there",
            &with_receipt(&default(), sealed(&default())),
        ),
        of("sealed-without-parts", "nothing; no private part is disclosed", &withheld(sealed(&default()))),
        of("sealed-with-one-part", "nothing; one private part is disclosed", &{
            let mut parts = sealed(&default());
            parts.disclosed.as_mut().expect("parts").truncate(1);
            parts
        }),
        of("sealed-with-event-log", "nothing; the firmware's event log is there", &with_log(log(&small_boot()))),
        of("sealed-of-no-call", "nothing; nobody called", &sealed(&Recipe { calls: 0, ..only_last_checkpoint() })),
        of("sealed-of-many-calls", "nothing; there were 100 calls", &sealed(&Recipe { calls: 100, ..default() })),
        of(
            "sealed-with-a-denial",
            "nothing; one call was denied, one not recorded",
            &withheld(sealed(&Recipe { leaves: denied, ..default() })),
        ),
        of(
            "sealed-with-two-dates",
            "nothing; the two collateral sets have different dates",
            &sealed(&Recipe { opening_dates: Dates::OCTOBER, ..default() }),
        ),
        of("at-the-first-second", "nothing; asked at its issue", &sealed(&default())).at(NOVEMBER),
        of("at-the-last-second", "nothing; asked a second before its end", &sealed(&default())).at(DECEMBER - 1),
    ]
}

/// A log of three leaves, whose first checkpoint at two would be its opening and scrub leaf.
fn only_last_checkpoint() -> Recipe {
    Recipe { events: |events: &mut Vec<Rtmr3Event>| drop(events.remove(1)), ..Recipe::default() }
}

fn endings() -> Vec<Vector> {
    type Ending = (&'static str, fn(&mut SealMap));
    let endings: [Ending; 8] = [
        ("agent", |map| map.closed_by = ClosedBy::Agent),
        ("ttl", |map| map.reason = Reason::TtlExpired),
        ("idle", |map| map.reason = Reason::IdleTimeout),
        ("drained", |map| map.reason = Reason::HostDrained),
        ("policy", |map| map.reason = Reason::PolicyViolation),
        ("limit", |map| map.reason = Reason::LimitReached),
        ("internal", |map| map.reason = Reason::Internal),
        ("collateral", |map| map.collateral = vec![Digest256::of(b"a set")]),
    ];
    let made = |(name, seal): Ending| {
        let recipe = Recipe { seal, ..Recipe::default() };
        of(format!("sealed-{name}"), format!("nothing; how it ended: {name}"), &sealed(&recipe))
    };
    endings.into_iter().map(made).collect()
}

fn prefixes() -> Vec<Vector> {
    let killed = || parts(&Recipe::default(), Ending::Killed);
    let mut early = killed();
    early.leaves.clear();
    early.events.truncate(1);
    early.checkpoint.clear();
    early.disclosed = None;
    let asked = |name: &str, change: &str, parts: &Parts| of(name, change, parts).aborted().flag(Flag::Prefix);
    vec![
        asked("prefix", "the guest was killed in its last call", &killed()),
        asked("prefix-before-the-first-leaf", "the guest was killed before its first checkpoint", &early),
        asked("prefix-with-receipt", "the same with the host's receipt", &with_receipt(&Recipe::default(), killed())),
        asked("prefix-of-a-sealed-log", "the four members of the seal are taken away", &{
            Parts { seal: None, ..sealed(&Recipe::default()) }
        }),
    ]
}

/// What `docs/verifier-rules.md` says is free.
fn free() -> Vec<Vector> {
    let mut second = sealed(&Recipe::default());
    second_form(&mut seal(&mut second).quote);
    let mut other = sealed(&Recipe::default());
    let october = crate::platform::collateral(Dates::OCTOBER, crate::platform::Tcb::UP_TO_DATE);
    seal(&mut other).collateral = october.to_bytes();
    let mut repeated = sealed(&Recipe::default());
    let chain = repeated.open_quote.windows(10).position(|w| w == b"-----BEGIN").expect("a chain");
    let mut set = Collateral::parse(&repeated.open_collateral).expect("collateral");
    set.pck_certificate_chain = Some(repeated.open_quote[chain..].to_vec());
    repeated.open_collateral = set.to_bytes();
    let mut endpoint = members(&sealed(&Recipe::default()));
    endpoint.push((format!("endpoint/{}", Digest256::of(b"x")), b"x".to_vec()));
    let mut padded = log(&small_boot());
    padded.resize(padded.len() + 512, 0xff);
    vec![
        of("final-quote-second-form", "s of the final quote's signature is n - s", &second),
        of("other-collateral-at-the-seal", "another set under which the final quote verifies", &other),
        of("collateral-with-the-quotes-chain", "the collateral repeats the quote's PCK chain", &repeated),
        vector("endpoint-evidence", "endpoint evidence, which no rule looks into yet", indexed(&endpoint)),
        of("event-log-padding", "the event log is padded further", &with_log(padded)),
    ]
}
