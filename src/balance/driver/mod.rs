//! Follows discovery, and makes a snapshot of the present state.
//!
//! Each balancer has one such task. It runs even without requests, because endpoints appear and leave at
//! any time. It is the only writer; requests leave their signals in the endpoints' state.
//!
//! ```text
//!            ┌── discovery: insert, remove; an error or its end is noted and the last set stays
//! waits for ─┼── the handle: eject, restore, weigh
//!            ├── requests and health checks: an endpoint fails, or is back
//!            ├── the registries behind discovery: their state changes
//!            ├── time: slow start, grace, drain
//!            └── the last balancer is dropped: ends
//!      │
//!      └──▶ takes in everything that is there ──▶ one snapshot ──▶ slots
//! ```
//!
//! Each part has a file and a private state:
//!
//! ```text
//! discovery, registries, orders     what comes in from other tasks
//! endpoints ─┬─ members, departed   what is known of each endpoint, listed or not
//!            ├─ ejections, warm_up  which endpoints get nothing or less
//!            ├─ planning            where traffic may go
//!            └─ news                events that become true with the next snapshot
//! publisher ─── spare               the snapshot, and the picks that requests count
//! ```

mod checks;
mod departed;
mod discovery;
mod ejections;
mod endpoints;
mod member;
mod members;
mod membership;
mod news;
mod orders;
mod planning;
mod publisher;
mod registries;
mod report;
mod revisions;
mod span;
mod spare;
mod start;
mod turn;
mod warm_up;

