//! One leaf as a line: when, who, what, and what came of it.

use coffer_evidence::call::{Disclosed, IntentPrivate, OutcomePrivate, Request, RequestFlag};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::git::GitOrder;
use coffer_evidence::leaf::{Leaf, Method, Public};
use serde::Serialize;

use super::{files, header};
use crate::output::{Colour, printable};

/// What is known of a leaf's private part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Private {
    /// The leaf has none.
    None,
    /// It has one, and the bundle does not show it.
    Withheld,
    /// It is shown, and is the one committed to.
    Opened,
    /// What is shown is not what was committed to.
    False,
}

/// The JSON form of a leaf.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    index: u64,
    /// Nanoseconds of the guest's monotonic clock since the first leaf are the reader's to compute.
    monotonic_ns: u64,
    wall_hint_ms: u64,
    kind: &'static str,
    reporter: &'static str,
    identity: Option<String>,
    call: Option<String>,
    method: Option<&'static str>,
    rules: Vec<String>,
    cause: Option<&'static str>,
    detail: Option<String>,
    argv: Vec<String>,
    path: Option<String>,
    /// Of a move: the new path. Of a git fetch or push: the other repository.
    destination: Option<String>,
    /// Of a git call: what it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    git: Option<&'static str>,
    /// The commit that was signed for a git call.
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
    /// What was asked for beside the usual.
    flag: Option<&'static str>,
    code: Option<u64>,
    signal: Option<u64>,
    private: Private,
}

impl Line {
    pub(crate) fn new(leaf: &Leaf, disclosed: Option<&Disclosed>) -> Self {
        let mut line = Self {
            index: leaf.index,
            monotonic_ns: leaf.monotonic_ns,
            wall_hint_ms: leaf.wall_hint_ms,
            kind: leaf.kind().as_str(),
            reporter: leaf.reporter.as_str(),
            identity: leaf.identity.as_ref().map(ToString::to_string),
            call: leaf.call.map(|call| call.to_string()),
            method: None,
            rules: Vec::new(),
            cause: None,
            detail: None,
            argv: Vec::new(),
            path: None,
            destination: None,
            git: None,
            commit: None,
            flag: None,
            code: None,
            signal: None,
            private: match (leaf.commitment, disclosed) {
                (None, _) => Private::None,
                (Some(_), None) => Private::Withheld,
                (Some(_), Some(part)) if part.opens(leaf) => Private::Opened,
                (Some(_), Some(_)) => Private::False,
            },
        };
        line.public(&leaf.public);
        if let (Private::Opened, Some(part)) = (line.private, disclosed) {
            line.opened(&leaf.public, &part.bytes);
        }
        line
    }

    fn public(&mut self, public: &Public) {
        match public {
            Public::Open { instance, .. } => self.detail = Some(format!("instance {instance}")),
            Public::Intent { method, rules, .. } | Public::Denied { method, rules, .. } => {
                self.method = Some(method.as_str());
                self.rules.clone_from(rules);
                self.detail = public.header().map(|signed| header::place(&signed.header));
            }
            Public::Channel { speaker, .. } => self.detail = Some(format!("of {speaker}")),
            Public::Client { header: signed } => self.detail = Some(header::told(&signed.header)),
            Public::Rejected { reason, channel } => {
                self.detail = Some(format!("{reason}, channel {}", header::short(channel)));
            }
            Public::Outcome { method, cause, .. } => {
                self.method = Some(method.as_str());
                self.cause = Some(cause.as_str());
            }
            Public::Limit { which } => self.detail = Some(which.as_str().to_owned()),
            Public::Incomplete { method } => self.method = Some(method.as_str()),
            Public::Scrub { steps } => {
                let steps: Vec<String> = steps.iter().map(|(step, result)| format!("{step} {result}")).collect();
                self.detail = Some(steps.join(", "));
            }
            Public::Seal { count } => self.detail = Some(format!("{count} leaves")),
        }
    }

