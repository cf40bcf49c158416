//! Latency × requests in flight, where the latency estimate jumps up and decays slowly.
//!
//! The documentation of [`PeakEwma`] explains the estimate, the usual latency and the costs. [`level`]
//! explains how the estimate is stored. Reading it takes no lock and writes nothing.

mod level;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use self::level::{PeakEwmaSettings, follow, nanos, seconds};
use super::{LoadTracker, Outcome, Usual, usual::count};

/// Finagle's default, which linkerd and go-zero kept. A spike decays to 1 % in 46 s.
const DECAY: Duration = Duration::from_secs(10);

/// linkerd's default. It is above any latency that a client usually waits for.
const PENALTY: Duration = Duration::from_secs(5);

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

/// Nanoseconds. More than the resolution with which requests are timed.
const COARSEST: u64 = 1_000;

/// An endpoint whose last request failed, or which let a request wait in vain, gets one request after
/// this time since its last response. A penalty is not a latency: it would take a minute or more to
/// decay to what other endpoints take, while a restarted endpoint is available within seconds.
const SECOND_CHANCE: Duration = Duration::from_secs(1);

/// After a late response, an endpoint does not count as equal to others until it had no request for this
/// number of times its estimate. With a larger number, clients avoid endpoints with slow phases sooner,
/// and shares are less equal where latencies vary much. With 2, both are better than with absolute
/// deviations and no such time (`cargo bench --bench quality`).
const SHUNNED: f64 = 2.0;

/// The last response was not swift, or nothing is known.
const SLOW: u8 = 0;
/// The last response was swift, but the estimate still includes slower ones. A process that was paused
/// for a moment must not cause all requests to be timed for a minute.
const SWIFT_NOW: u8 = 1;
/// The last response was swift, and the estimate includes no slower ones.
const SWIFT_LONG: u8 = 2;

