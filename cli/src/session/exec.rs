//! `coffer session exec` and `coffer session attach`, and the call that `coffer run` makes, too.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use coffer_client::Client;
use coffer_client::calls::{Command, Exec};
use coffer_evidence::ids::{CallId, SessionId};
use coffer_proto::guest::v1::{Exited, Offsets};
use serde::Serialize;

use super::carried::{Console, Left, OnSignal, Way};
use super::tickets::Ticket;
use crate::command::Context;
use crate::exit::{Asked, Status, USAGE, causes, failure, is_closed_output, status_of};
use crate::output::Form;
use crate::signals::Interrupts;
use crate::stdin::Input;
use crate::terminal;
use crate::time::parse_duration;

pub(super) const EXIT_HELP: &str = "\
Input is passed on until it ends, output as it comes. SIGINT, SIGTERM and SIGHUP go to the command; a second signal within \
2 seconds cancels the call, one after that leaves at once. A connection to cofferd that is lost is made again for a minute, \
and goes on where it was; the call runs on meanwhile (--reattach). With -t the command has a terminal, every key goes to \
it, and SIGHUP leaves the call running: `coffer session attach SESSION --call ID` comes back to it.

Exit status: the command's; 128+n when signal n ended it; 124 its time was up; 125 Coffer failed, or nobody knows how the \
command ended (OUTCOME_UNKNOWN); 126 it could not be executed; 127 it was not found; 130 interrupted (143 by SIGTERM).
With --json a summary is the last line on stderr: stdout is the command's.";

pub(super) const ATTACH_HELP: &str = "\
The command is a call like any other, in the action log with all that it was asked to do. Every key goes to it; when \
the terminal here is closed it runs on for the time of --reattach, and --call comes back to it. Whoever attaches to a call \
takes over from whoever was there.

Exit status: as for `coffer session exec`.";

/// How long an attached terminal may be used when nobody says: as long as any call may.
const ATTACHED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// How long the call runs on when the connection is lost [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    reattach: Option<Duration>,
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
    /// Give the command a terminal, of the size of the one here
    #[arg(long = "tty", short = 't', conflicts_with = "no_stdin")]
    tty: bool,
    /// As which identity of the session [default: default]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    identity: String,
    #[command(flatten)]
    program: Program,
}

#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// The session
    id: SessionId,
    /// Re-attach to this call, which this user started
    #[arg(long, value_name = "ID", conflicts_with_all = ["identity", "cwd", "env", "timeout", "reattach", "argv"])]
    call: Option<CallId>,
    /// As which identity of the session [default: default]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    identity: String,
    /// Working directory below /workspace
    #[arg(long, default_value = "", hide_default_value = true, value_name = "DIR")]
    cwd: String,
    /// Add to the environment; may be repeated
    #[arg(long = "env", short = 'e', value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// How long the command may run [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// How long it runs on without a terminal here [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    reattach: Option<Duration>,
    /// The command and its arguments [default: bash -l]
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    argv: Vec<String>,
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
    /// The call id.
    call: String,
    /// `exited`, `signalled` and so on.
    cause: String,
    code: i32,
    signal: i32,
    outcome_index: u64,
    wall_ms: i64,
}

