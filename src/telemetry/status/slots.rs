//! Which event streams are open.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::sync::lock;

/// After this long without taking an event, a stream must make room for a new one. Arbitrary: far longer than
/// a pause of a network that the page survives.
const STALLED: Duration = Duration::from_secs(30);

/// The open event streams, at most so many.
#[derive(Debug)]
pub(super) struct Slots {
    base: Instant,
    most: usize,
    /// A stall is longer than this.
    stalled: Duration,
    open: Mutex<Vec<Arc<SlotState>>>,
}

// Relaxed everywhere: each is read on its own and publishes no other memory.
#[derive(Debug)]
struct SlotState {
    /// When the reader last asked for an event, in milliseconds since `base`.
    asked: AtomicU64,
    ended: AtomicBool,
}

/// One open stream. Dropping it makes room.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    state: Arc<SlotState>,
}

impl Slots {
    pub(super) fn new(most: usize, interval: Duration) -> Arc<Self> {
        Arc::new(Self {
            base: Instant::now(),
            most,
            stalled: STALLED.max(interval * 3),
            open: Mutex::default(),
        })
    }

    /// Opens a stream. `None` when all are in use. A stream whose reader takes nothing makes room.
    pub(super) fn open(self: &Arc<Self>) -> Option<Slot> {
        let now = self.now();
        let mut open = lock(&self.open);
        if open.len() >= self.most {
            let asked = |state: &Arc<SlotState>| state.asked.load(Relaxed);
            let oldest = (0..open.len()).min_by_key(|at| asked(&open[*at]))?;
            if now.saturating_sub(asked(&open[oldest])) < millis(self.stalled) {
                return None;
            }
            open.swap_remove(oldest).ended.store(true, Relaxed);
        }
        let state = Arc::new(SlotState {
            asked: AtomicU64::new(now),
            ended: AtomicBool::new(false),
        });
        open.push(Arc::clone(&state));
        Some(Slot {
            slots: Arc::clone(self),
            state,
        })
    }

    fn now(&self) -> u64 {
        millis(self.base.elapsed())
    }
}

impl Slot {
    /// Notes that the reader asks for an event. Returns whether the stream goes on.
    pub(super) fn asked(&self) -> bool {
        self.state.asked.store(self.slots.now(), Relaxed);
        !self.state.ended.load(Relaxed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.slots.open).retain(|state| !Arc::ptr_eq(state, &self.state));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_takes_nothing_makes_room_and_one_that_reads_does_not() {
        let slots = Slots::new(2, Duration::from_secs(1));
        let (one, two) = (slots.open().unwrap(), slots.open().unwrap());
        assert!(slots.open().is_none(), "both are in use");
        tokio::time::advance(STALLED).await;
        assert!(one.asked());
        let three = slots.open().expect("the room of the second");
        assert!(!two.asked(), "it has ended");
        assert!(slots.open().is_none());
        drop((one, two));
        assert_eq!(lock(&slots.open).len(), 1, "each gives back its own room");
        drop(three);
        assert!(lock(&slots.open).is_empty());
    }
}
