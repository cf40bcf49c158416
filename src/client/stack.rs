//! All of it, in the right order.
//!
//! ```text
//! request ─▶ breaker ─▶ retry ─▶ hedge ─▶ balance ─▶ endpoint
//!              │          │        │         │
//!              │          │        │         └─ which one: policy, ejection, slow start;
//!              │          │        │            what could not be sent goes on to another
//!              │          │        └─ a second attempt where the first is slow
//!              │          └─ another attempt where one failed, within a budget; and how long the
//!              │             caller waits for all of them
//!              └─ nothing at all while nearly everything fails; only where one is asked for
//! ```
//!
//! [`Stack::build`] is the place to look: each layer stands there with the reason for its place. All of
//! them judge by the same [classifier](crate::classify) and draw on the same budget. Each also works
//! alone in a `tower::ServiceBuilder`; take them one by one where this order is not yours.

use std::{fmt, hash::Hash, num::NonZeroU32, time::Duration};

use tower::{
    Layer,
    discover::Discover,
    layer::util::Identity,
    util::{Either, option_layer},
};

#[cfg(feature = "http")]
use crate::service::retry::{Replay, ShareReplay};
use crate::{
    balance::{
        Balance, BalanceLayer, Handle,
        policy::{DefaultPolicy, Policy},
    },
    classify::Answers,
    endpoint::Endpoint,
    error::{BoxError, ConfigError},
    service::{
        breaker::{BreakerHandle, BreakerLayer},
        hedge::{Hedge, HedgeLayer},
        retry::{Cloned, Retry, RetryBudget, RetryLayer},
    },
};

/// Longer than callers usually wait, and shorter than for ever.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Builds the whole client of a service: balancer, hedging, retries with a timeout, circuit breaker.
///
/// By default: power of two choices by peak EWMA, ejection and slow start; a second attempt beside the
/// slowest 3 % where they are far from usual, retries, both on one budget and only for what may be
/// repeated; 30 s for all of it; no circuit breaker, as ejection does its work endpoint by endpoint.
///
/// # Examples
/// The defaults, over whatever a registry lists:
/// ```
/// # #[cfg(all(feature = "http", feature = "memory"))]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower::ServiceExt;
/// use tower_roster::{client::{HttpEndpoints, Stack}, registry};
///
/// let registry = registry::connect("memory:")?;
/// let discover = registry.watch("user-service")?.discover(HttpEndpoints::new());
/// let client = Stack::http().build(discover)?.service; // clone it for each request
/// let request = http::Request::get("http://user-service/users/1").body(Full::<Bytes>::default())?;
/// # if false {
/// let response = client.clone().oneshot(request).await?;
/// # let _ = response.status();
/// # }
/// # Ok(())
/// # }
/// # #[cfg(not(all(feature = "http", feature = "memory")))]
/// # fn main() {}
/// ```
///
/// Customised: zones first, checks by ourselves, less patience, a circuit breaker, and an API whose
/// requests may all be repeated:
/// ```
/// # #[cfg(all(feature = "http", feature = "memory"))]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::{num::NonZeroU32, time::Duration};
/// # use bytes::Bytes;
/// # use http_body_util::Full;
/// # use tower::ServiceExt;
/// use tower_roster::{
///     balance::topology::{Topology, ZonePreference},
///     classify::Http,
///     client::{HttpEndpoints, Stack},
///     endpoint::check::HealthCheck,
///     registry,
///     service::{
///         breaker::BreakerSettings,
///         retry::{Replay, RetryBudget, ShareReplay},
///     },
/// };
///
/// let registry = registry::connect("memory:")?;
/// let discover = registry.watch("user-service")?.discover(HttpEndpoints::new());
/// let breaker = BreakerSettings::new().name("user-service").build()?;
/// let built = Stack::http()
///     .try_balance(|balance| {
///         let zone = ZonePreference::new("eu-1a");
///         let balance = balance.topology(Topology::new().zone(zone))?;
///         balance.health_check(HealthCheck::http("/health"))
///     })?
///     .reissue(
///         Replay::new().idempotent(|_| true),
///         ShareReplay::new().idempotent(|_| true),
///     )
///     .attempts(NonZeroU32::new(2).unwrap())
///     .try_timeout(Duration::from_millis(500))
///     .timeout(Duration::from_secs(2))
///     .budget(RetryBudget::builder().ratio(0.1).build()?)
///     .breaker(breaker.classify(Http::default()))
///     .build(discover)?;
///
/// let handles = built.handles;
/// assert_eq!(handles.balance.status().usable, 0);
/// assert_eq!(handles.budget.withdrawn(), 0);
/// assert_eq!(handles.breaker.map(|breaker| breaker.refused()), Some(0));
/// # let request = http::Request::get("/").body(Full::<Bytes>::default())?;
/// # drop(built.service.oneshot(request));
/// # Ok(())
/// # }
/// # #[cfg(not(all(feature = "http", feature = "memory")))]
/// # fn main() {}
/// ```
pub struct Stack<P = DefaultPolicy, C = Answers, R = Cloned, H = Cloned, W = (), K = Identity> {
    balance: BalanceLayer<P, C, W>,
    above: Above<C, R, H>,
    breaker: K,
}

