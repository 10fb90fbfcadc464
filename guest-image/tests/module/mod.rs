//! The smallest kernel module.

/// A name table and a `.modinfo` with these bytes, and `rest` behind it, in no section.
pub(crate) fn module(modinfo: &[u8], rest: &[u8]) -> Vec<u8> {
    let names = b"\0.shstrtab\0.modinfo\0";
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let names_at = elf.len();
    elf.extend(names);
    let modinfo_at = elf.len();
    elf.extend(modinfo);
    elf.extend(rest);
    let table = elf.len();
    let header = |name: u32, at: usize, length: usize| {
        let mut header = vec![0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(length as u64).to_le_bytes());
        header
    };
    elf.extend(header(0, 0, 0));
    elf.extend(header(1, names_at, names.len()));
    elf.extend(header(11, modinfo_at, modinfo.len()));
    elf[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
    elf[0x3a..0x3c].copy_from_slice(&64_u16.to_le_bytes());
    elf[0x3c..0x3e].copy_from_slice(&3_u16.to_le_bytes());
    elf[0x3e..0x40].copy_from_slice(&1_u16.to_le_bytes());
    elf
}
