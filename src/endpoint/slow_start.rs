//! Slow start: an endpoint that is new, restored or at another address gets a small share first, which
//! grows to its full share.
//!
//! A new process has cold caches, empty pools and code that is not compiled yet. A full share at once
//! causes a burst of slow responses. The share grows as in [Envoy], `max(least, (age / window)^(1 /
//! aggression))`. This factor multiplies the weight, so slow start works with every policy that uses
//! weights, also with policies that measure latency. Known problems of other implementations, and the
//! solutions here:
//!
//! - *An endpoint starves*: with a tiny weight the turn of an endpoint came so late that it got no requests
//!   even after its window (envoy#19526, #29259). Here the factor is exactly 1 from the end of the window
//!   on and never below 1 % before, and [`SlowStart::next_change`] returns when weights must be prepared anew.
//! - *No effect when all endpoints are new*: no endpoint is warm then, and slow start would only make
//!   shares depend on the order of arrival. [`SlowStart::begins`] is false in this case, and slow start ends
//!   when no endpoint is warm any more.
//! - *Overload of the warm endpoints*: one warm endpoint among nine new ones gets half of all requests
//!   instead of a tenth (envoy#26290). [`SlowStart::least_factor`] raises the least factor until no endpoint gets more
//!   than 1.5 times its due.
//! - *Slow start after each short absence*: a registry or health check that flaps delists endpoints for
//!   moments. If each return began slow start, most of the service would be in slow start for as long as
//!   the flapping lasts. With one server after the other delisted for 200 ms, at 70 % of the total
//!   capacity, the 99th percentile was three times that without slow start (`cargo bench --bench quality
//!   storm`). So the age belongs to the process and not to the listing; see below.
//!
//! # What counts as warming
//! The age counts the time in which the endpoint was sent requests, because only requests warm it. The age
//! stands still while the endpoint is not listed or has weight 0 ([`Age`]). It is not reset by an absence
//! either: what the process has cached stays for the life of the process. If an absence cooled an endpoint,
//! a flapping one would never be warm, and its requests would be slow only because of the flapping. So
//! within the grace of the balancer a warm endpoint comes back warm, and any other continues where it was.
//!
//! A new age begins when something shows that the process is another one: another key, another address, a
//! new generation of the registration (if the registry reports it), an ejection, or an absence longer than
//! the grace. A registry without generations does not show a restart at the same address within the grace.
//! Such a process comes back as warm, unless each start has another id.
//!
//! [Envoy]: https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/slow_start

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{ConfigError, check_range};

/// Half of the ten seconds within which an endpoint that came back should have its full share. The other
/// half is for detecting that it came back.
const WINDOW: Duration = Duration::from_secs(5);

/// The default of Envoy.
const LEAST: f64 = 0.1;

/// The default of Envoy: the share grows linearly.
const AGGRESSION: f64 = 1.0;

/// Endpoints are sized for more than their mean load, often for twice of it. 1.5 leaves room for random
/// variation.
const SURGE: f64 = 1.5;

/// Weights change in steps of a tenth, because each step prepares the policy anew, off the path of
/// requests.
const STEPS: f64 = 10.0;

/// Settings of slow start: an endpoint that is new, restored after an ejection, or at another address gets
/// a small share first.
///
/// The age of an endpoint is the time in which it was sent requests. Time outside of the registry (within
/// the [grace](crate::balance::BalanceBuilder::grace) of the balancer) and time at weight 0 do not change
/// it.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use tower_roster::endpoint::SlowStart;
///
/// let slow_start = SlowStart::new();
/// assert_eq!(slow_start.factor(Duration::ZERO), 0.1);
/// assert_eq!(slow_start.factor(Duration::from_secs(5)), 1.0);
/// ```
///
/// Longer, and steeper at first:
/// ```
/// use std::time::Duration;
/// use tower_roster::endpoint::SlowStart;
///
/// let slow_start = SlowStart::new().window(Duration::from_secs(30)).aggression(2.0);
/// assert_eq!(slow_start.factor(Duration::from_millis(7_500)), 0.5);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SlowStart {
    window: Duration,
    least: f64,
    aggression: f64,
    surge: f64,
}

