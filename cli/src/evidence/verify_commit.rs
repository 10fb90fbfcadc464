//! `coffer evidence verify-commit`: a commit of a repository here, and a bundle: whether the git key that the session's opening quote
//! binds signed it. What it means that the bundle verifies is `coffer evidence verify`; this adds one sentence to that, or none.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use coffer_evidence::bundle::Source;
use coffer_evidence::call::OutcomePrivate;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::git::{COMMIT_MAX, ObjectId, SignedCommit};
use coffer_evidence::leaf::{Method, Public};
use coffer_evidence::open::OpenMap;
use coffer_evidence::verify::{Accepted, Report, Verdict, printable};
use serde::Serialize;
use serde_json::Value;

use super::contents::{Contents, no_bundle};
use super::reading::{BundleFile, changed, told_unread};
use super::verify::{Judging, unpinned};
use crate::exit::{INPUT_OUTPUT, Status, failure};
use crate::output::{Form, Output};

pub(super) const EXIT_HELP: &str = "\
The commit is read with git from the repository here, and its id computed anew from its bytes. Shown is that the session's git \
key signed it; what is in its files nobody looked at, and under SHA-1 an id says as much as SHA-1.

Exit status: 0 the bundle is accepted and the session's git key signed the commit; 1 it did not, or the bundle is not accepted; 2 \
cannot tell; 64 usage; 74 a file, or the commit, could not be read.";

#[derive(Debug, Args)]
pub(crate) struct VerifyCommitArgs {
    /// The repository
    #[arg(value_name = "REPO")]
    repository: PathBuf,
    /// The commit: an id, or a name that git knows there
    commit: String,
    /// The bundle
    file: PathBuf,
    #[command(flatten)]
    judging: Judging,
}

/// What is shown of the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Shown {
    Yes,
    No,
    CannotTell,
}

/// The outcome that names the commit.
#[derive(Clone, Debug, Serialize)]
struct Named {
    leaf: u64,
    call: String,
    identity: String,
    cause: &'static str,
}

#[derive(Serialize)]
struct Answer {
    schema: &'static str,
    commit: String,
    /// Whether the commit was made in the session, as far as the policy accepts the bundle.
    shown: Shown,
    /// Whether the signature is of this session's git key, whatever becomes of the bundle.
    signed: bool,
    git_key: Option<String>,
    made_by: Option<Named>,
    words: Vec<String>,
    /// As `coffer evidence verify --json` prints it.
    report: Value,
}

/// `coffer evidence verify-commit`
pub(super) fn verify_commit(output: &Output, args: &VerifyCommitArgs) -> anyhow::Result<Status> {
    let (id, object) = read(&args.repository, &args.commit)?;
    judged(output, args, id, &object).map_err(told_unread(&args.file))
}

fn judged(output: &Output, args: &VerifyCommitArgs, id: ObjectId, object: &[u8]) -> anyhow::Result<Status> {
    let file = BundleFile::open(&args.file)?;
    let (report, options) = args.judging.judge(&file)?;
    let believed = matches!(report.verdict, Verdict::Sealed | Verdict::Aborted);
    let mut answer = Answer {
        schema: "coffer.commit.v1",
        commit: id.to_string(),
        shown: Shown::No,
        signed: false,
        git_key: None,
        made_by: None,
        words: Vec::new(),
        report: serde_json::from_str(&report.json_line())?,
    };
    if believed {
        let contents = Contents::new(&file, &options.access).map_err(no_bundle(&args.file))?;
        // What is looked at is what was judged.
        if report.bundle_id.as_ref().is_some_and(|id| *id != contents.scan().bundle_id().to_string()) {
            return Err(changed().into());
        }
        look(&mut answer, &contents, &file, &report, object)?;
    } else {
        answer.words.push("Nothing is shown: the bundle is not what its TD made, or that cannot be told.".to_owned());
    }
    answer.shown = match (report.accepted, answer.signed) {
        (Accepted::No, _) => Shown::No,
        (_, false) if believed => Shown::No,
        (Accepted::CannotTell, _) | (_, false) => Shown::CannotTell,
        (Accepted::Yes, true) => answer.shown,
    };
    match output.form {
        Form::Json => output.json(&answer)?,
        Form::People => {
            if let Some(told) = unpinned(&args.judging, &report) {
                output.note(told);
            }
            people(output, &answer, &report)?;
        }
    }
    Ok(Status(match answer.shown {
        Shown::Yes => 0,
        Shown::No => 1,
        Shown::CannotTell => 2,
    }))
}

fn people(output: &Output, answer: &Answer, report: &Report) -> anyhow::Result<()> {
    let shown = match answer.shown {
        Shown::Yes => "made in this session",
        Shown::No => "not shown to be made in this session",
        Shown::CannotTell => "cannot tell whether it was made in this session",
    };
    output.line(format_args!("commit     {}: {shown}", answer.commit))?;
    if let Some(key) = &answer.git_key {
        output.line(format_args!("git key    {key}"))?;
    }
    for words in &answer.words {
        output.line(format_args!("\n{}", printable(words)))?;
    }
    output.line("\nthe bundle:")?;
    output.bytes(report.human().as_bytes())
}

