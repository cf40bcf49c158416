//! A request that can be taken back until its body is first polled.
//!
//! ```text
//! Request ──keep──▶ Request<KeptBody>   given to the client; its first poll takes the body out
//!                      │
//!                    Slot: the body
//!                      │
//!            └────▶ Kept                copies the head; give_back takes the body out, if still there
//! ```
//!
//! A body is taken out once, so it is never sent twice. A body without data needs no slot, because
//! it is never polled.
//!
//! The cost is half a microsecond, of the twenty that a small request on loopback takes of one
//! core. So `pass` is for requests that are unlikely to come back.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use http::{Request, request::Parts};
use http_body::{Body, Frame, SizeHint};

use crate::error::BoxError;

/// Locked twice for each request, for a moment each, and only by tasks of that request.
type Slot<B> = Arc<Mutex<Option<B>>>;

fn take<B>(slot: &Slot<B>) -> Option<B> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// What is needed to give a request back.
pub(super) struct Kept<B> {
    head: Parts,
    body: Place<B>,
}

enum Place<B> {
    Here(B),
    Shared(Slot<B>),
}

impl<B: Body> Kept<B> {
    pub(super) fn keep(request: Request<B>) -> (Request<KeptBody<B>>, Self) {
        let (head, body) = request.into_parts();
        let (state, body) = if body.is_end_stream() {
            (State::Ended, Place::Here(body))
        } else {
            let size = body.size_hint();
            let slot = Slot::new(Mutex::new(Some(body)));
            (State::Waiting(Arc::clone(&slot), size), Place::Shared(slot))
        };
        let request = Request::from_parts(head.clone(), KeptBody { state });
        (request, Self { head, body })
    }

    /// Wraps a request that will not be given back.
    pub(super) fn pass(request: Request<B>) -> Request<KeptBody<B>> {
        request.map(|body| KeptBody {
            state: State::Begun(body),
        })
    }
}

impl<B> Kept<B> {
    /// Returns the request as it was; `None` when its body was begun. Only for a request that was
    /// not sent: a body without data is always there, even if the head was sent.
    pub(super) fn give_back(self) -> Option<Request<B>> {
        let body = match self.body {
            Place::Here(body) => body,
            Place::Shared(slot) => take(&slot)?,
        };
        Some(Request::from_parts(self.head, body))
    }
}

/// The body of a request that can be taken back.
pub(super) struct KeptBody<B> {
    state: State<B>,
}

enum State<B> {
    /// With the size hint of the body, because the body cannot be read while it is in the slot.
    Waiting(Slot<B>, SizeHint),
    Begun(B),
    Ended,
}

impl<B> Body for KeptBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        if let State::Waiting(slot, _) = &self.state {
            // An error and not the end: a server would take an end for a complete body.
            let Some(body) = take(slot) else {
                return Poll::Ready(Some(Err("the request was taken back".into())));
            };
            self.state = State::Begun(body);
        }
        let State::Begun(body) = &mut self.state else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Waiting(..) => false,
            State::Begun(body) => body.is_end_stream(),
            State::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            // `Copy` only in newer versions of http-body, so it is cloned.
            State::Waiting(_, size) => SizeHint::clone(size),
            State::Begun(body) => body.size_hint(),
            State::Ended => SizeHint::with_exact(0),
        }
    }
}

impl<B> fmt::Debug for KeptBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Waiting(..) => "waiting",
            State::Begun(_) => "begun",
            State::Ended => "ended",
        };
        f.debug_struct("KeptBody").field("state", &state).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, task::Waker};

    use bytes::Bytes;
    use http_body_util::{Empty, Full};

    use super::*;

    fn poll<B>(body: &mut KeptBody<B>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>>
    where
        B: Body<Error = Infallible> + Unpin,
    {
        Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    fn request<B>(body: B) -> Request<B> {
        let request = Request::put("http://web/users/1").header("x-trace", "7");
        request.extension(42u8).body(body).expect("a valid request")
    }

    #[test]
    fn a_request_comes_back_as_it_was() {
        let (sent, kept) = Kept::keep(request(Full::new(Bytes::from_static(b"data"))));
        assert!(!sent.body().is_end_stream());
        assert_eq!(sent.body().size_hint().exact(), Some(4));
        let back = kept.give_back().expect("nobody began it");
        assert_eq!(
            (back.method().as_str(), back.uri().path()),
            ("PUT", "/users/1")
        );
        assert_eq!(back.headers()["x-trace"], "7");
        assert_eq!(back.extensions().get(), Some(&42u8));
        assert_eq!(back.body().size_hint().exact(), Some(4));
    }

    #[test]
    fn a_body_that_was_begun_is_never_given_back() {
        let (sent, kept) = Kept::keep(request(Full::new(Bytes::from_static(b"data"))));
        let mut body = sent.into_body();
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
        assert!(body.is_end_stream());
        assert!(kept.give_back().is_none());
    }

    #[test]
    fn a_body_that_was_given_back_is_not_sent_as_if_it_had_ended() {
        let (sent, kept) = Kept::keep(request(Full::new(Bytes::from_static(b"data"))));
        assert!(kept.give_back().is_some());
        assert!(matches!(
            poll(&mut sent.into_body()),
            Poll::Ready(Some(Err(_)))
        ));
    }

    #[test]
    fn a_body_without_data_needs_no_slot() {
        let (sent, kept) = Kept::keep(request(Empty::<Bytes>::new()));
        let mut body = sent.into_body();
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(matches!(poll(&mut body), Poll::Ready(None)));
        assert!(kept.give_back().is_some());
    }
}
