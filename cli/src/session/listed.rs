//! An entry of a session's files as it is shown. Its names are the guest's, and any bytes at all.

use coffer_proto::guest::v1::{Entry, EntryKind};
use serde::Serialize;

use crate::output::printable;
use crate::time::shown_ms;

/// `file`
fn kind_word(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Unspecified => "unknown",
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink => "symlink",
        EntryKind::Other => "other",
    }
}

/// The JSON form of an entry.
#[derive(Debug, Serialize)]
pub(super) struct EntryShown {
    name: String,
    /// Hex of the name, where it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_bytes: Option<String>,
    kind: &'static str,
    size: u64,
    /// Permission bits, octal.
    mode: String,
    modified_at_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    symlink_target: Option<String>,
}

impl EntryShown {
    pub(super) fn new(entry: &Entry) -> Self {
        let target = (entry.kind() == EntryKind::Symlink).then(|| text(&entry.symlink_target));
        Self {
            name: text(&entry.name),
            name_bytes: std::str::from_utf8(&entry.name).is_err().then(|| hex::encode(&entry.name)),
            kind: kind_word(entry.kind()),
            size: entry.size,
            mode: format!("{:04o}", entry.mode),
            modified_at_ms: entry.modified_at_ms,
            symlink_target: target,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A name as a terminal may show it.
pub(super) fn name(bytes: &[u8]) -> String {
    printable(&text(bytes))
}

/// `-rw-r--r--       1234  2026-11-25T20:00:00Z  name -> target`
pub(super) fn long_line(entry: &Entry) -> String {
    let modified = shown_ms(entry.modified_at_ms);
    let line = format!("{}  {:>12}  {modified}  {}", mode(entry), entry.size, name(&entry.name));
    if entry.kind() == EntryKind::Symlink { format!("{line} -> {}", name(&entry.symlink_target)) } else { line }
}

/// Kind and permissions as `ls` writes them.
fn mode(entry: &Entry) -> String {
    let kind = match entry.kind() {
        EntryKind::File => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Other | EntryKind::Unspecified => '?',
    };
    let bits =
        (0..9).rev().zip("rwxrwxrwx".chars()).map(|(bit, word)| if entry.mode >> bit & 1 == 1 { word } else { '-' });
    std::iter::once(kind).chain(bits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_and_its_names_control_no_terminal() {
        let entry = |kind: EntryKind, mode, name: &[u8], target: &[u8]| Entry {
            name: name.to_vec().into(),
            kind: kind.into(),
            size: 7,
            mode,
            modified_at_ms: 0,
            symlink_target: target.to_vec().into(),
        };
        let line = |entry| long_line(&entry);
        let file = line(entry(EntryKind::File, 0o640, b"a\x1b[2J\n", b""));
        assert!(file.starts_with("-rw-r-----             7  ") && file.ends_with("  a\\u{1b}[2J\\n"), "{file}");
        let link = line(entry(EntryKind::Symlink, 0o777, b"l", b"\xff\r"));
        assert!(link.starts_with("lrwxrwxrwx") && link.ends_with("  l -> \\u{fffd}\\r"), "{link}");
        assert!(line(entry(EntryKind::Directory, 0o1755, b"d", b"")).starts_with("drwxr-xr-x"));
        assert!(line(entry(EntryKind::Other, 0, b"p", b"")).starts_with("?---------"));
        let shown = serde_json::to_value(EntryShown::new(&entry(EntryKind::File, 0o640, b"\xff", b""))).expect("JSON");
        assert_eq!((&shown["name_bytes"], &shown["mode"]), (&"ff".into(), &"0640".into()));
        assert!(shown.get("symlink_target").is_none());
    }
}
