//! What the handle asks and orders.

use std::{fmt, hash::Hash, time::Duration};

use tokio::time::Instant;
use tower::discover::Discover;

use super::{Driver, roll::Member};
use crate::{
    backoff::after,
    balance::{
        handle::{Command, EndpointInfo, EndpointState as Standing, Event},
        policy::Policy,
    },
    instance::{Key, Weight},
};

/// How often picks are collected from where requests count them, in 32 bits: no thread can pick often
/// enough for that to overflow.
const COLLECT: Duration = Duration::from_secs(60);

impl<D, S, P, C, R> Driver<D, S, P, C, R>
where
    D: Discover,
    D::Key: Hash + Eq + Clone + fmt::Debug + 'static,
    P: Policy,
{
    /// Does what the handle says. It holds when the answer comes.
    pub(super) async fn obey(&mut self, command: Command, now: Instant) {
        match command {
            Command::List(reply) => {
                let _ = reply.send(self.list());
            }
            Command::Subscribe(reply) => {
                let _ = reply.send(self.events.subscribe());
            }
            Command::Eject(key, reply) => {
                let id = self.find_key(&key).map(|place| self.roll.members[place].id);
                let found = match id {
                    Some(id) => self.ejector.eject(&id, now),
                    None => self.roll.reorder(&key, |orders| orders.ejected = true),
                };
                self.follow(now);
                self.publish().await;
                let _ = reply.send(found);
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
                self.follow(now);
                self.publish().await;
                let _ = reply.send(found);
            }
            Command::Weigh(key, weight, reply) => {
                let place = self.find_key(&key);
                let found = match place {
                    Some(_) => true,
                    None => self.roll.reorder(&key, |orders| orders.weight = weight),
                };
                if let Some(place) = place {
                    let member = &mut self.roll.members[place];
                    let before = member.weight();
                    member.by_hand = weight;
                    let after = member.weight();
                    if after != before {
                        self.tell(Event::Weighed(key, after));
                    }
                }
                self.publish().await;
                let _ = reply.send(found);
            }
        }
    }

    fn find_key(&self, key: &Key) -> Option<usize> {
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
}
