//! Synthetic files with the layout of the real ones, and what MRTD and the memory map make of them.

use super::*;

/// Where the code of [`typical`] begins: behind the variable store.
pub(super) const CODE_AT: usize = 0x84000;
const FILE_BYTES: usize = 4 << 20;
const BASE: u64 = (1 << 32) - FILE_BYTES as u64;

/// One row of the section table: offset, raw size, address, memory size, type, attributes.
pub(super) type Row = (u32, u32, u64, u64, u32, u32);

/// The section table of Debian's `ovmf-inteltdx` 2026.08.
pub(super) const TYPICAL: [Row; 6] = [
    (CODE_AT as u32, 0x37c000, BASE + CODE_AT as u64, 0x37c000, 0, 1),
    (0, 0x84000, BASE, 0x84000, 1, 0),
    (0, 0, 0x810000, 0x10000, 3, 0),
    (0, 0, 0x80b000, 0x2000, 3, 0),
    (0, 0, 0x809000, 0x2000, 2, 0),
    (0, 0, 0x800000, 0x6000, 3, 0),
];

pub(super) fn typical() -> Vec<u8> {
    with_sections(&TYPICAL)
}

/// A 4 MiB firmware file whose byte at `n` is `n * 7 + n / 256`, with a section table and a GUID table at its end.
pub(super) fn with_sections(rows: &[Row]) -> Vec<u8> {
    let mut file: Vec<u8> = (0..FILE_BYTES).map(|n| (n.wrapping_mul(7).wrapping_add(n >> 8)) as u8).collect();
    let mut descriptor = b"TDVF".to_vec();
    descriptor.extend((16 + 32 * rows.len() as u32).to_le_bytes());
    descriptor.extend(1_u32.to_le_bytes());
    descriptor.extend((rows.len() as u32).to_le_bytes());
    for (offset, raw, address, memory, kind, attributes) in rows {
        descriptor.extend(offset.to_le_bytes());
        descriptor.extend(raw.to_le_bytes());
        descriptor.extend(address.to_le_bytes());
        descriptor.extend(memory.to_le_bytes());
        descriptor.extend(kind.to_le_bytes());
        descriptor.extend(attributes.to_le_bytes());
    }
    let at = FILE_BYTES - 0x1000;
    file[at..at + descriptor.len()].copy_from_slice(&descriptor);
    let table = guid_table(0x1000);
    let end = FILE_BYTES - 32;
    file[end - table.len()..end].copy_from_slice(&table);
    file
}

/// An entry of another kind, the TDX entry with the distance from the end of the file, the footer.
fn guid_table(distance: u32) -> Vec<u8> {
    let mut table = Vec::new();
    table.extend([0xaa; 8]);
    table.extend(26_u16.to_le_bytes());
    table.extend([0x11; 16]);
    table.extend(distance.to_le_bytes());
    table.extend(22_u16.to_le_bytes());
    table.extend(hex::decode("35657ae44a989847865e4685a7bf8ec2").expect("hex"));
    table.extend((26_u16 + 22 + 18).to_le_bytes());
    table.extend(hex::decode("de82b596b21ff745baeaa366c55a082d").expect("hex"));
    table
}

/// A small PE32+ image: headers of 512 bytes, two sections out of order, 16 bytes behind them.
pub(super) fn kernel() -> Vec<u8> {
    pe(&[(768, 256), (512, 256)], 16, 0)
}

/// A PE32+ image with these sections (offset, length), trailing bytes, and certificate table bytes at the end.
pub(super) fn pe(sections: &[(u32, u32)], trailing: usize, certificates: u32) -> Vec<u8> {
    let end = sections.iter().map(|(at, length)| at + length).max().unwrap_or(512) as usize;
    let mut file: Vec<u8> = (0..end + trailing + certificates as usize).map(|n| (n * 13) as u8).collect();
    file[..512].fill(0);
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &64_u32.to_le_bytes());
    put(64, b"PE\0\0");
    put(64 + 6, &(sections.len() as u16).to_le_bytes());
    put(64 + 20, &(112 + 8 * 6_u16).to_le_bytes());
    let optional = 64 + 24;
    put(optional, &0x20b_u16.to_le_bytes());
    put(optional + 60, &512_u32.to_le_bytes());
    put(optional + 64, &0xdead_beef_u32.to_le_bytes());
    put(optional + 108, &6_u32.to_le_bytes());
    put(optional + 112 + 32, &((end + trailing) as u32).to_le_bytes());
    put(optional + 112 + 36, &certificates.to_le_bytes());
    for (n, (at, length)) in sections.iter().enumerate() {
        let header = optional + 112 + 48 + 40 * n;
        put(header + 16, &length.to_le_bytes());
        put(header + 20, &at.to_le_bytes());
    }
    file
}

