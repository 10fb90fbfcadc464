//! What a git call asks for: a closed list with typed parts, because git's own arguments would let a caller name programs for it to
//! run (`-c`, `--upload-pack`, `--exec-path`).

use super::commit::Person;
use crate::cbor::Value;
use crate::fields::{Fields, MapBuilder, ParseError};
use crate::numbers::{BranchAction, GitAction, RequestFlag};
use crate::request::TEXT_MAX;

/// What a difference is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The files as they are.
    WorkTree,
    /// What is staged.
    Staged,
}

impl Side {
    /// The flag that says so in a request.
    #[must_use]
    pub fn flag(self) -> Option<RequestFlag> {
        (self == Self::Staged).then_some(RequestFlag::Staged)
    }
}

/// What is done with branches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Branch {
    /// They are listed.
    List,
    /// One is made, at this revision or where HEAD is.
    Create {
        /// Its name.
        name: String,
        /// Where.
        at: Option<String>,
    },
    /// One becomes the one that is worked on.
    Switch {
        /// Its name.
        name: String,
    },
    /// One that is merged is removed.
    Delete {
        /// Its name.
        name: String,
    },
}

/// What a git call asks for. Paths are relative to the repository, revisions and names as the client gave them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GitOrder {
    /// The state of the work tree.
    Status,
    /// Differences, to the index or a revision.
    Diff {
        /// From what.
        side: Side,
        /// To what; without one, to the index, or of what is staged to HEAD.
        revision: Option<String>,
        /// Of these paths; of all without any.
        paths: Vec<String>,
    },
    /// History.
    Log {
        /// From here; without one, from HEAD.
        revision: Option<String>,
        /// At most so many commits.
        count: Option<u64>,
        /// Of these paths; of all without any.
        paths: Vec<String>,
    },
    /// Stage these paths as they are, removed ones included.
    Add {
        /// Which.
        paths: Vec<String>,
    },
    /// Commit what is staged.
    Commit {
        /// What the commit says.
        message: String,
        /// Who wrote it.
        author: Person,
    },
    /// Branches.
    Branch(Branch),
    /// Fetch from a repository.
    Fetch {
        /// Its path.
        remote: String,
        /// This branch; without one, what its HEAD is.
        branch: Option<String>,
    },
    /// Push a branch to a repository, without force.
    Push {
        /// Its path.
        remote: String,
        /// The branch.
        branch: String,
    },
}

impl GitOrder {
    /// Which one.
    #[must_use]
    pub const fn action(&self) -> GitAction {
        match self {
            Self::Status => GitAction::Status,
            Self::Diff { .. } => GitAction::Diff,
            Self::Log { .. } => GitAction::Log,
            Self::Add { .. } => GitAction::Add,
            Self::Commit { .. } => GitAction::Commit,
            Self::Branch(_) => GitAction::Branch,
            Self::Fetch { .. } => GitAction::Fetch,
            Self::Push { .. } => GitAction::Push,
        }
    }

    /// Adds its keys to those of its request.
    pub(crate) fn add(&self, map: MapBuilder) -> MapBuilder {
        let map = map.unsigned(21, self.action().number());
        let text = |text: &Option<String>| text.clone().map(Value::Text);
        match self {
            Self::Status => map,
            Self::Diff { side, revision, paths } => map
                .maybe(17, side.flag().map(|flag| Value::Unsigned(flag.number())))
                .texts(22, paths)
                .maybe(23, text(revision)),
            Self::Log { revision, count, paths } => {
                map.texts(22, paths).maybe(23, text(revision)).maybe(30, count.map(Value::Unsigned))
            }
            Self::Add { paths } => map.texts(22, paths),
            Self::Commit { message, author } => map.text(24, message).text(25, author.name()).text(26, author.email()),
            Self::Branch(Branch::List) => map,
            Self::Branch(Branch::Create { name, at }) => {
                map.maybe(23, text(at)).text(27, name).unsigned(29, BranchAction::Create.number())
            }
            Self::Branch(Branch::Switch { name }) => map.text(27, name).unsigned(29, BranchAction::Switch.number()),
            Self::Branch(Branch::Delete { name }) => map.text(27, name).unsigned(29, BranchAction::Delete.number()),
            Self::Fetch { remote, branch } => map.maybe(27, text(branch)).text(28, remote),
            Self::Push { remote, branch } => map.text(27, branch).text(28, remote),
        }
    }
}

/// Reads what [`GitOrder::add`] added.
pub(crate) fn read_order(f: &mut Fields) -> Result<GitOrder, ParseError> {
    Ok(match f.number(21, GitAction::from_number, "a known git operation")? {
        GitAction::Status => GitOrder::Status,
        GitAction::Diff => {
            let side = match f.optional_unsigned(17)?.map(RequestFlag::from_number) {
                None => Side::WorkTree,
                Some(Some(RequestFlag::Staged)) => Side::Staged,
                Some(_) => return Err(f.error(17, "the flag of its method")),
            };
            GitOrder::Diff { side, paths: f.texts(22)?, revision: f.optional_text(23, TEXT_MAX)? }
        }
        GitAction::Log => GitOrder::Log {
            paths: f.texts(22)?,
            revision: f.optional_text(23, TEXT_MAX)?,
            count: f.optional_unsigned(30)?,
        },
        GitAction::Add => GitOrder::Add { paths: f.texts(22)? },
        GitAction::Commit => {
            let message = f.text(24, TEXT_MAX)?;
            let author = Person::new(f.text(25, TEXT_MAX)?, f.text(26, TEXT_MAX)?);
            GitOrder::Commit { message, author: author.map_err(|_| f.error(25, "a name and an email address"))? }
        }
        GitAction::Branch => GitOrder::Branch(read_branch(f)?),
        GitAction::Fetch => GitOrder::Fetch { branch: f.optional_text(27, TEXT_MAX)?, remote: f.text(28, TEXT_MAX)? },
        GitAction::Push => GitOrder::Push { branch: f.text(27, TEXT_MAX)?, remote: f.text(28, TEXT_MAX)? },
    })
}

fn read_branch(f: &mut Fields) -> Result<Branch, ParseError> {
    let Some(action) = f.optional_unsigned(29)? else { return Ok(Branch::List) };
    let name = f.text(27, TEXT_MAX)?;
    match BranchAction::from_number(action) {
        Some(BranchAction::Create) => Ok(Branch::Create { name, at: f.optional_text(23, TEXT_MAX)? }),
        Some(BranchAction::Switch) => Ok(Branch::Switch { name }),
        Some(BranchAction::Delete) => Ok(Branch::Delete { name }),
        None => Err(f.error(29, "what to do with a branch")),
    }
}
