//! An endpoint that measures its own load, for balancers that do not.

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
/// `L` measures the load, and `T` says when a request is complete: when its response is there
/// ([`CompleteOnResponse`], the default), or when the body of the response has ended
/// (`CompleteOnBody`, with feature `http`). Clones share everything but the
/// service.
///
/// Our own [`Balance`](crate::balance::Balance) measures load by itself and takes an [`Endpoint`].
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
/// A request costs two counters and two readings of the clock; nothing locks or allocates. Whatever way a
/// request ends, its place in flight is given back: the [`Handle`] is a guard.
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

// Here and not beside the type, because that file knows nothing of this one.
impl<S> Endpoint<S> {
    /// Measures the load from now on, over all later clones, for balancers that read a service's load, such
    /// as tower's own.
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

    /// The endpoint without its measure.
    pub fn endpoint(&self) -> &Endpoint<S> {
        &self.endpoint
    }

    /// The number of its requests that are not complete, over all clones.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight()
    }

    /// The cost at `now`, for callers that compare several and read the clock once.
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
        // Before the call, so that a service which panics in it gives the place back.
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
