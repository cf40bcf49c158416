//! Follows discovery, and makes a snapshot of what holds now.
//!
//! One task for each balancer, which runs while no request flows: endpoints appear and leave whether or
//! not anybody calls. It is the only writer. What requests tell it they leave in the endpoints' state.
//!
//! ```text
//!            ┌── discovery: insert, remove; an error or its end is noted and the last set stays
//! waits for ─┼── the handle: eject, restore, weigh
//!            ├── time: slow start, grace, drain
//!            └── the last balancer is dropped: ends
//!      │
//!      └──▶ takes in everything that is there ──▶ one snapshot ──▶ slots
//! ```

use std::{
    any::Any,
    collections::HashMap,
    convert::Infallible,
    fmt,
    future::poll_fn,
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use rand::rngs::SmallRng;
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::yield_now,
    time::{Instant, sleep_until},
};
use tower::discover::{Change, Discover};

use super::{
    checks::{Checker, Found},
    core::Core,
    handle::{Command, EndpointInfo, EndpointState as Standing, Event, Status},
    policy::{Candidate, Policy},
    snapshot::{Leaf, Snapshot},
    state::{Common, Held},
    topology::{self, Notice, Nowhere, Plan, Planned, Split, Topology, Traits},
};
use crate::{
    attempt::EndpointId,
    backoff::{Backoff, after},
    endpoint::{
        Facts, Ramp,
        eject::{Cause, Ejector, GateState, Restored, Signal, Step, StepKind},
        load::LoadTracker,
    },
    error::BoxError,
    instance::{Key, Weight},
};

/// Changes that are taken in before a snapshot is made of a flood that does not end.
const FLOOD: usize = 16_384;

/// Changes between which other tasks get their turn: some 50 µs' worth.
const TURN: usize = 128;

/// As an error that comes again and again says nothing new, it is asked for ever more slowly.
const BACKOFF: Backoff = Backoff::known(100, 30_000);

/// Endpoints that are remembered at a time after they left, which takes some 20 MiB. Arbitrary: more
/// than leave within the grace where names are not made up without end.
const REMEMBERED: usize = 65_536;

/// Takes a service that discovery brought apart: how to call it, and what the registry says of it.
pub(super) type Apart<D, S> = fn(D) -> (S, Option<Arc<Facts>>);

/// What stays the same while a driver runs.
pub(super) struct Settings<P> {
    pub(super) policy: P,
    pub(super) grace: Duration,
    pub(super) drain: Duration,
    pub(super) topology: Topology,
    /// `None` for no slow start.
    pub(super) ramp: Option<Ramp>,
}

/// How often the guard of a split looks, where its window does not ask for more.
const GUARD_LOOK: Duration = Duration::from_secs(1);

pub(super) struct Driver<D: Discover, S, P: Policy, C, R> {
    /// `None` when it has ended.
    pub(super) discover: Option<Pin<Box<D>>>,
    pub(super) split: Apart<D::Service, S>,
    pub(super) core: Weak<Core<S, P, C, R>>,
    pub(super) alive: mpsc::Receiver<Infallible>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) status: watch::Sender<Status>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) settings: Settings<P>,
    pub(super) rng: SmallRng,
    pub(super) ejector: Ejector<D::Key>,
    pub(super) checker: Checker<D::Key>,
    pub(super) common: Arc<Common>,
    /// What requests tell of endpoints.
    pub(super) alarms: mpsc::UnboundedReceiver<(EndpointId, Signal)>,
    /// When the guard of a split looks next.
    pub(super) guard_at: Option<Instant>,
    /// Settings of the topology that are shared with the user.
    pub(super) changes: topology::Changes,
    /// What was told about the topology last.
    pub(super) notices: Vec<Notice>,
    /// What is to be told as soon as it holds.
    pub(super) news: Vec<News<P::Load>>,
    pub(super) roll: Roll<D::Key, S, P::Load>,
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

/// An event that is still to be told.
pub(super) enum News<L> {
    Event(Event),
    /// This endpoint is not listed any more.
    Left(Held<L>),
}

