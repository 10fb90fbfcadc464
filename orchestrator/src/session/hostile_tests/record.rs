//! What a hostile guest mirrors: records that contradict themselves, their note or their seal, and floods.

use coffer_evidence::bundle::SMALL_FILE_MAX;
use coffer_evidence::ids::Digest256;
use coffer_evidence::link::{Frame as _, Mirror};
use coffer_evidence::note::{Checkpoint, sign_note};
use coffer_evidence::seal::{ClosedBy, Reason};
use ed25519_dalek::SigningKey;
use tokio::io::AsyncWriteExt as _;

use super::control::{Port, crowd};
use super::stage::{Actor, write};
use super::{Ends, Row};
use crate::session::acted::Script;
use crate::session::acted::guest::say;
use crate::session::mirror::MIRROR_MAX;
use crate::session::types::GuestExit;

type Exit = Option<GuestExit>;

/// Is ready, then tells the record again with something added, and waits.
async fn adds(mut actor: Actor, added: Vec<Mirror>) -> Exit {
    let _control = actor.arrive().await?;
    actor.guest.records.extend(added);
    actor.tell_all().await?;
    std::future::pending().await
}

/// Is ready with a record that is changed before the host hears of it, and waits.
async fn changes(mut actor: Actor, change: fn(&mut Mirror)) -> Exit {
    actor.changes = Some(change);
    let _control = actor.arrive().await?;
    std::future::pending().await
}

/// Is ready, then writes these bytes to the record port, and waits.
async fn blurt(mut actor: Actor, bytes: Vec<u8>) -> Exit {
    let _control = actor.arrive().await?;
    let mut record = actor.record().await?;
    write(&mut record, &bytes).await?;
    std::future::pending().await
}

/// The note of a record, signed anew.
fn renoted(frame: &mut Mirror, change: impl FnOnce(&mut Checkpoint), key: &SigningKey) {
    let Mirror::Note(note) = frame else { return };
    let text = String::from_utf8(note.clone()).expect("text");
    let (text, _) = text.split_once("\n\n").expect("a signature");
    let mut checkpoint = Checkpoint::parse_text(&format!("{text}\n")).expect("a checkpoint");
    change(&mut checkpoint);
    *note = sign_note(key, &checkpoint).into_bytes();
}

fn another_key() -> SigningKey {
    SigningKey::from_bytes(&[77; 32])
}

/// Seals, then tells the record with this done to it, then says that it is sealed.
async fn seals_over(mut actor: Actor, change: impl FnOnce(&mut Vec<Mirror>)) -> Exit {
    let mut control = actor.arrive().await?;
    let sealed = actor.guest.seal(Reason::IdleTimeout, ClosedBy::Agent, Script::Orderly);
    change(&mut actor.guest.records);
    actor.tell_all().await?;
    say(&mut control, &sealed).await?;
    std::future::pending().await
}

/// A mirror frame after whose end there is always another.
async fn floods(actor: &Actor, mut next: impl FnMut() -> Vec<Mirror>) -> Option<u64> {
    let mut record = actor.record().await?;
    actor.tell(&mut record).await?;
    let mut told = 0;
    loop {
        for frame in next() {
            let wire = frame.to_wire();
            if record.write_all(&wire).await.is_err() {
                return Some(told);
            }
            told += wire.len() as u64;
        }
    }
}

