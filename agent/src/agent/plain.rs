//! Bytes that are no message never reach a call: the transport answers them itself, as if we had failed. Here its answers
//! get the code and the reason of a bad request.

use super::errors::of_transport;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};

/// A service whose every refusal is one of ours.
#[derive(Debug, Clone)]
pub struct Plain<S>(pub S);

impl<S: NamedService> NamedService for Plain<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Plain<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move { answer.await.map(told) })
    }
}

/// A refusal before the first message of an answer stands in its headers.
fn told(answer: http::Response<Body>) -> http::Response<Body> {
    match Status::from_header_map(answer.headers()) {
        Some(status) if matches!(status.code(), Code::Internal | Code::OutOfRange) => of_transport(status).into_http(),
        _ => answer,
    }
}
