//! The firmware's event log: real logs replay to their registers, one form is read, and no bytes panic.

#[path = "support/boot_log.rs"]
mod boot_log;

use std::path::{Path, PathBuf};

use boot_log::{EV_EFI_ACTION, Entry, encode, header, log, small_boot};
use coffer_evidence::event_log::{EVENT_LOG_MAX, EVENTS_MAX, EventLog, EventLogError, EventPayload, PAYLOAD_MAX};
use coffer_evidence::ids::Digest384;
use coffer_evidence::quote::Quote;
use coffer_evidence::rtmr::Rtmr;
use proptest::prelude::*;

const OVMF: &str = "trustee/CCEL_data_ovmf";
const DSTACK: &str = "dstack/quote-report.json";

fn vector(path: &str) -> Option<Vec<u8>> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors");
    let collection = std::env::var_os("COFFER_VECTORS").map_or_else(beside, PathBuf::from);
    std::fs::read(collection.join(path)).ok()
}

fn not_run(path: &str) {
    println!("NOT RUN: {path} is not in COFFER_VECTORS");
}

fn registers(bytes: &[u8]) -> [String; 4] {
    EventLog::parse(bytes).expect("an event log").replay().map(|register| hex::encode(register.as_bytes()))
}

#[test]
fn the_log_of_a_real_direct_boot_replays_to_the_published_registers() {
    let Some(bytes) = vector(OVMF) else { return not_run(OVMF) };
    let log = EventLog::parse(&bytes).expect("a real log");
    assert_eq!(log.events().len(), 20);
    let expected = [
        "8566f998798db09443b244c62de9a3041fb02e2e6936c4396d784bba2e90177329ec5aba3bb484404f2ab9cc90abe193",
        "775b9f6bfe99f8a31396f0d0218e67ffa796d3b96ccf961cbb0deba48c79c00f082cda1a5567c1c16305f1fc210c13c6",
        "94eaf7a7bf398ed8d888c91057ae0261802e4f3df084213a76ca7f0b5055ac9d2241de43cd58d9e8b49c503bbf25f34a",
    ];
    let [rtmr0, rtmr1, rtmr2, rtmr3] = registers(&bytes);
    assert_eq!([rtmr0, rtmr1, rtmr2], expected);
    assert_eq!(rtmr3, hex::encode([0; 48]));
}

/// The table of the vectors' README says which of them can be recomputed.
#[test]
fn payloads_of_a_real_log_count_only_where_their_digest_is_theirs() {
    let Some(bytes) = vector(OVMF) else { return not_run(OVMF) };
    let log = EventLog::parse(&bytes).expect("a real log");
    let recomputed: Vec<usize> = (1..)
        .zip(log.events())
        .filter_map(|(number, event)| matches!(event.payload, EventPayload::Recomputed(_)).then_some(number))
        .collect();
    assert_eq!(recomputed, [3, 4, 5, 6, 7, 8, 13, 14, 15, 16, 19, 20]);
    // Of a boot variable its data was measured, and not its name.
    assert_eq!(log.events()[12].payload, EventPayload::Recomputed(&[0, 0]));
}

/// That project keeps its log as JSON; in the firmware's form it replays to a quote that Intel's root vouches for.
#[test]
fn the_log_of_a_real_quote_replays_to_its_registers() {
    let Some(report) = vector(DSTACK) else { return not_run(DSTACK) };
    let report: serde_json::Value = serde_json::from_slice(&report).expect("JSON");
    let decoded = |value: &serde_json::Value| hex::decode(value.as_str().expect("hex")).expect("hex");
    let bytes = decoded(&report["quote"]);
    let quote = Quote::parse(&bytes).expect("a quote");
    let events: Vec<serde_json::Value> =
        serde_json::from_str(report["event_log"].as_str().expect("a log")).expect("a list");
    let number = |value: &serde_json::Value| u32::try_from(value.as_u64().expect("a number")).expect("32 bits");
    let entries: Vec<Entry> = events
        .iter()
        .map(|event| Entry {
            index: number(&event["imr"]) + 1,
            kind: number(&event["event_type"]),
            digest: decoded(&event["digest"]).try_into().expect("48 bytes"),
            payload: decoded(&event["event_payload"]),
        })
        .collect();
    assert_eq!(registers(&log(&entries)), quote.rtmrs().map(hex::encode));
}

#[test]
fn a_log_is_replayed_event_by_event_into_its_registers() {
    let entries = small_boot();
    let bytes = log(&entries);
    let parsed = EventLog::parse(&bytes).expect("our own log");
    assert_eq!(parsed.events().len(), entries.len());
    let mut expected = [Rtmr::ZERO; 4];
    for entry in &entries {
        let register = &mut expected[entry.index as usize - 1];
        *register = register.extend(&Digest384::new(entry.digest));
    }
    assert_eq!(parsed.replay(), expected);
    assert_eq!(parsed.events()[0].payload, EventPayload::Recomputed(&[0; 4]));
    assert_eq!(parsed.events()[1].payload, EventPayload::Opaque(b"TdxTable"));
}

#[test]
fn every_flip_in_a_digest_changes_its_register_alone_and_takes_the_payload_down() {
    let entries = small_boot();
    let whole = log(&entries);
    let before = EventLog::parse(&whole).expect("our own log").replay();
    let mut start = header().len();
    for (number, entry) in entries.iter().enumerate() {
        for position in start + 14..start + 14 + 48 {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[position] ^= 1 << bit;
                let parsed = EventLog::parse(&changed).expect("still a log");
                let after = parsed.replay();
                for register in 0..4 {
                    let own = register == entry.index as usize - 1;
                    assert_eq!(after[register] != before[register], own, "event {number}, byte {position}");
                }
                assert_eq!(parsed.events()[number].payload, EventPayload::Opaque(&entry.payload));
            }
        }
        start += encode(entry).len();
    }
}

