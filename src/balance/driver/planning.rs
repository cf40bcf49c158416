//! Applies the rules of the topology: where traffic may go now.

use std::{hash::Hash, time::Duration};

use tokio::time::Instant;

use super::{
    ejections::Ejections,
    member::Member,
    members::Members,
    news::News,
    warm_up::{WarmUp, any_weighs},
};
use crate::{
    backoff::after,
    balance::{
        event::BalanceEvent,
        topology::{self, LeafSet, Notice, Plan, Planned, Split, Standing, Topology, Traits},
    },
    instance::Weight,
};

/// The longest time between two checks of the split's guard. A short window of the guard makes it shorter.
const GUARD_LOOK: Duration = Duration::from_secs(1);

/// The rules of the topology, and what was last published about them.
pub(super) struct Planning {
    topology: Topology,
    notices: Vec<Notice>,
    /// The time of the next check of the split's guard; `None` without a guard.
    guard_at: Option<Instant>,
    /// The epoch of the last published trip of the split.
    trip_told: u64,
}

impl Planning {
    pub(super) fn new(topology: Topology, now: Instant) -> Self {
        let tallies = topology.as_split().and_then(Split::tallies);
        Self {
            topology,
            notices: Vec::new(),
            guard_at: tallies.map(|_| now),
            trip_told: 0,
        }
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The time of the next check of the split's guard.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.guard_at
    }

    /// Runs the check of the split's guard, if it is due.
    pub(super) fn guard<L>(&mut self, news: &mut News<L>, now: Instant) {
        let Some(split) = self.topology.as_split() else {
            return;
        };
        if self.guard_at.is_some_and(|at| at <= now) {
            let every = split.look_every().unwrap_or(GUARD_LOOK);
            self.guard_at = Some(after(now, every.min(GUARD_LOOK)));
            if let Some(trip) = split.check(now) {
                tracing::warn!("{trip}");
            }
        }
        // Another balancer with the same split may have run the check.
        if let Some((epoch, trip)) = split.trip_after(self.trip_told) {
            self.trip_told = epoch;
            news.tell(BalanceEvent::SplitTripped { trip });
        }
    }

    /// The plan of where requests go now. It refers to members by their places.
    pub(super) fn plan<K, S, L>(
        &mut self,
        members: &Members<K, S, L>,
        ejections: &Ejections,
        warm_up: &WarmUp,
        news: &mut News<L>,
        now: Instant,
    ) -> Plan
    where
        K: Eq + Hash + 'static,
    {
        if self.topology.is_plain() {
            let set = plain(members.all());
            if set.candidates > 0 {
                self.notices.clear();
                return Plan::Leaf(set);
            }
        }
        let unruled = Traits::none();
        let ruled = members.all().iter().enumerate();
        let ruled = ruled.map(|(index, member)| topology::RuledMember {
            index,
            traits: members.traits_at(index).unwrap_or(&unruled),
            weight: warm_up.effective(member, now),
            standing: if !member.is_out() {
                Standing::In
            } else if ejections.is_by_hand(member.id()) {
                Standing::Held
            } else if member.is_on_trial() {
                Standing::OnTrial
            } else {
                Standing::Out
            },
        });
        let ruled: Vec<_> = ruled.collect();
        let panics = self
            .topology
            .panics(ejections.ejector.rules().ejects_last());
        let Planned { plan, notices } = self.topology.plan(&ruled, panics);
        for notice in &notices {
            if !self.notices.contains(notice) {
                tracing::warn!("{notice}");
                news.tell(BalanceEvent::Notice {
                    notice: notice.clone(),
                });
            }
        }
        self.notices = notices;
        plan
    }
}

/// All members that take requests, for a topology without rules. Empty when all are ejected.
fn plain<S, L>(members: &[Member<S, L>]) -> LeafSet {
    let weighed = any_weighs(members);
    let takes = |member: &Member<S, L>| !member.is_out() || member.is_on_trial();
    let mut used: Vec<usize> = (0..members.len()).collect();
    let mut at = 0;
    while let Some(member) = used.get(at).map(|place| &members[*place]) {
        if (!weighed || member.weight() > Weight::ZERO) && takes(member) {
            at += 1;
        } else {
            // `swap_remove` lets most members keep their place in the snapshot.
            used.swap_remove(at);
        }
    }
    LeafSet::new(used, |place| members[place].is_out())
}

/// Number of endpoints that may be picked, of `listed`. An endpoint in several subsets counts once.
pub(super) fn usable(plan: &Plan, listed: usize) -> usize {
    if let Plan::Leaf(set) = plan {
        return set.places.len();
    }
    let mut used = vec![false; listed];
    plan.each_leaf(&mut |set| set.places.iter().for_each(|place| used[*place] = true));
    used.into_iter().filter(|used| *used).count()
}
