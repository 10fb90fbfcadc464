//! Absolute paths in one form: what a policy names and what a call is judged by. Text only, no file is looked at.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest path in a policy, in bytes: what the kernel takes, without the NUL at its end.
pub const PATH_MAX: usize = 4095;
/// The longest path that a call is judged by: a longest path beneath another.
pub const JOINED_MAX: usize = PATH_MAX * 2 + 1;

/// Why a text is no absolute path in its one form.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// Relative.
    #[error("expected an absolute path, one that starts with `/`")]
    Relative,
    /// `.` or `..` in it.
    #[error("expected a path without `.` and `..`: write `{0}`")]
    Dots(String),
    /// `//`, or `/` at its end.
    #[error("expected a path without `//` and without `/` at its end: write `{0}`")]
    Slashes(String),
    /// Too long.
    #[error("expected a path of at most {most} bytes, found {found}")]
    TooLong {
        /// The limit in bytes.
        most: usize,
        /// Bytes found.
        found: usize,
    },
    /// NUL.
    #[error("expected a path without NUL")]
    Nul,
}

/// An absolute path without `.`, `..`, `//`, NUL and, but for the root, without `/` at its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AbsolutePath(String);

impl AbsolutePath {
    /// `/`.
    #[must_use]
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path that `text` means in this directory, by its text alone: `.` and `//` vanish, `..` goes one up, an
    /// absolute `text` stands for itself.
    ///
    /// # Errors
    /// [`PathError::Nul`], [`PathError::TooLong`] over [`JOINED_MAX`] bytes.
    pub fn join(&self, text: &str) -> Result<Self, PathError> {
        if text.contains('\0') {
            return Err(PathError::Nul);
        }
        let base = if text.starts_with('/') { "" } else { self.0.as_str() };
        let joined = resolved(base.split('/').chain(text.split('/')));
        if joined.len() > JOINED_MAX {
            return Err(PathError::TooLong { most: JOINED_MAX, found: joined.len() });
        }
        Ok(Self(joined))
    }

    /// The directories above it, the nearest first. None for the root.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        let mut rest = self.0.as_str();
        std::iter::from_fn(move || {
            let (above, name) = rest.rsplit_once('/')?;
            if name.is_empty() {
                return None;
            }
            rest = above;
            Some(if above.is_empty() { "/" } else { above })
        })
    }

    /// Whether the other is this path or beneath it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self == other || other.ancestors().any(|above| above == self.0)
    }
}

fn resolved<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut kept = Vec::new();
    for part in parts {
        match part {
            "" | "." => {}
            ".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    format!("/{}", kept.join("/"))
}

impl FromStr for AbsolutePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        if text.contains('\0') {
            return Err(PathError::Nul);
        }
        if text.len() > PATH_MAX {
            return Err(PathError::TooLong { most: PATH_MAX, found: text.len() });
        }
        if !text.starts_with('/') {
            return Err(PathError::Relative);
        }
        let instead = resolved(text.split('/'));
        if instead == text {
            Ok(Self(instead))
        } else if text.split('/').any(|part| matches!(part, "." | "..")) {
            Err(PathError::Dots(instead))
        } else {
            Err(PathError::Slashes(instead))
        }
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> AbsolutePath {
        text.parse().unwrap()
    }

    #[test]
    fn a_path_has_one_form_and_a_message_says_which() {
        for good in ["/", "/a", "/a/b", "/a b", "/...", "/.git", "/a..b"] {
            assert_eq!(path(good).as_str(), good);
        }
        let refused = |text: &str| text.parse::<AbsolutePath>().unwrap_err();
        assert_eq!(refused(""), PathError::Relative);
        assert_eq!(refused("a/b"), PathError::Relative);
        assert_eq!(refused("/a/"), PathError::Slashes("/a".into()));
        assert_eq!(refused("//a"), PathError::Slashes("/a".into()));
        assert_eq!(refused("//"), PathError::Slashes("/".into()));
        assert_eq!(refused("/a/../b"), PathError::Dots("/b".into()));
        assert_eq!(refused("/a/."), PathError::Dots("/a".into()));
        assert_eq!(refused("/a\0"), PathError::Nul);
    }

    #[test]
    fn a_path_ends_at_its_limit() {
        assert!(format!("/{}", "a".repeat(PATH_MAX - 1)).parse::<AbsolutePath>().is_ok());
        let long = format!("/{}", "a".repeat(PATH_MAX)).parse::<AbsolutePath>();
        assert_eq!(long, Err(PathError::TooLong { most: 4095, found: 4096 }));
        let longest = path(&format!("/{}", "a".repeat(PATH_MAX - 1)));
        assert_eq!(longest.join(&"b".repeat(PATH_MAX)).unwrap().as_str().len(), JOINED_MAX);
        assert!(matches!(longest.join(&"b".repeat(PATH_MAX + 1)), Err(PathError::TooLong { .. })));
    }

    #[test]
    fn a_path_is_joined_by_its_text() {
        let joined = |text: &str| path("/workspace").join(text).unwrap().as_str().to_owned();
        assert_eq!(joined(""), "/workspace");
        assert_eq!(joined("a/./b//c"), "/workspace/a/b/c");
        assert_eq!(joined("../etc"), "/etc");
        assert_eq!(joined("../../../.."), "/");
        assert_eq!(joined("/usr/bin/../lib"), "/usr/lib");
    }

    #[test]
    fn a_path_as_deep_as_a_client_likes_is_decided_at_once() {
        use crate::{Action, Ask, Decision, Policy, Resource, Usage};
        let text = "@id(\"a\") permit (principal, action == Action::\"file.read\", resource in Path::\"/a/a\");";
        let policy = Policy::parse(text).unwrap();
        let deep = Resource::Path(AbsolutePath::root().join(&"a/".repeat(JOINED_MAX / 2)).unwrap());
        let ask = Ask::new("x".parse().unwrap(), Action::FileRead, deep, Usage::default()).unwrap();
        let (_, entities) = ask.question(policy.paths()).unwrap();
        let uid = crate::domain::domain().resource(crate::action::Kind::Path, ask.resource());
        assert_eq!(entities.ancestors(&uid).unwrap().count(), 1, "only what the policy names");
        assert!(matches!(policy.decide(&ask), Decision::Allowed { .. }));
    }

    #[test]
    fn the_directories_above_end_with_the_root() {
        assert_eq!(path("/a/b/c").ancestors().collect::<Vec<_>>(), ["/a/b", "/a", "/"]);
        assert_eq!(path("/a").ancestors().collect::<Vec<_>>(), ["/"]);
        assert_eq!(path("/").ancestors().count(), 0);
        assert!(path("/").contains(&path("/a/b")) && path("/a").contains(&path("/a/b")));
        assert!(path("/a").contains(&path("/a")) && !path("/a").contains(&path("/ab")));
        assert!(!path("/a/b").contains(&path("/a")));
    }
}
