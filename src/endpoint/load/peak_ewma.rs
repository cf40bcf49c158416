//! Load as latency × requests in flight, where latency jumps up and sinks slowly.
//!
//! The measure is Finagle's *peak EWMA*: the estimate jumps to a sample above it, and otherwise
//! follows the exponentially weighted mean. With `w = exp(-time since the last sample / decay)`:
//!
//! ```text
//! estimate' = max(sample, estimate × w + sample × (1 - w))       load = estimate × (in flight + 1)
//! ```
//!
//! (The `max` is the jump: the mean exceeds the sample exactly when the estimate does.) Between
//! samples the estimate sinks by the same `w`, so that an endpoint which was slow once gets another
//! chance. What the known implementations get wrong, and what is done here about it:
//!
//! - *Reading takes a lock and writes the decayed value back* (tower). Here `ln(estimate) + t / decay`
//!   is stored: it does not change while time passes, so one atomic holds value and time together
//!   and reading it is `exp(stored - now / decay)`.
//! - *A fast failure looks like a fast endpoint* (tower; ingress-nginx#9882). Here a failure counts as
//!   the penalty, 5 s, when it came faster.
//! - *A new endpoint is taken for average, or gets a flood* (tower, go-zero). Here, as in Finagle, one
//!   that was never measured costs nothing while idle, and more than any other while its first
//!   request waits: it gets one probe, then waits for its answer.
//! - *An endpoint that hangs gets cheaper by the second*, because the estimate sinks while no sample
//!   comes (Finagle, tower). Here silence counts: with requests waiting, the estimate is at least the
//!   time since the last answer. A cancelled request proves one thing, that its answer takes longer
//!   than it waited, so it may raise the estimate and never lowers it. Else an endpoint that answers
//!   nothing while clients time out would end as the cheapest of all.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::{LoadTracker, Outcome};

/// Finagle's default, which linkerd and go-zero kept: a spike is down to 1 % after 46 s.
const DECAY: Duration = Duration::from_secs(10);

/// linkerd's default: above any latency that a client usually waits for.
const PENALTY: Duration = Duration::from_secs(5);

/// Seconds that an endpoint costs while its first request waits: more than any that was measured,
/// also when divided by the largest weight. Added to, so that such endpoints differ by requests in
/// flight.
const UNMEASURED: f64 = 1e12;

/// Below the resolution of any clock; keeps the logarithm finite.
const SHORTEST: f64 = 1e-9;

/// Load as a latency estimate, in seconds, times the requests in flight plus one.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use tower_roster::endpoint::load::PeakEwma;
///
/// let load = PeakEwma::new().decay(Duration::from_secs(30)).penalty(Duration::from_secs(1));
/// ```
#[derive(Debug)]
pub struct PeakEwma {
    /// In seconds, above zero.
    decay: f64,
    penalty: Duration,
    base: Instant,
    // All relaxed: each is read for itself, and a reader that sees one a moment before another
    // is off by that moment.
    /// Bits of `ln(estimate) + seconds since base / decay`; minus infinity while nothing is known.
    level: AtomicU64,
    /// When the last sample came, in nanoseconds since `base`.
    sampled: AtomicU64,
    /// When the last answer came, or the first of the waiting requests started.
    heard: AtomicU64,
    /// Requests without an answer.
    waiting: AtomicUsize,
    /// Whether any answer ever came.
    measured: AtomicBool,
}

impl PeakEwma {
    /// Creates a tracker with a decay of 10 s and a penalty of 5 s.
    pub fn new() -> Self {
        Self::with(DECAY.as_secs_f64(), PENALTY, Instant::now())
    }

    /// Sets the time in which an old estimate loses 63 % of its influence; 10 s by default, at least
    /// 1 ms. Short follows each hiccup and soon forgets who was slow; long shuns an endpoint well after
    /// it has recovered.
    #[must_use]
    pub fn decay(mut self, decay: Duration) -> Self {
        self.decay = decay.max(Duration::from_millis(1)).as_secs_f64();
        self
    }

    /// Sets the least latency that a failed request counts as; 5 s by default. Zero makes a failure
    /// count as long as it took; much more than the usual latency keeps an endpoint that failed
    /// once out of use for `decay * ln(penalty / usual latency)`.
    #[must_use]
    pub fn penalty(mut self, penalty: Duration) -> Self {
        self.penalty = penalty;
        self
    }

    fn with(decay: f64, penalty: Duration, base: Instant) -> Self {
        Self {
            decay,
            penalty,
            base,
            level: AtomicU64::new(f64::NEG_INFINITY.to_bits()),
            sampled: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            measured: AtomicBool::new(false),
        }
    }

    fn nanos(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.base).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// The estimate in seconds, sunk to `now`.
    fn estimate(&self, level: u64, now: u64) -> f64 {
        (f64::from_bits(level) - seconds(now) / self.decay).exp()
    }

