//! Git in a real guest: a repository is made, committed to, branched, pushed and fetched; its configuration is hostile and reaches
//! nothing outside of its call; and what was committed is, once the session is closed, shown to be of it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use coffer_evidence::leaf::CauseClass::{Completed, Failed};
use coffer_proto::guest::v1 as pb;
use coffer_tests::host::Host;
use pb::git_branch::Change;
use pb::git_request::Operation;
use pb::git_response::Response as Part;
use tonic::Code::{FailedPrecondition, InvalidArgument, PermissionDenied};
use tonic::Status;

use crate::answers::{done, refused};
use crate::session::{Leaves, Session};

const DONE: Leaves = Leaves::Ended(Completed);
const TRIED: Leaves = Leaves::Ended(Failed);

/// What the session's policy permits beside the default: pushing to one repository, and fetching from it.
pub(crate) const RULE: &str = "@id(\"one-remote\")\n\
    permit (principal, action in [Action::\"git.fetch\", Action::\"git.push\"], resource == Remote::\"/workspace/git/up.git\");\n";

/// What a git call put out, and its last word.
#[derive(Debug)]
struct Done {
    out: String,
    trailer: pb::GitTrailer,
}

impl Session {
    async fn git(&self, what: &str, leaves: Leaves, path: &str, operation: Operation) -> Result<Done, Status> {
        let (header, path, operation) = (self.header(what, leaves), path.to_owned(), Some(operation));
        let mut stream = self.tools().git(pb::GitRequest { header, path, operation }).await?.into_inner();
        let mut out = Vec::new();
        while let Some(message) = stream.message().await? {
            match message.response {
                Some(Part::Data(chunk)) => out.extend(chunk),
                Some(Part::Trailer(trailer)) => {
                    let output = trailer.output.clone().unwrap_or_default();
                    assert_eq!((output.bytes_total, output.bytes_delivered), (out.len() as u64, out.len() as u64));
                    return Ok(Done { out: String::from_utf8_lossy(&out).into_owned(), trailer });
                }
                None => {}
            }
        }
        Err(Status::unknown("the stream ended without a trailer"))
    }

    /// What must be done in the one repository.
    async fn in_repo(&self, what: &str, operation: Operation) -> Done {
        done(what, self.git(what, DONE, "git/repo", operation).await)
    }
}

fn status() -> Operation {
    Operation::Status(pb::GitStatus {})
}

fn add() -> Operation {
    Operation::Add(pb::GitAdd { paths: vec![".".into()] })
}

fn commit(message: &str) -> Operation {
    let (author_name, author_email) = ("Ada L.".to_owned(), "ada@example.org".to_owned());
    Operation::Commit(pb::GitCommit { message: message.to_owned(), author_name, author_email })
}

fn log(revision: &str) -> Operation {
    Operation::Log(pb::GitLog { revision: revision.to_owned(), count: 0, paths: Vec::new() })
}

fn diff(staged: bool) -> Operation {
    Operation::Diff(pb::GitDiff { staged, ..pb::GitDiff::default() })
}

fn branch(change: Option<Change>) -> Operation {
    Operation::Branch(pb::GitBranch { change })
}

fn fetch() -> Operation {
    Operation::Fetch(pb::GitFetch { remote: "git/up.git".into(), branch: "main".into() })
}

fn push(remote: &str) -> Operation {
    Operation::Push(pb::GitPush { remote: remote.to_owned(), branch: "main".into() })
}

/// The commits of the session, and where they are on the host.
pub(crate) struct Made {
    repository: PathBuf,
    signed: Vec<String>,
    unsigned: String,
}

