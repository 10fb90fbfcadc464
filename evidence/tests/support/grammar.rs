//! `formats.cddl` as a judge of encodings, and every way to change an encoding that must lead code and grammar to one answer.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use cddl_cat::context::BasicContext;
use cddl_cat::flatten::flatten_from_str;
use coffer_evidence::cbor::{Key, Value, decode, encode};

/// The text of the grammar.
pub(crate) const CDDL: &str = include_str!("../../formats.cddl");

fn context() -> &'static BasicContext {
    static CONTEXT: OnceLock<BasicContext> = OnceLock::new();
    CONTEXT.get_or_init(|| {
        // RFC 8610 has the whole text match a regexp; the library looks for it anywhere.
        let anchored = CDDL
            .lines()
            .map(|line| match line.split_once(".regexp \"") {
                Some((before, after)) => {
                    let (regexp, rest) = after.split_once('"').expect("the end of a regexp");
                    format!("{before}.regexp \"^(?:{regexp})$\"{rest}\n")
                }
                None => format!("{line}\n"),
            })
            .collect::<String>();
        BasicContext::new(flatten_from_str(&anchored).expect("formats.cddl is CDDL"))
    })
}

/// Whether these bytes are what the rule says.
#[track_caller]
pub(crate) fn grammar_accepts(rule: &str, bytes: &[u8]) -> bool {
    let definition = context().rules.get(rule).unwrap_or_else(|| panic!("formats.cddl has no rule {rule}"));
    let value: ciborium::Value = ciborium::from_reader(bytes).expect("CBOR");
    cddl_cat::validate_cbor(definition, &value, context()).is_ok()
}

/// One encoding that the code made.
pub(crate) struct Sample {
    /// The rule for exactly this form: `docs/formats.md` shows it.
    pub(crate) form: &'static str,
    /// The rule for everything that the code's reader takes.
    pub(crate) rule: &'static str,
    /// What the code wrote.
    pub(crate) bytes: Vec<u8>,
    /// The code's reader, where it has one.
    pub(crate) reader: Option<fn(&[u8]) -> bool>,
    /// Changes, by the start of their description, that the code refuses for a reason that the grammar has in a comment.
    pub(crate) stricter: &'static [&'static str],
}

/// The sample conforms, and code and grammar give one answer to every change of it. Returns how many changes were refused.
pub(crate) fn judge(sample: &Sample) -> usize {
    let Sample { form, rule, bytes, .. } = sample;
    assert!(grammar_accepts(form, bytes), "{form} does not accept what the code wrote: {}", hex::encode(bytes));
    assert!(grammar_accepts(rule, bytes), "{rule} does not accept what {form} does");
    let Some(reader) = sample.reader else { return 0 };
    assert!(reader(bytes), "the code does not read its own {form}");
    let mut refused = 0;
    for (what, value) in changes(&decode(bytes).expect("dCBOR")) {
        let changed = encode(&value);
        let (code, grammar) = (reader(&changed), grammar_accepts(rule, &changed));
        let agree = code == grammar || (grammar && sample.stricter.iter().any(|change| what.starts_with(change)));
        assert!(agree, "{form}, {what}: the code says {code}, rule {rule} says {grammar}: {}", hex::encode(&changed));
        refused += usize::from(!code);
    }
    refused
}

/// Lengths around every limit in the formats.
const COUNTS: [usize; 8] = [8, 9, 16, 17, 64, 65, 256, 257];
const LENGTHS: [usize; 14] = [0, 31, 32, 63, 64, 65, 128, 129, 255, 256, 257, 1025, 131_072, 131_073];

