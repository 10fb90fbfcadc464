//! The git tool with the git of the host: what each operation does, what a hostile repository has run by it, and that a commit is
//! signed as OpenSSH and git have it.

mod workspace;

use coffer_agent::frames::Frame as _;
use coffer_agent::frames::tool::Report;
use coffer_evidence::call::Request;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::git::{Branch, Commit, GitOrder, Person, Side, SignedCommit, SshSignature};
use coffer_evidence::sign::PublicKey;
use ed25519_dalek::SigningKey;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use workspace::{Ended, Workspace};

/// What signs a commit in place of the notary.
type Signer = fn(&[u8]) -> Option<String>;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn signs(commit: &[u8]) -> Option<String> {
    Commit::parse(commit).expect("a commit that the notary takes");
    Some(SshSignature::sign(&key(), commit).to_armor())
}

/// The host's own git, where the test sets something up or looks at what was done.
fn git(place: &Workspace, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").current_dir(place.path());
    let done = command.args(["-c", "user.name=T", "-c", "user.email=t@t"]).args(arguments).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
}

/// A workspace with a repository that has one file in it, not staged.
fn repository(format: &str) -> Workspace {
    let place = Workspace::new();
    git(&place, &["init", "--quiet", "--initial-branch=main", &format!("--object-format={format}"), "repo"]);
    fs::write(place.at("repo/a.txt"), "one\n").unwrap();
    place
}

fn asked(path: &str, order: GitOrder) -> String {
    hex::encode(Request::Git { path: path.to_owned(), order }.to_bytes())
}

/// Runs the tool, with an answer to what it asks to have signed.
fn run_with(place: &Workspace, path: &str, order: GitOrder, signer: Signer) -> Ended {
    let mut tool = place.start(&["git", path, &asked(path, order)]);
    let mut stdin = tool.stdin.take();
    let (mut stderr, mut reports) = (tool.stderr.take().unwrap(), Vec::new());
    let mut length = [0; 4];
    while stderr.read_exact(&mut length).is_ok() {
        let mut packet = length.to_vec();
        packet.resize(4 + u32::from_le_bytes(length) as usize, 0);
        stderr.read_exact(&mut packet[4..]).unwrap();
        let report = Report::decode(&packet).unwrap();
        if let Report::Sign { commit } = &report
            && let Some(mut to_tool) = stdin.take()
            && let Some(armor) = signer(commit)
        {
            to_tool.write_all(armor.as_bytes()).unwrap();
        }
        reports.push(report);
    }
    drop(stdin);
    let ended = tool.wait_with_output().unwrap();
    Ended { status: ended.status.code().unwrap_or(-1), output: ended.stdout, reports }
}

fn run(place: &Workspace, order: GitOrder) -> Ended {
    run_with(place, "repo", order, signs)
}

/// The output of what must be done.
fn done(ended: &Ended) -> String {
    assert_eq!(ended.word(), "done 0", "{ended:?} {}", said(ended));
    String::from_utf8(ended.output.clone()).unwrap()
}

fn said(ended: &Ended) -> String {
    let said = ended.reports.iter().find_map(|report| match report {
        Report::Said { text } => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    });
    said.unwrap_or_default()
}

fn failed_at(ended: &Ended, stage: &str) {
    assert!(ended.word().starts_with(&format!("{stage}: ")), "{stage}: {ended:?}");
}

fn add(paths: &[&str]) -> GitOrder {
    GitOrder::Add { paths: paths.iter().map(|&path| path.to_owned()).collect() }
}

fn commit(message: &str) -> GitOrder {
    GitOrder::Commit { message: message.to_owned(), author: Person::new("Ada L.", "ada@example.org").unwrap() }
}

fn diff(side: Side) -> GitOrder {
    GitOrder::Diff { side, revision: None, paths: Vec::new() }
}

fn log() -> GitOrder {
    GitOrder::Log { revision: None, count: None, paths: Vec::new() }
}

fn push(remote: &str) -> GitOrder {
    GitOrder::Push { remote: remote.to_owned(), branch: "main".to_owned() }
}

fn fetch(remote: &str) -> GitOrder {
    GitOrder::Fetch { remote: remote.to_owned(), branch: Some("main".to_owned()) }
}

/// HEAD as git has it, and as it is read here.
fn head(place: &Workspace) -> SignedCommit {
    let object = format!("{}\n", git(place, &["-C", "repo", "cat-file", "commit", "HEAD"]));
    SignedCommit::parse(object.as_bytes()).unwrap_or_else(|error| panic!("{error}: {object}"))
}

