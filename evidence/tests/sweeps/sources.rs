//! The valid bundles that the sweeps start from.

use coffer_evidence::bundle::Parts;
use coffer_evidence::config::Launch;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{Digest256, SessionId};
use coffer_evidence::intent::{Intent, PooledAllowed, Shape, sign_intent};
use coffer_evidence::leaf::{CauseClass, Rejection};
use coffer_evidence::pool::PoolConfig;
use coffer_evidence::private::{CIPHERTEXT_MIN, EncryptedPart, write_private};
use coffer_evidence::sign::PublicKey;
use coffer_evidence::verify::{Accepted, Report, Verdict, verify_bundle};

use crate::archive::{Members, indexed, members};
use crate::boot_log::{log, small_boot};
use crate::booted::{booted, named};
use crate::judging::options;
use crate::platform::Dates;
use crate::session::talk::end_to_end_strict;
use crate::session::{Ending, Recipe, host, key, opening, parts, with_receipt};

/// One call, and a machine whose firmware wrote the small log.
pub(crate) fn small() -> Recipe {
    Recipe { calls: 1, manifest: named, opening_td: booted, ..Recipe::default() }
}

/// A sealed session without a receipt, so that no rule is helped by the host's word about the bundle.
pub(crate) fn sealed_small() -> Parts {
    Parts { ccel: Some(log(&small_boot())), ..parts(&small(), Ending::Sealed) }
}

/// The same with its receipt.
pub(crate) fn receipted_small() -> Parts {
    with_receipt(&small(), sealed_small())
}

/// Every member that a bundle may have and still be sealed, but for the receipt.
pub(crate) fn every_member() -> Members {
    let mut all = members(&sealed_small());
    let before = all.iter().position(|(name, _)| name == "disclosed.cbor").expect("disclosed parts");
    all.insert(
        before,
        (
            "private.bin".to_owned(),
            write_private(&[EncryptedPart { index: 1, ciphertext: vec![7; CIPHERTEXT_MIN + 1] }]),
        ),
    );
    all.insert(before, ("private.age".to_owned(), b"a wrapped key".to_vec()));
    all.push((format!("endpoint/{}", Digest256::of(b"evidence")), b"evidence".to_vec()));
    all
}

/// The same session had it been killed in a second call.
pub(crate) fn killed_small() -> Parts {
    Parts { ccel: Some(log(&small_boot())), ..parts(&Recipe { calls: 2, ..small() }, Ending::Killed) }
}

fn pool() -> PoolConfig {
    PoolConfig { image: opening(&small()).intent.image, shape: Shape::S1, host_key: PublicKey::of(&host()) }
}

/// A strict end-to-end session in a TD of the pool, whose one call was acknowledged and took input.
pub(crate) fn signed_small() -> Members {
    let recipe = Recipe {
        intent: |intent| {
            end_to_end_strict(intent);
            intent.pooled = PooledAllowed::Yes;
        },
        config: |config| config.host.launch = Launch::Pooled,
        open: |open| (open.launch, open.bind_nonce) = (Launch::Pooled, Some([0xb1; 32])),
        opening_td: |td| {
            booted(td);
            let pool = pool();
            (td.mr_config_id, td.mr_owner, td.mr_owner_config) = (*pool.digest().as_bytes(), [0; 48], [0; 48]);
        },
        talk: Some(|talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            talk.ack(&mut caller);
            talk.input(&mut caller, 1, 100);
            talk.outcome(1, CauseClass::Completed, Some(100));
            talk.rejected(&caller, Rejection::OutOfOrder);
        }),
        ..small()
    };
    let mut all = members(&Parts { ccel: Some(log(&small_boot())), ..parts(&recipe, Ending::Sealed) });
    all.insert(3, ("pool.cbor".to_owned(), pool().to_bytes()));
    all
}

/// Another session of the same image and owner, on a day with other collateral.
pub(crate) fn other_session() -> Recipe {
    Recipe {
        intent: |intent| intent.session = SessionId::new([0x0b; 16]),
        open: |open| {
            open.log_key = PublicKey::of(&key(33));
            open.random = [0x0b; 32];
        },
        note_key: key(33),
        statement_key: key(33),
        opening_dates: Dates::OCTOBER,
        final_dates: Dates::OCTOBER,
        ..small()
    }
}

/// A session of another image, publisher, owner and host.
pub(crate) fn other_everything() -> Recipe {
    Recipe {
        publisher: key(22),
        manifest: |manifest| {
            named(manifest);
            manifest.svn = 7;
        },
        intent: |intent| {
            intent.session = SessionId::new([0x0c; 16]);
            intent.owner = PublicKey::of(&key(21));
        },
        config: |config| {
            config.owner_sig = sign_intent(&key(21), &Intent::parse(&config.intent).expect("an intent"));
            config.host.host_key = PublicKey::of(&key(25));
        },
        host: key(25),
        policy: "permit (principal, action, resource);\n// another text\n",
        open: |open| {
            open.log_key = PublicKey::of(&key(23));
            open.random = [0x0c; 32];
        },
        note_key: key(23),
        statement_key: key(23),
        ..small()
    }
}

/// A second TD from the same configuration that somehow got the same log key.
pub(crate) fn twin() -> Recipe {
    Recipe { open: |open| open.random = [0x0d; 32], ..small() }
}

/// The verdict on these members under an index made for them.
pub(crate) fn judged(members: &[(String, Vec<u8>)]) -> Report {
    verify_bundle(&indexed(members), &options())
}

#[track_caller]
pub(crate) fn refused_somewhere(report: &Report, what: &str) {
    assert_eq!((report.verdict, report.accepted), (Verdict::Invalid, Accepted::No), "{what}\n{}", report.human());
    assert!(report.words.is_empty() || report.words == ["Anyone can forge this."], "{what}: {:?}", report.words);
}
