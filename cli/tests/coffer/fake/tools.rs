//! The guest of the fake: programs and archives as the tests want them.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use coffer_proto::guest::v1 as pb;
use coffer_proto::guest::v1::tool_service_server::ToolService;
use pb::download_response::Response as Down;
use pb::exec_request::Request as In;
use pb::exec_response::Response as Out;
use pb::upload_request::Request as Up;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use tonic_types::{ErrorDetails, StatusExt as _};

use super::{Shared, refusal};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The answers to an exec, with how far each stream has come.
struct Reply {
    answers: mpsc::Sender<Result<pb::ExecResponse, Status>>,
    out: AtomicU64,
    err: AtomicU64,
}

fn exited(cause: pb::ExitCause, code: i32, signal: i32) -> pb::Exited {
    pb::Exited { cause: cause.into(), code, signal, ..pb::Exited::default() }
}

async fn send(reply: &Reply, response: Out) -> bool {
    reply.answers.send(Ok(pb::ExecResponse { response: Some(response) })).await.is_ok()
}

async fn out(reply: &Reply, data: &[u8]) -> bool {
    let offset = reply.out.fetch_add(data.len() as u64, Ordering::Relaxed);
    send(reply, Out::Stdout(pb::Output { offset, data: data.to_vec().into() })).await
}

async fn err(reply: &Reply, data: &[u8]) -> bool {
    let offset = reply.err.fetch_add(data.len() as u64, Ordering::Relaxed);
    send(reply, Out::Stderr(pb::Output { offset, data: data.to_vec().into() })).await
}

