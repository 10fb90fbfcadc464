//! One encoding for each thing, and no second one that passes: dCBOR, Ed25519, the boot disk.

use coffer_evidence::boot_disk::{self, BootDiskError};
use coffer_evidence::cbor::{CborError, DEPTH_MAX, ITEMS_MAX, Key, Value, decode, decode_list, encode};
use coffer_evidence::config::{CONFIG_MAX, POLICY_MAX};
use coffer_evidence::sign::{KeyError, PublicKey, sign, verify};
use ed25519_dalek::SigningKey;

#[test]
fn every_other_way_to_write_an_item_is_refused() {
    let good: [&[u8]; 6] = [&[0], &[0x18, 24], &[0x41, 7], &[0x61, b'a'], &[0xa2, 1, 0xf4, 2, 0xf5], &[0x81, 0xa0]];
    for bytes in good {
        assert_eq!(encode(&decode(bytes).expect("dCBOR")), bytes);
    }
    let wrong: [(&str, &[u8]); 19] = [
        ("nothing", &[]),
        ("a long head", &[0x18, 23]),
        ("a longer head", &[0x19, 0, 255]),
        ("a much longer head", &[0x1b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]),
        ("a long length", &[0x58, 1, 7]),
        ("an indefinite string", &[0x5f, 0x41, 7, 0xff]),
        ("an indefinite array", &[0x9f, 0xff]),
        ("an indefinite map", &[0xbf, 0xff]),
        ("a negative integer", &[0x20]),
        ("a tag", &[0xc0, 0]),
        ("null", &[0xf6]),
        ("undefined", &[0xf7]),
        ("a float", &[0xf9, 0, 0]),
        ("a bool in two bytes", &[0xf8, 21]),
        ("keys out of order", &[0xa2, 2, 0, 1, 0]),
        ("a key twice", &[0xa2, 1, 0, 1, 0]),
        ("a key of another type", &[0xa1, 0x41, 1, 0]),
        ("text that is not UTF-8", &[0x61, 0xff]),
        ("a byte after it", &[0, 0]),
    ];
    for (what, bytes) in wrong {
        assert!(decode(bytes).is_err(), "{what}");
    }
    assert!(matches!(
        decode(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        Err(CborError::Truncated { .. })
    ));
}

#[test]
fn depth_ends_at_its_limit() {
    let nested = |depth: usize| (0..depth).fold(Value::Unsigned(0), |inner, _| Value::Array(vec![inner]));
    assert!(decode(&encode(&nested(DEPTH_MAX))).is_ok());
    assert!(matches!(decode(&encode(&nested(DEPTH_MAX + 1))), Err(CborError::TooDeep { .. })));
    let maps = (0..=DEPTH_MAX).fold(Value::Unsigned(0), |inner, _| Value::Map(vec![(Key::Unsigned(1), inner)]));
    assert!(matches!(decode(&encode(&maps)), Err(CborError::TooDeep { .. })));
}

/// Bytes alone are no bound for what a value takes in memory.
#[test]
fn items_end_at_their_limit_and_a_list_has_it_for_each_of_its_own() {
    let zeros = |count: usize| Value::Array(vec![Value::Unsigned(0); count]);
    assert!(decode(&encode(&zeros(ITEMS_MAX - 1))).is_ok());
    assert!(matches!(decode(&encode(&zeros(ITEMS_MAX))), Err(CborError::TooMany { .. })));
    let map = |count: u64| Value::Map((0..count).map(|key| (Key::Unsigned(key), Value::Bool(true))).collect());
    assert!(matches!(decode(&encode(&map(ITEMS_MAX as u64))), Err(CborError::TooMany { .. })));

    let list = |bytes: &[u8]| decode_list(bytes).map(|list| list.map(|list| list.collect::<Vec<_>>()));
    let long = list(&encode(&zeros(2 * ITEMS_MAX))).expect("an array").expect("an array");
    assert!(long.len() == 2 * ITEMS_MAX && long.iter().all(|item| *item == Ok(Value::Unsigned(0))));
    let nested = list(&encode(&Value::Array(vec![zeros(ITEMS_MAX - 1), zeros(ITEMS_MAX)]))).expect("an array");
    let found: Vec<bool> = nested.expect("an array").iter().map(|item| item.is_ok()).collect();
    assert_eq!(found, [true, false]);
    assert_eq!(list(&[0xa0]), Ok(None), "a map is no list");
    assert_eq!(list(&[0x80]), Ok(Some(vec![])));
    assert!(matches!(list(&[]), Err(CborError::Truncated { .. })));
    assert_eq!(list(&[0x80, 0]), Ok(Some(vec![Err(CborError::Trailing { offset: 1 })])));
    let cut = list(&[0x82, 0]).expect("an array").expect("an array");
    assert!(matches!(cut.as_slice(), [Ok(_), Err(CborError::Truncated { .. })]), "{cut:?}");
}

#[test]
fn keys_of_small_order_or_in_another_form_are_refused() {
    let with = |first: u8, middle: u8, last: u8| {
        let mut key = [middle; 32];
        (key[0], key[31]) = (first, last);
        key
    };
    let eighth = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05";
    let other_eighth = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a";
    let mut weak = vec![with(1, 0, 0), with(0xec, 0xff, 0x7f), with(0, 0, 0), with(0, 0, 0x80), with(1, 0, 0x80)];
    // The same points with y above the prime.
    weak.extend([with(0xed, 0xff, 0x7f), with(0xee, 0xff, 0x7f), with(0xed, 0xff, 0xff), with(0xee, 0xff, 0xff)]);
    for hex in [eighth, other_eighth] {
        let point: [u8; 32] = hex::decode(hex).expect("hex").try_into().expect("32 bytes");
        weak.push(point);
    }
    for key in weak {
        assert_eq!(PublicKey::from_bytes(&key), Err(KeyError::Weak), "{}", hex::encode(key));
    }
    assert_eq!(PublicKey::from_bytes(&[0; 31]), Err(KeyError::Form));
}

/// The group order, little endian.
const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

#[test]
fn a_signature_has_one_form_and_holds_for_its_tag_key_and_value_alone() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = PublicKey::of(&key);
    let x = || Value::Unsigned(1);
    let signature = sign(&key, "tag", x());
    assert!(verify(&public, "tag", x(), &signature).is_ok());
    assert!(verify(&public, "another", x(), &signature).is_err());
    assert!(verify(&public, "tag", Value::Unsigned(2), &signature).is_err());
    assert!(verify(&PublicKey::of(&SigningKey::from_bytes(&[8; 32])), "tag", x(), &signature).is_err());
    for at in 0..signature.len() {
        let mut changed = signature;
        changed[at] ^= 1;
        assert!(verify(&public, "tag", x(), &changed).is_err(), "byte {at}");
    }
    // S plus the group order is the same number to a loose verifier.
    let mut larger = signature;
    let mut carry = 0_u16;
    for (byte, add) in larger[32..].iter_mut().zip(hex::decode(ORDER).expect("hex")) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
    }
    assert_eq!(carry, 0);
    assert!(verify(&public, "tag", x(), &larger).is_err(), "S is not below the order");
}

