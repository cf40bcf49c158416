//! A request body of any type, which detects its end one frame ahead.
//!
//! A body that is written as a stream, as all bodies of tonic are, detects its end only when the
//! next frame is polled. hyper then sends an empty frame at the end, from a task that it starts to
//! wait for that. This body polls one frame ahead, so that the last frame carries the end. A call
//! with one message takes one frame and one task less, at the client and at the server.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::error::BoxError;

/// A body of any type, because all requests on one connection have the same body type.
pub(super) struct Erased {
    body: Box<dyn AnyBody + Send>,
    ahead: Ahead,
}

type Next = Result<Frame<Bytes>, BoxError>;

/// The next frame, if it was polled.
enum Ahead {
    Unknown,
    Here(Next),
    Ended,
}

impl Erased {
    pub(super) fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        Self {
            body: Box::new(body),
            ahead: Ahead::Unknown,
        }
    }
}

trait AnyBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Next>>;
    fn has_ended(&self) -> bool;
    fn size(&self) -> SizeHint;
}

impl<B> AnyBody for B
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Next>> {
        let frame = Pin::new(self).poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn has_ended(&self) -> bool {
        self.is_end_stream()
    }

    fn size(&self) -> SizeHint {
        self.size_hint()
    }
}

impl Body for Erased {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Next>> {
        let next = match mem::replace(&mut self.ahead, Ahead::Unknown) {
            Ahead::Unknown => ready!(self.body.poll(cx)),
            Ahead::Here(next) => Some(next),
            Ahead::Ended => None,
        };
        self.ahead = match &next {
            Some(Ok(frame)) if frame.is_data() && !self.body.has_ended() => {
                match self.body.poll(cx) {
                    Poll::Pending => Ahead::Unknown,
                    Poll::Ready(Some(next)) => Ahead::Here(next),
                    Poll::Ready(None) => Ahead::Ended,
                }
            }
            Some(_) => Ahead::Unknown,
            None => Ahead::Ended,
        };
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        match &self.ahead {
            Ahead::Unknown => self.body.has_ended(),
            Ahead::Here(_) => false,
            Ahead::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.ahead {
            Ahead::Unknown => self.body.size(),
            // hyper reads the size only before the first frame, when no frame was polled ahead.
            Ahead::Here(_) => SizeHint::default(),
            Ahead::Ended => SizeHint::with_exact(0),
        }
    }
}

impl_debug!(Erased);

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, task::Waker};

    use futures_util::stream;
    use http::HeaderMap;
    use http_body_util::{Full, StreamBody};

    use super::*;

    type Part = Result<Frame<Bytes>, Infallible>;

    fn data(text: &'static str) -> Part {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn streamed(parts: impl stream::Stream<Item = Part> + Send + Unpin + 'static) -> Erased {
        Erased::new(StreamBody::new(parts))
    }

    /// Returns the text of the next frame, or "trailers".
    fn next(body: &mut Erased) -> Poll<Option<String>> {
        let cx = &mut Context::from_waker(Waker::noop());
        Pin::new(body).poll_frame(cx).map(|frame| {
            let frame = frame?.expect("no error");
            let data = frame.into_data().map(|data| data.to_vec());
            let text = data.map(|data| String::from_utf8(data).expect("text"));
            Some(text.unwrap_or_else(|_| "trailers".into()))
        })
    }

    fn text(text: &str) -> Poll<Option<String>> {
        Poll::Ready(Some(text.into()))
    }

    #[test]
    fn the_last_frame_of_a_stream_says_that_it_is_the_last() {
        let mut body = streamed(stream::iter([data("a"), data("b")]));
        assert!(!body.is_end_stream());
        assert_eq!((next(&mut body), body.is_end_stream()), (text("a"), false));
        assert_eq!((next(&mut body), body.is_end_stream()), (text("b"), true));
        assert_eq!(next(&mut body), Poll::Ready(None));
        assert_eq!(next(&mut body), Poll::Ready(None));
    }

    #[test]
    fn trailers_come_after_the_last_data() {
        let trailers = Ok(Frame::trailers(HeaderMap::new()));
        let mut body = streamed(stream::iter([data("a"), trailers]));
        assert_eq!((next(&mut body), body.is_end_stream()), (text("a"), false));
        assert_eq!(next(&mut body), text("trailers"));
        assert_eq!(next(&mut body), Poll::Ready(None));
    }

    #[test]
    fn what_is_not_there_yet_holds_up_nothing() {
        use stream::StreamExt as _;

        let open = stream::iter([data("a")]).chain(stream::pending());
        let mut body = streamed(open);
        assert_eq!((next(&mut body), body.is_end_stream()), (text("a"), false));
        assert_eq!(next(&mut body), Poll::Pending);
    }

    #[test]
    fn a_body_keeps_its_length() {
        let body = Erased::new(Full::new(Bytes::from_static(b"data")));
        assert_eq!(body.size_hint().exact(), Some(4));
        assert!(!body.is_end_stream());
    }
}