pub(crate) async fn work(session: &Session, host: &Host) -> anyhow::Result<Made> {
    let setup = "mkdir git && cd git && git init -q -b main repo && git init -q -b main --bare up.git && \
                 git init -q -b main --bare other.git && echo one >repo/a.txt";
    session.sh(setup).await?;
    assert_eq!(session.in_repo("status", status()).await.out, "## No commits yet on main\n?? a.txt\n");
    refused_ones(session).await;
    session.in_repo("add", add()).await;
    assert!(session.in_repo("diff", diff(true)).await.out.contains("+one"));
    let first = session.in_repo("commit", commit("First\n\nby hand")).await;
    assert_eq!(first.out.trim_end(), first.trailer.commit);
    let history = session.in_repo("log", log("")).await.out;
    assert!(history.contains("Ada L. <ada@example.org>") && history.contains(&first.trailer.commit), "{history}");
    let unchanged = session.git("commit nothing", TRIED, "git/repo", commit("Again")).await;
    refused("commit nothing", unchanged, FailedPrecondition, "GIT_FAILED", "found nothing to commit");

    let create = Change::Create(pb::GitBranchCreate { name: "topic".into(), revision: String::new() });
    session.in_repo("branch", branch(Some(create))).await;
    session.in_repo("switch", branch(Some(Change::Switch("topic".into())))).await;
    let listed = session.in_repo("branches", branch(None)).await.out;
    assert!(listed.contains("* topic") && listed.contains("  main"), "{listed}");
    session.in_repo("switch back", branch(Some(Change::Switch("main".into())))).await;
    session.in_repo("delete", branch(Some(Change::Delete("topic".into())))).await;

    session.in_repo("push", push("git/up.git")).await;
    let theirs = "cd git && git clone -q up.git theirs && cd theirs && git -c user.name=T -c user.email=t@t \
                  commit -q --allow-empty -m Theirs && git push -q origin main";
    session.sh(theirs).await?;
    session.in_repo("fetch", fetch()).await;
    assert!(session.in_repo("log of theirs", log("FETCH_HEAD")).await.out.contains("    Theirs"));

    let second = hostile(session).await?;
    let unsigned = session.output(&["git", "-C", "/workspace/git/theirs", "rev-parse", "HEAD"]).await?;
    session.sh("cd git/repo && git fetch -q ../theirs main:theirs").await?;
    let repository = host.directory().join("repo");
    taken(session, &repository).await?;
    session.sh("rm -rf git").await?;
    let signed = vec![first.trailer.commit, second];
    Ok(Made { repository, signed, unsigned: unsigned.trim_end().to_owned() })
}

/// The repository, as it is in the session.
async fn taken(session: &Session, to: &Path) -> anyhow::Result<()> {
    let request = pb::DownloadRequest { header: session.header("the repository", DONE), path: "git/repo".into() };
    let mut stream = session.tools().download(request).await?.into_inner();
    let mut archive = Vec::new();
    while let Some(message) = stream.message().await? {
        if let Some(pb::download_response::Response::Data(data)) = message.response {
            archive.extend(data);
        }
    }
    Ok(tar::Archive::new(&archive[..]).unpack(to)?)
}

async fn refused_ones(session: &Session) {
    let none = session.git("no repository", TRIED, "git", status()).await;
    refused("no repository", none, FailedPrecondition, "GIT_FAILED", "not a git repository");
    let none = session.git("nothing there", TRIED, "git/missing", status()).await;
    refused("nothing there", none, tonic::Code::NotFound, "FILE_NOT_FOUND", "found nothing");
    let away = session.git("push elsewhere", Leaves::Denied, "git/repo", push("git/other.git")).await;
    refused("push elsewhere", away, PermissionDenied, "POLICY_DENIED", "git.push on /workspace/git/other.git");
    let away = session.git("outside", Leaves::Denied, "/usr", status()).await;
    refused("outside", away, PermissionDenied, "POLICY_DENIED", "git.status on /usr");
    let nameless = Operation::Push(pb::GitPush { remote: "git/up.git".into(), branch: "--mirror".into() });
    let odd = |text: &str| Operation::Log(pb::GitLog { revision: text.into(), ..pb::GitLog::default() });
    for (what, operation, words) in [
        ("an option for a branch", nameless, "the name of a branch"),
        ("an option for a revision", odd("--output=/workspace/x"), "does not begin with `-`"),
        ("no paths", Operation::Add(pb::GitAdd { paths: Vec::new() }), "at least one path"),
        (
            "a path of elsewhere",
            Operation::Add(pb::GitAdd { paths: vec!["/etc".into()] }),
            "relative to the repository",
        ),
        ("no message", commit(" \n"), "a message that says something"),
    ] {
        let result = session.git(what, Leaves::None, "git/repo", operation).await;
        refused(what, result, InvalidArgument, "INVALID_ARGUMENT", words);
    }
    // As long as they may be, they reach git, which says what it thinks of them.
    let longest = session.git("the longest message", TRIED, "git/repo", commit(&"a".repeat(32 * 1024 - 1))).await;
    refused("the longest message", longest, FailedPrecondition, "GIT_FAILED", "found nothing to commit");
    let path = ["a".repeat(200), "b".repeat(200)].concat();
    let many = Operation::Add(pb::GitAdd { paths: vec![path[..255].to_owned(); 236] });
    let many = session.git("as many paths as fit", TRIED, "git/repo", many).await;
    refused("as many paths as fit", many, FailedPrecondition, "GIT_FAILED", "did not match any files");
    let long = session.git("a long message", Leaves::None, "git/repo", commit(&"a".repeat(32 * 1024))).await;
    refused("a long message", long, InvalidArgument, "LIMIT_EXCEEDED", "less than 32768 bytes, found 32768");
}

