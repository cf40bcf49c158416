//! The body of a request, which tells whether it is still being sent.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};

/// Whether hyper holds a body on one connection. hyper drops a body when it has taken the last of it.
/// Relaxed: hyper's task is told by the channel that brings it the body, and is the one that drops it.
#[derive(Clone, Default)]
pub(super) struct Uploading(Arc<AtomicBool>);

impl Uploading {
    pub(super) fn get(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// The body of a request on a connection.
pub(super) struct Upload<B> {
    body: B,
    _held: Option<Held>,
}

impl<B: Body> Upload<B> {
    /// Tells `uploading` of the body, unless it has ended already.
    #[inline]
    pub(super) fn new(body: B, uploading: Option<&Uploading>) -> Self {
        let told = uploading.filter(|_| !body.is_end_stream());
        let _held = told.map(Held::new);
        Self { body, _held }
    }

    pub(super) fn into_inner(self) -> B {
        self.body
    }
}

impl<B: Body + Unpin> Body for Upload<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The flag is set while this exists.
struct Held(Uploading);

impl Held {
    fn new(uploading: &Uploading) -> Self {
        uploading.0.store(true, Relaxed);
        Self(uploading.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.store(false, Relaxed);
    }
}