#[test]
fn mrtd_equals_that_of_an_independent_implementation() {
    // From a Python script written from the TDX module specification alone, over the same bytes.
    let file = typical();
    let tdvf = Tdvf::parse(&file).expect("metadata");
    assert_eq!(
        hex::encode(mrtd(&tdvf, PageOrder::PageByPage).expect("MRTD")),
        "67dce3321ea1e6c5ef4f26cc49b6bae5668e7652c48bce5fc45bfb130b0bd1efe428bb8bc52f001133fc1c6de8a237c6"
    );
}

#[test]
fn mrtd_in_two_passes_is_that_of_an_independent_implementation_and_another() {
    let file = typical();
    let tdvf = Tdvf::parse(&file).expect("metadata");
    assert_eq!(
        hex::encode(mrtd(&tdvf, PageOrder::SectionBySection).expect("MRTD")),
        "3fa87785b4e001fbdab517f7f0810f53bd2ecb5c413fa5ea53bccbe4b73985b7c07c8d9529c5c41b232dbe19ed00fae4"
    );
    // Where nothing is extended, the order of nothing does not count.
    let mut rows = TYPICAL;
    rows[0].5 = 0;
    let file = with_sections(&rows);
    let tdvf = Tdvf::parse(&file).expect("metadata");
    assert_eq!(mrtd(&tdvf, PageOrder::PageByPage), mrtd(&tdvf, PageOrder::SectionBySection));
}

