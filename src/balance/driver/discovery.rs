//! Discovery as the driver polls it, with its failures and the registries that it follows.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rand::rngs::SmallRng;
use tokio::{task::yield_now, time::Instant};
use tower::discover::{Change, Discover};

use super::{
    member::ListedEndpoint,
    revisions::Revisions,
    turn::{FLOOD, TURN},
};
use crate::{
    backoff::{Backoff, after},
    endpoint::Facts,
    error::BoxError,
    registry::{Followed, followed},
    task::caught,
    text::Escaped,
};

/// The backoff between polls of a discovery that fails, because a repeated error carries no new
/// information.
pub(super) const BACKOFF: Backoff = Backoff::known(100, 30_000);

/// How many different failures in a row are warned of. Arbitrary: it bounds the memory and the log of a
/// discovery whose every failure has another text.
const MOST_WARNED: usize = 8;

/// Takes an item of discovery apart into the service and the registry's data.
pub(crate) type Apart<K, D, S> = Box<dyn Fn(&K, D) -> (S, Option<Arc<Facts>>) + Send>;

/// An item from discovery.
pub(super) enum DiscoveryItem<K, S> {
    Insert(K, ListedEndpoint<S>),
    Remove(K),
    Failed(Arc<str>),
    Ended,
}

/// The items that discovery yields without a pause.
#[derive(Default)]
pub(super) struct Burst {
    taken: usize,
    /// Whether discovery has paused.
    is_quiet: bool,
}

/// Discovery, and the state that the driver needs to poll it.
pub(super) struct Discovery<D: Discover, S> {
    /// `None` when it has ended.
    discover: Option<Pin<Box<D>>>,
    apart: Apart<D::Key, D::Service, S>,
    /// Watches that discovery has named since the last [`take_found`](Self::take_found).
    found: Option<Vec<Followed>>,
    /// The failures that were warned of since the last success, by their text.
    warned: Vec<Arc<str>>,
    /// Number of failures in a row, and the time of the next poll.
    failures: u32,
    ask_at: Option<Instant>,
    rng: SmallRng,
    /// Whether it has delivered anything, and whether it has paused since.
    spoken: bool,
    settled: bool,
}

impl<D, S> Discovery<D, S>
where
    D: Discover,
    D::Error: Into<BoxError>,
{
    pub(super) fn new(discover: D, apart: Apart<D::Key, D::Service, S>, rng: SmallRng) -> Self {
        Self {
            discover: Some(Box::pin(discover)),
            apart,
            found: Some(Vec::new()),
            warned: Vec::new(),
            failures: 0,
            ask_at: None,
            rng,
            spoken: false,
            settled: false,
        }
    }

    /// The time of the next poll after a failure.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.ask_at
    }

    pub(super) fn has_ended(&self) -> bool {
        self.discover.is_none()
    }

    /// Whether it has delivered anything.
    pub(super) fn has_spoken(&self) -> bool {
        self.spoken
    }

    /// Whether the first set is complete.
    pub(super) fn has_settled(&self) -> bool {
        self.settled
    }

    /// The watches that it follows, each once.
    pub(super) fn take_found(&mut self) -> Vec<Followed> {
        self.found.replace(Vec::new()).unwrap_or_default()
    }

    fn has_found(&self) -> bool {
        self.found.as_ref().is_some_and(|found| !found.is_empty())
    }

    /// Whether it may be polled: it has not ended, and it is not in backoff after a failure.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.ask_at.take_if(|at| *at <= now);
        self.discover.is_some() && self.ask_at.is_none()
    }

    /// Waits for the next item. Returns `None` when there is no item, but some facts have changed or
    /// discovery follows another registry. Never returns once discovery has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self, revisions: &Revisions) -> Option<DiscoveryItem<D::Key, S>> {
        poll_fn(|cx| match self.poll(cx) {
            Poll::Ready(said) => Poll::Ready(Some(said)),
            // This crate's own discovery yields no item when it notes a new weight, or when it follows a
            // registry.
            Poll::Pending if revisions.have_moved() || self.has_found() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// The next item if there is one without waiting, so that a burst makes one snapshot.
    pub(super) async fn next_of(&mut self, burst: &mut Burst) -> Option<DiscoveryItem<D::Key, S>> {
        self.ask_at.take_if(|at| *at <= Instant::now());
        while burst.taken < FLOOD && self.ask_at.is_none() {
            // A foreign discovery may not yield to other tasks by itself.
            if burst.taken % TURN == TURN - 1 {
                yield_now().await;
            }
            match poll_fn(|cx| Poll::Ready(self.poll(cx))).await {
                Poll::Ready(said) => {
                    (burst.taken, burst.is_quiet) = (burst.taken + 1, false);
                    return Some(said);
                }
                // Discovery may have returned pending only to yield to other tasks.
                Poll::Pending if !burst.is_quiet && burst.taken > 0 => {
                    burst.is_quiet = true;
                    yield_now().await;
                }
                Poll::Pending => {
                    self.settled |= self.spoken;
                    break;
                }
            }
        }
        None
    }

    /// Polls discovery. If the poll panics, discovery has ended, because its state is unknown from then on.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<DiscoveryItem<D::Key, S>> {
        let Some(discover) = &mut self.discover else {
            return Poll::Pending;
        };
        let found = &mut self.found;
        let asked = caught(|| followed(found, || discover.as_mut().poll_discover(cx)));
        let next = asked.unwrap_or_else(|| {
            tracing::error!("discovery panicked");
            Poll::Ready(None)
        });
        next.map(|next| match next {
            Some(Ok(change)) => {
                self.spoken = true;
                self.succeeded();
                match change {
                    Change::Insert(name, service) => {
                        let (service, facts) = (self.apart)(&name, service);
                        DiscoveryItem::Insert(name, ListedEndpoint::new(service, facts))
                    }
                    Change::Remove(name) => DiscoveryItem::Remove(name),
                }
            }
            Some(Err(error)) => self.failed(error.into()),
            None => {
                tracing::warn!("discovery has ended, the last endpoints stay");
                self.spoken = true;
                self.discover = None;
                DiscoveryItem::Ended
            }
        })
    }

    fn failed<K>(&mut self, error: BoxError) -> DiscoveryItem<K, S> {
        self.failures = self.failures.saturating_add(1);
        let delay = BACKOFF.delay(self.failures, &mut self.rng);
        let error: Arc<str> = Escaped(&error.to_string()).to_string().into();
        // Not only the last text: a discovery that fails for two reasons in turn would warn each time.
        let is_new = self.warned.len() < MOST_WARNED && !self.warned.contains(&error);
        if is_new {
            self.warned.push(Arc::clone(&error));
            tracing::warn!(retry_in = ?delay, "discovery failed, the last endpoints stay: {error}");
        } else {
            let failures = self.failures;
            tracing::debug!(failures, retry_in = ?delay, "discovery failed again: {error}");
        }
        self.ask_at = Some(after(Instant::now(), delay));
        DiscoveryItem::Failed(error)
    }

    fn succeeded(&mut self) {
        if self.failures > 0 {
            tracing::info!(failures = self.failures, "discovery works again");
            self.failures = 0;
            self.warned.clear();
        }
    }
}
