//! Building a balancer.

use std::{fmt, time::Duration};

use super::{
    layer::BalanceLayer,
    policy::{DefaultPolicy, Policy},
    settings::{BalanceSettings, Checked},
    topology::Topology,
};
#[cfg(feature = "_hyper")]
use crate::endpoint::check::HealthCheck;
use crate::{
    classify::Answers,
    endpoint::{SlowStart, eject::Ejection},
    error::ConfigError,
    registry::Watch,
};

/// Builds a [`BalanceLayer`]. Made by [`BalanceLayer::builder`].
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
    policy: P,
    classify: C,
    route: W,
    rest: Rest,
}

/// What does not depend on the types of services and requests.
#[derive(Clone, Debug)]
struct Rest {
    settings: BalanceSettings,
    /// Not plain data: it may share a split with the user.
    topology: Topology,
    watch: Option<Watch>,
}

impl BalanceLayer {
    /// Starts with the defaults, to be changed.
    pub fn builder() -> BalanceBuilder {
        BalanceBuilder {
            policy: DefaultPolicy::default(),
            classify: Answers::default(),
            route: (),
            rest: Rest {
                settings: BalanceSettings::new(),
                topology: Topology::new(),
                watch: None,
            },
        }
    }
}

impl<P, C, W> BalanceBuilder<P, C, W> {
    /// Sets the rule by which endpoints are chosen; [`DefaultPolicy`] by default.
    pub fn policy<P2: Policy>(self, policy: P2) -> BalanceBuilder<P2, C, W> {
        BalanceBuilder {
            policy,
            classify: self.classify,
            route: self.route,
            rest: self.rest,
        }
    }

    /// Sets the classifier that judges responses; by default every response is a success.
    pub fn classify<C2>(self, classify: C2) -> BalanceBuilder<P, C2, W> {
        BalanceBuilder {
            policy: self.policy,
            classify,
            route: self.route,
            rest: self.rest,
        }
    }

    /// Sets what a request wishes for: the key that it is hashed by, the subset that it goes to.
    pub fn route<W2>(self, route: W2) -> BalanceBuilder<P, C, W2> {
        BalanceBuilder {
            policy: self.policy,
            classify: self.classify,
            route,
            rest: self.rest,
        }
    }

    /// Sets all that is plain data, as a configuration gives it.
    pub fn settings(mut self, settings: BalanceSettings) -> Self {
        self.rest.settings = settings;
        self
    }

    /// Sets how long `poll_ready` waits for a first endpoint; 3 s by default. Zero fails at once while
    /// there is none.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.rest.settings.wait = wait;
        self
    }

    /// Sets how long the state of an endpoint that left is kept for when it comes back; 60 s by
    /// default. Zero forgets at once. An endpoint that comes back is ejected for the rest of its time if it
    /// was, and else goes on with [slow start](Self::slow_start) where it was: a warm one has its full
    /// share. Registered anew, where the registry says so
    /// ([`generation`](crate::Instance::generation)), it ramps; at another address it has only its counts,
    /// and ramps. What was ordered [by hand](super::BalanceHandle::eject) holds however long it was away.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.rest.settings.grace = grace;
        self
    }

    /// Sets how long an endpoint that left is kept for its requests in flight; 30 s by default. Zero lets
    /// it go at once.
    ///
    /// It is let go with its last request, or at this deadline: the balancer drops its service and publishes
    /// [`BalanceEvent::Drained`](super::BalanceEvent::Drained) with the number of requests that are still in flight.
    /// None of them is ended. Each has what it needs in its own future, usually the connection too, and a
    /// connection that requests share closes with the last of them. What ends them is a timeout: one above
    /// the balancer for each request (tower's `Timeout`, or the [stack's](crate::client::Stack)), or one
    /// that the endpoint's service has. A request that is waiting for an answer is not polled, so to end
    /// it here, every request would have to leave its waker with its endpoint, under a lock, for a deadline
    /// that nearly none comes to.
    pub fn drain(mut self, drain: Duration) -> Self {
        self.rest.settings.drain = drain;
        self
    }

    /// Sets where traffic may go: zones, groups, subsets, versions. Everywhere by default.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.rest.topology = topology;
        self
    }

    /// Ejects endpoints that fail or are far slower than their peers. Not by default, because what a
    /// failure is depends on the protocol: set [`classify`](Self::classify) along with it.
    pub fn ejection(mut self, ejection: Ejection) -> Self {
        self.rest.settings.ejection = Some(ejection);
        self
    }

    /// Sets how endpoints that are new or restored come to their full share; by default within 5 s in
    /// which they are listed and have a weight.
    pub fn slow_start(mut self, slow_start: SlowStart) -> Self {
        self.rest.settings.slow_start = slow_start;
        self
    }

    /// Checks endpoints actively, and ejects those whose checks fail; not by default. Only endpoints of
    /// our own discovery, as only their addresses are known.
    #[cfg(feature = "_hyper")]
    pub fn health_check(mut self, check: HealthCheck) -> Self {
        self.rest.settings.health_check = Some(check);
        self
    }

    /// Shows the state of this registry in [status](super::BalanceStatus::registries), events and errors. The
    /// balancer learns that by itself where it polls one of our own discoveries, through any adaptors; this
    /// is for discoveries of your own, and for those behind another task.
    pub fn watch(mut self, watch: &Watch) -> Self {
        self.rest.watch = Some(watch.clone());
        self
    }

    /// Makes picks repeatable: the same requests in the same order go to the same endpoints.
    /// For tests and simulations; threads then share one slot.
    pub fn seed(mut self, seed: u64) -> Self {
        self.rest.settings.seed = Some(seed);
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn build(self) -> Result<BalanceLayer<P, C, W>, ConfigError> {
        let Rest {
            settings,
            topology,
            watch,
        } = self.rest;
        let checked = Checked::new(settings, topology, watch)?;
        Ok(BalanceLayer::new_with(
            self.policy,
            self.classify,
            self.route,
            checked,
        ))
    }
}

impl<P: fmt::Debug, C, W> fmt::Debug for BalanceBuilder<P, C, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalanceBuilder")
            .field("policy", &self.policy)
            .field("rest", &self.rest)
            .finish_non_exhaustive()
    }
}
