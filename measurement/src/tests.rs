//! Whole registers against published values, and the constants they are made of.

use super::*;
use crate::rules::DIRECT_BOOT;

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

#[test]
fn an_empty_initrd_is_refused() {
    let (firmware, kernel) = (firmware::typical(), firmware::kernel());
    let inputs = Inputs {
        firmware: &firmware,
        kernel: &kernel,
        initrd: b"",
        command_line: b"a",
        shape: Shape::S1,
        acpi: AcpiTables::Simulated,
        rules: &DIRECT_BOOT,
    };
    assert_eq!(measure(&inputs), Err(MeasureError::EmptyInitrd));
}
