//! How much the driver does at a time.

/// What is taken in of one kind before a snapshot is made of a flood that does not end.
pub(super) const FLOOD: usize = 16_384;

/// What is taken in before other tasks get their turn: some 50 µs' worth.
pub(super) const TURN: usize = 128;
