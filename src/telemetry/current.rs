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
    /// When the head of the last response arrived.
    pub(super) head: Option<Instant>,
    /// The endpoint that answered last, or that it was sent to last.
    pub(super) endpoint: Option<Arc<EndpointReporter>>,
}

thread_local! {
    static CURRENT: Cell<CurrentRequest> = const {
        Cell::new(CurrentRequest {
            number: 0,
            attempts: 0,
            hedged: false,
            head: None,
            endpoint: None,
        })
    };
    /// The next number for a request on this thread, and the end of the numbers that it has taken.
    static NUMBERS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
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
    pub(super) fn answered(by: &Arc<EndpointReporter>, hedged: bool, now: Instant) {
        let mut current = CURRENT.take();
        if current.number == 0 {
            return;
        }
        let known = current.endpoint.as_ref();
        if !known.is_some_and(|known| Arc::ptr_eq(known, by)) {
            current.endpoint = Some(Arc::clone(by));
        }
        (current.hedged, current.head) = (hedged, Some(now));
        CURRENT.set(current);
    }
}