impl SlowStart {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            window: WINDOW,
            least: LEAST,
            aggression: AGGRESSION,
            surge: SURGE,
        }
    }

    /// Sets the time until the full share; 5 s by default, at most one day. Zero switches slow start off.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets the first share, from 0.01 to 1 of the full share; 0.1 by default. 1 switches slow start off.
    /// With a very small value an endpoint gets nearly no requests at first.
    #[must_use]
    pub fn least(mut self, share: f64) -> Self {
        self.least = share;
        self
    }

    /// Sets the shape of the growth, from 0.1 to 10. The default 1 is linear. Above 1 the share grows fast
    /// at first; below 1 it grows fast at the end.
    #[must_use]
    pub fn aggression(mut self, aggression: f64) -> Self {
        self.aggression = aggression;
        self
    }

    /// Sets how many times its due an endpoint may get while others are in slow start, at least 1; 1.5 by
    /// default. 1 switches slow start off. With infinity the warm endpoints take all of the remaining load.
    #[must_use]
    pub fn surge(mut self, factor: f64) -> Self {
        self.surge = factor;
        self
    }

    /// # Errors
    /// When a setting is out of range.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let day = Duration::from_secs(86_400);
        check_range("slow_start.window", self.window, ..=day)?;
        check_range("slow_start.least", self.least, 0.01..=1.0)?;
        check_range("slow_start.aggression", self.aggression, 0.1..=10.0)?;
        check_range("slow_start.surge", self.surge, 1.0..)
    }

    /// Whether endpoints that are new or back use slow start, in a set with `warm` endpoints that take
    /// requests and have their full share. False in a set of new endpoints only, such as the first set.
    pub(crate) fn begins(&self, warm: usize) -> bool {
        warm > 0 && !self.window.is_zero() && self.least < 1.0 && self.surge > 1.0
    }

    /// Returns the share of an endpoint of this age; exactly 1 from the end of the window on.
    pub fn factor(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let passed = age.as_secs_f64() / self.window.as_secs_f64();
        power(passed, 1.0 / self.aggression).clamp(self.least, 1.0)
    }

    /// The least factor for a set. `warm` is the sum of the weights of the endpoints with their full share,
    /// `ramping` that of the endpoints in slow start. Use the larger of this and [`factor`](Self::factor).
    ///
    /// With `warm + factor × ramping` as the total, each warm endpoint gets
    /// `(warm + ramping) / (warm + factor × ramping)` times its due. The least factor keeps this within the
    /// surge.
    pub(crate) fn least_factor(&self, warm: f64, ramping: f64) -> f64 {
        let needed = ((warm + ramping) / self.surge - warm) / ramping;
        // False for NaN, too, which a sum of zero or of infinity gives.
        if needed > self.least {
            needed.min(1.0)
        } else {
            self.least
        }
    }

    /// The age at which weights are to be prepared anew, because the factor has changed by a step; `None`
    /// from the end of the window on.
    pub(crate) fn next_change(&self, age: Duration) -> Option<Duration> {
        if age >= self.window {
            return None;
        }
        let share = (self.factor(age) * STEPS + 1e-6).floor() + 1.0;
        let at = self
            .window
            .mul_f64(power((share / STEPS).min(1.0), self.aggression));
        // Rounding must not make a caller return at once for the same step.
        let soonest = age + self.window.div_f64(STEPS * STEPS);
        Some(at.max(soonest).min(self.window))
    }
}

impl Default for SlowStart {
    fn default() -> Self {
        Self::new()
    }
}

/// The age in slow start: the time in which the endpoint was sent requests. Pure.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Age {
    passed: Duration,
    /// The time since which the age increases; `None` while it stands still, as it does at first.
    since: Option<Instant>,
}

impl Age {
    /// Whether the age increases.
    pub(crate) fn runs(self) -> bool {
        self.since.is_some()
    }

