//! `coffer session ls`, `stat`, `rm`, `mv`, `mkdir`, and `watch` with a path: a look into the files of a session, and small repairs.
//! Each is a call like any other and stands in the action log.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use coffer_client::Client;
use coffer_client::calls::{Above, Reach, Taken};
use coffer_evidence::ids::SessionId;
use coffer_proto::guest::v1 as guest;
use guest::watch_response::Response as News;
use guest::{ChangeKind, WatchEnd};
use serde::Serialize;
use tokio_stream::StreamExt as _;

use super::exec::workspace_path;
use super::listed::{EntryShown, long_line, name};
use crate::command::Context;
use crate::exit::Status;
use crate::output::{Form, printable};
use crate::time::parse_duration;

/// As whom.
#[derive(Debug, Args)]
pub(crate) struct Acting {
    /// As which identity of the session [default: default]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    identity: String,
}

impl Acting {
    pub(super) async fn client(&self, context: &Context) -> anyhow::Result<Client> {
        Ok(context.client().await?.acting_as(&self.identity))
    }
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// The session
    id: SessionId,
    #[command(flatten)]
    acting: Acting,
    /// A directory, relative to /workspace
    #[arg(default_value = "", hide_default_value = true)]
    path: String,
    /// One line each: kind and permissions, bytes, last change, name
    #[arg(short)]
    long: bool,
    /// Also what is beneath it: 1 is its own entries, 64 the most
    #[arg(short, long, default_value_t = 1, value_name = "LEVELS", value_parser = clap::value_parser!(u32).range(1..=64))]
    depth: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Paths {
    /// The session
    id: SessionId,
    #[command(flatten)]
    acting: Acting,
    /// Relative to /workspace
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    paths: Paths,
    /// Also directories, with all that is in them
    #[arg(short, long)]
    recursive: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MvArgs {
    /// The session
    id: SessionId,
    #[command(flatten)]
    acting: Acting,
    /// What is moved, relative to /workspace
    from: String,
    /// Its whole new path
    to: String,
    /// Replace what has the new name
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MkdirArgs {
    #[command(flatten)]
    paths: Paths,
    /// Also the directories above it that are missing; one that is there is as good as made
    #[arg(short, long)]
    parents: bool,
}

/// With a path.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Also in the directories beneath the path
    #[arg(short, long, requires = "path")]
    recursive: bool,
    /// How long to watch the path [default: 10m]
    #[arg(long, requires = "path", value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// As which identity of the session [default: default]
    #[arg(long, requires = "path", value_name = "NAME")]
    identity: Option<String>,
}

#[derive(Serialize)]
struct ListShown {
    entries: Vec<EntryShown>,
    unreadable: u64,
}

/// `coffer session ls`
pub(super) async fn list(context: &Context, args: &LsArgs) -> anyhow::Result<Status> {
    let path = workspace_path(&args.path);
    let listed = args.acting.client(context).await?.list_directory(&args.id, path, args.depth).await?;
    let output = &context.output;
    match output.form {
        Form::Json => {
            let entries = listed.entries.iter().map(EntryShown::new).collect();
            output.json(&ListShown { entries, unreadable: listed.unreadable })?;
        }
        Form::People => {
            let mut stream = output.stream();
            for entry in &listed.entries {
                let line = if args.long { long_line(entry) } else { name(&entry.name) };
                stream.push(&format!("{line}\n"))?;
            }
            stream.end()?;
            if listed.unreadable > 0 {
                output.note(format_args!(
                    "directories that may not be read: {}; what is in them is not listed",
                    listed.unreadable
                ));
            }
        }
    }
    Ok(Status::DONE)
}

/// `coffer session stat`
pub(super) async fn stat(context: &Context, args: &Paths) -> anyhow::Result<Status> {
    let client = args.acting.client(context).await?;
    let mut status = Status::DONE;
    for path in &args.paths {
        match client.stat(&args.id, workspace_path(path)).await.with_context(|| about(path))? {
            None => {
                context.output.note(format_args!("nothing is at {}", printable(path)));
                status = Status::FAILED;
            }
            Some(entry) => match context.output.form {
                Form::Json => context.output.json(&EntryShown::new(&entry))?,
                Form::People => context.output.line(long_line(&entry))?,
            },
        }
    }
    Ok(status)
}

#[derive(Serialize)]
struct Removed {
    removed: u64,
}

/// `coffer session rm`
pub(super) async fn remove(context: &Context, args: &RmArgs) -> anyhow::Result<Status> {
    let reach = if args.recursive { Reach::Tree } else { Reach::One };
    let client = args.paths.acting.client(context).await?;
    let mut removed = 0_u64;
    for path in &args.paths.paths {
        let more = client.remove(&args.paths.id, workspace_path(path), reach).await;
        removed = removed.saturating_add(more.with_context(|| about(path))?);
    }
    match context.output.form {
        Form::Json => context.output.json(&Removed { removed })?,
        Form::People => context.output.note(format_args!("removed {removed}")),
    }
    Ok(Status::DONE)
}

/// `coffer session mv`
pub(super) async fn rename(context: &Context, args: &MvArgs) -> anyhow::Result<Status> {
    let taken = if args.force { Taken::Replace } else { Taken::Refuse };
    let (from, to) = (workspace_path(&args.from), workspace_path(&args.to));
    let moved = args.acting.client(context).await?.rename(&args.id, from, to, taken).await;
    moved.with_context(|| format!("{} -> {}", printable(&args.from), printable(&args.to)))?;
    Ok(Status::DONE)
}

#[derive(Serialize)]
struct Made {
    made: u64,
}

/// `coffer session mkdir`
pub(super) async fn make(context: &Context, args: &MkdirArgs) -> anyhow::Result<Status> {
    let above = if args.parents { Above::Made } else { Above::Expected };
    let client = args.paths.acting.client(context).await?;
    let mut made = 0_u64;
    for path in &args.paths.paths {
        let more = client.make_directory(&args.paths.id, workspace_path(path), 0, above).await;
        made = made.saturating_add(more.with_context(|| about(path))?);
    }
    if context.output.form == Form::Json {
        context.output.json(&Made { made })?;
    }
    Ok(Status::DONE)
}

/// A line of a watch.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum NewsShown {
    Change {
        kind: &'static str,
        path: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        moved_from: String,
        directory: bool,
    },
    Lagged {},
    Ended {
        end: &'static str,
        changes: u64,
    },
}

/// `coffer session watch ID PATH`
pub(super) async fn watch(context: &Context, id: &SessionId, path: &str, args: &WatchArgs) -> anyhow::Result<Status> {
    let reach = if args.recursive { Reach::Tree } else { Reach::One };
    let client = context.client().await?.acting_as(args.identity.as_deref().unwrap_or_default());
    let mut news = client.watch_directory(id, workspace_path(path), reach, args.timeout).await?;
    let output = &context.output;
    while let Some(item) = news.next().await {
        match (item?, output.form) {
            (News::Started(_), _) => output.note("watching"),
            (News::Change(change), Form::Json) => output.json(&change_shown(&change))?,
            (News::Change(change), Form::People) => output.line(change_line(&change))?,
            (News::Lagged(_), Form::Json) => output.json(&NewsShown::Lagged {})?,
            (News::Lagged(_), Form::People) => output.note("changes were missed: there were too many at once"),
            (News::Ended(ended), form) => {
                let end = end_word(ended.end());
                if form == Form::Json {
                    output.json(&NewsShown::Ended { end, changes: ended.changes })?;
                } else {
                    output.note(format_args!("changes told: {}; ended: {end}", ended.changes));
                }
                return Ok(Status::DONE);
            }
        }
    }
    anyhow::bail!("expected the watch to say how it ended, found the end of its stream")
}

fn change_word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Unspecified => "unknown",
        ChangeKind::Created => "created",
        ChangeKind::Modified => "modified",
        ChangeKind::Deleted => "deleted",
        ChangeKind::Moved => "moved",
    }
}

fn end_word(end: WatchEnd) -> &'static str {
    match end {
        WatchEnd::Unspecified => "unknown",
        WatchEnd::Timeout => "timeout",
        WatchEnd::Idle => "idle",
        WatchEnd::Gone => "gone",
    }
}

fn change_shown(change: &guest::Change) -> NewsShown {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    NewsShown::Change {
        kind: change_word(change.kind()),
        path: text(&change.path),
        moved_from: text(&change.moved_from),
        directory: change.directory,
    }
}

/// `moved     a -> b/`
fn change_line(change: &guest::Change) -> String {
    let slash = if change.directory { "/" } else { "" };
    let from = match change.kind() {
        ChangeKind::Moved => format!("{}{slash} -> ", name(&change.moved_from)),
        _ => String::new(),
    };
    format!("{:<9} {from}{}{slash}", change_word(change.kind()), name(&change.path))
}

fn about(path: &str) -> String {
    printable(path)
}
