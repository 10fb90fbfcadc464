//! `formats.cddl` and `docs/formats.md` are what the code writes and reads.

#[path = "../support/examples.rs"]
mod examples;
#[path = "../support/grammar.rs"]
mod grammar;
mod samples;
mod samples_of_channels;
mod samples_of_requests;
mod strict;

use std::collections::BTreeMap;
use std::path::Path;

use coffer_evidence::boot_disk;
use coffer_evidence::call::RequestFlag;
use coffer_evidence::call_header::HeaderType;
use coffer_evidence::cbor::{Key, Value, encode};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::file_record::RecordLoss;
use coffer_evidence::git::{BranchAction, GitAction};
use coffer_evidence::leaf::{CauseClass, LeafKind, LimitKind, Method, Rejection, Reporter, ScrubStep, StepResult};
use coffer_evidence::seal::{ClosedBy, Reason};

use examples::{block, compare_or_bless, hex_lines};
/// Shown by the forms that they are part of, or that are part of them.
const INSIDE: [&str; 7] =
    ["instance-hashed", "open-hashed", "channel-hashed", "pool-hashed", "seal-hashed", "receipt", "events-file"];

use grammar::{CDDL, closed_list, grammar_accepts, judge};

#[test]
fn code_and_grammar_agree_on_every_format_and_on_every_change_of_it() {
    let samples = samples::samples();
    let mut refused = 0;
    for sample in &samples {
        refused += judge(sample);
    }
    assert!(samples.len() >= 45 && refused > 2_000, "{} samples, {refused} refusals", samples.len());
}

#[test]
fn closed_lists_have_the_numbers_of_the_code() {
    fn check<T: Copy>(name: &str, all: &[T], number: fn(T) -> u64, word: fn(T) -> &'static str) {
        let code: BTreeMap<u64, String> = all.iter().map(|v| (number(*v), word(*v).to_owned())).collect();
        assert_eq!(closed_list(name), code, "{name}");
    }
    check("leaf-kind", LeafKind::ALL, LeafKind::number, LeafKind::as_str);
    check("reporter", Reporter::ALL, Reporter::number, Reporter::as_str);
    check("method", Method::ALL, Method::number, Method::as_str);
    check("request-flag", RequestFlag::ALL, RequestFlag::number, RequestFlag::as_str);
    check("git-action", GitAction::ALL, GitAction::number, GitAction::as_str);
    check("branch-action", BranchAction::ALL, BranchAction::number, BranchAction::as_str);
    check("cause-class", CauseClass::ALL, CauseClass::number, CauseClass::as_str);
    check("record-loss", RecordLoss::ALL, RecordLoss::number, RecordLoss::as_str);
    check("limit-kind", LimitKind::ALL, LimitKind::number, LimitKind::as_str);
    check("header-type", HeaderType::ALL, HeaderType::number, HeaderType::as_str);
    check("rejection", Rejection::ALL, Rejection::number, Rejection::as_str);
    check("scrub-step", ScrubStep::ALL, ScrubStep::number, ScrubStep::as_str);
    check("step-result", StepResult::ALL, StepResult::number, StepResult::as_str);
    check("closed-by", ClosedBy::ALL, ClosedBy::number, ClosedBy::as_str);
    check("reason", Reason::ALL, Reason::number, Reason::as_str);
}

#[cfg(feature = "private")]
#[test]
fn the_example_of_encrypted_parts_is_what_the_cipher_makes() {
    let shown = |parts: Vec<coffer_evidence::private::EncryptedPart>| -> Vec<String> {
        parts.iter().map(|part| format!("{} {}", part.index, hex::encode(&part.ciphertext))).collect()
    };
    assert_eq!(shown(samples::encrypted()), shown(samples::encrypted_anew()));
}

#[test]
fn a_leaf_of_a_kind_without_a_layout_is_refused_by_grammar_and_code() {
    for kind in [7_u64, 8, 9, 14] {
        let leaf = Value::Map(
            [
                (1, Value::Unsigned(1)),
                (2, Value::Bytes(vec![0; 16])),
                (3, Value::Unsigned(0)),
                (4, Value::Unsigned(kind)),
                (5, Value::Unsigned(0)),
                (8, Value::Unsigned(0)),
                (9, Value::Unsigned(0)),
                (10, Value::Map(Vec::new())),
            ]
            .map(|(key, value)| (Key::Unsigned(key), value))
            .to_vec(),
        );
        let bytes = encode(&leaf);
        assert!(!grammar_accepts("leaf", &bytes), "kind {kind}");
        assert!(coffer_evidence::leaf::Leaf::parse(&bytes).is_err(), "kind {kind}");
    }
}

#[test]
fn the_page_of_examples_shows_what_the_code_writes() {
    let samples = samples::samples();
    let shown = samples.iter().filter(|sample| !sample.form.ends_with("-signed") && !INSIDE.contains(&sample.form));
    let mut blocks: Vec<(String, String)> = shown.map(|sample| (sample.form.to_owned(), block(sample))).collect();
    let disk = boot_disk::write(&samples::config().to_bytes(), samples::PERMIT_ALL.as_bytes());
    assert!(boot_disk::read(&disk).is_ok());
    let json = |envelope: Vec<u8>| format!("{}\n", String::from_utf8(envelope).expect("JSON"));
    blocks.push(("boot disk".to_owned(), hex_lines(&disk[..112])));
    blocks.push(("leaves".to_owned(), hex_lines(&samples::leaves_file())));
    blocks.push(("checkpoint".to_owned(), samples::note()));
    blocks.push(("statement.dsse".to_owned(), json(samples::statement())));
    blocks.push(("image.dsse".to_owned(), json(samples::image_dsse())));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/formats.md");
    let shown = compare_or_bless(&page, &blocks);
    let guest_processes = CDDL.split_once("- guest processes\n").expect("the section").1;
    for name in shown.iter().filter(|name| !blocks.iter().any(|(known, _)| known == *name)) {
        assert!(guest_processes.contains(&format!("\n{name} = ")), "docs/formats.md shows {name}, which nothing makes");
    }
}
