//! The kernel as QEMU hands it to firmware that takes it from the old fw_cfg items: fields of the setup header are filled in as
//! a boot loader would. Layout: the kernel's `Documentation/arch/x86/boot.rst`; values: QEMU's `x86_load_linux`.

use crate::reader::Reader;

const PROTOCOL: usize = 0x206;
const LOADER_TYPE: usize = 0x210;
const LOAD_FLAGS: usize = 0x211;
const INITRD_ADDRESS: usize = 0x218;
const INITRD_SIZE: usize = 0x21c;
const HEAP_END: usize = 0x224;
const COMMAND_LINE: usize = 0x228;
const LOAD_FLAGS_64: usize = 0x236;
/// The first protocol that says whether the initrd may lie anywhere below 4 GiB; every bzImage with an EFI stub has it.
const LEAST_PROTOCOL: u16 = 0x20c;
const CAN_BE_ABOVE_4G: u16 = 0x40;
const LOADED_HIGH: u8 = 1;
const CAN_USE_HEAP: u8 = 0x80;
const QEMU: u8 = 0xb0;
const REAL_MODE_AT: u32 = 0x10000;
const COMMAND_LINE_AT: u32 = 0x20000;
/// What QEMU keeps free for ACPI below the end of low memory.
const ACPI_BYTES: u64 = 0x28000;
/// Up to here all memory is low; above, low memory ends at 2 GiB.
const LOW_MAX: u64 = 0xb000_0000;
const LOW_OF_LARGE: u64 = 0x8000_0000;
const PAGE: u64 = 4096;

/// Why a kernel cannot be patched as QEMU would.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatchError {
    /// Older or shorter than anything that boots as an EFI program.
    #[error(
        "expected a bzImage of boot protocol 2.12 or later that is loaded high and takes its initrd anywhere below 4 GiB"
    )]
    Header,
    /// It does not fit below the end of low memory.
    #[error("expected an initrd that fits into low memory, found {0} bytes")]
    Initrd(usize),
}

/// The kernel as older firmware measures it: it depends on the size of the initrd and on the memory.
///
/// # Errors
/// [`PatchError`].
pub fn as_patched_by_qemu(kernel: &[u8], initrd_bytes: usize, memory_bytes: u64) -> Result<Vec<u8>, PatchError> {
    let reader = Reader(kernel);
    let modern = reader.u16(PROTOCOL).is_some_and(|protocol| protocol >= LEAST_PROTOCOL)
        && reader.u16(LOAD_FLAGS_64).is_some_and(|flags| flags & CAN_BE_ABOVE_4G != 0)
        && reader.bytes(LOAD_FLAGS, 1).is_some_and(|flags| flags.iter().all(|flags| flags & LOADED_HIGH != 0));
    if !modern {
        return Err(PatchError::Header);
    }
    let low = if memory_bytes < LOW_MAX { memory_bytes } else { LOW_OF_LARGE };
    let outside = PatchError::Initrd(initrd_bytes);
    let size = u32::try_from(initrd_bytes).map_err(|_| outside.clone())?;
    let highest = low.checked_sub(ACPI_BYTES + 1).ok_or(outside.clone())?;
    let address = highest.checked_sub(u64::from(size)).ok_or(outside.clone())? / PAGE * PAGE;
    let address = u32::try_from(address).map_err(|_| outside)?;

    let mut patched = kernel.to_vec();
    patched[LOADER_TYPE] = QEMU;
    patched[LOAD_FLAGS] |= CAN_USE_HEAP;
    let mut put = |at: usize, value: u32| patched[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(HEAP_END, COMMAND_LINE_AT - REAL_MODE_AT - 0x200);
    put(COMMAND_LINE, COMMAND_LINE_AT);
    put(INITRD_ADDRESS, address);
    put(INITRD_SIZE, size);
    Ok(patched)
}
