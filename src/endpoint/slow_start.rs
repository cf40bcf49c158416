//! Slow start: an endpoint that is new, restored or at another address gets a small share first, and
//! its full share soon.
//!
//! Caches are cold, pools empty, code not compiled: a full share at once is a burst of slow answers.
//! The share grows as in [Envoy], `max(least, (age / window)^(1 / aggression))`, which multiplies the
//! weight, so that every policy that heeds weights ramps, those by latency too. What went wrong with
//! that elsewhere, and what is done about it:
//!
//! - *Starved for ever*: a tiny weight put an endpoint's turn so far away that it got nothing even when
//!   its window was over (envoy#19526, #29259). Here the factor is 1 exactly from the end of the window,
//!   never below 1 % before, and [`Ramp::next_change`] says when weights must be prepared anew.
//! - *Useless when all are new*: then nothing is warm, and the ramp would only make shares depend on
//!   the order of arrival. [`Ramp::begins`] says so, and when no endpoint is warm any more the ramps end.
//! - *A flood for the rest*: one warm endpoint among nine new ones gets half of all requests where a tenth is
//!   its due (envoy#26290). [`Ramp::least`] raises the least factor until no endpoint gets
//!   more than half as much again as its due.
//! - *A ramp for each blink*: a registry or a health check that flaps delists an endpoint for a moment,
//!   and when each return begins a ramp, most of the service ramps for as long as that lasts. With one
//!   server after the other delisted for 200 ms, at 70 % of what all can bear, the 99th percentile was
//!   three times what it is without (`cargo bench --bench quality storm`). So the age belongs to the
//!   process, not to the listing: see below.
//!
//! # What counts as warming
//! The age of a ramp is the time for which the endpoint was sent requests, as only requests warm it.
//! Time away from the registry and time at weight 0 count for nothing: the age stands still ([`Age`]).
//! It is not turned back either. What was filled in the process stays as long as the process, and
//! an endpoint that was delisted for a moment has lost nothing; if time away cooled an endpoint, a flapping
//! one would never be warm, and its requests would be slow because of the flapping alone. So within the
//! grace of the balancer a warm endpoint comes back warm, and any other goes on where it was.
//!
//! A new age begins with whatever says that the process is another one: another key, another address, a
//! new generation of the registration (where the registry says so), an ejection, or an absence beyond
//! the grace. A process that was restarted within the grace at the same address looks the same in a
//! registry without generations, and comes back warm there, unless each start has another id.
//!
//! [Envoy]: https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/slow_start

use std::time::Duration;

use tokio::time::Instant;

use crate::error::ConfigError;

/// Half of the ten seconds within which an endpoint that returned should have its full share: the other
/// half is for noticing that it returned.
const WINDOW: Duration = Duration::from_secs(5);

/// Envoy's.
const LEAST: f64 = 0.1;

/// Envoy's: the share grows evenly.
const AGGRESSION: f64 = 1.0;

/// Endpoints are sized for more than their mean load; twice is where they often end. This leaves
/// room for chance.
const SURGE: f64 = 1.5;

/// Weights change in steps of a tenth: each step prepares the policy anew, off the path of requests.
const STEPS: f64 = 10.0;

