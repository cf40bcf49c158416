//! Building a balancer.

use std::{
    fmt,
    hash::Hash,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tower::{Layer, discover::Discover};

use super::{
    Balance,
    driver::{Apart, Checker, Driver, Ends, Setup},
    handle::{Handle, Status},
    pick::{core::Core, home::Home, slots::Slots, snapshot::Snapshot, state::Common},
    policy::{DefaultPolicy, Policy},
    topology::{Split, Topology},
};
#[cfg(feature = "_hyper")]
use crate::endpoint::check::Prober;
use crate::{
    classify::Answers,
    endpoint::{Endpoint, Ramp, SlowStart, eject::Ejection, load::LoadTracker},
    error::{BoxError, ConfigError},
    registry::Watch,
    rng::small_rng,
};

/// Longer than a redeployed registry client needs for its first answer, and short enough for a caller
/// that waits; linkerd's failfast timeout.
const WAIT: Duration = Duration::from_secs(3);

/// An instance that flaps, or is restarted at its address, comes back with what is known of it.
const GRACE: Duration = Duration::from_secs(60);

/// The time that orchestrators give a process to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// Builds [`Balance`]s, and is a [`Layer`] over discovery: settings first, then
/// [`balance`](Self::balance).
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_roster::BoxError> {
/// use std::convert::Infallible;
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_roster::{Instance, balance::BalanceLayer, registry};
///
/// let registry = registry::connect("fixed:10.0.0.1:80,10.0.0.2:80;weight=3")?;
/// let discover = registry.watch("user-service")?.discover(|instance: &Instance| {
///     let address = instance.address.to_string();
///     Ok::<_, Infallible>(tower::service_fn(move |_: ()| {
///         let address = address.clone();
///         async move { Ok::<_, Infallible>(address) }
///     }))
/// });
///
/// let balance = ServiceBuilder::new().layer(BalanceLayer::new()).service(discover);
/// let answer = balance.clone().oneshot(()).await?;
/// assert!(answer.starts_with("10.0.0."));
/// # Ok(())
/// # }
/// ```
///
/// Customised, over anybody's discovery:
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_roster::BoxError> {
/// use std::{convert::Infallible, time::Duration};
/// use tower::{ServiceExt, discover::ServiceList};
/// use tower_roster::{
///     balance::{BalanceLayer, policy::LeastRequests},
///     endpoint::{SlowStart, eject::Ejection},
/// };
///
/// let service = tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) });
/// let balance = BalanceLayer::new()
///     .policy(LeastRequests::new())
///     .wait(Duration::from_millis(500))
///     .slow_start(SlowStart::new().window(Duration::from_secs(30)))?
///     .ejection(Ejection::new().consecutive_failures(3))?
///     .balance_plain(ServiceList::new(vec![service, service]));
/// assert_eq!(balance.clone().oneshot(1).await?, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BalanceLayer<P = DefaultPolicy, C = Answers, R = ()> {
    policy: P,
    classify: C,
    route: R,
    wait: Duration,
    grace: Duration,
    drain: Duration,
    topology: Topology,
    ejection: Option<Ejection>,
    ramp: Option<Ramp>,
    #[cfg(feature = "_hyper")]
    checks: Option<crate::endpoint::check::Checks>,
    watch: Option<Watch>,
    seed: Option<u64>,
}

impl BalanceLayer {
    /// The defaults: power of two choices by peak EWMA, any answer a success.
    pub fn new() -> Self {
        Self {
            policy: DefaultPolicy::default(),
            classify: Answers::default(),
            route: (),
            wait: WAIT,
            grace: GRACE,
            drain: DRAIN,
            topology: Topology::new(),
            ejection: None,
            ramp: Some(Ramp::default()),
            #[cfg(feature = "_hyper")]
            checks: None,
            watch: None,
            seed: None,
        }
    }
}

impl Default for BalanceLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<P, C, R> BalanceLayer<P, C, R> {
    /// Sets the rule by which endpoints are chosen; [`DefaultPolicy`] by default.
    #[must_use]
    pub fn policy<P2: Policy>(self, policy: P2) -> BalanceLayer<P2, C, R> {
        let (_, classify, route) = (self.policy, self.classify, self.route);
        BalanceLayer {
            policy,
            classify,
            route,
            wait: self.wait,
            grace: self.grace,
            drain: self.drain,
            topology: self.topology,
            ejection: self.ejection,
            ramp: self.ramp,
            #[cfg(feature = "_hyper")]
            checks: self.checks,
            watch: self.watch,
            seed: self.seed,
        }
    }

    /// Sets who judges what became of requests; by default any answer is a success.
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> BalanceLayer<P, C2, R> {
        BalanceLayer {
            policy: self.policy,
            classify,
            route: self.route,
            wait: self.wait,
            grace: self.grace,
            drain: self.drain,
            topology: self.topology,
            ejection: self.ejection,
            ramp: self.ramp,
            #[cfg(feature = "_hyper")]
            checks: self.checks,
            watch: self.watch,
            seed: self.seed,
        }
    }

    /// Sets what a request wishes for: the key that it is hashed by, the subset that it goes to.
    #[must_use]
    pub fn route<R2>(self, route: R2) -> BalanceLayer<P, C, R2> {
        BalanceLayer {
            policy: self.policy,
            classify: self.classify,
            route,
            wait: self.wait,
            grace: self.grace,
            drain: self.drain,
            topology: self.topology,
            ejection: self.ejection,
            ramp: self.ramp,
            #[cfg(feature = "_hyper")]
            checks: self.checks,
            watch: self.watch,
            seed: self.seed,
        }
    }

    /// Sets how long `poll_ready` waits for a first endpoint; 3 s by default. Zero fails at once while
    /// there is none.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Sets how long the state of an endpoint that left is kept for when it comes back; 60 s by
    /// default. Zero forgets at once. An endpoint that comes back is ejected for the rest of its time if it
    /// was, and else goes on with [slow start](Self::slow_start) where it was: a warm one has its full
    /// share. Registered anew, where the registry tells that
    /// ([`generation`](crate::Instance::generation)), it ramps; at another address it has only its counts,
    /// and ramps. What was ordered [by hand](super::Handle::eject) holds however long it was away.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets how long an endpoint that left is kept for its requests in flight; 30 s by default. Zero lets
    /// it go at once.
    ///
    /// It is let go with its last request, or at this deadline: the balancer drops its service and tells
    /// [`Event::Drained`](super::Event::Drained) with the number of requests that are still in flight.
    /// None of them is ended. Each has what it needs in its own future, usually the connection too, and a
    /// connection that requests share closes with the last of them. What ends them is a timeout: one above
    /// the balancer for each request (tower's `Timeout`, or the [stack's](crate::client::Stack)), or one
    /// that the endpoint's service has. A request that is waiting for an answer is not polled, so to end
    /// it here, every request would have to leave its waker with its endpoint, under a lock, for a deadline
    /// that nearly none comes to.
    #[must_use]
    pub fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Sets where traffic may go: zones, groups, subsets, versions. Everywhere by default.
    ///
    /// # Errors
    /// When a setting of it is out of its range.
    pub fn topology(mut self, topology: Topology) -> Result<Self, ConfigError> {
        topology.check()?;
        self.topology = topology;
        Ok(self)
    }

    /// Ejects endpoints that fail or are far slower than their peers. Not by default, because what a
    /// failure is depends on the protocol: set [`classify`](Self::classify) along with it.
    ///
    /// # Errors
    /// When a setting of it is out of its range.
    pub fn ejection(mut self, ejection: Ejection) -> Result<Self, ConfigError> {
        ejection.check()?;
        self.ejection = Some(ejection);
        Ok(self)
    }

    /// The default ejection.
    pub(crate) fn ejecting(mut self) -> Self {
        self.ejection = Some(Ejection::default());
        self
    }

    /// Sets how endpoints that are new or restored come to their full share; by default within 5 s in
    /// which they are listed and have a weight.
    ///
    /// # Errors
    /// When a setting of it is out of its range.
    pub fn slow_start(mut self, slow_start: SlowStart) -> Result<Self, ConfigError> {
        self.ramp = Some(slow_start.build()?);
        Ok(self)
    }

    /// Checks endpoints actively, and ejects those whose checks fail; not by default. Only endpoints of
    /// our own discovery, as only their addresses are known.
    ///
    /// # Errors
    /// When a setting of it is out of its range.
    #[cfg(feature = "_hyper")]
    pub fn health_check(
        mut self,
        check: crate::endpoint::check::HealthCheck,
    ) -> Result<Self, ConfigError> {
        self.checks = Some(check.build()?);
        Ok(self)
    }

    /// Has [status](super::Status::registries), events and errors tell how this registry stands. The
    /// balancer learns that by itself where it polls one of our own discoveries, through any adaptors; this
    /// is for discoveries of your own, and for those behind another task.
    #[must_use]
    pub fn watch(mut self, watch: &Watch) -> Self {
        self.watch = Some(watch.clone());
        self
    }

    /// Makes picks repeatable: the same requests in the same order go to the same endpoints.
    /// For tests and simulations; threads then share one slot.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl<P: Policy, C, R> BalanceLayer<P, C, R> {
    /// Balances over the endpoints of one of our discoveries, with their weights.
    ///
    /// # Panics
    /// Outside of a tokio runtime: it starts the task that follows discovery.
    pub fn balance<D, S>(self, discover: D) -> Balance<S, P, C, R>
    where
        D: Discover<Service = Endpoint<S>> + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        D::Service: Send,
        S: Send + Sync + 'static,
        C: Send + Sync + 'static,
        R: Send + Sync + 'static,
    {
        self.start(discover, |endpoint| {
            let (service, facts) = endpoint.into_parts();
            (service, Some(facts))
        })
    }

    /// Balances over anybody's discovery, such as tower's `ServiceList`. Its services say nothing of
    /// themselves: they have equal weights and belong to no zone. So do our own endpoints here, which
    /// [`balance`](Self::balance) asks for theirs.
    ///
    /// # Panics
    /// Outside of a tokio runtime, as [`balance`](Self::balance).
    pub fn balance_plain<D>(self, discover: D) -> Balance<D::Service, P, C, R>
    where
        D: Discover + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        D::Service: Send + Sync + 'static,
        C: Send + Sync + 'static,
        R: Send + Sync + 'static,
    {
        self.start(discover, |service| (service, None))
    }

    /// The same settings as a [`Layer`] over anybody's discovery, as [`balance_plain`](Self::balance_plain)
    /// takes it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_roster::BoxError> {
    /// use std::{convert::Infallible, time::Duration};
    /// use tower::{ServiceBuilder, ServiceExt, discover::ServiceList};
    /// use tower_roster::balance::BalanceLayer;
    ///
    /// let service = tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) });
    /// let balance = ServiceBuilder::new()
    ///     .timeout(Duration::from_secs(2))
    ///     .layer(BalanceLayer::new().plain())
    ///     .service(ServiceList::new(vec![service, service]));
    /// assert_eq!(balance.oneshot(1).await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn plain(self) -> PlainBalanceLayer<P, C, R> {
        PlainBalanceLayer { settings: self }
    }

    fn start<D, S>(self, discover: D, apart: Apart<D::Service, S>) -> Balance<S, P, C, R>
    where
        D: Discover + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        D::Service: Send + 'static,
        S: Send + Sync + 'static,
        C: Send + Sync + 'static,
        R: Send + Sync + 'static,
    {
        let (command, commands) = mpsc::unbounded_channel();
        let (alarm, alarms) = mpsc::unbounded_channel();
        let (status, following) = watch::channel(Status::default());
        let (alive, ended) = mpsc::channel(1);
        let now = Instant::now();
        let empty = Arc::new(Snapshot::empty());
        let core = Arc::new(Core {
            slots: Slots::new(Arc::clone(&empty), self.seed),
            usable: AtomicUsize::new(0),
            handle: Handle::new(command, following, self.topology.as_split()),
            classify: self.classify,
            route: self.route,
            wait: self.wait,
            epoch: now,
            _alive: alive,
        });
        let tallies = self.topology.as_split().and_then(Split::tallies);
        let slow = self.ejection.as_ref().is_some_and(Ejection::is_timed);
        let weak = Arc::downgrade(&core);
        let common = Common {
            epoch: now,
            timed: !P::Load::TIMED && (tallies.is_some() || slow),
            rules: self.ejection.clone(),
            alarm,
            tallies,
            home: Home::of(&weak),
        };
        #[cfg(feature = "_hyper")]
        let checker = Checker(
            self.checks
                .map(|checks| Prober::new(checks, small_rng(self.seed))),
        );
        #[cfg(not(feature = "_hyper"))]
        let checker = Checker(std::marker::PhantomData);
        let setup = Setup {
            policy: self.policy,
            grace: self.grace,
            drain: self.drain,
            topology: self.topology,
            ejection: self.ejection,
            ramp: self.ramp,
            watch: self.watch,
            seed: self.seed,
        };
        let ends = Ends {
            core: weak,
            empty,
            common: Arc::new(common),
            alive: ended,
            commands,
            alarms,
            status,
        };
        let mut driver = Driver::new(discover, apart, checker, setup, ends);
        // By reference: a future keeps what it is called with beside what it works on.
        tokio::spawn(async move { driver.run().await });
        Balance::new_with(core)
    }
}

impl<D, S, P, C, R> Layer<D> for BalanceLayer<P, C, R>
where
    D: Discover<Service = Endpoint<S>> + Send + 'static,
    D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
    D::Error: Into<BoxError> + Send,
    D::Service: Send,
    S: Send + Sync + 'static,
    P: Policy + Clone,
    C: Clone + Send + Sync + 'static,
    R: Clone + Send + Sync + 'static,
{
    type Service = Balance<S, P, C, R>;

    fn layer(&self, discover: D) -> Self::Service {
        self.clone().balance(discover)
    }
}

/// A [`Layer`] over anybody's discovery; see [`BalanceLayer::plain`].
#[derive(Clone)]
pub struct PlainBalanceLayer<P = DefaultPolicy, C = Answers, R = ()> {
    settings: BalanceLayer<P, C, R>,
}

impl<D, P, C, R> Layer<D> for PlainBalanceLayer<P, C, R>
where
    D: Discover + Send + 'static,
    D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
    D::Error: Into<BoxError> + Send,
    D::Service: Send + Sync + 'static,
    P: Policy + Clone,
    C: Clone + Send + Sync + 'static,
    R: Clone + Send + Sync + 'static,
{
    type Service = Balance<D::Service, P, C, R>;

    fn layer(&self, discover: D) -> Self::Service {
        self.settings.clone().balance_plain(discover)
    }
}

impl<P: fmt::Debug, C, R> fmt::Debug for PlainBalanceLayer<P, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PlainBalanceLayer")
            .field(&self.settings)
            .finish()
    }
}

