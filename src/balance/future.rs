//! One request on its way through the balancer.

use std::{
    any::Any,
    fmt,
    future::Future,
    marker::PhantomData,
    mem,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
};

use pin_project::pin_project;
use tower::Service;

use super::{
    RequestGuard,
    core::{Core, Picked},
    error::Error,
    policy::Policy,
    state::EndpointState,
    topology::Route,
};
use crate::{
    attempt::{EndpointId, Tried},
    classify::{Classify, Observer, Verdict, reclaim},
    endpoint::load::LoadTracker,
    error::BoxError,
};

/// To how many endpoints a request goes in turn that could not be sent to the one before.
const SENDS: u32 = 4;

/// A request on its way. Dropping it cancels the request and gives back its place.
///
/// ```text
/// call ──pick──▶ Ready ──────▶ Calling ──answer──▶ judged, handed over
///                  ▲ │ the endpoint's poll_ready fails    │ not sent, and the request came back
///                  └─┴────────── pick another ◀───────────┘
/// ```
/// Where the endpoint is not ready at once, `call` looks for one that is.
#[pin_project]
pub struct ResponseFuture<S: Service<Request>, P: Policy, C, R, Request> {
    route: PhantomData<fn() -> R>,
    classify: C,
    #[pin]
    stage: Stage<S, Request, RequestGuard<P::Load>>,
    /// Where it has been before.
    tried: Tried,
    /// Endpoints that it was given to.
    sends: u32,
}

#[pin_project(project = StageProj, project_replace = StageOwned)]
enum Stage<S: Service<Request>, Request, G> {
    /// Waits for the endpoint's own readiness. Boxed, because few do, and a request is larger than all
    /// the rest: every layer above moves this future.
    Ready(Box<GettingReady<S, Request, G>>),
    Calling {
        #[pin]
        future: S::Future,
        guard: G,
    },
    Refused(Error),
    Done,
}

struct GettingReady<S, Request, G> {
    service: S,
    request: Request,
    guard: G,
}

