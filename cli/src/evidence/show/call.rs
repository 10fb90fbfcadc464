//! One call whole: what was asked, what was decided and by which rules, and everything that is known of its end.

use coffer_evidence::call::{Disclosed, IfMatch, IntentPrivate, OutcomePrivate, Request, RequestFlag, StreamDigest};
use coffer_evidence::call_header::ClientPrivate;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::git::{Branch, GitOrder};
use coffer_evidence::leaf::{Leaf, Public};
use coffer_evidence::verify::{Accepted, Report};
use serde_json::{Map, Value, json};

use super::super::contents::Contents;
use super::{files, header, headline};
use crate::exit::Status;
use crate::output::{Form, Output, printable};

/// What the TD committed to is not what the header commits to.
const UNSIGNED: &str = "FALSE: it is not what the client signed";

/// The most leaves of one call that are shown: an honest guest writes three, and one for each piece of signed input.
const LEAVES_MAX: usize = 100_000;

/// `coffer evidence show --call`
pub(super) fn show(output: &Output, contents: &Contents<'_>, id: &str, report: &Report) -> anyhow::Result<Status> {
    let call = contents.call_named(id)?;
    let mut sections: Vec<Section> = Vec::new();
    contents.each(|leaf, part| {
        if leaf.call.is_some_and(|of| of.to_string() == call) {
            anyhow::ensure!(
                sections.len() < LEAVES_MAX,
                "expected at most {LEAVES_MAX} leaves of one call, found more"
            );
            sections.push(section(leaf, part));
        }
        Ok(())
    })?;
    let judged: Value = serde_json::from_str(&report.json_line())?;
    match output.form {
        Form::Json => output.json(&json!({
            "schema": "coffer.call.v1",
            "call": call,
            "verdict": judged["verdict"],
            "accepted": judged["accepted"],
            "platform": judged["platform"],
            "words": judged["words"],
            "leaves": sections.into_iter().map(Map::from_iter).collect::<Vec<Map<String, Value>>>(),
        }))?,
        Form::People => {
            if report.accepted != Accepted::Yes {
                output.note("not accepted: `coffer evidence verify` says why");
            }
            output.line(headline(output, report))?;
            output.line(format_args!("\ncall {call}"))?;
            for section in sections {
                output.line("")?;
                for (name, value) in section {
                    tell(output, &name, &value)?;
                }
            }
        }
    }
    Ok(Status::DONE)
}

fn tell(output: &Output, name: &str, value: &Value) -> anyhow::Result<()> {
    match value {
        Value::String(text) => output.line(format_args!("{name:<16} {}", printable(text))),
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                let name = if n == 0 { name } else { "" };
                match item {
                    Value::Object(_) => output.line(format_args!("{name:<16} {}", files::line(item)))?,
                    item => output.line(format_args!("{name:<16} {}", printable(item.as_str().unwrap_or_default())))?,
                }
            }
            Ok(())
        }
        other => output.line(format_args!("{name:<16} {other}")),
    }
}

/// One leaf of the call, field by field, in the order of reading.
type Section = Vec<(String, Value)>;

fn section(leaf: &Leaf, part: Option<&Disclosed>) -> Section {
    let mut fields = Section::new();
    let mut put = |name: &str, value: Value| fields.push((name.to_owned(), value));
    put("leaf", json!(leaf.index));
    put("kind", json!(leaf.kind().as_str()));
    put("at_ns", json!(leaf.monotonic_ns));
    if let Some(identity) = &leaf.identity {
        put("identity", json!(identity.to_string()));
    }
    match &leaf.public {
        Public::Intent { method, rules, request_steps, .. } => {
            put("method", json!(method.as_str()));
            put("decision", json!("allowed"));
            put("rules", json!(rules));
            put("request_4KiB", json!(request_steps));
        }
        Public::Denied { method, rules, .. } => {
            put("method", json!(method.as_str()));
            put("decision", json!("denied"));
            put("rules", json!(rules));
        }
        Public::Outcome { method, cause, output_steps, input_steps, input_covered } => {
            put("method", json!(method.as_str()));
            put("outcome", json!(cause.as_str()));
            put("output_4KiB", json!(output_steps));
            put("input_4KiB", json!(input_steps));
            if let Some(covered) = input_covered {
                put("input_signed", json!(covered));
            }
        }
        Public::Incomplete { method } => put("method", json!(method.as_str())),
        Public::Client { header: signed } => put("said", json!(header::told(&signed.header))),
        Public::Channel { .. } | Public::Rejected { .. } => {}
        Public::Open { .. } | Public::Limit { .. } | Public::Scrub { .. } | Public::Seal { .. } => {}
    }
    if let Some(signed) = leaf.public.header() {
        put("signed_by", json!(signed.header.speaker.to_string()));
        put("channel", json!(signed.header.channel.to_string()));
        put("seq", json!(signed.header.seq));
    }
    match (leaf.commitment, part) {
        (None, _) => {}
        (Some(_), None) => put("private", json!("withheld")),
        (Some(_), Some(part)) if !part.opens(leaf) => {
            put("private", json!("FALSE: what is disclosed is not what was committed to"));
        }
        (Some(committed), Some(part)) => {
            put("commitment", json!(committed.to_string()));
            opened(&leaf.public, &part.bytes, &mut put);
        }
    }
    fields
}