impl<P: fmt::Debug, C, R> fmt::Debug for BalanceLayer<P, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalanceLayer")
            .field("policy", &self.policy)
            .field("wait", &self.wait)
            .field("grace", &self.grace)
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}

impl<S> Balance<S> {
    /// Balances over the endpoints of one of our discoveries, with all defaults; a [`BalanceLayer`] has
    /// settings. For the services of other discoveries, see [`plain`](Self::plain).
    ///
    /// # Panics
    /// Outside of a tokio runtime: it starts the task that follows discovery.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_roster::BoxError> {
    /// use std::convert::Infallible;
    /// use tower::ServiceExt;
    /// use tower_roster::{Instance, balance::Balance, registry};
    ///
    /// let registry = registry::connect("fixed:10.0.0.1:80,10.0.0.2:80")?;
    /// let discover = registry.watch("user-service")?.discover(|_: &Instance| {
    ///     Ok::<_, Infallible>(tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) }))
    /// });
    /// let balance = Balance::new(discover);
    /// assert_eq!(balance.clone().oneshot(1).await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new<D>(discover: D) -> Self
    where
        D: Discover<Service = Endpoint<S>> + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        D::Service: Send,
        S: Send + Sync + 'static,
    {
        BalanceLayer::new().balance(discover)
    }

    /// Balances over anybody's discovery, with all defaults; see
    /// [`BalanceLayer::balance_plain`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_roster::BoxError> {
    /// use std::convert::Infallible;
    /// use tower::{ServiceExt, discover::ServiceList};
    /// use tower_roster::balance::Balance;
    ///
    /// let service = tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) });
    /// let balance = Balance::plain(ServiceList::new(vec![service, service]));
    /// assert_eq!(balance.clone().oneshot(1).await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn plain<D>(discover: D) -> Self
    where
        D: Discover<Service = S> + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        S: Send + Sync + 'static,
    {
        BalanceLayer::new().balance_plain(discover)
    }
}
