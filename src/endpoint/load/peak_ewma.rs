//! Latency × requests in flight, where the latency estimate jumps up and decays slowly.
//!
//! The documentation of [`PeakEwma`] explains the estimate, the usual latency and the costs. [`level`]
//! explains how the estimate is stored. Reading it takes no lock and writes nothing.

mod level;
mod tracking;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use self::level::{PeakEwmaSettings, follow, nanos, seconds};
use super::{LoadTracker, Usual, usual::count};

/// Finagle's default, which linkerd and go-zero kept. A spike decays to 1 % in 46 s.
const DECAY: Duration = Duration::from_secs(10);

/// linkerd's default. It is above any latency that a client usually waits for.
const PENALTY: Duration = Duration::from_secs(5);

/// Nanoseconds. More than the resolution with which requests are timed.
const COARSEST: u64 = 1_000;

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

#[cfg(test)]
mod tests;
