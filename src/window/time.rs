//! Counts over a sliding span of time.
//!
//! The counters grow for ever. A window that clears a counter loses calls that other threads add to it
//! at that moment. This one stores the sums at the beginning of each bucket; the counts are the
//! difference of two sums:
//!
//! ```text
//! sums at the beginning of each bucket       3    7    9   14 │ 20 now
//!                                            └────────────────┴──▶ 17 calls in the window
//! ```
//!
//! Reading is O(1), moving on to another bucket O(buckets), however long the window was idle. Recording
//! a call costs two or three atomic operations.

use std::time::Duration;

use tokio::time::Instant;

use super::CallCounts;
use crate::sync::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

/// Sums over all calls so far: in `calls` the number of calls times 2³² plus the failures, in `slow` the
/// slow calls.
///
/// The sums wrap. A difference of two sums is exact as long as it spans fewer than 2³² calls. Calls and
/// failures share one word, so the ratio of failures is exact at every moment.
#[derive(Clone, Copy, Debug)]
struct WindowSums {
    calls: u64,
    slow: u64,
}

impl WindowSums {
    fn since(self, start: Self) -> CallCounts {
        let calls = self.calls.wrapping_sub(start.calls);
        let total = calls >> 32;
        CallCounts {
            total,
            // There may be more failures than calls: a call that is amended may have left the window.
            failed: (calls & u64::from(u32::MAX)).min(total),
            // A slow call that is recorded while a bucket begins may be on either side of the boundary.
            slow: self.slow.wrapping_sub(start.slow).min(total),
        }
    }
}

/// Counts over the calls within the last `span`, to the granularity of a bucket.
///
/// With `n` buckets the window covers the current bucket and the `n - 1` before it: between
/// `span - span / n` and `span`. No call is lost. A call normally counts in the bucket of its time. It
/// counts in a later bucket if its thread was suspended, or if a call with a later time was recorded
/// before it. Up to 2³² calls within one span are counted.
pub(crate) struct TimeWindow {
    base: Instant,
    width_ns: u64,
    /// The current bucket times two, plus one while a thread writes the starts of buckets.
    ///
    /// Bucket `n` begins at `base`, so the first bucket of a window has a number above 0. A thread that
    /// moves on to a new bucket reads the sums *before* it stores the bucket here (release). A call is
    /// added *after* its thread read the bucket here (acquire). So no call is in the sums at the start
    /// of its own bucket, and no call leaves the window early.
    turn: AtomicU64,
    calls: AtomicU64,
    slow: AtomicU64,
    /// The number of buckets in the window.
    n: u64,
    /// The start of each bucket, at its number modulo the length, which is a power of two.
    starts: Box<[Start]>,
    reset: Start,
}

/// The sums at the start of a bucket.
struct Start {
    /// Written last (release) and read first (acquire): a reader of this bucket number reads its sums.
    bucket: AtomicU64,
    calls: AtomicU64,
    slow: AtomicU64,
}

impl TimeWindow {
    /// Creates an empty window. `span` should be at least `buckets` nanoseconds; `buckets` of 0 are
    /// taken as 1. Times before `base` count as `base`.
    pub(crate) fn new(span: Duration, buckets: usize, base: Instant) -> Self {
        let n = buckets.max(1) as u64;
        let width = nanos(span) / n;
        let ring = n.next_power_of_two();
        Self {
            base,
            width_ns: width.max(1),
            turn: AtomicU64::new(n << 1),
            calls: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            n,
            // Buckets 1 to `n` start with zero sums; number 0 marks an unused place.
            starts: (0..ring)
                .map(|at| (1..=n).find(|bucket| bucket % ring == at))
                .map(|bucket| Start::new(bucket.unwrap_or(0)))
                .collect(),
            reset: Start::new(0),
        }
    }

    /// Records a call that ended at `now`.
    pub(crate) fn record(&self, now: Instant, failed: bool, slow: bool) {
        self.advance(now);
        self.add_here(1, i32::from(failed));
        if slow {
            // Release: a thread that reads this slow call also reads it in the number of calls.
            self.slow.fetch_add(1, Release);
        }
    }

    /// Records a successful call in the current bucket. Only each fourth such call reads the clock and
    /// moves the window on, which makes the others cheaper. So up to three calls may leave the window
    /// early, or may be recorded in a bucket that has left it.
    #[inline]
    pub(crate) fn record_good(&self, now: impl FnOnce() -> Instant) {
        // Relaxed: an approximate number of calls is enough here.
        if self.calls.load(Relaxed) >> 32 & 3 == 0 {
            self.advance(now());
        }
        self.add_here(1, 0);
    }

    /// Adds a failure at `now`, for a call that was recorded as a success.
    pub(crate) fn amend(&self, now: Instant) {
        self.add(now, 0, 1);
    }

    /// Adds to the number of calls and of failures. The caller may count something else in them; see
    /// [`net`](Self::net).
    pub(crate) fn add(&self, now: Instant, calls: i32, failures: i32) {
        self.advance(now);
        self.add_here(calls, failures);
    }

    #[inline]
    fn add_here(&self, calls: i32, failures: i32) {
        let change = (i64::from(calls) << 32).wrapping_add(i64::from(failures));
        // Added after its thread read `turn`, so after the start of its bucket. Release: a thread that
        // reads this call also reads that value of `turn`.
        self.calls.fetch_add(change as u64, Release);
    }

