//! The plan of where requests go, as a tree of choices.
//!
//! A request walks down the tree: one look-up for its subset, and one random draw for each choice. It
//! ends at a leaf, a set of endpoints from which the policy picks.
//!
//! ```text
//! Subsets ─┬─ stage=beta ─▶ …
//!          └─ any ─▶ versions ─┬─ 99 % ─▶ groups ─┬─ 100 % ─▶ zones ─┬─ 80 % ─▶ leaf [0, 3, 4]
//!                              │                  └─   0 % ─▶ …      └─ 20 % ─▶ leaf [1, 7]
//!                              └─  1 % ─▶ …
//! ```
//!
//! A share is exact because each choice has its own draw. The number, load and weight of the endpoints
//! of a branch matter only below the choice. A branch with a share of 0 is a reserve: for requests that
//! wish for its version, and for retries that have tried all other endpoints.

use rand::{Rng, RngExt};

use super::{hash, route::Wish, subset::Subset};

/// The plan of where requests go.
///
/// `L` is the type of the leaves: sets of endpoints from the planner, which the driver replaces by sets
/// with pickers.
#[derive(Debug)]
pub(crate) enum Plan<L = LeafSet> {
    /// The policy picks an endpoint of this set. A leaf from the planner is never empty.
    Leaf(L),
    /// The request goes to one of several branches.
    Choose(Choose<L>),
    /// The request goes to the plan of its subset.
    Subsets(SubsetPlan<L>),
    /// The request fails.
    Nowhere(Nowhere),
}

/// The endpoints of a leaf, as indexes into the driver's list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LeafSet {
    /// The candidates for picks, followed by the endpoints that are on trial.
    pub(crate) places: Vec<usize>,
    /// The number of candidates.
    pub(crate) candidates: usize,
    /// Whether all endpoints are ejected and are used anyway (panic mode), including those on trial.
    pub(crate) panic: bool,
}

impl LeafSet {
    /// Moves the endpoints on trial behind the others. Most of the others keep their position.
    pub(crate) fn new(mut places: Vec<usize>, on_trial: impl Fn(usize) -> bool) -> Self {
        let (mut at, mut candidates) = (0, places.len());
        while at < candidates {
            if on_trial(places[at]) {
                candidates -= 1;
                places.swap(at, candidates);
            } else {
                at += 1;
            }
        }
        Self {
            places,
            candidates,
            panic: false,
        }
    }

    /// A set in panic mode: all endpoints are candidates.
    pub(crate) fn in_panic(places: Vec<usize>) -> Self {
        Self {
            candidates: places.len(),
            places,
            panic: true,
        }
    }
}

/// The reason why a request can go to no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nowhere {
    /// There are no endpoints.
    Empty,
    /// All endpoints that the request may use are ejected.
    Ejected,
    /// The subset that the request asks for has no endpoint.
    Subset,
    /// No version with a share has an available endpoint.
    Version,
    /// The caller's zone has no endpoint, and no other may be used.
    Zone,
}

/// How a choice selects a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChooseBy {
    Chance,
    /// By the version that the request wishes for. Otherwise by the hash of its key when the split is
    /// sticky, and at random when it is not.
    Version {
        sticky: bool,
    },
}

/// A choice between branches with exact shares. The branch with the largest share is first.
#[derive(Debug)]
pub(crate) struct Choose<L> {
    by: ChooseBy,
    branches: Vec<Branch<L>>,
}

#[derive(Debug)]
struct Branch<L> {
    /// The share of requests, from 0 to 1.
    share: f64,
    /// The sum of the shares up to and including this one. It is 1 for the last branch with a share and
    /// those after it.
    end: f64,
    version: u64,
    plan: Plan<L>,
}

