//! `coffer session cp`: which side is the session, and what is told afterwards.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use clap::Args;
use coffer_client::calls::{Downloaded, Uploaded};
use coffer_client::tree::{SPECIAL_NAMED_MAX, Selection};
use coffer_evidence::ids::SessionId;
use serde::Serialize;

use super::exec::workspace_path;
use super::files::Acting;
use crate::command::Context;
use crate::exit::{Status, USAGE, failure};
use crate::output::{Form, Output, printable};

pub(super) const COPY_HELP: &str = "\
One side is local, the other ID:PATH, with PATH relative to /workspace. A directory becomes the directory that is named; a \
file becomes the file that is named, or goes into it where it is a directory.

At the top of a git work tree, what git ignores is left out; .git itself goes along. --all takes everything.
What comes out of a session is not trusted: an archive that would leave the target is refused, links that lead out of it \
are left out and told. Pipes, sockets and devices are not copied, and told: those of a local tree by name, those of a \
session by number.";

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// From: a path, or ID:PATH
    #[arg(value_name = "SRC")]
    from: Place,
    /// To: a path, or ID:PATH
    #[arg(value_name = "DST")]
    to: Place,
    #[command(flatten)]
    acting: Acting,
    /// Also what git ignores
    #[arg(long)]
    all: bool,
    /// Nothing more: a directory is copied with all that is in it, with or without this
    #[arg(short, long)]
    recursive: bool,
}

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Local(PathBuf),
    Session(SessionId, String),
}

impl FromStr for Place {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once(':').map(|(id, path)| (SessionId::from_str(id), path)) {
            Some((Ok(id), path)) => Self::Session(id, workspace_path(path).to_owned()),
            // A colon in a local name is none of our business.
            _ => Self::Local(text.into()),
        })
    }
}

#[derive(Serialize)]
struct Copied {
    files: u64,
    bytes: u64,
    /// Up: how many git ignores, and pipes, sockets and devices. Down: how many links lead out of
    /// the target, and pipes, sockets and devices.
    left_out: u64,
}

/// `coffer session cp`
pub(super) async fn copy(context: &Context, args: CopyArgs) -> anyhow::Result<Status> {
    let output = &context.output;
    // Said for habit's sake.
    let _ = args.recursive;
    let copied = match (args.from, args.to) {
        (Place::Local(local), Place::Session(id, remote)) => {
            let selection = if args.all { Selection::All } else { Selection::NotIgnored };
            let client = args.acting.client(context).await?;
            let uploaded = client.upload(&id, &local, &remote, selection, output.moving("up")).await;
            output.done();
            let uploaded = uploaded.with_context(|| format!("copy {} to {id}:{remote}", local.display()))?;
            tell_upload(output, &uploaded);
            let packed = &uploaded.packed;
            Copied {
                files: packed.files,
                bytes: uploaded.response.bytes,
                left_out: packed.left_out.saturating_add(packed.special),
            }
        }
        (Place::Session(id, remote), Place::Local(local)) => {
            let client = args.acting.client(context).await?;
            let downloaded = client.download(&id, &remote, &local, output.moving("down")).await;
            output.done();
            let downloaded = downloaded.with_context(|| format!("copy {id}:{remote} to {}", local.display()))?;
            tell_download(output, &downloaded);
            Copied {
                files: downloaded.unpacked.files,
                bytes: downloaded.bytes,
                left_out: downloaded.special.saturating_add(downloaded.unpacked.left_out.len() as u64),
            }
        }
        _ => {
            let message = "expected a local path on one side and ID:PATH, with the id of a session, on the other";
            return Err(failure(USAGE, message));
        }
    };
    if output.form == Form::Json {
        output.json(&copied)?;
    }
    Ok(Status::DONE)
}

/// Says what did not go along.
pub(crate) fn tell_upload(output: &Output, uploaded: &Uploaded) {
    let left_out = uploaded.packed.left_out;
    if left_out > 0 {
        let files = uploaded.packed.files;
        output.note(format_args!(
            "uploaded {files} files; left out {left_out} that git ignores (--all takes them along)"
        ));
    }
    for path in &uploaded.packed.special_named {
        let name = printable(&path.to_string_lossy());
        output.note(format_args!("left out {name}: a pipe, a socket or a device"));
    }
    let more = uploaded.packed.special.saturating_sub(SPECIAL_NAMED_MAX as u64);
    if more > 0 {
        output.note(format_args!("left out {more} more of them"));
    }
}

/// Says what did not come along.
pub(crate) fn tell_download(output: &Output, downloaded: &Downloaded) {
    const SHOWN: usize = 10;
    let links = &downloaded.unpacked.left_out;
    for link in links.iter().take(SHOWN) {
        let name = printable(&link.to_string_lossy());
        output.note(format_args!("left out {name}: a link that leads out of the target"));
    }
    if links.len() > SHOWN {
        output.note(format_args!("left out {} more of them", links.len() - SHOWN));
    }
    if downloaded.special > 0 {
        output.note(format_args!("left out {} entries that are pipes, sockets or devices", downloaded.special));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_a_session_only_with_a_whole_id() {
        let id = "01234567-89ab-4cde-8f01-23456789abcd";
        let session = |path: &str| Place::Session(id.parse().expect("an id"), path.to_owned());
        let parse = |text: &str| text.parse::<Place>().expect("anything is a place");
        assert_eq!(parse(&format!("{id}:repo")), session("repo"));
        assert_eq!(parse(&format!("{id}:")), session(""));
        assert_eq!(parse(&format!("{id}:/workspace/a:b")), session("a:b"));
        assert_eq!(parse("a:b"), Place::Local("a:b".into()));
        assert_eq!(parse(id), Place::Local(id.into()));
    }
}
