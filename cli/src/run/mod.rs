//! `coffer run`: one command in a fresh VM, from nothing to verified evidence.
//!
//! ```text
//! create ─> Ready ─> upload ─> exec ─> fetch ─┐
//!    │        └────────┴────────┴────────┴────┴─(failure, first signal)─> close ─> Closed ─> export ─> verify
//!    └─ nothing was made: nothing to end                                    └─(second signal)─> leave it to cofferd
//! ```
//! Once a session was asked for, every way out closes it. What the command's status says holds only if the evidence is
//! accepted: if it is not, the status is 125 whatever the command said.

mod ending;
mod places;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use coffer_client::Client;
use coffer_client::tree::Selection;
use coffer_evidence::ids::SessionId;
use coffer_evidence::verify::Report;
use serde::Serialize;

use crate::command::Context;
use crate::create::{Created, Wanted};
use crate::exit::{Status, causes, is_closed_output, status_of};
use crate::output::Form;
use crate::session::{Ended, Program, execute, summarise, tell_download, tell_upload};
use crate::signals::Interrupts;
use places::Places;

const EXIT_HELP: &str = "\
Exit status: the command's; 128+n when signal n ended it; 124 its time was up; 125 Coffer failed, or the evidence of what \
the command did is not accepted; 126 it could not be executed; 127 it was not found; 130 interrupted (143 by SIGTERM).

The evidence is verified against this user's owner key, the publisher that cofferd named for the image, and the session's \
id. Under a simulator anyone can forge it: `run` then says SIMULATED, and accepts it because you saw that. --require-tdx \
refuses it.
SIGINT, SIGTERM and SIGHUP cancel the command and close the session in good order; a second one leaves that to cofferd.
With --json a summary is the last line on stderr: stdout is the command's.";

#[derive(Debug, Args)]
#[command(after_help = EXIT_HELP)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    wanted: Wanted,
    /// Upload this directory to /workspace; at the top of a git work tree without what git ignores
    #[arg(long = "in", value_name = "DIR")]
    input: Option<PathBuf>,
    /// Also what git ignores
    #[arg(long, requires = "input")]
    all: bool,
    /// Put workspace/, session.evidence and appraisal.toml here
    #[arg(long = "out", value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    program: Program,
}

/// What `run` did, for machines.
#[derive(Serialize)]
struct Summary {
    status: u8,
    session: Option<String>,
    command: Option<Ended>,
    error: Option<String>,
    verdict: Option<Report>,
}

/// What came of the work inside the session.
enum Work {
    Done(Status, Ended),
    /// By the user, who wants to know no more than that; the call itself may have ended before.
    Interrupted(i32, Option<Ended>),
    Failed(anyhow::Error),
}

/// `coffer run`
pub(crate) async fn run(context: &Context, mut args: RunArgs) -> anyhow::Result<Status> {
    // What the user gave is looked at before anything is made of it; what is wrong with it is no failure of Coffer.
    let places = Places::prepare(args.input.take(), args.output.take())?;
    let mut summary = Summary { status: 0, session: None, command: None, error: None, verdict: None };
    let status = match carry_out(context, args, &places, &mut summary).await {
        Ok(status) => status,
        Err(error) => {
            context.output.note(causes(&error));
            summary.error = Some(causes(&error));
            Status::COFFER_FAILED
        }
    };
    summary.status = status.0;
    if context.output.form == Form::Json {
        summarise(&summary);
    }
    Ok(status)
}

