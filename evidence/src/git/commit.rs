//! A commit object, strictly: what a session's git tool makes, in the one form that it makes it in. What git takes beside it
//! (other headers, other encodings, merges of many) is refused.
//!
//! ```text
//! tree ID
//! parent ID                    none to 16
//! author NAME <EMAIL> SECONDS +ZONE
//! committer NAME <EMAIL> SECONDS +ZONE
//! gpgsig -----BEGIN …          once it is signed, each further line behind a space
//!
//! MESSAGE
//! ```

use std::fmt::Write as _;

use ed25519_dalek::SigningKey;
use thiserror::Error;

use super::object_id::ObjectId;
use super::sshsig::{SshSignature, SshSignatureError};

/// Bytes of a commit object that is signed.
pub const COMMIT_MAX: usize = 64 * 1024;
/// Bytes of a message.
pub const MESSAGE_MAX: usize = 32 * 1024;
/// Parents of a commit.
pub const PARENTS_MAX: usize = 16;
/// Bytes of a name or an email address.
const NAME_MAX: usize = 256;
/// Seconds since 1970 that git itself reads without complaint.
const SECONDS_MAX: u64 = 1 << 40;

/// Why bytes are not a commit that is signed here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommitError {
    /// Too long.
    #[error("expected a commit of at most {COMMIT_MAX} bytes with a message of 1 to {MESSAGE_MAX}")]
    Size,
    /// Not as the tool writes it.
    #[error("expected {expected} in the commit, in the form that a session writes")]
    Form {
        /// What was expected.
        expected: &'static str,
    },
    /// There is no signature.
    #[error("expected a signature in the commit, found none")]
    Unsigned,
    /// There is one where none may be.
    #[error("expected a commit without a signature, found one with a signature")]
    Signed,
    /// It is none of ours.
    #[error("the signature of the commit")]
    Signature(#[source] SshSignatureError),
}

/// Who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    name: String,
    email: String,
}

/// Why that is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "expected a name and an email address of 1 to {NAME_MAX} bytes each, without <, >, control characters and spaces at the ends"
)]
pub struct PersonError;

impl Person {
    /// From both, as they will stand in the commit.
    ///
    /// # Errors
    /// [`PersonError`].
    pub fn new(name: impl Into<String>, email: impl Into<String>) -> Result<Self, PersonError> {
        let (name, email) = (name.into(), email.into());
        let fits = |text: &str| {
            (1..=NAME_MAX).contains(&text.len())
                && text.trim() == text
                && !text.contains(|c: char| matches!(c, '<' | '>') || c.is_control())
        };
        if fits(&name) && fits(&email) { Ok(Self { name, email }) } else { Err(PersonError) }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address.
    #[must_use]
    pub fn email(&self) -> &str {
        &self.email
    }
}

/// Who, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Who.
    pub person: Person,
    /// Seconds since 1970, by the clock of whoever wrote it.
    pub seconds: u64,
    /// Minutes east of Greenwich.
    pub zone: i16,
}

/// A commit without its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its tree.
    pub tree: ObjectId,
    /// Its parents.
    pub parents: Vec<ObjectId>,
    /// Who wrote it.
    pub author: Stamp,
    /// Who committed it.
    pub committer: Stamp,
    /// What it says, its last line feed included.
    pub message: String,
}

impl Commit {
    /// A message as it stands in the object: with a line feed at its end.
    #[must_use]
    pub fn message_of(text: &str) -> String {
        if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
    }

    /// The bytes that are signed.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.write(None).into_bytes()
    }

    /// Reads the bytes that are to be signed; only the form of [`Self::to_bytes`].
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CommitError> {
        match read(bytes)? {
            (commit, None) => Ok(commit),
            (_, Some(_)) => Err(CommitError::Signed),
        }
    }

    /// The same commit with its signature.
    #[must_use]
    pub fn with(self, signature: SshSignature) -> SignedCommit {
        let id = self.tree.of_commit(self.write(Some(&signature.to_armor())).as_bytes());
        SignedCommit { commit: self, signature, id }
    }

    /// Signs it.
    #[must_use]
    pub fn sign(self, key: &SigningKey) -> SignedCommit {
        let signature = SshSignature::sign(key, &self.to_bytes());
        self.with(signature)
    }

    fn write(&self, armor: Option<&str>) -> String {
        let mut text = format!("tree {}\n", self.tree);
        // Writing to a string cannot fail.
        for parent in &self.parents {
            let _ = writeln!(text, "parent {parent}");
        }
        for (word, stamp) in [("author", &self.author), ("committer", &self.committer)] {
            let Stamp { person: Person { name, email }, seconds, zone } = stamp;
            let (sign, minutes) = (if *zone < 0 { '-' } else { '+' }, zone.unsigned_abs());
            let _ = writeln!(text, "{word} {name} <{email}> {seconds} {sign}{:02}{:02}", minutes / 60, minutes % 60);
        }
        if let Some(armor) = armor {
            text.push_str(self.tree.signature_header());
            for line in armor.lines() {
                let _ = writeln!(text, " {line}");
            }
        }
        text.push('\n');
        text.push_str(&self.message);
        text
    }
}