/// Settings of slow start: an endpoint that is new, restored after an ejection, or at another address gets
/// a small share first.
///
/// What counts is the time for which an endpoint was sent requests. Time away from the registry (within
/// the [grace](crate::balance::BalanceBuilder::grace) of the balancer) and time at weight 0 make it neither
/// warmer nor colder.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use tower_roster::endpoint::SlowStart;
///
/// let ramp = SlowStart::new().build()?;
/// assert_eq!(ramp.factor(Duration::ZERO), 0.1);
/// assert_eq!(ramp.factor(Duration::from_secs(5)), 1.0);
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
///
/// Longer, and steeper at first:
/// ```
/// use std::time::Duration;
/// use tower_roster::endpoint::SlowStart;
///
/// let ramp = SlowStart::new().window(Duration::from_secs(30)).aggression(2.0).build()?;
/// assert_eq!(ramp.factor(Duration::from_millis(7_500)), 0.5);
/// # Ok::<_, tower_roster::ConfigError>(())
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

    /// Sets how long it takes to the full share; 5 s by default, at most a day. Zero switches slow
    /// start off.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets the share to begin with, from 0.01 to 1 of the full one; 0.1 by default. 1 switches slow
    /// start off; very little shows nothing until it has grown.
    #[must_use]
    pub fn least(mut self, share: f64) -> Self {
        self.least = share;
        self
    }

    /// Sets the shape, from 0.1 to 10: 1, the default, grows evenly; above it grows fast at first and
    /// below it at last.
    #[must_use]
    pub fn aggression(mut self, aggression: f64) -> Self {
        self.aggression = aggression;
        self
    }

    /// Sets how many times its due an endpoint may get because others ramp, at least 1; 1.5 by default.
    /// 1 switches slow start off, infinity lets the others bear it all.
    #[must_use]
    pub fn surge(mut self, factor: f64) -> Self {
        self.surge = factor;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When one is out of its range.
    pub fn build(self) -> Result<Ramp, ConfigError> {
        if self.window > Duration::from_secs(86_400) {
            return Err(ConfigError::new(
                "slow_start.window",
                format!("{:?} must be at most a day", self.window),
            ));
        }
        for (field, value, range) in [
            ("slow_start.least", self.least, 0.01..=1.0),
            ("slow_start.aggression", self.aggression, 0.1..=10.0),
            ("slow_start.surge", self.surge, 1.0..=f64::INFINITY),
        ] {
            if !range.contains(&value) {
                let (from, to) = (range.start(), range.end());
                return Err(ConfigError::new(
                    field,
                    format!("{value} must be from {from} to {to}"),
                ));
            }
        }
        Ok(Ramp {
            window: self.window,
            least: self.least,
            aggression: self.aggression,
            surge: self.surge,
        })
    }
}

impl Default for SlowStart {
    fn default() -> Self {
        Self::new()
    }
}

/// How an endpoint's share grows; made by [`SlowStart::build`]. Pure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    window: Duration,
    least: f64,
    aggression: f64,
    surge: f64,
}

impl Ramp {
    /// Whether endpoints that are new or back ramp, in a set with so many that take requests and have
    /// their full share. In the first set, and in one that is all new, none does.
    pub fn begins(&self, warm: usize) -> bool {
        warm > 0 && !self.window.is_zero() && self.least < 1.0 && self.surge > 1.0
    }

    /// What to multiply the weight with at this age; from the end of the window on 1 exactly.
    pub fn factor(&self, age: Duration) -> f64 {
        factor(age, self.window, self.least, self.aggression)
    }

    /// The least factor for a set with these sums of weights: of the endpoints that have their full
    /// share, and of those that ramp. Use the larger of this and [`factor`](Self::factor).
    ///
    /// With `warm + factor × ramping` as the whole, each warm endpoint gets
    /// `(warm + ramping) / (warm + factor × ramping)` times its due; this keeps that within the surge.
    pub fn least(&self, warm: f64, ramping: f64) -> f64 {
        let needed = ((warm + ramping) / self.surge - warm) / ramping;
        // Also when it is no number, with none or infinitely many on one side.
        if needed > self.least {
            needed.min(1.0)
        } else {
            self.least
        }
    }

    /// The age at which the factor has next changed enough to prepare weights anew; `None` from the end
    /// of the window on.
    pub fn next_change(&self, age: Duration) -> Option<Duration> {
        if age >= self.window {
            return None;
        }
        let share = (self.factor(age) * STEPS + 1e-6).floor() + 1.0;
        let at = self
            .window
            .mul_f64(power((share / STEPS).min(1.0), self.aggression));
        // Rounding must not make a caller come back for the same step at once.
        let soonest = age + self.window.div_f64(STEPS * STEPS);
        Some(at.max(soonest).min(self.window))
    }
}

