//! Limits of the driver's work in one go.

/// Number of items of one kind that are taken in before a snapshot is made, in case items never stop
/// coming.
pub(super) const FLOOD: usize = 16_384;

/// Number of items that are taken in before other tasks may run: some 50 µs of work.
pub(super) const TURN: usize = 128;
