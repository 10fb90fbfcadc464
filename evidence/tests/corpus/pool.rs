//! R2, R8 and R9 of TDs that were booted before they were wanted.

use coffer_evidence::bundle::{ORDER, Parts};
use coffer_evidence::config::{Config, Launch};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::Digest256;
use coffer_evidence::intent::{Intent, PooledAllowed, Shape, sign_intent};
use coffer_evidence::pool::PoolConfig;
use coffer_evidence::rtmr::{Rtmr, Rtmr3Event, event_bytes, event_digest};
use coffer_evidence::sign::PublicKey;
use coffer_evidence::verify::Rule;

use crate::archive::{indexed, members};
use crate::forms::broken;
use crate::opening::sealed;
use crate::platform::Td;
use crate::session::talk::{end_to_end, usual};
use crate::session::{Ending, Recipe, host, key, opening, owner, parts};
use crate::vector::{Flag, Vector, vector};

const REGISTERS: &str = "configuration registers";
const POOL: &str = "pool configuration";

/// What the TDs of the pool were booted with.
fn pool() -> PoolConfig {
    let image = opening(&Recipe::default()).intent.image;
    PoolConfig { image, shape: Shape::S1, host_key: PublicKey::of(&host()) }
}

fn booted(td: &mut Td) {
    let measured = pool().measured();
    (td.mr_config_id, td.mr_owner, td.mr_owner_config) =
        (measured.mr_config_id, measured.mr_owner, measured.mr_owner_config);
}

fn pooled() -> Recipe {
    Recipe {
        intent: |intent| intent.pooled = PooledAllowed::Yes,
        config: |config| config.host.launch = Launch::Pooled,
        open: |open| (open.launch, open.bind_nonce) = (Launch::Pooled, Some([0xb1; 32])),
        opening_td: booted,
        ..Recipe::default()
    }
}

/// The bundle with this pool configuration.
fn with(parts: &Parts, pool: Vec<u8>) -> Vec<u8> {
    let mut members = members(parts);
    members.push(("pool.cbor".to_owned(), pool));
    members.sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name));
    indexed(&members)
}

fn of(name: &str, change: &str, recipe: &Recipe) -> Vector {
    vector(name, change, with(&sealed(recipe), pool().to_bytes()))
}

pub(crate) fn vectors() -> Vec<Vector> {
    [good(), forms(), bad(), bound()].concat()
}

fn good() -> Vec<Vector> {
    let both = Recipe {
        intent: |intent| {
            end_to_end(intent);
            intent.pooled = PooledAllowed::Yes;
        },
        talk: Some(usual),
        ..pooled()
    };
    let allowed = Recipe { intent: |intent| intent.pooled = PooledAllowed::Yes, ..Recipe::default() };
    let killed = with(&parts(&pooled(), Ending::Killed), pool().to_bytes());
    vec![
        of("pooled", "nothing; the TD was taken from the pool", &pooled()),
        of(
            "pooled-end-to-end",
            "nothing; the TD was taken from the pool, and clients signed what they asked for",
            &both,
        ),
        vector("pooled-prefix", "the guest was killed in its last call", killed).aborted().flag(Flag::Prefix),
        crate::vector::of(
            "cold-where-pooled-is-allowed",
            "nothing; the intent allows the pool, the launch was cold",
            &sealed(&allowed),
        ),
    ]
}

fn forms() -> Vec<Vector> {
    let genuine = sealed(&pooled());
    broken(&pool().to_bytes())
        .into_iter()
        .map(|(name, change, bytes)| {
            let vector =
                vector(format!("form-pool-cbor-{name}"), format!("pool.cbor: {change}"), with(&genuine, bytes));
            vector.refused(Rule::R2, "pool.cbor")
        })
        .collect()
}

