//! Turns a watched service into tower's `Discover`.
//!
//! A [`Discover`] compares the latest set of instances with the endpoints that it has made, and yields
//! the changes as [`tower::discover::Change`]s. A stream of changes *is* a
//! [`tower::discover::Discover`]. This crate's [`Balance`](crate::balance::Balance) takes it directly;
//! tower's balancer also needs a measure of load: [`Discover::measured`].
//!
//! ```text
//! Watch ──latest View──▶ diff against what was made ──▶ Change::Insert(key, Endpoint)
//!                            │                          Change::Remove(key)
//!                            └── weight, zone, tags, status, metadata ──▶ the live Endpoint
//! ```
//!
//! It keeps these rules, because each of them is broken by some other client:
//!
//! - **State, not a queue.** If it is not polled for hours, the next poll yields the net change.
//! - **No connection is lost to an update.** A new service is made only for a change of the data that
//!   the [`MakeEndpoint`] uses (the address, by default). All other data are updated in the [`Endpoint`]
//!   in use.
//! - **Never empty in between.** Inserts come before removes. A changed address is an `Insert` of the
//!   same key, without a remove, so a balancer can keep the old service until the new one is ready.
//!   (tower's balancer keeps it for one request only. There a new service should be ready at once, as
//!   this crate's HTTP services are.)
//! - **A failure affects one instance.** If a maker fails or panics, this is logged with the key, and
//!   another attempt follows after a backoff. If it fails to replace a service, the old service stays in
//!   use meanwhile.
//! - **It never fails and never ends.** tower's balancer treats an error as fatal, and polls no more
//!   after the end. When the watch ends, this is logged and the last set stays.
//!
//! A new address means a new process. The new service there starts with no measured load: latencies and
//! failures measured at the old address do not describe the new process, and are often the reason for
//! the change. Weight and all other data of the registry carry over. This crate's
//! [`Balance`](crate::balance::Balance) also starts slow start, and ends an ejection unless it was by
//! hand; its counters continue. A new service at the same address changes neither the load nor this
//! state.
//!
//! tower's trait cannot report the state of the registry. This crate's
//! [`Balance`](crate::balance::Balance) learns it directly from the discovery, and with it why there is
//! no endpoint ([`BalanceStatus::registries`](crate::balance::BalanceStatus::registries)). That works through any
//! adaptors, as long as they are on the same task.
//!
//! A discovery works when it is polled, on the task of its consumer, within a tokio runtime. A poll
//! takes time linear in the sets when they differ, and constant time otherwise. After 128 steps in a row
//! it yields to other tasks.

mod make;
mod measured;
mod roll;

pub use self::{make::MakeEndpoint, measured::MeasuredDiscover};

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;
use tokio::time::Instant;
use tower::discover::Change;

use self::roll::{Roll, RollStep};
use crate::{
    backoff::Backoff,
    endpoint::{Endpoint, load::LoadTracker},
    instance::{Instance, Key},
    registry::{Closed, Follower, Query, View, Watch},
    task::Timer,
    text::Escaped,
};

/// The number of steps before it yields to other tasks; the value of tokio's own resources.
const BURST: u32 = 128;

/// The endpoints of a watched service, as tower's `Discover`. Dropping it releases the watch.
///
/// Each endpoint is a service together with the registry's data on its instance. This crate's
/// [`Balance`](crate::balance::Balance) measures the load of each endpoint. tower's balancer reads the
/// load from the service; for it there is [`measured`](Self::measured).
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
/// let discover = registry.watch("user-service")?.discover(|instance: &Instance| {
///     let address = instance.address.to_string();
///     Ok::<_, Infallible>(tower::service_fn(move |_: ()| {
///         let address = address.clone();
///         async move { Ok::<_, Infallible>(address) }
///     }))
/// });
///
/// let answer = Balance::new(discover).oneshot(()).await?;
/// assert!(answer.starts_with("10.0.0."));
/// # Ok(())
/// # }
/// ```
///
/// Customised: a new version of an instance gets a new service.
/// ```
/// # use std::convert::Infallible;
/// # use tower_roster::{Instance, registry::Watch};
/// # fn build(watch: Watch) {
/// use tower_roster::discover::Discover;
///
/// let discover = Discover::new(watch, |_: &Instance| Ok::<_, Infallible>("a service"))
///     .rebuild_when(|old, new| old.address != new.address || old.tags != new.tags);
/// # }
/// ```
pub struct Discover<M> {
    maker: M,
    roll: Roll,
    query: Query,
    changed: Option<Changed>,
    /// Hands the watch to the balancer, which reports the state of the registry.
    follower: Follower,
    timer: Timer,
    /// Steps since the last `Poll::Pending`.
    steps: u32,
}

