//! From what is known of all members to the snapshot that requests read.

use std::{
    fmt,
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use rand::rngs::SmallRng;
use tokio::time::Instant;
use tower::discover::Discover;

use super::{Driver, News, roll::Member};
use crate::{
    attempt::EndpointId,
    balance::{
        handle::Event,
        policy::{Candidate, Policy},
        snapshot::{Leaf, Snapshot},
        topology::{self, Nowhere, Plan, Planned},
    },
    endpoint::eject::{Cause, GateState},
    instance::Weight,
};

impl<D, S, P, C, R> Driver<D, S, P, C, R>
where
    D: Discover,
    D::Key: Hash + Eq + Clone + fmt::Debug + 'static,
    P: Policy,
{
    /// Makes a snapshot of what holds now, and has all requests use it.
    pub(super) fn publish(&mut self) {
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

    /// Where requests go now, by the members' indexes.
    pub(super) fn plan(&mut self, now: Instant) -> Plan {
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
    pub(super) fn leaf(
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
