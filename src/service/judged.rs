//! The future of a call that a layer admits and judges, or refuses.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;

use crate::{
    classify::{self, Classify, Observer, Verdict},
    error::BoxError,
};

/// A call in flight, or a call refused with an error `X`. Dropping it drops the observer `O` of the
/// call, which then counts as cancelled.
#[pin_project]
pub struct Judged<F, C, O, X = BoxError>(#[pin] Kind<F, C, O, X>);

#[pin_project(project = KindProj)]
enum Kind<F, C, O, X> {
    Refused(Option<X>),
    Admitted {
        #[pin]
        future: F,
        classify: C,
        /// Taken when the inner future is done.
        observer: Option<O>,
    },
}

/// What the observer of a call sees in an error beside the verdict of the classifier. An error of an
/// unknown type has only the excuse that was noted.
pub(super) trait Amend<X> {
    fn amend(judged: Option<Verdict>, _error: &X) -> Verdict {
        classify::on_service_error(judged, classify::noted())
    }
}

impl<X> Amend<X> for () {}

impl<F, C, O, X> Judged<F, C, O, X> {
    pub(super) fn refused(error: impl Into<X>) -> Self {
        Self(Kind::Refused(Some(error.into())))
    }

    pub(super) fn admitted(future: F, classify: C, observer: O) -> Self {
        Self(Kind::Admitted {
            future,
            classify,
            observer: Some(observer),
        })
    }
}

impl<F, C, O, X, T, E> Future for Judged<F, C, O, X>
where
    F: Future<Output = Result<T, E>>,
    E: Into<X>,
    C: Classify<T, E>,
    O: Observer + Amend<X>,
{
    type Output = Result<C::Observed<O>, X>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            KindProj::Refused(error) => {
                Poll::Ready(Err(error.take().expect("not polled after it was done")))
            }
            KindProj::Admitted {
                future,
                classify,
                observer,
            } => {
                classify::forget();
                let result = ready!(future.poll(cx));
                // Held here, so that it is dropped if the classifier panics: the call then counts
                // as cancelled.
                let mut observer = observer.take().expect("not polled after it was done");
                let verdict = classify.judge(result.as_ref());
                Poll::Ready(match result {
                    Ok(response) => {
                        observer.answered(verdict);
                        Ok(classify.observe(response, verdict, observer))
                    }
                    Err(error) => {
                        let error: X = error.into();
                        // No later event can change the verdict of an error.
                        observer.answered(Some(O::amend(verdict, &error)));
                        Err(error)
                    }
                })
            }
        }
    }
}

impl<F, C, O: fmt::Debug, X: fmt::Debug> fmt::Debug for Judged<F, C, O, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Refused(error) => f.debug_tuple("Refused").field(error).finish(),
            Kind::Admitted { observer, .. } => f.debug_tuple("Admitted").field(observer).finish(),
        }
    }
}
