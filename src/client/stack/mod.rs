//! The client of a service: see [`Stack`].

mod build;
mod outermost;

pub use self::{
    build::{Built, Handles, Stacked},
    outermost::{NoBreaker, Outermost},
};

use std::{fmt, time::Duration};

use crate::error::ConfigError;
#[cfg(feature = "tonic")]
use crate::service::retry::{GrpcReplay, Repeatable};
#[cfg(feature = "http")]
use crate::service::retry::{Replay, ShareReplay};
use crate::{
    balance::{BalanceBuilder, BalanceLayer, policy::DefaultPolicy},
    classify::Answers,
    endpoint::eject::Ejection,
    service::{
        breaker::{BreakerLayer, BreakerSettings},
        hedge::HedgeSettings,
        retry::{Cloned, Hedgeable, RetryBudget, RetrySettings},
    },
    telemetry::{NoTelemetry, Telemetry},
};

/// Above the wait of most callers, but bounded.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Builds the client of a service: balancer, hedging, retries with a timeout, circuit breaker.
///
/// ```text
/// request ─▶ breaker ─▶ retry ─▶ hedge ─▶ balance ─▶ endpoint
///              │          │        │         │
///              │          │        │         └─ chooses the endpoint: policy, ejection, slow start;
///              │          │        │            a request that could not be sent goes to another one
///              │          │        └─ a second attempt when the first is slow
///              │          └─ another attempt when one failed, within a budget; and the time limit
///              │             of all attempts together
///              └─ refuses calls while most of them fail; only if set
/// ```
///
/// All layers judge by the same [classifier](crate::classify) and draw on the same budget. Each
/// layer also works alone in a `tower::ServiceBuilder`: use them one by one for another order.
///
/// The defaults are: power of two choices by peak EWMA; ejection and slow start; a hedge for the
/// slowest 3 % of attempts if they are far above the usual latency; retries of repeatable requests,
/// on the same budget; 30 s for all attempts; no circuit breaker, because ejection does its work
/// for each endpoint.
///
/// # A template
/// A stack holds only settings. A clone of it builds another client, with a budget, a breaker and
/// endpoints of its own. Clients share a budget, a breaker or a traffic split only through
/// [`shared_budget`](Self::shared_budget), [`shared_breaker`](Self::shared_breaker) or
/// [`Topology::shared_split`](crate::balance::topology::Topology::shared_split).
///
/// # Examples
/// The defaults, over the instances of a registry:
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
/// Customised: zone preference, health checks, shorter timeouts, a circuit breaker, and an API
/// whose requests may all be repeated:
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
///         retry::{BudgetSettings, Replay, RetrySettings},
///     },
/// };
///
/// let registry = registry::connect("memory:")?;
/// let discover = registry.watch("user-service")?.discover(HttpEndpoints::new());
/// let retry = RetrySettings::new()
///     .max_attempts(NonZeroU32::new(2).unwrap())
///     .try_timeout(Duration::from_millis(500))
///     .budget(BudgetSettings::new().ratio(0.1));
/// let built = Stack::http()
///     .balance(|balance| {
///         let zone = ZonePreference::new("eu-1a");
///         let balance = balance.topology(Topology::new().zone(zone));
///         balance.health_check(HealthCheck::http("/health"))
///     })
///     .reissue(Replay::new().idempotent(|_| true))
///     .retry(retry)
///     .timeout(Duration::from_secs(2))
///     .breaker(BreakerSettings::new().name("user-service"))
///     .build(discover)?;
///
/// let handles = built.handles;
/// assert_eq!(handles.balance.status().usable, 0);
/// assert_eq!(handles.budget.map(|budget| budget.withdrawn()), Some(0));
/// assert_eq!(handles.breaker.map(|breaker| breaker.refused()), Some(0));
/// # let request = http::Request::get("/").body(Full::<Bytes>::default())?;
/// # drop(built.service.oneshot(request));
/// # Ok(())
/// # }
/// # #[cfg(not(all(feature = "http", feature = "memory")))]
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct Stack<
    P = DefaultPolicy,
    C = Answers,
    R = Cloned,
    H = Cloned,
    W = (),
    K = NoBreaker,
    T = NoTelemetry,
> {
    balance: BalanceBuilder<P, C, W>,
    layers: Layers<C, R, H>,
    breaker: K,
    telemetry: T,
}

