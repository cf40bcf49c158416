//! The client of a service: see [`Stack`].

mod build;
mod outermost;

pub use self::{
    build::{Built, Handles, Stacked},
    outermost::{NoBreaker, Outermost},
};

use std::{fmt, num::NonZeroU32, time::Duration};

#[cfg(feature = "http")]
use crate::service::retry::{Replay, ShareReplay};
use crate::{
    balance::{BalanceBuilder, BalanceLayer, policy::DefaultPolicy},
    classify::Answers,
    endpoint::eject::Ejection,
    service::{
        breaker::{BreakerLayer, BreakerSettings},
        retry::{BudgetBuilder, Cloned, Hedgeable, RetryBudget},
    },
};

/// Longer than callers usually wait, and shorter than for ever.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Builds the client of a service: balancer, hedging, retries with a timeout, circuit breaker.
///
/// ```text
/// request ─▶ breaker ─▶ retry ─▶ hedge ─▶ balance ─▶ endpoint
///              │          │        │         │
///              │          │        │         └─ chooses the endpoint: policy, ejection, slow start;
///              │          │        │            a request that could not be sent goes to another one
///              │          │        └─ a second attempt where the first is slow
///              │          └─ another attempt where one failed, within a budget; and how long the
///              │             caller waits for all of them
///              └─ refuses calls while nearly all fail; only where it is asked for
/// ```
///
/// All layers judge by the same [classifier](crate::classify) and draw on the same budget. Each also works
/// alone in a `tower::ServiceBuilder`: take them one by one where this order is not yours.
///
/// By default: power of two choices by peak EWMA, ejection and slow start; a second attempt beside the
/// slowest 3 % where they are far from usual; retries, on the same budget and only for what may be
/// repeated; 30 s for all of it; no circuit breaker, as ejection does its work endpoint by endpoint.
///
/// # A template
/// A stack holds settings alone. A clone of it builds another client, with a budget, a breaker and
/// endpoints of its own. Clients share a budget or a breaker only where
/// [`shared_budget`](Self::shared_budget) or [`shared_breaker`](Self::shared_breaker) says so.
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
///     client::{HttpEndpoints, Stack},
///     endpoint::check::HealthCheck,
///     registry,
///     service::{
///         breaker::BreakerSettings,
///         retry::{Replay, RetryBudget},
///     },
/// };
///
/// let registry = registry::connect("memory:")?;
/// let discover = registry.watch("user-service")?.discover(HttpEndpoints::new());
/// let built = Stack::http()
///     .balance(|balance| {
///         let zone = ZonePreference::new("eu-1a");
///         let balance = balance.topology(Topology::new().zone(zone));
///         balance.health_check(HealthCheck::http("/health"))
///     })
///     .reissue(Replay::new().idempotent(|_| true))
///     .attempts(NonZeroU32::new(2).unwrap())
///     .try_timeout(Duration::from_millis(500))
///     .timeout(Duration::from_secs(2))
///     .budget(RetryBudget::builder().ratio(0.1))
///     .breaker(BreakerSettings::new().name("user-service"))
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
#[derive(Clone)]
pub struct Stack<P = DefaultPolicy, C = Answers, R = Cloned, H = Cloned, W = (), K = NoBreaker> {
    balance: BalanceBuilder<P, C, W>,
    layers: Layers<C, R, H>,
    breaker: K,
}

/// The layers between balancer and breaker.
#[derive(Clone)]
struct Layers<C, R, H> {
    classify: C,
    retry: R,
    hedge: H,
    settings: Settings,
}

#[derive(Clone, Debug)]
struct Settings {
    attempts: NonZeroU32,
    try_timeout: Option<Duration>,
    hedges: bool,
    hedge_delay: Option<Duration>,
    timeout: Option<Duration>,
    budget: Budget,
    seed: Option<u64>,
}

#[derive(Clone, Debug)]
enum Budget {
    Own(BudgetBuilder),
    Shared(RetryBudget),
}

#[cfg(feature = "http")]
impl Stack<DefaultPolicy, crate::classify::Http, Replay, ShareReplay> {
    /// For HTTP: 5xx and broken answers are failures, idempotent methods may be repeated. The endpoints
    /// get `http::Request<ReplayBody<B>>`.
    pub fn http() -> Self {
        let classify = crate::classify::Http::default();
        Self::of(classify, Replay::new())
    }
}

#[cfg(feature = "tonic")]
impl Stack<DefaultPolicy, crate::classify::Grpc, Replay, ShareReplay> {
    /// For gRPC: the status decides, also where it comes in trailers. Nothing is known to be idempotent,
    /// so only what was certainly not sent is repeated, [as it comes back](Replay::reclaiming);
    /// [`reissue`](Self::reissue) says more. The
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
        Self::of(classify, Replay::new().reclaiming())
    }
}

impl<C: Clone> Stack<DefaultPolicy, C> {
    /// For requests that are `Clone` and may all be repeated, judged by `classify`.
    pub fn cloned(classify: C) -> Self {
        Self::of(classify, Cloned)
    }
}

