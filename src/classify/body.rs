//! Observes the body of a response: it is complete, breaks off, or carries the verdict in its trailers.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::{
    Observer, Outcome, Verdict,
    codes::Codes,
    excuse::{self, Excuse},
};
use crate::error::RequestErrorKind;

/// The body of a response. It reports to an [`Observer`] how it ends.
///
/// The observer is dropped when the body has ended or is dropped. A body of known length ends before its
/// consumer polls for the end.
#[pin_project]
pub struct ObservedBody<B, O> {
    #[pin]
    body: B,
    /// `None` once the body has ended.
    watch: Option<BodyWatch<O>>,
}

struct BodyWatch<O> {
    observer: O,
    awaited: Awaited,
}

/// Which verdict the rest of a response can still bring.
#[derive(Clone, Copy, Debug)]
pub(super) enum Awaited {
    /// None: the head is already no success.
    Nothing,
    /// A failure, if the body breaks off.
    Whole,
    /// The gRPC status in the trailers.
    Status(Codes),
}

impl Awaited {
    pub(super) fn after(verdict: Verdict) -> Self {
        match verdict.outcome {
            Outcome::Success => Self::Whole,
            _ => Self::Nothing,
        }
    }
}

impl<O: Observer> BodyWatch<O> {
    fn ended(mut self, trailers: Option<&HeaderMap>) {
        let Awaited::Status(codes) = self.awaited else {
            return self.observer.ended();
        };
        if let Some(trailers) = trailers {
            self.observer.trailers(trailers);
        }
        self.observer.ended();
        self.observer.conclude(codes.end(trailers));
    }

    /// The error of a body has any type, so only the note of the client tells its excuse.
    fn broke_off(mut self) {
        let excuse = excuse::noted();
        let kind = excuse.map_or(RequestErrorKind::Connection, Excuse::kind);
        self.observer.broke_off(kind);
        let verdict = excuse::on_error(None, excuse);
        let concludes = match self.awaited {
            Awaited::Nothing => false,
            // The observer has the success of the head. Only a worse verdict may follow.
            Awaited::Whole => verdict == Verdict::FAILURE,
            Awaited::Status(_) => true,
        };
        if concludes {
            self.observer.conclude(verdict);
        }
    }
}

impl<B: Body, O: Observer> ObservedBody<B, O> {
    pub(super) fn new(body: B, observer: O, awaited: Awaited) -> Self {
        let mut watch = Some(BodyWatch { observer, awaited });
        if body.is_end_stream() {
            end(&mut watch, None);
        }
        Self { body, watch }
    }
}

fn end<O: Observer>(watch: &mut Option<BodyWatch<O>>, trailers: Option<&HeaderMap>) {
    if let Some(watch) = watch.take() {
        watch.ended(trailers);
    }
}

impl<B: Body, O: Observer> Body for ObservedBody<B, O> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        excuse::forget();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(frame)) if frame.is_trailers() => end(this.watch, frame.trailers_ref()),
            Some(Ok(_)) if !this.body.is_end_stream() => {}
            Some(Ok(_)) | None => end(this.watch, None),
            Some(Err(_)) => {
                if let Some(watch) = this.watch.take() {
                    watch.broke_off();
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

impl_debug!([B: fmt::Debug, O] ObservedBody<B, O>: |this|
    body = this.body,
    awaited = this.watch.as_ref().map(|watch| watch.awaited),
);
