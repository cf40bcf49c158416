//! Building a balancer.

use std::{fmt, time::Duration};

#[cfg(doc)]
use super::BalanceLayer;
use super::{
    policy::{DefaultPolicy, Policy},
    settings::{BalanceSettings, Config},
    topology::Topology,
};
#[cfg(feature = "_hyper")]
use crate::endpoint::check::HealthCheck;
use crate::{
    classify::Answers,
    endpoint::{SlowStart, eject::Ejection},
    registry::Watch,
};

/// Builds a [`BalanceLayer`]. [`BalanceLayer::builder`] makes one.
///
/// # Examples
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
/// let balance = BalanceLayer::builder()
///     .policy(LeastRequests::new())
///     .wait(Duration::from_millis(500))
///     .slow_start(SlowStart::new().window(Duration::from_secs(30)))
///     .ejection(Ejection::new().consecutive_failures(3))
///     .build()?
///     .balance_plain(ServiceList::new(vec![service, service]));
/// assert_eq!(balance.clone().oneshot(1).await?, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct BalanceBuilder<P = DefaultPolicy, C = Answers, W = ()> {
    pub(super) policy: P,
    pub(super) classify: C,
    pub(super) route: W,
    pub(super) config: Config,
}

impl BalanceBuilder {
    pub(super) fn new() -> Self {
        Self {
            policy: DefaultPolicy::default(),
            classify: Answers::default(),
            route: (),
            config: Config::new(),
        }
    }
}

impl<P, C, W> BalanceBuilder<P, C, W> {
    /// Sets the policy, which chooses an endpoint for each request; [`DefaultPolicy`] by default.
    pub fn policy<P2: Policy>(self, policy: P2) -> BalanceBuilder<P2, C, W> {
        BalanceBuilder {
            policy,
            classify: self.classify,
            route: self.route,
            config: self.config,
        }
    }

    /// Sets the classifier that judges responses. By default every response is a success.
    pub fn classify<C2>(self, classify: C2) -> BalanceBuilder<P, C2, W> {
        BalanceBuilder {
            policy: self.policy,
            classify,
            route: self.route,
            config: self.config,
        }
    }

    /// Sets the route, which reads from a request the key to hash and the subset to use.
    pub fn route<W2>(self, route: W2) -> BalanceBuilder<P, C, W2> {
        BalanceBuilder {
            policy: self.policy,
            classify: self.classify,
            route,
            config: self.config,
        }
    }

    /// Replaces all settings that are plain data, for example by those of a configuration file.
    pub fn settings(mut self, settings: BalanceSettings) -> Self {
        self.config.settings = settings;
        self
    }

    /// All settings that are plain data, as they are set now.
    pub fn current_settings(&self) -> BalanceSettings {
        self.config.settings.clone()
    }

    /// Sets how long `poll_ready` waits for a first endpoint; 3 s by default. With zero it fails at once
    /// while there is no endpoint. It also fails at once while every registry that the balancer follows
    /// confirms that it lists none; see [`watch`](Self::watch).
    pub fn wait(mut self, wait: Duration) -> Self {
        self.config.settings.wait = wait;
        self
    }

    /// Sets how long the balancer keeps the state of an endpoint that left, in case it comes back; 60 s by
    /// default. With zero the state is dropped at once.
    ///
    /// An endpoint that comes back within this time keeps its state. If it was ejected, it stays ejected
    /// for the rest of its ejection time. Otherwise it continues [slow start](Self::slow_start) where it
    /// was; a warm endpoint has its full share at once. Two cases start slow start anew: a new
    /// registration, where the registry reports one ([`generation`](crate::Instance::generation)), and a
    /// new address. At a new address only the counts are kept. Orders [by
    /// hand](super::BalanceHandle::eject) are kept however long the endpoint was away.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.settings.grace = grace;
        self
    }

    /// Sets how long the balancer keeps an endpoint that left while it has requests in flight; 30 s by
    /// default. With zero it is dropped at once.
    ///
    /// The endpoint is dropped when its last request ends, or at this deadline. The balancer then drops its
    /// service and publishes [`BalanceEvent::Drained`](super::BalanceEvent::Drained) with the number of
    /// requests that are still in flight. The deadline ends none of these requests: each future owns what
    /// it needs, usually the connection too. A connection that several requests share closes with the last
    /// of them.
    ///
    /// To end requests, use a timeout: one above the balancer for each request (tower's `Timeout`, or that
    /// of the [stack](crate::client::Stack)), or one in the endpoint's service. The balancer cannot end
    /// them cheaply, because a request that waits for its response is not polled. Each request would have
    /// to store its waker with its endpoint, under a lock, and nearly no request reaches this deadline.
    pub fn drain(mut self, drain: Duration) -> Self {
        self.config.settings.drain = drain;
        self
    }

    /// Sets where traffic may go: zones, groups, subsets, versions. By default to every endpoint.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.config.topology = topology;
        self
    }

    /// Ejects endpoints that fail, or that are far slower than the other endpoints. Off by default, because
    /// the protocol decides what a failure is: set [`classify`](Self::classify) along with it.
    pub fn ejection(mut self, ejection: Ejection) -> Self {
        self.config.settings.ejection = Some(ejection);
        self
    }

    /// Sets how new and restored endpoints reach their full share. By default this takes 5 s, counted while
    /// the endpoint is listed and has a weight.
    pub fn slow_start(mut self, slow_start: SlowStart) -> Self {
        self.config.settings.slow_start = slow_start;
        self
    }

    /// Checks endpoints actively, and ejects those whose checks fail; off by default. This works with this
    /// crate's own discovery only, because other discoveries do not give addresses.
    #[cfg(feature = "_hyper")]
    pub fn health_check(mut self, check: HealthCheck) -> Self {
        self.config.settings.health_check = Some(check);
        self
    }

    /// Shows the state of this registry in the [status](super::BalanceStatus::registries), in events and in
    /// errors. If the balancer polls one of this crate's own discoveries, also through adaptors, it finds
    /// the registry by itself. Use this setter for other discoveries, and for a discovery that another task
    /// polls.
    ///
    /// Requests do not [wait](Self::wait) while all registries that the balancer follows confirm that they
    /// list no instance. Other sources are not known to it: if you merge a watch with a stream of your own,
    /// a request fails at once while the registry lists none and your stream is silent.
    pub fn watch(mut self, watch: &Watch) -> Self {
        self.config.watch = Some(watch.clone());
        self
    }

    /// Makes picks repeatable: the same requests in the same order go to the same endpoints. For tests and
    /// simulations only, because all threads then share one slot.
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.settings.seed = Some(seed);
        self
    }
}

impl_debug!([P: fmt::Debug, C, W] BalanceBuilder<P, C, W>: |this|
    policy = this.policy,
    config = this.config,
);