/// Load as a latency estimate, in seconds, times the requests in flight plus one.
///
/// # How it works
/// This is Finagle's *peak EWMA*. The estimate jumps to a sample above it, and otherwise follows the
/// exponentially weighted mean. With `w = exp(-time since the last sample / decay)`:
///
/// ```text
/// estimate' = max(sample, estimate × w + sample × (1 - w))       load = estimate × (in flight + 1)
/// ```
///
/// The `max` is the jump: the mean is below the sample exactly when the estimate is. Between samples,
/// the estimate decays by the same `w`, so that an endpoint which was slow once is chosen again later.
/// It differs from known implementations in these points:
///
/// - *Reading a load* takes no lock and writes nothing. In tower, it takes a lock and stores the decayed
///   value.
/// - *A failure* counts as at least the penalty, 5 s by default. In tower (and ingress-nginx#9882), an
///   endpoint that fails fast looks like a fast endpoint.
/// - *A new endpoint* has load 0 while idle, and more load than any other while its first request waits,
///   as in Finagle. So it gets one probe, and no more requests before the response. In tower and
///   go-zero, it counts as average or gets very many requests.
/// - *An endpoint that does not respond* gets no cheaper. In Finagle and tower, its estimate decays
///   while no sample arrives. Here the estimate is at least the time since the last response while
///   requests wait. A cancelled request only shows that its response takes longer than it waited, so it
///   may raise the estimate and never lowers it.
/// - *An endpoint that lets requests wait in vain* counts as failed. It does so after two cancelled
///   requests in a row that waited for longer than responses take, with no other response meanwhile. It
///   then gets one request a second until it responds. Otherwise each hedge that rescues a request would
///   leave the endpoint idle, and the next request would go there.
///
/// # Usual latency
/// The estimate is a maximum. It shows that an endpoint is slow, but not that two endpoints are equal:
/// of two equal servers, one has seen the higher peak. So the tracker also keeps a plain mean and its
/// standard error ([`Usual`]). Policies [ask for it](LoadTracker::usual) to check whether endpoints
/// differ before they compare estimates. These rules apply:
///
/// - *A request that began before the first response* is left out. It opened its connection, and the
///   time for that says little about the next request. While there are fewer than two samples, the
///   endpoint gets one request at a time.
/// - *A failure* does not change the mean. The usual latency does not hold until the next success.
/// - *A cancelled request* is a sample if it waited for longer than the mean, so it only raises the
///   mean.
/// - *A late response* took longer than the mean plus four deviations plus 0.5 ms. After it, the usual
///   latency does not hold until a response that is not late, or until the endpoint had no request for
///   twice the estimate. *A request that waits* for that long has the same effect while it waits.
///
/// # Costs
/// A start and a record each change one counter; a record of a busy endpoint does little more. By the
/// formula above, a sample weighs as much as the time since the one before, so among hundreds in a
/// millisecond each weighs almost nothing. A sample that does not raise the estimate is left out when it
/// follows the last one within a ten-thousandth of the decay. The next sample gets its weight too, and
/// the estimate is off by at most a few ten-thousandths. Measured on one core, without reading the clock
/// (`cargo bench --bench policies -- measure`):
///
/// | | ns |
/// |---|---|
/// | start | 4 |
/// | record, left out | 14 |
/// | record, taken in | 31 |
/// | load | 10 |
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use tower_roster::endpoint::load::PeakEwma;
///
/// let load = PeakEwma::new().decay(Duration::from_secs(30)).penalty(Duration::from_secs(1));
/// ```
#[derive(Debug)]
#[repr(C)]
pub struct PeakEwma {
    // The fields that each pick reads come first, to share a cache line with the count of requests in
    // flight. All accesses are relaxed: each value is used on its own. A reader that sees one value a
    // moment before another is wrong by that moment.
    /// The number of timed requests that have no response yet.
    waiting: AtomicU32,
    /// Whether the last request failed.
    failed: AtomicBool,
    /// `SLOW`, `SWIFT_NOW` or `SWIFT_LONG`.
    pace: AtomicU8,
    /// 0 before the first response, then one more than the number of samples in `usual`, which is
    /// counted up to its window.
    answers: AtomicU8,
    /// Whether the last sample of `usual` was late.
    late: AtomicBool,
    /// Bits of a [`Usual`].
    usual: AtomicU64,
    /// Bits of `log2(estimate) + nanoseconds since base × slope`; minus infinity while nothing is known.
    level: AtomicU64,
    /// The time of the last response, or of the start of the first request that waits, in nanoseconds
    /// since the base.
    heard: AtomicU64,
    /// The settings, shared by all endpoints of a balancer.
    settings: Arc<PeakEwmaSettings>,
    /// The time of the last sample that was taken in, in nanoseconds since the base; 0 before the first.
    /// Picks do not read it.
    sampled: AtomicU64,
    /// The time of the first response, in nanoseconds since the base; 0 before it. Picks do not read it.
    warm: AtomicU64,
}

impl PeakEwma {
    /// Creates a tracker with a decay of 10 s and a penalty of 5 s.
    pub fn new() -> Self {
        Self::with(PeakEwmaSettings::new(DECAY, PENALTY, Instant::now()))
    }

    /// Sets the time in which an old estimate loses 63 % of its influence; 10 s by default, at least
    /// 1 ms. With a short decay, the estimate follows each fluctuation and soon forgets that an endpoint
    /// was slow. With a long decay, an endpoint is avoided for long after it has recovered.
    #[must_use]
    pub fn decay(self, decay: Duration) -> Self {
        let decay = decay.max(Duration::from_millis(1));
        let PeakEwmaSettings { penalty, base, .. } = *self.settings;
        Self::with(PeakEwmaSettings::new(decay, penalty, base))
    }

    /// Sets the least latency that a failed request counts as; 5 s by default. With zero, a failure
    /// counts as the time that it took. With a penalty far above the usual latency, an endpoint that
    /// failed once gets fewer requests for about `decay * ln(penalty / usual latency)`.
    #[must_use]
    pub fn penalty(self, penalty: Duration) -> Self {
        let PeakEwmaSettings { decay, base, .. } = *self.settings;
        Self::with(PeakEwmaSettings::new(decay, penalty, base))
    }

