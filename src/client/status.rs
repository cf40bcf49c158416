//! The gRPC status of errors.
//!
//! Clients that tonic generates convert errors that are not tonic's own to `UNKNOWN`. Such errors
//! come from a balancer without endpoints, from a breaker, and from every service that fails to
//! become ready. With `UNKNOWN` a caller cannot distinguish a service that is down from a defect. A
//! [`StatusLayer`] around the service of such a client sets the right status.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use pin_project::pin_project;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::{HttpError, http2::NoConnection};
use crate::{
    balance::BalanceError,
    classify::{NotSent, Unsent},
    error::{BoxError, causes, find, in_one_line},
    service::of_one,
    text::Escaped,
};

/// Converts every error to a [`Status`], as [`to_status`] does. An error of `poll_ready` is
/// returned by the next call, because generated clients would convert it to `UNKNOWN`. Goes
/// outermost.
///
/// # Examples
/// ```
/// # #[cfg(feature = "memory")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower::Layer;
/// use tower_roster::{
///     client::{GrpcEndpoints, Stack, StatusLayer}, registry,
/// };
///
/// let registry = registry::connect("memory:")?;
/// let discover = registry.watch("greeter")?.discover(GrpcEndpoints::new());
/// let service = StatusLayer.layer(Stack::grpc().build(discover)?.service);
/// // let mut client = GreeterClient::new(service);
/// # let _ = tonic::client::Grpc::new(service).ready();
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "memory"))]
/// # fn main() {}
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct StatusLayer;

impl<S> Layer<S> for StatusLayer {
    type Service = WithStatus<S>;

    fn layer(&self, inner: S) -> WithStatus<S> {
        WithStatus {
            inner,
            unready: None,
        }
    }
}

/// A service whose errors are statuses; made by a [`StatusLayer`].
pub struct WithStatus<S> {
    inner: S,
    /// The error of the last `poll_ready`.
    unready: Option<Status>,
}

impl<S> WithStatus<S> {
    pub(super) fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S: Clone> Clone for WithStatus<S> {
    fn clone(&self) -> Self {
        StatusLayer.layer(self.inner.clone())
    }
}

impl_debug!([S: fmt::Debug] WithStatus<S>: |this| inner = this.inner);

impl<S, Request> Service<Request> for WithStatus<S>
where
    S: Service<Request>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = Status;
    type Future = StatusFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.unready = ready!(self.inner.poll_ready(cx)).map_err(to_status).err();
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        StatusFuture(match self.unready.take() {
            Some(status) => StatusState::Unready(Some(status)),
            None => StatusState::Called(self.inner.call(request)),
        })
    }
}

/// The response future of a [`WithStatus`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct StatusFuture<F>(#[pin] StatusState<F>);

#[pin_project(project = StateProj)]
#[derive(Debug)]
enum StatusState<F> {
    Unready(Option<Status>),
    Called(#[pin] F),
}

impl<F, Response, E> Future for StatusFuture<F>
where
    F: Future<Output = Result<Response, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Unready(status) => {
                let polled = "a future is not polled after it is done";
                Poll::Ready(Err(status.take().expect(polled)))
            }
            StateProj::Called(future) => future.poll(cx).map_err(to_status),
        }
    }
}

/// The status of a call that got no response. The error is its source.
///
/// A status of the endpoint's stays as it is. Any other error gets the status of its
/// [kind](crate::RequestErrorKind), or if the kind is not known the one that tonic gives it, mostly
/// `UNKNOWN`.
///
/// The message names the service or the endpoint and the cause, each once.
pub fn to_status(error: impl Into<BoxError>) -> Status {
    let error = error.into();
    if let Some(code) = code(&*error) {
        let mut status = Status::new(code, message(&*error));
        status.set_source(Arc::from(error));
        return status;
    }
    // A status that an endpoint of this crate made, of a call that got no response.
    let made = find::<HttpError>(&*error).and_then(|error| find::<Status>(error));
    if let Some(made) = made {
        let mut status = Status::with_details_and_metadata(
            made.code(),
            message(&*error),
            Bytes::copy_from_slice(made.details()),
            made.metadata().clone(),
        );
        status.set_source(Arc::from(error));
        return status;
    }
    Status::try_from_error(error).unwrap_or_else(|error| {
        let mut status = Status::unknown(in_one_line(&*error));
        status.set_source(Arc::from(error));
        status
    })
}

/// The messages of an error and its causes, without those that repeat another one: several layers name the
/// endpoint, and several say that there was no connection or that the call was not sent.
fn message(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let has_endpoint = find::<HttpError>(error).is_some();
    let has_status = find::<Status>(error).is_some();
    for error in causes(error) {
        let balance = error.downcast_ref::<BalanceError>();
        let is_told = error.is::<Unsent>()
            || error.is::<NotSent>()
            || error.is::<NoConnection>()
            || error.is::<tonic::ConnectError>();
        if balance.is_some_and(|error| has_endpoint && error.key().is_some())
            || (is_told && !parts.is_empty())
        {
            continue;
        }
        let part = match (
            error.downcast_ref::<Status>(),
            error.downcast_ref::<HttpError>(),
        ) {
            (Some(status), _) => status.message().to_owned(),
            (None, Some(error)) if has_status => format!("endpoint {}", error.endpoint()),
            _ => error.to_string(),
        };
        let part = Escaped(&part).to_string();
        if parts.last() != Some(&part) {
            parts.push(part);
        }
        // Its causes are what the status was made of.
        if error.is::<Status>() {
            break;
        }
    }
    parts.join(": ")
}

/// The status code of an error; `None` leaves it to tonic. The first error in the chain of sources that can
/// decide does, and a status of the endpoint's stays.
fn code(error: &(dyn Error + 'static)) -> Option<Code> {
    let decides = |error: &(dyn Error + 'static)| match error.is::<Status>() {
        true => Some(None),
        false => of_one(error).map(Some),
    };
    let kind = causes(error).find_map(decides)??;
    Some(Code::from(kind.grpc_code()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RequestErrorKind;

    #[test]
    fn a_status_has_the_kind_of_the_error_that_it_was_made_of() {
        for kind in RequestErrorKind::ALL {
            // `to_status` takes the code of this error from its kind.
            let status = to_status(crate::classify::NotSent(*kind));
            assert_eq!(RequestErrorKind::of(&status), *kind);
            let wrapped: BoxError = status.into();
            assert_eq!(RequestErrorKind::of(&*wrapped), *kind);
        }
        let late = Status::deadline_exceeded("told by the server");
        assert_eq!(RequestErrorKind::of(&late), RequestErrorKind::Timeout);
        let down = Status::unavailable("told by the server");
        assert_eq!(RequestErrorKind::of(&down), RequestErrorKind::Other);
    }

    #[test]
    fn foreign_errors_are_left_to_tonic() {
        let error = std::io::Error::other("the disk is full");
        let status = to_status(error);
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unknown, "the disk is full")
        );
        assert!(status.source().is_some());
        let status = to_status(Status::not_found("no such greeter"));
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, "no such greeter")
        );
    }
}
