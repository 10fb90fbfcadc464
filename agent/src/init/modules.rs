//! Kernel modules: a list in the initramfs, loaded in its order, then the door is locked.

use super::error::{BootError, Context as _};
use std::fs::{self, File};

/// One absolute path per line; a leading `?` marks a module that may fail to load; empty lines mean nothing here.
pub const LIST: &str = "/etc/coffer/modules";
const STAGE: &str = "modules";

#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    path: &'a str,
    need: Need,
}

#[derive(Debug, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}

/// Loads every module of the list. A module that is loaded already is fine: the shim uses the same list.
pub fn load() -> Result<(), BootError> {
    let list = fs::read_to_string(LIST).context(STAGE, || format!("read {LIST}"))?;
    for line in parse(&list)? {
        let result = File::open(line.path).and_then(|file| match rustix::system::finit_module(&file, c"", 0) {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            other => other.map_err(std::io::Error::from),
        });
        match (result, line.need) {
            (Err(_), Need::Optional) => {}
            (result, _) => result.context(STAGE, || format!("load {}", line.path))?,
        }
        // Its memory is the initramfs, and nobody reads it again.
        drop(fs::remove_file(line.path));
    }
    Ok(())
}

fn parse(list: &str) -> Result<Vec<Line<'_>>, BootError> {
    list.lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (path, need) = match line.strip_prefix('?') {
                Some(path) => (path, Need::Optional),
                None => (line, Need::Required),
            };
            if path.starts_with('/') && path.ends_with(".ko") {
                return Ok(Line { path, need });
            }
            Err(BootError::Unexpected {
                stage: STAGE,
                expected: "an absolute path ending in .ko".into(),
                found: format!("the line {line:?} in {LIST}"),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_in_order_with_its_optional_lines() {
        let lines = parse("/lib/modules/a.ko\n?/lib/modules/b.ko\n\n").unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], Line { path: "/lib/modules/a.ko", need: Need::Required });
        assert_eq!(lines[1], Line { path: "/lib/modules/b.ko", need: Need::Optional });
    }

    #[test]
    fn a_line_that_is_no_module_path_is_refused() {
        assert!(parse("a.ko\n").is_err());
        assert!(parse("/lib/modules/a.ko options\n").is_err());
    }
}
