//! A request body of any type, which detects its end one frame ahead, and keeps what was read.
//!
//! A body that is written as a stream, as all bodies of tonic are, detects its end only when the
//! next frame is polled. hyper then sends an empty frame at the end, from a task that it starts to
//! wait for that. This body polls one frame ahead, so that the last frame carries the end. A call
//! with one message takes one frame and one task less, at the client and at the server.
//!
//! Whoever may have to send the body again holds a [`KeptBody`] beside it. As long as it does, the
//! frames that are read are kept, up to a limit. All of this is one allocation for each call.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    vec,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::{
    error::BoxError,
    service::retry::{LIMIT, ReplayError},
    sync::lock,
};

/// The least size that a frame counts as, in bytes, so that a million tiny frames do not use many
/// times the limit.
const LEAST: usize = 64;

/// A body of any type, because all requests on one connection have the same body type. Two machine
/// words, because a request is moved often. `None` after its end.
pub(super) struct Erased(Option<Arc<dyn AnyBody>>);

/// The same body, for the sender of the request.
pub(super) struct KeptBody<B>(Arc<Mutex<State<B>>>);

struct State<B> {
    /// `None` after it was taken back.
    body: Option<B>,
    /// The next frame, if it was polled ahead.
    ahead: Option<Next>,
    /// The data that was read: most bodies have one frame.
    first: Option<Bytes>,
    more: Vec<Bytes>,
    /// How many more bytes can be kept; `None` after a frame was not kept.
    room: Option<usize>,
    /// Whether anything was read, and whether the end was.
    read: bool,
    ended: bool,
}

type Next = Result<Frame<Bytes>, BoxError>;

/// What was read of a body, and then its rest.
pub(super) struct Rewound<B> {
    first: Option<Bytes>,
    more: vec::IntoIter<Bytes>,
    rest: Option<B>,
}

/// A body that was taken back.
pub(super) enum Taken<B> {
    Unread(B),
    Read(Rewound<B>),
}

impl Erased {
    /// A body without data.
    pub(super) fn empty() -> Self {
        Self(None)
    }

    pub(super) fn keep<B>(body: B) -> (Self, KeptBody<B>)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let too_long = body.size_hint().lower() > LIMIT as u64;
        let state = Arc::new(Mutex::new(State {
            body: Some(body),
            ahead: None,
            first: None,
            more: Vec::new(),
            room: Some(if too_long { 0 } else { LIMIT }),
            read: false,
            ended: false,
        }));
        (Self(Some(Arc::clone(&state) as _)), KeptBody(state))
    }
}

impl<B> KeptBody<B> {
    /// Takes the body away from the request that was sent with it, whose next read is an error. So
    /// the server never takes half a body for a whole one. `None` if not all that was read is kept.
    pub(super) fn take(self) -> Option<Taken<B>> {
        let mut state = lock(&self.0);
        let (body, _ahead) = (state.body.take(), state.ahead.take());
        let (first, more) = (state.first.take(), mem::take(&mut state.more));
        let (read, ended, whole) = (state.read, state.ended, state.room.is_some());
        // What is left is dropped outside of the lock.
        drop(state);
        match body {
            Some(body) if !read => Some(Taken::Unread(body)),
            Some(body) if whole => Some(Taken::Read(Rewound {
                first,
                more: more.into_iter(),
                rest: (!ended).then_some(body),
            })),
            _ => None,
        }
    }
}

trait AnyBody: Send + Sync {
    /// Polls a frame, and whether it is the last. `alone`: nobody can take the body back.
    fn poll(&self, cx: &mut Context<'_>, alone: bool) -> Poll<(Option<Next>, bool)>;
    fn size(&self) -> SizeHint;
}

impl<B> AnyBody for Mutex<State<B>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    fn poll(&self, cx: &mut Context<'_>, alone: bool) -> Poll<(Option<Next>, bool)> {
        let mut state = lock(self);
        let (next, unkept) = match state.ahead.take() {
            Some(next) => (Some(next), Vec::new()),
            None => ready!(state.read(cx, alone)),
        };
        let mut ended = next.is_none();
        let mut late = Vec::new();
        if matches!(&next, Some(Ok(frame)) if frame.is_data()) {
            if state.body.as_ref().is_some_and(Body::is_end_stream) {
                ended = true;
                state.ended = true;
            } else if let Poll::Ready((ahead, unkept)) = state.read(cx, alone) {
                ended = ahead.is_none();
                state.ahead = ahead;
                late = unkept;
            }
        }
        // Data of the user, whose destructors must not run under the lock.
        drop(state);
        drop((unkept, late));
        Poll::Ready((next, ended))
    }

    fn size(&self) -> SizeHint {
        let state = lock(self);
        // hyper reads the size only before the first frame.
        let unread = state.body.as_ref().filter(|_| !state.read);
        unread.map(Body::size_hint).unwrap_or_default()
    }
}