fn bad() -> Vec<Vector> {
    type Change = (&'static str, fn(&mut PoolConfig));
    let fields: [Change; 2] = [
        ("image", |pool| pool.image = Digest256::of(b"another")),
        ("host-key", |pool| pool.host_key = PublicKey::of(&key(77))),
    ];
    let mut vectors: Vec<Vector> = fields
        .into_iter()
        .map(|(field, by)| {
            let mut other = pool();
            by(&mut other);
            let change = format!("the TD was booted for another {field}");
            let bytes = with(&sealed(&pooled()), other.to_bytes());
            vector(format!("pool-{field}"), change, bytes).refused(Rule::R8, POOL)
        })
        .collect();
    let unasked = Recipe { intent: |_| {}, ..pooled() };
    let id = Recipe {
        opening_td: |td| {
            booted(td);
            td.mr_config_id[0] ^= 1;
        },
        ..pooled()
    };
    let tenant = Recipe {
        opening_td: |td| {
            let owner = td.mr_owner;
            booted(td);
            td.mr_owner = owner;
        },
        ..pooled()
    };
    let policy = Recipe {
        opening_td: |td| {
            let policy = td.mr_owner_config;
            booted(td);
            td.mr_owner_config = policy;
        },
        ..pooled()
    };
    let cold = Recipe { opening_td: |_| {}, ..pooled() };
    let missing = crate::vector::of("pool-configuration-missing", "pool.cbor is missing", &sealed(&pooled()));
    vectors.extend([
        missing.missing(Rule::R8, POOL),
        of(
            "pool-configuration-of-a-cold-launch",
            "the launch was cold, and a pool configuration is there",
            &Recipe::default(),
        )
        .refused(Rule::R8, POOL),
        of("pooled-not-allowed", "the TD was taken from the pool, which the intent does not allow", &unasked)
            .refused(Rule::R8, "launch is one that the intent allows"),
        of("pool-mrconfigid", "MRCONFIGID of another pool configuration", &id).refused(Rule::R8, REGISTERS),
        of("pool-mrowner", "MROWNER of a pooled launch is the tenant's", &tenant).refused(Rule::R8, REGISTERS),
        of("pool-mrownerconfig", "MROWNERCONFIG of a pooled launch is the policy's", &policy)
            .refused(Rule::R8, REGISTERS),
        of("pool-registers-of-a-cold-launch", "the registers are those of a cold launch", &cold)
            .refused(Rule::R8, REGISTERS),
    ]);
    vectors
}

/// What the owner would sign of a second session of the same image.
fn another_config() -> Vec<u8> {
    let mut intent = opening(&pooled()).intent;
    intent.nonce = [0x22; 32];
    let mut config = Config::parse(&opening(&pooled()).config).expect("a configuration");
    config.owner_sig = sign_intent(&owner(), &intent);
    config.intent = intent.to_bytes();
    assert!(Intent::parse(&config.intent).is_ok());
    config.to_bytes()
}

fn bound() -> Vec<Vector> {
    // Whoever binds extends event 0: a TD that was bound before holds two.
    let second = Recipe {
        opening_td: |td| {
            booted(td);
            let events: Vec<Vec<u8>> = [[0x66; 32], [8; 32]]
                .into_iter()
                .map(|random| {
                    let mut open = opening(&pooled()).open;
                    open.random = random;
                    event_bytes(0, &Rtmr3Event::Open(Box::new(open)))
                })
                .collect();
            let rtmr3 = events.iter().fold(Rtmr::ZERO, |rtmr, event| rtmr.extend(&event_digest(event)));
            td.rtmr[3] = *rtmr3.as_bytes();
        },
        ..pooled()
    };
    let mut swapped = sealed(&pooled());
    swapped.config = another_config();
    let unsaid = Recipe { open: |open| (open.launch, open.bind_nonce) = (Launch::Cold, None), ..pooled() };
    vec![
        of("second-bind", "the TD had been bound before", &second)
            .refused(Rule::R9, "opening RTMR3 is the replay of event 0"),
        vector(
            "bind-to-another-config",
            "the configuration is another that the owner signed, and the TD was not bound to it",
            with(&swapped, pool().to_bytes()),
        )
        .refused(Rule::R9, "open map fits the configuration"),
        of("bind-unsaid", "the open map says cold, and so has no bind nonce", &unsaid)
            .refused(Rule::R9, "open map fits the configuration"),
    ]
}
