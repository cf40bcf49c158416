//! From the plan to the snapshot that requests read.
//!
//! ```text
//! plan ─▶ pickers ─▶ snapshot ─▶ slots
//!            │
//!            └── costly to prepare: on a thread for blocking work; this task waits meanwhile and the
//!                others run
//! ```
//!
//! While pickers are prepared on the other thread, requests read the old snapshot and the driver takes in
//! nothing. Members keep the places that the plan refers to. Input from discovery, requests and the handle
//! waits in its channels, and is then taken in together. So a removed endpoint may get requests until the
//! table is made. An ejected endpoint gets none, because its gate is shut first.

use std::{convert::Infallible, sync::Arc, time::Duration};

use rand::rngs::SmallRng;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{
    member::Member,
    spare::{Arrays, Spare},
};
use crate::{
    backoff::after,
    balance::{
        pick::{
            core::PickMemory,
            slots::{PickCounts, Slots},
            snapshot::{Leaf, Snapshot},
        },
        policy::{Candidate, Policy},
        topology::{LeafSet, Plan},
    },
    task::caught,
};

/// How often picks are collected from the slots. Requests count them in 32 bits, and no thread can make
/// enough picks in this time to overflow a count.
const COLLECT: Duration = Duration::from_secs(60);

/// Makes snapshots, publishes them to requests, and counts their picks.
pub(super) struct SnapshotPublisher<S, P: Policy> {
    /// Shared with the thread that prepares costly pickers.
    policy: Arc<P>,
    rng: SmallRng,
    /// The snapshot that requests read.
    current: Arc<Snapshot<S, P>>,
    /// The arrays for the next snapshot.
    spare: Spare<S, P::Load>,
    counts: PickCounts,
    /// The time of the next collection of picks.
    collect_at: Instant,
}

/// The pickers of all leaves. `None` for leaves without one; see [`Leaf::picker`].
type Pickers<P> = Vec<Option<<P as Policy>::Picker>>;

/// Pickers, ready or in preparation.
pub(super) enum Prepared<P: Policy> {
    Now(Pickers<P>),
    /// In preparation on a thread for blocking work, which also has the generator.
    Later(JoinSet<(Pickers<P>, SmallRng)>),
}

impl<S, P: Policy> SnapshotPublisher<S, P> {
    /// `empty` is the snapshot that requests read so far.
    pub(super) fn new(
        policy: Arc<P>,
        empty: Arc<Snapshot<S, P>>,
        rng: SmallRng,
        now: Instant,
    ) -> Self {
        Self {
            policy,
            rng,
            current: empty,
            spare: Spare::default(),
            counts: PickCounts::default(),
            collect_at: now,
        }
    }

    /// The time of the next collection of picks.
    pub(super) fn next_wake(&self) -> Instant {
        self.collect_at
    }

