//! From a watched service to tower's `Discover`.
//!
//! A [`Discover`] compares the latest set of instances with the endpoints that it has made, and
//! yields what changed as [`tower::discover::Change`]s. Being a stream of those, it *is* a
//! [`tower::discover::Discover`]. Our own [`Balance`](crate::balance::Balance) takes it as it is, and tower's
//! with a measure of load: [`Discover::measured`].
//!
//! ```text
//! Watch ──latest View──▶ diff against what was made ──▶ Change::Insert(key, Endpoint)
//!                            │                          Change::Remove(key)
//!                            └── weight, zone, tags, status, metadata ──▶ the live Endpoint
//! ```
//!
//! It keeps these rules, each of which some other client broke:
//!
//! - **State, not a queue.** Not polled for hours, it yields the net change at the next poll.
//! - **No connection is lost to an update.** Only what the [`MakeEndpoint`] reads (the address, by
//!   default) makes a new service; everything else flows into the [`Endpoint`] in use.
//! - **Never empty on the way.** Inserts come before removes. A changed address is an `Insert` of
//!   the same key, without a remove, so that a balancer can keep the old service until the new one
//!   is ready. (tower's keeps it for one request only, so there a new service should be ready at
//!   once, as ours over HTTP are.)
//! - **A failure costs one instance.** A maker that fails or panics is logged with the key and tried
//!   again with backoff; where a service is to be replaced, the old one serves on meanwhile.
//! - **It never errs and never ends.** tower's balancer takes an error for fatal and an end for an
//!   end to polling. When the watch ends, this is logged and the last set stays.
//!
//! Another address is another process. A new service there starts with a fresh load, whoever measures it:
//! latencies and failures measured at the old address say nothing about it, and often are why the address changed.
//! Weight and everything else from the registry carry over. Our own [`Balance`](crate::balance::Balance)
//! also begins slow start there and ends an ejection, unless that was by hand; its counts go on. A new
//! service at the same address changes nothing of what that knows.
//!
//! What it has no word for, our own [`Balance`](crate::balance::Balance) learns all the same, through any
//! adaptors that are on the same task: how the registry stands, and so why there is no endpoint
//! ([`Status::registries`](crate::balance::Status::registries)).
//!
//! It works when polled, on the task of its consumer, within a tokio runtime. A poll costs time linear
//! in the sets when they differ, and nothing otherwise. After 128 steps in a row it lets other tasks
//! have their turn.

mod make;
mod measured;
mod roll;

pub use self::{make::MakeEndpoint, measured::MeasuredDiscover};

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::discover::Change;

use self::roll::{Roll, Step};
use crate::{
    backoff::Backoff,
    endpoint::{Endpoint, load::LoadTracker},
    instance::{Instance, Key},
    registry::{Closed, Follower, Query, View, Watch},
};

/// As tokio's own resources do.
const BURST: u32 = 128;

/// The endpoints of a watched service, as tower's `Discover`. Dropping it releases the watch.
///
/// Each endpoint is a service, and what the registry says of its instance. Our own
/// [`Balance`](crate::balance::Balance) measures the load of each; for tower's own balancer, which asks each
/// service for its load, there is [`measured`](Self::measured).
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
/// Customised: a new version is a new service.
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
    /// For the balancer, which is told of the registry.
    follower: Follower,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Steps since it last had to wait.
    steps: u32,
}

/// Waits for a change and gives the watch back. Holds the only handle to it.
type Changed = Pin<Box<dyn Future<Output = (Watch, Result<View, Closed>)> + Send>>;

fn changed(mut watch: Watch) -> Changed {
    Box::pin(async move {
        let view = watch.changed().await;
        (watch, view)
    })
}

impl Watch {
    /// Turns the watched instances into endpoints; short for [`Discover::new`].
    pub fn discover<M: MakeEndpoint>(self, maker: M) -> Discover<M> {
        Discover::new(self, maker)
    }
}

impl<M: MakeEndpoint> Discover<M> {
    /// Makes an endpoint for each instance of a watched service.
    pub fn new(watch: Watch, maker: M) -> Self {
        Self {
            maker,
            roll: Roll::new(),
            query: watch.query().clone(),
            follower: Follower::new(watch.clone()),
            changed: Some(changed(watch)),
            sleep: None,
            steps: 0,
        }
    }

    /// Measures the load of each endpoint, for tower's own balancer: each gets a fresh tracker with the
    /// settings of this one. Our own [`Balance`](crate::balance::Balance) needs no such thing, as it measures
    /// by itself.
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

    /// Sets when the service made for the first instance must be replaced for the second, which has
    /// the same key; [`MakeEndpoint::needs_rebuild`] by default.
    #[must_use]
    pub fn rebuild_when(
        mut self,
        rebuild: impl Fn(&Instance, &Instance) -> bool + Send + 'static,
    ) -> Self {
        self.roll.rebuild = Some(Box::new(rebuild));
        self
    }

    /// Sets the delay before an instance whose endpoint could not be made is tried again; from 100 ms
    /// to 30 s with full jitter by default: a maker fails on what the registry says, which seldom
    /// mends itself, and a change of that is tried at once.
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
                        service = %self.query.service(),
                        "no more changes, the last endpoints stay: {closed}"
                    );
                    self.changed = None;
                }
            }
        }
    }

    /// Waits for the next attempt to make what could not be made; returns whether it is due.
    fn poll_retry(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.roll.next_retry() else {
            self.sleep = None;
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
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
            // Each time, so that a set which is overtaken while it is applied is given up.
            this.look(cx);
            let now = Instant::now();
            this.steps += 1;
            let change = match this.roll.step(&mut this.maker, now) {
                Step::Insert(key, facts, service) => {
                    let endpoint = Endpoint::with_facts(service, key.clone(), facts);
                    Change::Insert(key, endpoint)
                }
                Step::Remove(key) => Change::Remove(key),
                Step::Quiet => continue,
                Step::Idle => match this.poll_retry(cx) {
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

// Nothing in it is pinned in place.
impl<M> Unpin for Discover<M> {}

impl<M> fmt::Debug for Discover<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discover")
            .field("query", &self.query)
            .field("roll", &self.roll)
            .finish_non_exhaustive()
    }
}