fn opened(public: &Public, bytes: &[u8], put: &mut impl FnMut(&str, Value)) {
    match public {
        Public::Intent { .. } | Public::Denied { .. } => match IntentPrivate::parse(bytes) {
            Ok(private) => {
                if !public.is_signed(&private.client_salt, &private.request) {
                    put("private", json!(UNSIGNED));
                }
                request(&private, put);
                if let Some(program) = private.program {
                    put("program", json!(program));
                }
                if !private.paths.is_empty() {
                    put("paths", json!(private.paths));
                }
            }
            Err(error) => put("private", json!(format!("FALSE: {error}"))),
        },
        Public::Outcome { .. } => match OutcomePrivate::parse(bytes) {
            Ok(outcome) => end(&outcome, put),
            Err(error) => put("private", json!(format!("FALSE: {error}"))),
        },
        Public::Client { .. } => match ClientPrivate::parse(bytes) {
            Ok(private) => {
                if !public.is_signed(&private.client_salt, &private.committed) {
                    put("private", json!(UNSIGNED));
                }
                put("committed", json!(hex::encode(private.committed)));
            }
            Err(error) => put("private", json!(format!("FALSE: {error}"))),
        },
        _ => {}
    }
}

fn request(private: &IntentPrivate, put: &mut impl FnMut(&str, Value)) {
    match Request::parse(&private.request) {
        Ok(Request::Exec { argv, cwd, env, timeout_ms, grace_ms, output_bytes_max, terminal }) => {
            put("argv", json!(argv));
            put("cwd", json!(if cwd.is_empty() { "." } else { &cwd }));
            put("env", json!(env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()));
            put("timeout_ms", json!(timeout_ms));
            put("grace_ms", json!(grace_ms));
            put("output_bytes_max", json!(output_bytes_max));
            if let Some(size) = terminal {
                put("terminal", json!(format!("{} rows, {} columns", size.rows, size.columns)));
            }
        }
        Ok(Request::WriteFile { path, mode, if_match }) => {
            put("path", json!(path));
            put("mode", json!(format!("{mode:04o}")));
            match if_match {
                Some(IfMatch::Content(digest)) => put("if_match", json!(digest.to_string())),
                Some(IfMatch::Nothing) => put("if_match", json!("nothing")),
                None => {}
            }
        }
        Ok(Request::ReadFile { path, offset, length }) => {
            put("path", json!(path));
            put("offset", json!(offset));
            put("length", json!(length));
        }
        Ok(Request::ListDirectory { path, depth, page_token, page_size }) => {
            put("path", json!(path));
            for (name, number) in [("depth", depth), ("page_size", page_size)] {
                if let Some(number) = number {
                    put(name, json!(number));
                }
            }
            if let Some(token) = page_token {
                put("page_token", json!(token));
            }
        }
        Ok(Request::Stat { path } | Request::Upload { path } | Request::Download { path }) => put("path", json!(path)),
        Ok(Request::Remove { path, reach }) => {
            put("path", json!(path));
            flag(reach.flag(), put);
        }
        Ok(Request::Move { path, destination, taken }) => {
            put("path", json!(path));
            put("destination", json!(destination));
            flag(taken.flag(), put);
        }
        Ok(Request::MakeDirectory { path, mode, above }) => {
            put("path", json!(path));
            put("mode", json!(format!("{mode:04o}")));
            flag(above.flag(), put);
        }
        Ok(Request::Watch { path, reach, timeout_ms }) => {
            put("path", json!(path));
            flag(reach.flag(), put);
            put("timeout_ms", json!(timeout_ms));
        }
        Ok(Request::Git { path, order }) => {
            put("path", json!(path));
            git(order, put);
        }
        Err(error) => put("request", json!(format!("FALSE: {error}"))),
    }
}