    /// Prepares a picker for each leaf of a plan, in their order.
    pub(super) fn prepare<'m>(
        &mut self,
        plan: &Plan,
        candidates: impl Fn(&LeafSet) -> Vec<Candidate<'m>>,
    ) -> Prepared<P> {
        let mut costly = false;
        plan.each_leaf(&mut |set| costly |= is_costly(&*self.policy, set.candidates));
        if !costly {
            let mut pickers = Vec::new();
            plan.each_leaf(&mut |set| {
                pickers.push(prepare(&*self.policy, &candidates(set), &mut self.rng));
            });
            return Prepared::Now(pickers);
        }
        let mut sets = Vec::new();
        plan.each_leaf(&mut |set| {
            let owned = candidates(set).into_iter().map(Candidate::into_owned);
            sets.push(owned.collect::<Vec<_>>());
        });
        let policy = Arc::clone(&self.policy);
        // The generator comes back with the pickers, so that picks are repeatable with costly policies,
        // too.
        let mut rng = self.rng.clone();
        // The job has the keys but no service: it may run on after this task ends, and then it must keep no
        // connection open. Dropping the set of jobs cancels a job that has not started.
        let mut jobs = JoinSet::new();
        jobs.spawn_blocking(move || {
            let prepared = sets.iter().map(|set| prepare(&*policy, set, &mut rng));
            (prepared.collect(), rng)
        });
        Prepared::Later(jobs)
    }

    /// Waits for pickers in preparation. `None` when the last balancer was dropped in the meantime.
    pub(super) async fn pickers(
        &mut self,
        prepared: Prepared<P>,
        alive: &mut mpsc::Receiver<Infallible>,
    ) -> Option<Pickers<P>> {
        let mut jobs = match prepared {
            Prepared::Now(pickers) => return Some(pickers),
            Prepared::Later(jobs) => jobs,
        };
        let built = tokio::select! {
            biased;
            _ = alive.recv() => return None,
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

    /// Makes a snapshot.
    pub(super) fn make(
        &mut self,
        plan: Plan,
        pickers: Pickers<P>,
        members: &[Member<S, P::Load>],
    ) -> Arc<Snapshot<S, P>> {
        let mut pickers = pickers.into_iter();
        let mut spare = std::mem::take(&mut self.spare).into_arrays();
        let mut len = 0;
        let plan = plan.map(&mut |set| {
            let arrays: Arrays<_, _> = spare.next().unwrap_or_default();
            let first = len;
            len += set.places.len();
            let members = set.places.iter().map(|place| &members[*place]);
            let (states, services) = arrays.of(members.map(|m| (m.state(), m.service())));
            Leaf {
                first,
                states,
                services,
                candidates: set.candidates,
                panic: set.panic,
                picker: pickers.next().flatten(),
            }
        });
        Arc::new(Snapshot { plan, len })
    }

    /// Publishes a snapshot to all requests, and counts the picks from the old one, which is returned.
    pub(super) fn publish(
        &mut self,
        snapshot: Arc<Snapshot<S, P>>,
        slots: &Slots<Snapshot<S, P>, PickMemory>,
    ) -> Arc<Snapshot<S, P>> {
        slots.publish(&snapshot, snapshot.len, &mut self.counts);
        self.count();
        std::mem::replace(&mut self.current, snapshot)
    }

    /// Keeps the arrays of an unused snapshot for the next one. Drops endpoints that left.
    pub(super) fn recycle(&mut self, old: Arc<Snapshot<S, P>>) {
        self.spare = Spare::new(old, &self.current);
    }

    /// Counts the picks since the last snapshot or collection.
    pub(super) fn collect(&mut self, slots: &Slots<Snapshot<S, P>, PickMemory>, now: Instant) {
        self.collect_at = after(now, COLLECT);
        slots.collect(&mut self.counts);
        self.count();
    }

    /// Adds picks to the endpoints of the snapshot that they were made from.
    fn count(&self) {
        let picked = &self.counts.picked;
        self.current.plan.each_leaf(&mut |leaf| {
            for (state, picked) in leaf.states.iter().zip(&picked[leaf.first..]) {
                if *picked > 0 {
                    state.add_requests(*picked);
                }
            }
        });
    }
}

/// A policy that panics here counts as not costly, as most policies are.
fn is_costly<P: Policy>(policy: &P, candidates: usize) -> bool {
    candidates > 0 && caught(|| policy.is_costly(candidates)).unwrap_or(false)
}

/// `None` when there are no candidates, or when the policy panics. Picks are then random, because the old
/// picker would send requests to endpoints that have left.
fn prepare<P: Policy>(
    policy: &P,
    candidates: &[Candidate<'_>],
    rng: &mut SmallRng,
) -> Option<P::Picker> {
    if candidates.is_empty() {
        return None;
    }
    let prepared = caught(|| policy.prepare(candidates, rng));
    if prepared.is_none() {
        tracing::error!("the policy panicked, picks are random until the next change");
    }
    prepared
}