/// Waits for a change and returns the watch. The future owns the only handle to it.
type Changed = Pin<Box<dyn Future<Output = (Watch, Result<View, Closed>)> + Send>>;

fn changed(mut watch: Watch) -> Changed {
    Box::pin(async move {
        let view = watch.changed().await;
        (watch, view)
    })
}

impl Watch {
    /// Turns the watched instances into endpoints; the same as [`Discover::new`].
    pub fn discover<M: MakeEndpoint>(self, maker: M) -> Discover<M> {
        Discover::new(self, maker)
    }
}

impl<M: MakeEndpoint> Discover<M> {
    /// Creates a discovery that makes an endpoint for each instance of a watched service.
    pub fn new(watch: Watch, maker: M) -> Self {
        Self {
            maker,
            roll: Roll::new(),
            query: watch.query().clone(),
            follower: Follower::new(watch.clone()),
            // Its user may have waited for the first set with it.
            changed: Some(changed(watch.unread())),
            timer: Timer::default(),
            steps: 0,
        }
    }

    /// Measures the load of each endpoint, for tower's balancer. Each endpoint gets a new tracker with
    /// the settings of `tracker`. This crate's [`Balance`](crate::balance::Balance) does not need it,
    /// because it measures load itself.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_roster::BoxError> {
    /// use std::convert::Infallible;
    /// use tower::{Service, ServiceExt, balance::p2c::Balance};
    /// use tower_roster::{Instance, endpoint::load::PeakEwma, registry};
    ///
    /// let registry = registry::connect("fixed:10.0.0.1:80,10.0.0.2:80")?;
    /// let discover = registry.watch("user-service")?.discover(|_: &Instance| {
    ///     Ok::<_, Infallible>(tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) }))
    /// });
    ///
    /// let mut balance = Balance::new(discover.measured(PeakEwma::new()));
    /// assert_eq!(balance.ready().await?.call(1).await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn measured<L: LoadTracker>(self, tracker: L) -> MeasuredDiscover<Self, L> {
        MeasuredDiscover::new(self, tracker)
    }

    /// Sets when a service must be replaced. The closure gets the instance that the service was made
    /// for, and the new one with the same key. The default is [`MakeEndpoint::needs_rebuild`].
    #[must_use]
    pub fn rebuild_when(
        mut self,
        rebuild: impl Fn(&Instance, &Instance) -> bool + Send + 'static,
    ) -> Self {
        self.roll.rebuild = Some(Box::new(rebuild));
        self
    }

    /// Sets the delay before another attempt to make an endpoint that could not be made. By default it
    /// grows from 100 ms to 30 s, with full jitter. It is long because a maker usually fails on the data
    /// of the registry, which seldom change by themselves; when they do change, the attempt follows at
    /// once.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.roll.backoff = backoff;
        self
    }

    /// Takes the latest set, if there is a new one.
    fn look(&mut self, cx: &mut Context<'_>) {
        while let Some(wait) = &mut self.changed {
            let Poll::Ready((watch, view)) = wait.as_mut().poll(cx) else {
                return;
            };
            match view {
                Ok(view) => {
                    self.roll.follow(&view.instances);
                    self.changed = Some(changed(watch));
                }
                Err(closed) => {
                    tracing::warn!(
                        service = %Escaped(self.query.service()),
                        "no more changes, the last endpoints stay: {closed}"
                    );
                    self.changed = None;
                }
            }
        }
    }
}

impl<M: MakeEndpoint> Stream for Discover<M> {
    type Item = Result<Change<Key, Endpoint<M::Service>>, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.follower.tell();
        loop {
            if this.steps >= BURST {
                this.steps = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // Checked before each step: a set that is outdated while it is applied is abandoned.
            this.look(cx);
            let now = Instant::now();
            this.steps += 1;
            let change = match this.roll.step(&mut this.maker, now) {
                RollStep::Insert(key, facts, service) => {
                    let endpoint = Endpoint::with_facts(service, key.clone(), facts);
                    Change::Insert(key, endpoint)
                }
                RollStep::Remove(key) => Change::Remove(key),
                RollStep::Quiet => continue,
                RollStep::Idle => match this.timer.poll(this.roll.next_retry(), cx) {
                    Poll::Ready(()) => continue,
                    Poll::Pending => {
                        this.steps = 0;
                        return Poll::Pending;
                    }
                },
            };
            return Poll::Ready(Some(Ok(change)));
        }
    }
}

// No field is structurally pinned.
impl<M> Unpin for Discover<M> {}

impl_debug!([M] Discover<M>: |this| query = this.query, roll = this.roll);
