//! The endpoints at one moment, ready to be picked from: immutable.

use std::{fmt, sync::Arc};

use rand::{RngExt, rngs::SmallRng};

use super::{
    policy::{Draw, Picker, Policy, Set},
    state::Held,
    topology::Wish,
};

/// The endpoints at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot<S, P: Policy> {
    /// `None` when there is nowhere to go.
    pub(crate) tree: Option<Tree<S, P>>,
}

impl<S, P: Policy> Snapshot<S, P> {
    pub(crate) fn empty() -> Self {
        Self { tree: None }
    }

    /// The set that a request goes to.
    #[inline]
    pub(crate) fn leaf(&self, _: &Wish, _: &mut Draw<'_>) -> Option<&Leaf<S, P>> {
        match self.tree.as_ref()? {
            Tree::Leaf(leaf) => Some(leaf),
        }
    }
}

/// Where a request may go, as a tree of choices whose leaves are sets with a picker.
pub(crate) enum Tree<S, P: Policy> {
    Leaf(Leaf<S, P>),
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
    #[inline]
    pub(crate) fn pick(&self, draw: &mut Draw<'_>) -> usize {
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

impl<S, P: Policy> fmt::Debug for Tree<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf(leaf) => f
                .debug_struct("Leaf")
                .field("endpoints", &leaf.states.len())
                .finish_non_exhaustive(),
        }
    }
}