    /// Replaces the estimate by what `next` makes of it.
    fn update(&self, now: u64, next: impl Fn(f64) -> f64) {
        // The closure never declines, so this cannot fail.
        let _ = self.level.fetch_update(Relaxed, Relaxed, |level| {
            let estimate = next(self.estimate(level, now)).max(SHORTEST);
            Some((estimate.ln() + seconds(now) / self.decay).to_bits())
        });
    }

    fn sample(&self, sample: Duration, now: u64) {
        // Whoever moves the time on owns the interval: none counts twice.
        let before = self.sampled.fetch_max(now, Relaxed);
        let kept = (-seconds(now.saturating_sub(before)) / self.decay).exp();
        self.update(now, |sunk| follow(sunk, sample.as_secs_f64(), kept));
        self.heard.fetch_max(now, Relaxed);
        self.measured.store(true, Relaxed);
    }

    /// The answer takes longer than this.
    fn raise(&self, least: Duration, now: u64) {
        self.update(now, |sunk| sunk.max(least.as_secs_f64()));
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 * 1e-9
}

/// The estimate after a sample: `sunk` is the one before, already multiplied by `kept`.
fn follow(sunk: f64, sample: f64, kept: f64) -> f64 {
    sample.max(sunk + sample * (1.0 - kept))
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self::new()
    }
}

impl LoadTracker for PeakEwma {
    fn fresh(&self, now: Instant) -> Self {
        Self::with(self.decay, self.penalty, now)
    }

    fn start(&self, now: Instant) {
        // Before it is counted: a reader must not see it wait since the last answer.
        if self.waiting.load(Relaxed) == 0 {
            self.heard.fetch_max(self.nanos(now), Relaxed);
        }
        self.waiting.fetch_add(1, Relaxed);
    }

    fn record(&self, outcome: Outcome, rtt: Duration, now: Instant) {
        let now = self.nanos(now);
        match outcome {
            Outcome::Success => self.sample(rtt, now),
            Outcome::Failure | Outcome::Overloaded => self.sample(rtt.max(self.penalty), now),
            Outcome::Cancelled => self.raise(rtt, now),
        }
        self.waiting.fetch_sub(1, Relaxed);
    }

    fn penalize(&self, now: Instant) {
        self.raise(self.penalty, self.nanos(now));
    }

