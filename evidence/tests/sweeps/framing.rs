//! Members where no bundle has them, and archives of other makers: each refused by R1, in words that say what was found.

use coffer_evidence::bundle::{BUNDLE_MAX, SMALL_FILE_MAX};
use coffer_evidence::ids::Digest256;
use coffer_evidence::verify::{Accepted, Rule, Verdict, verify_bundle};

use crate::archive::{BLOCK, Members, append, checksum, header, index, indexed, members, raw};
use crate::judging::{options, refused};
use crate::sources::{every_member, judged, receipted_small, refused_somewhere, sealed_small};

/// The members of a sealed bundle with its receipt, the index before them.
fn whole() -> Members {
    let members = members(&receipted_small());
    [vec![index(&members)], members].concat()
}

/// R1 refuses the archive, and says so in these words.
#[track_caller]
fn unframed(archive: &[u8], told: &str) {
    let report = verify_bundle(archive, &options());
    refused(&report, Rule::R1, Rule::R1.title());
    let reason = &report.obstacles().next().expect("an obstacle").reason;
    assert!(reason.contains(told), "expected: {told}\nfound: {reason}");
}

/// Where each header stands.
fn headers(members: &[(String, Vec<u8>)]) -> Vec<usize> {
    let mut at = 0;
    let mut place = |content: &Vec<u8>| {
        let here = at;
        at += BLOCK + content.len().next_multiple_of(BLOCK);
        here
    };
    members.iter().map(|(_, content)| place(content)).collect()
}

#[test]
fn a_member_twice_out_of_its_order_or_of_another_name_is_refused_wherever_it_stands() {
    let whole = whole();
    assert_eq!(whole.len(), 17, "every member that such a bundle has");
    assert_eq!(verify_bundle(&raw(&whole), &options()).accepted, Accepted::Yes);
    for at in 0..whole.len() {
        let name = &whole[at].0;
        let mut twice = whole.clone();
        twice.insert(at, whole[at].clone());
        unframed(&raw(&twice), &format!("each once, found {name} after {name}"));
        let mut again = whole.clone();
        again.push(whole[at].clone());
        unframed(&raw(&again), &format!("each once, found {name} after receipt.cbor"));
        if let Some((next, _)) = whole.get(at + 1) {
            let mut swapped = whole.clone();
            swapped.swap(at, at + 1);
            unframed(&raw(&swapped), &format!("in their order and each once, found {name} after {next}"));
        }
        let digest = Digest256::of(b"x").to_string();
        let unknown = [
            "notes.txt",
            "./policy",
            "/policy",
            "../policy",
            "Policy",
            "policy ",
            "endpoint/",
            "endpoint/x",
            &format!("endpoint/{}", digest.to_uppercase()),
            &format!("endpoint/{digest}0"),
        ];
        for name in unknown {
            let mut more = whole.clone();
            more.insert(at, (name.to_owned(), b"x".to_vec()));
            unframed(&raw(&more), &format!("expected members that a bundle has, found {name}"));
        }
    }
}

/// Also with an index made for what is left: only what may be withheld may be missing.
#[test]
fn a_missing_member_is_refused_by_name_unless_it_may_be_withheld() {
    let all = members(&sealed_small());
    for at in 0..all.len() {
        let mut fewer = all.clone();
        let (name, _) = fewer.remove(at);
        let told = match name.as_str() {
            "ccel" | "disclosed.cbor" => "expected the index of exactly these members, found another".to_owned(),
            name if name.starts_with("seal.") || name == "statement.dsse" => {
                "expected all 4 members of a seal or none, found 3".to_owned()
            }
            name => format!("expected {name}, found none"),
        };
        unframed(&raw(&[vec![index(&all)], fewer.clone()].concat()), &told);
        match name.as_str() {
            "ccel" | "disclosed.cbor" => assert_eq!(judged(&fewer).verdict, Verdict::Sealed, "{name}"),
            _ => refused_somewhere(&judged(&fewer), &name),
        }
    }
    unframed(&raw(&all), "expected index.cbor, found none");
    unframed(&raw(&[]), "expected index.cbor, found none");
    unframed(&raw(&[index(&all)]), "expected config.cbor, found none");
    let of_none = [vec![index(&[])], all].concat();
    unframed(&raw(&of_none), "expected the index of exactly these members, found another");
}

