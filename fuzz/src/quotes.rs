//! Quotes, the service that makes them, the endorsements that go with them, and the firmware's event log.

use coffer_evidence::collateral::Collateral;
use coffer_evidence::event_log::{EVENT_LOG_MAX, EVENTS_MAX, EventLog, EventPayload, PAYLOAD_MAX};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::Digest384;
use coffer_evidence::qgs::{Answer, MESSAGE_MAX, REPORT_BYTES, Request, length};
use coffer_evidence::quote::{MAX_QUOTE_BYTES, Quote};
use coffer_evidence::verify::{Moment, Padding, TrustAnchor, verify_quote};
use sha2::{Digest as _, Sha384};

use crate::fixtures;

fn seed(member: &str) -> &'static [u8] {
    fixtures::sealed_bundle().member(member).expect("a member of the seed")
}

/// The quote parser, and its verification with endorsements that are right.
pub fn quote(data: &[u8]) {
    let Ok(quote) = Quote::parse(data) else { return };
    let used = quote.used_length();
    assert!(data.len() <= MAX_QUOTE_BYTES && used <= data.len());
    assert!(data[used..].iter().all(|byte| *byte == 0), "something hides behind a quote");
    assert_eq!(Quote::cut(data), Ok(&data[..used]));
    assert_eq!(Quote::parse(&data[..used]).expect("the cut quote"), quote);
    if let Ok(chain) = quote.pck_chain() {
        drop(chain);
    }
    let collateral = Collateral::parse(seed("open.collateral")).expect("the seed's");
    let moment = Moment::At(fixtures::AT);
    if verify_quote(data, &collateral, &TrustAnchor::pinned(), moment, Padding::Zeros).is_ok() {
        let genuine = ["open.quote", "seal.quote"].map(|name| Quote::parse(seed(name)).expect("the seed's"));
        let report = |quote: &Quote| (quote.header().clone(), quote.report().clone());
        assert!(genuine.iter().any(|known| report(known) == report(&quote)), "a quote that nobody signed was verified");
    }
}

/// Endorsements: one encoding, and no others verify a genuine quote.
pub fn collateral(data: &[u8]) {
    if let Ok(read) = Collateral::from_json(data) {
        let again = Collateral::from_json(&read.to_json()).expect("our own JSON");
        assert_eq!(again, read);
        judge(&read);
    }
    if let Ok(read) = Collateral::parse(data) {
        assert_eq!(read.to_bytes(), data, "another encoding of collateral was accepted");
        judge(&read);
    }
}

fn judge(collateral: &Collateral) {
    let genuine = Collateral::parse(seed("open.collateral")).expect("the seed's");
    let anchors = TrustAnchor::pinned();
    for moment in [Moment::AsOf, Moment::At(fixtures::AT)] {
        if verify_quote(seed("open.quote"), collateral, &anchors, moment, Padding::None).is_ok() {
            // What is signed must be the genuine text; only the form of a signature may differ (`rules::free`).
            let signed = |c: &Collateral| (c.tcb_info.clone(), c.qe_identity.clone());
            assert_eq!(signed(collateral), signed(&genuine), "endorsements that nobody signed");
        }
    }
}

/// What QEMU, `doctor` and the service say to each other. The first byte says to which request it is an answer.
pub fn qgs(data: &[u8]) {
    let Some((kind, wire)) = data.split_first() else { return };
    let Some((prefix, message)) = wire.split_first_chunk::<4>() else { return };
    if let Ok(length) = length(*prefix) {
        assert!(length <= MESSAGE_MAX, "a message beyond the limit");
    }
    if let Ok(request) = Request::parse(message) {
        assert!(message.len() <= MESSAGE_MAX);
        let again = request.to_wire();
        assert_eq!(Request::parse(&again[4..]).as_ref(), Ok(&request), "our own request");
        assert_eq!(again.len() - 4, message.len(), "something hides in a request");
    }
    let to = if kind % 2 == 0 { Request::Quote(Box::new([0; REPORT_BYTES])) } else { Request::Platform };
    if let Ok(answer) = Answer::parse(message, &to) {
        assert!(message.len() <= MESSAGE_MAX);
        let again = answer.to_wire(&to);
        assert_eq!(length([again[0], again[1], again[2], again[3]]), Ok(again.len() - 4));
        assert_eq!(Answer::parse(&again[4..], &to), Ok(answer), "our own answer");
    }
}

/// The firmware's event log against a replay of its own.
pub fn event_log(data: &[u8]) {
    let Ok(log) = EventLog::parse(data) else { return };
    assert!(data.len() <= EVENT_LOG_MAX && log.events().len() <= EVENTS_MAX);
    let mut registers = [[0_u8; 48]; 4];
    for event in log.events() {
        let payload = match event.payload {
            EventPayload::Recomputed(bytes) => {
                assert!(event.is_extended(), "bytes of an event that no register covers are vouched for");
                assert_eq!(Digest384::of(bytes), event.digest, "bytes that were not measured are vouched for");
                bytes
            }
            EventPayload::Opaque(bytes) => bytes,
        };
        assert!(payload.len() <= PAYLOAD_MAX);
        if event.is_extended() {
            let register = &mut registers[event.rtmr];
            *register = Sha384::new().chain_update(*register).chain_update(event.digest.as_bytes()).finalize().into();
        }
    }
    assert_eq!(log.replay().map(|register| *register.as_bytes()), registers);
}