pub(super) const ROWS: &[Row] = &[
    Row::new("a leaf that leaves one out", Ends::ViolatesLater, |a| {
        Box::pin(adds(a, vec![Mirror::Leaf { index: 9, bytes: vec![1] }]))
    }),
    Row::new("a leaf again", Ends::ViolatesLater, |a| {
        Box::pin(adds(a, vec![Mirror::Leaf { index: 0, bytes: vec![1] }]))
    }),
    Row::new("an empty leaf", Ends::ViolatesLater, |a| {
        Box::pin(adds(a, vec![Mirror::Leaf { index: 3, bytes: vec![] }]))
    }),
    Row::new("a leaf too long", Ends::ViolatesLater, |a| {
        Box::pin(adds(a, vec![Mirror::Leaf { index: 3, bytes: vec![7; 65_537] }]))
    }),
    Row::new("a private part without its leaf", Ends::ViolatesLater, |a| {
        Box::pin(adds(a, vec![Mirror::Private { index: 3, salt: [0; 32], bytes: vec![1] }]))
    }),
    Row::new("a private part of a leaf far ahead", Ends::ViolatesLater, |a| {
        Box::pin(adds(a, vec![Mirror::Private { index: u64::MAX, salt: [0; 32], bytes: vec![1] }]))
    }),
    Row::new("an event that leaves one out", Ends::ViolatesLater, |a| {
        Box::pin(adds(a, vec![Mirror::Event { index: u64::MAX, bytes: vec![1] }]))
    }),
    Row::new("a note too long", Ends::ViolatesLater, |a| Box::pin(adds(a, vec![Mirror::Note(vec![b'n'; 5000])]))),
    Row::new("another record on the second connection", Ends::ViolatesLater, |mut a| {
        Box::pin(async move {
            let _control = a.arrive().await?;
            a.changes = Some(|frame| {
                if let Mirror::Leaf { bytes, .. } = frame {
                    *bytes = b"another".to_vec();
                }
            });
            a.tell_all().await?;
            std::future::pending().await
        })
    }),
    Row::new("a frame of 4 GiB", Ends::ViolatesLater, |a| Box::pin(blurt(a, vec![0xff; 4]))),
    Row::new("a frame of other bytes", Ends::ViolatesLater, |a| Box::pin(blurt(a, b"\x04\x00\x00\x00oops".to_vec()))),
    Row::new("half a frame, then silence", Ends::SealsNotWhenAsked, |a| Box::pin(blurt(a, vec![0, 0, 1, 0, 9, 9]))),
    Row::new("a thousand silent connections", Ends::SealsNotWhenAsked, |mut a| {
        Box::pin(async move {
            let _control = a.arrive().await?;
            let _held = crowd(&a, Port::Record, 1000).await;
            std::future::pending().await
        })
    }),
    Row::new("a thousand connections that end", Ends::ViolatesLater, |mut a| {
        Box::pin(async move {
            let _control = a.arrive().await?;
            drop(crowd(&a, Port::Record, 1000).await);
            std::future::pending().await
        })
    }),
    Row::new("old notes without end", Ends::ViolatesLater, |mut a| {
        Box::pin(async move {
            let _control = a.arrive().await?;
            // Before its events are told again, a note is older than the one that is kept.
            a.guest.records.clear();
            floods(&a, || vec![Mirror::Note(vec![b'n'; 16]); 64]).await?;
            std::future::pending().await
        })
    }),
    Row::new("private parts without end", Ends::ViolatesLater, |mut a| {
        Box::pin(async move {
            let _control = a.arrive().await?;
            let mut index = a.guest.log.size();
            let told = floods(&a, || {
                index += 1;
                let leaf = Mirror::Leaf { index: index - 1, bytes: vec![7] };
                vec![leaf, Mirror::Private { index: index - 1, salt: [0; 32], bytes: vec![7; 1_000_000] }]
            });
            let told = told.await?;
            assert!(told < SMALL_FILE_MAX + (4 << 20), "the host took {told} bytes");
            std::future::pending().await
        })
    }),
    Row::new("events without end", Ends::ViolatesLater, |mut a| {
        Box::pin(async move {
            let _control = a.arrive().await?;
            let mut index = a.guest.log.events();
            let told = floods(&a, || {
                index += 1;
                vec![Mirror::Event { index: index - 1, bytes: vec![7; 60_000] }]
            });
            let told = told.await?;
            assert!(told < SMALL_FILE_MAX + (4 << 20), "the host took {told} bytes");
            std::future::pending().await
        })
    }),
    Row::new("leaves without end", Ends::ViolatesLater, |mut a| {
        Box::pin(async move {
            let _control = a.arrive().await?;
            let mut index = a.guest.log.size();
            let told = floods(&a, || {
                index += 1;
                vec![Mirror::Leaf { index: index - 1, bytes: vec![7; 65_536] }]
            });
            let told = told.await?;
            assert!(told < MIRROR_MAX + (4 << 20), "the host took {told} bytes");
            std::future::pending().await
        })
    }),
    Row::new("a note by another key", Ends::NothingWhenAsked, |a| {
        Box::pin(changes(a, |frame| renoted(frame, |_| {}, &another_key())))
    }),
    Row::new("a note of another log", Ends::NothingWhenAsked, |a| {
        Box::pin(changes(a, |frame| renoted(frame, |c| c.origin.push('x'), &another_key())))
    }),
    Row::new("a note over another root", Ends::NothingWhenAsked, |a| {
        Box::pin(changes(a, |frame| renoted(frame, |c| c.root = Digest256::of(b"x"), &another_key())))
    }),
    Row::new("a note over more than there is", Ends::NothingWhenAsked, |a| {
        Box::pin(changes(a, |frame| renoted(frame, |c| c.size = u64::MAX, &another_key())))
    }),
    Row::new("a note that is none", Ends::NothingWhenAsked, |a| {
        Box::pin(changes(a, |frame| {
            if let Mirror::Note(note) = frame {
                *note = vec![0xff; 300];
            }
        }))
    }),
    Row::new("leaves that are not the note's", Ends::NothingWhenAsked, |a| {
        Box::pin(changes(a, |frame| {
            if let Mirror::Leaf { bytes, .. } = frame {
                bytes.push(0);
            }
        }))
    }),
    Row::new("private parts that are not the leaves'", Ends::NothingWhenAsked, |a| {
        Box::pin(changes(a, |frame| {
            if let Mirror::Private { bytes, .. } = frame {
                bytes.push(0);
            }
        }))
    }),
    Row::new("events that do not replay", Ends::NothingWhenAsked, |a| {
        Box::pin(changes(a, |frame| {
            if let Mirror::Event { index: 0, bytes } = frame {
                bytes.push(0);
            }
        }))
    }),
    Row::new("a leaf after the seal", Ends::ViolatesLater, |a| {
        Box::pin(seals_over(a, |records| {
            let leaves = records.iter().filter(|frame| matches!(frame, Mirror::Leaf { .. })).count();
            records.push(Mirror::Leaf { index: leaves as u64, bytes: b"and another thing".to_vec() });
        }))
    }),
    Row::new("an event after the seal", Ends::ViolatesLater, |a| {
        Box::pin(seals_over(a, |records| {
            let events = records.iter().filter(|frame| matches!(frame, Mirror::Event { .. })).count();
            records.push(Mirror::Event { index: events as u64, bytes: b"and another thing".to_vec() });
        }))
    }),
    Row::new("a seal whose last leaf is withheld", Ends::SealsInVain, |a| {
        Box::pin(seals_over(a, |records| {
            let last = records.iter().rposition(|frame| matches!(frame, Mirror::Leaf { .. })).expect("a leaf");
            records.remove(last);
        }))
    }),
];
