//! Calls of several identities to one guest, each noted with what it must leave in the log.

use std::collections::BTreeMap;
use std::sync::Mutex;

use anyhow::{Context as _, ensure};
use coffer_evidence::leaf::{CauseClass, Leaf, Public};
use coffer_proto::guest::v1 as pb;
use coffer_tests::guest::{Guest, call_header};
use pb::exec_request::Request;
use pb::exec_response::Response;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// What a call leaves in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// An intent, allowed by some rule, and an outcome.
    Call,
    /// An intent that these rules allowed, and an outcome.
    By(&'static [&'static str]),
    /// That it was denied by these rules; by none when no rule allows it.
    Denied(&'static [&'static str]),
}

/// What a file tool is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Read,
    Write,
    List,
    Stat,
    Remove,
    Make,
    Move,
    Watch,
    Upload,
    Download,
}

use Asked::{Download, List, Make, Move, Read, Remove, Stat, Upload, Watch, Write};

/// Every one of them.
pub(crate) const ASKED: [Asked; 10] = [Read, Write, List, Stat, Remove, Make, Move, Watch, Upload, Download];

type Tools = pb::tool_service_client::ToolServiceClient<tonic::transport::Channel>;

/// The connection to a guest, and its calls by their id.
pub(crate) struct Session {
    tools: Tools,
    calls: Mutex<BTreeMap<[u8; 16], (String, Left)>>,
}

/// How a program ended, with what it said on both streams.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exited: pb::Exited,
    pub(crate) out: String,
}

/// A program that runs.
pub(crate) struct Running {
    requests: mpsc::Sender<pb::ExecRequest>,
    responses: Streaming<pb::ExecResponse>,
    out: Vec<u8>,
}

impl Session {
    pub(crate) async fn connect(guest: &Guest) -> anyhow::Result<Self> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("unix:{}", guest.tools()?.display()))?;
        Ok(Self { tools: Tools::new(endpoint.connect().await?), calls: Mutex::default() })
    }

    fn header(&self, what: &str, identity: &str, left: Left) -> Option<pb::CallHeader> {
        let header = call_header(identity).expect("randomness").expect("a header");
        let id = header.call_id.as_ref().try_into().expect("16 bytes");
        self.calls.lock().expect("calls").insert(id, (format!("{identity}: {what}"), left));
        Some(header)
    }

    /// An exec in the identity's own directory.
    pub(crate) fn exec(&self, identity: &str, argv: &[&str], left: Left) -> pb::ExecStart {
        pb::ExecStart {
            header: self.header(&argv.join(" "), identity, left),
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            cwd: identity.into(),
            ..pb::ExecStart::default()
        }
    }

    pub(crate) async fn start(&self, start: pb::ExecStart) -> Result<Running, Status> {
        let (requests, receiver) = mpsc::channel(16);
        let first = requests.send(pb::ExecRequest { request: Some(Request::Start(start)) }).await;
        first.map_err(|_| Status::unknown("the queue is closed"))?;
        let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let responses = self.tools.clone().exec(receiver).await?.into_inner();
        Ok(Running { requests, responses, out: Vec::new() })
    }

    /// Runs a program to its end.
    pub(crate) async fn run(&self, identity: &str, argv: &[&str], left: Left) -> Result<Ended, Status> {
        self.start(self.exec(identity, argv, left)).await?.ends().await
    }

    /// A script of Python that has said `up`, and goes on.
    pub(crate) async fn going(&self, identity: &str, script: &str) -> anyhow::Result<Running> {
        let start = self.exec(identity, &["python3", "-IS", "-c", script], Left::Call);
        let mut running = self.start(start).await?;
        running.until("up\n").await?;
        Ok(running)
    }

    /// What a script of Python says, which ends well.
    pub(crate) async fn script(&self, identity: &str, script: &str) -> anyhow::Result<String> {
        let ended = self.run(identity, &["python3", "-IS", "-c", script], Left::Call).await?;
        let exited = &ended.exited;
        ensure!((exited.cause(), exited.code) == (pb::ExitCause::Exited, 0), "{identity}: {script}: {ended:?}");
        Ok(ended.out)
    }

    /// Runs a line of Python, and tells the errno that it met, `ok`, or that there was no start.
    pub(crate) async fn line(&self, identity: &str, line: &str) -> anyhow::Result<String> {
        let imports = "import ctypes, errno, fcntl, os, socket";
        let script =
            format!("{imports}\ntry:\n exec({line:?})\n print('ok')\nexcept OSError as error: print(error.errno)");
        let ended = self.run(identity, &["python3", "-IS", "-c", &script], Left::Call).await?;
        if ended.exited.cause() == pb::ExitCause::FailedToStart {
            return Ok(format!("no start: {} {}", ended.exited.stage, ended.exited.errno));
        }
        Ok(ended.out.trim().to_owned())
    }

    /// Writes a file.
    pub(crate) async fn write(
        &self,
        identity: &str,
        path: &str,
        mode: u32,
        content: &[u8],
        left: Left,
    ) -> Result<(), Status> {
        use pb::write_file_request::Request;
        let header = self.header(&format!("write {path}"), identity, left);
        let start = pb::WriteFileStart { header, path: path.into(), mode, ..pb::WriteFileStart::default() };
        let mut requests = vec![Request::Start(start)];
        requests.extend(content.chunks(60_000).map(|chunk| Request::Data(chunk.to_vec().into())));
        let requests: Vec<_> =
            requests.into_iter().map(|request| pb::WriteFileRequest { request: Some(request) }).collect();
        self.tools.clone().write_file(tokio_stream::iter(requests)).await.map(drop)
    }

    /// Asks a file tool for something; gives the content of what was read.
    pub(crate) async fn ask(&self, identity: &str, asked: Asked, path: &str, left: Left) -> Result<Vec<u8>, Status> {
        if asked == Write {
            return self.write(identity, path, 0, b"written", left).await.map(|()| Vec::new());
        }
        let header = self.header(&format!("{asked:?} {path}"), identity, left);
        let (mut tools, path) = (self.tools.clone(), path.to_owned());
        match asked {
            Read => {
                let request = pb::ReadFileRequest { header, path, offset: 0, length: 0 };
                let (mut stream, mut content) = (tools.read_file(request).await?.into_inner(), Vec::new());
                while let Some(message) = stream.message().await? {
                    if let Some(pb::read_file_response::Response::Data(bytes)) = message.response {
                        content.extend_from_slice(&bytes);
                    }
                }
                return Ok(content);
            }
            Download => {
                let request = pb::DownloadRequest { header, path };
                let mut stream = tools.download(request).await?.into_inner();
                while stream.message().await?.is_some() {}
            }
            Watch => {
                let request = pb::WatchRequest { header, path, recursive: false, timeout_ms: 1 };
                let mut stream = tools.watch(request).await?.into_inner();
                while stream.message().await?.is_some() {}
            }
            Upload => {
                let start = pb::UploadStart { header, path };
                let archive = pb::upload_request::Request::Data(vec![0; 1024].into());
                let requests = [pb::upload_request::Request::Start(start), archive];
                let requests = requests.map(|request| pb::UploadRequest { request: Some(request) });
                tools.upload(tokio_stream::iter(requests)).await?;
            }
            List => drop(tools.list_directory(pb::ListDirectoryRequest { header, path, ..Default::default() }).await?),
            Stat => drop(tools.stat(pb::StatRequest { header, path }).await?),
            Remove => drop(tools.remove(pb::RemoveRequest { header, path, recursive: false }).await?),
            Make => {
                let request = pb::MakeDirectoryRequest { header, path, mode: 0, parents: false };
                drop(tools.make_directory(request).await?);
            }
            Move => {
                let destination = format!("{path}-moved");
                drop(tools.r#move(pb::MoveRequest { header, path, destination, replace: false }).await?);
            }
            Write => {}
        }
        Ok(Vec::new())
    }

    /// What the log holds that it should not, or lacks: each call left what was noted for it, and there is no other.
    pub(crate) fn misplaced(self, leaves: &[Leaf]) -> Vec<String> {
        let mut held: BTreeMap<[u8; 16], Vec<&Public>> = BTreeMap::new();
        for leaf in leaves {
            if let Some(call) = leaf.call {
                held.entry(*call.as_bytes()).or_default().push(&leaf.public);
            }
        }
        let mut wrong = Vec::new();
        for (id, (what, left)) in self.calls.into_inner().expect("calls") {
            let found = held.remove(&id).unwrap_or_default();
            let fits = match (left, found.as_slice()) {
                (Left::Call, [Public::Intent { rules, .. }, Public::Outcome { cause, .. }]) => {
                    !rules.is_empty() && *cause != CauseClass::OutcomeUnknown
                }
                (Left::By(by), [Public::Intent { rules, .. }, Public::Outcome { .. }]) => rules == by,
                (Left::Denied(by), [Public::Denied { rules, .. }]) => rules == by,
                _ => false,
            };
            if !fits {
                wrong.push(format!("{what}: expected {left:?} in the log, found {found:?}"));
            }
        }
        wrong.extend(held.into_values().map(|found| format!("a call that nobody made left {found:?}")));
        wrong
    }
}

