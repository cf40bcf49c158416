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

/// How many calls there were, and how many of them were bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) total: u64,
    pub(crate) failed: u64,
    pub(crate) slow: u64,
}
