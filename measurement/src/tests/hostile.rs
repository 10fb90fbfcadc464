//! Malformed files are refused, each for its own reason, and none panics.

use proptest::prelude::*;

use super::firmware::{Row, TYPICAL, kernel, pe, typical, with_sections};
use super::*;

fn with_row(number: usize, change: impl Fn(&mut Row)) -> Vec<u8> {
    let mut rows = TYPICAL;
    change(&mut rows[number]);
    with_sections(&rows)
}

fn problem(file: &[u8]) -> String {
    let error = match Tdvf::parse(file).map_err(MeasureError::from) {
        Ok(tdvf) => mrtd(&tdvf, PageOrder::PageByPage)
            .map(|_| ())
            .map_err(MeasureError::from)
            .and(td_hob(&tdvf, 2 << 30).map_err(Into::into).map(|_| ())),
        Err(error) => Err(error),
    };
    let error = error.expect_err("the file is malformed");
    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[test]
fn malformed_section_tables_are_refused_each_for_its_reason() {
    let cases: [(&str, Vec<u8>); 14] = [
        ("QEMU starts only", with_row(0, |row| row.4 = 4)),
        ("only the attribute", with_row(0, |row| row.5 = 2)),
        ("whole pages", with_row(0, |row| row.2 += 1)),
        ("whole pages", with_row(2, |row| row.3 += 1)),
        ("whole pages", with_row(2, |row| row.3 = 0)),
        ("beyond the address space", with_row(2, |row| row.2 = u64::MAX - 4095)),
        ("do not fit its memory", with_row(1, |row| row.1 = 0x84001)),
        ("must have bytes", with_row(1, |row| row.1 = 0)),
        ("must have bytes", with_row(2, |row| row.1 = 1)),
        ("outside the file", with_row(0, |row| row.0 = 0x40_0000)),
        ("too much memory", with_row(2, |row| row.3 = 1 << 40)),
        ("same page", with_row(2, |row| row.2 = 0x800000)),
        ("measures memory", with_row(2, |row| row.5 = 1)),
        ("one TD HOB section", with_row(4, |row| row.4 = 3)),
    ];
    for (expected, file) in cases {
        let found = problem(&file);
        assert!(found.contains(expected), "expected {expected:?} in {found:?}");
    }
}

#[test]
fn firmware_memory_beyond_the_memory_of_the_machine_is_refused() {
    let file = typical();
    let tdvf = Tdvf::parse(&file).expect("metadata");
    assert_eq!(td_hob(&tdvf, 0x80_0000), Err(HobError::Memory(0x80_0000)));
}

#[test]
fn a_firmware_without_variable_store_or_with_two_is_refused() {
    let none = with_sections(&[TYPICAL[0], TYPICAL[4]]);
    assert_eq!(
        configuration_volume(&Tdvf::parse(&none).expect("metadata")),
        Err(MeasureError::Configuration { found: 0 })
    );
    let two = with_sections(&[TYPICAL[1], TYPICAL[1], TYPICAL[4]]);
    assert_eq!(
        configuration_volume(&Tdvf::parse(&two).expect("metadata")),
        Err(MeasureError::Configuration { found: 2 })
    );
}

#[test]
fn every_byte_of_the_tables_at_the_end_of_the_firmware_may_be_anything() {
    let file = typical();
    let end = file.len();
    for at in (end - 0x1000..end - 0x1000 + 16 + 32 * 6).chain(end - 32 - 80..end) {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut other = file.clone();
            other[at] = value;
            let _ = Tdvf::parse(&other).map(|tdvf| (tdvf.sections().len(), td_hob(&tdvf, 2 << 30)));
        }
    }
}

#[test]
fn files_that_end_anywhere_are_refused_or_read() {
    let (file, image) = (typical(), kernel());
    for length in (0..200).chain(file.len() - 200..file.len()) {
        let _ = Tdvf::parse(&file[..length]);
        let _ = Tdvf::parse(&file[file.len() - length..]);
    }
    for length in 0..=image.len() {
        let _ = authenticode_sha384(&image[..length]);
    }
    assert_eq!(Tdvf::parse(&[]), Err(TdvfError::NoTable));
    assert_eq!(authenticode_sha384(b""), Err(PeError::Header("it does not begin with MZ")));
}

#[test]
fn a_generic_ovmf_is_told_from_an_intel_tdx_build() {
    let mut file = typical();
    let end = file.len();
    let at = (end - 200..end).find(|at| file[*at..].starts_with(&[0x35, 0x65, 0x7a, 0xe4])).expect("the TDX entry");
    file[at] ^= 1;
    assert_eq!(Tdvf::parse(&file), Err(TdvfError::NoTdxEntry));
}

#[test]
fn malformed_images_are_refused() {
    let mut header = kernel();
    header[64 + 24 + 60..64 + 24 + 64].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(authenticode_sha384(&header).is_err());
    let mut sections = kernel();
    sections[64 + 24 + 112 + 48 + 20] = 0xff;
    sections[64 + 24 + 112 + 48 + 21] = 0xff;
    assert!(matches!(authenticode_sha384(&sections), Err(PeError::OutOfBounds("a section", _))));
    let mut long = pe(&[(512, 256), (512, 256), (512, 256), (512, 256)], 0, 0);
    assert!(matches!(authenticode_sha384(&long), Err(PeError::Header(_))), "the same bytes counted again and again");
    long[64 + 6] = 0xff;
    assert!(authenticode_sha384(&long).is_err());
    let mut certificates = pe(&[(512, 256)], 16, 64);
    certificates[64 + 24 + 112 + 36] = 100;
    assert!(authenticode_sha384(&certificates).is_err(), "a certificate table that reaches into a section");
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = Tdvf::parse(&bytes);
        let _ = authenticode_sha384(&bytes);
        let _ = as_patched_by_qemu(&bytes, bytes.len(), 2 << 30);
        let _ = store::live_key(&bytes);
    }

    #[test]
    fn no_section_table_makes_the_computations_panic(
        rows in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>(), 0_u32..6, 0_u32..3), 1..8),
        memory in any::<u64>(),
    ) {
        // Small and aligned values, so that many tables pass the parser.
        let rows: Vec<Row> = rows.into_iter().map(|(offset, raw, address, length, kind, attributes)| {
            let holds_data = kind < 2;
            (offset % 0x3f_0000, if holds_data { 1 + raw % 4096 } else { 0 }, (address % 4096) << 12, (1 + length % 16) << 12, kind, attributes)
        }).collect();
        let file = with_sections(&rows);
        if let Ok(tdvf) = Tdvf::parse(&file) {
            let _ = mrtd(&tdvf, PageOrder::PageByPage);
            let _ = mrtd(&tdvf, PageOrder::SectionBySection);
            let _ = td_hob(&tdvf, memory);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_of_the_variable_store_panic(
        mut volume in proptest::collection::vec(any::<u8>(), 80..512),
        lengths in proptest::collection::vec(any::<u32>(), 2),
    ) {
        volume[40..44].copy_from_slice(b"_FVH");
        volume[48..50].copy_from_slice(&0_u16.to_le_bytes());
        volume[28..30].copy_from_slice(&[0xaa, 0x55]);
        for (at, length) in [64, 68].into_iter().zip(lengths) {
            volume[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
        let _ = store::live_key(&volume);
    }

    #[test]
    fn no_change_of_a_header_makes_authenticode_panic(at in 0_usize..512, value in any::<u32>()) {
        let mut image = pe(&[(768, 256), (512, 256)], 16, 64);
        image[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let _ = authenticode_sha384(&image);
    }
}