/// A commit with a signature, which nobody has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCommit {
    commit: Commit,
    signature: SshSignature,
    id: ObjectId,
}

impl SignedCommit {
    /// Reads a commit object as git stores it; only the form that a session writes.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CommitError> {
        let (commit, armor) = read(bytes)?;
        let signature = SshSignature::parse(&armor.ok_or(CommitError::Unsigned)?).map_err(CommitError::Signature)?;
        Ok(commit.with(signature))
    }

    /// The bytes that git stores.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.commit.write(Some(&self.signature.to_armor())).into_bytes()
    }

    /// What was signed.
    #[must_use]
    pub const fn commit(&self) -> &Commit {
        &self.commit
    }

    /// Its signature.
    #[must_use]
    pub const fn signature(&self) -> &SshSignature {
        &self.signature
    }

    /// Its id, computed from all of its bytes.
    #[must_use]
    pub const fn id(&self) -> ObjectId {
        self.id
    }

    /// Whether the key that the signature names made it, over this commit.
    #[must_use]
    pub fn verifies(&self) -> bool {
        self.signature.verifies(&self.commit.to_bytes())
    }
}

/// The commit, and the armor of its signature.
fn read(bytes: &[u8]) -> Result<(Commit, Option<String>), CommitError> {
    let wrong = |expected| CommitError::Form { expected };
    if bytes.len() > COMMIT_MAX {
        return Err(CommitError::Size);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("text in UTF-8"))?;
    let (head, message) = text.split_once("\n\n").ok_or(wrong("an empty line before the message"))?;
    if message.is_empty() || message.len() > MESSAGE_MAX {
        return Err(CommitError::Size);
    }
    if !message.ends_with('\n') || message.contains('\0') || message.trim().is_empty() {
        return Err(wrong("a message without NUL that ends with a line feed"));
    }
    let mut lines = head.split('\n').peekable();
    let tree = lines.next().and_then(|line| line.strip_prefix("tree ")?.parse::<ObjectId>().ok());
    let tree = tree.ok_or(wrong("a tree"))?;
    let mut parents = Vec::new();
    while let Some(parent) = lines.peek().and_then(|line| line.strip_prefix("parent ")) {
        let parent = parent.parse::<ObjectId>().ok().filter(|parent| parent.is_like(&tree));
        parents.push(parent.filter(|_| parents.len() < PARENTS_MAX).ok_or(wrong("at most 16 parents"))?);
        lines.next();
    }
    let author = lines.next().and_then(|line| stamp(line.strip_prefix("author ")?)).ok_or(wrong("an author"))?;
    let committer = lines.next().and_then(|line| stamp(line.strip_prefix("committer ")?));
    let committer = committer.ok_or(wrong("a committer"))?;
    let commit = Commit { tree, parents, author, committer, message: message.to_owned() };
    let armor = match lines.next() {
        None => None,
        Some(line) => Some(armor(tree, line, lines).ok_or(wrong("no header but those of a commit and its signature"))?),
    };
    // There is one way to write it.
    if commit.write(armor.as_deref()) == text { Ok((commit, armor)) } else { Err(wrong("its one form")) }
}

/// `NAME <EMAIL> SECONDS +ZONE`
fn stamp(text: &str) -> Option<Stamp> {
    let (name, rest) = text.split_once(" <")?;
    let (email, rest) = rest.split_once("> ")?;
    let (seconds, zone) = rest.split_once(' ')?;
    let seconds = seconds.parse().ok().filter(|seconds| *seconds <= SECONDS_MAX)?;
    let (hours, minutes) = zone.get(1..).filter(|digits| digits.len() == 4)?.split_at_checked(2)?;
    let (hours, minutes) = (hours.parse::<i16>().ok()?, minutes.parse::<i16>().ok().filter(|m| *m < 60)?);
    let east = hours.checked_mul(60)?.checked_add(minutes)?;
    let zone = if zone.starts_with('-') { east.checked_neg()? } else { east };
    Some(Stamp { person: Person::new(name, email).ok()?, seconds, zone })
}