impl Shared {
    /// One program; what it returns is its exit.
    async fn program(
        &self,
        start: pb::ExecStart,
        input: &mut Streaming<pb::ExecRequest>,
        reply: &Reply,
    ) -> Result<pb::Exited, Status> {
        let argv: Vec<&str> = start.argv.iter().map(String::as_str).collect();
        let number = || argv.get(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        match argv[0] {
            "echo" => {
                out(reply, format!("{}\n", argv[1..].join(" ")).as_bytes()).await;
                err(reply, b"to stderr\n").await;
            }
            "env" => {
                let mut env: Vec<String> = start.env.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
                env.sort();
                env.push(format!("cwd={} timeout={}\n", start.cwd, start.timeout_ms));
                out(reply, env.concat().as_bytes()).await;
            }
            "cat" => {
                let mut taken = 0;
                while let Some(message) = input.message().await? {
                    match message.request {
                        Some(In::Stdin(data)) => {
                            self.lock().stdin.extend_from_slice(&data);
                            taken += data.len() as u64;
                            send(reply, Out::StdinTaken(pb::StdinTaken { offset: taken })).await;
                            out(reply, &data).await;
                        }
                        Some(In::Received(_)) => {}
                        _ => break,
                    }
                }
            }
            "yes" => {
                while out(reply, &[b'y'; 4096]).await {
                    let came = tokio::time::timeout(std::time::Duration::ZERO, input.message()).await;
                    if came.is_ok_and(|message| {
                        matches!(message, Ok(Some(pb::ExecRequest { request: Some(In::Cancel(_)) })))
                    }) {
                        self.ask("cancelled");
                        return Ok(exited(pb::ExitCause::Cancelled, 0, 15));
                    }
                }
            }
            "sleep" | "sleep-gone" => {
                while let Some(message) = input.message().await? {
                    if let Some(In::Signal(pb::Signal { number })) = message.request {
                        self.ask(format!("signal {number}"));
                        return Ok(exited(pb::ExitCause::Signalled, 0, number));
                    }
                    if matches!(message.request, Some(In::Cancel(_))) {
                        self.ask("cancelled");
                        if argv[0] == "sleep-gone" {
                            return Err(refusal(Code::Unknown, "OUTCOME_UNKNOWN", "the guest went away"));
                        }
                        return Ok(exited(pb::ExitCause::Cancelled, 0, 15));
                    }
                }
                self.ask("left alone");
            }
            // Takes signals as they come, and ends when it is cancelled.
            "stubborn" => {
                while let Some(message) = input.message().await? {
                    match message.request {
                        Some(In::Signal(pb::Signal { number })) => self.ask(format!("signal {number}")),
                        Some(In::Cancel(_)) => {
                            self.ask("cancelled");
                            return Ok(exited(pb::ExitCause::Cancelled, 0, 15));
                        }
                        _ => {}
                    }
                }
            }
            // The connection breaks after the first word; who comes back with it gets the second.
            "flaky" => match start.resume {
                None => {
                    out(reply, b"one\n").await;
                    return Err(Status::unavailable("connection reset"));
                }
                Some(at) => {
                    self.ask(format!("resumed at {} {}", at.stdout, at.stderr));
                    reply.out.store(at.stdout, Ordering::Relaxed);
                    out(reply, b"two\n").await;
                }
            },
            // As the one before, and the guest has less than what is asked for.
            "forgetful" => match start.resume {
                None => {
                    out(reply, b"one\n").await;
                    return Err(Status::unavailable("connection reset"));
                }
                Some(pb::Offsets { stdout: 100, .. }) => {
                    reply.out.store(100, Ordering::Relaxed);
                    out(reply, b"two\n").await;
                }
                Some(_) => {
                    let numbers = [("stdout", "100"), ("stderr", "0")];
                    let numbers = numbers.map(|(name, number)| (name.to_owned(), number.to_owned()));
                    let details = ErrorDetails::with_error_info("OUTPUT_GONE", "coffer.dev", numbers);
                    return Err(Status::with_error_details(Code::OutOfRange, "OUTPUT_GONE: kept no longer", details));
                }
            },
            "elsewhere" => return Err(refusal(Code::Aborted, "ATTACHED_ELSEWHERE", "another client attached")),
            // What a terminal is told of, until it is sent a line.
            "terminal" => {
                let size = start.terminal.unwrap_or_default();
                self.ask(format!(
                    "terminal {} {} {}",
                    size.rows,
                    size.columns,
                    start.env.get("TERM").map_or("", |t| t)
                ));
                out(reply, b"ready\r\n").await;
                while let Some(message) = input.message().await? {
                    match message.request {
                        Some(In::Resize(size)) => self.ask(format!("resize {} {}", size.rows, size.columns)),
                        Some(In::Stdin(data)) => {
                            self.ask(format!("typed {data:?}"));
                            if data.contains(&b'q') {
                                break;
                            }
                        }
                        _ => {}
                    }
                }
            }
            // Neither reads nor answers.
            "deaf" => std::future::pending().await,
            "exit" => return Ok(exited(pb::ExitCause::Exited, number(), 0)),
            "signal" => return Ok(exited(pb::ExitCause::Signalled, 0, number())),
            "slow" => return Ok(exited(pb::ExitCause::TimedOut, 0, 15)),
            "closing" => return Ok(exited(pb::ExitCause::SessionClosing, 0, 15)),
            "gone" => return Err(refusal(Code::Unknown, "OUTCOME_UNKNOWN", "the guest went away")),
            // Nobody of Coffer says this; a broken connection looks like it. The guest does not know either, later.
            "broken" if start.resume.is_none() => return Err(Status::unavailable("connection reset")),
            "broken" => return Err(refusal(Code::Unknown, "OUTCOME_UNKNOWN", "the call ran")),
            "silent" => return Err(refusal(Code::Unknown, "OUTCOME_UNKNOWN", "the call ran")),
            program => {
                let errno = if program == "/etc/passwd" { 13 } else { 2 };
                let stage = if start.cwd == "gone" { "cwd" } else { "program" };
                let exit = exited(pb::ExitCause::FailedToStart, 0, 0);
                return Ok(pb::Exited { errno, stage: stage.to_owned(), ..exit });
            }
        }
        Ok(exited(pb::ExitCause::Exited, 0, 0))
    }
}

/// An upload that goes on. A client that leaves may end the stream, or have the server drop who reads it: both are a reset.
struct Unfinished<'a>(&'a Shared);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.ask("upload reset");
    }
}

#[tonic::async_trait]
impl ToolService for Shared {
    type ExecStream = Answers<pb::ExecResponse>;
    type ReadFileStream = Answers<pb::ReadFileResponse>;
    type DownloadStream = Answers<pb::DownloadResponse>;
    type WatchStream = Answers<pb::WatchResponse>;
    type GitStream = Answers<pb::GitResponse>;

