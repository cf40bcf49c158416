//! The body of a response: one piece, or a stream of events.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::slots::Slot;

pub(super) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The body of a response of a [`StatusService`](super::StatusService).
pub struct StatusBody(Inner);

enum Inner {
    Whole(Option<Bytes>),
    Events(EventStream),
}

/// A stream of events. Each is made when the one before has been taken.
pub(super) struct EventStream {
    pub(super) slot: Slot,
    /// When the stream ends. A browser then opens the next one.
    pub(super) until: Instant,
    pub(super) next: BoxFuture<Bytes>,
    /// Makes the next event, after the interval.
    pub(super) make: Box<dyn Fn() -> BoxFuture<Bytes> + Send>,
}

impl StatusBody {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self(Inner::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    pub(super) fn events(stream: EventStream) -> Self {
        Self(Inner::Events(stream))
    }
}

impl Body for StatusBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Inner::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Events(stream) => {
                if !stream.slot.asked() || Instant::now() >= stream.until {
                    return Poll::Ready(None);
                }
                let event = std::task::ready!(stream.next.as_mut().poll(cx));
                stream.next = (stream.make)();
                Poll::Ready(Some(Ok(Frame::data(event))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Inner::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Inner::Events(_) => SizeHint::new(),
        }
    }
}

impl fmt::Debug for StatusBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Inner::Whole(_) => "StatusBody(whole)",
            Inner::Events(_) => "StatusBody(events)",
        })
    }
}