/// Everything that a repository's configuration names to be run: what git is told to leave alone is not run, and a filter, which it
/// runs, is a process of its call. Answers the commit that was made of it.
async fn hostile(session: &Session) -> anyhow::Result<String> {
    let script = r#"
        cd /workspace/git
        cat >evil <<'END'
#!/bin/sh
echo "$0 $*" >>/workspace/git/run
exit 0
END
        cat >filter <<'END'
#!/bin/sh
id -u >/workspace/git/uid
ls /proc | grep -c '^[0-9]' >/workspace/git/seen
(echo x >/etc/x; echo x >/run/x; kill -9 1; mount -t tmpfs none /mnt) 2>/dev/null
cat
END
        chmod +x evil filter
        for repo in repo/.git up.git; do
            for hook in pre-commit commit-msg post-commit post-checkout pre-push reference-transaction update pre-receive post-receive; do
                cp evil $repo/hooks/$hook
            done
            for name in core.fsmonitor core.pager core.editor core.sshCommand core.askPass diff.external credential.helper \
                gpg.program gpg.ssh.program uploadpack.packObjectsHook pager.log; do
                git --git-dir $repo config $name /workspace/git/evil
            done
            git --git-dir $repo config gpg.format ssh
            git --git-dir $repo config commit.gpgSign true
            git --git-dir $repo config log.showSignature true
            git --git-dir $repo config alias.status '!/workspace/git/evil'
            git --git-dir $repo config filter.evil.clean /workspace/git/filter
        done
        echo '*.txt filter=evil' >repo/.gitattributes
        echo two >repo/a.txt
    "#;
    session.sh(script).await?;
    session.in_repo("hostile status", status()).await;
    session.in_repo("hostile diff", diff(false)).await;
    session.in_repo("hostile add", add()).await;
    let made = session.in_repo("hostile commit", commit("Second")).await.trailer.commit;
    session.in_repo("hostile log", log("")).await;
    session.in_repo("hostile fetch", fetch()).await;
    let aside = session.git("hostile push", TRIED, "git/repo", push("git/up.git")).await;
    refused("hostile push", aside, FailedPrecondition, "GIT_FAILED", "and says");
    let run = session.output(&["sh", "-c", "cat /workspace/git/run 2>/dev/null || echo nothing"]).await?;
    ensure!(run == "nothing\n", "run by the configuration: {run}");
    let filter = session
        .output(&["sh", "-c", "cat /workspace/git/uid /workspace/git/seen; ls /etc/x /run/x 2>/dev/null; id -u"])
        .await?;
    let lines: Vec<&str> = filter.lines().collect();
    ensure!(lines.len() == 3 && lines[0] == lines[2], "the filter ran as another, or reached outside: {filter}");
    ensure!(lines[1].parse::<u32>().is_ok_and(|seen| seen < 12), "the filter saw processes of others: {filter}");
    let rewritten = "git -C git/repo config url./workspace/git/other.git.insteadOf /workspace/git/up.git";
    session.sh(rewritten).await?;
    let result = session.git("a rewritten remote", TRIED, "git/repo", push("git/up.git")).await;
    refused("a rewritten remote", result, FailedPrecondition, "GIT_FAILED", "leaves a remote's path alone");
    // Whoever reads the repository on the host runs none of it, either.
    session.sh("cd git/repo && git config --unset url./workspace/git/other.git.insteadOf").await?;
    Ok(made)
}

/// After the session: its bundle shows which commits were made in it.
pub(crate) fn shown(host: &Host, made: &Made) -> anyhow::Result<()> {
    let evidence = host.directory().join("session.evidence").display().to_string();
    let repository = made.repository.display().to_string();
    let verify = |commit: &str, more: &[&str]| -> anyhow::Result<(Option<i32>, serde_json::Value)> {
        let arguments = ["evidence", "verify-commit", "--json", &repository, commit, &evidence];
        let ran = host.run(&[&arguments[..], more].concat())?;
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let answer =
            serde_json::from_str(&text).with_context(|| format!("{text}{}", String::from_utf8_lossy(&ran.stderr)))?;
        Ok((ran.status.code(), answer))
    };
    for commit in &made.signed {
        let (status, answer) = verify(commit, &["--accept-simulated"])?;
        ensure!(status == Some(0) && answer["shown"] == "yes", "{commit}: {answer}");
        ensure!(answer["made_by"]["identity"] == "default" && answer["made_by"]["cause"] == "completed", "{answer}");
        ensure!(verify(commit, &[])?.0 == Some(1), "{commit} without --accept-simulated");
    }
    let (status, answer) = verify(&made.unsigned, &["--accept-simulated"])?;
    ensure!(status == Some(1) && answer["shown"] == "no", "{answer}");
    Ok(())
}
