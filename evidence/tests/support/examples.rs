//! The examples of `docs/formats.md`: made from what the code writes, explained with the comments of the grammar.
//!
//! A block stands after a line `<!-- example: NAME -->`. `COFFER_BLESS=1` writes the blocks anew; otherwise they must be equal.

use std::path::Path;

use coffer_evidence::cbor::{Key, Value, decode, encode};

use crate::grammar::{CDDL, Sample, grammar_accepts};

/// Longer byte strings are cut in the explained form; the bytes above it are whole.
const SHOWN_BYTES: usize = 12;
const SHOWN_TEXT: usize = 72;

/// One entry of a map, array or group of the grammar.
#[derive(Clone)]
struct Member {
    key: Option<u64>,
    kind: String,
    comment: String,
}

fn body(rule: &str) -> Option<(Vec<&'static str>, &'static str)> {
    let start = format!("{rule} = ");
    let mut lines = CDDL.lines().skip_while(move |line| !line.starts_with(&start));
    let first = lines.next()?;
    let definition = first.split_once(" = ")?.1;
    if !matches!(definition, "{" | "[" | "(") {
        return Some((Vec::new(), definition));
    }
    Some((lines.take_while(|line| line.starts_with("  ")).collect(), definition))
}

/// What `rule = [ * kind ]` repeats.
fn repeated(rule: &str) -> &'static str {
    let definition = body(rule).map_or("", |(_, definition)| definition);
    definition.strip_prefix("[ * ").and_then(|rest| rest.strip_suffix(" ]")).unwrap_or("")
}

/// The members of a rule, groups unfolded.
fn members(rule: &str) -> Vec<Member> {
    let Some((lines, definition)) = body(rule) else { return Vec::new() };
    let mut entries: Vec<(String, String)> = Vec::new();
    for line in lines {
        let (entry, comment) = line.split_once(';').unwrap_or((line, ""));
        entries.push((entry.trim().trim_end_matches(',').to_owned(), comment.trim().to_owned()));
    }
    if let Some(inline) = definition.strip_prefix("{ ").and_then(|d| d.strip_suffix(" }")) {
        entries.extend(inline.split(", ").map(|entry| (entry.to_owned(), String::new())));
    }
    entries.into_iter().flat_map(|(entry, comment)| member(&entry, comment)).collect()
}

fn member(entry: &str, comment: String) -> Vec<Member> {
    let entry = entry.strip_prefix("? ").unwrap_or(entry);
    match entry.split_once(": ") {
        Some((key, kind)) => {
            let key = key.parse().ok();
            let known = if key == Some(0) && comment.is_empty() { "kind".to_owned() } else { comment };
            vec![Member { key, kind: kind.to_owned(), comment: known }]
        }
        None if body(entry).is_some_and(|(_, definition)| definition == "(") => members(entry),
        None => vec![Member { key: None, kind: entry.to_owned(), comment }],
    }
}

/// The one form of a choice that this value has.
fn form_of(kind: &str, value: &Value) -> String {
    match body(kind) {
        Some((_, definition)) if definition.contains(" / ") => {
            let forms = definition.split(" / ").filter(|form| body(form).is_some());
            let form = forms.into_iter().find(|form| grammar_accepts(form, &encode(value)));
            form.map_or_else(|| kind.to_owned(), |form| form_of(form, value))
        }
        _ => kind.to_owned(),
    }
}

fn scalar(value: &Value) -> Option<String> {
    Some(match value {
        Value::Unsigned(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Text(text) if text.len() > SHOWN_TEXT => format!("{:?}...", &text[..SHOWN_TEXT]),
        Value::Text(text) => format!("{text:?}"),
        Value::Bytes(bytes) if bytes.len() > SHOWN_BYTES + 4 => {
            format!("h'{}...' ({} bytes)", hex::encode(&bytes[..SHOWN_BYTES]), bytes.len())
        }
        Value::Bytes(bytes) => format!("h'{}'", hex::encode(bytes)),
        Value::Array(items) if items.is_empty() => "[]".to_owned(),
        Value::Map(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Array(items) if items.iter().all(|i| matches!(i, Value::Unsigned(_))) => {
            let items: Vec<String> = items.iter().filter_map(scalar).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Array(_) | Value::Map(_) => return None,
    })
}

fn explain(value: &Value, rule: &str, prefix: &str, comment: &str, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    let mut line = |text: String, comment: &str| {
        let line = if comment.is_empty() { text } else { format!("{text:<56} / {comment} /") };
        out.push_str(line.trim_end());
        out.push('\n');
    };
    if let Some(text) = scalar(value) {
        line(format!("{pad}{prefix}{text}"), comment);
        return;
    }
    let rule = form_of(rule, value);
    let known = members(&rule);
    let (open, close) = if matches!(value, Value::Array(_)) { ('[', ']') } else { ('{', '}') };
    line(format!("{pad}{prefix}{open}"), comment);
    match value {
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                let member = known.get(at);
                let (kind, comment) = member.map_or((repeated(&rule), ""), |m| (m.kind.as_str(), m.comment.as_str()));
                explain(item, kind, "", comment, indent + 2, out);
            }
        }
        Value::Map(entries) => {
            for (key, item) in entries {
                let (prefix, member) = match key {
                    Key::Unsigned(n) => (format!("{n}: "), known.iter().find(|m| m.key == Some(*n))),
                    Key::Text(name) => (format!("{name:?}: "), None),
                };
                let (kind, comment) = member.map_or(("", ""), |m| (m.kind.as_str(), m.comment.as_str()));
                explain(item, kind, &prefix, comment, indent + 2, out);
            }
        }
        _ => {}
    }
    out.push_str(&format!("{pad}{close}\n"));
}

/// Bytes in lines of 48.
pub(crate) fn hex_lines(bytes: &[u8]) -> String {
    bytes.chunks(48).map(|chunk| format!("{}\n", hex::encode(chunk))).collect()
}

/// The block of a sample: bytes, then the same explained.
pub(crate) fn block(sample: &Sample) -> String {
    let mut out = hex_lines(&sample.bytes);
    out.push('\n');
    explain(&decode(&sample.bytes).expect("dCBOR"), sample.form, "", "", 0, &mut out);
    out
}

/// Compares the blocks of `docs/formats.md` that are named here with these, or writes them. Returns the names that the page has.
pub(crate) fn compare_or_bless(page: &Path, blocks: &[(String, String)]) -> Vec<String> {
    let text = std::fs::read_to_string(page).expect("docs/formats.md");
    let mut out = String::new();
    let mut names = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        out.push_str(&format!("{line}\n"));
        let Some(name) = line.strip_prefix("<!-- example: ").and_then(|l| l.strip_suffix(" -->")) else { continue };
        names.push(name.to_owned());
        let Some((_, block)) = blocks.iter().find(|(known, _)| known == name) else { continue };
        assert_eq!(lines.next(), Some("```"), "{name}: a block follows its marker");
        lines.by_ref().find(|line| *line == "```").expect("the end of the block");
        out.push_str(&format!("```\n{block}```\n"));
    }
    if std::env::var_os("COFFER_BLESS").is_some() {
        std::fs::write(page, out).expect("write docs/formats.md");
    } else {
        assert!(out == text, "docs/formats.md does not show what the code writes; COFFER_BLESS=1 writes it anew");
    }
    for (name, _) in blocks {
        assert!(names.contains(name), "docs/formats.md shows no {name}");
    }
    names
}
