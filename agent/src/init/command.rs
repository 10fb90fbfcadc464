//! What a logged request executes: program, arguments, environment, limits of time. A pure function of the request,
//! so that the agent can log the program that init will start.

use super::calls::Times;
use super::spawn::{Command, Directory, Stage, StartError};
use crate::fixed;
use crate::tool::LISTING_MAX;
use coffer_evidence::call::{Above, IfMatch, Reach, Request, Taken};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::Identity;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

/// Time that a file operation may take.
const FILE_TIMES: Times = Times { timeout: Duration::from_secs(600), grace: Duration::from_secs(2) };
/// A watch ends itself when its time is over, and says so; it is ended when its client does not read that.
const WATCH_SLACK: Duration = Duration::from_secs(10);

/// What a terminal is called when the client does not say.
const TERM: &str = "xterm-256color";

/// The identities of the session and their uids.
#[derive(Debug, Default)]
pub struct Identities(BTreeMap<String, u32>);

impl Identities {
    /// Identity n of the list gets uid 10000+n.
    pub fn new(names: &[String]) -> Result<Self, String> {
        if names.is_empty() || names.len() > fixed::IDENTITIES_MAX {
            return Err(format!("expected 1 to {} identities, found {}", fixed::IDENTITIES_MAX, names.len()));
        }
        let mut uids = BTreeMap::new();
        for (name, uid) in names.iter().zip(fixed::UID_IDENTITY..) {
            // The name becomes part of a path in the cgroup tree.
            Identity::new(name).map_err(|error| error.to_string())?;
            if uids.insert(name.clone(), uid).is_some() {
                return Err(format!("the identity {name} is named twice"));
            }
        }
        Ok(Self(uids))
    }

    /// The uid of an identity.
    pub fn uid(&self, name: &str) -> Option<u32> {
        self.0.get(name).copied()
    }
}

/// Why a request has no command.
#[derive(Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The bytes are no canonical request.
    NotARequest,
    /// The call fails before there is a process.
    Start(StartError),
}

/// The command of a request. `own` is the agent's binary.
pub fn command(request: &[u8], own: &CStr) -> Result<(Command, Times), CommandError> {
    let request = Request::parse(request).map_err(|_| CommandError::NotARequest)?;
    let tool_within = |words: &[&str], times: Times| {
        let all = ["coffer-agent", "tool"].iter().chain(words);
        let arguments = all.map(|word| text(word)).collect::<Result<Vec<_>, _>>()?;
        Ok((own.to_owned(), arguments, Vec::new(), String::new(), times))
    };
    let tool = |words: &[&str]| tool_within(words, FILE_TIMES);
    let reach_word = |reach: &Reach| match reach {
        Reach::One => "one",
        Reach::Tree => "tree",
    };
    let terminal = match &request {
        Request::Exec { terminal, .. } => *terminal,
        _ => None,
    };
    let (program, arguments, variables, directory, times) = match &request {
        Request::Exec { argv, cwd, env, timeout_ms, grace_ms, .. } => {
            let first = argv.first().ok_or(CommandError::NotARequest)?;
            let program = resolve(first).map_err(CommandError::Start)?;
            let arguments = argv.iter().map(|argument| text(argument)).collect::<Result<Vec<_>, _>>()?;
            let kind = terminal.map(|_| ("TERM".to_owned(), TERM.to_owned()));
            let asked = env.iter().map(|(key, value)| (key.clone(), value.clone()));
            let variables = kind.into_iter().chain(asked).collect();
            let times = Times { timeout: Duration::from_millis(*timeout_ms), grace: Duration::from_millis(*grace_ms) };
            Ok((text(&program)?, arguments, variables, cwd.clone(), times))
        }
        Request::WriteFile { path, mode, if_match } => {
            let wanted = match if_match {
                None => "any".to_owned(),
                Some(IfMatch::Nothing) => "nothing".to_owned(),
                Some(IfMatch::Content(digest)) => digest.to_string(),
            };
            tool(&["write", path, &mode.to_string(), &wanted])
        }
        Request::ReadFile { path, offset, length } => tool(&["read", path, &offset.to_string(), &length.to_string()]),
        Request::ListDirectory { path, depth, page_token, page_size } => {
            let depth = depth.unwrap_or(1).to_string();
            let size = page_size.unwrap_or(LISTING_MAX as u64).to_string();
            tool(&["list", path, &depth, &size, page_token.as_deref().unwrap_or_default()])
        }
        Request::Stat { path } => tool(&["stat", path]),
        Request::Upload { path } => tool(&["unpack", path]),
        Request::Download { path } => tool(&["pack", path]),
        Request::Remove { path, reach } => tool(&["remove", path, reach_word(reach)]),
        Request::Move { path, destination, taken } => {
            let taken = match taken {
                Taken::Refuse => "refuse",
                Taken::Replace => "replace",
            };
            tool(&["move", path, destination, taken])
        }
        Request::MakeDirectory { path, mode, above } => {
            let above = match above {
                Above::Expected => "expected",
                Above::Made => "made",
            };
            tool(&["mkdir", path, &mode.to_string(), above])
        }
        Request::Watch { path, reach, timeout_ms } => {
            let idle_ms = fixed::WATCH_IDLE_MS.to_string();
            let times = Times { timeout: Duration::from_millis(*timeout_ms) + WATCH_SLACK, ..FILE_TIMES };
            tool_within(&["watch", path, reach_word(reach), &timeout_ms.to_string(), &idle_ms], times)
        }
        Request::Git { path, .. } => tool(&["git", path, &hex::encode(request.to_bytes())]),
    }?;
    let directory = text(if directory.is_empty() { "." } else { &directory })?;
    let directory = Directory::Beneath(text(fixed::WORKSPACE)?, directory);
    Ok((Command { program, arguments, environment: environment(variables)?, directory, terminal }, times))
}

