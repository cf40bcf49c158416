//! How busy an endpoint is, measured from the requests that pass through it.
//!
//! A [`LoadTracker`] receives the start and the outcome of each request, and turns them into one number;
//! smaller is better. The measuring side counts requests in flight: our
//! [`Balance`](crate::balance::Balance), or a [`MeasuredEndpoint`] in front of tower's balancer. So the
//! count is right whatever the tracker does. Two trackers come with the crate:
//!
//! | tracker | load | good for |
//! |---|---|---|
//! | [`PeakEwma`] | latency × (in flight + 1) | the default: avoids slow and failing endpoints |
//! | [`InFlight`] | in flight + 1 | requests of very different or unbounded duration |
//!
//! A tracker may also report the [usual](Usual) latency of an endpoint, so that policies do not separate
//! equal endpoints by noise.
//!
//! A request passes through these states. When it is done, it no longer counts as in flight:
//!
//! ```text
//!          start                    response or error               body ends
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
pub(super) use handle::LoadState;

use std::{fmt, time::Duration};

use tokio::time::Instant;

/// Measures the load of one endpoint.
///
/// Implement it for another measurement. All methods except [`fresh`](Self::fresh) and
/// [`forget`](Self::forget) are called while a request is sent, from many threads at the same time. They
/// must not block, and should not allocate. Time is tokio's and comes in as an argument. Calls from
/// different threads may bring it slightly out of order.
pub trait LoadTracker: fmt::Debug + Send + Sync + 'static {
    /// Whether the tracker uses times.
    const TIMED: bool = true;

    /// Returns whether to time the `nth` request, counted from 1; by default [`TIMED`](Self::TIMED). For
    /// an untimed request, the tracker gets no [`start`](Self::start) and no [`record`](Self::record),
    /// only a [`penalize`](Self::penalize) when the request fails.
    ///
    /// Timing a request costs as much as everything else that a balancer does for it. That is nothing
    /// compared with a request over a network, but matters when responses arrive within microseconds.
    #[inline]
    fn times(&self, nth: u32) -> bool {
        let _ = nth;
        Self::TIMED
    }

    /// Creates a tracker with the same settings and without measurements.
    fn fresh(&self, now: Instant) -> Self
    where
        Self: Sized;

    /// Notes the start of a request. Exactly one [`record`](Self::record) follows.
    fn start(&self, now: Instant) {
        let _ = now;
    }

    /// Records the outcome of a started request, `rtt` after its start.
    fn record(&self, outcome: Outcome, rtt: Duration, now: Instant);

    /// Notes that a response failed after it was recorded as a success, or that an untimed request
    /// failed.
    fn penalize(&self, now: Instant) {
        let _ = now;
    }

    /// Returns the load if it is known without the time; by default `None`.
    ///
    /// Reading the clock costs as much as choosing an endpoint. The result may differ from
    /// [`load`](Self::load) as long as the difference does not matter for choosing an endpoint.
    #[inline]
    fn timeless(&self, in_flight: usize) -> Option<f64> {
        let _ = in_flight;
        None
    }

    /// Returns whether [`load`](Self::load) may be called with the time of an earlier request of this
    /// thread instead of the current time; by default `false`. Return `true` only while the result would
    /// not differ by anything that matters.
    #[inline]
    fn may_lag(&self) -> bool {
        false
    }

    /// Returns the usual latency of the endpoint, or `None`, the default, if it is not known or does not
    /// hold now: after a failure, or while a request waits for longer than usual.
    ///
    /// Policies treat two endpoints as equal when their usual latencies [are alike](Usual::is_like), and
    /// otherwise compare [`load`](Self::load).
    #[inline]
    fn usual(&self, now: &mut dyn FnMut() -> Instant) -> Option<Usual> {
        let _ = now;
        None
    }

    /// Discards all measurements, because the endpoint was ejected and is now restored.
    fn forget(&self, now: Instant) {
        let _ = now;
    }

    /// Returns the load with `in_flight` requests not yet complete; smaller is better.
    ///
    /// `NaN` and negative numbers count as infinite.
    fn load(&self, in_flight: usize, now: Instant) -> f64;
}
