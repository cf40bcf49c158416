//! What the handle asks and orders.

use std::{
    any::Any,
    fmt,
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use tokio::{sync::oneshot, task::yield_now, time::Instant};
use tower::discover::Discover;

use super::{Driver, FLOOD, TURN, roll::Member};
use crate::{
    backoff::after,
    balance::{
        handle::{Command, EndpointInfo, EndpointState as Standing, Event},
        policy::Policy,
        state::Held,
    },
    endpoint::load::LoadTracker,
    instance::{Key, Weight},
};

/// How often picks are collected from where requests count them, in 32 bits: no thread can pick often
/// enough for that to overflow.
const COLLECT: Duration = Duration::from_secs(60);

/// The load of an endpoint; no number when the tracker panics over it.
fn load<L: LoadTracker>(state: &Held<L>, now: Instant) -> f64 {
    catch_unwind(AssertUnwindSafe(|| state.load(now))).unwrap_or(f64::NAN)
}

/// Whether an order found its endpoint, for whoever gave it.
pub(super) type Answer = (oneshot::Sender<bool>, bool);

impl<D, S, P, C, R> Driver<D, S, P, C, R>
where
    D: Discover,
    D::Key: Hash + Eq + Clone + fmt::Debug + 'static,
    P: Policy,
{
    /// Does all that the handle orders, so that many orders make one snapshot, and answers what it asks.
    /// Returns whether a snapshot is due.
    pub(super) async fn obey_all(&mut self, mut first: Option<Box<Command>>, now: Instant) -> bool {
        let (mut dirty, mut lists) = (false, Vec::new());
        for obeyed in 1..=FLOOD {
            let Some(command) = first.take().or_else(|| self.commands.try_recv().ok()) else {
                break;
            };
            match *command {
                Command::List(reply) => lists.push(reply),
                Command::Subscribe(reply) => _ = reply.send(self.events.subscribe()),
                Command::Eject(key, reply) => {
                    let id = self.find_key(&key).map(|place| self.roll.members[place].id);
                    let found = match id {
                        Some(id) => self.ejector.eject(&id, now),
                        None => self.roll.reorder(&key, |orders| orders.ejected = true),
                    };
                    // Shuts its gate, whatever else is ordered.
                    dirty |= self.follow(now);
                    self.answers.push((reply, found));
                }
                Command::Restore(key, reply) => {
                    let id = self.find_key(&key).map(|place| self.roll.members[place].id);
                    let found = match id {
                        Some(id) => {
                            self.ejector.restore_by_hand(&id, now);
                            true
                        }
                        None => self.roll.reorder(&key, |orders| orders.ejected = false),
                    };
                    dirty |= self.follow(now);
                    self.answers.push((reply, found));
                }
                Command::Weigh(key, weight, reply) => {
                    let found = match self.find_key(&key) {
                        Some(place) => {
                            let member = &mut self.roll.members[place];
                            let before = member.weight();
                            member.by_hand = weight;
                            let after = member.weight();
                            if after != before {
                                self.tell(Event::Weighed(key, after));
                                dirty = true;
                            }
                            true
                        }
                        None => self.roll.reorder(&key, |orders| orders.weight = weight),
                    };
                    self.answers.push((reply, found));
                }
            }
            if obeyed % TURN == 0 {
                yield_now().await;
            }
        }
        if let Some(last) = lists.pop() {
            let list = self.list();
            for reply in lists {
                let _ = reply.send(list.clone());
                yield_now().await;
            }
            let _ = last.send(list);
        }
        dirty
    }

    fn find_key(&self, key: &Key) -> Option<usize> {
        let any: &dyn Any = key;
        if let Some(name) = any.downcast_ref::<D::Key>() {
            return self.roll.place(*self.roll.index.get(name)?);
        }
        let mut members = self.roll.members.iter();
        members.position(|member| member.state.key == *key)
    }

    /// Adds up what went to each endpoint.
    pub(super) fn collect(&mut self, now: Instant) {
        self.collect_at = after(now, COLLECT);
        if let Some(core) = self.core.upgrade() {
            core.slots.collect(&mut self.counts);
            self.count();
        }
    }

    fn list(&mut self) -> Vec<EndpointInfo> {
        let now = Instant::now();
        self.collect(now);
        let members = &self.roll.members;
        let total: u64 = members.iter().map(|m| m.requests).sum();
        let weighed = members.iter().any(|m| m.weight() > Weight::ZERO);
        let info = |member: &Member<S, P::Load>| {
            let state = &member.state;
            let (weight, requests) = (member.weight(), member.requests);
            EndpointInfo {
                key: state.key.clone(),
                instance: member.facts.as_ref().map(|facts| facts.instance()),
                state: if member.out {
                    Standing::Ejected
                } else if weighed && weight == Weight::ZERO {
                    Standing::Drained
                } else if member.ramp.is_some() {
                    Standing::Warming
                } else {
                    Standing::Active
                },
                cause: self.ejector.cause(&member.id),
                weight,
                effective_weight: if weighed {
                    self.effective(member, now)
                } else {
                    1.0
                },
                load: load(state, now),
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
}
