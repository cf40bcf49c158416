//! An immutable snapshot of the endpoints, prepared for picks.

use std::sync::Arc;

use rand::{RngExt, rngs::SmallRng};

use super::state::Held;
use crate::{
    balance::{
        policy::{CandidateSet, Draw, Picker, Policy},
        topology::{Nowhere, Plan, Wish},
    },
    endpoint::{eject::Pass, load::LoadTracker},
};

/// The endpoints at one moment.
pub(crate) struct Snapshot<S, P: Policy> {
    pub(crate) plan: Plan<Leaf<S, P>>,
    /// Number of endpoints of all leaves. An endpoint in several leaves counts in each.
    pub(crate) len: usize,
}

impl<S, P: Policy> Snapshot<S, P> {
    pub(crate) fn empty() -> Self {
        Self {
            plan: Plan::Nowhere(Nowhere::Empty),
            len: 0,
        }
    }

    /// The reason why requests without a subset can go nowhere; `None` if they can.
    pub(crate) fn nowhere(&self) -> Option<Nowhere> {
        self.plan.nowhere()
    }

    /// Picks for one request: a set, the index of an endpoint in it, and the pass of its gate.
    ///
    /// # Errors
    /// When the request can go nowhere.
    #[inline]
    pub(crate) fn pick(
        &self,
        wish: &Wish,
        draw: &mut Draw<'_>,
    ) -> Result<(&Leaf<S, P>, usize, u32), Nowhere> {
        let leaf = match &self.plan {
            Plan::Leaf(leaf) => leaf,
            plan => plan.leaf(wish, draw.rng)?,
        };
        let pick = leaf.pick(draw);
        match pick {
            Some((pick, pass)) if draw.tried.is_empty() || leaf.will_do(pick, draw) => {
                Ok((leaf, pick, pass))
            }
            _ => self.elsewhere(wish, draw, leaf, pick),
        }
    }

    /// Picks from another set when the request has tried all endpoints of its own set.
    #[cold]
    fn elsewhere<'a>(
        &'a self,
        wish: &Wish,
        draw: &mut Draw<'_>,
        leaf: &'a Leaf<S, P>,
        pick: Option<(usize, u32)>,
    ) -> Result<(&'a Leaf<S, P>, usize, u32), Nowhere> {
        let mut found = None;
        let other = self.plan.find(wish, &mut |other| {
            let pick = other.pick(draw);
            found = pick.filter(|(pick, _)| other.will_do(*pick, draw));
            found.is_some()
        });
        let (leaf, pick) = match (other, found, pick) {
            (Some(other), Some(found), _) => (other, found),
            (_, _, Some(pick)) => (leaf, pick),
            _ => return Err(Nowhere::Ejected),
        };
        Ok((leaf, pick.0, pick.1))
    }
}

/// The endpoints of one set.
pub(crate) struct Leaf<S, P: Policy> {
    /// The index of its first endpoint in the snapshot.
    pub(crate) first: usize,
    /// First the candidates for picks, then the endpoints that are probed.
    pub(crate) states: Vec<Held<P::Load>>,
    /// Separate from the states, so that comparing endpoints does not load services into the cache.
    pub(crate) services: Vec<Arc<S>>,
    /// Number of candidates.
    pub(crate) candidates: usize,
    /// Whether all endpoints are ejected and used in panic.
    pub(crate) panic: bool,
    /// `None` when the set has no candidates, or when the policy panicked in `prepare`.
    pub(crate) picker: Option<P::Picker>,
}

/// Number of further picks after an unusable one, before the next usable endpoint in order is taken.
const AGAIN: u32 = 3;

impl<S, P: Policy> Leaf<S, P> {
    /// Whether an endpoint is usable: neither ejected nor tried before, or probed by this request.
    fn will_do(&self, pick: usize, draw: &Draw<'_>) -> bool {
        pick >= self.candidates || self.set().is_usable(pick, draw)
    }

    /// The candidates.
    #[inline]
    fn set(&self) -> CandidateSet<'_, P::Load> {
        CandidateSet::new(&self.states[..self.candidates]).in_panic(self.panic)
    }

    /// Picks an endpoint, and the pass of its gate.
    #[inline]
    fn pick(&self, draw: &mut Draw<'_>) -> Option<(usize, u32)> {
        // A request that was tried before probes in one pick of eight only, because it needs a response. It
        // is not excluded: behind another balancer every request may have been tried before.
        if self.candidates < self.states.len()
            && (draw.tried.is_empty() || self.candidates == 0 || draw.rng.random_ratio(1, 8))
            && let Some(probe) = self.probe(draw)
        {
            return Some(probe);
        }
        if self.candidates == 0 {
            return None;
        }
        let pick = self.choose(draw);
        let state = &self.states[pick];
        let may_pass = draw.tried.is_empty() || may_pass(state, draw);
        let pass = if may_pass { state.health.admit() } else { None };
        Some((pick, pass.map_or(Pass::NONE, Pass::pack)))
    }

    /// Picks an endpoint that is ready for its probe. The probe has one permit, which a request that
    /// already tried this endpoint must not take. Once the probe has succeeded the gate is open. Ordinary
    /// picks reach the endpoint only from the next snapshot on, where it has its share.
    #[cold]
    fn probe(&self, draw: &Draw<'_>) -> Option<(usize, u32)> {
        let on_trial = self.states.iter().enumerate().skip(self.candidates);
        let mut others = on_trial.filter(|(_, state)| {
            let passed = self.candidates > 0 && state.health.is_open();
            !passed && !draw.tried.contains(state.id())
        });
        others.find_map(|(trial, state)| Some((trial, state.health.admit()?.pack())))
    }

    #[inline]
    fn choose(&self, draw: &mut Draw<'_>) -> usize {
        let set = self.set();
        let picker = self.picker.as_ref();
        let pick = once(picker, &set, draw);
        if set.is_usable(pick, draw) {
            pick
        } else {
            again(picker, &set, pick, draw)
        }
    }
}

/// Whether a request that was sent before may pass the gate. In panic the endpoint may wait for its probe.
/// A request that already tried this endpoint must not take its probe permit, because another endpoint may
/// still answer the request.
#[cold]
fn may_pass<L: LoadTracker>(state: &Held<L>, draw: &Draw<'_>) -> bool {
    state.health.is_open() || !draw.tried.contains(state.id())
}

/// The pick of the policy; a random endpoint if it is out of range.
#[inline]
fn once<L: LoadTracker>(
    picker: Option<&impl Picker<L>>,
    set: &CandidateSet<'_, L>,
    draw: &mut Draw<'_>,
) -> usize {
    match picker.map(|picker| picker.pick(set, draw)) {
        Some(pick) if pick < set.len() => pick,
        _ => any(set.len(), draw.rng),
    }
}

#[cold]
fn again<L: LoadTracker>(
    picker: Option<&impl Picker<L>>,
    set: &CandidateSet<'_, L>,
    mut pick: usize,
    draw: &mut Draw<'_>,
) -> usize {
    for _ in 0..AGAIN {
        pick = once(picker, set, draw);
        if set.is_usable(pick, draw) {
            return pick;
        }
    }
    // The next usable endpoint; this one if none is usable.
    let mut others = (pick + 1..set.len()).chain(0..pick);
    others
        .find(|other| set.is_usable(*other, draw))
        .unwrap_or(pick)
}

/// A random index below `len`.
#[cold]
fn any(len: usize, rng: &mut SmallRng) -> usize {
    rng.random_range(0..len)
}