impl<L> Choose<L> {
    /// Creates a choice between branches with these relative shares. With a single branch, returns the
    /// plan of that branch.
    pub(super) fn between(by: ChooseBy, branches: Vec<(f64, u64, Plan<L>)>) -> Plan<L> {
        let total: f64 = branches.iter().map(|(share, ..)| share).sum();
        debug_assert!(total > 0.0, "a choice needs a share");
        let mut branches: Vec<_> = branches
            .into_iter()
            .map(|(share, version, plan)| Branch {
                share: share / total,
                end: 1.0,
                version,
                plan,
            })
            .collect();
        if branches.len() < 2 {
            let only = branches.pop().map(|branch| branch.plan);
            return only.unwrap_or(Plan::Nowhere(Nowhere::Empty));
        }
        branches.sort_by(|a, b| b.share.total_cmp(&a.share));
        let chosen = branches.iter().filter(|branch| branch.share > 0.0).count();
        let mut end = 0.0;
        // The last branch with a share also gets the part below 1 that rounding leaves.
        for branch in branches.iter_mut().take(chosen.saturating_sub(1)) {
            end += branch.share;
            branch.end = end;
        }
        Plan::Choose(Self { by, branches })
    }

    fn draw<R: Rng + ?Sized>(&self, wish: &Wish, rng: &mut R) -> &Plan<L> {
        let branch = match (self.certain(wish), &*self.branches) {
            (Some(branch), _) => branch,
            (None, branches) => {
                let x = rng.random::<f64>();
                // A linear search: two branches are the usual case, and the largest is first.
                let i = branches.iter().position(|branch| x < branch.end);
                &branches[i.unwrap_or(0)]
            }
        };
        &branch.plan
    }

    /// The branch that a request gets without a random draw.
    fn certain(&self, wish: &Wish) -> Option<&Branch<L>> {
        let ChooseBy::Version { sticky } = self.by else {
            return None;
        };
        if let Some(branch) = self.pinned(wish) {
            return Some(branch);
        }
        let hash = wish.hash.filter(|_| sticky)?;
        let score = |branch: &Branch<L>| {
            // Mixed with the version, because consistent hashing uses the hash itself below this choice.
            let unit = hash::unit(hash::mix(hash ^ branch.version));
            -unit.ln() / branch.share
        };
        let shared = self.branches.iter().filter(|branch| branch.share > 0.0);
        shared.min_by(|a, b| score(a).total_cmp(&score(b)))
    }

    fn pinned(&self, wish: &Wish) -> Option<&Branch<L>> {
        let version = wish.version?.id();
        self.branches
            .iter()
            .find(|branch| branch.version == version)
    }
}

/// The plans of the subsets. The first plan is for requests that wish for no subset.
#[derive(Debug)]
pub(crate) struct SubsetPlan<L> {
    pub(super) plans: Vec<Plan<L>>,
    /// The plan of each subset, sorted for binary search.
    pub(super) table: Vec<(Subset, usize)>,
    /// The plan for subsets that are not in the table.
    pub(super) missing: usize,
    /// The plans of subsets whose endpoints are all on trial. A request that does not try such an
    /// endpoint goes to the plan `missing`.
    pub(super) on_trial: Vec<usize>,
}

impl<L> SubsetPlan<L> {
    fn place(&self, wish: &Wish) -> usize {
        match wish.subset {
            None => 0,
            Some(subset) => {
                let found = self.table.binary_search_by_key(&subset, |(name, _)| *name);
                found.map_or(self.missing, |i| self.table[i].1)
            }
        }
    }

    fn find(&self, wish: &Wish) -> &Plan<L> {
        &self.plans[self.place(wish)]
    }
}

impl<L> Plan<L> {
    /// Replaces each leaf by the result of `f`.
    pub(crate) fn map<M>(self, f: &mut impl FnMut(L) -> M) -> Plan<M> {
        match self {
            Self::Leaf(leaf) => Plan::Leaf(f(leaf)),
            Self::Nowhere(reason) => Plan::Nowhere(reason),
            Self::Choose(Choose { by, branches }) => {
                let branches = branches.into_iter().map(|branch| Branch {
                    share: branch.share,
                    end: branch.end,
                    version: branch.version,
                    plan: branch.plan.map(f),
                });
                let branches = branches.collect();
                Plan::Choose(Choose { by, branches })
            }
            Self::Subsets(SubsetPlan {
                plans,
                table,
                missing,
                on_trial,
            }) => Plan::Subsets(SubsetPlan {
                plans: plans.into_iter().map(|plan| plan.map(f)).collect(),
                table,
                missing,
                on_trial,
            }),
        }
    }