impl Running {
    /// Reads until this was put out.
    pub(crate) async fn until(&mut self, wanted: &str) -> anyhow::Result<()> {
        while !String::from_utf8_lossy(&self.out).contains(wanted) {
            match self.responses.message().await?.context("it ended too early")?.response {
                Some(Response::Stdout(output) | Response::Stderr(output)) => self.out.extend_from_slice(&output.data),
                Some(Response::Exited(exited)) => {
                    anyhow::bail!("it ended too early: {exited:?}: {}", String::from_utf8_lossy(&self.out))
                }
                Some(Response::Started(_) | Response::StdinTaken(_)) | None => {}
            }
        }
        Ok(())
    }

    pub(crate) async fn input(&self, text: &'static str) -> anyhow::Result<()> {
        Ok(self.requests.send(pb::ExecRequest { request: Some(Request::Stdin(text.into())) }).await?)
    }

    /// Ends its input, and waits for its end.
    pub(crate) async fn end(self) -> anyhow::Result<Ended> {
        let eof = Request::StdinEof(pb::StdinEof {});
        self.requests.send(pb::ExecRequest { request: Some(eof) }).await?;
        Ok(self.ends().await?)
    }

    /// Waits for its end.
    pub(crate) async fn ends(mut self) -> Result<Ended, Status> {
        let mut exited = None;
        while let Some(message) = self.responses.message().await? {
            match message.response {
                Some(Response::Stdout(output) | Response::Stderr(output)) => self.out.extend_from_slice(&output.data),
                Some(Response::Exited(last)) => exited = Some(last),
                _ => {}
            }
        }
        let exited = exited.ok_or_else(|| Status::unknown("the stream ended without an exit"))?;
        Ok(Ended { exited, out: String::from_utf8_lossy(&self.out).into_owned() })
    }
}

/// The errno of a code and a reason, as a row says it: `POLICY_DENIED`, or what was found instead.
pub(crate) fn reason<T>(result: Result<T, Status>) -> String {
    use tonic_types::StatusExt as _;
    match result {
        Ok(_) => "done".to_owned(),
        Err(status) => match status.get_details_error_info() {
            Some(info) => info.reason,
            None => format!("{status:?}"),
        },
    }
}
