//! Git: runs the git of the image on one repository, as the identity and inside of its call. The request comes in its canonical
//! form; every argument of git is made here.
//!
//! The repository is the identity's own, so its configuration is hostile: no hook, pager, editor, file watcher or external diff of it
//! is run, and no transport but that of local paths. What git still runs by it, filters above all, is a process of this call
//! like any other. A commit is made here and not by git, so that nothing that git runs stands between it and its signature.

use super::beneath::{Beneath, Links};
use super::{SAID_MAX, Tell, ToolError, done, told};
use crate::fixed;
use crate::frames::tool::Report;
use coffer_evidence::call::Request;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::git::{ARMOR_MAX, Branch, Commit, GitOrder, ObjectId, Person, Side, SshSignature, Stamp};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

const GIT: &str = "/usr/bin/git";
/// Bytes of names of configuration that are looked at.
const NAMES_MAX: u64 = 1 << 20;
/// Bytes of an answer of git to us: an id.
const ANSWER_MAX: u64 = 4096;

/// What no configuration changes. The command line's own word goes before every file's.
const SETTINGS: [&str; 23] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.pager=cat",
    "core.editor=false",
    "core.askPass=false",
    "core.sshCommand=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.alternateRefsCommand=false",
    "credential.helper=",
    "protocol.allow=never",
    "protocol.file.allow=always",
    "format.pretty=medium",
    "color.ui=false",
    "commit.gpgSign=false",
    "push.gpgSign=false",
    "push.recurseSubmodules=no",
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    "log.showSignature=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
];
/// For the other end of a fetch or push, which git starts by a shell and without our settings.
const FAR: &str = "git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c core.alternateRefsCommand=false -c gc.auto=0 \
                   -c maintenance.auto=false -c receive.autogc=false";
/// What says that something else than a commit is under way.
const UNDER_WAY: [&str; 3] = ["MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"];

/// Does what a request asks for, in the repository at this path.
pub(super) fn git(base: &Beneath, path: &[u8], request: &OsStr, tell: Tell<'_>) -> Result<(), ToolError> {
    let wrong = ToolError::new("arguments", Errno::INVAL);
    let request = hex::decode(request.as_bytes()).ok().and_then(|bytes| Request::parse(&bytes).ok());
    let Some(Request::Git { order, .. }) = request else { return Err(wrong) };
    let remote = match &order {
        // Relative to the workspace, which is where we still are.
        GitOrder::Fetch { remote, .. } | GitOrder::Push { remote, .. } => Some(absolute(remote)?),
        _ => None,
    };
    let directory = base.open(path, OFlags::PATH | OFlags::DIRECTORY, Links::Follow).map_err(ToolError::path)?;
    rustix::process::fchdir(&directory).map_err(ToolError::path)?;
    let here = std::env::current_dir().map_err(|error| ToolError::data(&error))?;
    let repository = Repository { here };
    let words = arguments(&order, remote.as_deref().map_or(OsStr::new(""), Path::as_os_str));
    match (&order, remote) {
        (GitOrder::Commit { message, author }, _) => return repository.commit(message, author, tell),
        (_, Some(remote)) => repository.leaves_alone(&remote)?,
        (_, None) => {}
    }
    repository.run(&words, tell)
}

/// The path of a remote as git gets it: absolute, so that it is no name of one and no address.
fn absolute(remote: &str) -> Result<PathBuf, ToolError> {
    let from = std::env::current_dir().map_err(|error| ToolError::data(&error))?;
    Ok(from.join(remote))
}

/// A repository that is the working directory.
struct Repository {
    here: PathBuf,
}