impl<S, P, C, R, Request> ResponseFuture<S, P, C, R, Request>
where
    S: Service<Request> + Clone,
    S::Error: Into<BoxError>,
    P: Policy,
    C: Clone,
    R: Route<Request>,
    Request: 'static,
{
    #[inline]
    pub(super) fn begin(
        core: &Core<S, P, C, R>,
        picked: Picked<S, P::Load>,
        request: Request,
        mut tried: Tried,
    ) -> Self {
        // Most services are ready at once, and then the request is on its way when `call` returns.
        // One that is not registers the waker of the first poll later.
        let cx = &mut Context::from_waker(Waker::noop());
        let mut sends = 1;
        let stage = match advance::<S, P, Request>(picked, request, cx) {
            Sent::Calling(future, guard) => Stage::Calling { future, guard },
            Sent::Pending(picked, request) => {
                ready(core, picked, request, &mut tried, &mut sends, cx)
            }
            Sent::Failed(failed) => next(core, failed, &mut tried, &mut sends, cx),
        };
        Self {
            route: PhantomData,
            classify: core.classify.clone(),
            stage,
            tried,
            sends,
        }
    }

    pub(super) fn refuse(core: &Core<S, P, C, R>, error: Error) -> Self {
        Self {
            route: PhantomData,
            classify: core.classify.clone(),
            stage: Stage::Refused(error),
            tried: Tried::new(),
            sends: 0,
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

enum Sent<S: Service<Request>, Request, P: Policy> {
    Calling(S::Future, RequestGuard<P::Load>),
    Pending(Picked<S, P::Load>, Request),
    Failed(Failed<Request>),
}

/// What an endpoint left behind that did not answer a request.
struct Failed<Request> {
    error: Error,
    at: EndpointId,
    /// Where to look for another endpoint: the core, while there is one.
    home: Weak<dyn Any + Send + Sync>,
    /// When it can be sent elsewhere.
    request: Option<Request>,
}

impl<Request> Failed<Request> {
    #[cold]
    fn new<L>(state: &EndpointState<L>, error: Error, request: Option<Request>) -> Self {
        Self {
            error,
            at: state.id(),
            home: state.common().core.clone(),
            request,
        }
    }
}

/// Hands the request to the endpoint, if that is ready.
#[inline]
fn advance<S, P, Request>(
    picked: Picked<S, P::Load>,
    request: Request,
    cx: &mut Context<'_>,
) -> Sent<S, Request, P>
where
    S: Service<Request>,
    S::Error: Into<BoxError>,
    P: Policy,
{
    let Picked { mut service, guard } = picked;
    let guard = Unwinds(Some(guard));
    match service.poll_ready(cx) {
        Poll::Ready(Ok(())) => {
            let future = service.call(request);
            Sent::Calling(future, guard.returned())
        }
        Poll::Pending => {
            let guard = guard.returned();
            Sent::Pending(Picked { service, guard }, request)
        }
        Poll::Ready(Err(error)) => {
            let mut guard = guard.returned();
            guard.conclude(Verdict::FAILURE);
            let state = guard.state();
            let error = Error::endpoint(&state.key, error.into());
            Sent::Failed(Failed::new(state, error, Some(request)))
        }
    }
}

/// Holds the place of a request while its endpoint runs. A panic of the endpoint goes on to the caller, and
/// is held against the endpoint.
struct Unwinds<L: LoadTracker>(Option<RequestGuard<L>>);

impl<L: LoadTracker> Unwinds<L> {
    /// It came back.
    #[inline]
    fn returned(mut self) -> RequestGuard<L> {
        self.0.take().expect("it is taken once")
    }
}

/// The same while the future of the call is polled. Forgotten when it comes back.
struct Unwinding<'a, L: LoadTracker>(&'a mut RequestGuard<L>);

impl<L: LoadTracker> Drop for Unwinding<'_, L> {
    fn drop(&mut self) {
        self.0.conclude(Verdict::FAILURE);
    }
}

impl<L: LoadTracker> Drop for Unwinds<L> {
    #[inline]
    fn drop(&mut self) {
        if let Some(guard) = &mut self.0 {
            guard.conclude(Verdict::FAILURE);
        }
    }
}

/// Picks other endpoints until one takes the request.
#[cold]
fn next<S, P, C, R, Request>(
    core: &Core<S, P, C, R>,
    mut failed: Failed<Request>,
    tried: &mut Tried,
    sends: &mut u32,
    cx: &mut Context<'_>,
) -> Stage<S, Request, RequestGuard<P::Load>>
where
    S: Service<Request> + Clone,
    S::Error: Into<BoxError>,
    P: Policy,
    R: Route<Request>,
{
    tried.insert(failed.at);
    while *sends < SENDS {
        let Some(kept) = failed.request.take() else {
            break;
        };
        let wish = core.route.route(&kept);
        // Not the same again: it has just failed, and in an outage each request would do so.
        let Ok(picked) = core.pick_other(wish, *tried) else {
            break;
        };
        Tried::note(picked.guard.state().id());
        *sends += 1;
        match advance::<S, P, Request>(picked, kept, cx) {
            Sent::Calling(future, guard) => return Stage::Calling { future, guard },
            Sent::Pending(picked, request) => {
                return ready(core, picked, request, tried, sends, cx);
            }
            Sent::Failed(again) => {
                tried.insert(again.at);
                failed = again;
            }
        }
    }
    Stage::Refused(failed.error)
}

/// Gives the request to another endpoint, where one of a few is ready, and else waits for the first,
/// which is the one that the policy would have. A probe waits: to give its permit back counts as no answer.
#[cold]
fn ready<S, P, C, R, Request>(
    core: &Core<S, P, C, R>,
    mut first: Picked<S, P::Load>,
    mut request: Request,
    tried: &mut Tried,
    sends: &mut u32,
    cx: &mut Context<'_>,
) -> Stage<S, Request, RequestGuard<P::Load>>
where
    S: Service<Request> + Clone,
    S::Error: Into<BoxError>,
    P: Policy,
    R: Route<Request>,
{
    if first.guard.is_probe() {
        return Stage::ready(first, request);
    }
    // They have not failed: the request may come back to them.
    let mut seen = *tried;
    seen.insert(first.guard.state().id());
    let wish = core.route.route(&request);
    for _ in 1..SENDS {
        let Ok(picked) = core.pick_other(wish, seen) else {
            break;
        };
        let id = picked.guard.state().id();
        seen.insert(id);
        match advance::<S, P, Request>(picked, request, cx) {
            Sent::Calling(future, guard) => {
                Tried::note(id);
                return Stage::Calling { future, guard };
            }
            Sent::Pending(picked, kept) => {
                request = kept;
                if picked.guard.is_probe() {
                    first = picked;
                    break;
                }
            }
            Sent::Failed(failed) => {
                let Some(kept) = failed.request else {
                    return Stage::Refused(failed.error);
                };
                tried.insert(failed.at);
                *sends += 1;
                request = kept;
            }
        }
    }
    Stage::ready(first, request)
}

impl<S, P, C, R, Request> Future for ResponseFuture<S, P, C, R, Request>
where
    S: Service<Request> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    P: Policy,
    C: Classify<S::Response, S::Error>,
    R: Route<Request>,
    Request: 'static,
{
    type Output = Result<C::Observed<RequestGuard<P::Load>>, Error>;

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
                            guard.conclude(verdict.unwrap_or(Verdict::FAILURE));
                            let error: BoxError = error.into();
                            let request = reclaim(&*error);
                            let state = guard.state();
                            Failed::new(state, Error::endpoint(&state.key, error), request)
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
                    match advance::<S, P, Request>(Picked { service, guard }, request, cx) {
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
            // The place at the endpoint that failed is given back before another is picked.
            this.stage.set(Stage::Done);
            let core = failed.home.upgrade();
            let stage = match core.map(Arc::downcast::<Core<S, P, C, R>>) {
                Some(Ok(core)) => next(&core, failed, this.tried, this.sends, cx),
                // The last balancer is gone, and with it whom to ask.
                _ => Stage::Refused(failed.error),
            };
            this.stage.set(stage);
        }
    }
}

impl<S: Service<Request>, P: Policy, C, R, Request> fmt::Debug
    for ResponseFuture<S, P, C, R, Request>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Ready(ready) => Some(&ready.guard),
            Stage::Calling { guard, .. } => Some(guard),
            Stage::Refused(_) | Stage::Done => None,
        };
        f.debug_struct("ResponseFuture")
            .field("request", &stage)
            .field("sends", &self.sends)
            .finish_non_exhaustive()
    }
}
