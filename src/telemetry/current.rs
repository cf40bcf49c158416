//! The request that is being handled on this thread, for the attempts below it.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::time::Instant;

use super::reporter::EndpointReporter;
use crate::ambient::during;

/// A request, as its attempts see and change it.
#[derive(Clone, Debug, Default)]
pub(super) struct CurrentRequest {
    /// 0 if there is none.
    pub(super) number: u64,
    /// How often it was sent.
    pub(super) attempts: u32,
    /// Whether the last response came from a hedge.
    pub(super) hedged: bool,
    /// The endpoint that answered last, or that it was sent to last.
    pub(super) endpoint: Option<Arc<EndpointReporter>>,
}

thread_local! {
    static CURRENT: Cell<CurrentRequest> = const {
        Cell::new(CurrentRequest {
            number: 0,
            attempts: 0,
            hedged: false,
            endpoint: None,
        })
    };
    /// The next number for a request on this thread, and the end of the numbers that it has taken.
    static NUMBERS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

thread_local! {
    /// The last reading of the clock by an attempt, and the request that it belongs to.
    static CLOCK: Cell<Option<(u64, Instant)>> = const { Cell::new(None) };
}

/// Notes a reading of the clock for the request of an attempt, which follows in the same poll.
#[inline]
pub(super) fn note_clock(request: u64, now: Instant) {
    CLOCK.set(Some((request, now)));
}

/// The time at which an attempt of this request noted it in the same poll; else reads the clock.
#[inline]
pub(super) fn clock(request: u64) -> Instant {
    match CLOCK.take() {
        Some((of, now)) if of == request => now,
        _ => Instant::now(),
    }
}

/// How many numbers a thread takes at a time, so that threads seldom write to the shared counter.
const NUMBERS_AT_ONCE: u64 = 1_024;

impl CurrentRequest {
    /// A request with a new number.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (mut number, mut end) = NUMBERS.get();
        if number == end {
            // Relaxed: the numbers only have to differ.
            number = NEXT.fetch_add(NUMBERS_AT_ONCE, Relaxed);
            end = number + NUMBERS_AT_ONCE;
        }
        NUMBERS.set((number + 1, end));
        Self {
            number,
            ..Self::default()
        }
    }

    /// Runs a part of the request. Attempts that begin or end in it change this request.
    #[inline]
    pub(super) fn enter<T>(&mut self, run: impl FnOnce() -> T) -> T {
        during(&CURRENT, self, run)
    }

    /// Counts an attempt of the current request. Returns the number of the request, 0 if there is none, and
    /// that of the attempt.
    pub(super) fn send(to: &Arc<EndpointReporter>) -> (u64, u32) {
        let mut current = CURRENT.take();
        if current.number == 0 {
            return (0, 1);
        }
        current.attempts = current.attempts.saturating_add(1);
        current.endpoint = Some(Arc::clone(to));
        let numbers = (current.number, current.attempts);
        CURRENT.set(current);
        numbers
    }

    /// Notes that an attempt of the current request got a response.
    pub(super) fn answered(by: &Arc<EndpointReporter>, hedged: bool) {
        let mut current = CURRENT.take();
        if current.number == 0 {
            return;
        }
        let known = current.endpoint.as_ref();
        if !known.is_some_and(|known| Arc::ptr_eq(known, by)) {
            current.endpoint = Some(Arc::clone(by));
        }
        current.hedged = hedged;
        CURRENT.set(current);
    }
}
