//! For operators and tests: shows what a balancer knows, and gives it orders.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{event::BalanceEvent, registry::RegistryStatus, topology::Split};
use crate::{
    endpoint::eject::EjectCause,
    instance::{Instance, Key, Weight},
};

/// A handle to a balancer. Cheap to clone; it does not keep the balancer alive.
#[derive(Clone)]
pub struct BalanceHandle {
    // Boxed, because a channel makes room for 32 at once, and most balancers never get one.
    commands: mpsc::UnboundedSender<Box<Command>>,
    status: watch::Receiver<BalanceStatus>,
    /// Behind a pointer, as most have none.
    split: Option<Arc<Split>>,
}

/// An order to the driver, or a question.
pub(super) enum Command {
    List(oneshot::Sender<Vec<EndpointInfo>>),
    Subscribe(oneshot::Sender<broadcast::Receiver<BalanceEvent>>),
    Eject(Key, oneshot::Sender<bool>),
    Restore(Key, oneshot::Sender<bool>),
    Weigh(Key, Option<Weight>, oneshot::Sender<bool>),
}

/// How a balancer stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BalanceStatus {
    /// Whether discovery or the registry behind it has said anything yet.
    pub resolved: bool,
    /// Endpoints that discovery lists.
    pub endpoints: usize,
    /// Endpoints that may be picked: listed, not drained by weight 0, not ejected unless for a trial or
    /// [in panic](super::topology::Topology::panic), and not left out by the rules of the topology.
    pub usable: usize,
    /// What discovery failed with last, while it has not recovered.
    pub discovery_error: Option<Arc<str>>,
    /// Whether discovery has ended; the last good set serves on.
    pub discovery_ended: bool,
    /// The registries that discovery follows, mostly one: as far as they are watched by one of ours that
    /// this balancer polls, or were [given](super::BalanceBuilder::watch) to it.
    pub registries: Arc<[RegistryStatus]>,
}

/// How an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndpointState {
    /// It gets its share.
    Active,
    /// It gets less for a while, because it is new, at another address, back or restored.
    Warming,
    /// It gets nothing, because its weight is 0 and that of others is not.
    Weightless,
    /// It gets nothing, because it fails or was ejected by hand.
    Ejected,
}

/// One endpoint of a balancer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointInfo {
    /// Its identity.
    pub key: Key,
    /// What the registry says of it, where discovery is one of ours.
    pub instance: Option<Arc<Instance>>,
    /// How it stands.
    pub state: EndpointState,
    /// Why it is ejected, when it is.
    pub cause: Option<EjectCause>,
    /// Its weight, by hand or from the registry.
    pub weight: Weight,
    /// Its weight in picks now: the weight, times how far it is through slow start. Picks follow in
    /// steps of a tenth. Where all weights are 0, it is 1.
    pub effective_weight: f64,
    /// Its load as the policy measures it; smaller is better. No number when its tracker panics.
    pub load: f64,
    /// Its requests that are not complete; those to an address that it had before do not count.
    pub in_flight: usize,
    /// Requests that went to it.
    pub requests: u64,
    /// Requests that it failed.
    pub failures: u64,
    /// Its part of all requests of the endpoints that are listed now, from 0 to 1.
    pub share: f64,
    /// How long it has been listed.
    pub age: Duration,
}

/// The balancer is gone: its last clone was dropped, or its runtime shut down.
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

    /// How the balancer stands now.
    pub fn status(&self) -> BalanceStatus {
        self.status.borrow().clone()
    }

    /// Waits until the balancer stands as `condition` says, which may be so already.
    ///
    /// # Errors
    /// When the balancer is gone.
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

    /// The endpoints that are listed, in the order of their keys.
    ///
    /// # Errors
    /// When the balancer is gone, as for all that ask it.
    pub async fn endpoints(&self) -> Result<Vec<EndpointInfo>, BalanceGone> {
        self.ask(Command::List).await
    }

    /// The events from now on. A receiver that falls more than 1,024 events behind loses the oldest and
    /// gets an error that says so; [`endpoints`](Self::endpoints) shows the present state.
    ///
    /// # Errors
    /// When the balancer is gone.
    pub async fn subscribe(&self) -> Result<broadcast::Receiver<BalanceEvent>, BalanceGone> {
        self.ask(Command::Subscribe).await
    }

    /// Withholds requests from an endpoint until it is restored by hand, also when it leaves and comes
    /// back. `false` when none has the key.
    ///
    /// An order by hand is kept by the key, however long an endpoint is away, and may be changed and taken
    /// back meanwhile; `false` says that there is neither an endpoint nor an order. It is forgotten with
    /// the balancer, and when 65,536 others that are away have orders by the time that the endpoint leaves.
    ///
    /// # Errors
    /// When the balancer is gone.
    pub async fn eject(&self, key: &Key) -> Result<bool, BalanceGone> {
        self.ask(|reply| Command::Eject(key.clone(), reply)).await
    }

    /// Lets requests go to an ejected endpoint again. `false` when none has the key, as with
    /// [`eject`](Self::eject).
    ///
    /// # Errors
    /// When the balancer is gone.
    pub async fn restore(&self, key: &Key) -> Result<bool, BalanceGone> {
        self.ask(|reply| Command::Restore(key.clone(), reply)).await
    }

    /// Sets a weight instead of the registry's, also when the endpoint leaves and comes back; `None` goes
    /// back to that. `false` when none has the key, as with [`eject`](Self::eject).
    ///
    /// # Errors
    /// When the balancer is gone.
    pub async fn set_weight(
        &self,
        key: &Key,
        weight: impl Into<Option<Weight>>,
    ) -> Result<bool, BalanceGone> {
        let weight = weight.into();
        self.ask(|reply| Command::Weigh(key.clone(), weight, reply))
            .await
    }

    /// The traffic split, to look at its shares and to set them: the one that the balancer's
    /// [`Topology`](super::topology::Topology::split) was made with, whose clones share everything.
    /// `None` when it splits no traffic.
    ///
    /// New shares hold for requests as soon as the driver's task has run.
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
    ///         topology::{Shares, Split, Topology},
    ///     },
    ///     registry,
    /// };
    ///
    /// let registry = registry::connect("fixed:10.0.0.1:80,10.0.0.2:80")?;
    /// let discover = registry.watch("user-service")?.discover(|_: &Instance| {
    ///     Ok::<_, Infallible>(tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) }))
    /// });
    /// let split = Split::new(Shares::canary("v2", 0.1))?;
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

impl fmt::Debug for BalanceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalanceHandle")
            .field("status", &*self.status.borrow())
            .finish_non_exhaustive()
    }
}