/// The settings of the layers above the balancer.
#[derive(Clone)]
struct Above<C, R, H> {
    classify: C,
    retry: R,
    hedge: H,
    attempts: NonZeroU32,
    try_timeout: Option<Duration>,
    hedges: bool,
    hedge_delay: Option<Duration>,
    timeout: Option<Duration>,
    budget: RetryBudget,
    seed: Option<u64>,
}

/// What [`Stack::build`] makes, from the outside in. A breaker goes around it.
pub type Stacked<S, P, C, R, H, W = ()> =
    Retry<Either<Hedge<Balance<S, P, C, W>, H, C>, Balance<S, P, C, W>>, R, C>;

/// What goes around all the rest: a [`BreakerLayer`], or nothing. It is known by its type, so that a stack
/// without one has nothing to ask and no body to wrap.
pub trait Outermost<S>: Layer<S> + sealed::Sealed {
    /// A handle to the breaker, if it is one.
    fn handle(&self) -> Option<BreakerHandle>;
}

impl<S> Outermost<S> for Identity {
    fn handle(&self) -> Option<BreakerHandle> {
        None
    }
}

impl<S, C: Clone> Outermost<S> for BreakerLayer<C> {
    fn handle(&self) -> Option<BreakerHandle> {
        Some(self.handle())
    }
}

mod sealed {
    use tower::layer::util::Identity;

    use crate::service::breaker::BreakerLayer;

    pub trait Sealed {}
    impl Sealed for Identity {}
    impl<C> Sealed for BreakerLayer<C> {}
}

/// Handles to what was built. None keeps the client alive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Handles {
    /// The balancer: endpoints, events, ejection and weights by hand.
    pub balance: Handle,
    /// The circuit breaker, if there is one.
    pub breaker: Option<BreakerHandle>,
    /// The budget that bounds retries and hedges together, and what was drawn on it.
    pub budget: RetryBudget,
}

/// A client that was built, and handles to its parts.
#[derive(Debug)]
#[non_exhaustive]
pub struct Built<S> {
    /// The client: a tower service, cheap to clone, at best once for each request.
    pub service: S,
    /// Handles to its parts.
    pub handles: Handles,
}

#[cfg(feature = "http")]
impl Stack<DefaultPolicy, crate::classify::Http, Replay, ShareReplay> {
    /// For HTTP: 5xx and broken answers are failures, idempotent methods may be repeated. The endpoints
    /// get `http::Request<ReplayBody<B>>`.
    pub fn http() -> Self {
        let classify = crate::classify::Http::default();
        Self::of(classify, Replay::new(), ShareReplay::new().next_to_retry())
    }
}

#[cfg(feature = "tonic")]
impl Stack<DefaultPolicy, crate::classify::Grpc, Replay, ShareReplay> {
    /// For gRPC: the status decides, also where it comes in trailers. Nothing is known to be idempotent,
    /// so only what was certainly not sent is repeated; [`reissue`](Self::reissue) says more. The
    /// endpoints get `http::Request<ReplayBody<tonic::body::Body>>`, as
    /// [`GrpcEndpoints`](crate::client::GrpcEndpoints) take it. A
    /// [`StatusLayer`](crate::client::StatusLayer) around the stack makes a status of errors that tonic
    /// does not know.
    ///
    /// # Examples
    /// ```
    /// # #[cfg(feature = "memory")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower::Layer;
    /// use tower_roster::{
    ///     client::{GrpcEndpoints, Stack, StatusLayer}, registry,
    /// };
    ///
    /// let registry = registry::connect("memory:")?;
    /// let discover = registry.watch("greeter")?.discover(GrpcEndpoints::new());
    /// let service = StatusLayer.layer(Stack::grpc().build(discover)?.service);
    /// // let mut client = GreeterClient::new(service);
    /// # let _ = tonic::client::Grpc::new(service).ready();
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "memory"))]
    /// # fn main() {}
    /// ```
    pub fn grpc() -> Self {
        let classify = crate::classify::Grpc::default();
        Self::of(classify, Replay::new(), ShareReplay::new().next_to_retry())
    }
}

