//! `coffer session git`: git in a session, as its identity. Commits are signed by the session's git key; `coffer evidence
//! verify-commit` shows of one in which session it was made.

use std::io::IsTerminal as _;

use clap::{Args, Subcommand};
use coffer_client::ClientError;
use coffer_client::calls::{BranchChange, GitOperation};
use coffer_evidence::ids::SessionId;
use coffer_proto::guest::v1 as guest;
use serde::Serialize;

use super::exec::workspace_path;
use crate::command::Context;
use crate::exit::{Status, USAGE, failure};
use crate::output::{Form, Output, printable};

pub(super) const GIT_HELP: &str = "\
Each is a call in the action log, under the policy's git actions, and runs in the session. Commits are signed by a key that \
exists only in it: `coffer evidence verify-commit` shows that for one. Hooks of the repository are not run. Remotes are \
paths of the session, and the default policy permits none: a policy names them (docs/policy.md). Anything else that git does is there with `coffer session exec SESSION -- git ...`, unsigned.

Exit status: 0 done; 1 git did not do it, and says why; 64 usage; 69 no session; 77 the policy does not allow it.
With --json one value at the end holds git's output.";

#[derive(Debug, Args)]
pub(crate) struct GitArgs {
    /// The session
    id: SessionId,
    /// The repository: the top of its work tree, relative to /workspace
    #[arg(short = 'C', long, default_value = "", hide_default_value = true, value_name = "PATH")]
    repository: String,
    #[command(subcommand)]
    operation: Operation,
}

#[derive(Debug, Subcommand)]
enum Operation {
    /// Show what has changed, one path a line
    Status,
    /// Show differences
    Diff {
        /// Of what is staged
        #[arg(long, visible_alias = "cached")]
        staged: bool,
        /// Compared with this commit, or between two (A..B)
        #[arg(long, value_name = "REVISION")]
        to: Option<String>,
        /// Only these, relative to the repository
        #[arg(value_name = "PATH")]
        paths: Vec<String>,
    },
    /// Show history
    Log {
        /// At most so many commits
        #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// From here [default: HEAD]
        #[arg(long, value_name = "REVISION")]
        from: Option<String>,
        /// Only of these, relative to the repository
        #[arg(value_name = "PATH")]
        paths: Vec<String>,
    },
    /// Stage paths as they are, removed ones included
    Add {
        /// Relative to the repository; `.` is all
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<String>,
    },
    /// Commit what is staged, signed by the session's git key; prints the commit's id
    Commit {
        /// What the commit says
        #[arg(short, long, value_name = "TEXT")]
        message: String,
        /// Author and committer
        #[arg(long, value_name = "NAME <EMAIL>", value_parser = parse_author)]
        author: (String, String),
    },
    /// List branches, make one, switch to one, or remove one that is merged
    Branch {
        /// Make this branch
        name: Option<String>,
        /// Where it begins [default: HEAD]
        #[arg(requires = "name", value_name = "REVISION")]
        at: Option<String>,
        /// Work on this branch from now on
        #[arg(short, long, value_name = "NAME", conflicts_with_all = ["name", "delete"])]
        switch: Option<String>,
        /// Remove this branch
        #[arg(short, long, value_name = "NAME", conflicts_with = "name")]
        delete: Option<String>,
    },
    /// Fetch from another repository of the session into FETCH_HEAD
    Fetch {
        /// Its path, relative to /workspace
        remote: String,
        /// This branch [default: its HEAD]
        branch: Option<String>,
    },
    /// Push a branch to the same branch of another repository of the session, without force
    Push {
        /// Its path, relative to /workspace
        remote: String,
        /// The branch
        branch: String,
    },
}

fn parse_author(text: &str) -> Result<(String, String), String> {
    let parts = text.strip_suffix('>').and_then(|text| text.split_once('<'));
    match parts {
        Some((name, email)) if !name.trim().is_empty() && !email.is_empty() => {
            Ok((name.trim().to_owned(), email.to_owned()))
        }
        _ => Err("expected NAME <EMAIL>, like `Ada Lovelace <ada@example.org>`".to_owned()),
    }
}

