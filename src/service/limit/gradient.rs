//! The estimate of the limit. Pure: samples are arguments, and a limit is returned.

use std::time::Duration;

use tokio::time::Instant;

/// The settings of the estimate; see [`LimitSettings`](super::LimitSettings).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LimitRules {
    pub(super) initial: u32,
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) tolerance: f64,
}

/// The share of a new estimate that is taken over at once: Netflix's value.
const SMOOTHING: f64 = 0.2;
/// Calls added to the limit, to let it grow and to keep a short queue that keeps the service busy:
/// Netflix's value.
const QUEUE: f64 = 4.0;
/// The factor of the limit after an overload: that of Netflix's AIMD limit.
const BACKOFF: f64 = 0.9;
/// The period over which samples are averaged: shorter than a user notices, and long enough for ten
/// samples at a hundred calls a second.
const PERIOD: Duration = Duration::from_millis(100);
/// With fewer samples in a period, the average is too uncertain: Netflix's value.
const MIN_SAMPLES: u32 = 10;
/// The periods over which the usual latency is averaged, about a minute: Netflix's value.
const LONG: f64 = 600.0;
/// While the limit is used up: how often fewer calls are admitted, to measure the latency with
/// fewer calls.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The least duration of such a measurement, so that the calls above the smaller limit can end.
const LOOK_FOR: Duration = Duration::from_millis(300);
/// The first periods have equal weight, so that the very first does not dominate for a minute:
/// Netflix's value.
const WARMUP: u32 = 10;

#[derive(Clone, Debug)]
pub(super) struct Gradient {
    rules: LimitRules,
    limit: f64,
    /// The usual latency in nanoseconds, averaged over `periods` periods; unknown at 0.
    usual: f64,
    periods: u32,
    began: Instant,
    sum: f64,
    samples: u32,
    /// The most calls in flight at any sample of this period.
    in_flight: u32,
    /// When the limit was found used up for the first time since the last measurement with fewer
    /// calls.
    full_since: Option<Instant>,
    /// The end of a measurement, during which half of the limit is admitted.
    look_until: Option<Instant>,
}

/// The sample of a call that got a response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) latency: Duration,
    /// Calls in flight when it was made, itself included.
    pub(super) in_flight: u32,
    pub(super) failed: bool,
}

impl Gradient {
    pub(super) fn new(rules: LimitRules, now: Instant) -> Self {
        Self {
            rules,
            limit: rules.initial.into(),
            usual: 0.0,
            periods: 0,
            began: now,
            sum: 0.0,
            samples: 0,
            in_flight: 0,
            full_since: None,
            look_until: None,
        }
    }

    /// The limit in calls.
    pub(super) fn limit(&self) -> u32 {
        let share = if self.look_until.is_some() { 0.5 } else { 1.0 };
        ((self.limit * share) as u32).max(self.rules.min)
    }

    /// Adds a sample to the period.
    pub(super) fn sample(&mut self, sample: Sample) {
        let nanos = sample.latency.as_nanos() as f64;
        if !sample.failed || (self.periods > 0 && nanos > self.usual) {
            self.sum += nanos;
            self.samples += 1;
            self.in_flight = self.in_flight.max(sample.in_flight);
        }
    }

    /// Ends the period if it is over, which may change the limit. Returns whether it was over.
    pub(super) fn turn(&mut self, overloaded: bool, now: Instant) -> bool {
        if now.saturating_duration_since(self.began) < PERIOD {
            return false;
        }
        let enough = self.samples >= MIN_SAMPLES;
        if !enough && !overloaded {
            return false;
        }
        if enough {
            self.adjust(self.sum / f64::from(self.samples), now);
            (self.sum, self.samples, self.in_flight) = (0.0, 0, 0);
        }
        if overloaded {
            self.set(self.limit * BACKOFF);
        }
        self.began = now;
        true
    }

    fn adjust(&mut self, latency: f64, now: Instant) {
        if let Some(until) = self.look_until {
            if now >= until {
                self.usual = latency;
                self.look_until = None;
            }
            return;
        }
        self.periods = self.periods.saturating_add(1);
        let share = if self.periods <= WARMUP {
            1.0 / f64::from(self.periods)
        } else {
            2.0 / (LONG + 1.0)
        };
        // While the limit is used up, a higher latency may come from the queue that the limit
        // admits. It must not become the usual latency only because it lasts.
        let full = self.in_flight >= self.limit();
        if !full || latency < self.usual || self.periods <= WARMUP {
            self.usual += (latency - self.usual) * share;
        }
        // After a long overload the usual latency is too high, and would decrease as slowly as it
        // rose.
        if self.usual > 2.0 * latency {
            self.usual *= 0.9;
        }
        self.look(full, latency, now);
        // When half of the limit is unused, the latency gives no information about a higher limit.
        if f64::from(self.in_flight) < self.limit / 2.0 {
            return;
        }
        let gradient = (self.rules.tolerance * self.usual / latency.max(1.0)).clamp(0.5, 1.0);
        let estimate = self.limit * gradient + QUEUE;
        self.set(self.limit * (1.0 - SMOOTHING) + estimate * SMOOTHING);
    }

