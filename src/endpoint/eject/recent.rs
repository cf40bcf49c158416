//! The recent failures of one or of several endpoints. Pure.

/// How many times the failure ratio of its peers an endpoint must reach to be ejected; the same factor as
/// for latencies. At the start of an overload counts are small, so chance may exceed three times the ratio.
/// Such an ejection lasts half a second.
const OWN: f64 = 3.0;

/// The requests of the last one to two tenths of the window; see
/// [`Ejector::recent`](super::Ejector::recent).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recent {
    /// Number of requests that failed or were refused.
    pub(super) failed: u64,
    /// Number of requests that were answered or failed.
    pub(super) total: u64,
}

impl Recent {
    /// Whether an endpoint fails no more than its peers. Then the cause is common, such as overload or a
    /// dependency, and an ejection would only move the load to the peers.
    ///
    /// An endpoint is ejected only if its failure ratio clearly exceeds that of its peers: three times as
    /// much, or half of the requests that the peers would have answered. All requests of the peers count
    /// alike, so an idle endpoint that was just restored does not change the comparison for busy ones.
    pub(crate) fn is_shared_by(self, peers: Self) -> bool {
        let [own, common] = [self, peers].map(|of| of.failed as f64 / of.total.max(1) as f64);
        own <= (common * OWN).min(common + (1.0 - common) * 0.5)
    }

    pub(crate) fn sum(all: impl Iterator<Item = Self>) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            failed: sum.failed + one.failed,
            total: sum.total + one.total,
        })
    }

    /// Leaves out one endpoint's requests. They may have grown since the sum was made, so it saturates.
    pub(crate) fn without(self, one: Self) -> Self {
        Self {
            failed: self.failed.saturating_sub(one.failed),
            total: self.total.saturating_sub(one.total),
        }
    }
}
