//! A request body that several attempts can send.
//!
//! A body is a stream that can be read once. [`ReplayBody`] keeps the frames that are read,
//! trailers too. A later attempt gets the kept frames first, then continues where the first attempt
//! stopped.
//!
//! ```text
//!                 kept              not read yet
//!         [data][data][data] ◀──── the body
//! first    ─────────────────▶ reads on, and what it reads is kept
//! second   ───▶ catches up, then either reads on
//! ```
//!
//! - A body that is empty from the start is not wrapped: nothing is allocated or kept. The same
//!   holds for the body of a request that is repeated only if its error returns it unsent.
//! - Nothing more is kept once the last copy is alone, and nothing that could make another is left.
//! - When keeping a frame would exceed the limit, all frames are dropped, and only the attempt that
//!   read the frame continues. From then on the request cannot be repeated. A body that announces
//!   more than the limit is not kept from the start; it can be repeated as long as nothing of it
//!   was read.
//! - A retry takes the body away from the attempt before it, which a connection task may still
//!   hold. The next read of that attempt is an error, so the server never takes half a body for a
//!   whole one. Hedged attempts read side by side.
//!
//! As in linkerd's `ReplayBody`, data that is `Bytes` is shared and not copied. Linkerd's copy
//! panics when it is read before the previous copy was dropped; here the body belongs to all
//! copies.

mod error;
mod state;

pub use self::error::ReplayError;
use self::state::{KeptFrame, ReplayState, Rest, wake};

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};

use crate::{error::BoxError, sync::lock};

/// A request body that later attempts can copy.
pub struct ReplayBody<B> {
    inner: Inner<B>,
    /// A copy of the head that it was sent with, for a hedge below.
    head: Option<Arc<Parts>>,
}

enum Inner<B> {
    Copy(ReplayCopy<B>),
    /// The body itself, with no frames kept; `None` if it was empty from the start.
    Once(Option<B>),
}

/// Makes further copies of a body.
pub(crate) struct Replayer<B> {
    shared: Option<Arc<Mutex<ReplayState<B>>>>,
}

struct ReplayCopy<B> {
    shared: Arc<Mutex<ReplayState<B>>>,
    id: u32,
    /// The generation of the state when this copy was made. A copy of an older generation is
    /// superseded.
    generation: u32,
    /// How many of the kept frames this copy has sent. A `u32`, so that a request whose head takes
    /// 224 bytes takes at most 256 bytes in all. Moving more takes twice the instructions, and a
    /// request is moved often.
    next: u32,
}

impl<B: Body> ReplayBody<B> {
    /// Wraps a body and keeps at most `limit` bytes of it.
    #[inline]
    pub(crate) fn new(body: B, limit: usize) -> (Self, Replayer<B>) {
        if body.is_end_stream() {
            return (Inner::Once(None).into(), Replayer { shared: None });
        }
        let too_long = body.size_hint().lower() > limit as u64;
        let shared = Arc::new(Mutex::new(ReplayState {
            kept: Vec::new(),
            size: 0,
            limit: if too_long { 0 } else { limit },
            rest: Rest::Open(body),
            sole: None,
            generation: 0,
            copies: 0,
            waiting: Vec::new(),
        }));
        let replayer = Replayer {
            shared: Some(shared),
        };
        (replayer.copy(), replayer)
    }

    /// Wraps a body of which no copies are made.
    #[inline]
    pub(crate) fn once(body: B) -> Self {
        Inner::Once(Some(body)).into()
    }
}

impl<B> From<Inner<B>> for ReplayBody<B> {
    #[inline]
    fn from(inner: Inner<B>) -> Self {
        Self { inner, head: None }
    }
}

impl<B> Replayer<B> {
    /// Makes another copy that starts at the beginning.
    pub(crate) fn copy(&self) -> ReplayBody<B> {
        let copy = self.shared.as_ref().map(Arc::clone).map(ReplayCopy::new);
        copy.map_or(Inner::Once(None), Inner::Copy).into()
    }

    /// Whether a copy could be sent to its end, as far as is known now.
    pub(crate) fn is_whole(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| {
            let state = lock(shared);
            state.sole.is_none() && !matches!(state.rest, Rest::Broke)
        })
    }

    /// Takes the body away from all copies.
    pub(crate) fn supersede(&self) {
        if let Some(shared) = &self.shared {
            let mut state = lock(shared);
            state.generation = state.generation.wrapping_add(1);
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            wake(waiting);
        }
    }
}

impl<B> ReplayBody<B> {
    /// Attaches a copy of the head.
    pub(super) fn with_head(mut self, head: &Arc<Parts>) -> Self {
        self.head = Some(Arc::clone(head));
        self
    }

    /// The head that it was sent with, before other layers changed it.
    pub(super) fn head(&self) -> Option<&Arc<Parts>> {
        self.head.as_ref()
    }

