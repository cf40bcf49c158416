//! Follows discovery, and makes a snapshot of what holds now.
//!
//! One task for each balancer, which runs while no request flows: endpoints appear and leave whether or
//! not anybody calls. It is the only writer. What requests tell it they leave in the endpoints' state.
//!
//! ```text
//!            ┌── discovery: insert, remove; an error or its end is noted and the last set stays
//! waits for ─┼── the handle: eject, restore, weigh
//!            ├── the registries behind it: how they stand
//!            ├── time: slow start, grace, drain
//!            └── the last balancer is dropped: ends
//!      │
//!      └──▶ takes in everything that is there ──▶ one snapshot ──▶ slots
//! ```
//!
//! A table that takes long is made on another thread (see `publish`).

mod discovery;
mod drain;
mod events;
mod health;
mod orders;
mod publish;
mod registries;
mod roll;
mod spare;

use std::{
    convert::Infallible,
    fmt,
    hash::Hash,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use rand::rngs::SmallRng;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tower::discover::Discover;

use self::{
    discovery::{BACKOFF, next},
    orders::Answer,
    roll::MemberId,
};
pub(super) use self::{events::Events, registries::Registries, roll::Roll, spare::Spare};
use super::{
    checks::Checker,
    core::Core,
    handle::{Command, Event, Status},
    policy::Policy,
    slots::Counts,
    snapshot::Snapshot,
    state::{Common, Held},
    topology::{self, Notice, Topology},
};
use crate::{
    attempt::EndpointId,
    endpoint::{
        Facts, Ramp,
        eject::{Ejector, Signal},
    },
    error::BoxError,
    task::{at_once, fenced},
};

/// What is taken in of one kind before a snapshot is made of a flood that does not end.
const FLOOD: usize = 16_384;

/// What is taken in before other tasks get their turn: some 50 µs' worth.
const TURN: usize = 128;

/// Takes a service that discovery brought apart: how to call it, and what the registry says of it.
pub(super) type Apart<D, S> = fn(D) -> (S, Option<Arc<Facts>>);

/// What stays the same while a driver runs.
pub(super) struct Settings<P> {
    /// Shared with the thread that prepares, where that is costly.
    pub(super) policy: Arc<P>,
    pub(super) grace: Duration,
    pub(super) drain: Duration,
    pub(super) topology: Topology,
    /// `None` for no slow start.
    pub(super) ramp: Option<Ramp>,
}

pub(super) struct Driver<D: Discover, S, P: Policy, C, R> {
    /// `None` when it has ended.
    pub(super) discover: Option<Pin<Box<D>>>,
    pub(super) split: Apart<D::Service, S>,
    pub(super) core: Weak<Core<S, P, C, R>>,
    pub(super) alive: mpsc::Receiver<Infallible>,
    pub(super) commands: mpsc::UnboundedReceiver<Box<Command>>,
    pub(super) status: watch::Sender<Status>,
    pub(super) events: Events,
    pub(super) settings: Settings<P>,
    pub(super) rng: SmallRng,
    pub(super) ejector: Ejector<MemberId>,
    pub(super) checker: Checker<D::Key>,
    pub(super) common: Arc<Common>,
    /// What requests tell of endpoints.
    pub(super) alarms: mpsc::UnboundedReceiver<Alarm>,
    /// When the guard of a split looks next.
    pub(super) guard_at: Option<Instant>,
    /// The epoch of the split's trip that was told last.
    pub(super) trip_told: u64,
    /// Settings of the topology that are shared with the user.
    pub(super) changes: topology::Changes,
    /// What was told about the topology last.
    pub(super) notices: Vec<Notice>,
    /// What is to be told as soon as it holds.
    pub(super) news: Vec<News<P::Load>>,
    pub(super) roll: Roll<D::Key, S, P::Load>,
    /// The snapshot that requests read, and the ids of the members in it, in its order.
    pub(super) current: Arc<Snapshot<S, P>>,
    pub(super) numbered: Vec<MemberId>,
    /// What the next snapshot is made of.
    pub(super) spare: Spare<S, P::Load>,
    pub(super) counts: Counts,
    /// Answers to orders, which hold with the next snapshot.
    pub(super) answers: Vec<Answer>,
    /// How the registries stand that discovery follows.
    pub(super) registries: Registries,
    /// Failures of discovery in a row, and when it is asked again.
    pub(super) failures: u32,
    pub(super) ask_at: Option<Instant>,
    /// Whether discovery has said anything, and whether it has paused since.
    pub(super) spoken: bool,
    pub(super) settled: bool,
    /// When the weights of slow start change next, and the least factor now.
    pub(super) warm_at: Option<Instant>,
    pub(super) least: f64,
    /// When picks are collected next.
    pub(super) collect_at: Instant,
}

/// A driver that has not panicked for so long has not panicked.
const LONG_AGO: Duration = Duration::from_secs(60);

/// What requests tell of an endpoint.
type Alarm = Box<(EndpointId, Signal)>;

/// An event that is still to be told.
pub(super) enum News<L> {
    Event(Event),
    /// This endpoint is not listed any more.
    Left(Held<L>),
}

impl<D, S, P, C, R> Driver<D, S, P, C, R>
where
    D: Discover,
    D::Key: Hash + Eq + Clone + fmt::Debug + 'static,
    D::Error: Into<BoxError>,
    P: Policy,
{
    /// Runs until the last balancer is dropped.
    ///
    /// What may panic that is not ours is caught where it is called, with what that is worth. What that
    /// leaves out, such as the destructor of a key, costs the turn that it was called in.
    pub(super) async fn run(&mut self) {
        let (mut panics, mut began) = (0_u32, Instant::now());
        while fenced(self.turns(panics > 0)).await.is_none() {
            if began.elapsed() > LONG_AGO {
                panics = 0;
            }
            panics = panics.saturating_add(1);
            let delay = BACKOFF.delay(panics, &mut self.rng);
            tracing::error!(go_on_in = ?delay, "the balancer's driver panicked");
            tokio::select! {
                _ = self.alive.recv() => return,
                () = sleep(delay) => {}
            }
            began = Instant::now();
        }
    }

    /// Turn for turn, until the last balancer is dropped. The first makes a snapshot, when the turn before
    /// it may have left that out.
    async fn turns(&mut self, mut amiss: bool) {
        loop {
            let wake = if amiss {
                Some(Instant::now())
            } else {
                self.next_wake()
            };
            let asks = self.ask_at.is_none();
            let (mut order, mut change, mut alarm, mut found) = (None, None, None, None);
            let mut replan = false;
            // Whatever it is that wakes the driver: that none of them starves another is ensured below.
            tokio::select! {
                biased;
                _ = self.alive.recv() => return,
                Some(command) = self.commands.recv() => order = Some(command),
                Some(first) = self.alarms.recv() => alarm = Some(first),
                first = self.checker.next() => found = Some(first),
                () = self.changes.changed() => replan = true,
                () = registries::changed(&mut self.registries.known) => self.registries.stirred = true,
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
                next = next(&mut self.discover, &mut self.registries.new, &self.roll.revisions),
                    if asks && self.discover.is_some() => change = next,
            }
            let now = Instant::now();
            if self.ask_at.is_some_and(|at| at <= now) {
                self.ask_at = None;
            }
            let mut dirty = replan | std::mem::take(&mut amiss);
            // Before anything else may panic, as it says each word once.
            if let Some(change) = change {
                dirty |= self.take(change, now);
            }
            dirty |= self.obey_all(order, now).await;
            self.hear_all(alarm, now).await;
            self.check_all(found, now).await;
            dirty |= at_once(self.changes.changed()).await.is_some();
            let stirred = registries::changed(&mut self.registries.known);
            self.registries.stirred |= at_once(stirred).await.is_some();
            dirty |= self.take_all(now).await;
            dirty |= self.look_at_facts(now);
            dirty |= self.warm_up(now);
            if self.collect_at <= now {
                self.collect(now);
            }
            self.judge(now);
            dirty |= self.follow(now);
            if dirty {
                self.publish().await;
            }
            self.look_at_registries();
            self.tell_all();
            self.tidy(now);
            for (reply, found) in std::mem::take(&mut self.answers) {
                let _ = reply.send(found);
            }
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let ejector = self
            .common
            .rules
            .is_some()
            .then(|| self.ejector.next_deadline());
        let wakes = [
            self.ask_at,
            self.next_farewell(),
            self.warm_at,
            self.guard_at,
            ejector,
            Some(self.collect_at),
        ];
        wakes.into_iter().flatten().min()
    }
}

impl<D: Discover, S, P: Policy, C, R> Driver<D, S, P, C, R> {
    /// Has an event told with the next snapshot, which makes it true.
    fn tell(&mut self, event: Event) {
        self.news.push(News::Event(event));
    }
}