    /// Returns the counts of the window that ends at `now`, or at the latest time recorded, if that is
    /// later.
    ///
    /// The counts may be zero while another thread moves the window on after more than one idle span.
    pub(crate) fn counts(&self, now: Instant) -> CallCounts {
        self.advance(now);
        let (sums, start) = self.span();
        sums.since(start)
    }

    /// Returns the sums of what was [added](Self::add) within the window; they may be negative.
    pub(crate) fn net(&self, now: Instant) -> (i64, i64) {
        self.advance(now);
        let (sums, start) = self.span();
        let change = sums.calls.wrapping_sub(start.calls) as i64;
        let low = i64::from(change as i32);
        (change.wrapping_sub(low) >> 32, low)
    }

    /// Returns the current sums, and those at the beginning of the window.
    fn span(&self) -> (WindowSums, WindowSums) {
        loop {
            let bucket = self.turn.load(Acquire) >> 1;
            let first = bucket - (self.n - 1);
            let (number, start) = self.start(first).read();
            let (reset_in, reset) = self.reset.read();
            let sums = self.sums();
            // A thread stores `turn` (release) before it writes starts or counts calls in another
            // bucket. So if `turn` has not changed (acquire), the values belong together.
            if self.turn.load(Acquire) >> 1 != bucket {
                continue;
            }
            // The thread that moves the window on has not written this start yet.
            if number != first {
                return (sums, sums);
            }
            // Of the reset and the start, the later one has fewer calls since then.
            let later = reset_in >= first
                && sums.calls.wrapping_sub(reset.calls) < sums.calls.wrapping_sub(start.calls);
            return (sums, if later { reset } else { start });
        }
    }

    /// Clears the calls recorded so far.
    pub(crate) fn reset(&self, now: Instant) {
        let bucket = self.advance(now);
        self.reset.write(bucket, self.sums());
    }

    /// Moves on to the bucket of `now`. Returns the current bucket.
    fn advance(&self, now: Instant) -> u64 {
        let elapsed = nanos(now.saturating_duration_since(self.base));
        let n = self.n;
        let mut turn = self.turn.load(Acquire);
        // Usually the bucket has not changed, and no division is needed.
        if elapsed < ((turn >> 1) - n + 1).saturating_mul(self.width_ns) {
            return turn >> 1;
        }
        let bucket = elapsed / self.width_ns + n;
        while turn >> 1 < bucket {
            // Read before the exchange: a call that sees the new bucket must not be in these sums.
            let sums = self.sums();
            match self
                .turn
                .compare_exchange_weak(turn, bucket << 1 | 1, AcqRel, Acquire)
            {
                Ok(_) if turn & 1 == 0 => {
                    self.write_starts((turn >> 1) + 1, bucket, sums);
                    return bucket;
                }
                // Another thread is writing starts, and continues up to this bucket before it ends.
                Ok(_) => return bucket,
                Err(current) => turn = current,
            }
        }
        turn >> 1
    }

    /// Writes the starts of the buckets from `first` to `last`, and of buckets that other threads
    /// request meanwhile. Only one thread runs this at a time, and no thread waits for it.
    fn write_starts(&self, mut first: u64, mut last: u64, sums: WindowSums) {
        loop {
            for bucket in first.max((last + 1).saturating_sub(self.n))..=last {
                self.start(bucket).write(bucket, sums);
            }
            // Release: a thread that reads the bucket as complete also reads its starts. Acquire: reads
            // the calls of threads that requested a later bucket.
            match self
                .turn
                .compare_exchange(last << 1 | 1, last << 1, AcqRel, Acquire)
            {
                Ok(_) => return,
                Err(asked) => (first, last) = (last + 1, asked >> 1),
            }
        }
    }

    fn start(&self, bucket: u64) -> &Start {
        &self.starts[bucket as usize & (self.starts.len() - 1)]
    }

    fn sums(&self) -> WindowSums {
        // The slow calls are read first: each of them is in the number of calls that is read after it.
        let slow = self.slow.load(Acquire);
        let calls = self.calls.load(Acquire);
        WindowSums { calls, slow }
    }
}

impl Start {
    fn new(bucket: u64) -> Self {
        Self {
            bucket: AtomicU64::new(bucket),
            calls: AtomicU64::new(0),
            slow: AtomicU64::new(0),
        }
    }

    fn read(&self) -> (u64, WindowSums) {
        let bucket = self.bucket.load(Acquire);
        let sums = WindowSums {
            calls: self.calls.load(Acquire),
            slow: self.slow.load(Acquire),
        };
        (bucket, sums)
    }

    fn write(&self, bucket: u64, sums: WindowSums) {
        self.calls.store(sums.calls, Release);
        self.slow.store(sums.slow, Release);
        self.bucket.store(bucket, Release);
    }
}

impl_debug!(TimeWindow: |this| buckets = this.n, width_ns = this.width_ns);

/// Nanoseconds, at most 146 years.
fn nanos(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(duration.subsec_nanos()))
        .min(u64::MAX >> 2)
}

#[cfg(test)]
#[cfg(not(roster_loom))]
mod tests;

#[cfg(all(test, roster_loom))]
mod model;