/// Names that a bundle may have, with what nobody meant by them.
#[test]
fn garbage_under_a_name_that_may_be_absent_is_refused_or_not_looked_into() {
    let all = every_member();
    for (name, rule) in [("disclosed.cbor", Rule::R2), ("receipt.cbor", Rule::R2), ("ccel", Rule::R7)] {
        let mut with: Members = all.iter().filter(|(n, _)| n != name).cloned().collect();
        let before = if name == "ccel" { 6 } else { with.len() };
        with.insert(before, (name.to_owned(), b"garbage".to_vec()));
        if name == "disclosed.cbor" {
            let seal = with.iter().position(|(n, _)| n == "seal.cbor").expect("a seal");
            let garbage = with.pop().expect("garbage");
            with.insert(seal, garbage);
        }
        let report = judged(&with);
        refused_somewhere(&report, name);
        assert!(report.obstacles().all(|check| check.rule == rule), "{name}\n{}", report.human());
    }
    let mut pooled = all.clone();
    pooled.insert(3, ("pool.cbor".to_owned(), b"garbage".to_vec()));
    let report = judged(&pooled);
    refused_somewhere(&report, "pool.cbor");
    assert!(report.obstacles().all(|check| check.rule == Rule::R2), "{}", report.human());
    let mut named = all.clone();
    let other = format!("endpoint/{}", Digest256::of(b"garbage"));
    named.last_mut().expect("endpoint evidence").0 = other.clone();
    unframed(&indexed(&named), &format!("expected {other} to be named by the SHA-256 of its bytes, which is "));
    assert_eq!(judged(&all).verdict, Verdict::Sealed);
}

