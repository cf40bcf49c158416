//! The body of a response over HTTP.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

#[cfg(feature = "tonic")]
use super::limits::exhausted;
use super::{life::Life, limits::Limits};
use crate::{
    classify::{self, Begun, OverLimit},
    connect::{Incomplete, Whole},
    error::{BoxError, RequestErrorKind, find},
};

/// The body of a response from an endpoint. While it is read its connection stays open, even if the
/// endpoint is removed. A body that is dropped early gives up the rest; with HTTP/1 this closes the
/// connection, unless the rest has already arrived.
///
/// # Errors
/// [`HttpBodyError`] when the connection breaks, or when the response ends before its end. A body that
/// ends without an error is complete, except one over HTTP/1 that has neither a length nor chunks: its
/// end is the end of the connection.
pub struct HttpBody {
    body: Whole,
    /// Keeps the connection while the response has not ended.
    life: Option<Arc<Life>>,
    /// What the trailers must not exceed.
    limits: Limits,
}

impl HttpBody {
    /// The response for the caller. `life` is `None` if the body has ended.
    #[inline]
    pub(super) fn wrap(
        response: Response<Incoming>,
        life: Option<Arc<Life>>,
        limits: Limits,
    ) -> Response<Self> {
        Whole::wrap(response).map(|body| Self { body, life, limits })
    }

    #[cold]
    fn broke(&self, error: Incomplete) -> HttpBodyError {
        let over = match &error {
            Incomplete::Broke(Begun(Some(error))) => self.limits.trailers_over_http1(error),
            Incomplete::Broke(Begun(None)) | Incomplete::Reset => None,
        };
        self.failed(match over {
            Some(over) => self.too_large(over),
            None => Cause::Incomplete(error),
        })
    }

    fn too_large(&self, over: OverLimit) -> Cause {
        #[cfg(feature = "tonic")]
        if self.limits.is_grpc() {
            // tonic finds the status among the sources.
            return Cause::TooLarge(exhausted(over).into());
        }
        Cause::TooLarge(over.into())
    }

    #[cold]
    fn failed(&self, cause: Cause) -> HttpBodyError {
        let error = HttpBodyError(cause);
        classify::note(&error);
        error
    }
}

impl Body for HttpBody {
    type Data = Bytes;
    type Error = HttpBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpBodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
            self.life = None;
        }
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Err(over) = self.limits.check_trailers(trailers)
        {
            let cause = self.too_large(over);
            return Poll::Ready(Some(Err(self.failed(cause))));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| self.broke(error))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl_debug!(HttpBody: |this| body = this.body);

/// The body of a response over HTTP broke off, or its trailers exceed a limit of this client.
#[derive(Debug)]
pub struct HttpBodyError(Cause);

#[derive(Debug)]
enum Cause {
    Incomplete(Incomplete),
    /// It has an [`OverLimit`] in its chain.
    TooLarge(BoxError),
}

impl HttpBodyError {
    /// Finds this error in an error or among its causes.
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// What the response failed with.
    pub fn kind(&self) -> RequestErrorKind {
        match &self.0 {
            Cause::Incomplete(_) => RequestErrorKind::Connection,
            Cause::TooLarge(_) => RequestErrorKind::TooLarge,
        }
    }
}

impl fmt::Display for HttpBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Incomplete(error) => error.fmt(f),
            Cause::TooLarge(_) => f.write_str("the response exceeds a limit of this client"),
        }
    }
}

impl Error for HttpBodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Cause::Incomplete(error) => error.source(),
            Cause::TooLarge(error) => Some(&**error),
        }
    }
}