    fn with(settings: Arc<PeakEwmaSettings>) -> Self {
        Self {
            waiting: AtomicU32::new(0),
            failed: AtomicBool::new(false),
            pace: AtomicU8::new(SLOW),
            answers: AtomicU8::new(0),
            late: AtomicBool::new(false),
            usual: AtomicU64::new(Usual::UNKNOWN.to_bits()),
            level: AtomicU64::new(f64::NEG_INFINITY.to_bits()),
            heard: AtomicU64::new(0),
            settings,
            sampled: AtomicU64::new(0),
            warm: AtomicU64::new(0),
        }
    }

    /// Updates the estimate. Returns whether the sample was taken in.
    fn sample(&self, sample: Duration, now: u64) -> bool {
        // A plain store, not the maximum. Threads that finish at the same time differ by moments, and
        // the next response corrects it.
        self.heard.store(now, Relaxed);
        let before = self.sampled.load(Relaxed);
        if before > 0 && now.saturating_sub(before) < self.settings.close {
            self.raise(sample, now);
            return false;
        }
        // The thread that moves the time forward uses the interval, so no interval counts twice.
        let before = self.sampled.fetch_max(now.max(1), Relaxed);
        let kept = self.settings.kept(now.saturating_sub(before));
        let sample = seconds(nanos(sample));
        // The closure never returns `None`, so this cannot fail.
        let _ = self.level.fetch_update(Relaxed, Relaxed, |level| {
            let next = follow(self.settings.estimate(level, now), sample, kept);
            Some(self.settings.level(next, now).to_bits())
        });
        true
    }

    #[inline]
    fn known(&self) -> Usual {
        Usual::from_bits(self.usual.load(Relaxed))
    }

    /// Adds a response to the usual latency. When two threads do so at the same time, one of the samples
    /// is lost.
    fn learn(&self, sample: f64, began: u64, now: u64) {
        let answers = self.answers.load(Relaxed);
        if answers == 0 {
            self.warm.store(now, Relaxed);
            self.answers.store(1, Relaxed);
        } else if began >= self.warm.load(Relaxed) {
            let usual = self.known();
            let late = usual.is_late(sample, answers - 1);
            if self.late.load(Relaxed) != late {
                self.late.store(late, Relaxed);
            }
            let usual = usual.and(sample, answers - 1);
            self.usual.store(usual.to_bits(), Relaxed);
            let counted = count(answers - 1) + 1;
            if answers != counted {
                self.answers.store(counted, Relaxed);
            }
        }
    }

    /// Whether a cancelled request shows that the endpoint does not respond: the request waited for
    /// longer than responses take, and no other response arrived meanwhile. `took` is in nanoseconds.
    fn is_silent(&self, took: u64, now: u64) -> bool {
        let silence = now.saturating_sub(self.heard.load(Relaxed));
        let usual = self.settings.estimate(self.level.load(Relaxed), now);
        // Before the first response, the usual time is not known. The duration of a request is measured
        // less exactly than the time of the last response.
        usual > 0.0 && silence.saturating_add(COARSEST) >= took && seconds(took) > usual
    }

    /// Writes only a changed value, because a store takes the cache line from other threads.
    fn set_pace(&self, pace: u8) {
        if self.pace.load(Relaxed) != pace {
            self.pace.store(pace, Relaxed);
        }
    }

    /// Raises the estimate to at least this latency.
    fn raise(&self, least: Duration, now: u64) {
        let raised = self.settings.level(seconds(nanos(least)), now);
        // The closure returns `None`, and nothing is written, when the level is already as high.
        let _ = self.level.fetch_update(Relaxed, Relaxed, |level| {
            (f64::from_bits(level) < raised).then_some(raised.to_bits())
        });
    }
}

/// Makes a tracker with the same settings and without measurements, because measurements belong to one
/// endpoint.
impl Clone for PeakEwma {
    fn clone(&self) -> Self {
        self.fresh(Instant::now())
    }
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self::new()
    }
}

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
        nth % ONE_IN == 0 || self.pace.load(Relaxed) == SLOW
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

#[cfg(test)]
mod tests;