impl Operation {
    fn request(&self) -> GitOperation {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        match self {
            Self::Status => GitOperation::Status(guest::GitStatus {}),
            Self::Diff { staged, to, paths } => {
                GitOperation::Diff(guest::GitDiff { staged: *staged, revision: text(to), paths: paths.clone() })
            }
            Self::Log { count, from, paths } => GitOperation::Log(guest::GitLog {
                revision: text(from),
                count: count.unwrap_or(0),
                paths: paths.clone(),
            }),
            Self::Add { paths } => GitOperation::Add(guest::GitAdd { paths: paths.clone() }),
            Self::Commit { message, author: (name, email) } => GitOperation::Commit(guest::GitCommit {
                message: message.clone(),
                author_name: name.clone(),
                author_email: email.clone(),
            }),
            Self::Branch { name, at, switch, delete } => {
                let create = |name: &String| {
                    BranchChange::Create(guest::GitBranchCreate { name: name.clone(), revision: text(at) })
                };
                let change = name.as_ref().map(create);
                let change = change.or_else(|| switch.clone().map(BranchChange::Switch));
                let change = change.or_else(|| delete.clone().map(BranchChange::Delete));
                GitOperation::Branch(guest::GitBranch { change })
            }
            Self::Fetch { remote, branch } => {
                GitOperation::Fetch(guest::GitFetch { remote: workspace_path(remote).to_owned(), branch: text(branch) })
            }
            Self::Push { remote, branch } => {
                GitOperation::Push(guest::GitPush { remote: workspace_path(remote).to_owned(), branch: branch.clone() })
            }
        }
    }
}

/// What git did, for machines.
#[derive(Serialize)]
struct Done {
    #[serde(skip_serializing_if = "String::is_empty")]
    commit: String,
    output: String,
    /// Bytes of output that the guest did not deliver.
    left_out: u64,
    said: String,
    intent_index: u64,
    outcome_index: u64,
}

/// `coffer session git`
pub(super) async fn git(context: &Context, args: &GitArgs) -> anyhow::Result<Status> {
    if args.repository.contains('\0') {
        return Err(failure(USAGE, "expected the path of a repository without NUL".to_owned()));
    }
    let client = context.client().await?;
    let output = &context.output;
    let reader = if std::io::stdout().is_terminal() { Reader::Terminal } else { Reader::Program };
    let (mut kept, mut unwritten) = (Vec::new(), None);
    let deliver = |chunk: &[u8]| -> Result<(), ClientError> {
        match output.form {
            Form::Json => kept.extend_from_slice(chunk),
            Form::People => {
                // One that cannot be written ends the output, and not the call: what git did is told all the same.
                if unwritten.is_none() {
                    unwritten = written(output, chunk, reader).err();
                }
            }
        }
        Ok(())
    };
    let path = workspace_path(&args.repository);
    let trailer = client.git(&args.id, path, args.operation.request(), deliver).await?;
    if let Some(error) = unwritten {
        return Err(error);
    }
    let said = String::from_utf8_lossy(&trailer.said);
    let left_out = trailer.output.as_ref().map_or(0, |all| all.bytes_total.saturating_sub(all.bytes_delivered));
    match output.form {
        Form::Json => output.json(&Done {
            commit: trailer.commit,
            output: String::from_utf8_lossy(&kept).into_owned(),
            left_out,
            said: said.into_owned(),
            intent_index: trailer.intent_index,
            outcome_index: trailer.outcome_index,
        })?,
        Form::People => {
            for line in said.lines() {
                output.note(printable(line));
            }
            if left_out > 0 {
                output.note(format_args!("{left_out} bytes of output were left out: name paths or fewer commits"));
            }
        }
    }
    Ok(Status::DONE)
}

/// Who reads standard output.
#[derive(Clone, Copy)]
enum Reader {
    /// It would obey control characters, which a repository may hold in any text.
    Terminal,
    /// It gets the bytes as they are.
    Program,
}

fn written(output: &Output, chunk: &[u8], reader: Reader) -> anyhow::Result<()> {
    let obeyed = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\t');
    match reader {
        Reader::Program => output.bytes(chunk),
        Reader::Terminal => {
            let shown: Vec<u8> = chunk.iter().map(|byte| if obeyed(byte) { b'?' } else { *byte }).collect();
            output.bytes(&shown)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_author_is_a_name_and_an_address() {
        let author = parse_author("Ada Lovelace <ada@example.org>");
        assert_eq!(author, Ok(("Ada Lovelace".to_owned(), "ada@example.org".to_owned())));
        for text in ["", "Ada", "<ada@example.org>", "Ada <>", "Ada <a", "Ada a>"] {
            assert!(parse_author(text).is_err(), "{text}");
        }
    }
}