impl<C: Clone> Stack<DefaultPolicy, C> {
    /// For requests that are `Clone` and may all be repeated, judged by `classify`.
    pub fn cloned(classify: C) -> Self {
        Self::of(classify, Cloned, Cloned)
    }
}

impl<C: Clone, R, H> Stack<DefaultPolicy, C, R, H> {
    fn of(classify: C, retry: R, hedge: H) -> Self {
        Self {
            balance: BalanceLayer::new().classify(classify.clone()).ejecting(),
            above: Above {
                classify,
                retry,
                hedge,
                attempts: NonZeroU32::MIN.saturating_add(2),
                try_timeout: None,
                hedges: true,
                hedge_delay: None,
                timeout: Some(TIMEOUT),
                budget: RetryBudget::new(),
                seed: None,
            },
            breaker: Identity::new(),
        }
    }
}

impl<P, C: Clone, R, H, W, K> Stack<P, C, R, H, W, K> {
    /// Changes the balancer by settings that cannot be out of range, such as its policy.
    pub fn balance<P2, W2>(
        self,
        change: impl FnOnce(BalanceLayer<P, C, W>) -> BalanceLayer<P2, C, W2>,
    ) -> Stack<P2, C, R, H, W2, K> {
        Stack {
            balance: change(self.balance),
            above: self.above,
            breaker: self.breaker,
        }
    }

    /// Changes the balancer by settings that may be refused: topology, ejection, slow start, health
    /// checks.
    ///
    /// # Errors
    /// As the change says.
    pub fn try_balance<P2, W2>(
        self,
        change: impl FnOnce(BalanceLayer<P, C, W>) -> Result<BalanceLayer<P2, C, W2>, ConfigError>,
    ) -> Result<Stack<P2, C, R, H, W2, K>, ConfigError> {
        Ok(Stack {
            balance: change(self.balance)?,
            above: self.above,
            breaker: self.breaker,
        })
    }

    /// Sets which requests may be repeated, and how: for retries, and for hedges below them.
    pub fn reissue<R2, H2>(self, retry: R2, hedge: H2) -> Stack<P, C, R2, H2, W, K> {
        let above = self.above;
        Stack {
            balance: self.balance,
            above: Above {
                classify: above.classify,
                retry,
                hedge,
                attempts: above.attempts,
                try_timeout: above.try_timeout,
                hedges: above.hedges,
                hedge_delay: above.hedge_delay,
                timeout: above.timeout,
                budget: above.budget,
                seed: above.seed,
            },
            breaker: self.breaker,
        }
    }

    /// Sets how often a request is sent at most, the first time included, hedges not; 3 by default. One
    /// switches retries off.
    #[must_use]
    pub fn attempts(mut self, attempts: NonZeroU32) -> Self {
        self.above.attempts = attempts;
        self
    }

