//! What discovery says: who comes, who goes, and what changed of them.

use std::{
    any::Any,
    fmt,
    future::poll_fn,
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{task::yield_now, time::Instant};
use tower::discover::{Change, Discover};

use super::{
    Driver, FLOOD, News, TURN,
    roll::{Member, Revisions, generation},
};
use crate::{
    backoff::{Backoff, after},
    balance::{handle::Event, policy::Policy, state::Held},
    endpoint::{
        Facts,
        eject::{Cause, Restored, Step, StepKind},
        load::LoadTracker,
    },
    error::BoxError,
    instance::{Address, Key, Weight},
    registry::{Followed, followed},
};

/// As an error that comes again and again says nothing new, it is asked for ever more slowly.
pub(super) const BACKOFF: Backoff = Backoff::known(100, 30_000);

impl<D, S, P, C, R> Driver<D, S, P, C, R>
where
    D: Discover,
    D::Key: Hash + Eq + Clone + fmt::Debug + 'static,
    D::Error: Into<BoxError>,
    P: Policy,
{
    /// Takes in what is there without waiting, so that a burst makes one snapshot.
    pub(super) async fn take_all(&mut self, now: Instant) -> bool {
        let (mut dirty, mut taken, mut quiet) = (false, 0, false);
        while taken < FLOOD && self.ask_at.is_none() {
            let watches = &mut self.registries.new;
            let polled = poll_fn(|cx| Poll::Ready(ask(&mut self.discover, watches, cx)));
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
    pub(super) fn take(&mut self, change: Next<D>, now: Instant) -> bool {
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

    pub(super) fn recovered(&mut self) {
        if self.failures > 0 {
            self.failures = 0;
            self.status
                .send_modify(|status| status.discovery_error = None);
        }
    }

    pub(super) fn insert(&mut self, name: D::Key, service: D::Service, now: Instant) {
        // What was decided about an endpoint of this name is about the one before.
        self.follow(now);
        let (service, facts) = (self.split)(service);
        let service = Arc::new(service);
        if let Some(facts) = &facts {
            self.roll.revisions.add(facts);
        }
        // The facts are shared with those of the service before, and have changed there, too.
        let address = facts.as_ref().map(|facts| facts.instance().address.clone());
        if let Some(place) = self.find(&name) {
            self.checker.insert(&name, facts.as_deref(), now);
            self.replace(place, service, facts, address, now);
            return;
        }
        let mut gone = self.roll.gone.remove(&name);
        let moved = gone.take_if(|gone| is_elsewhere(gone.address.as_ref(), address.as_ref()));
        let known = match gone {
            Some(gone) => Ok(gone),
            None => {
                let Some(tracker) = self.fresh_tracker(now) else {
                    tracing::error!(endpoint = ?name, "left out, as the policy panicked");
                    return;
                };
                Err(tracker)
            }
        };
        // Before anything is noted of it: to print it is the user's code, which may panic.
        let key = key(&name);
        self.checker.insert(&name, facts.as_deref(), now);
        let id = self.roll.next_id();
        let round = self.ejector.insert(id);
        let (mut history, mut requests) = (None, 0);
        // In the first set nobody is warmer than others.
        let mut ramp = self.new_ramp().filter(|_| self.settled);
        let state = match (known, moved) {
            (Ok(gone), _) => {
                // Open in the new round, and out again if it was out.
                gone.state.health.follow(&Step {
                    key: (),
                    round,
                    kind: StepKind::Restored {
                        by: Restored::Guard,
                    },
                });
                (history, requests) = (gone.history, gone.requests);
                // Registered anew it is another process, and else as warm as it was.
                if gone.generation == generation(facts.as_deref()) {
                    ramp = gone.ramp;
                }
                gone.state
            }
            (Err(tracker), Some(gone)) => {
                requests = gone.requests;
                let state = gone.state.succeeded_by(tracker, round);
                self.roll.replaced.push((gone.state, state.address()));
                state
            }
            (Err(tracker), None) => Held::new(key, tracker, round, Arc::clone(&self.common)),
        };
        let orders = self.roll.orders.remove(&state.key).unwrap_or_default();
        let weight = facts.as_ref().map_or(Weight::ONE, |facts| facts.weight());
        let weighs = orders.weight.unwrap_or(weight) > Weight::ZERO;
        self.ejector.set_weighed(&id, weighs);
        if let Some(history) = history {
            self.ejector.recall(&id, history, now);
        }
        if orders.ejected {
            self.ejector.eject(&id, now);
        }
        // It serves again: its requests are nobody's who left.
        self.roll.draining.remove(&state.id());
        self.tell(Event::Added(state.key.clone()));
        self.roll.index.insert(name, id);
        let member = Member {
            state,
            service,
            facts,
            address,
            requests,
            since: now,
            ramp,
            id,
            weight,
            by_hand: orders.weight,
            weighs,
            out: false,
        };
        self.roll.add(member, &self.settings.topology);
    }

    /// Has a member use another service. What was found out about it holds on, unless that is at
    /// another address and so another process.
    fn replace(
        &mut self,
        place: usize,
        service: Arc<S>,
        facts: Option<Arc<Facts>>,
        address: Option<Address>,
        now: Instant,
    ) {
        let member = &self.roll.members[place];
        let key = member.state.key.clone();
        let moved = is_elsewhere(member.address.as_ref(), address.as_ref());
        self.tell(Event::Replaced(key.clone()));
        if moved {
            match self.fresh_tracker(now) {
                Some(tracker) => self.renew(place, tracker, now),
                None => tracing::error!(endpoint = %key, "keeps its load, as the policy panicked"),
            }
        }
        let member = &mut self.roll.members[place];
        member.service = service;
        if facts.is_some() {
            (member.facts, member.address) = (facts, address);
            self.look(place);
        }
    }

    /// Forgets what was found out about a member, but for its counts and for what was ordered by hand.
    fn renew(&mut self, place: usize, tracker: P::Load, now: Instant) {
        let member = &self.roll.members[place];
        let (id, was_out) = (member.id, member.out);
        let ramp = self.new_ramp().filter(|_| self.settled);
        let round = self.ejector.renew(&id, now);
        // Its requests in flight are the old process's, and tell nothing of the new one.
        let state = member.state.succeeded_by(tracker, round);
        let old = self.roll.renew(place, state);
        let member = &mut self.roll.members[place];
        (member.ramp, member.out) = (ramp, false);
        let key = old.key.clone();
        self.roll.replaced.push((old, member.state.address()));
        if was_out && self.ejector.cause(&id).is_none() {
            self.tell(Event::Restored(key, Restored::Moved));
        }
    }

    /// A tracker for an endpoint of which nothing is known; `None` when the policy panics.
    fn fresh_tracker(&self, now: Instant) -> Option<P::Load> {
        let fresh = || self.settings.policy.tracker().fresh(now);
        catch_unwind(AssertUnwindSafe(fresh)).ok()
    }

    fn remove(&mut self, name: &D::Key, now: Instant) -> bool {
        let followed = self.follow(now);
        let Some((name, id)) = self.roll.index.remove_entry(name) else {
            return followed;
        };
        let Some(place) = self.roll.place(id) else {
            return followed;
        };
        let member = self.roll.take(place);
        let ejected = self.ejector.cause(&id) == Some(Cause::ByHand);
        let history = self.ejector.remove(&id, now);
        self.checker.remove(&name);
        self.let_go(name, member, history, ejected, now);
        true
    }

    /// The place of the member of this name.
    pub(super) fn find(&self, name: &D::Key) -> Option<usize> {
        self.roll.place(*self.roll.index.get(name)?)
    }

    /// Reads the facts of a member. Returns whether it has another weight now.
    fn look(&mut self, place: usize) -> bool {
        let before = self.roll.members[place].weight();
        self.roll.look(place, &self.settings.topology);
        let member = &self.roll.members[place];
        let weighs = member.weight() != before;
        if weighs {
            let event = Event::Weighed(member.state.key.clone(), member.weight());
            self.news.push(News::Event(event));
        }
        weighs
    }

    /// Reads the facts again, when any of them has changed.
    pub(super) fn look_at_facts(&mut self, now: Instant) -> bool {
        if !self.roll.revisions.have_moved() {
            return false;
        }
        self.roll.revisions.catch_up();
        // Where traffic may go depends on more than weights.
        let mut dirty = !self.settings.topology.is_plain();
        for place in 0..self.roll.members.len() {
            dirty |= self.look(place);
        }
        for (name, id) in &self.roll.index {
            if let Some(place) = self.roll.place(*id) {
                let facts = self.roll.members[place].facts.as_deref();
                self.checker.insert(name, facts, now);
            }
        }
        dirty
    }
}

pub(super) type Next<D> =
    Option<Result<Change<<D as Discover>::Key, <D as Discover>::Service>, <D as Discover>::Error>>;

/// Waits for discovery; `None` when it has nothing to say and yet some facts have changed, or it follows
/// another registry.
pub(super) async fn next<D: Discover>(
    discover: &mut Option<Pin<Box<D>>>,
    watches: &mut Vec<Followed>,
    revisions: &Revisions,
) -> Option<Next<D>> {
    poll_fn(|cx| match ask(discover, watches, cx) {
        Poll::Ready(next) => Poll::Ready(Some(next)),
        // Our own discovery writes down a new weight while it is polled, or tells of its registry, and
        // says nothing.
        Poll::Pending if revisions.have_moved() || !watches.is_empty() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Asks discovery, and which watches it follows. One that panics has ended: who knows what it would do next.
fn ask<D: Discover>(
    discover: &mut Option<Pin<Box<D>>>,
    watches: &mut Vec<Followed>,
    cx: &mut Context<'_>,
) -> Poll<Next<D>> {
    let Some(discover) = discover else {
        return Poll::Pending;
    };
    let asked = catch_unwind(AssertUnwindSafe(|| {
        followed(watches, || discover.as_mut().poll_discover(cx))
    }));
    asked.unwrap_or_else(|_| {
        tracing::error!("discovery panicked");
        Poll::Ready(None)
    })
}

/// Whether the second address is another one. Of services that do not say where they are, it is taken
/// for the same.
fn is_elsewhere(before: Option<&Address>, now: Option<&Address>) -> bool {
    before.zip(now).is_some_and(|(before, now)| before != now)
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
