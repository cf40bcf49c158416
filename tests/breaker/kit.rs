//! A service that does what each request says, and a classifier that waits for the end of answers.

use std::{
    future::{self, Future},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use tower::{BoxError, Service};
use tower_roster::classify::{Classify, Observer, Verdict};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// What the service is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Do {
    Succeed,
    Fail,
    SucceedAfter(Duration),
    FailAfter(Duration),
    Hang,
}

pub(crate) type Answer =
    Pin<Box<dyn Future<Output = Result<&'static str, BoxError>> + Send + Sync>>;

/// Does what each request says, and counts what it was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Obedient {
    pub(crate) asked: Arc<AtomicUsize>,
    pub(crate) called: Arc<AtomicUsize>,
    pub(crate) never_ready: bool,
    pub(crate) broken: bool,
}

impl Service<Do> for Obedient {
    type Response = &'static str;
    type Error = BoxError;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.asked.fetch_add(1, SeqCst);
        if self.broken {
            return Poll::Ready(Err("not ready, and never will be".into()));
        }
        if self.never_ready {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, what: Do) -> Answer {
        self.called.fetch_add(1, SeqCst);
        Box::pin(async move {
            match what {
                Do::SucceedAfter(time) | Do::FailAfter(time) => tokio::time::sleep(time).await,
                Do::Hang => future::pending().await,
                Do::Succeed | Do::Fail => {}
            }
            match what {
                Do::Fail | Do::FailAfter(_) => Err("as it was told".into()),
                _ => Ok("done"),
            }
        })
    }
}

/// Leaves the verdict to whoever holds the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtTheEnd;

/// An answer whose verdict is still to come.
pub(crate) struct Streaming<O> {
    pub(crate) observer: O,
}

impl<O: Observer> Streaming<O> {
    pub(crate) fn end(mut self, verdict: Verdict) {
        self.observer.conclude(verdict);
    }
}

impl Classify<&'static str, BoxError> for AtTheEnd {
    type Observed<O: Observer> = Streaming<O>;

    fn judge(&self, result: Result<&&'static str, &BoxError>) -> Option<Verdict> {
        result.err().map(|_| Verdict::FAILURE)
    }

    fn observe<O: Observer>(
        &self,
        _: &'static str,
        _: Option<Verdict>,
        observer: O,
    ) -> Streaming<O> {
        Streaming { observer }
    }
}

/// Judges by the head, and hands out the observer too: an answer may still break off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtTheHead;

impl Classify<&'static str, BoxError> for AtTheHead {
    type Observed<O: Observer> = Streaming<O>;

    fn judge(&self, result: Result<&&'static str, &BoxError>) -> Option<Verdict> {
        Some(match result {
            Ok(_) => Verdict::SUCCESS,
            Err(_) => Verdict::FAILURE,
        })
    }

    fn observe<O: Observer>(
        &self,
        _: &'static str,
        _: Option<Verdict>,
        observer: O,
    ) -> Streaming<O> {
        Streaming { observer }
    }
}