#[test]
fn a_commit_is_written_with_its_signature_and_the_branch_moves_to_it() {
    for format in ["sha1", "sha256"] {
        let place = repository(format);
        assert_eq!(done(&run(&place, GitOrder::Status)), "## No commits yet on main\n?? a.txt\n");
        done(&run(&place, add(&["a.txt"])));
        assert!(done(&run(&place, diff(Side::Staged))).contains("+one"));
        let first = done(&run(&place, commit("First: \"quotes\" and ä\n\nbody")));
        let made = head(&place);
        assert_eq!(first.trim_end(), made.id().to_string());
        assert_eq!(git(&place, &["-C", "repo", "rev-parse", "refs/heads/main"]), first.trim_end());
        assert!(made.verifies() && made.signature().key == PublicKey::of(&key()));
        assert_eq!(made.commit().message, "First: \"quotes\" and ä\n\nbody\n");
        fs::write(place.at("repo/a.txt"), "two\n").unwrap();
        assert!(done(&run(&place, diff(Side::WorkTree))).contains("-one\n+two"));
        done(&run(&place, add(&["."])));
        done(&run(&place, commit("Second")));
        assert_eq!(head(&place).commit().parents, [made.id()]);
        let history = done(&run(&place, log()));
        assert!(history.contains("    Second") && history.contains("Author: Ada L. <ada@example.org>"), "{history}");
        assert_eq!(done(&run(&place, GitOrder::Status)), "## main\n");
        git(&place, &["-C", "repo", "fsck", "--strict"]);
        assert!(git(&place, &["-C", "repo", "reflog"]).contains("commit: Second"));
    }
}