    fn opened(&mut self, public: &Public, bytes: &[u8]) {
        match public {
            Public::Intent { .. } | Public::Denied { .. } => {
                let private = IntentPrivate::parse(bytes);
                if private.as_ref().is_ok_and(|private| !public.is_signed(&private.client_salt, &private.request)) {
                    self.private = Private::False;
                }
                let request = private.and_then(|private| Request::parse(&private.request));
                match request {
                    Ok(Request::Exec { argv, cwd, .. }) => {
                        self.argv = argv;
                        self.path = Some(cwd);
                    }
                    Ok(Request::Move { path, destination, taken }) => {
                        self.path = Some(path);
                        self.destination = Some(destination);
                        self.flag = taken.flag().map(RequestFlag::as_str);
                    }
                    Ok(Request::Remove { path, reach } | Request::Watch { path, reach, .. }) => {
                        self.path = Some(path);
                        self.flag = reach.flag().map(RequestFlag::as_str);
                    }
                    Ok(Request::MakeDirectory { path, above, .. }) => {
                        self.path = Some(path);
                        self.flag = above.flag().map(RequestFlag::as_str);
                    }
                    Ok(Request::Git { path, order }) => {
                        self.path = Some(path);
                        self.git = Some(order.action().as_str());
                        if let GitOrder::Fetch { remote, .. } | GitOrder::Push { remote, .. } = order {
                            self.destination = Some(remote);
                        }
                    }
                    Ok(
                        Request::WriteFile { path, .. }
                        | Request::ReadFile { path, .. }
                        | Request::ListDirectory { path, .. }
                        | Request::Stat { path }
                        | Request::Upload { path }
                        | Request::Download { path },
                    ) => self.path = Some(path),
                    Err(_) => self.private = Private::False,
                }
            }
            Public::Outcome { method, .. } => match OutcomePrivate::parse(bytes) {
                Ok(outcome) => {
                    self.code = outcome.code;
                    self.signal = outcome.signal;
                    self.commit = outcome.commit.map(|commit| commit.to_string());
                    self.detail = details(*method, &outcome);
                }
                Err(_) => self.private = Private::False,
            },
            _ => {}
        }
    }

    /// What a reader looks for first: what was refused, what went wrong, what is false.
    pub(crate) fn colour(&self) -> Option<Colour> {
        let failed = self.code.is_some_and(|code| code != 0) || self.cause.is_some_and(|cause| cause != "completed");
        match (self.private, self.kind) {
            (Private::False, _) => Some(Colour::Bad),
            (_, "denied" | "rejected" | "limit" | "incomplete") => Some(Colour::Doubtful),
            (_, "outcome") if failed => Some(Colour::Doubtful),
            (_, "intent") => Some(Colour::Strong),
            _ => None,
        }
    }

    /// The line for people.
    pub(crate) fn text(&self) -> String {
        let seconds = self.monotonic_ns / 1_000_000_000;
        let milliseconds = self.monotonic_ns / 1_000_000 % 1_000;
        let mut words = vec![format!("{:>6}  {seconds:>5}.{milliseconds:03}  {:<10}", self.index, self.kind)];
        words.extend(self.identity.clone());
        // Enough of a call's id to tell which outcome belongs to which intent.
        words.extend(self.call.as_ref().and_then(|call| call.get(..8)).map(str::to_owned));
        words.extend(self.method.map(str::to_owned));
        words.extend(self.git.map(str::to_owned));
        if !self.argv.is_empty() {
            words.push(self.argv.iter().map(|argument| quoted(argument)).collect::<Vec<_>>().join(" "));
        }
        words.extend(self.path.as_ref().and_then(|path| match (path.as_str(), self.argv.is_empty()) {
            ("", true) => Some(".".to_owned()),
            ("", false) => None,
            (path, true) => Some(quoted(path)),
            (path, false) => Some(format!("(in {})", quoted(path))),
        }));
        if let (Some(path), Some(destination)) = (words.last_mut().filter(|_| self.path.is_some()), &self.destination) {
            path.push_str(&format!(" -> {}", quoted(destination)));
        }
        words.extend(self.flag.map(|flag| format!("({flag})")));
        words.extend(self.cause.map(str::to_owned));
        words.extend(self.code.map(|code| format!("exit {code}")));
        words.extend(self.commit.as_ref().map(|commit| format!("commit {commit}")));
        words.extend(self.signal.map(|signal| format!("signal {signal}")));
        words.extend(self.detail.as_deref().map(printable));
        if !self.rules.is_empty() {
            words.push(format!("by {}", printable(&self.rules.join(", "))));
        }
        match self.private {
            Private::None | Private::Opened => {}
            Private::Withheld => words.push("(private part withheld)".to_owned()),
            Private::False => {
                words.push("(FALSE: what is disclosed is not what was committed to or signed)".to_owned());
            }
        }
        words.join("  ")
    }
}

