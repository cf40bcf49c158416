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

use std::{fmt, time::Duration};

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
struct Sums {
    calls: u64,
    slow: u64,
}

impl Sums {
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
    fn span(&self) -> (Sums, Sums) {
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
    fn write_starts(&self, mut first: u64, mut last: u64, sums: Sums) {
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

    fn sums(&self) -> Sums {
        // The slow calls are read first: each of them is in the number of calls that is read after it.
        let slow = self.slow.load(Acquire);
        let calls = self.calls.load(Acquire);
        Sums { calls, slow }
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

    fn read(&self) -> (u64, Sums) {
        let bucket = self.bucket.load(Acquire);
        let sums = Sums {
            calls: self.calls.load(Acquire),
            slow: self.slow.load(Acquire),
        };
        (bucket, sums)
    }

    fn write(&self, bucket: u64, sums: Sums) {
        self.calls.store(sums.calls, Release);
        self.slow.store(sums.slow, Release);
        self.bucket.store(bucket, Release);
    }
}

impl fmt::Debug for TimeWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeWindow")
            .field("buckets", &self.n)
            .field("width_ns", &self.width_ns)
            .finish_non_exhaustive()
    }
}

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
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn counts(total: u64, failed: u64, slow: u64) -> CallCounts {
        CallCounts {
            total,
            failed,
            slow,
        }
    }

    #[test]
    fn a_call_leaves_after_the_span() {
        let base = Instant::now();
        let window = TimeWindow::new(10 * SECOND, 10, base);
        window.record(base, true, false);
        window.record(base + 5 * SECOND, false, true);
        let at = |seconds: f64| window.counts(base + SECOND.mul_f64(seconds));
        assert_eq!(at(9.9), counts(2, 1, 1));
        assert_eq!(at(10.0), counts(1, 0, 1));
        assert_eq!(at(14.9), counts(1, 0, 1));
        assert_eq!(at(15.0), counts(0, 0, 0));
    }

    #[test]
    fn a_week_or_a_century_without_calls_is_one_step() {
        let base = Instant::now();
        let window = TimeWindow::new(Duration::from_millis(10), 10, base);
        let mut now = base;
        for idle in [7 * 86_400, 1, 100 * 365 * 86_400_u64] {
            window.record(now, true, true);
            now += Duration::from_secs(idle);
            assert_eq!(window.counts(now), CallCounts::default());
            window.record(now, false, false);
            assert_eq!(window.counts(now), counts(1, 0, 0));
        }
    }

    #[test]
    fn a_late_time_counts_as_the_latest() {
        let base = Instant::now();
        let window = TimeWindow::new(10 * SECOND, 10, base);
        window.record(base + 100 * SECOND, false, false);
        window.record(base + 98 * SECOND, true, false);
        window.record(base - SECOND, true, false);
        assert_eq!(window.counts(base + 109 * SECOND), counts(3, 2, 0));
    }

    #[test]
    fn sums_may_wrap() {
        let base = Instant::now();
        let window = TimeWindow::new(10 * SECOND, 10, base);
        window
            .calls
            .store((1 << 32) * 0xFFFF_FFFE + 0xFFFF_FFFE, Relaxed);
        let now = base + 60 * SECOND;
        (0..5).for_each(|_| window.record(now, true, false));
        assert_eq!(window.counts(now), counts(5, 5, 0));
    }

    #[test]
    fn each_fourth_good_call_looks_at_the_clock() {
        let base = Instant::now();
        let window = TimeWindow::new(10 * SECOND, 10, base);
        let mut looks = 0;
        for i in 0..40 {
            window.record_good(|| {
                looks += 1;
                base + SECOND.mul_f64(0.5) * i
            });
        }
        assert_eq!(looks, 10);
        // The last 10 s contain 20 calls, plus or minus one bucket and three calls.
        let seen = window.counts(base + 20 * SECOND).total;
        assert!((15..=23).contains(&seen), "{seen}");
    }

    #[test]
    fn a_net_sum_may_be_below_zero() {
        let base = Instant::now();
        let window = TimeWindow::new(10 * SECOND, 10, base);
        window.add(base, 1, 1);
        let later = base + 60 * SECOND;
        window.add(later, 0, -1);
        assert_eq!(window.net(later), (0, -1));
        window.add(later, -1, -1);
        assert_eq!(window.net(later), (-1, -2));
        window.add(later, 3, 4);
        assert_eq!(window.net(later), (2, 2));
    }

    #[test]
    fn bad_sizes_do_no_harm() {
        let base = Instant::now();
        for (span, buckets) in [
            (Duration::ZERO, 0),
            (Duration::MAX, 1),
            (SECOND, usize::MAX >> 54),
        ] {
            let window = TimeWindow::new(span, buckets, base);
            window.record(base, true, false);
            assert_eq!(window.counts(base), counts(1, 1, 0));
        }
    }