/// The value with one thing changed, for each thing and each change.
pub(crate) fn changes(value: &Value) -> Vec<(String, Value)> {
    let mut all = of_another_type(value);
    match value {
        Value::Unsigned(n) => {
            let others = [0, n.wrapping_add(1), n.wrapping_sub(1), u64::MAX];
            all.extend(others.into_iter().filter(|o| o != n).map(|o| (format!("{n} to {o}"), Value::Unsigned(o))));
        }
        Value::Bytes(bytes) => {
            all.push(("a byte more".to_owned(), Value::Bytes([bytes.as_slice(), &[0]].concat())));
            if let Some((_, shorter)) = bytes.split_last() {
                all.push(("a byte less".to_owned(), Value::Bytes(shorter.to_vec())));
            }
        }
        Value::Text(text) => {
            all.extend(LENGTHS.map(|n| (format!("a text of {n}"), Value::Text("a".repeat(n)))));
            all.extend(["A", "!", "\u{e9}", "a b"].map(|t| (format!("the text {t}"), Value::Text(t.to_owned()))));
            all.push(("a text with more".to_owned(), Value::Text(format!("{text}!"))));
        }
        Value::Bool(b) => all.push(("the other".to_owned(), Value::Bool(!b))),
        Value::Array(items) => all.extend(of_array(items)),
        Value::Map(entries) => all.extend(of_map(entries)),
    }
    all
}

fn of_another_type(value: &Value) -> Vec<(String, Value)> {
    [
        ("a number", Value::Unsigned(1)),
        ("bytes", Value::Bytes(vec![0; 32])),
        ("a text", Value::Text("a".to_owned())),
        ("a bool", Value::Bool(true)),
        ("an array", Value::Array(Vec::new())),
        ("a map", Value::Map(Vec::new())),
    ]
    .into_iter()
    .filter(|(_, other)| std::mem::discriminant(other) != std::mem::discriminant(value))
    .map(|(what, other)| (format!("{what} instead"), other))
    .collect()
}

fn of_array(items: &[Value]) -> Vec<(String, Value)> {
    let more = Value::Array([items, &[Value::Unsigned(0)]].concat());
    let mut all = vec![("an item more".to_owned(), more), ("no item".to_owned(), Value::Array(Vec::new()))];
    for at in 0..items.len() {
        let mut fewer = items.to_vec();
        fewer.remove(at);
        all.push((format!("without item {at}"), Value::Array(fewer)));
        for (what, changed) in changes(&items[at]) {
            let mut other = items.to_vec();
            other[at] = changed;
            all.push((format!("item {at}: {what}"), Value::Array(other)));
        }
    }
    if let Some(first) = items.first() {
        all.extend(COUNTS.map(|n| (format!("the first item {n} times"), Value::Array(vec![first.clone(); n]))));
    }
    all
}

fn of_map(entries: &[(Key, Value)]) -> Vec<(String, Value)> {
    let mut all = vec![("no key".to_owned(), Value::Map(Vec::new()))];
    let first = entries.first().map_or(Value::Unsigned(0), |(_, value)| value.clone());
    for key in [Key::Unsigned(99), Key::Text("zz".to_owned()), Key::Text("Z Z".to_owned())] {
        let more = [entries, &[(key.clone(), first.clone())]].concat();
        all.push((format!("one more key {key:?}"), Value::Map(more)));
    }
    for at in 0..entries.len() {
        let mut fewer = entries.to_vec();
        fewer.remove(at);
        all.push((format!("without key {:?}", entries[at].0), Value::Map(fewer)));
        for (what, changed) in changes(&entries[at].1) {
            let mut other = entries.to_vec();
            other[at].1 = changed;
            all.push((format!("key {:?}: {what}", entries[at].0), Value::Map(other)));
        }
    }
    if matches!(entries.first(), Some((Key::Text(_), _))) {
        for n in COUNTS {
            let many = (0..n).map(|n| (Key::Text(format!("k{n}")), first.clone())).collect();
            all.push((format!("{n} keys"), Value::Map(many)));
        }
        all.extend(
            LENGTHS.map(|n| (format!("a key of {n}"), Value::Map(vec![(Key::Text("a".repeat(n)), first.clone())]))),
        );
    }
    all
}

/// The closed list `name = &( member: number, ... )` of the grammar.
#[track_caller]
pub(crate) fn closed_list(name: &str) -> BTreeMap<u64, String> {
    let text: String = CDDL.lines().map(|line| line.split(';').next().unwrap_or(line)).collect::<Vec<_>>().join("\n");
    let list = text.split_once(&format!("\n{name} = &(")).unwrap_or_else(|| panic!("no list {name}")).1;
    let list = list.split_once(')').expect("the end of a list").0;
    let member = |m: &str| {
        let (word, number) = m.split_once(':').expect("name: number");
        (number.trim().parse().expect("a number"), word.trim().replace('-', "_"))
    };
    list.split(',').map(member).collect()
}