    /// Makes copies of the same body, to be read beside this one; `None` when no frames are kept.
    pub(super) fn replayer(&self) -> Option<Replayer<B>> {
        let shared = match &self.inner {
            Inner::Copy(copy) => Some(copy.shared.clone()),
            Inner::Once(None) => None,
            Inner::Once(Some(_)) => return None,
        };
        Some(Replayer { shared })
    }
}

impl<B> ReplayCopy<B> {
    fn new(shared: Arc<Mutex<ReplayState<B>>>) -> Self {
        let (id, generation) = {
            let mut state = lock(&shared);
            state.copies = state.copies.wrapping_add(1);
            (state.copies, state.generation)
        };
        Self {
            shared,
            id,
            generation,
            next: 0,
        }
    }

    /// Why this copy cannot continue.
    fn refused(&self, state: &ReplayState<B>) -> Option<ReplayError> {
        if self.generation != state.generation {
            return Some(ReplayError::Superseded);
        }
        let lost = state.sole.is_some_and(|sole| sole != self.id);
        lost.then_some(ReplayError::TooLong)
    }
}

impl<B> ReplayCopy<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = lock(&self.shared);
        if let Some(error) = self.refused(&state) {
            return Poll::Ready(Some(Err(error.into())));
        }
        if let Some(kept) = state.kept.get(self.next as usize) {
            self.next += 1;
            return Poll::Ready(Some(Ok(kept.clone().into_frame())));
        }
        let body = match &mut state.rest {
            Rest::Open(body) => body,
            Rest::Ended => return Poll::Ready(None),
            Rest::Broke => return Poll::Ready(Some(Err(ReplayError::Broke.into()))),
        };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
            let former = state.wait(self.id, cx.waker());
            drop(state);
            drop(former);
            return Poll::Pending;
        };
        // Values of the user, whose destructors must not run under the lock.
        let (mut unkept, mut ended, mut spent) = (None, None, None);
        let frame = frame.map(|frame| match frame {
            Ok(frame) => {
                let frame = KeptFrame::from_frame(frame, &mut spent);
                // Without another copy, or anything to make one, nobody reads what would be kept.
                let alone = Arc::strong_count(&self.shared) == 1;
                match state.keep(self.id, &frame, alone) {
                    Ok(()) => self.next += 1,
                    Err(frames) => unkept = Some(frames),
                }
                Ok(frame.into_frame())
            }
            Err(error) => {
                ended = Some(std::mem::replace(&mut state.rest, Rest::Broke));
                Err(error.into())
            }
        });
        if frame.is_none() {
            ended = Some(std::mem::replace(&mut state.rest, Rest::Ended));
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop((unkept, ended, spent));
        wake(waiting);
        Poll::Ready(frame)
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().inner {
            Inner::Once(None) => Poll::Ready(None),
            Inner::Copy(copy) => copy.poll(cx),
            Inner::Once(Some(body)) => Pin::new(body).poll_frame(cx).map(|next| {
                next.map(|frame| match frame {
                    Ok(frame) => {
                        Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
                    }
                    Err(error) => Err(error.into()),
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        let copy = match &self.inner {
            Inner::Copy(copy) => copy,
            Inner::Once(body) => return body.as_ref().is_none_or(Body::is_end_stream),
        };
        let state = lock(&copy.shared);
        // A copy that cannot continue returns an error, so it has not ended.
        copy.refused(&state).is_none()
            && copy.next as usize >= state.kept.len()
            && match &state.rest {
                Rest::Open(body) => body.is_end_stream(),
                Rest::Ended => true,
                Rest::Broke => false,
            }
    }

    fn size_hint(&self) -> SizeHint {
        let copy = match &self.inner {
            Inner::Copy(copy) => copy,
            Inner::Once(Some(body)) => return body.size_hint(),
            Inner::Once(None) => return SizeHint::with_exact(0),
        };
        let state = lock(&copy.shared);
        if copy.refused(&state).is_some() {
            return SizeHint::default();
        }
        let ahead = state.kept.iter().skip(copy.next as usize);
        let ahead = ahead.map(KeptFrame::len).sum::<usize>() as u64;
        let rest = match &state.rest {
            Rest::Open(body) => body.size_hint(),
            Rest::Ended => SizeHint::with_exact(0),
            Rest::Broke => SizeHint::default(),
        };
        let mut hint = SizeHint::new();
        // The upper bound first: a body may announce a wrong size, and the lower bound must not
        // exceed the upper.
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(ahead)) {
            hint.set_upper(upper);
        }
        hint.set_lower(rest.lower().saturating_add(ahead));
        hint
    }
}

impl<B> Drop for ReplayCopy<B> {
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        // The body may hold the waker of this copy only, so the other copies must poll it again.
        let mut waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.retain(|(id, _)| *id != self.id);
        wake(waiting);
    }
}

impl_debug!([B] ReplayBody<B>: |this| is_empty = matches!(this.inner, Inner::Once(None)));

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use http_body_util::Empty;

    #[test]
    fn a_request_without_data_is_small_enough_to_be_moved_at_once() {
        let size = size_of::<http::Request<super::ReplayBody<Empty<bytes::Bytes>>>>();
        assert!(size <= 256, "{size}");
    }
}