/// The lines of a signature, each as it was before git took them into its header.
fn armor<'a>(tree: ObjectId, first: &'a str, rest: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut armor = String::new();
    let first = first.strip_prefix(tree.signature_header())?;
    for line in std::iter::once(first).chain(rest) {
        armor.push_str(line.strip_prefix(' ')?);
        armor.push('\n');
    }
    Some(armor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn commit() -> Commit {
        let person = Person::new("Ada L.", "ada@example.org").unwrap();
        let stamp = |seconds, zone| Stamp { person: person.clone(), seconds, zone };
        Commit {
            tree: ObjectId::Sha1([0xab; 20]),
            parents: vec![ObjectId::Sha1([1; 20])],
            author: stamp(1_790_000_000, 0),
            committer: stamp(1_790_000_001, -330),
            message: "Say hello\n\nAnd mean it.\n".to_owned(),
        }
    }

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    #[test]
    fn a_commit_is_the_bytes_that_git_would_write() {
        let expected = format!(
            "tree {}\nparent {}\nauthor Ada L. <ada@example.org> 1790000000 +0000\n\
             committer Ada L. <ada@example.org> 1790000001 -0530\n\nSay hello\n\nAnd mean it.\n",
            "ab".repeat(20),
            "01".repeat(20)
        );
        assert_eq!(String::from_utf8(commit().to_bytes()).unwrap(), expected);
        assert_eq!(Commit::parse(expected.as_bytes()), Ok(commit()));
        // As `git hash-object -t commit --literally` says.
        let empty = ObjectId::Sha1([0; 20]).of_commit(b"");
        assert_eq!(empty.to_string(), "dcf5b16e76cce7425d0beaef62d79a7d10fce1f5");
    }

    #[test]
    fn a_signed_commit_is_read_back_and_its_parts_are_told_apart() {
        for tree in [ObjectId::Sha1([2; 20]), ObjectId::Sha256([2; 32])] {
            let signed = Commit { tree, parents: Vec::new(), ..commit() }.sign(&key());
            let bytes = signed.to_bytes();
            assert_eq!(SignedCommit::parse(&bytes), Ok(signed.clone()));
            assert!(signed.verifies() && signed.id() == tree.of_commit(&bytes) && signed.id().is_like(&tree));
            assert_eq!(Commit::parse(&bytes), Err(CommitError::Signed));
            assert_eq!(SignedCommit::parse(&signed.commit().to_bytes()), Err(CommitError::Unsigned));
            let altered = String::from_utf8(bytes).unwrap().replace("hello", "hullo");
            assert!(!SignedCommit::parse(altered.as_bytes()).unwrap().verifies());
        }
    }

    #[test]
    fn what_is_no_commit_of_a_session_is_refused() {
        let good = String::from_utf8(commit().to_bytes()).unwrap();
        let replaced = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            good.replacen(from, to, 1)
        };
        let parent = format!("parent {}\n", "01".repeat(20));
        let rows = [
            String::new(),
            "\n\n".to_owned(),
            format!("{good}\0\n"),
            good.trim_end().to_owned(),
            replaced("Say hello\n\nAnd mean it.\n", ""),
            replaced("Say hello\n\nAnd mean it.\n", "\n"),
            replaced("tree ab", "tree AB"),
            replaced("tree ab", "tree "),
            replaced("tree ", "tree  "),
            replaced("parent 01", "parent 0101010101010101010101010101"),
            replaced(&parent, &parent.repeat(PARENTS_MAX + 1)),
            replaced("author Ada", "author  Ada"),
            replaced("author Ada L.", "author "),
            replaced("1790000000 +0000", "01790000000 +0000"),
            replaced("1790000000 +0000", "1790000000 -0000"),
            replaced("1790000000 +0000", "1790000000 +0060"),
            replaced("1790000000 +0000", "1790000000 +00000"),
            replaced("1790000000 +0000", "1790000000 +é0"),
            replaced("1790000000 +0000", "99999999999999 +0000"),
            replaced("\n\nSay", "\nencoding ISO-8859-1\n\nSay"),
            replaced("\n\nSay", "\ngpgsig\n\nSay"),
            replaced("committer", "Committer"),
            replaced("Say hello", &"a".repeat(MESSAGE_MAX)),
        ];
        for text in rows {
            assert!(Commit::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(Commit::parse(replaced(&parent, &parent.repeat(PARENTS_MAX)).as_bytes()).is_ok());
        assert!(Commit::parse(replaced(&parent, "").as_bytes()).is_ok());
        assert!(Commit::parse(&[good.as_bytes(), b"\xff\n"].concat()).is_err());
        // A signature of another program.
        let pgp = replaced("\n\nSay", "\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n -----END PGP SIGNATURE-----\n\nSay");
        assert_eq!(SignedCommit::parse(pgp.as_bytes()), Err(CommitError::Signature(SshSignatureError::Armor)), "{pgp}");
    }

    #[test]
    fn a_person_has_a_name_and_an_address_that_fit_one_line() {
        for (name, email) in [("", "a@b"), ("a", ""), ("a<", "b"), ("a\nb", "c"), (" a", "b"), ("a", "b> 1 +0000")] {
            assert_eq!(Person::new(name, email), Err(PersonError), "{name:?} {email:?}");
        }
        assert!(Person::new("é".repeat(128), "a").is_ok() && Person::new("é".repeat(129), "a").is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            for mut bytes in [commit().to_bytes(), commit().sign(&key()).to_bytes()] {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                if let Ok(read) = Commit::parse(&bytes) {
                    prop_assert_eq!(read.to_bytes(), bytes);
                } else if let Ok(read) = SignedCommit::parse(&bytes) {
                    prop_assert_eq!(read.to_bytes(), bytes);
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, text: String) {
            let _ = Commit::parse(&bytes);
            let _ = SignedCommit::parse(format!("tree {}\n{text}", "ab".repeat(20)).as_bytes());
        }
    }
}
