//! The endpoints at one moment, ready to be picked from: immutable.

use std::{fmt, sync::Arc};

use rand::{RngExt, rngs::SmallRng};

use super::state::Held;
use crate::{
    balance::{
        policy::{Draw, Picker, Policy, Set},
        topology::{Nowhere, Plan, Wish},
    },
    endpoint::{eject::Pass, load::LoadTracker},
};

/// The endpoints at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot<S, P: Policy> {
    pub(crate) plan: Plan<Leaf<S, P>>,
}

impl<S, P: Policy> Snapshot<S, P> {
    pub(crate) fn empty() -> Self {
        Self {
            plan: Plan::Nowhere(Nowhere::Empty),
        }
    }

    /// Why requests without a wish can go nowhere, if so.
    pub(crate) fn nowhere(&self) -> Option<Nowhere> {
        self.plan.nowhere()
    }

    /// Picks for one request: a set, the number of an endpoint in it, and the pass of its gate.
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

    /// For a request that has tried all endpoints of its set: another set may have one that it has not tried.
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
    /// The number of its first endpoint in the snapshot.
    pub(crate) first: usize,
    /// Those that are picked from, and behind them those that are on trial.
    pub(crate) states: Vec<Held<P::Load>>,
    /// Apart from the states, so that comparing endpoints does not fetch services.
    pub(crate) services: Vec<Arc<S>>,
    /// How many there are to pick from.
    pub(crate) candidates: usize,
    /// Whether all are ejected, and used all the same.
    pub(crate) panic: bool,
    /// `None` when there are none, and when the policy panicked while it prepared.
    pub(crate) picker: Option<P::Picker>,
}

/// How often a pick that will not do is made again before the next in line is taken.
const AGAIN: u32 = 3;

impl<S, P: Policy> Leaf<S, P> {
    /// Whether an endpoint is neither ejected nor tried before, or on trial with this very request.
    fn will_do(&self, pick: usize, draw: &Draw<'_>) -> bool {
        pick >= self.candidates || self.set().is_usable(pick, draw)
    }

    /// Those to pick from.
    #[inline]
    fn set(&self) -> Set<'_, P::Load> {
        Set::new(&self.states[..self.candidates]).in_panic(self.panic)
    }

    /// Picks an endpoint, and the pass of its gate.
    #[inline]
    fn pick(&self, draw: &mut Draw<'_>) -> Option<(usize, u32)> {
        // Seldom with a request that failed before, as that needs a response. But not never: behind another
        // balancer every request may have been tried before.
        if self.candidates < self.states.len()
            && (draw.tried.is_empty() || self.candidates == 0 || draw.rng.random_ratio(1, 8))
        {
            if let Some(probe) = self.probe(draw) {
                return Some(probe);
            }
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

    /// An endpoint on trial, if it wants a request. It has one permit, which a request that already tried this
    /// endpoint must not take. Once the probe succeeded the gate is open; ordinary picks reach the endpoint
    /// only from the next snapshot on, where it has its share.
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

/// Whether a request that has been sent before may pass the gate. In panic the endpoint may be on trial, too:
/// a request that already tried this endpoint must not take its probe permit, as another endpoint may still
/// answer it.
#[cold]
fn may_pass<L: LoadTracker>(state: &Held<L>, draw: &Draw<'_>) -> bool {
    state.health.is_open() || !draw.tried.contains(state.id())
}

/// What a policy picks; any endpoint when that is out of range.
#[inline]
fn once<L: LoadTracker>(
    picker: Option<&impl Picker<L>>,
    set: &Set<'_, L>,
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
    set: &Set<'_, L>,
    mut pick: usize,
    draw: &mut Draw<'_>,
) -> usize {
    for _ in 0..AGAIN {
        pick = once(picker, set, draw);
        if set.is_usable(pick, draw) {
            return pick;
        }
    }
    // The next that will do; if there is none, rather this one than nowhere.
    let mut others = (pick + 1..set.len()).chain(0..pick);
    others
        .find(|other| set.is_usable(*other, draw))
        .unwrap_or(pick)
}

/// An index below `len`.
#[cold]
fn any(len: usize, rng: &mut SmallRng) -> usize {
    rng.random_range(0..len)
}

impl<S, P: Policy> fmt::Debug for Leaf<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf")
            .field("endpoints", &self.states.len())
            .finish_non_exhaustive()
    }
}
