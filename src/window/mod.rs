//! What became of the last calls: counts over a sliding span of time, or of the last `n` calls.
//!
//! A decision to withhold traffic needs counts that are exact and recent. An average that decays
//! (EWMA) means something else at every rate of requests, and hides a burst of failures behind a long
//! good past; counts that are never taken back, or only all at once, do not slide. Both windows here
//! do, and allocate when they are made and never after. [`TimeWindow`] takes no lock; [`CountWindow`]
//! takes one for some nanoseconds.

mod calls;
mod time;

pub(crate) use self::{calls::CountWindow, time::TimeWindow};

/// How many calls there are in a window, and how many of them were bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallCounts {
    /// All calls with a verdict.
    pub total: u64,
    /// Those that failed, or found the service overloaded.
    pub failed: u64,
    /// Those that were slow, failed or not.
    pub slow: u64,
}
