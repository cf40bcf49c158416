//! The endpoints at one moment, ready to be picked from: immutable.

use std::{fmt, sync::Arc};

use rand::{RngExt, rngs::SmallRng};

use super::{
    policy::{Draw, Picker, Policy, Set},
    state::Held,
    topology::{Nowhere, Plan, Wish},
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

    /// Picks for one request: a set, and the number of an endpoint in it.
    ///
    /// # Errors
    /// When the request can go nowhere.
    #[inline]
    pub(crate) fn pick(
        &self,
        wish: &Wish,
        draw: &mut Draw<'_>,
    ) -> Result<(&Leaf<S, P>, usize), Nowhere> {
        let leaf = self.plan.leaf(wish, draw.rng)?;
        let pick = leaf.pick(draw);
        if draw.tried.is_empty() || leaf.will_do(pick, draw) {
            return Ok((leaf, pick));
        }
        // It has been to all of this set; another may have one that it has not been to.
        let mut found = None;
        let other = self.plan.find(wish, &mut |other| {
            let pick = other.pick(draw);
            found = other.will_do(pick, draw).then_some(pick);
            found.is_some()
        });
        Ok(other.zip(found).unwrap_or((leaf, pick)))
    }
}

/// The endpoints of one set.
pub(crate) struct Leaf<S, P: Policy> {
    /// The number of its first endpoint in the snapshot.
    pub(crate) first: usize,
    pub(crate) states: Box<[Held<P::Load>]>,
    /// Apart from the states, so that comparing endpoints does not fetch services.
    pub(crate) services: Box<[Arc<S>]>,
    pub(crate) picker: P::Picker,
}

/// How often a pick that will not do is made again before the next in line is taken.
const AGAIN: u32 = 3;

impl<S, P: Policy> Leaf<S, P> {
    /// Whether an endpoint is neither ejected nor tried before.
    fn will_do(&self, pick: usize, draw: &Draw<'_>) -> bool {
        Set::new(&self.states).is_usable(pick, draw)
    }

    #[inline]
    fn pick(&self, draw: &mut Draw<'_>) -> usize {
        let set = Set::new(&self.states);
        let mut pick = self.once(&set, draw);
        if set.is_usable(pick, draw) {
            return pick;
        }
        for _ in 0..AGAIN {
            pick = self.once(&set, draw);
            if set.is_usable(pick, draw) {
                return pick;
            }
        }
        // The next that will do; if there is none, rather this one than nowhere.
        let others = (pick + 1..set.len()).chain(0..pick);
        others
            .into_iter()
            .find(|other| set.is_usable(*other, draw))
            .unwrap_or(pick)
    }

    #[inline]
    fn once(&self, set: &Set<'_, P::Load>, draw: &mut Draw<'_>) -> usize {
        let pick = self.picker.pick(set, draw);
        if pick < set.len() {
            pick
        } else {
            any(set.len(), draw.rng)
        }
    }
}

/// An index below `len`.
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