/// A change of one header and its checksum; the field that R1 must name.
type Forgery = (&'static str, fn(&mut [u8; BLOCK]));

fn put(block: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

const FORGERIES: [Forgery; 46] = [
    // Links, devices, directories, pipes; sparse files, long names and links, volumes of GNU tar; pax.
    ("type", |b| b[156] = b'1'),
    ("type", |b| b[156] = b'2'),
    ("type", |b| b[156] = b'3'),
    ("type", |b| b[156] = b'4'),
    ("type", |b| b[156] = b'5'),
    ("type", |b| b[156] = b'6'),
    ("type", |b| b[156] = b'7'),
    ("type", |b| b[156] = b'S'),
    ("type", |b| b[156] = b'L'),
    ("type", |b| b[156] = b'K'),
    ("type", |b| b[156] = b'V'),
    ("type", |b| b[156] = b'M'),
    ("type", |b| b[156] = b'D'),
    ("type", |b| b[156] = b'x'),
    ("type", |b| b[156] = b'g'),
    ("type", |b| b[156] = 0),
    // What a sparse file of GNU tar has besides: a map and its real size.
    ("prefix", |b| put(b, 386, b"00000000000\x0000000001000\0")),
    ("prefix", |b| put(b, 483, b"00000001000\0")),
    ("name", |b| put(b, 0, &[b'a'; 100])),
    ("name", |b| put(b, 0, &[0xff])),
    ("name", |b| b[99] = b'x'),
    ("name", |b| put(b, 0, &[0; 100])),
    ("mode", |b| put(b, 100, b"0000600\0")),
    ("mode", |b| put(b, 100, b"000644 \0")),
    ("mode", |b| put(b, 100, b"0100644\0")),
    ("owner", |b| put(b, 108, b"0001750\0")),
    ("group", |b| put(b, 116, b"0001750\0")),
    ("owner", |b| put(b, 108, &[0x80, 0, 0, 0, 0, 0, 0, 0])),
    ("time", |b| put(b, 136, b"15070416000\0")),
    ("time", |b| put(b, 136, b"0          \0")),
    // Sizes in base 256 up to the largest of 64 bits and beyond, below zero, in other digits.
    ("size", |b| put(b, 124, &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
    ("size", |b| put(b, 124, &[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
    ("size", |b| put(b, 124, &[0xff; 12])),
    ("size", |b| put(b, 124, b"-0000000001\0")),
    ("size", |b| put(b, 124, b"+0000000001\0")),
    ("size", |b| put(b, 124, b"        144\0")),
    ("size", |b| put(b, 124, b"777777777777")),
    ("size", |b| put(b, 124, b"00000000099\0")),
    ("size", |b| put(b, 124, &[0; 12])),
    ("size", |b| b[135] = b' '),
    ("link", |b| put(b, 157, b"policy")),
    ("format", |b| put(b, 257, b"ustar  \0")),
    ("format", |b| put(b, 257, &[0; 8])),
    ("owner's name", |b| put(b, 265, b"root")),
    ("group's name", |b| put(b, 297, b"root")),
    ("device", |b| put(b, 329, b"0000000\x000000000\0")),
];

#[test]
fn headers_of_another_form_are_refused_at_every_member_and_the_field_is_named() {
    let whole = whole();
    let archive = raw(&whole);
    for at in headers(&whole) {
        let forged = |change: &dyn Fn(&mut [u8; BLOCK])| {
            let mut block: [u8; BLOCK] = archive[at..at + BLOCK].try_into().expect("a block");
            change(&mut block);
            [&archive[..at], &block, &archive[at + BLOCK..]].concat()
        };
        let summed = |change: fn(&mut [u8; BLOCK])| {
            forged(&|block| {
                change(block);
                checksum(block);
            })
        };
        for (field, change) in FORGERIES {
            unframed(&summed(change), &format!("expected a canonical header at {at}, found another {field}"));
        }
        // A name that is only long has a header of its own; it is the name that no bundle has.
        let long = "a".repeat(99);
        unframed(&summed(|b| put(b, 0, &[b'a'; 99])), &format!("expected members that a bundle has, found {long}"));
        // The sum in the other forms that readers of tar take, or none, or a wrong one.
        let sums: [fn(&mut [u8; BLOCK]); 5] = [
            |b| b[155] = 0,
            |b| b[154] = b' ',
            |b| b.copy_within(148..154, 149),
            |b| b[148..156].fill(b' '),
            |b| b[153] ^= 1,
        ];
        for sum in sums {
            unframed(&forged(&sum), &format!("expected a canonical header at {at}, found another checksum"));
        }
        unframed(&forged(&|b| b[511] = 1), &format!("expected a canonical header at {at}, found another rest"));
        unframed(&forged(&|b| b[345] = b'd'), &format!("expected a canonical header at {at}, found another prefix"));
    }
}

/// What a reader that believes extended headers would take for the same bundle.
#[test]
fn extended_headers_before_a_member_are_refused() {
    let whole = whole();
    let content = b"30 mtime=1793491200.000000000\n";
    for (kind, name) in [(b'x', "PaxHeaders/policy"), (b'g', "pax_global_header"), (b'L', "././@LongLink")] {
        for before in 0..whole.len() {
            let mut archive = Vec::new();
            for (at, (name_after, bytes)) in whole.iter().enumerate() {
                if at == before {
                    let mut block = header(name, content.len());
                    block[156] = kind;
                    checksum(&mut block);
                    append(&mut archive, &block, content);
                }
                append(&mut archive, &header(name_after, bytes.len()), bytes);
            }
            archive.resize(archive.len() + 2 * BLOCK, 0);
            let at = headers(&whole)[before];
            unframed(&archive, &format!("expected a canonical header at {at}, found another type"));
        }
    }
}

#[test]
fn sizes_beyond_the_archive_or_its_caps_are_refused_from_the_header_alone() {
    let whole = whole();
    let archive = raw(&whole);
    let most = (1_u64 << 33) - 1;
    for (at, (name, content)) in headers(&whole).into_iter().zip(&whole) {
        let claiming = |size: u64| {
            let claim = header(name, usize::try_from(size).expect("64 bits"));
            [&archive[..at], &claim, &archive[at + BLOCK..]].concat()
        };
        let end = archive.len();
        unframed(&claiming(end as u64), &format!("expected a whole archive, found its end at {end}"));
        if name == "leaves" {
            let whole = at as u64 + 3 * 512 + (1 << 33);
            let told = format!("the bundle: expected at most {BUNDLE_MAX} bytes, found {whole}");
            unframed(&claiming(most), &told);
            let fits = BUNDLE_MAX - at as u64 - 3 * 512;
            unframed(&claiming(fits), &format!("expected a whole archive, found its end at {end}"));
            unframed(&claiming(fits + 1), "the bundle: expected at most 8589934592 bytes, found 8589935104");
        } else {
            for size in [SMALL_FILE_MAX + 1, 1 << 31, 1 << 32, most] {
                unframed(&claiming(size), &format!("{name}: expected at most {SMALL_FILE_MAX} bytes, found {size}"));
            }
            unframed(&claiming(SMALL_FILE_MAX), &format!("expected a whole archive, found its end at {end}"));
        }
        // A block less or more than there is: the next header is read from the wrong place.
        unframed(&claiming(content.len() as u64 + 512), "expected");
        if let Some(less) = (content.len() as u64).checked_sub(512) {
            unframed(&claiming(less), "expected");
        }
    }
}

#[test]
fn members_at_and_over_their_cap_are_told_apart() {
    let all = members(&sealed_small());
    let sized = |size: u64| {
        let mut large = all.clone();
        large[1].1 = vec![b'\n'; usize::try_from(size).expect("64 bits")];
        indexed(&large)
    };
    let report = verify_bundle(&sized(SMALL_FILE_MAX), &options());
    refused(&report, Rule::R8, "policy is the one the intent names");
    unframed(&sized(SMALL_FILE_MAX + 1), "policy: expected at most 67108864 bytes, found 67108865");
}

#[test]
fn more_members_than_the_cap_are_refused_and_as_many_are_not() {
    let with = |count: usize| {
        let mut all = members(&sealed_small());
        let mut endpoints: Members = (0..count - all.len() - 1)
            .map(|n| (format!("endpoint/{}", Digest256::of(&n.to_le_bytes())), n.to_le_bytes().to_vec()))
            .collect();
        endpoints.sort();
        all.extend(endpoints);
        indexed(&all)
    };
    assert_eq!(verify_bundle(&with(1024), &options()).accepted, Accepted::Yes);
    unframed(&with(1025), "expected at most 1024 members, found more");
}

#[test]
fn the_end_of_an_archive_has_one_form_and_padding_is_zero() {
    let whole = whole();
    let archive = raw(&whole);
    let end = archive.len() - 2 * BLOCK;
    let after = format!("expected two zero blocks at the end and nothing after, at {end}");
    unframed(&archive[..end], &format!("expected a whole archive, found its end at {end}"));
    unframed(&archive[..end + BLOCK], &after);
    for tail in [vec![0], vec![1], vec![0; BLOCK], vec![0; 9216], archive.clone(), b"PK\x05\x06".to_vec()] {
        unframed(&[archive.as_slice(), &tail].concat(), &after);
    }
    for at in end..archive.len() {
        let mut changed = archive.clone();
        changed[at] = 1;
        let first = format!("expected a canonical header at {end}, found another ");
        unframed(&changed, if at < end + BLOCK { &first } else { &after });
    }
    unframed(&[&[0; 2 * BLOCK], archive.as_slice()].concat(), "nothing after, at 0");
    for (at, (_, content)) in headers(&whole).into_iter().zip(&whole) {
        let padding = at + BLOCK + content.len()..at + BLOCK + content.len().next_multiple_of(BLOCK);
        for byte in padding {
            let mut changed = archive.clone();
            changed[byte] = 0x20;
            unframed(&changed, &format!("expected zeros after the member at {at}"));
        }
    }
}