#[test]
fn a_boot_disk_reads_back_and_every_other_form_is_refused() {
    let disk = boot_disk::write(b"config", b"policy");
    assert_eq!(disk.len(), 4096);
    let read = boot_disk::read(&disk).expect("our own disk");
    assert_eq!((read.config.as_slice(), read.policy.as_slice()), (b"config".as_slice(), b"policy".as_slice()));
    for at in 0..8 {
        let mut changed = disk.clone();
        changed[at] ^= 1;
        assert_eq!(boot_disk::read(&changed), Err(BootDiskError::Magic));
    }
    for at in 16 + 12..disk.len() {
        let mut changed = disk.clone();
        changed[at] = 1;
        assert_eq!(boot_disk::read(&changed), Err(BootDiskError::Trailing), "byte {at}");
    }
    let with_lengths = |config: u32, policy: u32| {
        let mut changed = disk.clone();
        changed[8..12].copy_from_slice(&config.to_le_bytes());
        changed[12..16].copy_from_slice(&policy.to_le_bytes());
        boot_disk::read(&changed)
    };
    for (config, policy) in [(u32::MAX, 6), (6, u32::MAX), (5000, 6), (6, 5000), (u32::MAX, u32::MAX)] {
        assert!(matches!(with_lengths(config, policy), Err(BootDiskError::Length { .. })), "{config} {policy}");
    }
    for length in [0, 7, 8, 15, 16, 20] {
        assert!(boot_disk::read(&disk[..length]).is_err(), "cut to {length}");
    }
    let largest = boot_disk::write(&vec![1; CONFIG_MAX], &vec![1; POLICY_MAX]);
    assert!(boot_disk::read(&largest).is_ok());
    assert!(boot_disk::read(&boot_disk::write(&vec![1; CONFIG_MAX + 1], b"")).is_err());
    assert!(boot_disk::read(&boot_disk::write(b"", &vec![1; POLICY_MAX + 1])).is_err());
}
