//! How many of the latest requests failed, of one endpoint or of many. Pure.

use std::{
    iter::Sum,
    ops::{Add, Sub},
};

/// How many times the share of its peers must fail, for that to be an endpoint's own fault: as for
/// latencies. Where an overload begins, counts are small and chance may still make three times as many;
/// that costs half a second.
const OWN: f64 = 3.0;

/// The requests of the last one to two tenths of the window; see
/// [`Ejector::recent`](super::Ejector::recent). Those of several endpoints add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recent {
    /// Those that failed or were refused.
    pub(super) failed: u64,
    /// All that were answered or failed.
    pub(super) total: u64,
}

impl Recent {
    /// Whether one endpoint fails no more than its peers: then the cause is common to them, such as
    /// overload or a dependency, and ejecting it would only give its load to the others.
    ///
    /// An endpoint is ejected for what clearly exceeds the share that its peers fail: three times as
    /// much, or half of what they would have answered. All requests of the peers count alike, so that one
    /// which is idle, because it has just returned, does not make the busy ones look bad.
    pub(crate) fn is_shared_by(self, peers: Self) -> bool {
        let [own, common] = [self, peers].map(|of| of.failed as f64 / of.total.max(1) as f64);
        own <= (common * OWN).min(common + (1.0 - common) * 0.5)
    }
}

impl Add for Recent {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            failed: self.failed + other.failed,
            total: self.total + other.total,
        }
    }
}

/// Without those of one endpoint, which may have become more since the sum was made.
impl Sub for Recent {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            failed: self.failed.saturating_sub(other.failed),
            total: self.total.saturating_sub(other.total),
        }
    }
}

impl Sum for Recent {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}