/// The signature, under the key that the opening quote binds, and the outcome that names the commit.
fn look(
    answer: &mut Answer,
    contents: &Contents<'_>,
    source: &dyn Source,
    report: &Report,
    object: &[u8],
) -> anyhow::Result<()> {
    let open = OpenMap::parse(&contents.scan().load(source, "open.cbor")?.unwrap_or_default())?;
    let instance = open.instance().to_string();
    // The verdict holds for this instance, which is a digest of all of the map.
    if report.instance.as_ref() != Some(&instance) {
        return Err(changed().into());
    }
    answer.git_key = Some(open.git_key.to_string());
    let signed = match SignedCommit::parse(object) {
        Ok(signed) => signed,
        Err(error) => {
            let error = anyhow::Error::from(error);
            answer.words.push(format!("Not signed by the git key of this instance: {error:#}."));
            return Ok(());
        }
    };
    if signed.signature().key != open.git_key {
        let key = signed.signature().key;
        answer.words.push(format!("Signed by another key, {key}; the git key of this instance did not sign it."));
        return Ok(());
    }
    if !signed.verifies() {
        answer.words.push(
            "The signature names the git key of this instance and is not of these bytes: the commit was altered, or another was \
             given its signature."
                .to_owned(),
        );
        return Ok(());
    }
    answer.signed = true;
    if report.platform.as_deref() == Some("simulated") {
        answer.words.push("Anyone can forge this.".to_owned());
    }
    answer.words.push(format!(
        "Commit {} was signed by the git key of instance {instance}, which exists only in that TD.",
        answer.commit
    ));
    let found = outcomes(contents, signed.id())?;
    answer.shown = Shown::Yes;
    answer.words.push(match (&found.named, found.closed, report.verdict) {
        (Some(named), ..) => {
            let Named { leaf, call, identity, cause } = named;
            format!("Outcome leaf {leaf} ({cause}) names it: it was made by call {call} of identity {identity}.")
        }
        (None, 0, Verdict::Sealed) => {
            answer.shown = Shown::CannotTell;
            "No outcome of the record names it, though each of a git call is open: an honest notary signs nothing that it does not \
             record."
                .to_owned()
        }
        (None, 0, _) => {
            "No outcome in this prefix of the record names it; the call that made it may come after.".to_owned()
        }
        (None, closed, _) => format!(
            "Which call made it is not shown: private parts of {closed} git outcomes are not open (--identity opens encrypted ones)."
        ),
    });
    answer.made_by = found.named;
    Ok(())
}

struct Outcomes {
    named: Option<Named>,
    /// Of git calls, without an open private part.
    closed: u64,
}

fn outcomes(contents: &Contents<'_>, id: ObjectId) -> anyhow::Result<Outcomes> {
    let mut found = Outcomes { named: None, closed: 0 };
    contents.each(|leaf, part| {
        let Public::Outcome { method: Method::Git, cause, .. } = &leaf.public else { return Ok(()) };
        match part.filter(|part| part.opens(leaf)).map(|part| OutcomePrivate::parse(&part.bytes)) {
            None => found.closed = found.closed.saturating_add(1),
            Some(outcome) if outcome.as_ref().is_ok_and(|outcome| outcome.commit == Some(id)) => {
                found.named = Some(Named {
                    leaf: leaf.index,
                    call: leaf.call.map(|call| call.to_string()).unwrap_or_default(),
                    identity: leaf.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
                    cause: cause.as_str(),
                });
            }
            Some(_) => {}
        }
        Ok(())
    })?;
    Ok(found)
}

/// The commit's id and bytes, as git has them; the bytes have that id.
fn read(repository: &Path, commit: &str) -> anyhow::Result<(ObjectId, Vec<u8>)> {
    let unfit = |expected: &str, found: String| {
        let place = printable(&repository.display().to_string());
        failure(INPUT_OUTPUT, format!("expected {expected} in {place}, found {found}"))
    };
    let what = format!("{commit}^{{commit}}");
    let name = git(repository, &["rev-parse", "--verify", "--end-of-options", &what], 256)?;
    let name = name.map_err(|said| unfit("a commit", said))?;
    let text = String::from_utf8_lossy(&name).trim_end().to_owned();
    let id: ObjectId = text.parse().map_err(|_| unfit("the id of a commit", printable(&text)))?;
    let bytes = git(repository, &["cat-file", "commit", &text], COMMIT_MAX as u64 * 16)?;
    let bytes = bytes.map_err(|said| unfit("a commit", said))?;
    let found = id.of_commit(&bytes);
    if found == id {
        return Ok((id, bytes));
    }
    Err(unfit(&format!("commit {id}"), format!("bytes whose id is {found}")))
}

/// What git puts out, or what it says. The repository may be anybody's: nothing that its configuration names is run for this.
fn git(repository: &Path, arguments: &[&str], most: u64) -> anyhow::Result<Result<Vec<u8>, String>> {
    let mut command = Command::new("git");
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).env("LANG", "C.UTF-8");
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
    command.env("GIT_NO_LAZY_FETCH", "1").env("GIT_OPTIONAL_LOCKS", "0");
    command.args([
        "--no-pager",
        "--no-replace-objects",
        "-c",
        "core.fsmonitor=false",
        "-c",
        "core.hooksPath=/dev/null",
    ]);
    command.args(["-c", "protocol.allow=never", "-c", "core.alternateRefsCommand=false", "-C"]).arg(repository);
    let ran = command.args(arguments).stdin(Stdio::null()).output();
    let ran = ran
        .map_err(|error| failure(INPUT_OUTPUT, format!("expected git on PATH, found that it does not run: {error}")))?;
    if !ran.status.success() {
        let said = String::from_utf8_lossy(&ran.stderr);
        return Ok(Err(format!("that git says: {}", printable(said.trim()))));
    }
    if ran.stdout.len() as u64 > most {
        return Ok(Err(format!("more than {most} bytes")));
    }
    Ok(Ok(ran.stdout))
}