    /// Sets how long one attempt may take to the head of its answer, above zero; no limit by default.
    #[must_use]
    pub fn try_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.above.try_timeout = timeout.into();
        self
    }

    /// Whether slow attempts get a second one beside them; they do by default. Where servers finish the
    /// work on requests that were dropped, and run near their capacity, `false` spares them
    /// [3 % of load](crate::service::hedge#what-it-is-for-and-when-it-withdraws).
    #[must_use]
    pub fn hedge(mut self, hedges: bool) -> Self {
        self.above.hedges = hedges;
        self
    }

    /// Sets after how long an attempt is slow; by default after the measured 97th percentile and three
    /// medians.
    #[must_use]
    pub fn hedge_delay(mut self, delay: impl Into<Option<Duration>>) -> Self {
        self.above.hedge_delay = delay.into();
        self
    }

    /// Sets how long a request may take to the head of its answer, with all its attempts; 30 s by
    /// default, `None` for ever.
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.above.timeout = timeout.into();
        self
    }

    /// Puts a circuit breaker around all; none by default. Give it the stack's classifier.
    #[must_use]
    pub fn breaker(self, breaker: BreakerLayer<C>) -> Stack<P, C, R, H, W, BreakerLayer<C>> {
        Stack {
            balance: self.balance,
            above: self.above,
            breaker,
        }
    }

    /// Sets the budget of retries and hedges; by default 20 % of the requests and ten in reserve. Hedges
    /// also have a share of their own, so nearly all of it is left to retries.
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.above.budget = budget;
        self
    }

    /// Makes chance repeat itself, for tests and simulations.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.balance = self.balance.seed(seed);
        self.above.seed = Some(seed);
        self
    }

    /// Builds the client over the endpoints of one of our discoveries.
    ///
    /// # Errors
    /// When a setting is out of its range.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build<D, S, L: 'static, E: 'static>(
        self,
        discover: D,
    ) -> Result<Built<K::Service>, ConfigError>
    where
        D: Discover<Service = Endpoint<S, L, E>> + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        D::Service: Send,
        S: Send + Sync + 'static,
        P: Policy,
        C: Send + Sync + 'static,
        R: Clone,
        H: Clone,
        W: Send + Sync + 'static,
        K: Outermost<Stacked<S, P, C, R, H, W>>,
    {
        self.above
            .build(&self.breaker, self.balance.balance(discover))
    }

    /// The same over anybody's discovery; see [`BalanceLayer::balance_plain`].
    ///
    /// # Errors
    /// When a setting is out of its range.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build_plain<D, S>(self, discover: D) -> Result<Built<K::Service>, ConfigError>
    where
        D: Discover<Service = S> + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        S: Send + Sync + 'static,
        P: Policy,
        C: Send + Sync + 'static,
        R: Clone,
        H: Clone,
        W: Send + Sync + 'static,
        K: Outermost<Stacked<S, P, C, R, H, W>>,
    {
        self.above
            .build(&self.breaker, self.balance.balance_plain(discover))
    }
}

impl<C: Clone, R: Clone, H: Clone> Above<C, R, H> {
    /// The order of the layers, from the inside out, and why.
    fn build<S, P: Policy, W, K: Outermost<Stacked<S, P, C, R, H, W>>>(
        self,
        breaker: &K,
        balance: Balance<S, P, C, W>,
    ) -> Result<Built<K::Service>, ConfigError> {
        let budget = self.budget;
        // The balancer is innermost, because only there it is known which endpoint a request goes to:
        // what a single one does wrong is dealt with there.
        let handle = balance.handle();

        // Next to it, so that it times single attempts: above a retry it would take a backoff for
        // slowness. It hedges retries, too, for they may meet an endpoint that hangs. It has a share of
        // its own, and the budget of the retries bounds the sum of both.
        let mut hedge = HedgeLayer::reissue(self.hedge)
            .classify(self.classify.clone())
            .shared_budget(budget.clone());
        if let Some(delay) = self.hedge_delay {
            hedge = hedge.delay(delay);
        }
        let hedge = self.hedges.then(|| hedge.build()).transpose()?;
        let service = option_layer(hedge).layer(balance);

        // A retry is for what failed although the balancer and the hedge did what they could. Each
        // attempt comes through both of them again, and goes to another endpoint. It has the deadline of
        // all attempts, too: that is the caller's patience, and what is under way ends with it.
        let mut retry = RetryLayer::reissue(self.retry)
            .classify(self.classify)
            .max_attempts(self.attempts)
            .budget(budget.clone());
        if let Some(timeout) = self.try_timeout {
            retry = retry.try_timeout(timeout);
        }
        if let Some(timeout) = self.timeout {
            retry = retry.deadline(timeout);
        }
        if let Some(seed) = self.seed {
            retry = retry.seed(seed);
        }
        let service = retry.build()?.layer(service);

        // Outermost: it sees what callers see, so it opens when not even retries help, and then
        // spares the service those, too.
        let handles = Handles {
            balance: handle,
            breaker: breaker.handle(),
            budget,
        };
        Ok(Built {
            service: breaker.layer(service),
            handles,
        })
    }
}

impl<P: fmt::Debug, C, R, H, W, K: fmt::Debug> fmt::Debug for Stack<P, C, R, H, W, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("balance", &self.balance)
            .field("attempts", &self.above.attempts)
            .field("try_timeout", &self.above.try_timeout)
            .field("hedges", &self.above.hedges)
            .field("timeout", &self.above.timeout)
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}
