//! Formats with one encoding: what a reader accepts, its writer writes back, byte for byte.

use coffer_agent::frames;
use coffer_agent::tool::page;
use coffer_evidence::call::{IntentPrivate, OutcomePrivate, Request, read_disclosed, write_disclosed};
use coffer_evidence::call_header::{CallHeader, ClientPrivate, SignedHeader};
use coffer_evidence::cbor::{self, ITEMS_MAX, Value};
use coffer_evidence::channel::ChannelMap;
use coffer_evidence::config::{self, Config, boot_disk as disk};
use coffer_evidence::fields::Canonical;
use coffer_evidence::ids::Digest256;
use coffer_evidence::intent::Intent;
use coffer_evidence::leaf::{LEAF_MAX, Leaf};
use coffer_evidence::link::{Mirror, ToGuest, ToHost};
use coffer_evidence::open::OpenMap;
use coffer_evidence::pool::{PoolConfig, PoolMap};
use coffer_evidence::private::{read_private, write_private};
use coffer_evidence::rtmr::{event_bytes, parse_event};
use coffer_evidence::seal::SealMap;
use coffer_evidence::verify::{AppraisalPolicy, TrustAnchor};

use crate::fixtures;

fn items(value: &Value) -> usize {
    1 + match value {
        Value::Array(all) => all.iter().map(items).sum(),
        Value::Map(all) => all.iter().map(|(_, value)| items(value)).sum(),
        _ => 0,
    }
}

/// dCBOR: accepted means canonical, and a value has no more items than its limit.
pub fn cbor(data: &[u8]) {
    if let Ok(value) = cbor::decode(data) {
        assert_eq!(cbor::encode(&value), data, "another encoding was accepted");
        assert!(items(&value) <= ITEMS_MAX, "{} items", items(&value));
    }
}

/// The frames between guest and host.
pub fn link_frames(data: &[u8]) {
    fn frame<T: coffer_evidence::link::Frame + PartialEq + std::fmt::Debug>(data: &[u8]) {
        let Ok(frame) = T::decode(data) else { return };
        assert!(data.len() <= T::MAX, "a frame of {} bytes", data.len());
        assert_eq!(frame.encode(), data, "another encoding of {frame:?} was accepted");
        let wire = frame.to_wire();
        let (prefix, body) = wire.split_first_chunk::<4>().expect("a length");
        assert_eq!((T::length(*prefix), body), (Ok(data.len()), data));
    }
    frame::<ToHost>(data);
    frame::<ToGuest>(data);
    frame::<Mirror>(data);
}

/// The frames between the guest's processes, those of its built-in tools, and the token that clients send for a page.
pub fn process_frames(data: &[u8]) {
    fn frame<T: frames::Frame + PartialEq + std::fmt::Debug>(data: &[u8]) {
        let Ok(frame) = T::decode(data) else { return };
        assert!(data.len() <= frames::FRAME_MAX + 4, "a frame of {} bytes", data.len());
        assert_eq!(frame.encode(), data, "another encoding of {frame:?} was accepted");
    }
    frame::<frames::grant::Granted>(data);
    frame::<frames::log::ToNotary>(data);
    frame::<frames::log::ToAgent>(data);
    frame::<frames::observe::ToObserver>(data);
    frame::<frames::observe::ToInit>(data);
    frame::<frames::start::ToInit>(data);
    frame::<frames::start::ToAgent>(data);
    frame::<frames::tool::Report>(data);
    frame::<frames::warrant::ToInit>(data);
    frame::<frames::warrant::ToNotary>(data);
    if let Ok(token) = std::str::from_utf8(data)
        && let Some(Some(place)) = page::place(token, b"a/b", 3)
    {
        assert_eq!(page::token(b"a/b", 3, &place), token, "another token of one place was accepted");
    }
}

fn canonical<T: Canonical>(data: &[u8]) -> Option<T> {
    let parsed = T::parse(data).ok()?;
    assert_eq!(parsed.to_bytes(), data, "another encoding of {} was accepted", T::NAME);
    let again = T::from_value(cbor::decode(data).expect("it was dCBOR")).expect("it was accepted");
    assert_eq!(again.to_bytes(), data, "{} does not come back", T::NAME);
    Some(parsed)
}

/// Everything that is logged, signed or measured.
pub fn records(data: &[u8]) {
    if let Some(leaf) = canonical::<Leaf>(data) {
        // What is public stays small: only what is committed to may be large.
        assert!(data.len() <= LEAF_MAX, "a {:?} leaf of {} bytes", leaf.kind(), data.len());
    }
    canonical::<Intent>(data);
    canonical::<OpenMap>(data);
    canonical::<SealMap>(data);
    canonical::<Request>(data);
    canonical::<IntentPrivate>(data);
    canonical::<OutcomePrivate>(data);
    canonical::<CallHeader>(data);
    canonical::<SignedHeader>(data);
    canonical::<ClientPrivate>(data);
    canonical::<ChannelMap>(data);
    canonical::<PoolConfig>(data);
    canonical::<PoolMap>(data);
    if let Some(config) = canonical::<Config>(data).filter(|config| config.verify_owner().is_ok()) {
        assert_eq!(config.intent, fixtures::config().intent, "an intent that nobody signed");
    }
    if let Ok((index, event)) = parse_event(data) {
        assert_eq!(event_bytes(index, &event), data, "another encoding of an event was accepted");
    }
    if let Ok(parts) = read_disclosed(data) {
        assert_eq!(write_disclosed(&parts), data, "another encoding of private parts was accepted");
        assert!(parts.is_sorted_by(|a, b| a.index < b.index));
    }
    if let Ok(parts) = read_private(data).and_then(|parts| parts.collect::<Result<Vec<_>, _>>()) {
        assert_eq!(write_private(&parts), data, "another encoding of encrypted parts was accepted");
        assert!(parts.is_sorted_by(|a, b| a.index < b.index));
    }
}

/// The boot disk, and what the agent insists on before it acts on one.
pub fn boot_disk(data: &[u8]) {
    let Ok(read) = disk::read(data) else { return };
    assert!(data.len() <= disk::BYTES_MAX);
    let written = disk::write(&read.config, &read.policy);
    let common = written.len().min(data.len());
    assert_eq!(written[..common], data[..common], "another disk was accepted");
    assert!(written[common..].iter().chain(&data[common..]).all(|byte| *byte == 0), "something hides in the padding");
    if let Ok((config, intent)) = config::admit(&read.config, &read.policy, None) {
        let known = fixtures::config();
        assert_eq!(config.intent, known.intent, "an intent that its owner did not sign was admitted");
        assert_eq!(intent.to_bytes(), known.intent);
        let policy = fixtures::sealed_bundle().member("policy").expect("a policy");
        assert_eq!(read.policy, policy, "a policy that the intent does not name");
    }
}

/// The text of an appraisal policy.
pub fn appraisal_policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(policy) = AppraisalPolicy::parse(text) else { return };
    assert_eq!(*policy.digest(), Digest256::of(data));
    let anchors = policy.anchors();
    match policy.anchor_file() {
        Some(name) => {
            assert!(!name.is_empty() && anchors.is_empty(), "a root was trusted before its file was read");
            let known = TrustAnchor::Der(b"der".to_vec());
            assert_eq!(policy.with_anchor_file(b"der".to_vec()).anchors(), [known]);
        }
        None => assert_eq!(anchors.len(), 1, "one root is pinned"),
    }
}
