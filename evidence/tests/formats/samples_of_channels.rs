//! One encoding of each format of channels, call headers and the pool.

use coffer_evidence::call_header::{CallHeader, ClientPrivate, NO_PREVIOUS, Said, Seen, SignedHeader, Speaker};
use coffer_evidence::cbor::{Value, decode, encode};
use coffer_evidence::channel::{ChannelMap, channel_id};
use coffer_evidence::config::Launch;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::hash::tagged;
use coffer_evidence::ids::{Digest256, Identity};
use coffer_evidence::intent::Shape;
use coffer_evidence::leaf::{Leaf, Method, Opened, Public, Rejection};
use coffer_evidence::pool::{PoolConfig, PoolMap};

use crate::samples::{Entry, call, key, leaf, open, public, reads, request, session};

const EXPORTER: [u8; 32] = [0xec; 32];
const CLIENT_SALT: [u8; 32] = [0xc1; 32];

fn identity() -> Speaker {
    Speaker::Identity(Identity::default_name())
}

fn committed(bytes: Vec<u8>) -> Digest256 {
    Opened { salt: CLIENT_SALT, bytes }.commitment()
}

fn header(speaker: Speaker, seq: u64, said: Said) -> CallHeader {
    let instance = open(Launch::Cold).instance();
    let prev = if seq == 0 { NO_PREVIOUS } else { Digest256::of(b"the header before") };
    CallHeader { instance, channel: channel_id(&instance, &EXPORTER), speaker, seq, prev, said }
}

fn hello() -> CallHeader {
    let (opening_quote, collateral) = (Digest256::of(b"opening quote"), Digest256::of(b"collateral"));
    header(Speaker::Owner, 0, Said::Hello { opening_quote, time: 1_793_491_200, collateral })
}

fn asked() -> CallHeader {
    let commitment = committed(request().to_bytes());
    header(identity(), 1, Said::Call { call: call(), method: Method::Exec, commitment })
}

fn acked() -> CallHeader {
    header(Speaker::Witness(0), 1, Said::Ack { seen: Seen { size: 6, root: Digest256::of(b"root") } })
}

fn input_digest() -> Vec<u8> {
    Digest256::of(b"input").as_bytes().to_vec()
}

fn headers() -> Vec<(&'static str, CallHeader)> {
    let commitment = committed(input_digest());
    let signal = committed(encode(&Value::Unsigned(15)));
    vec![
        ("header-hello", hello()),
        ("header-call", asked()),
        ("header-input", header(identity(), 2, Said::Input { call: call(), commitment, offset: 5 })),
        ("header-ack", acked()),
        ("header-signal", header(identity(), 3, Said::Signal { call: call(), commitment: signal })),
        ("header-cancel", header(identity(), 4, Said::Cancel { call: call() })),
        ("header-close", header(identity(), 5, Said::Close)),
    ]
}

/// The fields inside M.
fn fields_of(header: &CallHeader) -> Vec<u8> {
    let Value::Array(items) = header.to_value() else { panic!("M is an array") };
    encode(&items[1])
}

fn fields_read(bytes: &[u8]) -> bool {
    let whole = |fields| Value::Array(vec![Value::Text("coffer/call/v1".to_owned()), fields]);
    decode(bytes).is_ok_and(|fields| CallHeader::parse(&encode(&whole(fields))).is_ok())
}

fn signed(header: CallHeader) -> SignedHeader {
    header.sign(&key(6))
}

/// Leaves that hold headers; the examples of intent and denied show the form without.
pub(crate) fn leaves() -> Vec<(&'static str, Leaf)> {
    let input = headers().remove(2).1;
    let rules = || vec!["policy0".to_owned()];
    let method = Method::Exec;
    let of_call = |leaf: Leaf| Leaf { identity: Some(Identity::default_name()), call: Some(call()), ..leaf };
    let private = ClientPrivate { client_salt: CLIENT_SALT, committed: input_digest() };
    let commitment = Some(Opened { salt: [0x5a; 32], bytes: private.to_bytes() }.commitment());
    let header = || Some(Box::new(signed(asked())));
    vec![
        ("leaf-channel", leaf(8, Public::Channel { speaker: Speaker::Owner, nonce: [0x0c; 32], exporter: EXPORTER })),
        ("leaf-client", Leaf { commitment, ..of_call(leaf(9, Public::Client { header: Box::new(signed(input)) })) }),
        ("leaf-client", leaf(10, Public::Client { header: Box::new(signed(hello())) })),
        ("leaf-intent", leaf(11, Public::Intent { method, rules: rules(), request_steps: 1, header: header() })),
        ("leaf-denied", leaf(12, Public::Denied { method, rules: rules(), header: header() })),
        (
            "leaf-outcome",
            leaf(
                13,
                Public::Outcome {
                    method,
                    cause: coffer_evidence::leaf::CauseClass::Completed,
                    output_steps: 0,
                    input_steps: 1,
                    input_covered: Some(5),
                },
            ),
        ),
        ("leaf-rejected", leaf(14, Public::Rejected { reason: Rejection::OutOfOrder, channel: asked().channel })),
    ]
}

pub(crate) fn entries() -> Vec<Entry> {
    let pool = PoolConfig { image: Digest256::of(b"image manifest"), shape: Shape::S1, host_key: public(5) };
    let pool_map = PoolMap { config_digest: pool.digest(), bind_nonce: [0xb1; 32] };
    let instance = open(Launch::Cold).instance();
    let channel = ChannelMap {
        session: session(),
        instance,
        nonce: [0x0c; 32],
        exporter: EXPORTER,
        speaker: Speaker::Owner,
        key: public(1),
    };
    let id = Value::Array(vec![Value::Bytes(instance.as_bytes().to_vec()), Value::Bytes(EXPORTER.to_vec())]);
    let private = ClientPrivate { client_salt: CLIENT_SALT, committed: input_digest() };
    let fields: fn(&[u8]) -> bool = fields_read;
    let mut entries: Vec<Entry> = vec![
        ("pool-config", "pool-config", pool.to_bytes(), Some(reads::<PoolConfig>)),
        ("pool-map", "pool-map", pool_map.to_bytes(), Some(reads::<PoolMap>)),
        ("pool-hashed", "pool-hashed", tagged("coffer/pool/v1", pool_map.to_value()), None),
        ("channel-map", "channel-map", channel.to_bytes(), Some(reads::<ChannelMap>)),
        ("channel-hashed", "channel-hashed", tagged("coffer/channel/v1", channel.to_value()), None),
        ("channel-id-hashed", "channel-id-hashed", tagged("coffer/chan/v1", id), None),
        ("call-header", "call-header", asked().to_bytes(), Some(reads::<CallHeader>)),
        ("signed-header", "signed-header", signed(asked()).to_bytes(), Some(reads::<SignedHeader>)),
        ("client-private", "client-private", private.to_bytes(), Some(reads::<ClientPrivate>)),
    ];
    entries.extend(headers().iter().map(|(form, header)| (*form, "call-fields", fields_of(header), Some(fields))));
    entries
}
