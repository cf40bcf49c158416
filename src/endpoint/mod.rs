//! An instance that we can send to.
//!
//! An [`Endpoint`] is a service (usually a connection, or a client that makes connections) together
//! with what must be known to choose it: the [`Key`] and the current [`Instance`] from the registry,
//! and its load, measured from the requests that pass through it. It is a [`tower::Service`] and a
//! [`tower::load::Load`], so tower's own `balance::p2c::Balance` can use it as it is.
//!
//! ```text
//!                  Endpoint ──clone──▶ Endpoint          one service each
//!                     │                   │
//!                     ├───────────────────┤
//!                     ▼                   ▼
//!  Discover ──▶ Facts: instance, weight   State: in flight, load tracker ◀── Handle, one for each
//!  (updates)                                                                 request in flight
//! ```
//!
//! On the path of a request it costs two counters and two readings of the clock; it neither locks
//! nor allocates. Whatever way a request ends, its place in flight is given back: the [`Handle`]
//! is a guard.

#[cfg(feature = "http")]
mod body;
#[cfg(feature = "_hyper")]
pub mod check;
mod cost;
pub mod eject;
mod facts;
mod future;
pub mod load;
mod schedule;
mod slow_start;

#[cfg(feature = "http")]
pub use self::body::CompleteOnBody;
pub use self::{
    cost::Cost,
    future::ResponseFuture,
    slow_start::{Ramp, SlowStart},
};
pub(crate) use self::{facts::Facts, slow_start::Age};
pub use tower::load::CompleteOnResponse;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;
use tower::{
    Service,
    load::{Load, TrackCompletion},
};

use self::load::{Handle, LoadTracker, PeakEwma, State};
use crate::instance::{Instance, Key, Weight};

/// An instance that we can send to: a service, with its identity, weight and load.
///
/// `L` measures the load, and `C` says when a request is complete: when its answer is there
/// ([`CompleteOnResponse`], the default), or when the body of that answer has ended
/// (`CompleteOnBody`, with feature `http`). Clones share everything but the service.
///
/// # Examples
/// ```
/// use std::{convert::Infallible, sync::Arc};
/// use tower_roster::{Instance, endpoint::Endpoint};
///
/// let instance = Instance::new("user-service", "user-1", "127.0.0.1:8080".parse()?).weight(3);
/// let service = tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) });
///
/// let endpoint = Endpoint::new(service, Arc::new(instance));
/// assert_eq!((endpoint.weight().get(), endpoint.in_flight()), (3, 0));
/// # Ok::<_, tower_roster::instance::AddressError>(())
/// ```
///
/// With another measure of load:
/// ```
/// # use std::{convert::Infallible, sync::Arc};
/// # use tower_roster::{Instance, endpoint::Endpoint};
/// # let instance = Arc::new(Instance::new("web", "web-1", "127.0.0.1:80".parse()?));
/// # let service = tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) });
/// use tower_roster::endpoint::load::InFlight;
///
/// let endpoint = Endpoint::new(service, instance).with_load(InFlight::new());
/// # Ok::<_, tower_roster::instance::AddressError>(())
/// ```
pub struct Endpoint<S, L = PeakEwma, C = CompleteOnResponse> {
    service: S,
    completion: C,
    key: Key,
    facts: Arc<Facts>,
    state: Arc<State<L>>,
}

impl<S> Endpoint<S> {
    /// Wraps the service that reaches `instance`, with a default [`PeakEwma`].
    pub fn new(service: S, instance: Arc<Instance>) -> Self {
        let key = instance.key.clone();
        let facts = Arc::new(Facts::new(instance, None));
        Self::assemble(
            service,
            key,
            facts,
            PeakEwma::new(),
            CompleteOnResponse::default(),
        )
    }
}

impl<S, L: LoadTracker, C> Endpoint<S, L, C> {
    pub(crate) fn assemble(
        service: S,
        key: Key,
        facts: Arc<Facts>,
        tracker: L,
        completion: C,
    ) -> Self {
        Self {
            service,
            completion,
            key,
            facts,
            state: Arc::new(State::new(tracker)),
        }
    }

    /// Measures the load in another way, from now on and for this endpoint and its later clones.
    #[must_use]
    pub fn with_load<L2: LoadTracker>(self, tracker: L2) -> Endpoint<S, L2, C> {
        let Self {
            service,
            completion,
            key,
            facts,
            ..
        } = self;
        Endpoint::assemble(service, key, facts, tracker, completion)
    }

    /// Counts requests as complete at another point.
    #[must_use]
    pub fn with_completion<C2>(self, completion: C2) -> Endpoint<S, L, C2> {
        Endpoint {
            service: self.service,
            completion,
            key: self.key,
            facts: self.facts,
            state: self.state,
        }
    }

    /// Its identity, which never changes.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What the registry says of it now.
    pub fn instance(&self) -> Arc<Instance> {
        self.facts.instance()
    }

    /// Its weight now; cheaper than asking [`instance`](Self::instance).
    pub fn weight(&self) -> Weight {
        self.facts.weight()
    }

    /// The number of its requests that are not complete, over all clones.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight()
    }

    /// The cost at `now`, for callers that compare several and read the clock once.
    pub fn cost(&self, now: Instant) -> Cost {
        let load = self.state.tracker.load(self.in_flight(), now);
        Cost::new(load, self.weight())
    }

    /// The service.
    pub fn service(&self) -> &S {
        &self.service
    }
}

impl<S, L, C> Endpoint<S, L, C> {
    pub(crate) fn into_parts(self) -> (S, Arc<Facts>) {
        (self.service, self.facts)
    }
}

impl<S, L, C, Request> Service<Request> for Endpoint<S, L, C>
where
    S: Service<Request>,
    L: LoadTracker,
    C: TrackCompletion<Handle<L>, S::Response>,
{
    type Response = C::Output;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, L, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // Before the call, so that a service which panics in it gives the place back.
        let handle = self.state.start(Instant::now());
        ResponseFuture::new(self.service.call(request), self.completion.clone(), handle)
    }
}

impl<S, L: LoadTracker, C> Load for Endpoint<S, L, C> {
    type Metric = Cost;

    fn load(&self) -> Cost {
        self.cost(Instant::now())
    }
}

impl<S: Clone, L, C: Clone> Clone for Endpoint<S, L, C> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            completion: self.completion.clone(),
            key: self.key.clone(),
            facts: Arc::clone(&self.facts),
            state: Arc::clone(&self.state),
        }
    }
}

impl<S, L: LoadTracker, C> fmt::Debug for Endpoint<S, L, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("key", &self.key)
            .field("weight", &self.weight())
            .field("in_flight", &self.in_flight())
            .field("load", &self.state.tracker)
            .finish_non_exhaustive()
    }
}
