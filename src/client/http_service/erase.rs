//! Hides the type of a stack.
//!
//! A request costs two allocations for it: its future, and the body of its response unless that is empty.
//! Each clone of the client has a stack of its own behind its pointer, and not a shared one. So a caller
//! that keeps its clone calls its own stack, and clones that are made for each request are counted where
//! the balancer counts them, apart for each caller.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tower::Service;

use crate::{client::response_body::ResponseBody, error::BoxError};

/// A stack whose type is hidden.
pub(in crate::client) trait ErasedStack<B>: Send + Sync {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>;

    fn call(&mut self, request: Request<B>) -> Answering;

    fn boxed_clone(&self) -> Box<dyn ErasedStack<B>>;
}

pub(in crate::client) type Answering =
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, BoxError>> + Send>>;

impl<S, B, R> ErasedStack<B> for S
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    R: Body<Data = Bytes> + Send + Sync + 'static,
    R::Error: Into<BoxError>,
{
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Service::poll_ready(self, cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Answering {
        Box::pin(Erasing(Service::call(self, request)))
    }

    fn boxed_clone(&self) -> Box<dyn ErasedStack<B>> {
        Box::new(self.clone())
    }
}

/// A request whose response gets a body of one type.
#[pin_project]
struct Erasing<F>(#[pin] F);

impl<F, R, E> Future for Erasing<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body<Data = Bytes> + Send + Sync + 'static,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.project().0.poll(cx);
        polled.map(|result| match result {
            Ok(response) => Ok(response.map(ResponseBody::new)),
            Err(error) => Err(error.into()),
        })
    }
}