    #[test]
    fn threads_lose_no_call() {
        let base = Instant::now();
        let window = TimeWindow::new(10 * SECOND, 10, base);
        // 8 threads, 10 000 calls each, times within the first 5 s: all stay in the window.
        thread::scope(|scope| {
            for thread in 0..8_u64 {
                let window = &window;
                scope.spawn(move || {
                    for i in 0..10_000 {
                        let now = base + Duration::from_micros(i * 500 + thread);
                        window.record(now, i % 4 == 0, i % 10 == 0);
                        if i % 100 == 0 {
                            let seen = window.counts(now);
                            assert!(seen.failed <= seen.total && seen.slow <= seen.total);
                        }
                    }
                });
            }
        });
        let end = base + 5 * SECOND;
        assert_eq!(window.counts(end), counts(80_000, 20_000, 8_000));
        assert_eq!(window.counts(end + 10 * SECOND), CallCounts::default());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Amend,
        Record { wait: i64, failed: bool, slow: bool },
        Counts { wait: i64 },
        Reset,
    }

    fn step() -> impl Strategy<Value = Step> {
        // Mostly small steps forward, some back, and some over several spans.
        let wait = || prop_oneof![8 => 0..300_i64, 2 => -200..0_i64, 1 => 0..20_000_i64];
        prop_oneof![
            8 => (wait(), any::<bool>(), any::<bool>())
                .prop_map(|(wait, failed, slow)| Step::Record { wait, failed, slow }),
            2 => Just(Step::Amend),
            4 => wait().prop_map(|wait| Step::Counts { wait }),
            1 => Just(Step::Reset),
        ]
    }

    proptest! {
        #[test]
        fn time_window_counts_as_a_list_does(
            buckets in 1..12_usize,
            steps in prop::collection::vec(step(), 0..200),
        ) {
            const WIDTH: i64 = 100;
            let base = Instant::now();
            let span = Duration::from_millis(WIDTH as u64) * buckets as u32;
            let window = TimeWindow::new(span, buckets, base);
            let at = |ms: i64| base + Duration::from_millis(ms as u64);
            let mut calls: Vec<(i64, bool, bool)> = Vec::new();
            let mut amended: Vec<i64> = Vec::new();
            let (mut now, mut latest) = (0_i64, 0_i64);
            for step in steps {
                let mut move_by = |wait: i64| {
                    now = (now + wait).max(0);
                    latest = latest.max(now);
                };
                match step {
                    Step::Record { wait, failed, slow } => {
                        move_by(wait);
                        window.record(at(now), failed, slow);
                        calls.push((latest / WIDTH, failed, slow));
                    }
                    Step::Counts { wait } => move_by(wait),
                    Step::Amend => {
                        window.amend(at(now));
                        amended.push(latest / WIDTH);
                    }
                    Step::Reset => {
                        window.reset(at(now));
                        calls.clear();
                        amended.clear();
                    }
                }
                let first = latest / WIDTH - (buckets as i64 - 1);
                let kept = calls.iter().filter(|(bucket, ..)| *bucket >= first);
                let expected = kept.fold(CallCounts::default(), |sum, (_, failed, slow)| counts(
                    sum.total + 1,
                    sum.failed + u64::from(*failed),
                    sum.slow + u64::from(*slow),
                ));
                let late = amended.iter().filter(|bucket| **bucket >= first).count() as u64;
                let expected = CallCounts {
                    failed: (expected.failed + late).min(expected.total),
                    ..expected
                };
                prop_assert_eq!(window.counts(at(now)), expected);
            }
        }
    }
}

/// Runs with
/// `RUSTFLAGS="--cfg roster_loom" cargo test --release --lib --no-default-features window::time`.
#[cfg(all(test, roster_loom))]
mod models {
    use loom::{sync::Arc, thread};

    use super::*;

    const WIDTH: Duration = Duration::from_secs(1);

    #[test]
    fn calls_that_turn_the_window_together_are_not_lost() {
        let base = Instant::now();
        loom::model(move || {
            let window = Arc::new(TimeWindow::new(2 * WIDTH, 2, base));
            window.record(base, true, false);
            // After an idle time both threads move the window on, to different buckets.
            let other = {
                let window = Arc::clone(&window);
                thread::spawn(move || window.record(base + 9 * WIDTH, false, false))
            };
            window.record(base + 10 * WIDTH, true, false);
            let seen = window.counts(base + 10 * WIDTH);
            assert!(
                seen.total <= 2 && seen.failed <= 1,
                "the old call is back: {seen:?}"
            );
            other.join().expect("no panic");
            let seen = window.counts(base + 10 * WIDTH);
            assert_eq!((seen.total, seen.failed), (2, 1));
            assert!(window.counts(base + 11 * WIDTH).failed == 1, "left early");
            assert_eq!(window.counts(base + 12 * WIDTH), CallCounts::default());
        });
    }

    #[test]
    fn a_reader_sees_whole_buckets_while_the_window_turns() {
        let base = Instant::now();
        loom::model(move || {
            let window = Arc::new(TimeWindow::new(2 * WIDTH, 2, base));
            window.record(base, true, false);
            window.record(base + WIDTH, false, false);
            let other = {
                let window = Arc::clone(&window);
                thread::spawn(move || window.record(base + 2 * WIDTH, false, false))
            };
            let seen = window.counts(base + WIDTH);
            let allowed = [(2, 1), (1, 0), (2, 0)];
            assert!(allowed.contains(&(seen.total, seen.failed)), "{seen:?}");
            other.join().expect("no panic");
        });
    }
}
