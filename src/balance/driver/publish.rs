//! From what is known of all members to the snapshot that requests read.
//!
//! ```text
//! members ─▶ weights ─▶ plan ─▶ pickers ─▶ snapshot ─▶ slots ─▶ status, events
//!                                 │
//!                                 └── costly to prepare: on a thread for such work, meanwhile this
//!                                     task waits and the others run
//! ```
//!
//! While pickers are prepared elsewhere, requests read the snapshot before, and the driver takes in
//! nothing: members stay where the plan says, and what discovery, requests and the handle say meanwhile
//! waits in their channels, to be taken in together. So an endpoint that has left may get requests for
//! as long as a table takes. One that was ejected gets none, as its gate is shut before.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use rand::rngs::SmallRng;
use tokio::{task::JoinSet, time::Instant};
use tower::discover::Discover;

use super::{
    Driver, News, Spare,
    roll::{Member, MemberId},
    spare::Arrays,
};
use crate::{
    balance::{
        handle::Event,
        policy::{Candidate, Policy},
        snapshot::{Leaf, Snapshot},
        topology::{self, Plan, Planned, Set, Standing, Traits},
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
    ///
    /// Waits only where the policy is [costly](Policy::is_costly), and then no longer than there is a
    /// balancer.
    pub(super) async fn publish(&mut self) {
        if self.core.strong_count() == 0 {
            return;
        }
        let now = Instant::now();
        let mut weighed = self.weigh(now);
        self.ejector.keep_share(now);
        if self.follow(now) {
            // Who has returned ramps.
            weighed = self.weigh(now);
        }
        let plan = self.plan(weighed, now);
        let usable = self.usable(&plan);
        let Some(pickers) = self.pickers(&plan, now).await else {
            return;
        };
        // Not before: it would keep the balancer alive while a table is made.
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let mut pickers = pickers.into_iter();
        let mut spare = std::mem::take(&mut self.spare).arrays.into_iter();
        let mut numbered = Vec::with_capacity(self.roll.members.len());
        let plan = plan.map(&mut |set| {
            let arrays = spare.next().unwrap_or_default();
            let picker = pickers.next().flatten();
            self.leaf(&set, picker, arrays, &mut numbered)
        });
        let snapshot = Arc::new(Snapshot { plan });
        let slots = &core.slots;
        slots.publish(&snapshot, numbered.len(), &mut self.counts);
        self.count();
        let old = std::mem::replace(&mut self.current, snapshot);
        self.numbered = numbered;
        core.usable.store(usable, Relaxed);
        let endpoints = self.roll.members.len();
        let (ended, spoken) = (self.discover.is_none(), self.spoken);
        self.status.send_modify(|status| {
            status.resolved |= spoken;
            status.endpoints = endpoints;
            status.usable = usable;
            status.discovery_ended = ended;
        });
        // What is dropped may be the user's and panic, so not before all is told. The list is not cleared:
        // after many it would keep room for as many for ever.
        self.roll.replaced = Vec::new();
        self.spare = Spare::new(old, &self.current);
        self.tell_all();
    }

    /// Where requests go now, by the members' places. `weighed` tells whether any has a weight.
    fn plan(&mut self, weighed: bool, now: Instant) -> Plan {
        let is_tried = |member: &Member<S, P::Load>| {
            let gate = member.state.health.gate();
            matches!(gate, GateState::ProbeReady | GateState::Probing)
        };
        let members = &self.roll.members;
        let topology = &self.settings.topology;
        if topology.is_plain() {
            let takes = |member: &Member<S, P::Load>| !member.out || is_tried(member);
            let mut used: Vec<usize> = (0..members.len()).collect();
            let mut at = 0;
            while let Some(member) = used.get(at).map(|place| &members[*place]) {
                if (!weighed || member.weight() > Weight::ZERO) && takes(member) {
                    at += 1;
                } else {
                    // Most keep their place in the snapshot that way.
                    used.swap_remove(at);
                }
            }
            let set = Set::new(used, |place| members[place].out);
            if set.candidates > 0 {
                self.notices.clear();
                return Plan::Leaf(set);
            }
        }
        let unruled = Traits::none();
        let members = members.iter().enumerate();
        let members = members.map(|(index, member)| topology::Member {
            index,
            traits: self.roll.traits.get(index).unwrap_or(&unruled),
            weight: self.effective(member, now),
            standing: if !member.out {
                Standing::In
            } else if self.ejector.cause(&member.id) == Some(Cause::ByHand) {
                Standing::Held
            } else if is_tried(member) {
                Standing::OnTrial
            } else {
                Standing::Out
            },
        });
        let members: Vec<_> = members.collect();
        let panics = topology.panics(self.ejector.settings().ejects_last());
        let Planned { plan, notices } = topology.plan(&members, panics);
        for notice in &notices {
            if !self.notices.contains(notice) {
                tracing::warn!("{notice}");
                self.news.push(News::Event(Event::Notice(notice.clone())));
            }
        }
        self.notices = notices;
        plan
    }

    /// How many endpoints may be picked. One that is in several subsets counts once.
    fn usable(&self, plan: &Plan) -> usize {
        if let Plan::Leaf(set) = plan {
            return set.places.len();
        }
        let mut used = vec![false; self.roll.members.len()];
        plan.each_leaf(&mut |set| set.places.iter().for_each(|place| used[*place] = true));
        used.into_iter().filter(|used| *used).count()
    }

    /// Those of a set that are picked from.
    fn candidates(&self, set: &Set, now: Instant) -> Vec<Candidate<'_>> {
        let places = &set.places[..set.candidates];
        let members = places.iter().map(|place| &self.roll.members[*place]);
        let candidates = members.map(|m| Candidate::lent(&m.state.key, self.effective(m, now)));
        candidates.collect()
    }

    /// A picker for each leaf of a plan, in their order. `None` when the last balancer was dropped
    /// before they were there.
    async fn pickers(&mut self, plan: &Plan, now: Instant) -> Option<Vec<Option<P::Picker>>> {
        let policy = Arc::clone(&self.settings.policy);
        // Comes back from where it is drawn from, so that picks are repeatable there, too.
        let mut rng = self.rng.clone();
        let (mut leaves, mut costly) = (0, false);
        plan.each_leaf(&mut |set| {
            leaves += 1;
            costly |= is_costly(&*policy, set.candidates);
        });
        if !costly {
            let mut pickers = Vec::with_capacity(leaves);
            plan.each_leaf(&mut |set| {
                pickers.push(prepare(&*policy, &self.candidates(set, now), &mut rng));
            });
            self.rng = rng;
            return Some(pickers);
        }
        let mut sets = Vec::with_capacity(leaves);
        plan.each_leaf(&mut |set| {
            let candidates = self.candidates(set, now);
            let owned = candidates.into_iter().map(Candidate::into_owned);
            sets.push(owned.collect::<Vec<_>>());
        });
        // Has the keys and no service: it goes on when this task ends, and must keep no connection
        // open then. One that has not begun is taken back with the set of jobs.
        let mut jobs = JoinSet::new();
        jobs.spawn_blocking(move || {
            let prepared = sets.iter().map(|set| prepare(&*policy, set, &mut rng));
            (prepared.collect(), rng)
        });
        let built = tokio::select! {
            biased;
            _ = self.alive.recv() => return None,
            built = jobs.join_next() => built,
        };
        Some(match built {
            Some(Ok((pickers, rng))) => {
                self.rng = rng;
                pickers
            }
            // The runtime shuts down, and this task with it.
            _ => {
                tracing::debug!("no table was made, picks are random");
                Vec::new()
            }
        })
    }

    /// What requests read of a set.
    fn leaf(
        &self,
        set: &Set,
        picker: Option<P::Picker>,
        mut arrays: Arrays<S, P::Load>,
        numbered: &mut Vec<MemberId>,
    ) -> Leaf<S, P> {
        let first = numbered.len();
        let members = set.places.iter().map(|place| &self.roll.members[*place]);
        numbered.extend(members.clone().map(|m| m.id));
        arrays.hold(members.map(|m| (&m.state, &m.service)));
        Leaf {
            first,
            states: arrays.states,
            services: arrays.services,
            candidates: set.candidates,
            panic: set.panic,
            picker,
        }
    }

    /// Adds the picks that the slots counted to the members, also to those that have left.
    pub(super) fn count(&mut self) {
        let Self {
            roll,
            counts,
            numbered,
            ..
        } = self;
        let mut strays = Vec::new();
        self.current.plan.each_leaf(&mut |leaf| {
            for (number, state) in (leaf.first..).zip(&leaf.states) {
                let picks = counts.picked[number];
                if picks == 0 {
                    continue;
                }
                let place = roll.place(numbered[number]);
                match place.map(|place| &mut roll.members[place]) {
                    // The id may be another's by now.
                    Some(member) if member.state.is_same(state) => member.requests += picks,
                    _ => strays.push((state.address(), picks)),
                }
            }
        });
        if strays.is_empty() {
            return;
        }
        let replaced = roll.replaced.iter();
        let replaced: HashMap<_, _> = replaced.map(|(old, new)| (old.address(), *new)).collect();
        for (address, _) in &mut strays {
            // More than once where that was replaced, too.
            while let Some(new) = replaced.get(address) {
                *address = *new;
            }
        }
        let gone = roll.gone.values_mut();
        let gone = gone.map(|gone| (gone.state.address(), &mut gone.requests));
        // Who left and came back before a snapshot was made.
        let listed = roll.members.iter_mut();
        let listed = listed.map(|m| (m.state.address(), &mut m.requests));
        strays.sort_unstable();
        for (address, requests) in gone.chain(listed) {
            let first = strays.partition_point(|(of, _)| *of < address);
            let of_it = strays[first..].iter().take_while(|(of, _)| *of == address);
            *requests += of_it.map(|(_, picks)| picks).sum::<u64>();
        }
    }
}

/// A policy that panics over it is treated as most are.
fn is_costly<P: Policy>(policy: &P, candidates: usize) -> bool {
    candidates > 0
        && catch_unwind(AssertUnwindSafe(|| policy.is_costly(candidates))).unwrap_or(false)
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
