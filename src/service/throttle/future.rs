//! The future of a call through a throttle.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;

use super::{Call, ThrottleError};
use crate::{
    classify::{Classify, Observer, Verdict},
    error::BoxError,
};

/// A call in flight, or refused. Dropping it cancels the call, which then counts for nothing.
#[pin_project]
pub struct ResponseFuture<F, C>(#[pin] Kind<F, C>);

#[pin_project(project = KindProj)]
enum Kind<F, C> {
    Refused(Option<ThrottleError>),
    Admitted {
        #[pin]
        future: F,
        classify: C,
        /// Taken when the inner future is done.
        call: Option<Call>,
    },
}

impl<F, C> ResponseFuture<F, C> {
    pub(super) fn refused(error: ThrottleError) -> Self {
        Self(Kind::Refused(Some(error)))
    }

    pub(super) fn admitted(future: F, classify: C, call: Call) -> Self {
        Self(Kind::Admitted {
            future,
            classify,
            call: Some(call),
        })
    }
}

impl<F, C, T, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
    C: Classify<T, E>,
{
    type Output = Result<C::Observed<Call>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            KindProj::Refused(error) => {
                let error = error.take().expect("not polled after it was done");
                Poll::Ready(Err(error.into()))
            }
            KindProj::Admitted {
                future,
                classify,
                call,
            } => {
                let result = ready!(future.poll(cx));
                // Held here, so that a classifier which panics drops it: the call was cancelled.
                let mut call = call.take().expect("not polled after it was done");
                let verdict = classify.judge(result.as_ref());
                Poll::Ready(match result {
                    Ok(response) => {
                        if let Some(verdict) = verdict {
                            call.conclude(verdict);
                        }
                        Ok(classify.observe(response, verdict, call))
                    }
                    Err(error) => {
                        // Nothing comes after an error that could tell more.
                        call.conclude(verdict.unwrap_or(Verdict::FAILURE));
                        Err(error.into())
                    }
                })
            }
        }
    }
}

impl<F, C> fmt::Debug for ResponseFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Refused(error) => f.debug_tuple("Refused").field(error).finish(),
            Kind::Admitted { call, .. } => f.debug_tuple("Admitted").field(call).finish(),
        }
    }
}
