//! The future of one request.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    mem,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use pin_project::pin_project;
use tower::Service;

use super::{
    error::BalanceError,
    pick::{
        core::{Core, Picked},
        request_guard::RequestGuard,
    },
    policy::Policy,
    send::{Failed, Sent, Way, give, give_again, give_to_others, give_to_ready},
    topology::Route,
};
use crate::{
    attempt::Tried,
    classify::{Classify, Excuse, Observer, Verdict, on_error, reclaim},
    endpoint::load::LoadTracker,
    error::BoxError,
};

/// A request in progress. Dropping it cancels the request and releases its place.
///
/// ```text
/// call ──pick──▶ Ready ──────▶ Calling ──answer──▶ judged, handed over
///                  ▲ │ the endpoint's poll_ready fails    │ not sent, and the request came back
///                  └─┴────────── pick another ◀───────────┘
/// ```
/// If the chosen endpoint is not ready at once, `call` looks for another endpoint that is.
#[pin_project]
pub struct ResponseFuture<S: Service<Request>, P: Policy, C, W, Request> {
    route: PhantomData<fn() -> W>,
    classify: C,
    #[pin]
    stage: Stage<S, Request, RequestGuard<P::Load>>,
    way: Way,
}

#[pin_project(project = StageProj, project_replace = StageOwned)]
enum Stage<S: Service<Request>, Request, G> {
    /// Waits for the endpoint to become ready. Boxed, because this is rare and a request is larger than the
    /// other fields together: every layer above moves this future.
    Ready(Box<GettingReady<S, Request, G>>),
    Calling {
        #[pin]
        future: S::Future,
        guard: G,
    },
    Refused(BalanceError),
    Done,
}

struct GettingReady<S, Request, G> {
    service: S,
    request: Request,
    guard: G,
}

impl<S, P, C, W, Request> ResponseFuture<S, P, C, W, Request>
where
    S: Service<Request> + Clone,
    S::Error: Into<BoxError>,
    P: Policy,
    C: Clone,
    W: Route<Request>,
    Request: Send + 'static,
{
    #[inline]
    pub(super) fn begin(
        core: &Core<S, P, C, W>,
        picked: Picked<S, P::Load>,
        request: Request,
        tried: Tried,
    ) -> Self {
        // Most services are ready at once, so the request is sent before `call` returns. If the service is
        // not ready, the first poll of the future registers the real waker.
        let cx = &mut Context::from_waker(Waker::noop());
        let mut way = Way::new(tried);
        let stage = match give(picked, request, cx) {
            Sent::Calling(future, guard) => Stage::Calling { future, guard },
            Sent::Pending(picked, request) => {
                Stage::after(give_to_ready(core, picked, request, &mut way, cx))
            }
            Sent::Failed(failed) => Stage::after(give_to_others(core, failed, &mut way, cx)),
        };
        Self {
            route: PhantomData,
            classify: core.classify.clone(),
            stage,
            way,
        }
    }

    pub(super) fn refuse(core: &Core<S, P, C, W>, error: BalanceError) -> Self {
        Self {
            route: PhantomData,
            classify: core.classify.clone(),
            stage: Stage::Refused(error),
            way: Way::new(Tried::new()),
        }
    }
}

impl<S: Service<Request>, Request, L: LoadTracker> Stage<S, Request, RequestGuard<L>> {
    #[cold]
    fn ready(picked: Picked<S, L>, request: Request) -> Self {
        Self::Ready(Box::new(GettingReady {
            service: picked.service,
            guard: picked.guard,
            request,
        }))
    }
}

impl<S, Request, L> Stage<S, Request, RequestGuard<L>>
where
    S: Service<Request>,
    Request: Send + 'static,
    L: LoadTracker,
{
    #[cold]
    fn after(sent: Sent<S, Request, L>) -> Self {
        match sent {
            Sent::Calling(future, guard) => Self::Calling { future, guard },
            Sent::Pending(picked, request) => Self::ready(picked, request),
            Sent::Failed(failed) => Self::Refused(failed.give_up()),
        }
    }
}

/// Holds the place of a request while the future of its call is polled. If the poll panics, the panic
/// continues to the caller and counts as a failure of the endpoint. The poll forgets this value when it
/// returns.
struct Unwinding<'a, L: LoadTracker>(&'a mut RequestGuard<L>);

impl<L: LoadTracker> Drop for Unwinding<'_, L> {
    fn drop(&mut self) {
        self.0.conclude(Verdict::FAILURE);
    }
}

impl<S, P, C, W, Request> Future for ResponseFuture<S, P, C, W, Request>
where
    S: Service<Request> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    P: Policy,
    C: Classify<S::Response, S::Error>,
    W: Route<Request>,
    Request: Send + 'static,
{
    type Output = Result<C::Observed<RequestGuard<P::Load>>, BalanceError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let failed = match this.stage.as_mut().project() {
                StageProj::Calling { future, guard } => {
                    let unwinds = Unwinding(guard);
                    let polled = future.poll(cx);
                    mem::forget(unwinds);
                    let Poll::Ready(result) = polled else {
                        return Poll::Pending;
                    };
                    let verdict = this.classify.judge(result.as_ref());
                    match result {
                        Ok(response) => {
                            match verdict {
                                Some(verdict) => guard.conclude(verdict),
                                None => guard.answered(),
                            }
                            let done = this.stage.project_replace(Stage::Done);
                            let StageOwned::Calling { guard, .. } = done else {
                                unreachable!("it was calling a line above");
                            };
                            return Poll::Ready(Ok(this
                                .classify
                                .observe(response, verdict, guard)));
                        }
                        Err(error) => {
                            let error: BoxError = error.into();
                            guard.conclude(on_error(verdict, Excuse::of(&*error)));
                            let request = reclaim(&*error);
                            Failed::new(guard.state(), error, request)
                        }
                    }
                }
                StageProj::Ready(_) => {
                    let ready = this.stage.as_mut().project_replace(Stage::Done);
                    let StageOwned::Ready(ready) = ready else {
                        unreachable!("it was getting ready a line above");
                    };
                    let GettingReady {
                        service,
                        request,
                        guard,
                    } = *ready;
                    let picked = Picked { service, guard };
                    match this.way.during(|| give(picked, request, cx)) {
                        Sent::Calling(future, guard) => {
                            this.stage.set(Stage::Calling { future, guard });
                            continue;
                        }
                        Sent::Pending(picked, request) => {
                            this.stage.set(Stage::ready(picked, request));
                            return Poll::Pending;
                        }
                        Sent::Failed(failed) => failed,
                    }
                }
                StageProj::Refused(_) => {
                    let refused = this.stage.project_replace(Stage::Done);
                    let StageOwned::Refused(error) = refused else {
                        unreachable!("it was refused a line above");
                    };
                    return Poll::Ready(Err(error));
                }
                StageProj::Done => panic!("polled after it was done"),
            };
            // Release the place at the failed endpoint before the next pick.
            this.stage.set(Stage::Done);
            let sent = give_again::<S, P, C, W, Request>(failed, this.way, cx);
            this.stage.set(Stage::after(sent));
        }
    }
}

impl<S: Service<Request>, P: Policy, C, W, Request> fmt::Debug
    for ResponseFuture<S, P, C, W, Request>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Ready(ready) => Some(&ready.guard),
            Stage::Calling { guard, .. } => Some(guard),
            Stage::Refused(_) | Stage::Done => None,
        };
        f.debug_struct("ResponseFuture")
            .field("request", &stage)
            .field("way", &self.way)
            .finish_non_exhaustive()
    }
}