impl Default for Ramp {
    fn default() -> Self {
        SlowStart::new().build().expect("the defaults are in range")
    }
}

/// The age of a ramp: for how long the endpoint has been sent requests. Pure.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Age {
    passed: Duration,
    /// Since when more time passes; `None` while the age stands still, as it does at first.
    since: Option<Instant>,
}

impl Age {
    /// Whether time passes.
    pub(crate) fn runs(self) -> bool {
        self.since.is_some()
    }

    /// Has time pass from now on.
    pub(crate) fn run(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Has the age stand still from now on.
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

/// The share, from `least` to 1, that an endpoint of this `age` should have of its full one.
fn factor(age: Duration, window: Duration, least: f64, aggression: f64) -> f64 {
    if age >= window {
        return 1.0;
    }
    let passed = age.as_secs_f64() / window.as_secs_f64();
    power(passed, 1.0 / aggression).clamp(least, 1.0)
}

/// Mostly the exponent is 1, and this is asked of each endpoint that ramps, for each snapshot.
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
        let ramp = Ramp::default();
        let shares = [0, 250, 500, 1_000, 2_500, 4_500, 5_000, 60_000]
            .map(|ms| ramp.factor(Duration::from_millis(ms)));
        assert_eq!(shares, [0.1, 0.1, 0.1, 0.2, 0.5, 0.9, 1.0, 1.0]);
    }

    #[test]
    fn aggression_bends_the_way_there() {
        let at = |aggression| {
            let ramp = SlowStart::new().aggression(aggression).build().unwrap();
            ramp.factor(SEC * 5 / 4)
        };
        assert_eq!((at(1.0), at(2.0)), (0.25, 0.5));
        assert!(at(0.5) < at(1.0));
    }

    #[test]
    fn nobody_ramps_where_nobody_is_warm() {
        let ramp = Ramp::default();
        assert!(!ramp.begins(0) && ramp.begins(1));
        for off in [
            SlowStart::new().window(Duration::ZERO),
            SlowStart::new().least(1.0),
            SlowStart::new().surge(1.0),
        ] {
            assert!(!off.build().unwrap().begins(9));
        }
        let off = SlowStart::new().window(Duration::ZERO).build().unwrap();
        assert_eq!(
            (off.factor(Duration::ZERO), off.next_change(Duration::ZERO)),
            (1.0, None)
        );
    }

    #[test]
    fn the_warm_ones_bear_half_as_much_again_at_most() {
        let ramp = Ramp::default();
        assert_eq!(ramp.least(9.0, 1.0), 0.1, "one of ten: the usual ramp");
        for (warm, ramping) in [(1.0, 9.0), (5.0, 5.0), (1.0, 1.0), (3.0, 1e6)] {
            let least = ramp.least(warm, ramping);
            let surge = (warm + ramping) / (warm + least * ramping);
            assert!(surge < 1.5 + 1e-9, "{surge} with {warm} and {ramping}");
        }
        for (warm, ramping) in [
            (0.0, 0.0),
            (1.0, 0.0),
            (f64::INFINITY, 1.0),
            (1.0, f64::NAN),
        ] {
            assert_eq!(ramp.least(warm, ramping), 0.1, "{warm} and {ramping}");
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
            assert_eq!(settings.build().unwrap_err().field(), field);
        }
        assert!(SlowStart::new().surge(f64::INFINITY).build().is_ok());
    }

    proptest! {
        #[test]
        fn the_way_through_the_steps_ends_with_all(
            ms in 1u64..100_000, least in 0.01f64..1.0, aggression in 0.1f64..10.0,
        ) {
            let window = Duration::from_millis(ms);
            let settings = SlowStart::new().window(window).least(least).aggression(aggression);
            let ramp = settings.build().unwrap();
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
