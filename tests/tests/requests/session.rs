//! The shared session: calls of every kind through `cofferd`'s relay, each noted with what the record must hold of it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use anyhow::{Context as _, ensure};
use coffer_evidence::leaf::CauseClass;
use coffer_proto::guest::v1 as pb;
use coffer_tests::guest::random;
use coffer_tests::host::Host;
use pb::tool_service_client::ToolServiceClient;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

/// What the record must hold of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// Nothing: it was refused before it was one.
    None,
    /// That the policy refused it.
    Denied,
    /// An intent, and what came of it.
    Ended(CauseClass),
    /// An intent and an outcome; which one is a matter of who was first.
    EndedSomehow,
}

/// Calls by their id, with their name.
pub(crate) type Calls = BTreeMap<[u8; 16], (String, Leaves)>;

/// Names the session in every call.
#[derive(Clone)]
pub(crate) struct Address(pub(crate) MetadataValue<Ascii>);

impl tonic::service::Interceptor for Address {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        request.metadata_mut().insert("coffer-session", self.0.clone());
        Ok(request)
    }
}

/// Creates it, under the default policy and one rule more.
pub(crate) fn create(host: &Host) -> anyhow::Result<String> {
    let policy = host.directory().join("requests.cedar");
    std::fs::write(&policy, format!("{}\n{}", coffer_policy::texts::DEFAULT, crate::git::RULE))?;
    let arguments = ["session", "create", "--wait", "--policy", &policy.display().to_string()];
    Ok(host.ok(&arguments)?.trim().to_owned())
}

pub(crate) type Tools = ToolServiceClient<InterceptedService<Channel, Address>>;

pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) channel: Channel,
    calls: Mutex<Calls>,
}

/// How a program ended, with what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exited: pb::Exited,
    pub(crate) out: String,
}

impl Session {
    pub(crate) async fn connect(host: &Host, id: &str) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", host.socket().display()))?;
        let channel = endpoint.connect().await?;
        Ok(Self { id: id.to_owned(), channel, calls: Mutex::default() })
    }

    pub(crate) fn tools(&self) -> Tools {
        self.tools_of(&self.id)
    }

    /// As if that were the session's id.
    pub(crate) fn tools_of(&self, id: &str) -> Tools {
        ToolServiceClient::with_interceptor(self.channel.clone(), Address(id.parse().expect("a header value")))
    }

    pub(crate) fn calls(&self) -> Calls {
        self.calls.lock().expect("calls").clone()
    }

    /// The header of a new call, which will leave this in the record.
    pub(crate) fn header(&self, what: &str, leaves: Leaves) -> Option<pb::CallHeader> {
        let mut id: [u8; 16] = random().expect("randomness");
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        let salt = random::<32>().expect("randomness").to_vec().into();
        self.calls.lock().expect("calls").insert(id, (what.to_owned(), leaves));
        Some(pb::CallHeader { call_id: id.to_vec().into(), identity: String::new(), salt })
    }

    /// Sends requests of an exec, and reads it to its end.
    pub(crate) async fn exec(
        &self,
        requests: impl Stream<Item = pb::ExecRequest> + Send + 'static,
    ) -> Result<Ended, Status> {
        let mut responses = self.tools().exec(requests).await?.into_inner();
        let (mut out, mut exited) = (Vec::new(), None);
        while let Some(message) = responses.message().await? {
            match message.response {
                Some(pb::exec_response::Response::Stdout(chunk)) if out.len() < 1 << 20 => out.extend(chunk.data),
                Some(pb::exec_response::Response::Exited(last)) => exited = Some(last),
                _ => {}
            }
        }
        let exited = exited.ok_or_else(|| Status::unknown("the stream ended without an exit"))?;
        Ok(Ended { exited, out: String::from_utf8_lossy(&out).into_owned() })
    }

    /// One exec without input.
    pub(crate) async fn start(&self, start: pb::ExecStart) -> Result<Ended, Status> {
        self.exec(tokio_stream::iter([of_start(start)]).chain(tokio_stream::pending())).await
    }

    /// The output of a program, which must end with 0.
    pub(crate) async fn output(&self, argv: &[&str]) -> anyhow::Result<String> {
        self.output_of(argv[0], argv).await
    }

    /// The same, of a call that is known by this name.
    pub(crate) async fn output_of(&self, what: &str, argv: &[&str]) -> anyhow::Result<String> {
        let start = pb::ExecStart {
            header: self.header(what, Leaves::Ended(CauseClass::Completed)),
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            ..pb::ExecStart::default()
        };
        let ended = self.start(start).await?;
        ensure!(ended.exited.code == 0 && ended.exited.cause() == pb::ExitCause::Exited, "{argv:?}: {ended:?}");
        Ok(ended.out)
    }

    pub(crate) async fn sh(&self, script: &str) -> anyhow::Result<String> {
        self.output(&["sh", "-c", script]).await
    }

    pub(crate) async fn python(&self, script: &str) -> anyhow::Result<String> {
        self.output(&["python3", "-c", script]).await
    }

    /// A program that runs until [`Running::end`]: it has said its first word.
    pub(crate) async fn running(&self, argv: &[&str], leaves: Leaves) -> anyhow::Result<Running> {
        let start = pb::ExecStart {
            header: self.header(argv[0], leaves),
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            ..pb::ExecStart::default()
        };
        let (requests, receiver) = tokio::sync::mpsc::channel(4);
        requests.send(of_start(start)).await?;
        let requests_of = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut responses = self.tools().exec(requests_of).await?.into_inner();
        loop {
            match responses.message().await?.context("it ended before its first word")?.response {
                Some(pb::exec_response::Response::Stdout(chunk)) => {
                    // What it says right after its first word may come with it.
                    let word =
                        chunk.data.iter().position(|byte| *byte == b'\n').map_or(chunk.data.len(), |end| end + 1);
                    let said = chunk.data.slice(word..).to_vec();
                    return Ok(Running { requests, responses, said });
                }
                Some(pb::exec_response::Response::Exited(exited)) => anyhow::bail!("it ended: {exited:?}"),
                _ => {}
            }
        }
    }

    pub(crate) async fn works(&self) -> anyhow::Result<()> {
        self.output(&["true"]).await.map(drop)
    }
}

/// A program that runs.
pub(crate) struct Running {
    requests: tokio::sync::mpsc::Sender<pb::ExecRequest>,
    responses: tonic::Streaming<pb::ExecResponse>,
    /// What came with its first word.
    said: Vec<u8>,
}

impl Running {
    /// Ends its input, and waits for its exit; gives what it said meanwhile.
    pub(crate) async fn end(mut self) -> anyhow::Result<(pb::Exited, String)> {
        let eof = pb::exec_request::Request::StdinEof(pb::StdinEof {});
        self.requests.send(pb::ExecRequest { request: Some(eof) }).await?;
        let mut out = self.said;
        while let Some(message) = self.responses.message().await? {
            match message.response {
                Some(pb::exec_response::Response::Exited(exited)) => {
                    return Ok((exited, String::from_utf8_lossy(&out).into_owned()));
                }
                Some(pb::exec_response::Response::Stdout(chunk)) => out.extend(chunk.data),
                _ => {}
            }
        }
        anyhow::bail!("the stream ended without an exit")
    }
}

pub(crate) fn of_start(start: pb::ExecStart) -> pb::ExecRequest {
    pb::ExecRequest { request: Some(pb::exec_request::Request::Start(start)) }
}
