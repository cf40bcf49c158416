//! The body of a response, of one type whatever layers it passed.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::error::BoxError;

/// The body of a response of an [`HttpService`](super::HttpService). It is read as any
/// [`Body`], for example with the methods of [`ResponseExt`](super::ResponseExt).
///
/// The request counts as in flight until this body has ended or is dropped. A body that is dropped
/// early gives up the rest; over HTTP/1.1 this closes the connection, unless the rest has already
/// arrived.
///
/// # Errors
/// When the connection breaks, or the response ends before its end: an
/// [`HttpBodyError`](super::HttpBodyError), boxed.
pub struct ResponseBody {
    /// `None` if the body was empty from the start, so that such a response costs no allocation.
    body: Option<Pin<Box<Erased>>>,
}

type Erased = dyn Body<Data = Bytes, Error = BoxError> + Send + Sync;

impl ResponseBody {
    pub(super) fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + Sync + 'static,
        B::Error: Into<BoxError>,
    {
        let open = (!body.is_end_stream()).then(|| Box::pin(BoxedErrors(body)) as Pin<Box<_>>);
        Self { body: open }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.body {
            Some(body) => body.as_mut().poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        let body = self.body.as_ref();
        body.map_or(SizeHint::with_exact(0), |body| body.size_hint())
    }
}

/// An empty body, for example of a response that a layer makes by itself.
impl Default for ResponseBody {
    fn default() -> Self {
        Self { body: None }
    }
}

impl_debug!(ResponseBody: |this| size = this.size_hint(), ended = this.is_end_stream());

/// A body whose errors are boxed.
#[pin_project]
struct BoxedErrors<B>(#[pin] B);

impl<B> Body for BoxedErrors<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let frame = self.project().0.poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
