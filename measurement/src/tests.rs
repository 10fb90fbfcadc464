//! Whole registers against published values, and the constants they are made of.

use super::*;
use crate::rules::{DIRECT_BOOT, DIRECT_BOOT_2024, DIRECT_BOOT_TWO_PASSES, STACKS, known};

mod firmware;
mod hostile;
mod published;

fn hex48(text: &str) -> Register {
    hex::decode(text).expect("hex").try_into().expect("48 bytes")
}

fn assert_digest(found: Register, expected: &str) {
    assert!(hex::encode(found).starts_with(expected), "expected {expected}…, found {}", hex::encode(found));
}

#[test]
fn fixed_events_have_their_published_digests() {
    assert_digest(sha384(&[0; 4]), "394341b7182cd227c5c6b07ef8000cdfd86136c4292b8e576573ad7ed9ae4101");
    assert_digest(sha384(b"Calling EFI Application from Boot Option"), "77a0dab2312b4e1e57a84d865a21e5b2");
    assert_digest(sha384(b"Exit Boot Services Invocation"), "214b0bef1379756011344877743fdc2a");
    assert_digest(sha384(b"Exit Boot Services Returned with Success"), "0a2e01c85deae718a530ad8c6d20a840");
    assert_digest(sha384(&[0, 0]), "1dd6f7b457ad880d840d41c961283bab");
    assert_digest(sha384(b""), "38b060a751ac96384cd9327eb1b1e36a");
}

#[test]
fn load_options_carry_the_initrd_where_the_firmware_puts_it() {
    let text = |initrd| {
        let bytes = load_options(b"a=b", initrd).expect("a command line");
        let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        String::from_utf16(&units.collect::<Vec<_>>()).expect("UTF-16")
    };
    assert_eq!(text(InitrdArgument::First), "initrd=initrd a=b\0");
    assert_eq!(text(InitrdArgument::Last), "a=b initrd=initrd\0");
}

#[test]
fn a_command_line_that_changes_on_its_way_is_refused() {
    let longest = vec![b'x'; MAX_COMMAND_LINE_BYTES];
    assert!(load_options(&longest, InitrdArgument::First).is_ok());
    let too_long = vec![b'x'; MAX_COMMAND_LINE_BYTES + 1];
    for refused in [&b""[..], b"a\n", b"a\0b", "ä".as_bytes(), b"\x7f", &too_long] {
        assert!(matches!(load_options(refused, InitrdArgument::First), Err(MeasureError::CommandLine(_))));
    }
}

#[test]
fn every_input_changes_exactly_the_registers_that_cover_it() {
    let firmware = firmware::typical();
    let kernel = firmware::kernel();
    let inputs = Inputs {
        firmware: &firmware,
        kernel: &kernel,
        initrd: b"initrd",
        command_line: b"coffer.profile=simulated",
        shape: Shape::S1,
        acpi: AcpiTables::Simulated,
        rules: &DIRECT_BOOT,
    };
    let base = measure(&inputs).expect("measure");
    let changed = |other: &Inputs<'_>| {
        let new = measure(other).expect("measure");
        [new.mrtd != base.mrtd, new.rtmr0 != base.rtmr0, new.rtmr1 != base.rtmr1, new.rtmr2 != base.rtmr2]
    };
    let mut code = firmware.clone();
    code[firmware::CODE_AT] ^= 1;
    assert_eq!(changed(&Inputs { firmware: &code, ..inputs }), [true, false, false, false]);
    let mut variables = firmware.clone();
    variables[0] ^= 1;
    assert_eq!(changed(&Inputs { firmware: &variables, ..inputs }), [false, true, false, false]);
    let mut other_kernel = kernel.clone();
    *other_kernel.last_mut().expect("a byte") ^= 1;
    assert_eq!(changed(&Inputs { kernel: &other_kernel, ..inputs }), [false, false, true, false]);
    assert_eq!(changed(&Inputs { initrd: b"inird", ..inputs }), [false, false, false, true]);
    assert_eq!(changed(&Inputs { command_line: b"coffer.profile=tdx", ..inputs }), [false, false, false, true]);
    let acpi = AcpiTables::Digests(AcpiDigests::of(b"a", b"b", b"c"));
    assert_eq!(changed(&Inputs { acpi, ..inputs }), [false, true, false, false]);
    assert_eq!(changed(&inputs), [false; 4]);
}

/// Without firmware and kernel.
fn inputs() -> Inputs<'static> {
    Inputs {
        firmware: b"",
        kernel: b"",
        initrd: b"initrd",
        command_line: b"a",
        shape: Shape::S1,
        acpi: AcpiTables::Simulated,
        rules: &DIRECT_BOOT,
    }
}

#[test]
fn only_known_pairs_of_builds_have_rules() {
    for (qemu, firmware, rules) in [
        ("1:11.1.3+ds-1~bpo13+1", "2026.08+ds-2", &DIRECT_BOOT),
        ("10.1.0", "2026.08-1", &DIRECT_BOOT),
        ("9.2.1", "2024.05-2", &DIRECT_BOOT_2024),
        ("1:8.2.2+ds-0ubuntu1", "2024.02-2", &DIRECT_BOOT_TWO_PASSES),
    ] {
        assert_eq!(known(qemu, firmware), Ok(rules), "{qemu} {firmware}");
    }
    for (qemu, firmware) in [
        ("11.2.0", "2026.08-1"),
        ("12.0.0", "2026.08-1"),
        ("10.0.13", "2026.08-1"),
        ("11.1.3", "2026.11-1"),
        ("11.1.3", "2025.05-1"),
        ("9.2.1", "2026.08-1"),
        ("unknown", "2026.08-1"),
        ("11.1.3", "unknown"),
        ("11", "2026.08"),
        ("11.x", "2026.08"),
        ("", ""),
    ] {
        let refused = known(qemu, firmware).expect_err("nothing is known").to_string();
        let words = ["QEMU 10.1 to 11.1 with edk2 2026.8", qemu, firmware, "add a row with its source"];
        assert!(words.iter().all(|word| refused.contains(word)), "{refused}");
    }
}

#[test]
fn every_row_of_builds_has_its_source_and_no_pair_is_in_two() {
    for (at, one) in STACKS.iter().enumerate() {
        assert!(one.source.len() > 20, "{one:?}");
        assert!(one.qemu.first <= one.qemu.last && one.firmware.first <= one.firmware.last, "{one:?}");
        for other in &STACKS[at + 1..] {
            let apart = one.qemu.last < other.qemu.first || other.qemu.last < one.qemu.first;
            assert!(apart, "{one:?} and {other:?}");
        }
    }
}

#[test]
fn an_empty_initrd_is_refused() {
    let (firmware, kernel) = (firmware::typical(), firmware::kernel());
    let inputs = Inputs { firmware: &firmware, kernel: &kernel, initrd: b"", ..inputs() };
    assert_eq!(measure(&inputs), Err(MeasureError::EmptyInitrd));
}