impl Ended {
    pub(super) fn new(status: Status, exited: &Exited, call: String) -> Self {
        let cause = exited.cause().as_str_name().trim_start_matches("EXIT_CAUSE_").to_lowercase();
        Self {
            status: status.0,
            call,
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
    let (input, asked, command) = program.take(Console::Streams, String::new());
    let mut exec = Exec::new(client, id, command)?;
    let (on_signal, console) = (OnSignal::Cancel, Console::Streams);
    let way = Way { context, session: id, interrupts, on_signal, console, input, asked, ticket: None };
    way.carry(&mut exec).await
}

impl Program {
    fn take(self, console: Console, identity: String) -> (Input, Asked, Command) {
        let input = if self.no_stdin { Input::Empty } else { Input::Passed };
        let asked = Asked { program: self.argv.first().cloned().unwrap_or_default(), cwd: self.cwd.clone() };
        let mut env = HashMap::from_iter(self.env);
        if console == Console::Terminal
            && let Some(name) = std::env::var("TERM").ok().filter(|name| !name.is_empty())
        {
            env.entry("TERM".to_owned()).or_insert(name);
        }
        let command = Command {
            identity,
            argv: self.argv,
            cwd: workspace_path(&self.cwd).to_owned(),
            env,
            timeout: self.timeout,
            reattach: self.reattach,
            terminal: (console == Console::Terminal).then(terminal::size),
        };
        (input, asked, command)
    }
}

/// Paths are relative to /workspace, which people also write out.
pub(crate) fn workspace_path(path: &str) -> &str {
    match path.strip_prefix("/workspace") {
        Some("") => "",
        Some(rest) if rest.starts_with('/') => rest.trim_start_matches('/'),
        _ => path,
    }
}

/// `coffer session exec`.
pub(super) async fn exec(context: &Context, args: ExecArgs) -> anyhow::Result<Status> {
    let console = if args.tty { Console::Terminal } else { Console::Streams };
    start(context, &args.id, args.program, args.identity, console).await
}

/// `coffer session attach`.
pub(super) async fn attach(context: &Context, args: AttachArgs) -> anyhow::Result<Status> {
    let AttachArgs { id, call, identity, cwd, env, timeout, reattach, mut argv } = args;
    if let Some(call) = call {
        return reattach_to(context, &id, &call).await;
    }
    if !std::io::stdin().is_terminal() {
        let text = "expected a terminal on standard input to attach with, found something else; \
                    use `coffer session exec` for input from elsewhere";
        return Err(failure(USAGE, text));
    }
    if argv.is_empty() {
        argv = ["bash", "-l"].map(str::to_owned).to_vec();
    }
    let timeout = Some(timeout.unwrap_or(ATTACHED_FOR));
    let program = Program { cwd, env, timeout, reattach, no_stdin: false, argv };
    start(context, &id, program, identity, Console::Terminal).await
}

async fn start(
    context: &Context,
    id: &SessionId,
    program: Program,
    identity: String,
    console: Console,
) -> anyhow::Result<Status> {
    let interrupts = Interrupts::install()?;
    let call = async {
        let client = context.client().await?;
        let (input, asked, command) = program.take(console, identity);
        let mut exec = Exec::new(&client, id, command)?;
        let ticket = match Ticket::keep(id, &exec) {
            Ok(ticket) => Some(ticket),
            Err(error) => {
                context.output.note(format_args!("the call cannot be come back to from elsewhere: {}", causes(&error)));
                None
            }
        };
        let on_signal = OnSignal::PassOn;
        let way = Way { context, session: id, interrupts: &interrupts, on_signal, console, input, asked, ticket };
        way.carry(&mut exec).await
    };
    finish(context, &interrupts, call.await)
}

async fn reattach_to(context: &Context, id: &SessionId, call: &CallId) -> anyhow::Result<Status> {
    let interrupts = Interrupts::install()?;
    let (ticket, bytes) = Ticket::find(id, call)?;
    let call = async {
        let client = context.client().await?;
        let mut exec = Exec::resume(&client, id, &bytes, Offsets::default())?;
        let console = if exec.has_terminal() { Console::Terminal } else { Console::Streams };
        let (asked, on_signal, input) = (Asked::default(), OnSignal::PassOn, Input::Passed);
        let ticket = Some(ticket);
        let way = Way { context, session: id, interrupts: &interrupts, on_signal, console, input, asked, ticket };
        way.carry(&mut exec).await
    };
    finish(context, &interrupts, call.await)
}

/// Whatever fails is Coffer's failure: the status says so, and is never one of the command's.
fn finish(
    context: &Context,
    interrupts: &Interrupts,
    result: anyhow::Result<(Status, Ended)>,
) -> anyhow::Result<Status> {
    match result {
        Ok((status, ended)) => {
            if context.output.form == Form::Json {
                summarise(&ended);
            }
            Ok(status)
        }
        Err(error) if is_closed_output(&error) => Ok(status_of(&error)),
        Err(error) => {
            if let Some(Left(signal)) = error.downcast_ref() {
                return Ok(Status::of_signal(*signal));
            }
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