impl Repository {
    fn command(&self, arguments: &[OsString]) -> Command {
        let mut command = Command::new(GIT);
        command.env_clear().env("PATH", fixed::PATH).env("HOME", "/nonexistent").env("LANG", "C.UTF-8");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_ATTR_NOSYSTEM", "1");
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_OPTIONAL_LOCKS", "0").env("GIT_NO_LAZY_FETCH", "1");
        command.env("GIT_PAGER", "cat").env("GIT_EDITOR", "false").env("GIT_MERGE_AUTOEDIT", "no");
        // The repository is this directory; what is above it was not asked for.
        command.env("GIT_CEILING_DIRECTORIES", self.here.parent().unwrap_or(Path::new("/")));
        command.args(["--no-pager", "--literal-pathspecs", "--no-replace-objects"]);
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs git, whose output is ours.
    fn run(&self, arguments: &[OsString], tell: Tell<'_>) -> Result<(), ToolError> {
        let mut child =
            self.command(arguments).stdout(Stdio::inherit()).stderr(Stdio::piped()).spawn().map_err(unstarted)?;
        let mut said = Vec::new();
        if let Some(mut errors) = child.stderr.take() {
            let read = errors.by_ref().take(SAID_MAX as u64).read_to_end(&mut said);
            read.and_then(|_| io::copy(&mut errors, &mut io::sink())).map_err(|error| ToolError::data(&error))?;
        }
        let status = child.wait().map_err(|error| ToolError::data(&error))?;
        told(tell(Report::Said { text: said }))?;
        if status.success() { done(tell, 0, 0, 0) } else { Err(failed()) }
    }

    /// Runs git for an answer of its own, and tells what it says of a failure.
    fn ask(&self, arguments: &[&str], input: &[u8], tell: Tell<'_>) -> Result<String, ToolError> {
        let output = self.output(arguments, input)?;
        if !output.status.success() {
            let text = output.stderr.into_iter().take(SAID_MAX).collect();
            told(tell(Report::Said { text }))?;
            return Err(failed());
        }
        let answer = String::from_utf8(output.stdout).map_err(|_| failed())?;
        Ok(answer.trim_end().to_owned())
    }

    fn output(&self, arguments: &[&str], input: &[u8]) -> Result<Output, ToolError> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let mut command = self.command(&arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(unstarted)?;
        // What it does not read, it says itself.
        drop(child.stdin.take().map(|mut stdin| stdin.write_all(input)));
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let system = |error: io::Error| ToolError::data(&error);
        // Little of either: nothing waits for the other.
        if let Some(from) = child.stdout.take() {
            from.take(ANSWER_MAX).read_to_end(&mut stdout).map_err(system)?;
        }
        if let Some(from) = child.stderr.take() {
            from.take(SAID_MAX as u64).read_to_end(&mut stderr).map_err(system)?;
        }
        Ok(Output { status: child.wait().map_err(system)?, stdout, stderr })
    }

    /// The policy was asked about a path. A configuration that makes another of it would make the answer one about something else.
    fn leaves_alone(&self, remote: &Path) -> Result<(), ToolError> {
        let arguments = ["config", "--list", "--name-only", "-z"].map(OsString::from);
        let mut child =
            self.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(unstarted)?;
        let mut names = Vec::new();
        if let Some(from) = child.stdout.take() {
            from.take(NAMES_MAX + 1).read_to_end(&mut names).map_err(|error| ToolError::data(&error))?;
        }
        let status = child.wait().map_err(|error| ToolError::data(&error))?;
        // Without a repository git says so itself, better than we could.
        let changed =
            names.len() as u64 > NAMES_MAX || names.split(|byte| *byte == 0).any(|name| rewrites(name, remote));
        if status.success() && changed { Err(ToolError::new("git-remote", Errno::INVAL)) } else { Ok(()) }
    }

    /// Makes a commit of what is staged, has it signed, writes it and moves the branch to it, if that is where it was.
    fn commit(&self, message: &str, author: &Person, tell: Tell<'_>) -> Result<(), ToolError> {
        for name in UNDER_WAY {
            if self.output(&["rev-parse", "--quiet", "--verify", name], b"")?.status.success() {
                return Err(ToolError::new("git-merge", Errno::INVAL));
            }
        }
        let tree: ObjectId = id(&self.ask(&["write-tree"], b"", tell)?)?;
        let head = self.output(&["rev-parse", "--quiet", "--verify", "HEAD^{commit}"], b"")?;
        let parent = match head.status.success() {
            true => Some(id(String::from_utf8_lossy(&head.stdout).trim_end())?),
            false => None,
        };
        let before = match parent {
            Some(_) => self.ask(&["rev-parse", "--verify", "HEAD^{tree}"], b"", tell)?,
            None => self.ask(&["hash-object", "-t", "tree", "--stdin"], b"", tell)?,
        };
        if id(&before)? == tree {
            return Err(ToolError::new("git-unchanged", Errno::INVAL));
        }
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let author = Stamp { person: author.clone(), seconds, zone: 0 };
        let (committer, message) = (author.clone(), Commit::message_of(message));
        let commit = Commit { tree, parents: parent.into_iter().collect(), author, committer, message };
        told(tell(Report::Sign { commit: commit.to_bytes() }))?;
        let signed = commit.with(signature()?);
        let written = self.ask(&["hash-object", "-t", "commit", "-w", "--stdin"], &signed.to_bytes(), tell)?;
        if id(&written)? != signed.id() {
            return Err(failed());
        }
        let new = signed.id().to_string();
        let old = parent.map_or_else(|| "0".repeat(new.len()), |parent| parent.to_string());
        let first = signed.commit().message.lines().next().unwrap_or_default();
        let reason = format!("commit: {first}");
        self.ask(&["update-ref", "-m", &reason, "HEAD", &new, &old], b"", tell)?;
        told(writeln!(io::stdout().lock(), "{new}"))?;
        done(tell, 0, 0, 0)
    }
}

/// The answer to a commit that is to be signed: its signature, or the end without one.
fn signature() -> Result<SshSignature, ToolError> {
    let mut armor = String::new();
    let read = io::stdin().lock().take(ARMOR_MAX as u64 + 1).read_to_string(&mut armor);
    read.map_err(|error| ToolError::data(&error))?;
    SshSignature::parse(&armor).map_err(|_| ToolError::new("git-sign", Errno::PERM))
}

/// Whether a name of configuration changes what this path of a remote means.
fn rewrites(name: &[u8], remote: &Path) -> bool {
    let under = |section: &[u8]| name.strip_prefix(section);
    let url = under(b"url.").is_some_and(|rest| rest.ends_with(b".insteadof") || rest.ends_with(b".pushinsteadof"));
    let of_remote = under(b"remote.").and_then(|rest| rest.strip_prefix(remote.as_os_str().as_bytes()));
    url || of_remote.is_some_and(|rest| rest.starts_with(b"."))
}

/// The arguments of git for everything but a commit.
fn arguments(order: &GitOrder, remote: &OsStr) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut add = |more: &[&str]| words.extend(more.iter().map(OsString::from));
    match order {
        GitOrder::Status => add(&["status", "--porcelain=v1", "--branch", "--untracked-files=all"]),
        GitOrder::Diff { side, revision, paths } => {
            add(&["diff", "--no-ext-diff", "--no-textconv", "--no-color"]);
            if *side == Side::Staged {
                add(&["--cached"]);
            }
            add(&revision.iter().map(String::as_str).collect::<Vec<_>>());
            add(&["--"]);
            add(&paths.iter().map(String::as_str).collect::<Vec<_>>());
        }
        GitOrder::Log { revision, count, paths } => {
            add(&["log", "--no-ext-diff", "--no-textconv", "--no-color", "--no-show-signature"]);
            if let Some(count) = count {
                add(&[&format!("--max-count={count}")]);
            }
            add(&revision.iter().map(String::as_str).collect::<Vec<_>>());
            add(&["--"]);
            add(&paths.iter().map(String::as_str).collect::<Vec<_>>());
        }
        GitOrder::Add { paths } => {
            add(&["add", "--all", "--"]);
            add(&paths.iter().map(String::as_str).collect::<Vec<_>>());
        }
        GitOrder::Branch(Branch::List) => {
            add(&["branch", "--list", "--verbose", "--no-abbrev", "--no-color", "--no-column"]);
        }
        GitOrder::Branch(Branch::Create { name, at }) => {
            add(&["branch", "--no-track", "--", name]);
            add(&at.iter().map(String::as_str).collect::<Vec<_>>());
        }
        GitOrder::Branch(Branch::Switch { name }) => {
            add(&["switch", "--quiet", "--no-guess", "--no-recurse-submodules", name]);
        }
        GitOrder::Branch(Branch::Delete { name }) => add(&["branch", "--delete", "--", name]),
        GitOrder::Fetch { branch, .. } => {
            add(&["fetch", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance"]);
            add(&[&format!("--upload-pack={FAR} upload-pack"), "--"]);
            words.push(remote.to_owned());
            words.extend(branch.iter().map(|branch| format!("refs/heads/{branch}").into()));
        }
        GitOrder::Push { branch, .. } => {
            add(&["push", "--no-verify", "--no-signed", "--no-recurse-submodules", "--porcelain"]);
            add(&[&format!("--receive-pack={FAR} receive-pack"), "--"]);
            words.push(remote.to_owned());
            words.push(format!("refs/heads/{branch}:refs/heads/{branch}").into());
        }
        // Made here, by `Repository::commit`.
        GitOrder::Commit { .. } => {}
    }
    words
}

fn id(text: &str) -> Result<ObjectId, ToolError> {
    text.parse().map_err(|_| failed())
}

/// Git said why.
fn failed() -> ToolError {
    ToolError::new("git", Errno::IO)
}

fn unstarted(error: io::Error) -> ToolError {
    ToolError::new("git-program", Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
