//! What a [`PeakEwma`] measures of each request, and the loads that picks read.

use std::{sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;

use super::{
    PeakEwma, SLOW, SWIFT_LONG, SWIFT_NOW,
    level::{PeakEwmaSettings, nanos, seconds},
};
use crate::endpoint::load::{LoadTracker, Outcome, Usual};

/// Seconds. The estimate of an endpoint while its first request waits. It is above any measured load,
/// also when that is divided by the largest weight. The requests in flight are added, so that such
/// endpoints still differ.
const UNMEASURED: f64 = 1e12;

/// Responses within this time are swift. One of them shows as well as many that the endpoint is not
/// slow.
const SWIFT: Duration = Duration::from_micros(10);

/// Seconds. Estimates of up to this count as equal when loads are compared without the time. It is not
/// below the time that a thread loses when it is interrupted; otherwise one interruption would cause a
/// clock read for all requests.
const ALIKE: f64 = 50e-6;

/// Of the requests to an endpoint with swift responses, one in this number is timed. A larger number
/// saves nothing that can be measured, and delays the detection of slow responses.
const ONE_IN: u32 = 16;

/// An endpoint whose last request failed, or which let a request wait in vain, gets one request after
/// this time since its last response. A penalty is not a latency: it would take a minute or more to
/// decay to what other endpoints take, while a restarted endpoint is available within seconds.
const SECOND_CHANCE: Duration = Duration::from_secs(1);

/// After a late response, an endpoint does not count as equal to others until it had no request for this
/// number of times its estimate. With a larger number, clients avoid endpoints with slow phases sooner,
/// and shares are less equal where latencies vary much. With 2, both are better than with absolute
/// deviations and no such time (`cargo bench --bench quality`).
const SHUNNED: f64 = 2.0;

impl LoadTracker for PeakEwma {
    fn fresh(&self, now: Instant) -> Self {
        // Times before the base cannot be stored.
        if now >= self.settings.base {
            return Self::with(Arc::clone(&self.settings));
        }
        let PeakEwmaSettings { decay, penalty, .. } = *self.settings;
        Self::with(PeakEwmaSettings::new(decay, penalty, now))
    }

    fn start(&self, now: Instant) {
        // Stored before the request is counted. Otherwise a reader could see the request wait since the
        // last response.
        if self.waiting.load(Relaxed) == 0 {
            self.heard.store(self.settings.clock(now), Relaxed);
        }
        self.waiting.fetch_add(1, Relaxed);
    }

    #[inline]
    fn times(&self, nth: u32) -> bool {
        nth.is_multiple_of(ONE_IN) || self.pace.load(Relaxed) == SLOW
    }

    #[inline]
    fn timeless(&self, in_flight: usize) -> Option<f64> {
        // While a request waits, the load depends on how long it has waited.
        let known = self.pace.load(Relaxed) == SWIFT_LONG && self.waiting.load(Relaxed) == 0;
        known.then_some(ALIKE * (in_flight as f64 + 1.0))
    }

    #[inline]
    fn may_lag(&self) -> bool {
        // Without failures and waiting requests, the load only decays, so an older time is exact enough.
        // The time of waiting, and the time since a failure, must be exact.
        !self.failed.load(Relaxed) && self.waiting.load(Relaxed) == 0
    }

    fn record(&self, outcome: Outcome, rtt: Duration, now: Instant) {
        let now = self.settings.clock(now);
        let took = nanos(rtt);
        let began = now.saturating_sub(took);
        match outcome {
            Outcome::Success if self.failed.load(Relaxed) => {
                // The success replaces the penalty. The latencies before the failure are not known any
                // more.
                self.failed.store(false, Relaxed);
                self.heard.store(now, Relaxed);
                self.sampled.fetch_max(now.max(1), Relaxed);
                let level = self.settings.level(seconds(took), now);
                self.level.store(level.to_bits(), Relaxed);
                self.learn(seconds(took), began, now);
            }
            Outcome::Success => {
                if self.sample(rtt, now) {
                    self.learn(seconds(took), began, now);
                }
            }
            Outcome::Failure | Outcome::Overloaded => {
                self.failed.store(true, Relaxed);
                self.sample(rtt.max(self.settings.penalty), now);
            }
            Outcome::Cancelled => {
                // This must be the second late request in a row. A single one may be late because of the
                // request itself.
                if self.late.load(Relaxed) && self.is_silent(took, now) {
                    self.failed.store(true, Relaxed);
                    self.heard.store(now, Relaxed);
                    self.raise(rtt.max(self.settings.penalty), now);
                }
                self.raise(rtt, now);
                let usual = self.known();
                if usual.is_known() && seconds(took) > usual.mean() {
                    self.learn(seconds(took), began, now);
                }
            }
        }
        self.set_pace(if outcome != Outcome::Success || rtt > SWIFT {
            SLOW
        } else if self.settings.estimate(self.level.load(Relaxed), now) > ALIKE {
            SWIFT_NOW
        } else {
            SWIFT_LONG
        });
        self.waiting.fetch_sub(1, Relaxed);
    }

    fn penalize(&self, now: Instant) {
        let now = self.settings.clock(now);
        self.failed.store(true, Relaxed);
        self.heard.store(now, Relaxed);
        self.raise(self.settings.penalty, now);
        self.set_pace(SLOW);
    }

    fn forget(&self, _: Instant) {
        self.level.store(f64::NEG_INFINITY.to_bits(), Relaxed);
        self.sampled.store(0, Relaxed);
        self.failed.store(false, Relaxed);
        self.answers.store(0, Relaxed);
        self.late.store(false, Relaxed);
        self.usual.store(Usual::UNKNOWN.to_bits(), Relaxed);
        self.set_pace(SLOW);
    }

    #[inline]
    fn usual(&self, now: &mut dyn FnMut() -> Instant) -> Option<Usual> {
        let answers = self.answers.load(Relaxed);
        if answers == 0 || self.failed.load(Relaxed) {
            return None;
        }
        let usual = self.known();
        let waiting = self.waiting.load(Relaxed) > 0;
        // One sample says little, so the endpoint gets one request at a time until there are two
        // samples.
        if waiting && answers <= 2 {
            return None;
        }
        if waiting || self.late.load(Relaxed) {
            let now = self.settings.clock(now());
            let silence = seconds(now.saturating_sub(self.heard.load(Relaxed)));
            if waiting && usual.is_late(silence, answers - 1) {
                return None;
            }
            // This also applies while a request waits: its response will show whether the endpoint is
            // still late.
            let estimate = || self.settings.estimate(self.level.load(Relaxed), now);
            if self.late.load(Relaxed) && silence < SHUNNED * estimate() {
                return None;
            }
        }
        Some(usual)
    }

    fn load(&self, in_flight: usize, now: Instant) -> f64 {
        let now = self.settings.clock(now);
        let waiting = self.waiting.load(Relaxed) > 0;
        if waiting && self.answers.load(Relaxed) == 0 && !self.failed.load(Relaxed) {
            return UNMEASURED + in_flight as f64;
        }
        let silence = now.saturating_sub(self.heard.load(Relaxed));
        if !waiting && self.failed.load(Relaxed) && silence >= nanos(SECOND_CHANCE) {
            return 0.0;
        }
        let mut estimate = self.settings.estimate(self.level.load(Relaxed), now);
        if waiting {
            estimate = estimate.max(seconds(silence));
        }
        estimate * (in_flight as f64 + 1.0)
    }
}