#[test]
fn an_event_dropped_doubled_or_moved_changes_its_register_and_neighbours_of_different_registers_may_swap() {
    let replay = |entries: &[Entry]| EventLog::parse(&log(entries)).expect("our own log").replay();
    let before = replay(&small_boot());
    let mut dropped = small_boot();
    drop(dropped.remove(0));
    let mut doubled = small_boot();
    doubled.push(Entry::measured(2, EV_EFI_ACTION, b"Exit Boot Services Invocation"));
    let mut moved = small_boot();
    moved.swap(0, 1);
    let mut elsewhere = small_boot();
    elsewhere[0].index = 3;
    for changed in [dropped, doubled, moved, elsewhere] {
        assert_ne!(replay(&changed), before);
    }
    let mut free = small_boot();
    free.swap(1, 2);
    assert_eq!(replay(&free), before);
}

#[test]
fn an_event_that_is_not_extended_changes_nothing_and_vouches_for_nothing() {
    let mut entries = small_boot();
    let before = registers(&log(&entries));
    entries.push(Entry { index: 1, kind: 3, digest: [0; 48], payload: b"StartupLocality".to_vec() });
    let bytes = log(&entries);
    assert_eq!(registers(&bytes), before);
    let parsed = EventLog::parse(&bytes).expect("our own log");
    assert!(matches!(parsed.events().last().expect("it").payload, EventPayload::Opaque(_)));
    entries.push(Entry::measured(1, 3, b"a digest that nothing extended"));
    assert!(matches!(EventLog::parse(&log(&entries)), Err(EventLogError::NoAction { .. })));
}

#[test]
fn a_log_ends_at_its_padding_and_nothing_hides_there() {
    let entries = small_boot();
    let bare: Vec<u8> = header().into_iter().chain(entries.iter().flat_map(encode)).collect();
    let expected = registers(&bare);
    for padding in [[0xff; 100], [0; 100]] {
        for length in [0, 1, 3, 100] {
            assert_eq!(registers(&[bare.as_slice(), &padding[..length]].concat()), expected);
        }
        let hidden = [bare.as_slice(), &padding, &encode(&entries[0])].concat();
        assert_eq!(EventLog::parse(&hidden), Err(EventLogError::Padding { at: bare.len() }));
    }
    let mixed = [bare.as_slice(), &[0xff; 8], &[0; 8]].concat();
    assert_eq!(EventLog::parse(&mixed), Err(EventLogError::Padding { at: bare.len() }));
}

#[test]
fn no_other_form_is_read() {
    let with = |change: fn(&mut Entry)| {
        let mut entry = Entry::measured(1, 4, &[0; 4]);
        change(&mut entry);
        [header(), encode(&entry)].concat()
    };
    assert!(EventLog::parse(&with(|_| {})).is_ok());
    for index in [0, 5, 9, 0x0100_0001, u32::MAX - 1] {
        let mut entry = Entry::measured(1, 4, &[0; 4]);
        entry.index = index;
        assert!(EventLog::parse(&[header(), encode(&entry)].concat()).is_err(), "register index {index}");
    }
    let event = header().len();
    let good = with(|_| {});
    for (what, position) in [("number of digests", event + 8), ("algorithm", event + 12)] {
        let mut changed = good.clone();
        changed[position] ^= 0x0f;
        assert_eq!(EventLog::parse(&changed), Err(EventLogError::Digests { at: event }), "{what}");
    }
    for length in 0..good.len() {
        let whole = length == event;
        assert_eq!(EventLog::parse(&good[..length]).is_ok(), whole, "cut to {length}");
    }
    // Every byte of the first event counts, but for the platform class and the errata.
    let free = [48, 49, 50, 51, 54];
    for position in (0..event).filter(|position| !free.contains(position)) {
        let mut changed = good.clone();
        changed[position] ^= 0x10;
        assert!(EventLog::parse(&changed).is_err(), "byte {position} of the first event");
    }
}

#[test]
fn size_events_and_payloads_end_at_their_limits() {
    let padded = |length: usize| {
        let mut bytes = log(&small_boot());
        bytes.resize(length, 0xff);
        bytes
    };
    assert!(EventLog::parse(&padded(EVENT_LOG_MAX)).is_ok());
    assert_eq!(EventLog::parse(&padded(EVENT_LOG_MAX + 1)), Err(EventLogError::TooLarge(EVENT_LOG_MAX + 1)));

    let many = |count: usize| {
        let one = encode(&Entry::measured(1, 4, &[]));
        [header(), one.repeat(count)].concat()
    };
    assert_eq!(EventLog::parse(&many(EVENTS_MAX)).expect("at the limit").events().len(), EVENTS_MAX);
    assert_eq!(EventLog::parse(&many(EVENTS_MAX + 1)), Err(EventLogError::TooMany));

    let large = |length: usize| log(&[Entry::measured(1, 4, &vec![7; length])]);
    assert!(EventLog::parse(&large(PAYLOAD_MAX)).is_ok());
    let found = u32::try_from(PAYLOAD_MAX + 1).expect("32 bits");
    let at = header().len();
    assert_eq!(EventLog::parse(&large(PAYLOAD_MAX + 1)), Err(EventLogError::Payload { at, found }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = EventLog::parse(&bytes);
    }

    #[test]
    fn no_change_of_a_log_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in any::<prop::sample::Index>()) {
        let mut bytes = log(&small_boot());
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(log) = EventLog::parse(&bytes) {
            let _ = log.replay();
        }
    }
}