async fn carry_out(context: &Context, args: RunArgs, places: &Places, summary: &mut Summary) -> anyhow::Result<Status> {
    let selection = if args.all { Selection::All } else { Selection::NotIgnored };
    let interrupts = Interrupts::install()?;
    let client = tokio::select! {
        client = context.client_patiently() => client?,
        // Nothing was made yet.
        signal = interrupts.first() => return Ok(Status::of_signal(signal)),
    };
    let created = tokio::select! {
        created = args.wanted.create(context, &client) => created?,
        // Whether one was made is not known: the first signal waits for that.
        signal = interrupts.second() => return Ok(Status::of_signal(signal)),
    };
    summary.session = Some(created.id.to_string());
    context.output.note(format_args!("session {}", created.id));

    let job = Job { context, client: &client, created: &created, places, interrupts: &interrupts };
    let work = job.work(args.program, selection).await;
    let interrupted = matches!(work, Work::Interrupted(..));
    let status = match work {
        Work::Done(status, ended) => {
            summary.command = Some(ended);
            status
        }
        Work::Interrupted(signal, ended) => {
            summary.command = ended;
            Status::of_signal(signal)
        }
        // Whoever read our output left: no failure of Coffer's, and nobody to tell.
        Work::Failed(error) if is_closed_output(&error) => status_of(&error),
        Work::Failed(error) => {
            context.output.note(causes(&error));
            summary.error = Some(causes(&error));
            Status::COFFER_FAILED
        }
    };
    let ending = tokio::select! {
        ending = ending::end(context, &client, &created, places) => ending,
        signal = interrupts.second() => {
            context.output.note(format_args!("left session {} for cofferd to close: its evidence was not fetched", created.id));
            return Ok(Status::of_signal(signal));
        }
    };
    let ending = ending.context("the evidence of what was done cannot be shown");
    let accepted = ending.as_ref().is_ok_and(|report| report.exit_code() == 0);
    match ending {
        Ok(report) => summary.verdict = Some(report),
        // A session that was interrupted early has none.
        Err(error) if interrupted => context.output.note(causes(&error)),
        Err(error) => return Err(error),
    }
    // An interrupt says nothing about the command, so there is nothing that evidence would have to bear out.
    if accepted || interrupted { Ok(status) } else { Ok(Status::COFFER_FAILED) }
}

/// The part between Ready and the end.
struct Job<'a> {
    context: &'a Context,
    client: &'a Client,
    created: &'a Created,
    places: &'a Places,
    interrupts: &'a Interrupts,
}

impl Job<'_> {
    /// Everything that a signal ends early. The call itself is ended by its own cancellation, so that its outcome is seen.
    async fn work(&self, program: Program, selection: Selection) -> Work {
        let before = async {
            self.created.ready(self.context, self.client).await?;
            self.upload(selection).await
        };
        let before = tokio::select! {
            result = before => result,
            signal = self.interrupts.first() => return Work::Interrupted(signal, None),
        };
        if let Err(error) = before {
            return Work::Failed(error);
        }
        let id = &self.created.id;
        let executed = execute(self.context, self.client, id, program, self.interrupts).await;
        let (status, ended) = match (executed, self.interrupts.seen()) {
            (Ok(done), None) => done,
            (Ok((_, ended)), Some(signal)) => return Work::Interrupted(signal, Some(ended)),
            (Err(error), None) => return Work::Failed(error),
            (Err(error), Some(signal)) => {
                self.context.output.note(causes(&error));
                return Work::Interrupted(signal, None);
            }
        };
        tokio::select! {
            result = self.fetch(id) => match result {
                Ok(()) => Work::Done(status, ended),
                Err(error) => Work::Failed(error),
            },
            signal = self.interrupts.first() => Work::Interrupted(signal, Some(ended)),
        }
    }

    async fn upload(&self, selection: Selection) -> anyhow::Result<()> {
        let Some(input) = &self.places.input else { return Ok(()) };
        let output = &self.context.output;
        let uploaded = self.client.upload(&self.created.id, input, "", selection, output.moving("up")).await;
        output.done();
        tell_upload(output, &uploaded.with_context(|| format!("upload {}", input.display()))?);
        Ok(())
    }

    async fn fetch(&self, id: &SessionId) -> anyhow::Result<()> {
        let Some(workspace) = self.places.workspace() else { return Ok(()) };
        let output = &self.context.output;
        let downloaded = self.client.download(id, "", &workspace, output.moving("down")).await;
        output.done();
        tell_download(output, &downloaded.context("fetch the workspace")?);
        Ok(())
    }
}