/// The settings of the layers between balancer and breaker.
#[derive(Clone)]
struct Layers<C, R, H> {
    classify: C,
    reissue: R,
    hedge_reissue: H,
    settings: LayerSettings,
}

#[derive(Clone, Debug)]
struct LayerSettings {
    retry: RetrySettings,
    hedge: HedgeSettings,
    timeout: Option<Duration>,
    shared_budget: Option<RetryBudget>,
    seed: Option<u64>,
    /// A setting that cannot be used; `build` returns it.
    refused: Option<ConfigError>,
}

#[cfg(feature = "http")]
impl Stack<DefaultPolicy, crate::classify::Http, Replay, ShareReplay> {
    /// For HTTP: responses with a 5xx status and broken responses are failures, and requests with
    /// idempotent methods may be repeated. The endpoints get `http::Request<ReplayBody<B>>`.
    pub fn http() -> Self {
        let classify = crate::classify::Http::default();
        Self::of(classify, Replay::new())
    }
}

#[cfg(feature = "tonic")]
impl Stack<DefaultPolicy, crate::classify::Grpc, Replay, ShareReplay> {
    /// For gRPC: the status decides, also when the trailers carry it. No call is known to be
    /// idempotent. So only a call that was certainly not sent is repeated, [when its error returns
    /// it](Replay::reclaiming); [`repeatable`](Self::repeatable) sets which other calls may be.
    /// [`connect`](Self::connect) makes a [`GrpcChannel`](crate::client::GrpcChannel) of it. The
    /// endpoints get `http::Request<ReplayBody<tonic::body::Body>>`, as
    /// [`GrpcEndpoints`](crate::client::GrpcEndpoints) accept it. A
    /// [`StatusLayer`](crate::client::StatusLayer) around the stack converts errors that tonic does
    /// not know to a status.
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

#[cfg(feature = "tonic")]
impl<P, R, H, W, K, T> Stack<P, crate::classify::Grpc, R, H, W, K, T> {
    /// Sets which calls may be carried out twice, for retries and hedges: all methods of a service
    /// (`"helloworld.Greeter"`), a method (`"helloworld.Greeter/SayHello"`), an array of them, or
    /// those of [a predicate](crate::service::retry::Repeatable::when). None by default. It replaces
    /// what was set before.
    ///
    /// # Examples
    /// ```
    /// use tower_roster::{client::Stack, service::retry::Repeatable};
    ///
    /// let stack = Stack::grpc().repeatable(["helloworld.Greeter", "users.Users/Get"]);
    /// let all = Stack::grpc().repeatable(Repeatable::when(|_| true));
    /// ```
    pub fn repeatable(
        mut self,
        calls: impl Into<Repeatable>,
    ) -> Stack<P, crate::classify::Grpc, GrpcReplay, ShareReplay, W, K, T> {
        let calls = calls.into();
        self.layers.settings.refused = calls.validate().err();
        Stack {
            balance: self.balance,
            layers: Layers {
                classify: self.layers.classify,
                hedge_reissue: GrpcReplay::new(calls.clone()).hedge(),
                reissue: GrpcReplay::new(calls),
                settings: self.layers.settings,
            },
            breaker: self.breaker,
            telemetry: self.telemetry,
        }
    }
}

impl<C: Clone> Stack<DefaultPolicy, C> {
    /// For requests that are `Clone` and may all be repeated, judged by `classify`.
    pub fn cloned(classify: C) -> Self {
        Self::of(classify, Cloned)
    }
}

impl<C: Clone, R: Hedgeable> Stack<DefaultPolicy, C, R, R::Hedge> {
    fn of(classify: C, reissue: R) -> Self {
        Self {
            balance: BalanceLayer::builder()
                .classify(classify.clone())
                .ejection(Ejection::new()),
            layers: Layers {
                classify,
                hedge_reissue: reissue.hedge(),
                reissue,
                settings: LayerSettings {
                    retry: RetrySettings::new(),
                    hedge: HedgeSettings::new(),
                    timeout: Some(TIMEOUT),
                    shared_budget: None,
                    seed: None,
                    refused: None,
                },
            },
            breaker: NoBreaker,
            telemetry: NoTelemetry,
        }
    }
}

impl<P, C: Clone, R, H, W, K, T> Stack<P, C, R, H, W, K, T> {
    /// Changes the settings of the balancer.
    pub fn balance<P2, W2>(
        self,
        change: impl FnOnce(BalanceBuilder<P, C, W>) -> BalanceBuilder<P2, C, W2>,
    ) -> Stack<P2, C, R, H, W2, K, T> {
        Stack {
            balance: change(self.balance),
            layers: self.layers,
            breaker: self.breaker,
            telemetry: self.telemetry,
        }
    }