    /// Makes the age increase from now on.
    pub(crate) fn run(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Makes the age stand still from now on.
    pub(crate) fn stop(&mut self, now: Instant) {
        *self = Self {
            passed: self.at(now),
            since: None,
        };
    }

    pub(crate) fn at(self, now: Instant) -> Duration {
        let running = self.since.map(|since| now.saturating_duration_since(since));
        self.passed.saturating_add(running.unwrap_or_default())
    }
}

/// A shortcut: the exponent is usually 1, and each snapshot computes this for each endpoint in slow start.
fn power(base: f64, exponent: f64) -> f64 {
    if exponent == 1.0 {
        base
    } else {
        base.powf(exponent)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn the_share_grows_from_a_tenth_to_all() {
        let ramp = SlowStart::new();
        let shares = [0, 250, 500, 1_000, 2_500, 4_500, 5_000, 60_000]
            .map(|ms| ramp.factor(Duration::from_millis(ms)));
        assert_eq!(shares, [0.1, 0.1, 0.1, 0.2, 0.5, 0.9, 1.0, 1.0]);
    }

    #[test]
    fn aggression_bends_the_way_there() {
        let at = |aggression| {
            let ramp = SlowStart::new().aggression(aggression);
            ramp.factor(SEC * 5 / 4)
        };
        assert_eq!((at(1.0), at(2.0)), (0.25, 0.5));
        assert!(at(0.5) < at(1.0));
    }

    #[test]
    fn nobody_ramps_where_nobody_is_warm() {
        let ramp = SlowStart::new();
        assert!(!ramp.begins(0) && ramp.begins(1));
        for off in [
            SlowStart::new().window(Duration::ZERO),
            SlowStart::new().least(1.0),
            SlowStart::new().surge(1.0),
        ] {
            assert!(!off.begins(9));
        }
        let off = SlowStart::new().window(Duration::ZERO);
        assert_eq!(
            (off.factor(Duration::ZERO), off.next_change(Duration::ZERO)),
            (1.0, None)
        );
    }

    #[test]
    fn the_warm_ones_bear_half_as_much_again_at_most() {
        let ramp = SlowStart::new();
        assert_eq!(
            ramp.least_factor(9.0, 1.0),
            0.1,
            "one of ten: the usual ramp"
        );
        for (warm, ramping) in [(1.0, 9.0), (5.0, 5.0), (1.0, 1.0), (3.0, 1e6)] {
            let least = ramp.least_factor(warm, ramping);
            let surge = (warm + ramping) / (warm + least * ramping);
            assert!(surge < 1.5 + 1e-9, "{surge} with {warm} and {ramping}");
        }
        for (warm, ramping) in [
            (0.0, 0.0),
            (1.0, 0.0),
            (f64::INFINITY, 1.0),
            (1.0, f64::NAN),
        ] {
            assert_eq!(
                ramp.least_factor(warm, ramping),
                0.1,
                "{warm} and {ramping}"
            );
        }
    }

    #[test]
    fn an_age_stands_still_until_it_runs_and_when_it_is_stopped() {
        let start = Instant::now();
        let mut age = Age::default();
        assert_eq!((age.at(start + SEC), age.runs()), (Duration::ZERO, false));
        age.run(start + SEC);
        age.run(start + 2 * SEC);
        assert_eq!((age.at(start + 3 * SEC), age.runs()), (2 * SEC, true));
        assert_eq!(
            age.at(start),
            Duration::ZERO,
            "also for a clock that is behind"
        );
        age.stop(start + 3 * SEC);
        age.stop(start + 9 * SEC);
        assert_eq!((age.at(start + 10 * SEC), age.runs()), (2 * SEC, false));
        age.run(start + 10 * SEC);
        assert_eq!(age.at(start + 11 * SEC), 3 * SEC);
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        for (settings, field) in [
            (SlowStart::new().window(Duration::MAX), "slow_start.window"),
            (SlowStart::new().least(0.0), "slow_start.least"),
            (SlowStart::new().least(1.1), "slow_start.least"),
            (SlowStart::new().least(f64::NAN), "slow_start.least"),
            (SlowStart::new().aggression(0.0), "slow_start.aggression"),
            (
                SlowStart::new().aggression(f64::INFINITY),
                "slow_start.aggression",
            ),
            (SlowStart::new().surge(0.9), "slow_start.surge"),
            (SlowStart::new().surge(f64::NAN), "slow_start.surge"),
        ] {
            assert_eq!(settings.check().unwrap_err().field(), field);
        }
        assert!(SlowStart::new().surge(f64::INFINITY).check().is_ok());
    }

    proptest! {
        #[test]
        fn the_way_through_the_steps_ends_with_all(
            ms in 1u64..100_000, least in 0.01f64..1.0, aggression in 0.1f64..10.0,
        ) {
            let window = Duration::from_millis(ms);
            let ramp = SlowStart::new().window(window).least(least).aggression(aggression);
            prop_assert_eq!(ramp.check(), Ok(()));
            let (mut age, mut steps, mut share) = (Duration::ZERO, 0, 0.0);
            while let Some(next) = ramp.next_change(age) {
                prop_assert!(next > age && next <= window);
                let factor = ramp.factor(age);
                prop_assert!(factor >= share && factor >= least && factor <= 1.0);
                (age, share, steps) = (next, factor, steps + 1);
            }
            prop_assert!(steps <= 20, "{} steps", steps);
            prop_assert_eq!(ramp.factor(age), 1.0);
        }
    }
}
