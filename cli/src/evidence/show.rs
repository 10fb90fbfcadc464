//! `coffer evidence show`: a bundle as an auditor reads it. What the verifier makes of it, then the action log as a timeline,
//! private parts included where they were disclosed or an identity opens them, then every check. One call whole with `--call`.

mod call;
mod files;
mod header;
pub(crate) mod leaf;

use std::path::PathBuf;

use clap::Args;
use coffer_evidence::verify::{Accepted, Report, Verdict};
use serde::Serialize;
use serde_json::Value;

use self::leaf::Line;
use super::contents::{Contents, no_bundle};
use super::reading::{BundleFile, changed, told_unread};
use super::verify::{Judging, unpinned};
use crate::exit::Status;
use crate::output::{Colour, Form, Output, printable};

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The bundle
    file: PathBuf,
    /// Show this call whole: its id, or the first 4 or more characters of it
    #[arg(long, value_name = "ID")]
    call: Option<String>,
    #[command(flatten)]
    judging: Judging,
}

/// All but the leaves, which follow one by one.
#[derive(Serialize)]
struct Shown {
    schema: &'static str,
    bundle_id: String,
    sealed: bool,
    /// As `coffer evidence verify --json` prints it.
    report: Value,
}

/// `coffer evidence show`
pub(super) fn show(output: &Output, args: &ShowArgs) -> anyhow::Result<Status> {
    shown(output, args).map_err(told_unread(&args.file))
}

fn shown(output: &Output, args: &ShowArgs) -> anyhow::Result<Status> {
    let file = BundleFile::open(&args.file)?;
    let (report, options) = args.judging.judge(&file)?;
    let contents = Contents::new(&file, &options.access).map_err(no_bundle(&args.file))?;
    // What is shown is what was judged.
    if report.bundle_id.as_ref().is_some_and(|id| *id != contents.scan().bundle_id().to_string()) {
        return Err(changed().into());
    }
    if let Some(why) = &contents.why {
        output.note(format_args!("encrypted private parts were not opened: {}", printable(why)));
    }
    if let Some(id) = &args.call {
        return call::show(output, &contents, id, &report);
    }
    match output.form {
        Form::Json => json(output, &report, &contents)?,
        Form::People => {
            if let Some(told) = unpinned(&args.judging, &report) {
                output.note(told);
            }
            page(output, &report, &contents)?;
        }
    }
    Ok(Status::DONE)
}

fn json(output: &Output, report: &Report, contents: &Contents<'_>) -> anyhow::Result<()> {
    let head = serde_json::to_string(&Shown {
        schema: "coffer.show.v1",
        bundle_id: contents.scan().bundle_id().to_string(),
        sealed: contents.scan().is_sealed(),
        report: serde_json::from_str(&report.json_line())?,
    })?;
    let mut stream = output.stream();
    stream.push(head.strip_suffix('}').unwrap_or(&head))?;
    let mut before = ",\"leaves\":[";
    contents.each(|leaf, part| {
        stream.push(std::mem::replace(&mut before, ","))?;
        stream.push(&serde_json::to_string(&Line::new(leaf, part))?)
    })?;
    stream.push(if before == "," { "]}\n" } else { ",\"leaves\":[]}\n" })?;
    stream.end()
}

fn page(output: &Output, report: &Report, contents: &Contents<'_>) -> anyhow::Result<()> {
    let mut stream = output.stream();
    stream.push(&format!("{}\n\n", headline(output, report)))?;
    stream.push("what happened, as the guest recorded it (seconds since it started):\n")?;
    contents.each(|leaf, part| {
        let line = Line::new(leaf, part);
        stream.push(&output.paint(line.colour(), &line.text()))?;
        stream.push("\n")
    })?;
    if !contents.scan().is_sealed() {
        stream.push("(no seal: what came after is not known)\n")?;
    }
    stream.push("\nwhat of it is true, and what is not known:\n")?;
    stream.push(&report.human())?;
    stream.end()
}

/// The answer in one line. What follows it is worth as much as this says.
pub(super) fn headline(output: &Output, report: &Report) -> String {
    let verdict = match report.verdict {
        Verdict::Sealed => "SEALED: the whole record of one TD",
        Verdict::Aborted => "ABORTED: a genuine prefix, and nothing is known of what followed",
        Verdict::Invalid => "INVALID: what follows is what the file says, not what happened",
        Verdict::Indeterminate => "INDETERMINATE: something is missing, so nothing below is shown to be true",
    };
    let (accepted, colour) = match report.accepted {
        Accepted::Yes => ("accepted", Colour::Good),
        Accepted::No => ("not accepted", Colour::Bad),
        Accepted::CannotTell => ("cannot tell whether to accept it", Colour::Doubtful),
    };
    let platform = match report.platform.as_deref() {
        Some("simulated") => "; SIMULATED: anyone can forge this",
        _ => "",
    };
    output.paint(Some(colour), &format!("{verdict}; {accepted}{platform}"))
}
