//! `coffer evidence redact`: a bundle to hand on, with the private parts that its owner wants to show and no others. The record, its
//! proof and `core_id` stay as they are; only what stands behind commitments is left out.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use coffer_evidence::bundle::{self, Bundle};
use coffer_evidence::call::Disclosed;
use coffer_evidence::private::Access;
use coffer_evidence::verify::{Options, Report, Verdict, verify_bundle};
use serde::Serialize;

use super::contents::{Contents, no_bundle};
use super::identity::access_to;
use super::reading::{BundleFile, changed, told_unread};
use crate::exit::{INPUT_OUTPUT, Status, USAGE, failure};
use crate::output::{Form, Output};
use crate::time::now;

#[derive(Debug, Args)]
pub(crate) struct RedactArgs {
    /// The bundle
    bundle: PathBuf,
    /// Where the redacted bundle goes; must not exist
    out: PathBuf,
    /// Private parts to keep, by leaf: 7, 3-9, call:ID (or the first 4 or more characters of it), none, all
    #[arg(long, value_name = "PART", required = true, num_args = 1.., value_delimiter = ',')]
    keep: Vec<Part>,
    /// Open encrypted parts with this file of age identities (AGE-SECRET-KEY-1...)
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

/// The largest bundle that is redacted, in bytes: it is held as it is, as members and as it becomes.
const REDACTED_MAX: u64 = 1 << 30;

/// Which parts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    None,
    All,
    Leaves(u64, u64),
    Call(String),
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a leaf (7), a range (3-9), call:ID, none or all, found {text:?}");
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        match (text, text.strip_prefix("call:"), text.split_once('-')) {
            ("none", ..) => Ok(Self::None),
            ("all", ..) => Ok(Self::All),
            (_, Some(id), _) => Ok(Self::Call(id.to_owned())),
            (_, None, Some((first, last))) => match (number(first)?, number(last)?) {
                (first, last) if first <= last => Ok(Self::Leaves(first, last)),
                _ => Err(wrong()),
            },
            (_, None, None) => number(text).map(|leaf| Self::Leaves(leaf, leaf)),
        }
    }
}

#[derive(Serialize)]
struct Redacted {
    schema: &'static str,
    file: String,
    core_id: String,
    bundle_id: String,
    verdict: Verdict,
    /// Leaves whose parts are open in the new bundle.
    kept: Vec<u64>,
    /// Leaves whose parts stand in the old one and not in the new one.
    dropped: Vec<u64>,
}

/// `coffer evidence redact`
pub(super) fn redact(output: &Output, args: &RedactArgs) -> anyhow::Result<Status> {
    if args.out.symlink_metadata().is_ok() {
        return Err(exists(&args.out));
    }
    redacted(output, args).map_err(told_unread(&args.bundle))
}

fn redacted(output: &Output, args: &RedactArgs) -> anyhow::Result<Status> {
    let file = BundleFile::open(&args.bundle)?;
    let size = file.size()?;
    if size > REDACTED_MAX {
        return Err(too_large(size));
    }
    let keyed = access_to(&file, args.identity.as_deref())?;
    let access = keyed.access.clone();
    let contents = Contents::new(&file, &access).map_err(no_bundle(&args.bundle))?;
    let bytes = file.first(size)?;
    let before = verify_bundle(&bytes, &Options { at: now(), access: access.clone(), ..Options::default() });
    let bundle = bundle::read(&bytes)?;
    // What is redacted is what was looked into.
    if !keyed.is_of(&before) || bundle.bundle_id() != contents.scan().bundle_id() {
        return Err(changed().into());
    }
    let kept = chosen(&contents, &args.keep, &access)?;
    let made = bundle.redacted(&kept);
    let after = unchanged(&before, &made)?;
    write_new(&args.out, &made)?;
    told(output, args, &bundle, &contents, &kept, &after)?;
    Ok(Status::DONE)
}

fn too_large(found: u64) -> anyhow::Error {
    let message = format!(
        "expected a bundle of at most {REDACTED_MAX} bytes to redact, found {found}: it is made anew in memory"
    );
    failure(INPUT_OUTPUT, message)
}

/// The parts that are asked for, each of them open and true.
fn chosen(contents: &Contents<'_>, asked: &[Part], access: &Access) -> anyhow::Result<Vec<Disclosed>> {
    let usage = |message: String| Err(failure(USAGE, message));
    if asked.len() > 1 && asked.iter().any(|part| matches!(part, Part::None | Part::All)) {
        return usage("expected `none` or `all` by itself, found other parts beside it".to_owned());
    }
    let mut wanted = BTreeSet::new();
    for part in asked {
        let (open, closed) = fitting(contents, part)?;
        if let Some(index) = closed {
            let how = match (access, &contents.why) {
                (Access::NoIdentity, _) => "--identity FILE opens it",
                (_, Some(why)) => why,
                (_, None) => "it was not opened",
            };
            let message = format!("expected open parts to keep, found that of leaf {index} encrypted: {how}");
            return if *access == Access::NoIdentity { usage(message) } else { Err(failure(Status::FAILED, message)) };
        }
        if open.is_empty() && matches!(part, Part::Leaves(..) | Part::Call(_)) {
            return usage(format!("expected a private part at {}, found none in this bundle", spelled(part)));
        }
        wanted.extend(open);
    }
    let mut kept = Vec::new();
    contents.each(|leaf, part| {
        let Some(part) = part.filter(|part| wanted.contains(&part.index)) else { return Ok(()) };
        if !part.opens(leaf) {
            let message = format!("expected the part of leaf {} to open its commitment, found another", leaf.index);
            return Err(failure(Status::FAILED, message));
        }
        kept.push(part.clone());
        Ok(())
    })?;
    Ok(kept)
}