    fn load(&self, in_flight: usize, now: Instant) -> f64 {
        let now = self.nanos(now);
        let waiting = self.waiting.load(Relaxed) > 0;
        if waiting && !self.measured.load(Relaxed) {
            return UNMEASURED + in_flight as f64;
        }
        let mut estimate = self.estimate(self.level.load(Relaxed), now);
        if waiting {
            let silence = now.saturating_sub(self.heard.load(Relaxed));
            estimate = estimate.max(seconds(silence));
        }
        estimate * (in_flight as f64 + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SEC: Duration = Duration::from_secs(1);

    /// A tracker, and the time that it counts from.
    fn tracker() -> (PeakEwma, Instant) {
        let base = Instant::now();
        (PeakEwma::new().fresh(base), base)
    }

    /// One request from `now - rtt` to `now`.
    fn request(tracker: &PeakEwma, outcome: Outcome, rtt: Duration, now: Instant) {
        tracker.start(now - rtt);
        tracker.record(outcome, rtt, now);
    }

    #[track_caller]
    fn assert_close(actual: f64, expected: f64) {
        let off = (actual - expected).abs();
        assert!(
            off <= expected.abs() * 1e-6,
            "{actual} should be {expected}"
        );
    }

    #[test]
    fn a_higher_sample_replaces_the_estimate_at_once() {
        let (ewma, base) = tracker();
        request(&ewma, Outcome::Success, 10 * MS, base + SEC);
        assert_close(ewma.load(0, base + SEC), 0.010);
        request(&ewma, Outcome::Success, 300 * MS, base + SEC + MS);
        assert_close(ewma.load(0, base + SEC + MS), 0.300);
    }

    #[test]
    fn a_lower_sample_is_averaged_by_the_time_that_passed() {
        let (ewma, base) = tracker();
        request(&ewma, Outcome::Success, SEC, base + SEC);
        request(&ewma, Outcome::Success, 100 * MS, base + 11 * SEC);
        let w = (-1.0f64).exp();
        assert_close(ewma.load(0, base + 11 * SEC), w + 0.1 * (1.0 - w));
    }

    #[test]
    fn reading_sinks_with_time_and_changes_nothing() {
        let (ewma, base) = tracker();
        request(&ewma, Outcome::Success, SEC, base + SEC);
        for _ in 0..3 {
            assert_close(ewma.load(0, base + 6 * SEC), (-0.5f64).exp());
            assert_close(ewma.load(0, base + 31 * SEC), (-3.0f64).exp());
        }
        assert_close(ewma.load(0, base + SEC), 1.0);
    }

    #[test]
    fn requests_in_flight_multiply() {
        let (ewma, base) = tracker();
        request(&ewma, Outcome::Success, 20 * MS, base + SEC);
        assert_close(ewma.load(4, base + SEC), 0.100);
    }

    #[test]
    fn an_unmeasured_endpoint_gets_one_probe_and_waits_for_its_answer() {
        let (ewma, base) = tracker();
        assert_eq!(ewma.load(0, base), 0.0, "the probe must be attractive");
        ewma.start(base);
        let probing = ewma.load(1, base);
        assert!(probing > 1e9, "nothing more before the answer");
        assert!(
            ewma.load(2, base) > probing,
            "fewer in flight must be better"
        );
        ewma.record(Outcome::Success, 5 * MS, base + 5 * MS);
        assert_close(ewma.load(0, base + 5 * MS), 0.005);
    }

    #[test]
    fn a_failure_is_never_a_fast_answer() {
        let (ewma, base) = tracker();
        request(&ewma, Outcome::Success, 50 * MS, base + SEC);
        request(&ewma, Outcome::Failure, MS, base + SEC + MS);
        assert_close(ewma.load(0, base + SEC + MS), 5.0);
        // A slow failure counts for what it took.
        request(&ewma, Outcome::Failure, 8 * SEC, base + 10 * SEC);
        assert_close(ewma.load(0, base + 10 * SEC), 8.0);
    }

    #[test]
    fn an_answer_that_breaks_off_is_penalized() {
        let (ewma, base) = tracker();
        request(&ewma, Outcome::Success, 50 * MS, base + SEC);
        ewma.penalize(base + SEC);
        assert_close(ewma.load(0, base + SEC), 5.0);
    }

    #[test]
    fn a_cancelled_request_only_ever_raises() {
        let (ewma, base) = tracker();
        request(&ewma, Outcome::Success, 100 * MS, base + SEC);
        request(&ewma, Outcome::Cancelled, MS, base + SEC + MS);
        assert_close(ewma.load(0, base + SEC), 0.100);
        request(&ewma, Outcome::Cancelled, 2 * SEC, base + 4 * SEC);
        assert_close(ewma.load(0, base + 4 * SEC), 2.0);
    }

    #[test]
    fn a_cancelled_probe_is_not_a_measurement() {
        let (ewma, base) = tracker();
        request(&ewma, Outcome::Cancelled, MS, base + SEC);
        assert_close(ewma.load(0, base + SEC), 0.001);
        ewma.start(base + SEC);
        assert!(ewma.load(1, base + SEC) > 1e9, "still one probe at a time");
    }

    #[test]
    fn silence_counts_while_requests_wait() {
        let (ewma, base) = tracker();
        request(&ewma, Outcome::Success, 10 * MS, base + SEC);
        ewma.start(base + 2 * SEC);
        let silent = |secs: u32| ewma.load(1, base + (2 + secs) * SEC);
        assert_close(silent(1), 2.0);
        assert_close(silent(60), 120.0);
    }

    #[test]
    fn an_endpoint_that_hangs_under_timeouts_does_not_become_the_cheapest() {
        let (ewma, base) = tracker();
        request(&ewma, Outcome::Success, MS, base + SEC);
        for at in 2..200 {
            request(&ewma, Outcome::Cancelled, SEC, base + at * SEC);
            assert!(
                ewma.load(0, base + at * SEC) > 0.9,
                "after {at} s of silence"
            );
        }
    }

    #[test]
    fn times_out_of_order_and_zero_latencies_do_no_harm() {
        let (ewma, base) = tracker();
        let late = base + SEC;
        for now in [late, base, late, base] {
            ewma.start(now);
            ewma.record(Outcome::Success, Duration::ZERO, now);
            assert!(ewma.load(0, now).is_finite());
        }
        // A year idle, then in use again.
        request(&ewma, Outcome::Success, MS, base + SEC * 31_536_000);
        assert_close(ewma.load(0, base + SEC * 31_536_000), 0.001);
    }

    proptest! {
        /// The stored logarithm gives what keeping the value and the time apart gives.
        #[test]
        fn agrees_with_the_plain_formula(
            samples in prop::collection::vec((0u64..5_000_000, 1u64..2_000_000), 1..60),
        ) {
            let (ewma, base) = tracker();
            let (mut cost, mut at) = (0.0f64, Duration::ZERO);
            for (pause, rtt) in samples {
                let (pause, rtt) = (Duration::from_micros(pause), Duration::from_micros(rtt));
                at += pause;
                let (w, s) = ((-pause.as_secs_f64() / 10.0).exp(), rtt.as_secs_f64());
                cost = if s > cost { s } else { cost * w + s * (1.0 - w) };
                ewma.start(base + at);
                ewma.record(Outcome::Success, rtt, base + at);
                let load = ewma.load(0, base + at);
                prop_assert!((load - cost).abs() < cost * 1e-9, "{} for {}", load, cost);
            }
        }
    }
}