/// The file that a program name stands for: as it is when it holds a slash, else the first executable of that name
/// on the fixed path. The call's own PATH is for the program, not for us.
pub fn resolve(program: &str) -> Result<String, StartError> {
    if program.contains('/') {
        return Ok(program.to_owned());
    }
    let mut errno = libc::ENOENT;
    for directory in fixed::PATH.split(':') {
        let path = format!("{directory}/{program}");
        let Ok(found) = std::fs::metadata(&path) else { continue };
        if found.is_file() && found.permissions().mode() & 0o111 != 0 {
            return Ok(path);
        }
        errno = libc::EACCES;
    }
    Err(StartError { stage: Stage::Program, errno })
}

/// The fixed environment, and over it what the request asks for.
fn environment(asked: Vec<(String, String)>) -> Result<Vec<CString>, CommandError> {
    let fixed = [("HOME", fixed::WORKSPACE), ("LANG", "C.UTF-8"), ("PATH", fixed::PATH)];
    let mut all: BTreeMap<String, String> =
        fixed.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    all.extend(asked);
    all.iter().map(|(key, value)| text(&format!("{key}={value}"))).collect()
}

fn text(text: &str) -> Result<CString, CommandError> {
    CString::new(text).map_err(|_| CommandError::NotARequest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_evidence::call::TerminalSize;

    fn exec(argv: &[&str], env: &[(&str, &str)]) -> Result<(Command, Times), CommandError> {
        exec_on(None, argv, env)
    }

    fn exec_on(
        terminal: Option<TerminalSize>,
        argv: &[&str],
        env: &[(&str, &str)],
    ) -> Result<(Command, Times), CommandError> {
        let owned = |text: &&str| (*text).to_owned();
        let request = Request::Exec {
            argv: argv.iter().map(owned).collect(),
            cwd: "a/b".into(),
            env: env.iter().map(|(key, value)| (owned(key), owned(value))).collect(),
            timeout_ms: 5,
            grace_ms: 7,
            output_bytes_max: 9,
            terminal,
        };
        command(&request.to_bytes(), c"/own")
    }

    #[test]
    fn an_exec_gets_a_clean_environment_and_a_resolved_program() {
        let (command, times) = exec(&["sh", "-c", "true"], &[("LANG", "de_DE"), ("X", "1")]).unwrap();
        assert!(["/usr/bin/sh", "/bin/sh"].contains(&command.program.to_str().unwrap()));
        assert_eq!(command.arguments[0].to_str().unwrap(), "sh");
        let environment: Vec<_> = command.environment.iter().map(|text| text.to_str().unwrap().to_owned()).collect();
        let path = format!("PATH={}", fixed::PATH);
        assert_eq!(environment, ["HOME=/workspace", "LANG=de_DE", path.as_str(), "X=1"]);
        assert_eq!(times, Times { timeout: Duration::from_millis(5), grace: Duration::from_millis(7) });
        assert!(matches!(command.directory, Directory::Beneath(_, path) if path.to_str() == Ok("a/b")));
    }

    #[test]
    fn a_terminal_has_a_name_in_the_environment_and_the_clients_goes_before_ours() {
        let size = TerminalSize::new(24, 80);
        for (asked, expected) in [(None, "TERM=xterm-256color"), (Some(("TERM", "dumb")), "TERM=dumb")] {
            let (command, _) = exec_on(size, &["sh"], asked.as_slice()).unwrap();
            assert_eq!(command.terminal, size);
            let named: Vec<_> =
                command.environment.iter().filter(|text| text.to_bytes().starts_with(b"TERM=")).collect();
            assert_eq!(named.iter().map(|text| text.to_str().unwrap()).collect::<Vec<_>>(), [expected]);
        }
        let (command, _) = exec(&["sh"], &[]).unwrap();
        assert!(
            command.terminal.is_none() && !command.environment.iter().any(|text| text.to_bytes().starts_with(b"TERM="))
        );
    }

    #[test]
    fn a_program_that_is_nowhere_says_so_before_there_is_a_process() {
        let error = StartError { stage: Stage::Program, errno: libc::ENOENT };
        assert_eq!(exec(&["no-such-program"], &[]).unwrap_err(), CommandError::Start(error));
    }

    #[test]
    fn a_file_operation_runs_our_own_binary_with_the_path_as_one_argument() {
        let request = Request::ReadFile { path: "a b".into(), offset: 1, length: 2 };
        let (command, _) = super::command(&request.to_bytes(), c"/own").unwrap();
        assert_eq!(command.program.to_str().unwrap(), "/own");
        let arguments: Vec<_> = command.arguments.iter().map(|text| text.to_str().unwrap()).collect();
        assert_eq!(arguments, ["coffer-agent", "tool", "read", "a b", "1", "2"]);
    }

    #[test]
    fn each_file_request_has_the_words_that_its_tool_takes() {
        let path = || "a".to_owned();
        let digest = coffer_evidence::ids::Digest256::new([0xab; 32]);
        let write = |if_match| Request::WriteFile { path: path(), mode: 0o644, if_match };
        let list = |depth, page_token, page_size| Request::ListDirectory { path: path(), depth, page_token, page_size };
        let hex = "ab".repeat(32);
        let git = Request::Git { path: path(), order: coffer_evidence::git::GitOrder::Status };
        let git_words = format!("git a {}", hex::encode(git.to_bytes()));
        let rows: [(Request, &str); 13] = [
            (git, &git_words),
            (write(None), "write a 420 any"),
            (write(Some(IfMatch::Nothing)), "write a 420 nothing"),
            (write(Some(IfMatch::Content(digest))), &format!("write a 420 {hex}")),
            (list(None, None, None), "list a 1 10000 "),
            (list(Some(3), Some("ff".to_owned()), Some(7)), "list a 3 7 ff"),
            (Request::Remove { path: path(), reach: Reach::One }, "remove a one"),
            (Request::Remove { path: path(), reach: Reach::Tree }, "remove a tree"),
            (Request::Move { path: path(), destination: "b".into(), taken: Taken::Refuse }, "move a b refuse"),
            (Request::Move { path: path(), destination: "b".into(), taken: Taken::Replace }, "move a b replace"),
            (Request::MakeDirectory { path: path(), mode: 0o700, above: Above::Expected }, "mkdir a 448 expected"),
            (Request::MakeDirectory { path: path(), mode: 0o700, above: Above::Made }, "mkdir a 448 made"),
            (Request::Watch { path: path(), reach: Reach::Tree, timeout_ms: 60_000 }, "watch a tree 60000 900000"),
        ];
        for (request, words) in rows {
            let (command, times) = super::command(&request.to_bytes(), c"/own").unwrap();
            let arguments: Vec<_> = command.arguments[2..].iter().map(|text| text.to_str().unwrap()).collect();
            assert_eq!(arguments.join(" "), words);
            let expected = if words.starts_with("watch") { 70 } else { 600 };
            assert_eq!(times.timeout, Duration::from_secs(expected), "{words}");
        }
    }

    #[test]
    fn bytes_that_are_no_request_start_nothing() {
        assert_eq!(command(&[0xff], c"/own").unwrap_err(), CommandError::NotARequest);
    }

    #[test]
    fn identities_get_their_uids_in_the_order_of_the_intent() {
        let names = ["a".to_owned(), "b".to_owned()];
        let identities = Identities::new(&names).unwrap();
        assert_eq!((identities.uid("a"), identities.uid("b"), identities.uid("c")), (Some(10_000), Some(10_001), None));
        assert!(Identities::new(&["a".into(), "a".into()]).is_err());
        assert!(Identities::new(&["../a".into()]).is_err());
        assert!(Identities::new(&[]).is_err());
    }
}
