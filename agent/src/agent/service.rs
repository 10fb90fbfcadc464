//! `coffer.guest.v1.ToolService`. Every call runs in a task of its own, so that its outcome is logged even when the
//! client, and with it the server's future, is gone.

use super::plain::Plain;
use super::session::Session;
use super::vanish::{Presence, presence};
use super::{exec, files, git, limits, names, watch};
use coffer_proto::guest::v1 as pb;
use pb::tool_service_server::{ToolService, ToolServiceServer};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

/// Chunks that may wait for a client: a few, so that a slow one is felt by the program soon.
const WAITING: usize = 4;

/// The service over one session.
#[derive(Debug)]
pub struct Tools(Arc<Session>);

/// The service with its message limits, ready to be served.
pub fn server(session: Arc<Session>) -> Plain<ToolServiceServer<Tools>> {
    let server = ToolServiceServer::new(Tools(session))
        .max_decoding_message_size(limits::MESSAGE_MAX)
        .max_encoding_message_size(limits::MESSAGE_MAX);
    Plain(server)
}

/// A stream of answers that tells, by being dropped, that nobody reads it any more.
#[derive(Debug)]
pub struct Answers<T> {
    receiver: mpsc::Receiver<Result<T, Status>>,
    _presence: Presence,
}

impl<T> Stream for Answers<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(context)
    }
}

/// Runs an operation that answers once.
async fn once<T: Send + 'static>(
    operation: impl FnOnce(tokio_util::sync::CancellationToken) -> Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>,
) -> Result<Response<T>, Status> {
    let (presence, gone) = presence();
    let answer = tokio::spawn(operation(gone)).await;
    drop(presence);
    answer.unwrap_or_else(|_| Err(super::errors::Reason::Internal.status("the call failed inside"))).map(Response::new)
}

#[tonic::async_trait]
impl ToolService for Tools {
    type ExecStream = exec::answers::Answers;
    type ReadFileStream = Answers<pb::ReadFileResponse>;
    type DownloadStream = Answers<pb::DownloadResponse>;
    type WatchStream = Answers<pb::WatchResponse>;
    type GitStream = Answers<pb::GitResponse>;

    async fn exec(&self, request: Request<Streaming<pb::ExecRequest>>) -> Result<Response<Self::ExecStream>, Status> {
        let (reply, answers) = exec::answers::answers();
        tokio::spawn(exec::run(self.0.clone(), request.into_inner(), reply));
        Ok(Response::new(answers))
    }

    async fn write_file(
        &self,
        request: Request<Streaming<pb::WriteFileRequest>>,
    ) -> Result<Response<pb::WriteFileResponse>, Status> {
        let session = self.0.clone();
        once(|gone| Box::pin(files::write(session, request.into_inner(), gone))).await
    }

    async fn read_file(&self, request: Request<pb::ReadFileRequest>) -> Result<Response<Self::ReadFileStream>, Status> {
        let (reply, receiver) = mpsc::channel(WAITING);
        let (_presence, gone) = presence();
        tokio::spawn(files::read(self.0.clone(), request.into_inner(), reply, gone));
        Ok(Response::new(Answers { receiver, _presence }))
    }

    async fn list_directory(
        &self,
        request: Request<pb::ListDirectoryRequest>,
    ) -> Result<Response<pb::ListDirectoryResponse>, Status> {
        let session = self.0.clone();
        once(|gone| Box::pin(files::list(session, request.into_inner(), gone))).await
    }

    async fn stat(&self, request: Request<pb::StatRequest>) -> Result<Response<pb::StatResponse>, Status> {
        let session = self.0.clone();
        once(|gone| Box::pin(files::stat(session, request.into_inner(), gone))).await
    }

    async fn upload(
        &self,
        request: Request<Streaming<pb::UploadRequest>>,
    ) -> Result<Response<pb::UploadResponse>, Status> {
        let session = self.0.clone();
        once(|gone| Box::pin(files::upload(session, request.into_inner(), gone))).await
    }

    async fn download(&self, request: Request<pb::DownloadRequest>) -> Result<Response<Self::DownloadStream>, Status> {
        let (reply, receiver) = mpsc::channel(WAITING);
        let (_presence, gone) = presence();
        tokio::spawn(files::download(self.0.clone(), request.into_inner(), reply, gone));
        Ok(Response::new(Answers { receiver, _presence }))
    }

    async fn remove(&self, request: Request<pb::RemoveRequest>) -> Result<Response<pb::RemoveResponse>, Status> {
        let session = self.0.clone();
        once(|gone| Box::pin(names::remove(session, request.into_inner(), gone))).await
    }

    async fn r#move(&self, request: Request<pb::MoveRequest>) -> Result<Response<pb::MoveResponse>, Status> {
        let session = self.0.clone();
        once(|gone| Box::pin(names::rename(session, request.into_inner(), gone))).await
    }

    async fn make_directory(
        &self,
        request: Request<pb::MakeDirectoryRequest>,
    ) -> Result<Response<pb::MakeDirectoryResponse>, Status> {
        let session = self.0.clone();
        once(|gone| Box::pin(names::make_directory(session, request.into_inner(), gone))).await
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (reply, receiver) = mpsc::channel(WAITING);
        let (_presence, gone) = presence();
        tokio::spawn(watch::watch(self.0.clone(), request.into_inner(), reply, gone));
        Ok(Response::new(Answers { receiver, _presence }))
    }

    async fn git(&self, request: Request<pb::GitRequest>) -> Result<Response<Self::GitStream>, Status> {
        let (reply, receiver) = mpsc::channel(WAITING);
        let (_presence, gone) = presence();
        tokio::spawn(git::git(self.0.clone(), request.into_inner(), reply, gone));
        Ok(Response::new(Answers { receiver, _presence }))
    }
}