/// A kernel with a setup header that QEMU patches.
fn bzimage() -> Vec<u8> {
    let mut kernel: Vec<u8> = (0..0x1000).map(|n| (n * 7) as u8).collect();
    kernel[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    kernel[0x211] = 1;
    kernel[0x236..0x238].copy_from_slice(&0x7f_u16.to_le_bytes());
    kernel
}

#[test]
fn the_kernel_is_patched_where_qemu_patches_it_and_nowhere_else() {
    let kernel = bzimage();
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let two = as_patched_by_qemu(&kernel, 0x10_0000, 2 << 30).expect("patched");
    assert_eq!((two[0x210], two[0x211]), (0xb0, 0x81));
    assert_eq!((word(&two, 0x224), word(&two, 0x228)), (0xfe00, 0x2_0000));
    // 2 GiB less what is kept for ACPI, a byte and the initrd, on a page.
    assert_eq!((word(&two, 0x218), word(&two, 0x21c)), (0x7fed_7000, 0x10_0000));
    let changed: Vec<usize> = (0..kernel.len()).filter(|at| kernel[*at] != two[*at]).collect();
    let fields = [0x210..0x212, 0x218..0x220, 0x224..0x22c];
    assert!(changed.iter().all(|at| fields.iter().any(|field| field.contains(at))), "{changed:x?}");
    // Published: from 0xb0000000 on, and at 2 GiB, the address is the same; between them and below it is not.
    for (memory, same) in
        [(0xb000_0000, true), (64 << 30, true), (0xb000_0000 - 0x1000, false), ((2 << 30) - 0x1000, false)]
    {
        assert_eq!(as_patched_by_qemu(&kernel, 0x10_0000, memory).expect("patched") == two, same, "{memory:#x}");
    }
}

#[test]
fn a_kernel_that_qemu_treats_otherwise_is_not_patched_by_guess() {
    for (at, value) in [(0x206, 0x0b), (0x211, 0), (0x236, 0)] {
        let mut kernel = bzimage();
        kernel[at] = value;
        assert_eq!(as_patched_by_qemu(&kernel, 1, 2 << 30), Err(PatchError::Header), "{at:#x}");
    }
    assert_eq!(as_patched_by_qemu(&bzimage(), 2 << 30, 2 << 30), Err(PatchError::Initrd(2 << 30)));
    assert_eq!(as_patched_by_qemu(&bzimage()[..0x237], 1, 2 << 30), Err(PatchError::Header));
}

#[test]
fn a_firmware_with_a_secure_boot_key_is_refused_by_the_name_of_the_key() {
    let mut volume = vec![0xff; 0x1000];
    volume[40..44].copy_from_slice(b"_FVH");
    volume[48..50].copy_from_slice(&72_u16.to_le_bytes());
    let mut put = |at: usize, name: &str, state: u8| {
        let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        volume[at..at + 60].fill(0);
        volume[at..at + 3].copy_from_slice(&[0xaa, 0x55, state]);
        volume[at + 36..at + 40].copy_from_slice(&(name.len() as u32).to_le_bytes());
        volume[at + 40..at + 44].copy_from_slice(&6_u32.to_le_bytes());
        volume[at + 60..at + 60 + name.len()].copy_from_slice(&name);
        (at + 60 + name.len() + 6).next_multiple_of(4)
    };
    let next = put(100, "Lang", 0x3f);
    let last = put(next, "KEK", 0x3f);
    assert!(last < 0x1000);
    let mut file = typical();
    file[..volume.len()].copy_from_slice(&volume);
    let kernel = kernel();
    let inputs = Inputs { firmware: &file, kernel: &kernel, ..super::inputs() };
    assert_eq!(measure(&inputs), Err(MeasureError::Key("KEK")));
    // One whose deletion was begun and not ended is still found by the firmware; a deleted one is none.
    file[next + 2] = 0x3e;
    let inputs = Inputs { firmware: &file, kernel: &kernel, ..super::inputs() };
    assert_eq!(measure(&inputs), Err(MeasureError::Key("KEK")));
    for deleted in [0x3c, 0x3d] {
        file[next + 2] = deleted;
        assert!(measure(&Inputs { firmware: &file, kernel: &kernel, ..super::inputs() }).is_ok(), "{deleted:#x}");
    }
}

#[test]
fn the_memory_map_of_two_gibibytes_has_the_published_digest() {
    let file = typical();
    let hob = td_hob(&Tdvf::parse(&file).expect("metadata"), 2 << 30).expect("HOB");
    assert_eq!(hob.len(), 440);
    assert_digest(
        sha384(&hob),
        "0b8772e5b0b41b83e6044a68397e02f49fb47066b4fbe4917ea2c45c64f323fdacbb37948f821ebaf8bc9c938ba8a749",
    );
}

#[test]
fn the_memory_map_of_sixty_four_gibibytes_has_the_published_digest() {
    let file = typical();
    let hob = td_hob(&Tdvf::parse(&file).expect("metadata"), 64 << 30).expect("HOB");
    assert_digest(
        sha384(&hob),
        "8ae1e425351df7992c444586eff99d35af3b779aa2b0e981cb4b73bc5b279f2ade19b6a62a203fc3c3bbdaae80af596d",
    );
}

#[test]
fn authenticode_skips_checksum_certificate_entry_and_certificates_and_sorts_sections() {
    let file = pe(&[(768, 256), (512, 256)], 16, 64);
    // In a file without gaps the digest is that of the file less the three.
    let entry = 64 + 24 + 112 + 32;
    let kept = [&file[..64 + 24 + 64], &file[64 + 24 + 68..entry], &file[entry + 8..file.len() - 64]].concat();
    assert_eq!(authenticode_sha384(&file), Ok(sha384(&kept)));

    let mut other = file.clone();
    other[64 + 24 + 64] ^= 1;
    *other.last_mut().expect("a byte") ^= 1;
    assert_eq!(authenticode_sha384(&other), authenticode_sha384(&file), "checksum and certificates do not count");
    let last = other.len() - 65;
    other[last] ^= 1;
    assert_ne!(authenticode_sha384(&other), authenticode_sha384(&file), "what stands before the certificates counts");
}

#[test]
fn a_real_kernel_is_hashed_whole_but_for_checksum_and_certificates() {
    let kernels = std::fs::read_dir("/boot").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut kernels =
        kernels.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
    let Some((path, file)) = kernels.find_map(|path| std::fs::read(&path).ok().map(|file| (path, file))) else {
        println!("NOT RUN: no readable kernel in /boot");
        return;
    };
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("4 bytes")) as usize;
    let optional = word(0x3c) + 24;
    let entry = optional + 112 + 32;
    let end = file.len() - word(entry + 4);
    let kept = [&file[..optional + 64], &file[optional + 68..entry], &file[entry + 8..end]].concat();
    assert_eq!(authenticode_sha384(&file), Ok(sha384(&kept)), "{}", path.display());
}
