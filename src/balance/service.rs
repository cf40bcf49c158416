//! The service that a caller holds.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use tokio::time::timeout;
use tower::Service;

#[cfg(doc)]
use super::BalanceBuilder;
use super::{
    error::BalanceError,
    future::ResponseFuture,
    handle::{BalanceHandle, BalanceStatus},
    pick::{core::Core, request_guard::RequestGuard},
    policy::{DefaultPolicy, Policy},
    shared::BalanceShared,
    topology::Route,
};
use crate::{
    attempt::Tried,
    classify::{Answers, Classify},
    error::BoxError,
};

/// Spreads requests over the endpoints of a service. Cloning is cheap; use one clone for each request.
///
/// `S` is the service of one endpoint, `P` chooses an endpoint, `C` judges responses, and `W` reads from a
/// request where it should go. All clones share all state. The driver ends with the last clone: requests in
/// flight then continue, but a request that could not be sent is not given to another endpoint. So keep a
/// clone while requests are in flight, as a server does.
///
/// # Readiness
/// `poll_ready` waits while there is no endpoint, for at most [`BalanceBuilder::wait`], and then fails with
/// the reason. It fails at once while every registry confirms that it lists no instance that may serve
/// ([missing](crate::registry::ViewState::Missing) or [empty](crate::registry::ViewState::Empty)). It reserves nothing. A later `poll_ready` waits again, so no failure is permanent.
///
/// The balancer polls an endpoint for readiness when it gives a request to it. If that fails, the request
/// goes to another endpoint. If it is pending, the request goes to the first ready one of up to three other
/// endpoints. If none is ready, the request waits for the policy's choice without a limit of time. So a
/// concurrency limit at each endpoint sends requests on to other endpoints. But when all endpoints are
/// pending for ever, requests wait until a timeout above the balancer ends them.
///
/// # Panics
/// A panic of an endpoint, a policy, a route or a classifier continues to the caller, as with any service
/// of tower. The place of the request is released, the panic counts as a failure of an endpoint that
/// panicked, and the balancer continues.
///
/// # Cancel safety
/// Dropping the future of a request at any point releases its place.
pub struct Balance<S, P: Policy = DefaultPolicy, C = Answers, W = ()> {
    core: BalanceShared<Core<S, P, C, W>>,
    /// Set only while this clone waits for a first endpoint.
    waiting: Option<Waiting>,
}

type Waiting = Pin<Box<dyn Future<Output = bool> + Send + Sync>>;

impl<S, P: Policy, C, W> Balance<S, P, C, W> {
    pub(super) fn new_with(core: Arc<Core<S, P, C, W>>) -> Self {
        Self {
            core: BalanceShared::new(core),
            waiting: None,
        }
    }

    /// A handle for operators and tests. It does not keep the balancer alive.
    pub fn handle(&self) -> BalanceHandle {
        self.core.handle.clone()
    }

    /// The number of endpoints that may be picked; see
    /// [`BalanceStatus::usable`](super::BalanceStatus::usable).
    pub fn usable(&self) -> usize {
        self.core.usable.load(Relaxed)
    }
}

impl<S: Clone, P: Policy, C, W> Balance<S, P, C, W> {
    /// Waits for a first endpoint. Not inlined, so that `poll_ready` is.
    #[cold]
    fn poll_usable(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BalanceError>> {
        let waiting = self.waiting.get_or_insert_with(|| {
            let mut status = self.core.handle.follow();
            let wait = self.core.wait;
            Box::pin(async move {
                let known = |status: &BalanceStatus| status.usable > 0 || status.is_known_empty();
                let known = timeout(wait, status.wait_for(known)).await;
                matches!(known, Ok(Ok(status)) if status.usable > 0)
            })
        });
        let usable = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(if usable {
            Ok(())
        } else {
            Err(self.core.no_endpoint(self.core.reason(None)))
        })
    }
}

impl<S, P, C, W, Request> Service<Request> for Balance<S, P, C, W>
where
    S: Service<Request> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    P: Policy,
    C: Classify<S::Response, S::Error>,
    W: Route<Request>,
    Request: Send + 'static,
{
    type Response = C::Observed<RequestGuard<P::Load>>;
    type Error = BalanceError;
    type Future = ResponseFuture<S, P, C, W, Request>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BalanceError>> {
        if self.core.is_usable() {
            // Check first, because a store costs more than a load.
            if self.waiting.is_some() {
                self.waiting = None;
            }
            return Poll::Ready(Ok(()));
        }
        self.poll_usable(cx)
    }

    #[inline]
    fn call(&mut self, request: Request) -> Self::Future {
        let wish = self.core.route.route(&request);
        let asked = Tried::current();
        let tried = asked.unwrap_or_default();
        match self.core.pick(wish, tried) {
            Ok(picked) => {
                if asked.is_some() {
                    Tried::note(picked.guard.state().id());
                }
                ResponseFuture::begin(&self.core, picked, request, tried)
            }
            Err(reason) => {
                let error = self.core.no_endpoint(reason).with_request(request);
                ResponseFuture::refuse(&self.core, error)
            }
        }
    }
}

impl<S, P: Policy, C, W> Clone for Balance<S, P, C, W> {
    fn clone(&self) -> Self {
        Self {
            core: BalanceShared::clone(&self.core),
            waiting: None,
        }
    }
}

impl_debug!([S, P: Policy, C, W] Balance<S, P, C, W>: |this| status = this.core.handle.status());