    /// The reason why requests without a wish fail, if they do.
    pub(crate) fn nowhere(&self) -> Option<Nowhere> {
        match self {
            Self::Nowhere(reason) => Some(*reason),
            Self::Subsets(subsets) => subsets.plans[0].nowhere(),
            Self::Leaf(_) | Self::Choose(_) => None,
        }
    }

    /// Calls `f` with each leaf, in the order of [`map`](Self::map).
    pub(crate) fn each_leaf(&self, f: &mut impl FnMut(&L)) {
        match self {
            Self::Leaf(leaf) => f(leaf),
            Self::Nowhere(_) => {}
            Self::Choose(choose) => choose.branches.iter().for_each(|b| b.plan.each_leaf(f)),
            Self::Subsets(subsets) => subsets.plans.iter().for_each(|plan| plan.each_leaf(f)),
        }
    }

    /// Draws the leaf for one request. It runs for every request.
    ///
    /// # Errors
    /// Returns the reason when the request can go to no endpoint.
    #[inline(never)]
    pub(crate) fn leaf<R: Rng + ?Sized>(&self, wish: &Wish, rng: &mut R) -> Result<&L, Nowhere> {
        let mut plan = self;
        loop {
            plan = match plan {
                Self::Leaf(leaf) => return Ok(leaf),
                Self::Nowhere(reason) => return Err(*reason),
                Self::Choose(choose) => choose.draw(wish, rng),
                Self::Subsets(subsets) => subsets.find(wish),
            };
        }
    }

    /// Finds a leaf that satisfies `will_do` among all leaves that a request may use. Larger shares are
    /// searched first, reserves last. It is for a request that has tried every endpoint of the leaf that
    /// it drew.
    pub(crate) fn find<'a>(
        &'a self,
        wish: &Wish,
        will_do: &mut impl FnMut(&L) -> bool,
    ) -> Option<&'a L> {
        match self {
            Self::Leaf(leaf) => will_do(leaf).then_some(leaf),
            Self::Nowhere(_) => None,
            Self::Subsets(subsets) => {
                let place = subsets.place(wish);
                let found = subsets.plans[place].find(wish, will_do);
                if found.is_none() && subsets.on_trial.contains(&place) {
                    return subsets.plans[subsets.missing].find(wish, will_do);
                }
                found
            }
            Self::Choose(choose) => {
                if let Some(branch) = choose
                    .pinned(wish)
                    .filter(|_| choose.by != ChooseBy::Chance)
                {
                    return branch.plan.find(wish, will_do);
                }
                let mut branches = choose.branches.iter();
                branches.find_map(|branch| branch.plan.find(wish, will_do))
            }
        }
    }

    /// Calls `f` with each leaf that a request may use, and the probability that it does.
    fn each<'a>(&'a self, wish: &Wish, share: f64, f: &mut impl FnMut(&'a L, f64)) {
        match self {
            Self::Leaf(leaf) => f(leaf, share),
            Self::Nowhere(_) => {}
            Self::Subsets(subsets) => subsets.find(wish).each(wish, share, f),
            Self::Choose(choose) => {
                if let Some(branch) = choose.certain(wish) {
                    return branch.plan.each(wish, share, f);
                }
                for branch in &choose.branches {
                    branch.plan.each(wish, share * branch.share, f);
                }
            }
        }
    }
}

impl Plan {
    /// The share of requests with this wish that each endpoint gets, from 0 to 1, by index, with a
    /// policy that uses weights.
    pub(crate) fn shares(&self, wish: &Wish, weights: &[f64]) -> Vec<f64> {
        let mut shares = vec![0.0; weights.len()];
        self.each(wish, 1.0, &mut |set, share| {
            let leaf = &set.places;
            let total: f64 = leaf.iter().map(|i| usable(weights[*i])).sum();
            for i in leaf {
                shares[*i] += share
                    * if total > 0.0 {
                        usable(weights[*i]) / total
                    } else {
                        1.0 / leaf.len() as f64
                    };
            }
        });
        shares
    }
}

/// A weight that can be summed. Weights that are not finite count as 1.
pub(super) fn usable(weight: f64) -> f64 {
    if weight.is_finite() {
        weight.clamp(0.0, 1e100)
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests;
