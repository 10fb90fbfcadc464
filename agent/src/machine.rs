//! What init sees of the machine and of the image it is part of, and the notary compares with the intent. Init reads,
//! the notary gets it as arguments and opens nothing.
//!
//! The image's version lies in the initramfs, which RTMR2 covers: a host that changes it has another image. Its digest,
//! the intent's `image`, cannot lie there: it is over the manifest, which holds the measurement of the initramfs. So the
//! guest cannot know it, and whoever verifies compares it (R3).

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::path::Path;
use thiserror::Error;

/// Shapes of an image: a few names.
const SHAPES_MAX: usize = 16;

/// Facts that an intent must fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Version of the image, raised when older ones must no longer be accepted.
    pub image_svn: u64,
    /// Names of the shapes that the image is measured for.
    pub shapes: Vec<String>,
    /// Virtual processors that are present.
    pub processors: u64,
    /// Memory that the kernel manages, in bytes: that of the machine less what the kernel keeps to itself.
    pub memory_bytes: u64,
}

/// The image or the kernel says something that is none of this.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("expected {expected}, found {found:?}")]
pub struct Unreadable {
    expected: &'static str,
    found: String,
}

impl Machine {
    /// Reads the image's words below `image` and the processors of `cpus`.
    pub fn read(image: &Path, cpus: &Path, memory_bytes: u64) -> io::Result<Self> {
        let text = |path: &Path| {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            fs::read_to_string(path).map_err(named)
        };
        let invalid = |error: Unreadable| io::Error::new(io::ErrorKind::InvalidData, error);
        let shapes = shapes(&text(&image.join("shapes"))?).map_err(invalid)?;
        Ok(Self {
            image_svn: number(text(&image.join("svn"))?.trim_end_matches('\n')).map_err(invalid)?,
            shapes,
            processors: processors(text(cpus)?.trim_end_matches('\n')).map_err(invalid)?,
            memory_bytes,
        })
    }

    /// As words for the notary.
    pub fn to_arguments(&self) -> Vec<CString> {
        let numbers = [self.image_svn, self.processors, self.memory_bytes].map(|number| number.to_string());
        numbers.into_iter().chain(self.shapes.iter().cloned()).filter_map(|word| CString::new(word).ok()).collect()
    }

    /// Takes the words back.
    pub fn from_arguments(words: &[OsString]) -> Result<Self, Unreadable> {
        let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap_or("?")).collect();
        let [svn, processors, memory, shapes @ ..] = words.as_slice() else {
            return Err(Unreadable { expected: "svn, processors, memory and shapes", found: words.join(" ") });
        };
        Ok(Self {
            image_svn: number(svn)?,
            shapes: self::shapes(&shapes.join("\n"))?,
            processors: number(processors)?,
            memory_bytes: number(memory)?,
        })
    }
}

fn number(text: &str) -> Result<u64, Unreadable> {
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| Unreadable { expected: "a number", found: text.into() })
}

/// One name a line.
fn shapes(text: &str) -> Result<Vec<String>, Unreadable> {
    let names: Vec<String> = text.lines().map(str::to_owned).collect();
    let plain = |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if (1..=SHAPES_MAX).contains(&names.len()) && names.iter().all(plain) {
        return Ok(names);
    }
    Err(Unreadable { expected: "one to sixteen names of shapes", found: text.into() })
}

/// How many the kernel's list names: ranges and single numbers, `0-1,4`.
fn processors(list: &str) -> Result<u64, Unreadable> {
    let unreadable = || Unreadable { expected: "a list of processors", found: list.into() };
    list.split(',').try_fold(0_u64, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        let count = last.checked_sub(first).and_then(|more| more.checked_add(1));
        count.and_then(|count| sum.checked_add(count)).ok_or_else(unreadable)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(svn: &str, shapes: &str, cpus: &str) -> io::Result<Machine> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("svn", svn), ("shapes", shapes), ("cpus", cpus)] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        Machine::read(dir.path(), &dir.path().join("cpus"), 7 << 28)
    }

    #[test]
    fn the_notary_gets_what_init_read() {
        let machine = read("12\n", "s1\nm4\n", "0-1\n").unwrap();
        let expected =
            Machine { image_svn: 12, shapes: vec!["s1".into(), "m4".into()], processors: 2, memory_bytes: 7 << 28 };
        assert_eq!(machine, expected);
        let words: Vec<OsString> =
            machine.to_arguments().iter().map(|word| word.to_str().unwrap().to_owned().into()).collect();
        assert_eq!(Machine::from_arguments(&words), Ok(machine));
        assert!(Machine::from_arguments(&words[..3]).is_err());
        assert!(Machine::from_arguments(&[]).is_err());
    }

    #[test]
    fn an_image_that_does_not_say_its_version_does_not_boot() {
        for (svn, shapes, cpus) in
            [("", "s1\n", "0"), ("-1", "s1\n", "0"), ("1 2", "s1\n", "0"), ("1", "", "0"), ("1", "s1\n\n", "0")]
        {
            assert!(read(svn, shapes, cpus).is_err(), "{svn:?} {shapes:?}");
        }
        assert!(Machine::read(Path::new("/nonexistent"), Path::new("/nonexistent"), 1).is_err());
    }

    #[test]
    fn processors_are_counted_as_the_kernel_lists_them() {
        for (list, count) in [("0", 1), ("0-1", 2), ("0-3,8,10-11", 7)] {
            assert_eq!(processors(list), Ok(count), "{list}");
        }
        for list in ["", "1-0", "a", "0-", "0-18446744073709551615"] {
            assert!(processors(list).is_err(), "{list}");
        }
    }
}
