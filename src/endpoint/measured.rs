//! An endpoint that measures its own load, for balancers that read the load from a service.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;
use tower::{
    Service,
    load::{CompleteOnResponse, Load, TrackCompletion},
};

use super::{
    Endpoint,
    cost::Cost,
    future::ResponseFuture,
    load::{Handle, LoadTracker, State},
};

/// An endpoint that measures its own load: a [`tower::load::Load`], for tower's own balancer.
///
/// `L` measures the load, and `T` decides when a request is complete: when its response arrives
/// ([`CompleteOnResponse`], the default), or when the body of the response has ended (`CompleteOnBody`,
/// with feature `http`). Clones share everything except the service.
///
/// The [`Balance`](crate::balance::Balance) of this crate measures load by itself and takes an
/// [`Endpoint`].
///
/// ```text
///  MeasuredEndpoint ──clone──▶ MeasuredEndpoint          one service each
///         │                          │
///         ├──────────────────────────┤
///         ▼                          ▼
///  Facts: instance, weight    State: requests in flight, load tracker ◀── Handle, one for each
///                                                                         request in flight
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
/// assert_eq!(endpoint.load().get(), 0.5, "a half of one request, as its weight is 2");
/// # Ok::<_, tower_roster::instance::AddressError>(())
/// ```
pub struct MeasuredEndpoint<S, L, T = CompleteOnResponse> {
    endpoint: Endpoint<S>,
    completion: T,
    state: Arc<State<L>>,
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
            completion: CompleteOnResponse::default(),
            state: Arc::new(State::new(tracker)),
        }
    }
}

impl<S, L: LoadTracker, T> MeasuredEndpoint<S, L, T> {
    /// Sets when a request is complete.
    #[must_use]
    pub fn complete<T2>(self, completion: T2) -> MeasuredEndpoint<S, L, T2> {
        MeasuredEndpoint {
            endpoint: self.endpoint,
            completion,
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

    /// The cost at `now`. For callers that compare several endpoints with one reading of the clock.
    pub fn cost(&self, now: Instant) -> Cost {
        let load = self.state.tracker.load(self.in_flight(), now);
        Cost::new(load, self.endpoint.weight())
    }
}

impl<S, L, T, Request> Service<Request> for MeasuredEndpoint<S, L, T>
where
    S: Service<Request>,
    L: LoadTracker,
    T: TrackCompletion<Handle<L>, S::Response>,
{
    type Response = T::Output;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, L, T>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.endpoint.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // Before the call, so that the guard releases the place if the service panics in it.
        let handle = self.state.start(Instant::now());
        ResponseFuture::new(self.endpoint.call(request), self.completion.clone(), handle)
    }
}

impl<S, L: LoadTracker, T> Load for MeasuredEndpoint<S, L, T> {
    type Metric = Cost;

    fn load(&self) -> Cost {
        self.cost(Instant::now())
    }
}

impl<S: Clone, L, T: Clone> Clone for MeasuredEndpoint<S, L, T> {
    fn clone(&self) -> Self {
        Self {
            endpoint: self.endpoint.clone(),
            completion: self.completion.clone(),
            state: Arc::clone(&self.state),
        }
    }
}

impl<S, L: LoadTracker, T> fmt::Debug for MeasuredEndpoint<S, L, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeasuredEndpoint")
            .field("endpoint", &self.endpoint)
            .field("in_flight", &self.in_flight())
            .field("load", &self.state.tracker)
            .finish_non_exhaustive()
    }
}
