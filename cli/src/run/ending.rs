//! The end of a run, on every path: close, wait, export, verify against what was pinned when the session was made.

use coffer_client::{Client, ClientError};
use coffer_evidence::verify::{AcceptSimulated, AppraisalPolicy, Options, Report};
use coffer_proto::control::v1::{Phase, Platform};
use serde::Serialize;

use super::places::Places;
use crate::command::Context;
use crate::create::Created;
use crate::evidence::{Pins, verify_file, write_pins};
use crate::exit::{INPUT_OUTPUT, failure};
use crate::output::printable;
use crate::session::{SessionShown, wait};
use crate::time::now;

/// Closes the session and verifies what it left. The report is told on stderr in a few words.
pub(super) async fn end(
    context: &Context,
    client: &Client,
    created: &Created,
    places: &Places,
) -> anyhow::Result<Report> {
    let output = &context.output;
    output.progress(format_args!("session {}: closing", created.id));
    if let Err(error) = client.close(&created.id).await {
        // It may be closed already, or closing by itself; the wait tells.
        output.note(format_args!("close session {}: {error}", created.id));
        if matches!(error, ClientError::Unreachable { .. }) {
            return Err(error.into());
        }
    }
    let session = wait(context, client, &created.id, Phase::Closed).await?;
    for failure in &session.scrub_failures {
        output.note(format_args!("the host could not clean up: {}", printable(failure)));
    }
    let pins = Pins { session: created.id, owner: created.owner, image: created.image.clone() }.text()?;
    if let Some(path) = places.appraisal() {
        write_pins(&path, &pins)?;
    }
    let scratch = Scratch::new(created)?;
    let path = places.evidence().unwrap_or_else(|| scratch.bundle());
    if let Err(error) = client.export(&created.id, &path).await {
        let ending = SessionShown::new(&session).ending();
        return Err(anyhow::Error::new(error).context(format!("fetch the evidence (the session is closed: {ending})")));
    }
    let report = verify_file(&path, &options(created, &pins)?)?;
    tell(context, &report, places)?;
    if places.evidence().is_none() {
        output.note(format_args!("to keep the evidence: coffer evidence export {} FILE", created.id));
    }
    Ok(report)
}

/// Simulated evidence is accepted only from an image that was for the simulator when the user was told so.
fn options(created: &Created, pins: &str) -> anyhow::Result<Options> {
    let simulated = created.image.platform == Platform::Simulated;
    Ok(Options {
        at: now(),
        accept_simulated: if simulated { AcceptSimulated::Yes } else { AcceptSimulated::No },
        policy: Some(AppraisalPolicy::parse(pins)?),
        ..Options::default()
    })
}

/// The word of the JSON form, so that people and machines read the same.
fn word(value: impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_value(value)?.as_str().unwrap_or_default().to_owned())
}

fn tell(context: &Context, report: &Report, places: &Places) -> anyhow::Result<()> {
    let output = &context.output;
    let platform = match report.platform.as_deref() {
        Some("simulated") => "SIMULATED ",
        _ => "",
    };
    let (verdict, accepted) = (word(report.verdict)?, word(report.accepted)?);
    let place = places.evidence().map_or_else(String::new, |path| format!(", {}", path.display()));
    output.note(format_args!("{platform}evidence: {verdict}, accepted: {accepted}{place}"));
    if report.exit_code() != 0 {
        for check in report.obstacles() {
            output.note(format_args!("  {:?} {}: {}", check.rule, check.name, printable(&check.reason)));
        }
    }
    Ok(())
}

/// A directory for a bundle that nobody asked to keep; gone with this.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(created: &Created) -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("coffer-run-{}", created.id));
        // The name is random, and must be new: nobody else's directory is used.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| failure(INPUT_OUTPUT, format!("make the directory {}: {error}", path.display())))?;
        Ok(Self(path))
    }

    fn bundle(&self) -> std::path::PathBuf {
        self.0.join("session.evidence")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