    async fn exec(&self, request: Request<Streaming<pb::ExecRequest>>) -> Result<Response<Self::ExecStream>, Status> {
        assert!(request.metadata().contains_key("coffer-session"), "the session is named in the metadata");
        let (answers, receiver) = mpsc::channel(4);
        let reply = Reply { answers, out: AtomicU64::new(0), err: AtomicU64::new(0) };
        let shared = self.clone();
        let mut input = request.into_inner();
        tokio::spawn(async move {
            let Ok(Some(pb::ExecRequest { request: Some(In::Start(start)) })) = input.message().await else { return };
            shared.ask(format!("exec {}", start.argv.join(" ")));
            send(&reply, Out::Started(pb::Started { intent_index: 1, stdin_offset: 0 })).await;
            if start.argv[0] == "silent" && start.resume.is_none() {
                return;
            }
            let gone = reply.answers.clone();
            let result = tokio::select! {
                result = shared.program(start, &mut input, &reply) => result,
                () = gone.closed() => return shared.ask("dropped"),
            };
            match result {
                Ok(exited) => drop(send(&reply, Out::Exited(exited)).await),
                Err(status) => drop(reply.answers.send(Err(status)).await),
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn stat(&self, request: Request<pb::StatRequest>) -> Result<Response<pb::StatResponse>, Status> {
        let path = request.into_inner().path;
        self.ask(format!("stat {path}"));
        let kind = match path.as_str() {
            "directory" | "empty" => pb::EntryKind::Directory,
            "pipe" => pb::EntryKind::Other,
            "evil\u{1b}[2J" => pb::EntryKind::File,
            _ => return Err(refusal(Code::NotFound, "FILE_NOT_FOUND", &path)),
        };
        let entry = pb::Entry { name: path.into(), kind: kind.into(), ..pb::Entry::default() };
        Ok(Response::new(pb::StatResponse { entry: Some(entry), intent_index: 1, outcome_index: 2 }))
    }

    async fn upload(
        &self,
        request: Request<Streaming<pb::UploadRequest>>,
    ) -> Result<Response<pb::UploadResponse>, Status> {
        let mut input = request.into_inner();
        let Some(Up::Start(start)) = input.message().await?.and_then(|message| message.request) else {
            return Err(Status::invalid_argument("no start"));
        };
        self.ask(format!("upload {}", start.path));
        if start.path == "refused" {
            return Err(refusal(Code::ResourceExhausted, "NO_SPACE", "the workspace is full"));
        }
        let mut stream = Vec::new();
        let unfinished = Unfinished(self);
        loop {
            match input.message().await? {
                Some(pb::UploadRequest { request: Some(Up::Data(data)) }) => stream.extend_from_slice(&data),
                Some(_) => return Err(Status::invalid_argument("not data")),
                None => break,
            }
        }
        std::mem::forget(unfinished);
        let mut sha256 = Sha256::digest(&stream).to_vec();
        if start.path == "changed" {
            sha256[0] ^= 1;
        }
        let bytes = stream.len() as u64;
        self.lock().uploaded = stream;
        self.ask("upload done");
        Ok(Response::new(pb::UploadResponse {
            files: 1,
            bytes,
            sha256: sha256.into(),
            intent_index: 1,
            outcome_index: 2,
        }))
    }

    async fn download(&self, request: Request<pb::DownloadRequest>) -> Result<Response<Self::DownloadStream>, Status> {
        let path = request.into_inner().path;
        self.ask(format!("download {path}"));
        let stream = match archive(&path) {
            Some(stream) => stream,
            None if path.is_empty() => archive("tree").expect("a tree"),
            None => return Err(refusal(Code::NotFound, "FILE_NOT_FOUND", &path)),
        };
        let mut sha256 = Sha256::digest(&stream).to_vec();
        if path == "changed" {
            sha256[0] ^= 1;
        }
        let data = |chunk: &[u8]| pb::DownloadResponse { response: Some(Down::Data(chunk.to_vec().into())) };
        let mut messages: Vec<Result<pb::DownloadResponse, Status>> =
            stream.chunks(5_000).map(|c| Ok(data(c))).collect();
        let special = u64::from(path == "pipe") + 3 * u64::from(path == "links");
        let trailer =
            pb::DownloadTrailer { size: stream.len() as u64, sha256: sha256.into(), outcome_index: 2, special };
        if path != "cut" {
            messages.push(Ok(pb::DownloadResponse { response: Some(Down::Trailer(trailer)) }));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn write_file(
        &self,
        _: Request<Streaming<pb::WriteFileRequest>>,
    ) -> Result<Response<pb::WriteFileResponse>, Status> {
        Err(Status::unimplemented("the command does not use it"))
    }

    async fn read_file(&self, _: Request<pb::ReadFileRequest>) -> Result<Response<Self::ReadFileStream>, Status> {
        Err(Status::unimplemented("the command does not use it"))
    }

    async fn list_directory(
        &self,
        request: Request<pb::ListDirectoryRequest>,
    ) -> Result<Response<pb::ListDirectoryResponse>, Status> {
        let request = request.into_inner();
        self.ask(format!("list {} {} {}", request.path, request.depth, request.page_token));
        let entry = |name: &[u8], kind: pb::EntryKind, target: &[u8]| pb::Entry {
            name: name.to_vec().into(),
            kind: kind.into(),
            size: 7,
            mode: 0o644,
            modified_at_ms: 0,
            symlink_target: target.to_vec().into(),
        };
        let first = request.page_token.is_empty();
        if request.path == "ever-new" {
            let next_page_token = format!("{}x", request.page_token);
            return Ok(Response::new(pb::ListDirectoryResponse { next_page_token, ..Default::default() }));
        }
        let entries = match first {
            true => vec![entry(b"a\x1b[2J", pb::EntryKind::File, b""), entry(b"b", pb::EntryKind::Directory, b"")],
            false => vec![entry(b"b/\xff", pb::EntryKind::Symlink, b"/etc\n")],
        };
        // One that says the same for ever.
        let more = first || request.path == "endless";
        Ok(Response::new(pb::ListDirectoryResponse {
            entries,
            truncated: more,
            next_page_token: if more { "next".to_owned() } else { String::new() },
            unreadable: u64::from(first),
            intent_index: 1,
            outcome_index: 2,
        }))
    }

    async fn remove(&self, request: Request<pb::RemoveRequest>) -> Result<Response<pb::RemoveResponse>, Status> {
        let pb::RemoveRequest { path, recursive, .. } = request.into_inner();
        self.ask(format!("remove {path} {recursive}"));
        if path == "directory" && !recursive {
            return Err(refusal(Code::FailedPrecondition, "WRONG_KIND", "found a directory"));
        }
        let removed = if recursive { 12 } else { 1 };
        Ok(Response::new(pb::RemoveResponse { removed, intent_index: 1, outcome_index: 2 }))
    }

    async fn r#move(&self, request: Request<pb::MoveRequest>) -> Result<Response<pb::MoveResponse>, Status> {
        let pb::MoveRequest { path, destination, replace, .. } = request.into_inner();
        self.ask(format!("move {path} {destination} {replace}"));
        if destination == "taken" && !replace {
            return Err(refusal(Code::FailedPrecondition, "WRONG_KIND", "found it taken"));
        }
        Ok(Response::new(pb::MoveResponse { intent_index: 1, outcome_index: 2 }))
    }

    async fn make_directory(
        &self,
        request: Request<pb::MakeDirectoryRequest>,
    ) -> Result<Response<pb::MakeDirectoryResponse>, Status> {
        let pb::MakeDirectoryRequest { path, parents, .. } = request.into_inner();
        self.ask(format!("mkdir {path} {parents}"));
        let made = if parents { 2 } else { 1 };
        Ok(Response::new(pb::MakeDirectoryResponse { made, intent_index: 1, outcome_index: 2 }))
    }

    async fn git(&self, request: Request<pb::GitRequest>) -> Result<Response<Self::GitStream>, Status> {
        use pb::git_request::Operation;
        use pb::git_response::Response as Part;
        let pb::GitRequest { path, operation, .. } = request.into_inner();
        let asked = match operation {
            Some(Operation::Status(_)) => "status".to_owned(),
            Some(Operation::Diff(d)) => format!("diff {} {} {}", d.staged, d.revision, d.paths.join(" ")),
            Some(Operation::Log(l)) => format!("log {} {} {}", l.revision, l.count, l.paths.join(" ")),
            Some(Operation::Add(add)) => format!("add {}", add.paths.join(" ")),
            Some(Operation::Commit(c)) => format!("commit {} {} {}", c.message, c.author_name, c.author_email),
            Some(Operation::Branch(branch)) => match branch.change {
                None => "branch list".to_owned(),
                Some(pb::git_branch::Change::Create(c)) => format!("branch create {} {}", c.name, c.revision),
                Some(pb::git_branch::Change::Switch(name)) => format!("branch switch {name}"),
                Some(pb::git_branch::Change::Delete(name)) => format!("branch delete {name}"),
            },
            Some(Operation::Fetch(fetch)) => format!("fetch {} {}", fetch.remote, fetch.branch),
            Some(Operation::Push(push)) => format!("push {} {}", push.remote, push.branch),
            None => "nothing".to_owned(),
        };
        self.ask(format!("git {path} {asked}"));
        if path == "broken" {
            return Err(refusal(Code::FailedPrecondition, "GIT_FAILED", "expected a repository"));
        }
        let data = b"output of git\n";
        let output = pb::Stream {
            bytes_total: data.len() as u64,
            bytes_delivered: data.len() as u64,
            sha256: Sha256::digest(data).to_vec().into(),
        };
        let trailer = pb::GitTrailer {
            output: Some(output),
            said: b"warning: \x1b[2J\n".to_vec().into(),
            commit: String::new(),
            intent_index: 1,
            outcome_index: 2,
        };
        let parts = [Some(Part::Data(data.to_vec().into())), (path != "cut").then_some(Part::Trailer(trailer))];
        let messages: Vec<_> =
            parts.into_iter().flatten().map(|part| Ok(pb::GitResponse { response: Some(part) })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        use pb::watch_response::Response as News;
        let pb::WatchRequest { path, recursive, timeout_ms, .. } = request.into_inner();
        self.ask(format!("watch {path} {recursive} {timeout_ms}"));
        let moved = pb::Change {
            kind: pb::ChangeKind::Moved.into(),
            path: b"b\r".to_vec().into(),
            moved_from: b"a".to_vec().into(),
            directory: true,
        };
        let ended = pb::WatchEnded { end: pb::WatchEnd::Timeout.into(), changes: 1, outcome_index: 2 };
        let news = [
            Some(News::Started(pb::WatchStarted { intent_index: 1 })),
            Some(News::Change(moved)),
            Some(News::Lagged(pb::Lagged {})),
            (path != "cut").then_some(News::Ended(ended)),
        ];
        let messages: Vec<_> =
            news.into_iter().flatten().map(|news| Ok(pb::WatchResponse { response: Some(news) })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }
}

/// What can be fetched, by name.
fn archive(name: &str) -> Option<Vec<u8>> {
    use tar::EntryType::{Char, Link, Regular, Symlink};
    let entries: &[(&str, tar::EntryType, &str)] = match name {
        "tree" | "changed" | "cut" => &[("a/file", Regular, "content"), ("link", Symlink, "a/file")],
        // A guest packs nothing of a pipe.
        "empty" | "pipe" => &[],
        "file" => &[("file", Regular, "content")],
        "above" => &[("../above", Regular, "content")],
        "sideways" => &[("a/../../above", Regular, "content")],
        "absolute" => &[("/tmp/coffer-absolute", Regular, "content")],
        "device" => &[("null", Char, "")],
        "hard" => &[("passwd", Link, "/etc/passwd")],
        "through" => &[("d", Symlink, "."), ("d/file", Regular, "content")],
        "links" => &[("etc", Symlink, "/etc"), ("up", Symlink, "../../x"), ("file", Regular, "content")],
        _ => return None,
    };
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        // The library refuses such names; a hostile guest does not.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        let data: &[u8] = if *kind == Regular { content.as_bytes() } else { &[] };
        if matches!(kind, Symlink | Link) {
            header.set_link_name_literal(content).expect("a link name");
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).expect("an entry");
    }
    Some(builder.into_inner().expect("an archive"))
}
