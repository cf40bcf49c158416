//! The handle of a balancer, for operators and tests: it reads the state and gives orders.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{event::BalanceEvent, registry::RegistryStatus, topology::Split};
use crate::{
    endpoint::eject::EjectCause,
    instance::{Instance, Key, Weight},
    registry::ViewState,
};

/// A handle to a balancer. Cloning it is cheap, and it does not keep the balancer alive.
#[derive(Clone)]
pub struct BalanceHandle {
    // Boxed, because a channel allocates room for 32 items at once, and most balancers never get an order.
    commands: mpsc::UnboundedSender<Box<Command>>,
    status: watch::Receiver<BalanceStatus>,
    /// Behind a pointer, because most balancers have no split.
    split: Option<Arc<Split>>,
}

/// An order or a query for the driver.
pub(super) enum Command {
    List(oneshot::Sender<Vec<EndpointInfo>>),
    Subscribe(oneshot::Sender<broadcast::Receiver<BalanceEvent>>),
    Eject(Key, oneshot::Sender<bool>),
    Restore(Key, oneshot::Sender<bool>),
    Weigh(Key, Option<Weight>, oneshot::Sender<bool>),
}

/// The state of a balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BalanceStatus {
    /// Whether discovery or its registry has delivered anything yet.
    pub resolved: bool,
    /// Number of endpoints that discovery lists.
    pub endpoints: usize,
    /// Number of endpoints that may be picked. They are listed, not drained by weight 0, and not excluded
    /// by the rules of the topology. Ejected endpoints count only while they are probed or [in
    /// panic](super::topology::Topology::panic).
    pub usable: usize,
    /// The last error of discovery; `None` once discovery has recovered.
    pub discovery_error: Option<Arc<str>>,
    /// Whether discovery has ended. The last good set then continues to serve.
    pub discovery_ended: bool,
    /// The registries that discovery follows; usually one. Contains those that this crate's own discoveries
    /// watch, as far as this balancer polls them, and the one [given](super::BalanceBuilder::watch) to the
    /// balancer.
    pub registries: Arc<[RegistryStatus]>,
}

impl BalanceStatus {
    /// Whether it is known that there is no endpoint, so that a request need not wait for one: every
    /// registry confirms that it lists none, or no change can follow.
    pub(super) fn is_known_empty(&self) -> bool {
        let lists_none = |one: &RegistryStatus| {
            one.ended || matches!(one.state, ViewState::Empty | ViewState::Missing)
        };
        let confirmed = !self.registries.is_empty() && self.registries.iter().all(lists_none);
        self.endpoints == 0 && (confirmed || self.discovery_ended)
    }

    /// The service that all registries watch, if it is one.
    pub(super) fn service(&self) -> Option<&Arc<str>> {
        let (first, others) = self.registries.split_first()?;
        let one = others.iter().all(|other| other.service == first.service);
        one.then_some(&first.service)
    }
}

/// The state of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndpointState {
    /// It gets its full share.
    Active,
    /// It is in slow start and gets less than its share: it is new, has a new address, came back, or was
    /// restored.
    Warming,
    /// It gets no requests, because its weight is 0 and that of other endpoints is not.
    Weightless,
    /// It gets no requests, because it fails or was ejected by hand.
    Ejected,
    /// It is ejected, and its time is up: it gets the next request as a probe, or is answering it. Without
    /// requests it stays in this state.
    Probing,
}

impl EndpointState {
    /// All states.
    pub const ALL: &[Self] = &[
        Self::Active,
        Self::Warming,
        Self::Weightless,
        Self::Ejected,
        Self::Probing,
    ];

    /// Returns its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Warming => "warming",
            Self::Weightless => "weightless",
            Self::Ejected => "ejected",
            Self::Probing => "probing",
        }
    }
}

/// One endpoint of a balancer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointInfo {
    /// Its identity.
    pub key: Key,
    /// Its instance as the registry lists it, if discovery is one of this crate's own.
    pub instance: Option<Arc<Instance>>,
    /// Its state.
    pub state: EndpointState,
    /// The reason for its ejection; `None` if it is not ejected.
    pub cause: Option<EjectCause>,
    /// Its weight: that set by hand, or else that of the registry.
    pub weight: Weight,
    /// Its weight in picks now: the weight times its progress in slow start. Picks follow in steps of a
    /// tenth. It is 1 if all weights are 0.
    pub effective_weight: f64,
    /// Its load as the policy measures it; smaller is better. NaN if the tracker panics.
    pub load: f64,
    /// Its requests in flight. Requests to a former address do not count.
    pub in_flight: usize,
    /// Number of requests that were sent to it.
    pub requests: u64,
    /// Number of requests that it failed.
    pub failures: u64,
    /// Its share of all requests to the endpoints that are listed now, from 0 to 1.
    pub share: f64,
    /// How long it has been listed.
    pub age: Duration,
}

/// The balancer has ended: its last clone was dropped, or its runtime shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceGone(());

impl fmt::Display for BalanceGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the balancer is gone")
    }
}

