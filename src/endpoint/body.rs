//! Requests over HTTP are in flight until the body of their answer ends.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tower::load::TrackCompletion;

use super::load::{Handle, LoadTracker};

/// Counts a request as in flight until the body of its answer ends or is dropped.
///
/// The latency is the time to the head of the answer, whatever the length of the body. Status 429
/// and 5xx count as failures, as in linkerd: a server that refuses fast is not a fast server. A
/// body that breaks off counts as a failure too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompleteOnBody;

impl<L: LoadTracker, B: Body> TrackCompletion<Handle<L>, Response<B>> for CompleteOnBody {
    type Output = Response<TrackedBody<B, L>>;

    fn track_completion(&self, mut handle: Handle<L>, response: Response<B>) -> Self::Output {
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            handle.fail();
        } else {
            handle.succeed();
        }
        response.map(|body| TrackedBody {
            handle: (!body.is_end_stream()).then_some(handle),
            body,
        })
    }
}

/// The body of an answer; its request is in flight until it ends.
#[pin_project]
pub struct TrackedBody<B, L: LoadTracker> {
    #[pin]
    body: B,
    /// Gone when the body has ended.
    handle: Option<Handle<L>>,
}

impl<B: Body, L: LoadTracker> Body for TrackedBody<B, L> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(_)) if !this.body.is_end_stream() => {}
            Some(Ok(_)) | None => *this.handle = None,
            Some(Err(_)) => {
                if let Some(mut handle) = this.handle.take() {
                    handle.fail();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: fmt::Debug, L: LoadTracker> fmt::Debug for TrackedBody<B, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrackedBody")
            .field("body", &self.body)
            .field("handle", &self.handle)
            .finish()
    }
}