/// Who is listed, and who was.
pub(super) struct Roll<K, S, L> {
    index: HashMap<K, usize>,
    members: Vec<Member<K, S, L>>,
    /// The states of those that left, for when they come back, and until when.
    gone: HashMap<K, Gone<L>>,
    /// Those that left with requests in flight. Their services are kept until the deadline.
    draining: HashMap<EndpointId, Draining<S, L>>,
    /// The members in the snapshot, in its order, by the ids of their states.
    numbered: Vec<EndpointId>,
    /// What moves on when the facts of any member change.
    revisions: Revisions,
}

struct Member<K, S, L> {
    name: K,
    state: Held<L>,
    service: Arc<S>,
    facts: Option<Arc<Facts>>,
    /// As of the last look at the facts.
    weight: Weight,
    by_hand: Option<Weight>,
    /// What the rules of the topology know of it, where there are any.
    traits: Option<Traits>,
    since: Instant,
    /// Since when it is in slow start.
    ramp: Option<Instant>,
    /// Requests that went to it, as of the last time that they were collected.
    requests: u64,
}

struct Gone<L> {
    state: Held<L>,
    until: Instant,
    /// Why it was out when it left.
    cause: Option<Cause>,
    by_hand: Option<Weight>,
    requests: u64,
}

struct Draining<S, L> {
    state: Held<L>,
    _service: Arc<S>,
    deadline: Instant,
}

impl<K, S, L> Member<K, S, L> {
    fn weight(&self) -> Weight {
        self.by_hand.unwrap_or(self.weight)
    }

    /// Reads the facts.
    fn look(&mut self, topology: &Topology) {
        if let Some(facts) = &self.facts {
            self.weight = facts.weight();
        }
        if topology.is_plain() {
            return;
        }
        let instance = self.facts.as_ref().map(|facts| facts.instance());
        if let Some(split) = topology.as_split() {
            self.state.set_canary(split.is_canary(instance.as_deref()));
        }
        self.traits = Some(topology.traits(&self.state.key, instance.as_deref()));
    }
}

impl<K, S, L> Roll<K, S, L> {
    pub(super) fn new() -> Self {
        Self {
            index: HashMap::new(),
            members: Vec::new(),
            gone: HashMap::new(),
            draining: HashMap::new(),
            numbered: Vec::new(),
            revisions: Revisions::default(),
        }
    }

    /// Adds the picks that a snapshot saw to its members, also to those that have left.
    fn count(&mut self, picked: &[u64]) {
        // Mostly nobody came or went, and then the orders agree.
        let mut rest: HashMap<EndpointId, u64> = HashMap::new();
        for (number, (id, picks)) in self.numbered.iter().zip(picked).enumerate() {
            match self.members.get_mut(number) {
                Some(member) if member.state.id() == *id => member.requests += picks,
                _ => *rest.entry(*id).or_default() += picks,
            }
        }
        if !rest.is_empty() {
            let listed = self.members.iter_mut();
            let listed = listed.map(|m| (m.state.id(), &mut m.requests));
            let gone = self.gone.values_mut();
            let gone = gone.map(|gone| (gone.state.id(), &mut gone.requests));
            for (id, requests) in listed.chain(gone) {
                *requests += rest.get(&id).copied().unwrap_or_default();
            }
        }
    }
}

/// Tells whether any facts have changed: one count for each discovery that members come from, which
/// are several where somebody has merged them.
#[derive(Default)]
struct Revisions {
    counts: Vec<Arc<AtomicU64>>,
    /// Their sum when the facts were read last.
    seen: u64,
}

impl Revisions {
    fn add(&mut self, facts: &Facts) {
        let count = facts.count();
        // One that nobody else holds never moves.
        if Arc::strong_count(count) > 1 && !self.counts.iter().any(|c| Arc::ptr_eq(c, count)) {
            self.seen = self.seen.wrapping_add(count.load(Acquire));
            self.counts.push(Arc::clone(count));
        }
    }

    /// As counts only grow, their sum stays when all of them do.
    fn sum(&self) -> u64 {
        let counts = self.counts.iter().map(|count| count.load(Acquire));
        counts.fold(0, u64::wrapping_add)
    }

    fn have_moved(&self) -> bool {
        self.sum() != self.seen
    }

    fn catch_up(&mut self) {
        // Of a discovery that is gone nothing is to be expected.
        self.counts.retain(|count| Arc::strong_count(count) > 1);
        self.seen = self.sum();
    }
}

/// How often picks are collected from where requests count them, in 32 bits: no thread can pick often
/// enough for that to overflow.
const COLLECT: Duration = Duration::from_secs(60);

