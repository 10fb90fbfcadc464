//! `coffer evidence show`: a bundle as an auditor reads it. What the verifier makes of it, then the action log as a timeline,
//! private parts included where they were disclosed or an identity opens them, then every check. One call whole with `--call`.

mod call;
mod header;
mod leaf;

use std::path::PathBuf;

use clap::Args;
use coffer_evidence::bundle;
use coffer_evidence::verify::{Accepted, Report, Verdict, verify_bundle};
use serde::Serialize;
use serde_json::Value;

use self::leaf::Line;
use super::contents::{Contents, contents};
use super::read_bundle;
use super::verify::{Judging, unpinned};
use crate::exit::{Status, failure};
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

#[derive(Serialize)]
struct Shown {
    schema: &'static str,
    bundle_id: String,
    sealed: bool,
    /// As `coffer evidence verify --json` prints it.
    report: Value,
    leaves: Vec<Line>,
}

/// `coffer evidence show`
pub(super) fn show(output: &Output, args: &ShowArgs) -> anyhow::Result<Status> {
    let bytes = read_bundle(&args.file)?;
    let options = args.judging.options(&bytes)?;
    let wrong = |error: anyhow::Error| {
        failure(Status::FAILED, format!("{}: expected a bundle: {error:#}", args.file.display()))
    };
    let report = verify_bundle(&bytes, &options);
    let bundle = bundle::read(&bytes).map_err(|error| wrong(error.into()))?;
    let Contents { told, why, .. } = contents(&bundle, &options.access).map_err(wrong)?;
    if let Some(why) = why {
        output.note(format_args!("encrypted private parts were not opened: {}", printable(&why)));
    }
    if let Some(id) = &args.call {
        return call::show(output, &told, id, &report);
    }
    let lines = told.iter().map(|(leaf, part)| Line::new(leaf, part.as_ref())).collect::<Vec<_>>();
    match output.form {
        Form::Json => output.json(&Shown {
            schema: "coffer.show.v1",
            bundle_id: bundle.bundle_id().to_string(),
            sealed: bundle.is_sealed(),
            report: serde_json::from_str(&report.json_line())?,
            leaves: lines,
        })?,
        Form::People => {
            if let Some(told) = unpinned(&args.judging, &report) {
                output.note(told);
            }
            output.bytes(page(output, &report, &lines, bundle.is_sealed()).as_bytes())?;
        }
    }
    Ok(Status::DONE)
}

fn page(output: &Output, report: &Report, lines: &[Line], sealed: bool) -> String {
    let mut page = format!("{}\n\n", headline(output, report));
    page.push_str("what happened, as the guest recorded it (seconds since it started):\n");
    for line in lines {
        page.push_str(&output.paint(line.colour(), &line.text()));
        page.push('\n');
    }
    if !sealed {
        page.push_str("(no seal: what came after is not known)\n");
    }
    page.push_str("\nwhat of it is true, and what is not known:\n");
    page.push_str(&report.human());
    page
}

/// The answer in one line. What follows it is worth as much as this says.
fn headline(output: &Output, report: &Report) -> String {
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