/// The guest counts the entries of an archive, directories included, and the bytes of the archive.
fn details(method: Method, outcome: &OutcomePrivate) -> Option<String> {
    let mut details = Vec::new();
    details.extend(outcome.stage.as_ref().map(|stage| format!("at {stage}")));
    details.extend(outcome.errno.map(|errno| format!("errno {errno}")));
    details.extend(outcome.files.and_then(|files| match method {
        Method::Move | Method::Git => None,
        Method::Remove => Some(format!("{files} removed")),
        Method::MakeDirectory => Some(format!("{files} made")),
        Method::Watch => Some(if files == 1 { "1 change told".to_owned() } else { format!("{files} changes told") }),
        _ => Some(if files == 1 { "1 entry".to_owned() } else { format!("{files} entries") }),
    }));
    let bytes = match method {
        Method::Upload | Method::Download => Some("archive bytes"),
        // They move no content.
        Method::Remove | Method::Move | Method::MakeDirectory | Method::Watch => None,
        _ => Some("bytes"),
    };
    details.extend(outcome.size.zip(bytes).map(|(size, bytes)| format!("{size} {bytes}")));
    details.extend(outcome.stdout.map(|stream| format!("{} bytes out", stream.total)));
    details.extend(outcome.stderr.filter(|s| s.total > 0).map(|stream| format!("{} bytes err", stream.total)));
    details.extend(outcome.usage.map(|usage| format!("{} ms", usage.wall_ms)));
    let record = outcome.record.as_ref().filter(|_| method == Method::Exec).and_then(|record| record.read().ok());
    details.extend(record.map(|record| format!("files: {}", files::summary(&record))));
    (!details.is_empty()).then(|| details.join(", "))
}

/// An argument as it can be told from its neighbours.
fn quoted(text: &str) -> String {
    let shown = printable(text);
    let plain =
        !shown.is_empty() && !shown.contains([' ', '\'', '"', '\\', '$', '`', '*', '?', ';', '&', '|', '<', '>', '(']);
    if plain { shown } else { format!("'{}'", shown.replace('\'', "\\'")) }
}

#[cfg(test)]
mod tests {
    use coffer_evidence::call::{Above, Reach, Taken};
    use coffer_evidence::ids::{CallId, Identity, SessionId};
    use coffer_evidence::leaf::{CauseClass, Reporter, commitment};

    use super::*;

    #[test]
    fn arguments_are_told_apart_and_never_control_a_terminal() {
        assert_eq!(quoted("plain-1.txt"), "plain-1.txt");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("\x1b]0;x"), "'\\u{1b}]0;x'");
    }

    #[test]
    fn a_transfer_is_told_as_the_guest_counts_it() {
        let told = |method, files, size| {
            details(method, &OutcomePrivate { files, size, ..OutcomePrivate::new(CauseClass::Completed) })
        };
        assert_eq!(told(Method::Upload, Some(1), Some(3072)).as_deref(), Some("1 entry, 3072 archive bytes"));
        assert_eq!(told(Method::Download, Some(2), Some(3072)).as_deref(), Some("2 entries, 3072 archive bytes"));
        assert_eq!(told(Method::ReadFile, None, Some(7)).as_deref(), Some("7 bytes"));
        assert_eq!(told(Method::Remove, Some(12), Some(0)).as_deref(), Some("12 removed"));
        assert_eq!(told(Method::MakeDirectory, Some(2), Some(0)).as_deref(), Some("2 made"));
        assert_eq!(told(Method::Watch, Some(1), Some(0)).as_deref(), Some("1 change told"));
        assert_eq!(told(Method::Move, Some(1), Some(0)), None);
    }

    #[test]
    fn an_order_is_told_with_both_its_names_and_what_was_asked_beside() {
        let (path, destination) = ("a b".to_owned(), "c\x1b".to_owned());
        for (request, expected) in [
            (Request::Remove { path: path.clone(), reach: Reach::Tree }, "remove  'a b'  (recursive)"),
            (Request::Remove { path: path.clone(), reach: Reach::One }, "remove  'a b'"),
            (
                Request::Move { path: path.clone(), destination, taken: Taken::Replace },
                "move  'a b' -> 'c\\u{1b}'  (replace)",
            ),
            (
                Request::MakeDirectory { path: path.clone(), mode: 0o755, above: Above::Made },
                "make_directory  'a b'  (parents)",
            ),
            (Request::Git { path: path.clone(), order: GitOrder::Status }, "git  status  'a b'"),
            (
                Request::Git { path: "r".into(), order: GitOrder::Push { remote: "up".into(), branch: "b".into() } },
                "git  push  r -> up",
            ),
            (Request::Watch { path: String::new(), reach: Reach::Tree, timeout_ms: 1 }, "watch  .  (recursive)"),
        ] {
            let private =
                IntentPrivate { client_salt: [1; 32], request: request.to_bytes(), program: None, paths: Vec::new() };
            let part = Disclosed { index: 0, salt: [2; 32], bytes: private.to_bytes() };
            let leaf = Leaf {
                session: SessionId::new([3; 16]),
                index: 0,
                reporter: Reporter::Agent,
                identity: Some(Identity::default_name()),
                call: Some(CallId::new([4; 16])),
                monotonic_ns: 0,
                wall_hint_ms: 0,
                public: Public::Intent { method: request.method(), rules: Vec::new(), request_steps: 1, header: None },
                commitment: Some(commitment(&part.salt, &part.bytes)),
            };
            let text = Line::new(&leaf, Some(&part)).text();
            assert!(text.ends_with(expected), "{text:?} does not end with {expected:?}");
        }
    }
}
