//! Sends a request to an endpoint, and to another one if it could not be sent.

use std::task::{Context, Poll};

use tower::Service;

use super::{
    error::BalanceError,
    pick::{
        core::{Core, Picked},
        home::Home,
        request_guard::RequestGuard,
        state::LiveEndpoint,
    },
    policy::Policy,
    topology::Route,
};
use crate::{
    attempt::{AttemptKind, EndpointId, Tried},
    classify::{Observer, Verdict},
    endpoint::load::LoadTracker,
    error::BoxError,
};

/// Number of endpoints that a request is given to in turn, while it could not be sent to the ones before.
const SENDS: u32 = 4;

/// The endpoints that a request was given to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    tried: Tried,
    /// Number of endpoints that it was given to.
    sends: u32,
}

impl Way {
    /// For a request that is given to its first endpoint. `tried` has the endpoints of earlier attempts.
    #[inline]
    pub(super) fn new(tried: Tried) -> Self {
        Self { tried, sends: 1 }
    }

    /// Gives a request to an endpoint. Those below see whether it is the first one.
    #[inline]
    pub(super) fn during<T>(self, give: impl FnOnce() -> T) -> T {
        if self.sends > 1 {
            AttemptKind::Resend.enter(give)
        } else {
            give()
        }
    }
}

/// The result of giving a request to endpoints.
pub(super) enum Sent<S: Service<Request>, Request, L: LoadTracker> {
    Calling(S::Future, RequestGuard<L>),
    /// The endpoint is not ready.
    Pending(Picked<S, L>, Request),
    Failed(Failed<Request>),
}

/// What is left of a request that an endpoint did not answer.
pub(super) struct Failed<Request> {
    error: BalanceError,
    at: EndpointId,
    /// The balancer, for picking another endpoint.
    home: Home,
    /// The request, if it can be sent to another endpoint.
    request: Option<Request>,
}

impl<Request> Failed<Request> {
    #[cold]
    pub(super) fn new<L>(
        state: &LiveEndpoint<L>,
        source: BoxError,
        request: Option<Request>,
    ) -> Self {
        Self {
            error: BalanceError::endpoint(&state.key, source),
            at: state.id(),
            home: state.common().home.clone(),
            request,
        }
    }
}

impl<Request: Send + 'static> Failed<Request> {
    /// The error for the caller. It contains the request if that was not sent.
    #[cold]
    pub(super) fn give_up(self) -> BalanceError {
        match self.request {
            Some(request) => self.error.with_request(request),
            None => self.error,
        }
    }
}

/// Gives the request to the endpoint, if the endpoint is ready.
#[inline]
pub(super) fn give<S, L, Request>(
    picked: Picked<S, L>,
    request: Request,
    cx: &mut Context<'_>,
) -> Sent<S, Request, L>
where
    S: Service<Request>,
    S::Error: Into<BoxError>,
    L: LoadTracker,
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
            Sent::Failed(Failed::new(guard.state(), error.into(), Some(request)))
        }
    }
}

/// Gives a request that failed at one endpoint to others until one takes it, as long as the balancer
/// exists.
#[cold]
pub(super) fn give_again<S, P, C, W, Request>(
    failed: Failed<Request>,
    way: &mut Way,
    cx: &mut Context<'_>,
) -> Sent<S, Request, P::Load>
where
    S: Service<Request> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    P: Policy,
    C: Send + Sync + 'static,
    W: Route<Request>,
{
    match failed.home.get::<Core<S, P, C, W>>() {
        Some(core) => give_to_others(&core, failed, way, cx),
        None => Sent::Failed(failed),
    }
}

/// Gives a request that failed at one endpoint to others until one takes it.
#[cold]
pub(super) fn give_to_others<S, P, C, W, Request>(
    core: &Core<S, P, C, W>,
    mut failed: Failed<Request>,
    way: &mut Way,
    cx: &mut Context<'_>,
) -> Sent<S, Request, P::Load>
where
    S: Service<Request> + Clone,
    S::Error: Into<BoxError>,
    P: Policy,
    W: Route<Request>,
{
    way.tried.insert(failed.at);
    while way.sends < SENDS {
        let Some(request) = failed.request.take() else {
            break;
        };
        let wish = core.route.route(&request);
        // Not to the same endpoint again: it has just failed, and in an outage every request would repeat
        // that.
        let Ok(picked) = core.pick_other(wish, way.tried) else {
            failed.request = Some(request);
            break;
        };
        Tried::note(picked.guard.state().id());
        way.sends += 1;
        match way.during(|| give(picked, request, cx)) {
            Sent::Failed(again) => {
                way.tried.insert(again.at);
                failed = again;
            }
            Sent::Pending(picked, request) => return give_to_ready(core, picked, request, way, cx),
            calling @ Sent::Calling(..) => return calling,
        }
    }
    Sent::Failed(failed)
}

/// Gives a request whose first endpoint is not ready to another endpoint, if one of a few others is ready.
/// Otherwise the request waits for the first, which is the policy's choice. A probe always waits, because a
/// permit that is given back counts as no response.
#[cold]
pub(super) fn give_to_ready<S, P, C, W, Request>(
    core: &Core<S, P, C, W>,
    mut first: Picked<S, P::Load>,
    mut request: Request,
    way: &mut Way,
    cx: &mut Context<'_>,
) -> Sent<S, Request, P::Load>
where
    S: Service<Request> + Clone,
    S::Error: Into<BoxError>,
    P: Policy,
    W: Route<Request>,
{
    if first.guard.is_probe() {
        return Sent::Pending(first, request);
    }
    // These endpoints have not failed, so the request may come back to them.
    let mut seen = way.tried;
    seen.insert(first.guard.state().id());
    let wish = core.route.route(&request);
    for _ in 1..SENDS {
        let Ok(picked) = core.pick_other(wish, seen) else {
            break;
        };
        let id = picked.guard.state().id();
        seen.insert(id);
        match way.during(|| give(picked, request, cx)) {
            Sent::Calling(future, guard) => {
                Tried::note(id);
                return Sent::Calling(future, guard);
            }
            Sent::Pending(picked, kept) => {
                request = kept;
                if picked.guard.is_probe() {
                    Tried::note(id);
                    first = picked;
                    break;
                }
            }
            Sent::Failed(mut failed) => {
                let Some(kept) = failed.request.take() else {
                    return Sent::Failed(failed);
                };
                Tried::note(id);
                way.tried.insert(failed.at);
                way.sends += 1;
                request = kept;
            }
        }
    }
    Sent::Pending(first, request)
}

/// Holds the place of a request while code of its endpoint runs. If that code panics, the panic continues
/// to the caller and counts as a failure of the endpoint.
struct Unwinds<L: LoadTracker>(Option<RequestGuard<L>>);

impl<L: LoadTracker> Unwinds<L> {
    /// Releases the guard after the endpoint's code returned without a panic.
    #[inline]
    fn returned(mut self) -> RequestGuard<L> {
        self.0.take().expect("it is taken once")
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