    /// Sets which requests may be repeated, and how: for retries and for the hedges below them.
    pub fn reissue<R2: Hedgeable>(self, reissue: R2) -> Stack<P, C, R2, R2::Hedge, W, K, T> {
        Stack {
            balance: self.balance,
            layers: Layers {
                classify: self.layers.classify,
                hedge_reissue: reissue.hedge(),
                reissue,
                settings: self.layers.settings,
            },
            breaker: self.breaker,
            telemetry: self.telemetry,
        }
    }

    /// Sets the rules of retries, and the budget that bounds retries and hedges together; the
    /// [defaults](RetrySettings) unless set. Of their deadline and [`timeout`](Self::timeout), the
    /// shorter one holds.
    #[must_use]
    pub fn retry(mut self, settings: RetrySettings) -> Self {
        self.layers.settings.retry = settings;
        self
    }

    /// Sets when a slow attempt is hedged; the [defaults](HedgeSettings) unless set. `None` switches
    /// hedging off, which saves [3 % of load](crate::service::hedge#load-near-capacity) at servers
    /// that run near their capacity and finish the work on dropped requests.
    #[must_use]
    pub fn hedge(mut self, settings: impl Into<Option<HedgeSettings>>) -> Self {
        let off = || HedgeSettings::new().enabled(false);
        self.layers.settings.hedge = settings.into().unwrap_or_else(off);
        self
    }

    /// Sets how long a request may take until the head of its response, with all its attempts, above
    /// zero; 30 s by default, `None` for no limit. A request may have an earlier
    /// [`Deadline`](crate::Deadline) of its own.
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.layers.settings.timeout = timeout.into();
        self
    }

    /// Puts a circuit breaker around all layers, which uses the classifier of the stack; none by
    /// default. Each client gets a breaker of its own.
    #[must_use]
    pub fn breaker(self, breaker: BreakerSettings) -> Stack<P, C, R, H, W, BreakerSettings, T> {
        self.around(breaker)
    }

    /// Puts a circuit breaker around all layers that other clients of the same service share:
    /// failures at one client open it for all. It uses the classifier of the stack.
    #[must_use]
    pub fn shared_breaker(self, breaker: BreakerLayer) -> Stack<P, C, R, H, W, BreakerLayer, T> {
        self.around(breaker)
    }

    fn around<K2>(self, breaker: K2) -> Stack<P, C, R, H, W, K2, T> {
        Stack {
            balance: self.balance,
            layers: self.layers,
            breaker,
            telemetry: self.telemetry,
        }
    }

    /// Names the service in reports, unless it is named already.
    #[cfg(feature = "http")]
    pub(crate) fn named(mut self, service: &std::sync::Arc<str>) -> Self
    where
        T: crate::telemetry::Reporting<C>,
    {
        self.telemetry = self.telemetry.for_service(service);
        self
    }

    /// Sets who is told of each request and of each attempt; nobody by default, which costs nothing.
    #[must_use]
    pub fn telemetry(self, telemetry: Telemetry) -> Stack<P, C, R, H, W, K, Telemetry> {
        Stack {
            balance: self.balance,
            layers: self.layers,
            breaker: self.breaker,
            telemetry,
        }
    }

    /// Draws on a budget that other clients share, instead of one of its own: it bounds the retries
    /// and hedges of all of them together.
    #[must_use]
    pub fn shared_budget(mut self, budget: RetryBudget) -> Self {
        self.layers.settings.shared_budget = Some(budget);
        self
    }

    /// Seeds random choices, for reproducible tests and simulations.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.balance = self.balance.seed(seed);
        self.layers.settings.seed = Some(seed);
        self
    }
}

impl_debug!([P: fmt::Debug, C, R, H, W, K: fmt::Debug, T: fmt::Debug] Stack<P, C, R, H, W, K, T>: |this|
    balance = this.balance,
    settings = this.layers.settings,
    breaker = this.breaker,
    telemetry = this.telemetry,
);
