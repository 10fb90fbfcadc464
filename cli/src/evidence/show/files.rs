//! What a call did with files, as people and programs read it. The words are those of the evidence: "opened", never "read".

use coffer_evidence::file_record::{Content, FileRecord, FileUse, Uses};
use serde_json::{Value, json};

use crate::output::printable;

/// How a file was used, in words, the strongest first.
fn words(uses: Uses) -> Vec<&'static str> {
    let mut words = Vec::new();
    for (of, word) in [
        (Uses::CREATED, "created"),
        (Uses::EXECUTED, "executed"),
        (Uses::WRITTEN, "opened for writing"),
        (Uses::RENAMED, "renamed"),
        (Uses::DELETED, "deleted"),
    ] {
        if uses.has(of) {
            words.push(word);
        }
    }
    // What is executed is opened for that.
    if uses.has(Uses::OPENED) && !uses.has(Uses::WRITTEN) && !uses.has(Uses::EXECUTED) {
        words.push("opened for reading");
    }
    words
}

/// How many files were used so, in one line.
pub(super) fn summary(record: &FileRecord) -> String {
    let mut counts: Vec<(&str, usize)> =
        ["executed", "opened for reading", "opened for writing", "created", "renamed", "deleted"]
            .map(|word| (word, 0))
            .to_vec();
    for (_, file) in record.files() {
        let words = words(file.uses);
        counts.iter_mut().filter(|(word, _)| words.contains(word)).for_each(|(_, count)| *count += 1);
    }
    let counted = counts.iter().filter(|(_, count)| *count > 0).map(|(word, count)| format!("{count} {word}"));
    let counted: Vec<String> = counted.collect();
    if counted.is_empty() { "none".to_owned() } else { counted.join(", ") }
}

fn content(content: &Content) -> Value {
    json!({ "size": content.size, "sha256": content.sha256.map(|digest| digest.to_string()) })
}

/// A file as programs read it. A path that is no text has its bytes beside it.
pub(super) fn value(path: &[u8], file: &FileUse) -> Value {
    let contents = |list: &[Content]| list.iter().map(content).collect::<Vec<_>>();
    let mut value = json!({
        "path": String::from_utf8_lossy(path),
        "uses": words(file.uses),
        "directory": file.uses.has(Uses::DIRECTORY),
        "first_ms": file.first_ms,
        "executed": contents(&file.executed),
        "opened": contents(&file.opened),
        "left": file.left.as_ref().map(content),
        "from": file.from.as_deref().map(String::from_utf8_lossy),
    });
    if std::str::from_utf8(path).is_err() {
        value["path_hex"] = json!(hex::encode(path));
    }
    value
}

/// A file of [`value`] as a line that people read.
pub(super) fn line(file: &Value) -> String {
    let text = |name: &str| printable(file[name].as_str().unwrap_or_default());
    let words: Vec<&str> = file["uses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let slash = if file["directory"] == json!(true) { "/" } else { "" };
    let mut line =
        format!("{:>8} ms  {}  {}{slash}", file["first_ms"].as_u64().unwrap_or(0), words.join(", "), text("path"));
    if file["from"].is_string() {
        line += &format!(", before: {}", text("from"));
    }
    let told = |of: &Value| {
        let digest = of["sha256"].as_str().map_or_else(String::new, |digest| format!(" sha256 {digest}"));
        format!("{} bytes{digest}", of["size"])
    };
    for (name, word) in [("executed", "executed as"), ("opened", "opened with")] {
        for of in file[name].as_array().into_iter().flatten() {
            line += &format!(", {word} {}", told(of));
        }
    }
    if file["left"].is_object() {
        line += &format!(", left with {}", told(&file["left"]));
    }
    line
}

#[cfg(test)]
mod tests {
    use coffer_evidence::file_record::Directory;
    use coffer_evidence::ids::Digest256;

    use super::*;

    fn file(name: &[u8], uses: Uses) -> FileUse {
        let (opened, executed) = (Vec::new(), Vec::new());
        FileUse { name: name.to_vec(), uses, first_ms: 12, opened, left: None, from: None, executed }
    }

    #[test]
    fn a_file_is_told_in_the_words_of_the_evidence_and_never_controls_a_terminal() {
        let some = |size| Content { size, sha256: Some(Digest256::new([0xab; 32])) };
        let changed = FileUse {
            opened: vec![some(3)],
            left: Some(Content { size: 1 << 30, sha256: None }),
            from: Some(b"/w/b".to_vec()),
            ..file(b"a\x1b\xff", Uses::OPENED.and(Uses::WRITTEN))
        };
        let told = value(b"/w/a\x1b\xff", &changed);
        assert_eq!(told["path_hex"], json!("2f772f611bff"));
        let digest = "ab".repeat(32);
        assert_eq!(
            line(&told),
            format!(
                "      12 ms  opened for writing  /w/a\\u{{1b}}\\u{{fffd}}, before: /w/b, opened with 3 bytes sha256 {digest}, \
                 left with 1073741824 bytes"
            )
        );
        let run = FileUse { executed: vec![some(5)], ..file(b"sh", Uses::OPENED.and(Uses::EXECUTED)) };
        assert_eq!(
            line(&value(b"/bin/sh", &run)),
            format!("      12 ms  executed  /bin/sh, executed as 5 bytes sha256 {digest}")
        );
        let made = file(b"d", Uses::CREATED.and(Uses::DIRECTORY));
        assert_eq!(line(&value(b"/w/d", &made)), "      12 ms  created  /w/d/");
        let files = vec![changed, made, run, file(b"x", Uses::OPENED)];
        let record = FileRecord { directories: vec![Directory { path: b"/w".to_vec(), files }], lost: Vec::new() };
        assert_eq!(summary(&record), "1 executed, 1 opened for reading, 1 opened for writing, 1 created");
        assert_eq!(summary(&FileRecord::default()), "none");
    }
}
