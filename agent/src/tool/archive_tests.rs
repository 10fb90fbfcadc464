//! Streams that an honest packer makes, and what is done to them.

use super::*;
use proptest::prelude::*;
use tar::{Builder, Header};

/// What came out: path, link target, content.
type Found = Vec<(String, Option<String>, Vec<u8>)>;

fn members(stream: &[u8]) -> Result<Found, ToolError> {
    let mut found = Vec::new();
    each(stream, |member| {
        let mut content = Vec::new();
        member.content.read_to_end(&mut content).map_err(broken)?;
        if content.len() as u64 != member.size {
            return Err(ToolError::new("archive", Errno::INVAL));
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        found.push((text(&member.path), member.link.as_deref().map(text), content));
        Ok(())
    })?;
    Ok(found)
}

fn header(kind: EntryType, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_path("short").unwrap();
    header.set_cksum();
    header
}

fn append(builder: &mut Builder<Vec<u8>>, kind: EntryType, content: &[u8]) {
    builder.append(&header(kind, content.len()), content).unwrap();
}

/// An archive of these members in this order, whole.
fn archive(parts: &[(EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    parts.iter().for_each(|(kind, content)| append(&mut builder, *kind, content));
    builder.into_inner().unwrap()
}

fn pax(key: &str, value: &str) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    builder.append_pax_extensions([(key, value.as_bytes())]).unwrap();
    let whole = builder.into_inner().unwrap();
    let length: usize = whole[512..].iter().position(|byte| *byte == b'\n').unwrap();
    whole[512..=512 + length].to_vec()
}

const FILE: (EntryType, &[u8]) = (EntryType::Regular, b"content");
const BROKEN: Option<(&str, Errno)> = Some(("archive", Errno::INVAL));
const TOO_LONG: Option<(&str, Errno)> = Some(("path", Errno::NAMETOOLONG));

fn refusal(stream: &[u8]) -> Option<(&'static str, Errno)> {
    members(stream).err().map(|error| (error.stage, error.errno))
}

#[test]
fn longer_headers_name_the_member_after_them_and_no_other() {
    let long = "d/".repeat(1000);
    for parts in [
        vec![
            (EntryType::GNULongName, [long.as_bytes(), b"\0"].concat()),
            (EntryType::GNULongLink, b"there\0".to_vec()),
        ],
        vec![(EntryType::XHeader, [pax("path", &long), pax("linkpath", "there"), pax("mtime", "1.5")].concat())],
        vec![
            (EntryType::XGlobalHeader, pax("comment", "a commit")),
            (EntryType::GNULongName, long.clone().into()),
            (EntryType::XHeader, pax("linkpath", "there")),
        ],
    ] {
        let mut parts: Vec<(EntryType, &[u8])> = parts.iter().map(|(kind, content)| (*kind, &content[..])).collect();
        parts.extend([FILE, FILE]);
        let found = members(&archive(&parts)).unwrap();
        assert_eq!(found[0], (long.clone(), Some("there".into()), b"content".to_vec()));
        assert_eq!(found[1], ("short".into(), None, b"content".to_vec()));
    }
}

#[test]
fn headers_that_hold_too_much_contradict_or_have_no_member_are_refused() {
    let name = |length: usize| (EntryType::GNULongName, vec![b'a'; length]);
    for (parts, expected) in [
        (vec![name(PATH_MAX)], BROKEN),
        (vec![name(PATH_MAX + 1)], TOO_LONG),
        (vec![(EntryType::GNULongLink, vec![b'a'; 40 << 20])], TOO_LONG),
        (vec![(EntryType::XHeader, vec![b'a'; PAX_MAX + 1])], TOO_LONG),
        (vec![(EntryType::XHeader, b"no record\n".to_vec())], BROKEN),
        (vec![name(1), name(1)], BROKEN),
        (vec![name(1), (EntryType::XHeader, pax("path", "b"))], BROKEN),
        (vec![(EntryType::XHeader, pax("linkpath", "b"))], BROKEN),
        (vec![(EntryType::XHeader, pax("GNU.sparse.major", "1"))], Some(("member", Errno::PERM))),
        (vec![(EntryType::XHeader, pax("size", "8")), (FILE.0, FILE.1.to_vec())], BROKEN),
        (vec![(EntryType::XHeader, pax("size", "-7")), (FILE.0, FILE.1.to_vec())], BROKEN),
        (vec![(EntryType::XHeader, pax("size", "7")), (FILE.0, FILE.1.to_vec())], None),
    ] {
        let borrowed: Vec<(EntryType, &[u8])> = parts.iter().map(|(kind, content)| (*kind, &content[..])).collect();
        let kinds: Vec<_> = parts.iter().map(|(kind, content)| (kind, content.len())).collect();
        assert_eq!(refusal(&archive(&borrowed)), expected, "{kinds:?}");
    }
}

#[test]
fn an_archive_ends_where_it_says_and_with_nothing_after_it() {
    let zeros = archive(&[(EntryType::Regular, &[0; 2048])]);
    let whole = archive(&[FILE, FILE]);
    assert_eq!(members(&whole).unwrap().len(), 2);
    assert_eq!(members(&archive(&[])).unwrap().len(), 0);
    let with = |more: &[u8]| [&whole, more].concat();
    assert_eq!(refusal(&with(&[0; 10_240])), None, "packers fill their last record");
    assert_eq!(refusal(&with(&[0; END_MAX as usize - 1024])), None);
    assert_eq!(refusal(&with(&[0; END_MAX as usize - 1023])), BROKEN);
    assert_eq!(refusal(&with(b"x")), BROKEN);
    assert_eq!(refusal(&with(&whole)), BROKEN, "a second archive would be passed over");
    for stream in [&whole, &zeros] {
        for length in 0..stream.len() {
            assert_eq!(refusal(&stream[..length]), BROKEN, "cut to {length} of {} bytes", stream.len());
        }
    }
    // What fills a member's last block does not matter.
    let mut padded = whole.clone();
    padded[512 * 3 + 7..512 * 4].fill(b'x');
    assert_eq!(refusal(&padded), None);
}

#[test]
fn what_is_no_archive_is_refused() {
    for stream in [&b""[..], b"\x1f\x8b\x08\0\0\0\0\0\0\x03", &[0xff; 4096], &[b' '; 1536], &[0; 512]] {
        assert_eq!(refusal(stream), BROKEN, "{:?}", &stream[..stream.len().min(16)]);
    }
}

proptest! {
    /// No bytes panic, and a byte changed in a header is seen.
    #[test]
    fn a_changed_archive_is_refused_or_still_one(at in 0_usize..3072, to: u8, size in 0_usize..1000) {
        let mut stream = archive(&[(EntryType::XHeader, &pax("path", "other")), (EntryType::Regular, &vec![7; size])]);
        let changed = at % stream.len();
        stream[changed] = to;
        if let Err(error) = members(&stream) {
            prop_assert!(matches!(error.stage, "archive" | "path" | "member"), "{error:?}");
        }
    }

    #[test]
    fn no_bytes_panic(stream in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = members(&stream);
    }
}