impl std::error::Error for BalanceGone {}

impl BalanceHandle {
    pub(super) fn new(
        commands: mpsc::UnboundedSender<Box<Command>>,
        status: watch::Receiver<BalanceStatus>,
        split: Option<&Split>,
    ) -> Self {
        Self {
            commands,
            status,
            split: split.cloned().map(Arc::new),
        }
    }

    pub(super) fn follow(&self) -> watch::Receiver<BalanceStatus> {
        self.status.clone()
    }

    /// The state of the balancer now.
    pub fn status(&self) -> BalanceStatus {
        self.status.borrow().clone()
    }

    /// Waits until the status fulfils `condition`. Returns at once if it does already.
    ///
    /// # Errors
    /// When the balancer has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for(
        &self,
        mut condition: impl FnMut(&BalanceStatus) -> bool,
    ) -> Result<BalanceStatus, BalanceGone> {
        let mut status = self.status.clone();
        let status = status.wait_for(|status| condition(status)).await;
        status
            .map(|status| status.clone())
            .map_err(|_| BalanceGone(()))
    }

    /// The listed endpoints, in the order of their keys.
    ///
    /// # Errors
    /// When the balancer has ended; so for every method that sends to it.
    pub async fn endpoints(&self) -> Result<Vec<EndpointInfo>, BalanceGone> {
        self.ask(Command::List).await
    }

    /// Subscribes to events from now on. A receiver that is more than 1,024 events behind loses the oldest
    /// and gets an error that says so. [`endpoints`](Self::endpoints) then shows the present state.
    ///
    /// # Errors
    /// When the balancer has ended.
    pub async fn subscribe(&self) -> Result<broadcast::Receiver<BalanceEvent>, BalanceGone> {
        self.ask(Command::Subscribe).await
    }

    /// Ejects an endpoint until it is restored by hand, even if it leaves and comes back.
    ///
    /// An order by hand is kept by key, however long the endpoint is away. It can be changed and withdrawn
    /// during that time. `false` means that there is neither an endpoint nor an order with this key. An
    /// order is lost when the balancer ends. It is also lost if, when its endpoint leaves, 65,536 other
    /// endpoints that are away have orders.
    ///
    /// # Errors
    /// When the balancer has ended.
    pub async fn eject(&self, key: &Key) -> Result<bool, BalanceGone> {
        self.ask(|reply| Command::Eject(key.clone(), reply)).await
    }

    /// Restores an ejected endpoint. `false` means the same as for [`eject`](Self::eject).
    ///
    /// # Errors
    /// When the balancer has ended.
    pub async fn restore(&self, key: &Key) -> Result<bool, BalanceGone> {
        self.ask(|reply| Command::Restore(key.clone(), reply)).await
    }

    /// Sets a weight that replaces the registry's, even if the endpoint leaves and comes back. `None`
    /// returns to the registry's weight. `false` means the same as for [`eject`](Self::eject).
    ///
    /// # Errors
    /// When the balancer has ended.
    pub async fn set_weight(
        &self,
        key: &Key,
        weight: impl Into<Option<Weight>>,
    ) -> Result<bool, BalanceGone> {
        let weight = weight.into();
        self.ask(|reply| Command::Weigh(key.clone(), weight, reply))
            .await
    }

    /// The traffic split, to read and set its shares. It is the balancer's own, by
    /// [`Topology::split`](super::topology::Topology::split), or the one given to
    /// [`Topology::shared_split`](super::topology::Topology::shared_split). `None` when the balancer splits
    /// no traffic.
    ///
    /// New shares apply to requests as soon as the driver's task has run.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_roster::BoxError> {
    /// use std::convert::Infallible;
    /// use tower_roster::{
    ///     Instance,
    ///     balance::{
    ///         BalanceLayer,
    ///         topology::{Shares, SplitSettings, Topology},
    ///     },
    ///     registry,
    /// };
    ///
    /// let registry = registry::connect("fixed:10.0.0.1:80,10.0.0.2:80")?;
    /// let discover = registry.watch("user-service")?.discover(|_: &Instance| {
    ///     Ok::<_, Infallible>(tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) }))
    /// });
    /// let split = SplitSettings::new(Shares::canary("v2", 0.1));
    /// let balance = BalanceLayer::builder()
    ///     .topology(Topology::new().split(split))
    ///     .build()?
    ///     .balance(discover);
    ///
    /// // Where only the handle is at hand, as on an admin page:
    /// let handle = balance.handle();
    /// if let Some(split) = handle.split() {
    ///     assert_eq!(split.shares().share("v2"), 0.1);
    ///     split.set(Shares::canary("v2", 0.5))?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn split(&self) -> Option<&Split> {
        self.split.as_deref()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, BalanceGone> {
        let (reply, answer) = oneshot::channel();
        let command = Box::new(command(reply));
        self.commands.send(command).map_err(|_| BalanceGone(()))?;
        answer.await.map_err(|_| BalanceGone(()))
    }
}

impl_debug!(BalanceHandle: |this| status = *this.status.borrow());
