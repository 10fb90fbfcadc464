//! The dependencies that a kernel module states in its `.modinfo` section. Debian's packages hold no modules.dep (depmod
//! makes it on installation), and this is what depmod would read. Format: ELF-64, little endian; `key=value\0`...

/// Why a file is not a kernel module we can read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0} in the kernel module, found none: the kernel package changed or is damaged")]
pub struct ModinfoError(&'static str);

/// The names in `depends=`, with `_` for `-`. None for a module that depends on nothing.
pub fn depends(module: &[u8]) -> Result<Vec<String>, ModinfoError> {
    let text = value(module, b"depends=").and_then(|value| value.ok_or(ModinfoError("a line depends=")))?;
    Ok(text.split(',').filter(|name| !name.is_empty()).map(canonical).collect())
}

/// The name by which the kernel knows it, whatever its file is called.
pub fn name(module: &[u8]) -> Result<String, ModinfoError> {
    let text = value(module, b"name=").and_then(|value| value.ok_or(ModinfoError("a line name=")))?;
    Ok(canonical(text))
}

fn value<'a>(module: &'a [u8], key: &[u8]) -> Result<Option<&'a str>, ModinfoError> {
    let section = section(module, b".modinfo")?;
    let value = section.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(key));
    value.map(|value| std::str::from_utf8(value).map_err(|_| ModinfoError("text in .modinfo"))).transpose()
}

/// The name a module goes by, whatever its file is called.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Result<&'a [u8], ModinfoError> {
    const NO_TABLE: ModinfoError = ModinfoError("an ELF-64 section table");
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(NO_TABLE);
    }
    let table = number(elf, 0x28, 8).ok_or(NO_TABLE)?;
    let entry_size = number(elf, 0x3a, 2).filter(|&size| size >= 64).ok_or(NO_TABLE)?;
    let count = number(elf, 0x3c, 2).ok_or(NO_TABLE)?;
    let names = number(elf, 0x3e, 2).ok_or(NO_TABLE)?;
    let header = |index: usize| {
        let at = table.checked_add(index.checked_mul(entry_size)?)?;
        elf.get(at..at.checked_add(64)?)
    };
    let content = |header: &[u8]| {
        let at = number(header, 24, 8)?;
        elf.get(at..at.checked_add(number(header, 32, 8)?)?)
    };
    let names = header(names).and_then(content).ok_or(NO_TABLE)?;
    for index in 0..count {
        let header = header(index).ok_or(NO_TABLE)?;
        let name = number(header, 0, 4).and_then(|at| names.get(at..)).ok_or(NO_TABLE)?;
        if name.split(|&byte| byte == 0).next() == Some(wanted) {
            return content(header).ok_or(NO_TABLE);
        }
    }
    Err(ModinfoError("a section .modinfo"))
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(length)?)?;
    let value = field.iter().rev().fold(0_u64, |value, &byte| value << 8 | u64::from(byte));
    usize::try_from(value).ok()
}

#[cfg(test)]
#[path = "../../tests/module/mod.rs"]
mod fixture;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The smallest module with this `.modinfo`.
    pub(crate) fn module(modinfo: &[u8]) -> Vec<u8> {
        fixture::module(modinfo, b"")
    }

    #[test]
    fn dependencies_are_read_by_their_canonical_names() {
        assert_eq!(
            depends(&module(b"license=GPL\0depends=dm-mod,dm-bufio\0name=x\0")).unwrap(),
            ["dm_mod", "dm_bufio"]
        );
        assert!(depends(&module(b"depends=\0")).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_is_no_module_is_refused() {
        assert!(depends(b"").is_err());
        assert!(depends(&module(b"license=GPL\0")).is_err());
    }

    #[test]
    fn no_truncation_and_no_changed_byte_panics() {
        let whole = module(b"depends=a,b\0");
        for length in 0..whole.len() {
            drop(depends(&whole[..length]));
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                drop(depends(&changed));
            }
        }
    }
}