    /// Admits half of the limit when the limit has been used up for long enough. The latency with
    /// half as many calls shows whether calls queue, or the service itself has become slower or
    /// faster.
    fn look(&mut self, full: bool, latency: f64, now: Instant) {
        if !full {
            return;
        }
        let since = *self.full_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= LOOK_EVERY {
            let drained = Duration::from_nanos((3.0 * latency) as u64);
            self.look_until = Some(now + drained.clamp(LOOK_FOR, LOOK_EVERY));
            self.full_since = None;
        }
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(self.rules.min.into(), self.rules.max.into());
    }
}

#[cfg(test)]
#[cfg(not(roster_loom))]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn rules() -> LimitRules {
        LimitRules {
            initial: 20,
            min: 4,
            max: 200,
            tolerance: 1.5,
        }
    }

    /// Runs periods of 20 samples each; returns the limits after them.
    fn run(
        gradient: &mut Gradient,
        now: &mut Instant,
        periods: usize,
        latency: impl Fn(u32) -> Duration,
    ) -> Vec<u32> {
        let mut limits = Vec::new();
        for _ in 0..periods {
            let in_flight = gradient.limit();
            for _ in 0..20 {
                *now += 5 * MS;
                let sample = Sample {
                    latency: latency(in_flight),
                    in_flight,
                    failed: false,
                };
                gradient.sample(sample);
                gradient.turn(false, *now);
            }
            limits.push(gradient.limit());
        }
        limits
    }

    #[test]
    fn grows_while_latency_stays_and_shrinks_when_it_rises() {
        let mut now = Instant::now();
        let mut gradient = Gradient::new(rules(), now);
        let limits = run(&mut gradient, &mut now, 250, |_| 10 * MS);
        assert!(limits.is_sorted(), "never down");
        assert_eq!(limits.last(), Some(&200), "up to the largest");
        let limits = run(&mut gradient, &mut now, 20, |_| 100 * MS);
        assert!(limits.last() < Some(&100), "half within 2 s: {limits:?}");
    }

    #[test]
    fn settles_near_what_a_queue_can_take() {
        // The service handles 40 calls at a time in 10 ms; further calls queue.
        let queue = |in_flight: u32| 10 * MS * in_flight.max(40) / 40;
        let mut now = Instant::now();
        let mut gradient = Gradient::new(rules(), now);
        let limits = run(&mut gradient, &mut now, 3_000, queue);
        // Without the measurements that admit half of the limit.
        let mut settled = limits[1_000..].to_vec();
        settled.sort_unstable();
        let middle = &settled[40..1_960];
        assert!(
            middle.iter().all(|limit| (50..=100).contains(limit)),
            "{middle:?}"
        );
    }

    #[test]
    fn a_service_that_became_slower_is_usual_after_a_look() {
        let mut now = Instant::now();
        let mut gradient = Gradient::new(rules(), now);
        run(&mut gradient, &mut now, 100, |_| 10 * MS);
        let before = gradient.limit();
        run(&mut gradient, &mut now, 100, |_| 40 * MS);
        assert!(gradient.limit() < before / 3, "{}", gradient.limit());
        run(&mut gradient, &mut now, 1_000, |_| 40 * MS);
        assert!(gradient.limit() > before, "{}", gradient.limit());
    }

    #[test]
    fn unused_it_stays() {
        let mut now = Instant::now();
        let mut gradient = Gradient::new(rules(), now);
        for _ in 0..1_000 {
            now += 10 * MS;
            let sample = Sample {
                latency: MS,
                in_flight: 9,
                failed: false,
            };
            gradient.sample(sample);
            gradient.turn(false, now);
        }
        assert_eq!(gradient.limit(), 20);
    }

    #[test]
    fn overload_takes_a_tenth_once_in_a_period() {
        let mut now = Instant::now();
        let mut gradient = Gradient::new(rules(), now);
        now += 100 * MS;
        assert!(gradient.turn(true, now));
        assert!(!gradient.turn(true, now), "once in a period");
        assert_eq!(gradient.limit(), 18);
        for _ in 0..100 {
            now += 100 * MS;
            gradient.turn(true, now);
        }
        assert_eq!(gradient.limit(), 4, "down to the smallest");
    }

    #[test]
    fn fast_failures_are_not_fast_answers() {
        let mut now = Instant::now();
        let mut gradient = Gradient::new(rules(), now);
        run(&mut gradient, &mut now, 10, |_| 10 * MS);
        let (usual, limit) = (gradient.usual, gradient.limit());
        for _ in 0..1_000 {
            now += 10 * MS;
            let sample = Sample {
                latency: MS / 100,
                in_flight: limit,
                failed: true,
            };
            gradient.sample(sample);
            gradient.turn(false, now);
        }
        assert_eq!((gradient.usual, gradient.limit()), (usual, limit));
    }
}
