//! Counts the results of calls over a sliding span of time, or over the last `n` calls.
//!
//! A decision to withhold traffic needs exact and recent counts. The meaning of a decaying average
//! (EWMA) depends on the request rate, and a long period of success hides a burst of failures in it.
//! Counters that are never reset, or only all at once, do not slide. Both windows here slide, and
//! allocate only when they are made. [`TimeWindow`] takes no lock; [`CountWindow`] holds one for about
//! ten nanoseconds.

pub(crate) mod buckets;
mod calls;
mod time;

pub(crate) use self::{calls::CountWindow, time::TimeWindow};

/// The number of calls in a window, and how many of them failed or were slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallCounts {
    /// All calls with a verdict.
    pub total: u64,
    /// Calls that failed, or found the service overloaded.
    pub failed: u64,
    /// Calls that were slow, whether or not they failed.
    pub slow: u64,
}
