//! `coffer session`: the commands on one session after another, and the words for what `cofferd` says about them.

mod carried;
mod cp;
mod exec;
mod files;
mod git;
mod listed;
mod log;
mod shown;
mod tickets;
mod watch;

use clap::{Args, Subcommand, ValueEnum};
use coffer_client::sessions::Which;
use coffer_evidence::ids::SessionId;
use coffer_proto::control::v1::{Outcome, Phase};

use crate::command::Context;
use crate::create::{Wanted, not_ready};
use crate::exit::Status;
use crate::output::{Form, printable};

pub(crate) use cp::{tell_download, tell_upload};
pub(crate) use exec::{Ended, Program, execute, summarise};
pub(crate) use shown::{SessionShown, outcome_word, phase_word, reason_word};
pub(crate) use watch::wait;

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Create a session and print its id when it is ready
    Create(CreateArgs),
    /// Show one session
    Get(One),
    /// List the sessions that are open
    List {
        /// Also those that are closed
        #[arg(long)]
        all: bool,
    },
    /// Show one session, or all, now and at each change; with a path, what changes in that directory of the session
    Watch {
        /// The session; all when left out
        id: Option<SessionId>,
        /// A directory of the session, relative to /workspace
        path: Option<String>,
        #[command(flatten)]
        changes: files::WatchArgs,
    },
    /// Wait until a session is ready or closed (exit 69: it will not be ready)
    Wait {
        /// The session
        id: SessionId,
        /// What to wait for
        #[arg(long = "for", visible_alias = "phase", value_name = "PHASE")]
        phase: WaitFor,
    },
    /// Run a command in a session
    #[command(after_help = exec::EXIT_HELP)]
    Exec(exec::ExecArgs),
    /// Open a terminal in a session, or come back to a call
    #[command(after_help = exec::ATTACH_HELP)]
    Attach(exec::AttachArgs),
    /// Copy files and trees into a session and out of it
    #[command(after_help = cp::COPY_HELP)]
    Cp(cp::CopyArgs),
    /// Show the action log of an open session, with -f as it grows
    #[command(after_help = log::LOG_HELP)]
    Log(log::LogArgs),
    /// List a directory of a session
    Ls(files::LsArgs),
    /// Show what is at paths of a session; links are shown, not followed (exit 1: nothing is there)
    Stat(files::Paths),
    /// Remove files, or with -r trees, of a session; links are removed, not followed
    Rm(files::RmArgs),
    /// Give a file or directory of a session another name
    Mv(files::MvArgs),
    /// Make directories in a session
    Mkdir(files::MkdirArgs),
    /// Use git in a session; its commits are signed by the session
    #[command(after_help = git::GIT_HELP)]
    Git(git::GitArgs),
    /// Close a session, wait until it is closed and say how it ended (exit 0: sealed, 1: not)
    Close {
        #[command(flatten)]
        one: One,
        /// Return as soon as the end has begun
        #[arg(long)]
        no_wait: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// The session
    id: SessionId,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    wanted: Wanted,
    /// Wait until it is ready (the default)
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Return as soon as it is asked for
    #[arg(long)]
    no_wait: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum WaitFor {
    /// Attested, and taking calls
    Ready,
    /// Over
    Closed,
}

/// Does one of them.
pub(crate) async fn carry_out(context: &Context, command: SessionCommand) -> anyhow::Result<Status> {
    match command {
        SessionCommand::Create(args) => create(context, args).await,
        SessionCommand::Get(One { id }) => {
            let session = SessionShown::new(&context.client().await?.get(&id).await?);
            session.tell(&context.output)?;
            Ok(Status::DONE)
        }
        SessionCommand::List { all } => shown::list(context, if all { Which::All } else { Which::Open }).await,
        SessionCommand::Watch { id: Some(id), path: Some(path), changes } => {
            files::watch(context, &id, &path, &changes).await
        }
        SessionCommand::Watch { id, .. } => watch::watch(context, id).await,
        SessionCommand::Wait { id, phase } => wait_for(context, &id, phase).await,
        SessionCommand::Exec(args) => exec::exec(context, args).await,
        SessionCommand::Attach(args) => exec::attach(context, args).await,
        SessionCommand::Cp(args) => cp::copy(context, args).await,
        SessionCommand::Log(args) => log::log(context, &args).await,
        SessionCommand::Ls(args) => files::list(context, &args).await,
        SessionCommand::Stat(args) => files::stat(context, &args).await,
        SessionCommand::Rm(args) => files::remove(context, &args).await,
        SessionCommand::Mv(args) => files::rename(context, &args).await,
        SessionCommand::Mkdir(args) => files::make(context, &args).await,
        SessionCommand::Git(args) => git::git(context, &args).await,
        SessionCommand::Close { one, no_wait } => {
            close(context, &one.id, if no_wait { Until::Begun } else { Until::Closed }).await
        }
    }
}

async fn create(context: &Context, args: CreateArgs) -> anyhow::Result<Status> {
    let client = context.client_patiently().await?;
    let created = args.wanted.create(context, &client).await?;
    let session = if args.no_wait {
        created.session
    } else {
        context.output.progress(format_args!("session {} is asked for", created.id));
        created.ready(context, &client).await?
    };
    match context.output.form {
        Form::Json => context.output.json(&SessionShown::new(&session))?,
        Form::People => context.output.line(created.id)?,
    }
    Ok(Status::DONE)
}

async fn wait_for(context: &Context, id: &SessionId, wanted: WaitFor) -> anyhow::Result<Status> {
    let phase = match wanted {
        WaitFor::Ready => Phase::Ready,
        WaitFor::Closed => Phase::Closed,
    };
    let client = context.client().await?;
    let session = wait(context, &client, id, phase).await?;
    if session.phase() != phase {
        return Err(not_ready(id, &session));
    }
    if context.output.form == Form::Json {
        context.output.json(&SessionShown::new(&session))?;
    }
    Ok(Status::DONE)
}

/// How long `close` waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Begun,
    Closed,
}

async fn close(context: &Context, id: &SessionId, until: Until) -> anyhow::Result<Status> {
    let client = context.client().await?;
    let mut session = client.close(id).await?;
    if until == Until::Closed {
        session = wait(context, &client, id, Phase::Closed).await?;
    }
    let shown = SessionShown::new(&session);
    if context.output.form == Form::Json {
        context.output.json(&shown)?;
    }
    if until == Until::Begun {
        return Ok(Status::DONE);
    }
    for failure in &session.scrub_failures {
        context.output.note(format_args!("the host could not clean up: {}", printable(failure)));
    }
    if session.outcome() == Outcome::Sealed {
        context.output.note(format_args!("session {id} is closed: {}", shown.ending()));
        return Ok(Status::DONE);
    }
    context.output.note(format_args!("session {id} is closed and not sealed: {}", shown.ending()));
    Ok(Status::FAILED)
}