/// How often the requests of those that left are looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(100);

impl<D, S, P, C, R> Driver<D, S, P, C, R>
where
    D: Discover,
    S: Send + Sync + 'static,
    C: Send + Sync + 'static,
    R: Send + Sync + 'static,
    D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
    D::Error: Into<BoxError>,
    P: Policy,
{
    /// Runs until the last balancer is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let wake = self.next_wake();
            let asks = self.ask_at.is_none();
            let (mut order, mut change, mut alarm, mut replan) = (None, None, None, false);
            // Discovery last, as it alone may always have something to say. That the others do not
            // starve it is ensured below.
            tokio::select! {
                biased;
                _ = self.alive.recv() => return,
                Some(command) = self.commands.recv() => order = Some(command),
                Some((id, signal)) = self.alarms.recv() => alarm = Some((id, signal)),
                found = self.checker.next() => self.checked(&found),
                () = self.changes.changed() => replan = true,
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
                next = next(&mut self.discover, &self.roll.revisions),
                    if asks && self.discover.is_some() => change = next,
            }
            let now = Instant::now();
            if self.ask_at.is_some_and(|at| at <= now) {
                self.ask_at = None;
            }
            let mut dirty = replan;
            if let Some(order) = order {
                self.obey(order, now);
            }
            if let Some((id, signal)) = alarm {
                self.hear(id, signal, now);
                while let Ok((id, signal)) = self.alarms.try_recv() {
                    self.hear(id, signal, now);
                }
            }
            if let Some(change) = change {
                dirty |= self.take(change, now);
            }
            dirty |= self.take_all(now).await;
            dirty |= self.look_at_facts(now);
            dirty |= self.warm_up(now);
            if self.collect_at <= now {
                self.collect(now);
            }
            self.judge(now);
            dirty |= self.follow(now);
            if dirty {
                self.publish();
            }
            self.tell_all();
            self.tidy(now);
        }
    }

    /// Takes in what is there without waiting, so that a burst makes one snapshot.
    async fn take_all(&mut self, now: Instant) -> bool {
        let (mut dirty, mut taken, mut quiet) = (false, 0, false);
        while taken < FLOOD && self.ask_at.is_none() {
            let polled = poll_fn(|cx| Poll::Ready(ask(&mut self.discover, cx)));
            match polled.await {
                Poll::Ready(change) => {
                    dirty |= self.take(change, now);
                    (taken, quiet) = (taken + 1, false);
                    // Discovery need not be one that yields by itself.
                    if taken % TURN == 0 {
                        yield_now().await;
                    }
                }
                // Discovery may only have paused to let others have their turn.
                Poll::Pending if !quiet && taken > 0 => {
                    quiet = true;
                    yield_now().await;
                }
                Poll::Pending => {
                    self.settled |= self.spoken;
                    break;
                }
            }
        }
        dirty
    }

    /// Takes in one word of discovery. Returns whether a snapshot is due.
    fn take(&mut self, change: Next<D>, now: Instant) -> bool {
        self.spoken |= !matches!(change, Some(Err(_)));
        match change {
            Some(Ok(Change::Insert(name, service))) => {
                self.recovered();
                self.insert(name, service, now);
                true
            }
            Some(Ok(Change::Remove(name))) => {
                self.recovered();
                self.remove(&name, now)
            }
            Some(Err(error)) => {
                let error: BoxError = error.into();
                self.failures = self.failures.saturating_add(1);
                let delay = BACKOFF.delay(self.failures, &mut self.rng);
                tracing::warn!(
                    failures = self.failures,
                    retry_in = ?delay,
                    "discovery failed, the last endpoints stay: {error}"
                );
                self.ask_at = Some(after(now, delay));
                let error: Arc<str> = error.to_string().into();
                self.status
                    .send_modify(|status| status.discovery_error = Some(Arc::clone(&error)));
                self.tell(Event::DiscoveryFailed(error));
                false
            }
            None => {
                tracing::warn!("discovery has ended, the last endpoints stay");
                self.discover = None;
                self.tell(Event::DiscoveryEnded);
                // So that `resolved` is known, also when it ended at once.
                true
            }
        }
    }

    fn recovered(&mut self) {
        if self.failures > 0 {
            self.failures = 0;
            self.status
                .send_modify(|status| status.discovery_error = None);
        }
    }

    fn insert(&mut self, name: D::Key, service: D::Service, now: Instant) {
        // What was decided about an endpoint of this name is about the one before.
        self.follow(now);
        let (service, facts) = (self.split)(service);
        let service = Arc::new(service);
        if let Some(facts) = &facts {
            self.roll.revisions.add(facts);
        }
        if let Some(&index) = self.roll.index.get(&name) {
            self.checker.insert(&name, facts.as_deref(), now);
            let member = &mut self.roll.members[index];
            member.service = service;
            if facts.is_some() {
                member.facts = facts;
                member.look(&self.settings.topology);
            }
            let key = member.state.key.clone();
            self.tell(Event::Replaced(key));
            return;
        }
        let known = match self.roll.gone.remove(&name) {
            Some(gone) => Ok(gone),
            None => {
                let fresh = || self.settings.policy.tracker().fresh(now);
                let Ok(tracker) = catch_unwind(AssertUnwindSafe(fresh)) else {
                    tracing::error!(endpoint = ?name, "left out, as the policy panicked");
                    return;
                };
                Err(tracker)
            }
        };
        self.checker.insert(&name, facts.as_deref(), now);
        let round = self.ejector.insert(name.clone(), now);
        let (mut by_hand, mut requests) = (None, 0);
        let state = match known {
            Ok(gone) => {
                // Open in the new round, and out again if it was out.
                gone.state.health.follow(&Step {
                    key: (),
                    round,
                    kind: StepKind::Restored {
                        by: Restored::Guard,
                    },
                });
                match gone.cause {
                    Some(Cause::ByHand) => _ = self.ejector.eject(&name, now),
                    Some(cause) => self.ejector.trip(&name, round, cause, now),
                    None => {}
                }
                (by_hand, requests) = (gone.by_hand, gone.requests);
                gone.state
            }
            Err(tracker) => Held::new(key(&name), tracker, round, Arc::clone(&self.common)),
        };
        // It serves again: its requests are nobody's who left.
        self.roll.draining.remove(&state.id());
        self.tell(Event::Added(state.key.clone()));
        self.roll
            .index
            .insert(name.clone(), self.roll.members.len());
        let mut member = Member {
            name,
            state,
            service,
            facts,
            weight: Weight::ONE,
            by_hand,
            traits: None,
            since: now,
            ramp: None,
            requests,
        };
        member.look(&self.settings.topology);
        // In the first set nobody is warmer than others.
        if self.settled {
            member.ramp = self.begins_to_ramp(now);
        }
        self.roll.members.push(member);
    }

    /// Since when an endpoint that is new or back ramps, if it does.
    fn begins_to_ramp(&self, now: Instant) -> Option<Instant> {
        let ramp = self.settings.ramp?;
        let warm = self.roll.members.iter();
        let warm = warm.filter(|m| m.ramp.is_none() && m.state.health.is_open());
        // Whether there is one is all that matters; to count all for each of a burst is not for nothing.
        ramp.begins(warm.take(1).count()).then_some(now)
    }

    fn remove(&mut self, name: &D::Key, now: Instant) -> bool {
        self.follow(now);
        let Some(index) = self.roll.index.remove(name) else {
            return false;
        };
        let member = self.roll.members.swap_remove(index);
        if let Some(moved) = self.roll.members.get(index) {
            self.roll.index.insert(moved.name.clone(), index);
        }
        let cause = self.ejector.cause(name);
        self.ejector.remove(name, now);
        self.checker.remove(name);
        self.news.push(News::Left(member.state.clone()));
        // Whether it has requests in flight shows when no more can come.
        let draining = Draining {
            state: member.state.clone(),
            _service: member.service,
            deadline: after(now, self.settings.drain),
        };
        self.roll.draining.insert(member.state.id(), draining);
        if !self.settings.grace.is_zero() && self.roll.gone.len() < REMEMBERED {
            let until = after(now, self.settings.grace);
            let gone = Gone {
                state: member.state,
                until,
                cause,
                by_hand: member.by_hand,
                requests: member.requests,
            };
            self.roll.gone.insert(member.name, gone);
        }
        true
    }

    /// Reads the facts again, when any of them has changed.
    fn look_at_facts(&mut self, now: Instant) -> bool {
        if !self.roll.revisions.have_moved() {
            return false;
        }
        self.roll.revisions.catch_up();
        // Where traffic may go depends on more than weights.
        let mut dirty = !self.settings.topology.is_plain();
        for member in &mut self.roll.members {
            let before = member.weight();
            member.look(&self.settings.topology);
            if member.weight() != before {
                let event = Event::Weighed(member.state.key.clone(), member.weight());
                self.news.push(News::Event(event));
                dirty = true;
            }
            self.checker
                .insert(&member.name, member.facts.as_deref(), now);
        }
        dirty
    }

    /// Whether the weights of endpoints in slow start have changed. Ends it for those that are warm.
    fn warm_up(&mut self, now: Instant) -> bool {
        if self.warm_at.is_none_or(|at| at > now) {
            return false;
        }
        let Some(ramp) = self.settings.ramp else {
            return false;
        };
        for member in &mut self.roll.members {
            let age = member
                .ramp
                .map(|since| now.saturating_duration_since(since));
            if age.is_some_and(|age| ramp.next_change(age).is_none()) {
                member.ramp = None;
            }
        }
        true
    }

    /// When the weights of endpoints in slow start change next.
    fn next_warmth(&self, now: Instant) -> Option<Instant> {
        let ramp = self.settings.ramp?;
        let next = |member: &Member<D::Key, S, P::Load>| {
            let since = member.ramp?;
            let at = ramp.next_change(now.saturating_duration_since(since));
            Some(since + at.unwrap_or_default())
        };
        self.roll.members.iter().filter_map(next).min()
    }

    /// Hears what requests tell of an endpoint.
    fn hear(&mut self, id: EndpointId, signal: Signal, now: Instant) {
        let mut members = self.roll.members.iter();
        let Some(member) = members.find(|member| member.state.id() == id) else {
            return;
        };
        match signal {
            Signal::Tripped { round, cause } => {
                let members = self.roll.members.iter();
                let endpoints = members.map(|m| (&m.name, &m.state.health));
                if self.ejector.shares_its_failures(&member.name, endpoints) {
                    let endpoint = &member.state.key;
                    tracing::debug!(%endpoint, "not ejected, others fail as much: {cause}");
                } else {
                    self.ejector.trip(&member.name, round, cause, now);
                }
            }
            Signal::Probed {
                round,
                outcome,
                latency,
            } => self
                .ejector
                .probed(&member.name, round, outcome, latency, now),
        }
    }

    fn checked(&mut self, found: &Found<D::Key>) {
        let now = Instant::now();
        if found.failures == 0 {
            self.ejector.check_passed(&found.key, now);
        } else {
            self.ejector.check_failed(&found.key, found.failures, now);
        }
    }

    /// Does what is due about endpoints and versions that fail.
    fn judge(&mut self, now: Instant) {
        let Roll { index, members, .. } = &self.roll;
        self.ejector.due(now, |name| {
            let index = index.get(name)?;
            Some(&members[*index].state.health)
        });
        if self.common.rules.is_some() && self.ejector.is_tick_due(now) {
            let endpoints = members.iter().map(|m| (&m.name, &m.state.health));
            self.ejector.tick(now, endpoints);
        }
        if self.guard_at.is_some_and(|at| at <= now) {
            let split = self.settings.topology.as_split();
            let every = split.and_then(Split::look_every).unwrap_or(GUARD_LOOK);
            self.guard_at = Some(after(now, every.min(GUARD_LOOK)));
            if let Some(trip) = split.and_then(|split| split.check(now)) {
                tracing::warn!("{trip}");
                self.tell(Event::SplitTripped(trip));
            }
        }
    }

    /// Does what the ejector decided. Returns whether a snapshot is due.
    fn follow(&mut self, now: Instant) -> bool {
        let mut dirty = false;
        while let Some(step) = self.ejector.next_step() {
            let Some(&index) = self.roll.index.get(&step.key) else {
                continue;
            };
            self.roll.members[index].state.health.follow(&step);
            let key = self.roll.members[index].state.key.clone();
            dirty = true;
            let event = match step.kind {
                StepKind::Ejected { cause, time } => {
                    tracing::warn!(endpoint = %key, ?time, "ejected: {cause}");
                    Event::Ejected(key, cause, time)
                }
                StepKind::Probe => Event::Probing(key),
                StepKind::Restored { by } => {
                    tracing::info!(endpoint = %key, "restored: {by}");
                    self.roll.members[index].state.tracker.forget(now);
                    self.roll.members[index].ramp = self.begins_to_ramp(now);
                    Event::Restored(key, by)
                }
                StepKind::Spared { cause } => {
                    tracing::warn!(endpoint = %key, "not ejected, too many are: {cause}");
                    Event::Spared(key, cause)
                }
            };
            self.tell(event);
        }
        dirty
    }

    /// Has an event told with the next snapshot, which makes it true.
    fn tell(&mut self, event: Event) {
        self.news.push(News::Event(event));
    }

    /// Tells what holds now: whoever hears that an endpoint was removed sees no request go there.
    fn tell_all(&mut self) {
        // Not drained: after the first set it would keep room for as many for ever.
        for news in std::mem::take(&mut self.news) {
            let event = match news {
                News::Event(event) => event,
                News::Left(state) => {
                    let draining = &mut self.roll.draining;
                    // Not there when it came back with the same snapshot.
                    let drains = draining.contains_key(&state.id());
                    let in_flight = if drains { state.in_flight() } else { 0 };
                    if in_flight == 0 {
                        draining.remove(&state.id());
                    }
                    Event::Removed(state.key.clone(), in_flight)
                }
            };
            let _ = self.events.send(event);
        }
    }

    /// Forgets what is over.
    fn tidy(&mut self, now: Instant) {
        let events = &self.events;
        self.roll.gone.retain(|_, gone| gone.until > now);
        self.roll.draining.retain(|_, draining| {
            let in_flight = draining.state.in_flight();
            let stays = in_flight > 0 && draining.deadline > now;
            if !stays {
                let _ = events.send(Event::Drained(draining.state.key.clone(), in_flight));
            }
            stays
        });
    }

    fn next_wake(&self) -> Option<Instant> {
        let now = Instant::now();
        let drain = self.roll.draining.values().map(|d| d.deadline).min();
        let drain = drain.map(|deadline| deadline.min(now + DRAIN_LOOK));
        let grace = self.roll.gone.values().map(|gone| gone.until).min();
        let ejector = self
            .common
            .rules
            .is_some()
            .then(|| self.ejector.next_deadline());
        let wakes = [
            self.ask_at,
            drain,
            grace,
            self.warm_at,
            self.guard_at,
            ejector,
            Some(self.collect_at),
        ];
        wakes.into_iter().flatten().min()
    }

    /// Does what the handle says. It holds when the answer comes.
    fn obey(&mut self, command: Command, now: Instant) {
        match command {
            Command::List(reply) => {
                let _ = reply.send(self.list());
            }
            Command::Subscribe(reply) => {
                let _ = reply.send(self.events.subscribe());
            }
            Command::Eject(key, reply) => {
                let name = self.find(&key).map(|i| self.roll.members[i].name.clone());
                let found = name.is_some_and(|name| self.ejector.eject(&name, now));
                self.follow(now);
                self.publish();
                let _ = reply.send(found);
            }
            Command::Restore(key, reply) => {
                let name = self.find(&key).map(|i| self.roll.members[i].name.clone());
                if let Some(name) = &name {
                    self.ejector.restore_by_hand(name, now);
                }
                self.follow(now);
                self.publish();
                let _ = reply.send(name.is_some());
            }
            Command::Weigh(key, weight, reply) => {
                let found = self.find(&key);
                if let Some(index) = found {
                    let member = &mut self.roll.members[index];
                    let before = member.weight();
                    member.by_hand = weight;
                    let after = member.weight();
                    if after != before {
                        self.tell(Event::Weighed(key, after));
                    }
                }
                self.publish();
                let _ = reply.send(found.is_some());
            }
        }
    }

    fn find(&self, key: &Key) -> Option<usize> {
        let mut members = self.roll.members.iter();
        members.position(|member| member.state.key == *key)
    }

    /// Adds up what went to each endpoint.
    fn collect(&mut self, now: Instant) {
        self.collect_at = after(now, COLLECT);
        if let Some(core) = self.core.upgrade() {
            self.roll.count(&core.slots.collect());
        }
    }

    fn list(&mut self) -> Vec<EndpointInfo> {
        let now = Instant::now();
        self.collect(now);
        let members = &self.roll.members;
        let total: u64 = members.iter().map(|m| m.requests).sum();
        let info = |member: &Member<D::Key, S, P::Load>| {
            let state = &member.state;
            let (weight, requests) = (member.weight(), member.requests);
            EndpointInfo {
                key: state.key.clone(),
                instance: member.facts.as_ref().map(|facts| facts.instance()),
                state: if !state.health.is_open() {
                    Standing::Ejected
                } else if weight == Weight::ZERO {
                    Standing::Drained
                } else if member.ramp.is_some() {
                    Standing::Warming
                } else {
                    Standing::Active
                },
                cause: self.ejector.cause(&member.name),
                weight,
                effective_weight: self.effective(member, now),
                load: state.load(now),
                in_flight: state.in_flight(),
                requests,
                failures: state.failed(),
                share: requests as f64 / total.max(1) as f64,
                age: now.saturating_duration_since(member.since),
            }
        };
        let mut list: Vec<_> = members.iter().map(info).collect();
        list.sort_by(|a, b| a.key.cmp(&b.key));
        list
    }

    /// Makes a snapshot of what holds now, and has all requests use it.
    fn publish(&mut self) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let now = Instant::now();
        self.warm_at = self.next_warmth(now);
        self.least = self.least_factor();
        let members = self.roll.members.iter();
        let weighed = members.filter(|m| m.weight() > Weight::ZERO).count();
        self.ejector.set_weighed(match weighed {
            // Then all count as 1.
            0 => self.roll.members.len(),
            weighed => weighed,
        });
        let plan = self.plan(now);
        let mut numbered = Vec::new();
        let plan = plan.map(&mut |indexes| self.leaf(&indexes, now, &mut numbered));
        let mut picked = Vec::new();
        let snapshot = Arc::new(Snapshot { plan });
        core.slots.publish(&snapshot, numbered.len(), &mut picked);
        let usable = numbered.len().min(self.roll.members.len());
        core.usable.store(usable, Relaxed);
        self.roll.count(&picked);
        self.roll.numbered = numbered;
        let endpoints = self.roll.members.len();
        let (ended, spoken) = (self.discover.is_none(), self.spoken);
        self.status.send_modify(|status| {
            status.resolved = spoken;
            status.endpoints = endpoints;
            status.usable = usable;
            status.discovery_ended = ended;
        });
        self.tell_all();
    }

    /// A member's weight in picks now.
    fn effective(&self, member: &Member<D::Key, S, P::Load>, now: Instant) -> f64 {
        let weight = f64::from(member.weight().get());
        match (self.settings.ramp, member.ramp) {
            (Some(ramp), Some(since)) => {
                let factor = ramp.factor(now.saturating_duration_since(since));
                weight * factor.max(self.least)
            }
            _ => weight,
        }
    }

    /// The least factor of slow start, so that those who are warm are not flooded.
    fn least_factor(&self) -> f64 {
        let Some(ramp) = self.settings.ramp else {
            return 1.0;
        };
        if self.roll.members.iter().all(|member| member.ramp.is_none()) {
            return 1.0;
        }
        let (mut warm, mut ramping) = (0.0, 0.0);
        for member in &self.roll.members {
            let weight = f64::from(member.weight().get());
            match member.ramp {
                Some(_) => ramping += weight,
                None if member.state.health.is_open() => warm += weight,
                None => {}
            }
        }
        ramp.least(warm, ramping)
    }

    /// Where requests go now, by the members' indexes.
    fn plan(&mut self, now: Instant) -> Plan {
        let takes = |member: &Member<D::Key, S, P::Load>| {
            matches!(
                member.state.health.gate(),
                GateState::Open | GateState::ProbeReady | GateState::Probing
            )
        };
        let members = &self.roll.members;
        let topology = &self.settings.topology;
        if topology.is_plain() {
            let weighed = members.iter().any(|m| m.weight() > Weight::ZERO);
            let weighs = |m: &Member<_, _, _>| !weighed || m.weight() > Weight::ZERO;
            let used = members.iter().enumerate();
            let used: Vec<_> = used
                .filter(|(_, member)| weighs(member) && takes(member))
                .map(|(index, _)| index)
                .collect();
            return match (used.is_empty(), members.is_empty()) {
                (false, _) => Plan::Leaf(used),
                (true, false) => Plan::Nowhere(Nowhere::Ejected),
                (true, true) => Plan::Nowhere(Nowhere::Empty),
            };
        }
        // Whom somebody ejected by hand is not used even when there is nobody else.
        let listed = members.iter().enumerate();
        let listed = listed.filter(|(_, m)| self.ejector.cause(&m.name) != Some(Cause::ByHand));
        let members: Vec<_> = listed
            .filter_map(|(index, member)| {
                Some(topology::Member {
                    index,
                    traits: member.traits.as_ref()?,
                    weight: self.effective(member, now),
                    available: takes(member),
                })
            })
            .collect();
        let Planned { plan, notices } = topology.plan(&members);
        for notice in &notices {
            if !self.notices.contains(notice) {
                tracing::warn!("{notice}");
                self.news.push(News::Event(Event::Notice(notice.clone())));
            }
        }
        self.notices = notices;
        plan
    }

    /// A set of endpoints to pick from, and those in it that are on trial.
    fn leaf(
        &mut self,
        indexes: &[usize],
        now: Instant,
        numbered: &mut Vec<EndpointId>,
    ) -> Leaf<S, P> {
        // Read once for each, as requests change it all the while.
        let trial = |m: &&Member<D::Key, S, P::Load>| {
            let gate = m.state.health.gate();
            matches!(gate, GateState::ProbeReady | GateState::Probing)
        };
        let members = indexes.iter().map(|i| &self.roll.members[*i]);
        let (trials, mut members): (Vec<_>, Vec<_>) = members.partition(trial);
        let candidates: Vec<_> = members
            .iter()
            .map(|m| Candidate::lent(&m.state.key, self.effective(m, now)))
            .collect();
        let count = candidates.len();
        let picker = prepare(&self.settings.policy, &candidates, &mut self.rng);
        members.extend(trials);
        let first = numbered.len();
        numbered.extend(members.iter().map(|m| m.state.id()));
        Leaf {
            first,
            states: members.iter().map(|m| m.state.clone()).collect(),
            services: members.iter().map(|m| Arc::clone(&m.service)).collect(),
            candidates: count,
            picker,
        }
    }
}

