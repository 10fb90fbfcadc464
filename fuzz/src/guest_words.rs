//! What `cofferd` hears from a guest: control frames and the record mirror, over connections that come and go.

use coffer_evidence::leaf::LEAF_MAX;
use coffer_evidence::link::{Frame as _, Mirror};
use cofferd::fuzzing::{Control, Heard, Mirrored, Told};

use crate::fixtures;
use crate::script::Script;

/// More than an agent says in a life, as in `cofferd`.
const FRAMES_MAX: usize = 8;
/// Leaves that the session of the mirror may have.
pub const LEAVES_MAX: u64 = 6;

/// Frames and new connections of the agent, as a script: `u8` kind (odd: a new connection), `u16` length and frame.
pub fn control_link(data: &[u8]) {
    let mut control = Control::new(*fixtures::session());
    let mut script = Script::new(data);
    let (mut place, mut opened, mut sealed, mut known) = (0, 0, 0, Vec::<Vec<u8>>::new());
    while !script.is_over() {
        if script.u8() % 2 == 1 {
            place = 0;
        }
        let frame = script.counted();
        let heard = control.take(place, frame);
        if let Some(before) = known.get(place) {
            let expected = if before == frame { Ok(Heard::Nothing) } else { Err(()) };
            assert_eq!(heard.clone().map_err(drop), expected, "a story that changes, or a repetition that is news");
        } else if let Ok(heard) = &heard {
            let failed = matches!(heard, Heard::Failed(_));
            let hello = *heard == Heard::Nothing;
            assert!(failed || hello == (place == 0), "{heard:?} at {place}");
            known.push(frame.to_vec());
        }
        // A violation ends the session: nothing more of this guest is read.
        let Ok(heard) = heard else { return };
        place += 1;
        assert!(known.len() <= FRAMES_MAX, "what a guest may say grows");
        match heard {
            Heard::Opened => opened += 1,
            Heard::Sealed => sealed += 1,
            Heard::Failed(words) => {
                assert!(words.len() <= 8 * 1024 && !words.contains(char::is_control), "words that a terminal obeys");
            }
            Heard::Nothing | Heard::Closing => {}
        }
        assert!(opened <= 1 && (sealed == 0 || opened == 1), "opened {opened} times, sealed {sealed} times");
    }
}

/// Frames of the record mirror, as a script like that of the control link.
pub fn mirror_store(data: &[u8]) {
    let root = tempfile::tempdir().expect("a directory");
    let mut mirror = Mirrored::create(root.path(), LEAVES_MAX).expect("a mirror");
    let mut script = Script::new(data);
    let mut truth = Told::default();
    let mut here = (0, 0);
    while !script.is_over() {
        if script.u8() % 2 == 1 {
            mirror.reconnect();
            here = (0, 0);
        }
        let frame = script.counted();
        // A violation ends the session; what was told before stays.
        let Ok(progress) = mirror.accept(frame) else { break };
        learn(&mut truth, &mut here, frame);
        assert_eq!(progress, (truth.leaves.len() as u64, truth.events.len() as u64));
    }
    let record = mirror.read().expect("the record");
    assert_eq!(record.leaves, truth.leaves, "a leaf was changed, lost or invented");
    assert_eq!(record.events, truth.events, "an event was changed, lost or invented");
    assert_eq!(record.private, truth.private, "a private part was changed, lost or invented");
    assert_eq!(record.note, truth.note);
    assert!(record.leaves.len() as u64 <= LEAVES_MAX);
    let sizes = record.leaves.iter().chain(&record.events).map(Vec::len);
    assert!(sizes.clone().all(|size| (1..=LEAF_MAX).contains(&size)), "{:?}", sizes.collect::<Vec<_>>());
}

/// The record that this guest has told: `here` is how far the connection has come, leaves and events.
fn learn(truth: &mut Told, here: &mut (usize, usize), frame: &[u8]) {
    let place = |at: &mut usize, index: u64, list: &mut Vec<Vec<u8>>, bytes: Vec<u8>| {
        assert_eq!(index, *at as u64, "out of order");
        match list.get(*at) {
            Some(known) => assert_eq!(*known, bytes, "a story that changes was accepted"),
            None => list.push(bytes),
        }
        *at += 1;
    };
    match Mirror::decode(frame).expect("it was accepted") {
        Mirror::Leaf { index, bytes } => place(&mut here.0, index, &mut truth.leaves, bytes),
        Mirror::Event { index, bytes } => place(&mut here.1, index, &mut truth.events, bytes),
        Mirror::Private { index, salt, bytes } => {
            assert!(index < here.0 as u64, "a private part of a leaf that was not told");
            let part = (index, salt, bytes);
            match truth.private.iter().find(|(known, ..)| *known == index) {
                Some(known) => assert_eq!(*known, part, "a story that changes was accepted"),
                None => {
                    assert!(truth.private.last().is_none_or(|last| last.0 < index), "a private part between others");
                    truth.private.push(part);
                }
            }
        }
        // A note told again is older than the one that is here.
        Mirror::Note(_) if here.1 < truth.events.len() => {}
        Mirror::Note(note) => truth.note = String::from_utf8(note).ok().filter(|note| !note.is_empty()),
    }
}