fn git(order: GitOrder, put: &mut impl FnMut(&str, Value)) {
    put("git", json!(order.action().as_str()));
    let mut maybe = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            put(name, value);
        }
    };
    let paths = |paths: Vec<String>| (!paths.is_empty()).then(|| json!(paths));
    match order {
        GitOrder::Status => {}
        GitOrder::Diff { side, revision, paths: named } => {
            maybe("flag", side.flag().map(|flag| json!(flag.as_str())));
            maybe("revision", revision.map(|revision| json!(revision)));
            maybe("of", paths(named));
        }
        GitOrder::Log { revision, count, paths: named } => {
            maybe("revision", revision.map(|revision| json!(revision)));
            maybe("count", count.map(|count| json!(count)));
            maybe("of", paths(named));
        }
        GitOrder::Add { paths: named } => maybe("of", paths(named)),
        GitOrder::Commit { message, author } => {
            maybe("message", Some(json!(message)));
            maybe("author", Some(json!(format!("{} <{}>", author.name(), author.email()))));
        }
        GitOrder::Branch(change) => {
            let (word, name, at) = match change {
                Branch::List => ("list", None, None),
                Branch::Create { name, at } => ("create", Some(name), at),
                Branch::Switch { name } => ("switch", Some(name), None),
                Branch::Delete { name } => ("delete", Some(name), None),
            };
            maybe("do", Some(json!(word)));
            maybe("branch", name.map(|name| json!(name)));
            maybe("revision", at.map(|at| json!(at)));
        }
        GitOrder::Fetch { remote, branch } => {
            maybe("remote", Some(json!(remote)));
            maybe("branch", branch.map(|branch| json!(branch)));
        }
        GitOrder::Push { remote, branch } => {
            maybe("remote", Some(json!(remote)));
            maybe("branch", Some(json!(branch)));
        }
    }
}

fn flag(flag: Option<RequestFlag>, put: &mut impl FnMut(&str, Value)) {
    if let Some(flag) = flag {
        put("flag", json!(flag.as_str()));
    }
}

fn end(outcome: &OutcomePrivate, put: &mut impl FnMut(&str, Value)) {
    let numbers =
        [("exit_code", outcome.code), ("signal", outcome.signal), ("errno", outcome.errno), ("size", outcome.size)];
    for (name, number) in numbers {
        if let Some(number) = number {
            put(name, json!(number));
        }
    }
    if let Some(stage) = &outcome.stage {
        put("stage", json!(stage));
    }
    if let Some(files) = outcome.files {
        put("entries", json!(files));
    }
    if let Some(commit) = outcome.commit {
        put("commit", json!(commit.to_string()));
    }
    if let Some(digest) = outcome.digest {
        put("sha256", json!(digest.to_string()));
    }
    for (name, stream) in [("stdin", outcome.stdin), ("stdout", outcome.stdout), ("stderr", outcome.stderr)] {
        if let Some(StreamDigest { total, delivered, sha256 }) = stream {
            put(name, json!(format!("{total} bytes, {delivered} delivered, sha256 {sha256}")));
        }
    }
    if let Some(usage) = outcome.usage {
        put("wall_ms", json!(usage.wall_ms));
        put("user_us", json!(usage.user_us));
        put("system_us", json!(usage.system_us));
        put("max_rss_kib", json!(usage.max_rss_kib));
    }
    if let Some(record) = outcome.record.as_ref().and_then(|record| record.read().ok()) {
        put("files_used", json!(files::summary(&record)));
        if !record.lost.is_empty() {
            let lost: Vec<&str> = record.lost.iter().map(|loss| loss.as_str()).collect();
            put("files_lost", json!(lost.join(", ")));
        }
        let all: Vec<Value> = record.files().map(|(path, file)| files::value(&path, file)).collect();
        put("files", json!(all));
    }
}