#[test]
fn git_and_openssh_take_the_signature_for_good() {
    if Command::new("ssh-keygen").arg("-?").output().is_err() {
        println!("NOT RUN: ssh-keygen takes our signature (openssh-client is not installed)");
        return;
    }
    let place = repository("sha1");
    done(&run(&place, add(&["."])));
    done(&run(&place, commit("Signed")));
    let string = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let allowed = |key: &SigningKey, namespace: &str| {
        let blob = [string(b"ssh-ed25519"), string(PublicKey::of(key).as_bytes())].concat();
        let line = format!("* namespaces=\"{namespace}\" ssh-ed25519 {}\n", base64(&blob));
        fs::write(place.at("allowed"), line).unwrap();
        let file = format!("gpg.ssh.allowedSignersFile={}", place.at("allowed").display());
        let mut command = Command::new("git");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").current_dir(place.at("repo"));
        let ran = command.args(["-c", "gpg.format=ssh", "-c", &file, "verify-commit", "HEAD"]).output().unwrap();
        (ran.status.success(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let (good, told) = allowed(&key(), "git");
    assert!(good && told.contains("Good \"git\" signature"), "{told}");
    assert!(!allowed(&SigningKey::from_bytes(&[8; 32]), "git").0);
    assert!(!allowed(&key(), "file").0);
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place) & 0x3f) as usize];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[test]
fn without_a_signature_nothing_is_committed() {
    let place = repository("sha1");
    failed_at(&run(&place, commit("Nothing")), "git-unchanged");
    done(&run(&place, add(&["."])));
    let refused: [Signer; 3] = [|_| None, |_| Some(String::new()), |_| Some("no signature".to_owned())];
    for signer in refused {
        failed_at(&run_with(&place, "repo", commit("Refused"), signer), "git-sign");
        assert_eq!(done(&run(&place, GitOrder::Status)), "## No commits yet on main\nA  a.txt\n");
    }
    done(&run(&place, commit("Made")));
    failed_at(&run(&place, commit("Again")), "git-unchanged");
    // What is half done is somebody's: a commit would end it wrongly.
    fs::write(place.at("repo/.git/MERGE_HEAD"), format!("{}\n", head(&place).id())).unwrap();
    fs::write(place.at("repo/a.txt"), "two\n").unwrap();
    done(&run(&place, add(&["."])));
    failed_at(&run(&place, commit("Merged")), "git-merge");
}

#[test]
fn a_branch_that_moved_meanwhile_is_left_where_it_is() {
    let place = repository("sha1");
    done(&run(&place, add(&["."])));
    done(&run(&place, commit("First")));
    fs::write(place.at("repo/a.txt"), "two\n").unwrap();
    done(&run(&place, add(&["."])));
    let before = head(&place).id().to_string();
    let tree = git(&place, &["-C", "repo", "rev-parse", "HEAD^{tree}"]);
    let other = git(&place, &["-C", "repo", "commit-tree", "-p", &before, "-m", "Other", &tree]);
    let mut tool = place.start(&["git", "repo", &asked("repo", commit("Late"))]);
    let mut stderr = tool.stderr.take().unwrap();
    let mut length = [0; 4];
    stderr.read_exact(&mut length).unwrap();
    let mut packet = length.to_vec();
    packet.resize(4 + u32::from_le_bytes(length) as usize, 0);
    stderr.read_exact(&mut packet[4..]).unwrap();
    let Ok(Report::Sign { commit }) = Report::decode(&packet) else { panic!("it asks for something else") };
    git(&place, &["-C", "repo", "update-ref", "HEAD", &other]);
    tool.stdin.take().unwrap().write_all(signs(&commit).unwrap().as_bytes()).unwrap();
    let mut rest = Vec::new();
    stderr.read_to_end(&mut rest).unwrap();
    assert_eq!(tool.wait().unwrap().code(), Some(1));
    let reports = workspace::reports(&rest);
    assert!(matches!(reports.last(), Some(Report::Failed { stage, .. }) if stage == "git"), "{reports:?}");
    assert_eq!(git(&place, &["-C", "repo", "rev-parse", "HEAD"]), other);
}

#[test]
fn branches_are_made_switched_to_and_removed() {
    let place = repository("sha1");
    done(&run(&place, add(&["."])));
    done(&run(&place, commit("First")));
    let name = || "topic/one".to_owned();
    done(&run(&place, GitOrder::Branch(Branch::Create { name: name(), at: Some("HEAD".into()) })));
    done(&run(&place, GitOrder::Branch(Branch::Switch { name: name() })));
    let listed = done(&run(&place, GitOrder::Branch(Branch::List)));
    assert!(listed.contains("* topic/one") && listed.contains("  main"), "{listed}");
    let taken = run(&place, GitOrder::Branch(Branch::Create { name: name(), at: None }));
    failed_at(&taken, "git");
    assert!(said(&taken).contains("already exists"), "{}", said(&taken));
    done(&run(&place, GitOrder::Branch(Branch::Switch { name: "main".into() })));
    done(&run(&place, GitOrder::Branch(Branch::Delete { name: name() })));
    failed_at(&run(&place, GitOrder::Branch(Branch::Switch { name: name() })), "git");
}

#[test]
fn a_bare_repository_is_pushed_to_and_fetched_from() {
    let place = repository("sha1");
    git(&place, &["init", "--quiet", "--bare", "--initial-branch=main", "up.git"]);
    done(&run(&place, add(&["."])));
    done(&run(&place, commit("First")));
    done(&run(&place, push("up.git")));
    assert_eq!(git(&place, &["-C", "up.git", "rev-parse", "main"]), head(&place).id().to_string());
    git(&place, &["clone", "--quiet", "--branch=main", "up.git", "other"]);
    git(&place, &["-C", "other", "commit", "--quiet", "--allow-empty", "-m", "Of another"]);
    git(&place, &["-C", "other", "push", "--quiet", "origin", "main"]);
    done(&run(&place, fetch("up.git")));
    let from = GitOrder::Log { revision: Some("FETCH_HEAD".into()), count: Some(1), paths: Vec::new() };
    assert!(done(&run(&place, from)).contains("Of another"));
    // Not a descendant of what is there.
    fs::write(place.at("repo/a.txt"), "two\n").unwrap();
    done(&run(&place, add(&["."])));
    done(&run(&place, commit("Aside")));
    failed_at(&run(&place, push("up.git")), "git");
    failed_at(&run(&place, push("missing.git")), "git");
    // A bare one is a repository, too.
    assert!(done(&run_with(&place, "up.git", log(), signs)).contains("Of another"));
}

/// Everything by which a repository's own configuration has git run something, and that git is told to leave alone.
#[test]
fn no_hook_helper_or_program_of_a_repository_is_run() {
    let place = repository("sha1");
    git(&place, &["init", "--quiet", "--bare", "--initial-branch=main", "up.git"]);
    let (evil, mark) = (place.at("evil"), place.at("mark"));
    fs::write(&evil, format!("#!/bin/sh\necho \"$0 $*\" >>{}\nexit 0\n", mark.display())).unwrap();
    fs::set_permissions(&evil, fs::Permissions::from_mode(0o755)).unwrap();
    let program = evil.display().to_string();
    for repository in ["repo/.git", "up.git"] {
        fs::create_dir_all(place.at(repository).join("hooks")).unwrap();
        for hook in [
            "pre-commit",
            "commit-msg",
            "prepare-commit-msg",
            "post-commit",
            "post-checkout",
            "pre-push",
            "post-index-change",
            "reference-transaction",
            "update",
            "pre-receive",
            "post-receive",
            "post-update",
            "proc-receive",
            "pre-auto-gc",
            "push-to-checkout",
            "fsmonitor-watchman",
        ] {
            fs::copy(&evil, place.at(repository).join("hooks").join(hook)).unwrap();
        }
        let directory = place.at(repository);
        let directory = directory.to_str().unwrap();
        for (name, value) in [
            ("core.fsmonitor", program.as_str()),
            ("core.pager", &program),
            ("core.editor", &program),
            ("core.askPass", &program),
            ("core.sshCommand", &program),
            ("core.alternateRefsCommand", &program),
            ("diff.external", &program),
            ("diff.evil.textconv", &program),
            ("diff.evil.command", &program),
            ("credential.helper", &program),
            ("gpg.format", "ssh"),
            ("gpg.program", &program),
            ("gpg.ssh.program", &program),
            ("commit.gpgSign", "true"),
            ("push.gpgSign", "true"),
            ("log.showSignature", "true"),
            ("format.pretty", "%G? %s"),
            ("alias.status", &format!("!{program}")),
            ("alias.log", &format!("!{program}")),
            ("uploadpack.packObjectsHook", &program),
            ("pager.log", &program),
            ("pager.diff", "true"),
            ("protocol.ext.allow", "always"),
            ("gc.auto", "1"),
        ] {
            git(&place, &["--git-dir", directory, "config", name, value]);
        }
    }
    fs::write(place.at("repo/.gitattributes"), "*.txt diff=evil\n").unwrap();
    done(&run(&place, GitOrder::Status));
    done(&run(&place, add(&["."])));
    done(&run(&place, diff(Side::Staged)));
    done(&run(&place, commit("First")));
    fs::write(place.at("repo/a.txt"), "two\n").unwrap();
    done(&run(&place, diff(Side::WorkTree)));
    let history = done(&run(&place, log()));
    assert!(history.contains("Author: Ada"), "{history}");
    done(&run(&place, push("up.git")));
    done(&run(&place, fetch("up.git")));
    done(&run(&place, GitOrder::Branch(Branch::Create { name: "topic".into(), at: None })));
    done(&run(&place, GitOrder::Branch(Branch::Switch { name: "topic".into() })));
    assert!(head(&place).signature().key == PublicKey::of(&key()));
    assert!(!mark.exists(), "{}", fs::read_to_string(&mark).unwrap());
    // The test can fail: git by itself runs these.
    git(&place, &["-C", "repo", "-c", "commit.gpgSign=false", "commit", "--quiet", "--allow-empty", "-m", "Hooked"]);
    assert!(mark.exists());
}

#[test]
fn a_remote_is_the_path_that_the_policy_was_asked_about() {
    let place = repository("sha1");
    git(&place, &["init", "--quiet", "--bare", "--initial-branch=main", "up.git"]);
    git(&place, &["init", "--quiet", "--bare", "other.git"]);
    done(&run(&place, add(&["."])));
    done(&run(&place, commit("First")));
    let (up, other) = (place.at("up.git").display().to_string(), place.at("other.git").display().to_string());
    for (name, value) in [
        (format!("url.{other}.insteadOf"), up.clone()),
        (format!("url.{other}.pushInsteadOf"), up.clone()),
        (format!("remote.{up}.url"), other.clone()),
        (format!("remote.{up}.pushurl"), other.clone()),
        (format!("remote.{up}.vcs"), "ext".to_owned()),
        (format!("remote.{up}.receivepack"), "false".to_owned()),
    ] {
        git(&place, &["-C", "repo", "config", &name, &value]);
        failed_at(&run(&place, push("up.git")), "git-remote");
        failed_at(&run(&place, fetch("up.git")), "git-remote");
        git(&place, &["-C", "repo", "config", "--unset", &name]);
    }
    done(&run(&place, push("up.git")));
    assert!(!place.at("other.git/refs/heads/main").exists());
    // Names of remotes, and addresses, are paths here, and nothing is at them.
    git(&place, &["-C", "repo", "remote", "add", "origin", &up]);
    for remote in ["origin", "ext::sh -c true", "file:///etc", "host:path", "--upload-pack=false"] {
        failed_at(&run(&place, fetch(remote)), "git");
    }
}

#[test]
fn what_is_above_the_path_is_not_its_repository_and_nothing_leads_out() {
    let place = repository("sha1");
    fs::create_dir(place.at("repo/sub")).unwrap();
    let above = run_with(&place, "repo/sub", GitOrder::Status, signs);
    failed_at(&above, "git");
    assert!(said(&above).contains("not a git repository"), "{}", said(&above));
    std::os::unix::fs::symlink("/tmp", place.at("out")).unwrap();
    for path in ["out", "..", "missing"] {
        failed_at(&run_with(&place, path, GitOrder::Status, signs), "path");
    }
    assert_eq!(run(&place, add(&["missing"])).status, 1);
    assert_eq!(run(&place, add(&[":(top)"])).status, 1, "a path is a path");
    assert_eq!(place.run(&["git", "repo", "00"]).word(), "arguments: Invalid argument (os error 22)");
}