use std::{
    convert::Infallible,
    fmt,
    hash::Hash,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use rand::rngs::SmallRng;
use tokio::{
    sync::{mpsc, watch},
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};
use tower::discover::Discover;
use tracing::Instrument;

use self::{
    checks::{Checker, Found},
    discovery::{BACKOFF, Burst, Discovery, DiscoveryItem},
    ejections::EndpointSignal,
    endpoints::Endpoints,
    orders::Orders,
    planning::usable,
    publisher::SnapshotPublisher,
    registries::Registries,
    revisions::Revisions,
    span::DriverSpan,
    turn::{FLOOD, TURN},
};
use super::{
    event::BalanceEvent, handle::BalanceStatus, pick::core::Core, policy::Policy, topology,
};
use crate::{
    error::BoxError,
    registry::ViewState,
    task::{at_once, fenced},
};

/// A panic that is this long ago is forgotten.
const LONG_AGO: Duration = Duration::from_secs(60);

pub(super) struct Driver<D: Discover, S, P: Policy, C, W> {
    discovery: Discovery<D, S>,
    registries: Registries,
    orders: Orders,
    checker: Checker<D::Key>,
    /// Signals from requests.
    alarms: mpsc::UnboundedReceiver<EndpointSignal>,
    /// Changes of topology settings that are shared with the user.
    changes: topology::Changes,
    revisions: Revisions,
    endpoints: Endpoints<D::Key, S, P>,
    publisher: SnapshotPublisher<S, P>,
    core: Weak<Core<S, P, C, W>>,
    alive: mpsc::Receiver<Infallible>,
    status: watch::Sender<BalanceStatus>,
    rng: SmallRng,
    span: DriverSpan,
}

/// Why the driver has stopped to run turns.
enum Stopped {
    /// The last balancer was dropped.
    Unused,
    /// The next turns belong to another span.
    Renamed,
}

impl<D, S, P, C, W> Driver<D, S, P, C, W>
where
    D: Discover,
    D::Key: Hash + Eq + Clone + fmt::Debug + 'static,
    D::Error: Into<BoxError>,
    P: Policy,
{
    /// Runs until the last balancer is dropped.
    ///
    /// Panics in code of the user are caught where the code is called. A panic that is not caught there,
    /// for example from the destructor of a key, ends only the turn in which it happens.
    async fn run(&mut self) {
        let (mut panics, mut began) = (0_u32, Instant::now());
        let mut amiss = false;
        loop {
            let span = self.span.current();
            match fenced(self.turns(amiss)).instrument(span).await {
                Some(Stopped::Unused) => return,
                Some(Stopped::Renamed) => {
                    amiss = false;
                    continue;
                }
                None => amiss = true,
            }
            if began.elapsed() > LONG_AGO {
                panics = 0;
            }
            panics = panics.saturating_add(1);
            let delay = BACKOFF.delay(panics, &mut self.rng);
            self.span.current().in_scope(|| {
                tracing::error!(go_on_in = ?delay, "the balancer's driver panicked");
            });
            tokio::select! {
                _ = self.alive.recv() => return,
                () = sleep(delay) => {}
            }
            began = Instant::now();
        }
    }

    /// Runs turns until the last balancer is dropped, or another service is watched. With `amiss` the first turn makes a snapshot, because
    /// the turn before may have panicked before that.
    async fn turns(&mut self, mut amiss: bool) -> Stopped {
        loop {
            let now = Instant::now();
            let wake = if amiss { now } else { self.next_wake() };
            let asks = self.discovery.is_due(now);
            let (mut order, mut said, mut alarm, mut found) = (None, None, None, None);
            let mut dirty = std::mem::take(&mut amiss);
            // Any event wakes the driver. It then takes in all that is there, so that no source starves.
            tokio::select! {
                biased;
                _ = self.alive.recv() => return Stopped::Unused,
                Some(command) = self.orders.next() => order = Some(command),
                Some(first) = self.alarms.recv() => alarm = Some(first),
                first = self.checker.next() => found = Some(first),
                () = self.changes.changed() => dirty = true,
                () = self.registries.changed() => {}
                () = sleep_until(wake) => {}
                next = self.discovery.next(&self.revisions), if asks => said = next,
            }
            let now = Instant::now();
            // Discovery delivers each change once, so it is applied before anything can panic.
            if let Some(said) = said {
                dirty |= self.take(said, now);
            }
            dirty |= self.orders.obey_all(order, &mut self.endpoints, now).await;
            if self.orders.wants_list() {
                let now = Instant::now();
                self.collect(now);
                self.orders.send_list(self.endpoints.list(now)).await;
            }
            self.hear_all(alarm, now).await;
            self.check_all(found, now).await;
            dirty |= at_once(self.changes.changed()).await.is_some();
            at_once(self.registries.changed()).await;
            let mut burst = Burst::default();
            while let Some(said) = self.discovery.next_of(&mut burst).await {
                dirty |= self.take(said, now);
            }
            dirty |= self.look_at_facts(now);
            if self.publisher.next_wake() <= now {
                self.collect(now);
            }
            dirty |= self.endpoints.judge(now);
            if dirty {
                self.publish().await;
            }
            if self.endpoints.take_failing() {
                self.registries.look_again();
            }
            let renamed = self.look_at_registries();
            // The endpoints of this turn may be the first of another service.
            self.span.current().in_scope(|| {
                self.endpoints.publish_news();
                self.endpoints.log_membership();
                self.endpoints.tidy(now);
                self.orders.answer_all();
            });
            if renamed {
                return Stopped::Renamed;
            }
        }
    }

    fn next_wake(&self) -> Instant {
        let wakes = [self.discovery.next_wake(), self.endpoints.next_wake()];
        let wakes = wakes.into_iter().flatten();
        wakes.fold(self.publisher.next_wake(), Instant::min)
    }

    /// Applies an item from discovery. Returns whether a snapshot is due.
    fn take(&mut self, said: DiscoveryItem<D::Key, S>, now: Instant) -> bool {
        match said {
            DiscoveryItem::Insert(name, listing) => {
                self.note_error(None);
                if let Some(facts) = listing.facts() {
                    self.revisions.add(facts);
                }
                let facts = listing.shared_facts();
                let settled = self.discovery.has_settled();
                if self.endpoints.insert(&name, listing, settled, now) {
                    self.checker.insert(&name, facts.as_deref(), now);
                }
                true
            }
            DiscoveryItem::Remove(name) => {
                self.note_error(None);
                self.checker.remove(&name);
                self.endpoints.remove(&name, now)
            }
            DiscoveryItem::Failed(error) => {
                self.note_error(Some(&error));
                self.endpoints.tell(BalanceEvent::DiscoveryFailed { error });
                false
            }
            DiscoveryItem::Ended => {
                self.endpoints.tell(BalanceEvent::DiscoveryEnded);
                // A snapshot is due so that `resolved` becomes true, even if discovery ended at once.
                true
            }
        }
    }

    fn note_error(&self, error: Option<&Arc<str>>) {
        self.status.send_if_modified(|status| {
            let changed = status.discovery_error.as_ref() != error;
            status.discovery_error = error.cloned();
            changed
        });
    }

    /// Handles all signals from requests.
    async fn hear_all(&mut self, mut first: Option<EndpointSignal>, now: Instant) {
        let mut peers = None;
        for heard in 1..=FLOOD {
            let Some(alarm) = first.take().or_else(|| self.alarms.try_recv().ok()) else {
                return;
            };
            self.endpoints.hear(&alarm, &mut peers, now);
            if heard % TURN == 0 {
                yield_now().await;
            }
        }
    }

    /// Handles all results of health checks.
    async fn check_all(&mut self, mut first: Option<Found<D::Key>>, now: Instant) {
        for checked in 1..=FLOOD {
            let found = match first.take() {
                None => at_once(self.checker.next()).await,
                found => found,
            };
            let Some(Found {
                key,
                failures,
                passed,
            }) = found
            else {
                return;
            };
            self.endpoints.checked(&key, failures, passed, now);
            if checked % TURN == 0 {
                yield_now().await;
            }
        }
    }

    /// Reads the facts again if any of them has changed. Returns whether a snapshot is due.
    fn look_at_facts(&mut self, now: Instant) -> bool {
        if !self.revisions.have_moved() {
            return false;
        }
        self.revisions.catch_up();
        let dirty = self.endpoints.look_at_facts();
        for (name, member) in self.endpoints.members().named() {
            self.checker.insert(name, member.facts(), now);
        }
        dirty
    }

    /// Publishes the state of the registries. It runs after the endpoints are taken in, so that a set that
    /// is on its way does not count as empty. Returns whether other services are watched than before.
    fn look_at_registries(&mut self) -> bool {
        let Some(changed) = self.registries.look(self.discovery.take_found()) else {
            return false;
        };
        let registries: Arc<[_]> = self.registries.statuses().cloned().collect();
        let renamed = self.span.name(&registries);
        self.status.send_modify(|status| {
            status.resolved |= registries
                .iter()
                .any(|known| known.state != ViewState::Pending);
            status.registries = registries;
        });
        for status in changed {
            self.endpoints.tell(BalanceEvent::Registry { status });
        }
        renamed
    }

    /// Adds up the requests that went to each endpoint.
    fn collect(&mut self, now: Instant) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        self.publisher.collect(&core.slots, now);
    }

    /// Makes a snapshot of the present state and publishes it to all requests.
    ///
    /// Waits only when the policy is [costly](Policy::is_costly), and not longer than the balancer exists.
    async fn publish(&mut self) {
        if self.core.strong_count() == 0 {
            return;
        }
        let now = Instant::now();
        let plan = self.endpoints.plan(now);
        let endpoints = &self.endpoints;
        let listed = endpoints.members().all().len();
        let usable = usable(&plan, listed);
        let candidates = |set: &_| endpoints.candidates(set, now);
        let prepared = self.publisher.prepare(&plan, candidates);
        let pickers = self.publisher.pickers(prepared, &mut self.alive);
        let Some(pickers) = pickers.await else {
            return;
        };
        // Not earlier: a strong reference would keep the balancer alive while a table is made.
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let made = self
            .publisher
            .make(plan, pickers, self.endpoints.members().all());
        let old = self.publisher.publish(made, &core.slots);
        core.usable.store(usable, Relaxed);
        let (ended, spoken) = (self.discovery.has_ended(), self.discovery.has_spoken());
        self.status.send_modify(|status| {
            status.resolved |= spoken;
            status.endpoints = listed;
            status.usable = usable;
            status.discovery_ended = ended;
        });
        // Last, because it drops objects of the user and may panic.
        self.publisher.recycle(old);
        self.endpoints.publish_news();
    }
}