impl<C: Clone, R: Hedgeable> Stack<DefaultPolicy, C, R, R::Hedge> {
    fn of(classify: C, retry: R) -> Self {
        Self {
            balance: BalanceLayer::builder()
                .classify(classify.clone())
                .ejection(Ejection::new()),
            layers: Layers {
                classify,
                hedge: retry.hedge(),
                retry,
                settings: Settings {
                    attempts: NonZeroU32::MIN.saturating_add(2),
                    try_timeout: None,
                    hedges: true,
                    hedge_delay: None,
                    timeout: Some(TIMEOUT),
                    budget: Budget::Own(RetryBudget::builder()),
                    seed: None,
                },
            },
            breaker: NoBreaker,
        }
    }
}

impl<P, C: Clone, R, H, W, K> Stack<P, C, R, H, W, K> {
    /// Changes the balancer's settings.
    pub fn balance<P2, W2>(
        self,
        change: impl FnOnce(BalanceBuilder<P, C, W>) -> BalanceBuilder<P2, C, W2>,
    ) -> Stack<P2, C, R, H, W2, K> {
        Stack {
            balance: change(self.balance),
            layers: self.layers,
            breaker: self.breaker,
        }
    }

    /// Sets which requests may be repeated, and how: for retries and for the hedges below them.
    pub fn reissue<R2: Hedgeable>(self, reissue: R2) -> Stack<P, C, R2, R2::Hedge, W, K> {
        Stack {
            balance: self.balance,
            layers: Layers {
                classify: self.layers.classify,
                hedge: reissue.hedge(),
                retry: reissue,
                settings: self.layers.settings,
            },
            breaker: self.breaker,
        }
    }

    /// Sets how often a request is sent at most, the first time included, hedges not; 3 by default. One
    /// switches retries off.
    #[must_use]
    pub fn attempts(mut self, attempts: NonZeroU32) -> Self {
        self.layers.settings.attempts = attempts;
        self
    }

    /// Sets how long one attempt may take to the head of its answer, above zero; no limit by default.
    #[must_use]
    pub fn try_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.layers.settings.try_timeout = timeout.into();
        self
    }

    /// Whether slow attempts get a second one beside them; they do by default. Where servers finish the
    /// work on requests that were dropped, and run near their capacity, `false` spares them
    /// [3 % of load](crate::service::hedge#what-it-is-for-and-when-it-withdraws).
    #[must_use]
    pub fn hedge(mut self, hedges: bool) -> Self {
        self.layers.settings.hedges = hedges;
        self
    }

    /// Sets after how long an attempt is slow; by default after the measured 97th percentile and three
    /// medians.
    #[must_use]
    pub fn hedge_delay(mut self, delay: impl Into<Option<Duration>>) -> Self {
        self.layers.settings.hedge_delay = delay.into();
        self
    }

    /// Sets how long a request may take to the head of its answer, with all its attempts; 30 s by
    /// default, `None` for ever.
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.layers.settings.timeout = timeout.into();
        self
    }

    /// Puts a circuit breaker around all, which judges by the stack's classifier; none by default. Each
    /// client gets a breaker of its own.
    #[must_use]
    pub fn breaker(self, breaker: BreakerSettings) -> Stack<P, C, R, H, W, BreakerSettings> {
        self.around(breaker)
    }

    /// Puts a circuit breaker around all that other clients of the same service have, too: what one of them
    /// sees opens it for all. The classifier is the stack's.
    #[must_use]
    pub fn shared_breaker(self, breaker: BreakerLayer) -> Stack<P, C, R, H, W, BreakerLayer> {
        self.around(breaker)
    }

    fn around<K2>(self, breaker: K2) -> Stack<P, C, R, H, W, K2> {
        Stack {
            balance: self.balance,
            layers: self.layers,
            breaker,
        }
    }

    /// Sets the budget of retries and hedges; by default 20 % of the requests and ten in reserve. Hedges
    /// also have a share of their own, so nearly all of it is left to retries. Each client gets a budget
    /// of its own.
    #[must_use]
    pub fn budget(mut self, budget: BudgetBuilder) -> Self {
        self.layers.settings.budget = Budget::Own(budget);
        self
    }

    /// Draws on a budget that other clients draw on, too: it bounds the retries and hedges of all of them
    /// together.
    #[must_use]
    pub fn shared_budget(mut self, budget: RetryBudget) -> Self {
        self.layers.settings.budget = Budget::Shared(budget);
        self
    }

    /// Makes random choices repeatable, for tests and simulations.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.balance = self.balance.seed(seed);
        self.layers.settings.seed = Some(seed);
        self
    }
}

impl<P: fmt::Debug, C, R, H, W, K: fmt::Debug> fmt::Debug for Stack<P, C, R, H, W, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("balance", &self.balance)
            .field("settings", &self.layers.settings)
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}
