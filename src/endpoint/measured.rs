//! An endpoint that measures its own load, for balancers that read the load from a service.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;
use tower::{Service, load::Load};

use super::{
    Endpoint,
    future::ResponseFuture,
    load::{Handle, LoadState, LoadTracker},
};
use crate::{
    classify::{Answers, Classify},
    instance::Weight,
};

/// An endpoint that measures its own load: a [`tower::load::Load`], for tower's own balancer.
///
/// `L` measures the load. `C` judges responses and decides when a request is complete: when its response
/// arrives ([`Answers`], the default), or when the body of the response has ended (`Http` and `Grpc`). The
/// latency is the time to the head of the response in either case. Clones share everything except the
/// service.
///
/// The [`Balance`](crate::balance::Balance) of this crate measures load by itself and takes an
/// [`Endpoint`].
///
/// ```text
///  MeasuredEndpoint ──clone──▶ MeasuredEndpoint          one service each
///         │                          │
///         ├──────────────────────────┤
///         ▼                          ▼
///  Facts: instance, weight    LoadState: requests in flight, load tracker ◀── Handle, one for each
///                                                                             request in flight
/// ```
///
/// A request costs two counter updates and two readings of the clock. Nothing locks or allocates. The
/// [`Handle`] is a guard, so the place of a request is released however the request ends.
///
/// # Examples
/// ```
/// use std::{convert::Infallible, sync::Arc};
/// use tower::load::Load;
/// use tower_roster::{Instance, endpoint::{Endpoint, load::InFlight}};
///
/// let instance = Instance::new("user-service", "user-1", "127.0.0.1:8080".parse()?).weight(2);
/// let service = tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) });
///
/// let endpoint = Endpoint::new(service, Arc::new(instance)).measured(InFlight::new());
/// assert_eq!(endpoint.in_flight(), 0);
/// assert_eq!(endpoint.load(), 0.5, "a half of one request, as its weight is 2");
/// # Ok::<_, tower_roster::instance::AddressError>(())
/// ```
pub struct MeasuredEndpoint<S, L, C = Answers> {
    endpoint: Endpoint<S>,
    classify: C,
    state: Arc<LoadState<L>>,
}

// Here and not in the file of `Endpoint`, which must not depend on this one.
impl<S> Endpoint<S> {
    /// Adds measuring of the load, shared by all later clones, for balancers that read a service's load,
    /// such as tower's own.
    pub fn measured<L: LoadTracker>(self, tracker: L) -> MeasuredEndpoint<S, L> {
        MeasuredEndpoint::new(self, tracker)
    }
}

impl<S, L: LoadTracker> MeasuredEndpoint<S, L> {
    pub(super) fn new(endpoint: Endpoint<S>, tracker: L) -> Self {
        Self {
            endpoint,
            classify: Answers,
            state: Arc::new(LoadState::new(tracker)),
        }
    }
}

impl<S, L: LoadTracker, C> MeasuredEndpoint<S, L, C> {
    /// Sets the classifier that judges responses, and decides when a request is complete. By default every
    /// response is a success and completes its request.
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> MeasuredEndpoint<S, L, C2> {
        MeasuredEndpoint {
            endpoint: self.endpoint,
            classify,
            state: self.state,
        }
    }

    /// The endpoint without the measuring.
    pub fn endpoint(&self) -> &Endpoint<S> {
        &self.endpoint
    }

    /// The number of requests in flight, over all clones.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight()
    }

    /// The cost of one more request at `now`: the load divided by the weight, from 0 to infinity and never
    /// NaN; smaller is better. The cost at weight 0 is infinite. For callers that compare several endpoints
    /// with one reading of the clock.
    pub fn cost(&self, now: Instant) -> f64 {
        let load = self.state.tracker.load(self.in_flight(), now);
        cost(load, self.endpoint.weight())
    }
}

impl<S, L, C, Request> Service<Request> for MeasuredEndpoint<S, L, C>
where
    S: Service<Request>,
    L: LoadTracker,
    C: Classify<S::Response, S::Error>,
{
    type Response = C::Observed<Handle<L>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, L, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.endpoint.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // Before the call, so that the guard releases the place if the service panics in it.
        let handle = self.state.start(Instant::now());
        ResponseFuture::new(self.endpoint.call(request), self.classify.clone(), handle)
    }
}

impl<S, L: LoadTracker, C> Load for MeasuredEndpoint<S, L, C> {
    type Metric = f64;

    fn load(&self) -> f64 {
        self.cost(Instant::now())
    }
}

impl<S: Clone, L, C: Clone> Clone for MeasuredEndpoint<S, L, C> {
    fn clone(&self) -> Self {
        Self {
            endpoint: self.endpoint.clone(),
            classify: self.classify.clone(),
            state: Arc::clone(&self.state),
        }
    }
}

impl_debug!([S, L: LoadTracker, C] MeasuredEndpoint<S, L, C>: |this|
    endpoint = this.endpoint,
    in_flight = this.in_flight(),
    load = this.state.tracker,
);

fn cost(load: f64, weight: Weight) -> f64 {
    // False for NaN, too, so that costs are always comparable.
    if load >= 0.0 && weight > Weight::ZERO {
        load / f64::from(weight.get())
    } else {
        f64::INFINITY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_divides_and_zero_costs_infinitely_much() {
        let (one, three) = (Weight::ONE, Weight::from(3));
        assert!(cost(2.9, three) < cost(1.0, one));
        assert!(cost(3.1, three) > cost(1.0, one));
        assert_eq!(cost(0.0, Weight::ZERO), f64::INFINITY);
        assert!(cost(1e15, one) < cost(0.0, Weight::ZERO));
    }

    #[test]
    fn a_load_that_is_no_number_stays_comparable() {
        for load in [f64::NAN, -1.0, f64::INFINITY] {
            assert_eq!(cost(load, Weight::ONE), f64::INFINITY);
        }
    }
}