/// `None` when there is nobody to pick from, or when the policy panics: then chance picks, as the old
/// picker would send requests to those that have left.
fn prepare<P: Policy>(
    policy: &P,
    candidates: &[Candidate<'_>],
    rng: &mut SmallRng,
) -> Option<P::Picker> {
    if candidates.is_empty() {
        return None;
    }
    let prepared = catch_unwind(AssertUnwindSafe(|| policy.prepare(candidates, rng)));
    if prepared.is_err() {
        tracing::error!("the policy panicked, picks are random until the next change");
    }
    prepared.ok()
}

type Next<D> =
    Option<Result<Change<<D as Discover>::Key, <D as Discover>::Service>, <D as Discover>::Error>>;

/// Waits for discovery; `None` when it has nothing to say and yet some facts have changed.
async fn next<D: Discover>(
    discover: &mut Option<Pin<Box<D>>>,
    revisions: &Revisions,
) -> Option<Next<D>> {
    poll_fn(|cx| match ask(discover, cx) {
        Poll::Ready(next) => Poll::Ready(Some(next)),
        // Our own discovery writes down a new weight while it is polled, and says nothing.
        Poll::Pending if revisions.have_moved() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Asks discovery. One that panics has ended: who knows what it would do next.
fn ask<D: Discover>(discover: &mut Option<Pin<Box<D>>>, cx: &mut Context<'_>) -> Poll<Next<D>> {
    let Some(discover) = discover else {
        return Poll::Pending;
    };
    let asked = catch_unwind(AssertUnwindSafe(|| discover.as_mut().poll_discover(cx)));
    asked.unwrap_or_else(|_| {
        tracing::error!("discovery panicked");
        Poll::Ready(None)
    })
}

/// Our own keys and strings as they are, anything else by what it prints.
fn key<K: fmt::Debug + 'static>(name: &K) -> Key {
    let any: &dyn Any = name;
    if let Some(key) = any.downcast_ref::<Key>() {
        key.clone()
    } else if let Some(name) = any.downcast_ref::<String>() {
        Key::new(name.as_str(), "")
    } else if let Some(name) = any.downcast_ref::<&'static str>() {
        Key::new(*name, "")
    } else {
        Key::new(format!("{name:?}"), "")
    }
}