/// The leaves that are meant and whose parts are open, and the first whose part is not.
fn fitting(contents: &Contents<'_>, part: &Part) -> anyhow::Result<(Vec<u64>, Option<u64>)> {
    let name = match part {
        Part::Call(id) => Some(contents.call_named(id)?),
        _ => None,
    };
    let (mut open, mut closed) = (Vec::new(), None);
    contents.each(|leaf, found| {
        let fits = match part {
            Part::None => false,
            Part::All => true,
            Part::Leaves(first, last) => (*first..=*last).contains(&leaf.index),
            Part::Call(_) => leaf.call.map(|call| call.to_string()) == name,
        };
        if fits && found.is_some() {
            open.push(leaf.index);
        }
        if fits && contents.closed.contains(&leaf.index) {
            closed = closed.or(Some(leaf.index));
        }
        Ok(())
    })?;
    Ok((open, closed))
}

fn spelled(part: &Part) -> String {
    match part {
        Part::None => "none".to_owned(),
        Part::All => "all".to_owned(),
        Part::Leaves(first, last) if first == last => format!("leaf {first}"),
        Part::Leaves(first, last) => format!("leaves {first}-{last}"),
        Part::Call(id) => format!("call:{id}"),
    }
}

/// The verdict on what was made: the same, or nothing is written.
fn unchanged(before: &Report, redacted: &[u8]) -> anyhow::Result<Report> {
    let after = verify_bundle(redacted, &Options { at: before.at, ..Options::default() });
    let same = (after.verdict, &after.core_id) == (before.verdict, &before.core_id);
    if !same {
        let why = before.obstacles().next().map(|check| format!("{:?} {}: {}", check.rule, check.name, check.reason));
        let message = format!(
            "expected redaction to leave the verdict alone, found {} before and {} after it{}; nothing was written",
            word(before.verdict),
            word(after.verdict),
            why.map(|why| format!(" ({why})")).unwrap_or_default(),
        );
        return Err(failure(Status::FAILED, message));
    }
    Ok(after)
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Sealed => "sealed",
        Verdict::Aborted => "aborted",
        Verdict::Invalid => "invalid",
        Verdict::Indeterminate => "indeterminate",
    }
}

fn exists(path: &Path) -> anyhow::Error {
    let message = format!("expected no file at {}, found one: name another, nothing is overwritten", path.display());
    failure(INPUT_OUTPUT, message)
}

/// Writes a file that was not there, whole or not at all.
fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let wrong = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(path),
        _ => failure(INPUT_OUTPUT, format!("write the redacted bundle {}: {error}", path.display())),
    };
    let mut file = std::fs::File::options().write(true).create_new(true).open(path).map_err(wrong)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| {
        // Ours, and useless: what cannot be removed either is told with the first error.
        drop(std::fs::remove_file(path));
        wrong(error)
    })
}

fn told(
    output: &Output,
    args: &RedactArgs,
    bundle: &Bundle,
    contents: &Contents<'_>,
    kept: &[Disclosed],
    after: &Report,
) -> anyhow::Result<()> {
    let kept: Vec<u64> = kept.iter().map(|part| part.index).collect();
    let there: BTreeSet<u64> = contents.open().chain(contents.closed.iter().copied()).collect();
    let dropped: Vec<u64> = there.difference(&kept.iter().copied().collect()).copied().collect();
    match output.form {
        Form::Json => output.json(&Redacted {
            schema: "coffer.redact.v1",
            file: args.out.display().to_string(),
            core_id: after.core_id.clone().unwrap_or_default(),
            bundle_id: after.bundle_id.clone().unwrap_or_default(),
            verdict: after.verdict,
            kept,
            dropped,
        }),
        Form::People => {
            output.note(format_args!("kept {}", listed(&kept)));
            output.note(format_args!("dropped {}", listed(&dropped)));
            let members: Vec<&str> =
                ["private.age", "private.bin"].into_iter().filter(|name| bundle.member(name).is_some()).collect();
            if !members.is_empty() {
                output.note(format_args!("left out {}", members.join(" and ")));
            }
            let core = after.core_id.as_deref().unwrap_or_default();
            output.note(format_args!(
                "{}: verdict {} and core_id {core} as before",
                args.out.display(),
                word(after.verdict)
            ));
            Ok(())
        }
    }
}

/// `2 private parts: leaves 1, 3-4`.
fn listed(indices: &[u64]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for index in indices {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*index) => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let spell = |(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    let ranges: Vec<String> = ranges.iter().map(spell).collect();
    match indices.len() {
        0 => "no private parts".to_owned(),
        1 => format!("1 private part: leaf {}", ranges.join(", ")),
        many => format!("{many} private parts: leaves {}", ranges.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_as_the_help_says_and_not_otherwise() {
        let parse = |text: &str| text.parse::<Part>();
        assert_eq!(parse("7"), Ok(Part::Leaves(7, 7)));
        assert_eq!(parse("3-9"), Ok(Part::Leaves(3, 9)));
        assert_eq!(parse("none"), Ok(Part::None));
        assert_eq!(parse("all"), Ok(Part::All));
        assert_eq!(parse("call:ab-cd"), Ok(Part::Call("ab-cd".to_owned())));
        for wrong in ["", "-", "3-", "-3", "9-3", "1-2-3", "x", "18446744073709551616", "All"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn leaves_are_listed_in_ranges() {
        assert_eq!(listed(&[]), "no private parts");
        assert_eq!(listed(&[4]), "1 private part: leaf 4");
        assert_eq!(listed(&[1, 3, 4, 5, u64::MAX]), format!("5 private parts: leaves 1, 3-5, {}", u64::MAX));
    }
}
