//! `coffer session exec`, and the call that `coffer run` makes, too: streams, signals, exit status.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use coffer_client::Client;
use coffer_client::calls::{Command, Streams};
use coffer_evidence::ids::SessionId;
use coffer_proto::guest::v1::{ExitCause, Exited};
use serde::Serialize;

use crate::command::Context;
use crate::exit::{Asked, Status, causes, is_closed_output, of_exited, status_of};
use crate::output::Form;
use crate::signals::Interrupts;
use crate::stdin::{Input, Stdin};
use crate::time::parse_duration;

pub(super) const EXIT_HELP: &str = "\
Input is passed on until it ends, output as it comes. SIGINT, SIGTERM and SIGHUP cancel the call; a second one leaves at once.

Exit status: the command's; 128+n when signal n ended it; 124 its time was up; 125 Coffer failed, or nobody knows how the \
command ended (OUTCOME_UNKNOWN); 126 it could not be executed; 127 it was not found; 130 interrupted (143 by SIGTERM).
With --json a summary is the last line on stderr: stdout is the command's.";

/// A program and how it is run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Program {
    /// Working directory below /workspace
    #[arg(long, default_value = "", hide_default_value = true, value_name = "DIR")]
    cwd: String,
    /// Add to the environment; may be repeated
    #[arg(long = "env", short = 'e', value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// How long the command may run [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Do not pass standard input on: the command finds it empty
    #[arg(long, short = 'n')]
    no_stdin: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    argv: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The session
    id: SessionId,
    #[command(flatten)]
    program: Program,
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// How a call ended, for machines.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ended {
    /// The exit status that follows from it.
    pub(crate) status: u8,
    /// `exited`, `signalled` and so on.
    cause: String,
    code: i32,
    signal: i32,
    outcome_index: u64,
    wall_ms: i64,
}

impl Ended {
    fn new(status: Status, exited: &Exited) -> Self {
        let cause = exited.cause().as_str_name().trim_start_matches("EXIT_CAUSE_").to_lowercase();
        Self {
            status: status.0,
            cause,
            code: exited.code,
            signal: exited.signal,
            outcome_index: exited.outcome_index,
            wall_ms: exited.usage.map_or(0, |usage| usage.wall_ms),
        }
    }
}

/// Runs the program with this command's streams. An interrupt cancels it and is its status.
pub(crate) async fn execute(
    context: &Context,
    client: &Client,
    id: &SessionId,
    program: Program,
    interrupts: &Interrupts,
) -> anyhow::Result<(Status, Ended)> {
    let input = if program.no_stdin { Input::Empty } else { Input::Passed };
    let asked = Asked { program: program.argv.first().cloned().unwrap_or_default(), cwd: program.cwd.clone() };
    let command = Command {
        argv: program.argv,
        cwd: workspace_path(&program.cwd).to_owned(),
        env: HashMap::from_iter(program.env),
        timeout: program.timeout,
    };
    context.output.done();
    let streams = Streams {
        stdin: Stdin::open(input),
        stdout: unbuffered(std::io::stdout().as_fd())?,
        stderr: unbuffered(std::io::stderr().as_fd())?,
    };
    let cancelled = async {
        interrupts.first().await;
    };
    let exited = client.exec(id, command, streams, cancelled).await?;
    let (status, told) = of_exited(&exited, &asked);
    let cut = [&exited.stdout, &exited.stderr].into_iter().flatten().any(|s| s.bytes_delivered < s.bytes_total);
    if cut {
        context.output.note("the command wrote more than is delivered: the action log holds the digest of all of it");
    }
    let status = match (interrupts.seen(), exited.cause()) {
        (Some(signal), ExitCause::Cancelled | ExitCause::Signalled) => Status::of_signal(signal),
        _ => {
            if let Some(told) = told {
                context.output.note(told);
            }
            status
        }
    };
    Ok((status, Ended::new(status, &exited)))
}

/// An output without a buffer of ours: what the command wrote is written when it comes.
fn unbuffered(output: BorrowedFd<'_>) -> anyhow::Result<tokio::fs::File> {
    let output = output.try_clone_to_owned().context("expected to duplicate an output of this command")?;
    Ok(tokio::fs::File::from_std(output.into()))
}

/// Paths are relative to /workspace, which people also write out.
pub(crate) fn workspace_path(path: &str) -> &str {
    match path.strip_prefix("/workspace") {
        Some("") => "",
        Some(rest) if rest.starts_with('/') => rest.trim_start_matches('/'),
        _ => path,
    }
}

/// `coffer session exec`. Whatever fails is Coffer's failure: the status says so, and is never one of the command's.
pub(super) async fn exec(context: &Context, args: ExecArgs) -> anyhow::Result<Status> {
    let interrupts = Interrupts::install()?;
    let call = async {
        let client = context.client().await?;
        execute(context, &client, &args.id, args.program, &interrupts).await
    };
    let result = tokio::select! {
        result = call => result,
        signal = interrupts.second() => return Ok(Status::of_signal(signal)),
    };
    match result {
        Ok((status, ended)) => {
            if context.output.form == Form::Json {
                summarise(&ended);
            }
            Ok(status)
        }
        Err(error) if is_closed_output(&error) => Ok(status_of(&error)),
        Err(error) => {
            context.output.note(causes(&error));
            Ok(interrupts.seen().map_or(Status::COFFER_FAILED, Status::of_signal))
        }
    }
}

/// The summary of a command whose stdout is not ours.
pub(crate) fn summarise(value: &impl Serialize) {
    use std::io::Write as _;
    let line = serde_json::to_string(value).unwrap_or_default();
    drop(writeln!(std::io::stderr(), "{line}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_workspace_however_they_are_written() {
        let cases = [
            ("/workspace", ""),
            ("/workspace/a", "a"),
            ("/workspace//a", "a"),
            ("a/b", "a/b"),
            ("/workspaces", "/workspaces"),
            ("/etc", "/etc"),
        ];
        for (given, meant) in cases {
            assert_eq!(workspace_path(given), meant);
        }
    }
}
