//! How busy an endpoint is, measured from the requests that pass through it.
//!
//! A [`LoadTracker`] is told when a request starts and what became of it, and turns that into one
//! number, smaller is better. The count of requests in flight is kept by whoever measures (our
//! [`Balance`](crate::balance::Balance), or a [`MeasuredEndpoint`] in front of tower's), so that it is right
//! whatever the tracker does. Two come with the crate:
//!
//! | tracker | load | good for |
//! |---|---|---|
//! | [`PeakEwma`] | latency × (in flight + 1) | the default: notices slow and failing endpoints |
//! | [`InFlight`] | in flight + 1 | requests of very different or unbounded length |
//!
//! Beside the load a tracker may tell what a request [usually](Usual) takes, so that policies need not tell
//! equal endpoints apart by noise.
//!
//! A request passes through these states; leaving the last one gives back its place in flight:
//!
//! ```text
//!          start                    answer, or error                body ends
//! (call) ─────────▶ waiting ───────────────────────▶ recorded ──────────────────▶ (done)
//!                      │                                 │ body breaks: penalize
//!                      └── future dropped: cancelled ────┴───────────────────────▶ (done)
//! ```
//!
//! Nothing here locks or allocates, and reading a load changes nothing.
//!
//! [`MeasuredEndpoint`]: super::MeasuredEndpoint

mod handle;
mod in_flight;
mod log2;
mod peak_ewma;
mod usual;

pub(crate) use self::usual::GRAIN;
pub use self::{handle::Handle, in_flight::InFlight, peak_ewma::PeakEwma, usual::Usual};
pub use crate::classify::Outcome;
pub(super) use handle::State;

use std::{fmt, time::Duration};

use tokio::time::Instant;

/// Measures the load of one endpoint.
///
/// Implement it to bring another measure. All methods but [`fresh`](Self::fresh) and
/// [`forget`](Self::forget) are called on the path of a request, from many threads at a time: they should
/// neither block nor allocate. Time is tokio's and comes in as
/// an argument; calls from different threads may bring it slightly out of order.
pub trait LoadTracker: fmt::Debug + Send + Sync + 'static {
    /// Whether it looks at times at all.
    const TIMED: bool = true;

    /// Whether the `nth` request is to be timed, from 1. One that is not is neither started nor
    /// recorded here, and is only heard of when it fails ([`penalize`](Self::penalize)).
    ///
    /// To time a request costs as much as all else that a balancer does for it: nothing beside a
    /// request over a network, but not nothing beside one that is answered within microseconds.
    #[inline]
    fn times(&self, nth: u32) -> bool {
        let _ = nth;
        Self::TIMED
    }

    /// Creates a tracker with the same settings that has measured nothing yet.
    fn fresh(&self, now: Instant) -> Self
    where
        Self: Sized;

    /// A request starts. Exactly one [`record`](Self::record) follows.
    fn start(&self, now: Instant) {
        let _ = now;
    }

    /// A request that started has an outcome, `rtt` after its start.
    fn record(&self, outcome: Outcome, rtt: Duration, now: Instant);

    /// An answer that was recorded as a success broke off later.
    fn penalize(&self, now: Instant) {
        let _ = now;
    }

    /// The load where it is known without looking at the time; `None`, by default, where it is not.
    ///
    /// Reading the clock costs as much as choosing an endpoint. May differ from
    /// [`load`](Self::load) by what makes no difference to anybody.
    #[inline]
    fn timeless(&self, in_flight: usize) -> Option<f64> {
        let _ = in_flight;
        None
    }

    /// Whether the load may be asked for the time of an earlier request to this set, some requests ago on
    /// the same thread; `false` by default. For where it would not differ by anything that matters.
    #[inline]
    fn may_lag(&self) -> bool {
        false
    }

    /// What a request usually takes, as long as nothing speaks against it: a failure, or a request that
    /// waits for longer than that; `None`, by default, where it is not known.
    ///
    /// Policies take endpoints for equal where this [says so](Usual::is_like), and look at
    /// [`load`](Self::load) where it does not.
    #[inline]
    fn usual(&self, now: &mut dyn FnMut() -> Instant) -> Option<Usual> {
        let _ = now;
        None
    }

    /// Forgets what was measured, as the endpoint is back after it was ejected.
    fn forget(&self, now: Instant) {
        let _ = now;
    }

    /// The load with `in_flight` requests not yet complete; smaller is better.
    ///
    /// `NaN` and negative numbers are taken as "as much as can be".
    fn load(&self, in_flight: usize, now: Instant) -> f64;
}