impl<B> State<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Reads a frame and keeps it. Also returns what is not kept any more.
    fn read(&mut self, cx: &mut Context<'_>, alone: bool) -> Poll<(Option<Next>, Vec<Bytes>)> {
        let Some(body) = &mut self.body else {
            let error = Err(ReplayError::Superseded.into());
            return Poll::Ready((Some(error), Vec::new()));
        };
        let next = ready!(Pin::new(body).poll_frame(cx));
        self.read = true;
        let kept = match &next {
            None => {
                self.ended = true;
                true
            }
            Some(Ok(frame)) => frame.data_ref().is_some_and(|data| self.keep(data, alone)),
            Some(Err(_)) => false,
        };
        let mut unkept = Vec::new();
        if !kept {
            self.room = None;
            unkept = mem::take(&mut self.more);
            unkept.extend(self.first.take());
        }
        let next = next.map(|next| next.map_err(Into::into));
        Poll::Ready((next, unkept))
    }

    fn keep(&mut self, data: &Bytes, alone: bool) -> bool {
        let room = self.room.filter(|_| !alone);
        self.room = room.and_then(|room| room.checked_sub(data.len().max(LEAST)));
        if self.room.is_none() {
            return false;
        }
        if self.first.is_none() {
            self.first = Some(data.clone());
        } else {
            self.more.push(data.clone());
        }
        true
    }
}

impl Body for Erased {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Next>> {
        let Some(body) = &self.0 else {
            return Poll::Ready(None);
        };
        let alone = Arc::strong_count(body) == 1;
        let (next, ended) = ready!(body.poll(cx, alone));
        if ended {
            self.0 = None;
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.0.as_ref();
        body.map_or(SizeHint::with_exact(0), |body| body.size())
    }
}

impl_debug!(Erased);

impl<B> Body for Rewound<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let kept = this.first.take().or_else(|| this.more.next());
        match (kept, &mut this.rest) {
            (Some(data), _) => Poll::Ready(Some(Ok(Frame::data(data)))),
            (None, Some(rest)) => Pin::new(rest).poll_frame(cx),
            (None, None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let all_read = self.first.is_none() && self.more.len() == 0;
        all_read && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }
}

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

    /// As long as the second value is there, what is read is kept.
    fn streamed(
        parts: impl stream::Stream<Item = Part> + Send + Unpin + 'static,
    ) -> (Erased, impl Sized) {
        Erased::keep(StreamBody::new(parts))
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
        let (mut body, _kept) = streamed(stream::iter([data("a"), data("b")]));
        assert!(!body.is_end_stream());
        assert_eq!((next(&mut body), body.is_end_stream()), (text("a"), false));
        assert_eq!((next(&mut body), body.is_end_stream()), (text("b"), true));
        assert_eq!(next(&mut body), Poll::Ready(None));
        assert_eq!(next(&mut body), Poll::Ready(None));
    }

    #[test]
    fn trailers_come_after_the_last_data() {
        let trailers = Ok(Frame::trailers(HeaderMap::new()));
        let (mut body, _kept) = streamed(stream::iter([data("a"), trailers]));
        assert_eq!((next(&mut body), body.is_end_stream()), (text("a"), false));
        assert_eq!(next(&mut body), text("trailers"));
        assert_eq!(next(&mut body), Poll::Ready(None));
    }

    #[test]
    fn what_is_not_there_yet_holds_up_nothing() {
        use stream::StreamExt as _;

        let open = stream::iter([data("a")]).chain(stream::pending());
        let (mut body, _kept) = streamed(open);
        assert_eq!((next(&mut body), body.is_end_stream()), (text("a"), false));
        assert_eq!(next(&mut body), Poll::Pending);
    }

    #[test]
    fn a_body_keeps_its_length() {
        let (body, _kept) = Erased::keep(Full::new(Bytes::from_static(b"data")));
        assert_eq!(body.size_hint().exact(), Some(4));
        assert!(!body.is_end_stream());
    }

    #[test]
    fn what_was_read_comes_back_before_the_rest() {
        let (mut body, kept) = Erased::keep(StreamBody::new(stream::iter([
            data("a"),
            data("b"),
            data("c"),
        ])));
        assert_eq!(next(&mut body), text("a"));
        let Some(Taken::Read(back)) = kept.take() else {
            panic!("two frames were read");
        };
        let cx = &mut Context::from_waker(Waker::noop());
        let after = Pin::new(&mut body).poll_frame(cx);
        assert!(matches!(after, Poll::Ready(Some(Err(_)))), "no clean end");
        let (mut back, _kept) = Erased::keep(back);
        assert_eq!(next(&mut back), text("a"));
        assert_eq!(next(&mut back), text("b"));
        assert_eq!((next(&mut back), back.is_end_stream()), (text("c"), true));
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let (mut body, kept) = Erased::keep(StreamBody::new(stream::iter([data("a"), data("b")])));
        let state = Arc::downgrade(&kept.0);
        assert_eq!(next(&mut body), text("a"));
        assert!(lock(&state.upgrade().expect("it is there")).first.is_some());
        drop(kept);
        let (mut body, kept) = Erased::keep(StreamBody::new(stream::iter([data("a"), data("b")])));
        let state = Arc::downgrade(&kept.0);
        drop(kept);
        assert_eq!(next(&mut body), text("a"));
        assert!(lock(&state.upgrade().expect("it is there")).first.is_none());
    }
}
