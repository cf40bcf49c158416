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
//! - *Reading takes a lock and writes the decayed value back* (tower). Here
//!   `log2(estimate) + t / half-life` is stored: it does not change while time passes, so one atomic
//!   holds value and time together, and reading it is `2^(stored - now / half-life)`.
//! - *A fast failure looks like a fast endpoint* (tower; ingress-nginx#9882). Here a failure counts as
//!   the penalty, 5 s, when it came faster.
//! - *A new endpoint is taken for average, or gets a flood* (tower, go-zero). Here, as in Finagle, one
//!   that was never measured costs nothing while idle, and more than any other while its first
//!   request waits: it gets one probe, then waits for its answer.
//! - *An endpoint that hangs gets cheaper by the second*, because the estimate sinks while no sample
//!   comes (Finagle, tower). Here silence counts: with requests waiting, the estimate is at least the
//!   time since the last answer. A cancelled request proves one thing, that its answer takes longer
//!   than it waited, so it may raise the estimate and never lowers it. Else an endpoint that answers
//!   nothing while clients time out would end as the cheapest of all. After two in a row that waited for
//!   longer than answers take while nothing else was answered, the endpoint counts as one that failed: it
//!   gets a request a second until one is answered. Else each hedge that rescues a request would leave the
//!   endpoint idle, and the next request would go there.
//!
//! # What is usual
//! A maximum shows that an endpoint is slow, and not that two are equal: of two servers that differ in
//! nothing, one has seen the higher peak. So a plain mean is kept beside the estimate, and how far off it may be ([`Usual`], in
//! a file of its own). Policies [ask for it](LoadTracker::usual) to see whether there is any difference
//! before they compare estimates. What goes into it, and when it holds:
//!
//! - *A request that began before the first answer* is left out: it opened its connection, and what that took
//!   says little of the next. As long as there are fewer than two samples, the endpoint gets one
//!   request at a time.
//! - *A failure* leaves it as it is, and it does not hold before the next success.
//! - *A cancelled request* counts where it waited longer than the mean: so it only ever raises it.
//! - *A late answer*, longer than the mean by four deviations, means that it does not hold until the next
//!   answer that is not, or until the endpoint has been left alone for twice the estimate. *A request that
//!   waits* for so long means the same.
//!
//! # What it costs
//! A start and a record each change one counter; a busy endpoint's record does little else. By the
//! formula above a sample weighs as much as the time since the one before, and where hundreds
//! come in a millisecond each weighs next to nothing. So one that does not raise the estimate is left
//! out when it follows the last that was taken in within a ten-thousandth of the decay: the next gets
//! its weight too, and the estimate is off by a few ten-thousandths at most. Measured on one core, the clock not
//! included (`cargo bench --bench policies -- measure`):
//!
//! | | ns |
//! |---|---|
//! | start | 4 |
//! | record, left out | 14 |
//! | record, taken in | 31 |
//! | load | 10 |

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    LoadTracker, Outcome, Usual,
    log2::{exp2, log2},
    usual::count,
};

/// Finagle's default, which linkerd and go-zero kept: a spike is down to 1 % after 46 s.
const DECAY: Duration = Duration::from_secs(10);

/// linkerd's default: above any latency that a client usually waits for.
const PENALTY: Duration = Duration::from_secs(5);

/// Seconds that an endpoint costs while its first request waits: more than any that was measured,
/// also when divided by the largest weight. Added to, so that such endpoints differ by requests in
/// flight.
const UNMEASURED: f64 = 1e12;

/// Samples that follow within a decay divided by this need not each be taken in: 1 ms of 10 s. What is
/// left out then weighs a ten-thousandth, which is less than any two requests differ by.
const CLOSE: u64 = 10_000;

/// Answers within this time are swift: measured to tell who is slow, one of them says as much as each.
const SWIFT: Duration = Duration::from_micros(10);

/// In seconds: estimates up to this are the same to whoever compares without looking at the time. No more
/// than what a thread loses when it is interrupted, else one interruption costs all requests the clock.
const ALIKE: f64 = 50e-6;

/// Of the requests to an endpoint whose answers are swift, one in so many is timed. More would save
/// nothing that could be measured, and each is a request that is slow without being seen to be.
const ONE_IN: u32 = 16;

/// In nanoseconds, less a second.
const LONGEST: u64 = i64::MAX as u64 - 1_000_000_000;

/// In nanoseconds: more than the grain in which requests are timed.
const COARSEST: u64 = 1_000;

/// So long after its last answer, an endpoint whose last answer was a failure, or that let a request wait in
/// vain, gets one request to see whether it is back. A penalty is no latency: it would take a minute and more to sink to what others
/// take, while whoever restarts is back within seconds.
const SECOND_CHANCE: Duration = Duration::from_secs(1);

/// After a late answer an endpoint is not taken for an equal until it has been left alone for so many times
/// its estimate. The more, the sooner callers turn from what is slow for a while, and the less equal are
/// shares where latencies vary much; 2 is where both are better than with absolute deviations and no such
/// time (`cargo bench --bench quality`).
const SHUNNED: f64 = 2.0;

/// The last answer was not swift, or nothing is known.
const SLOW: u8 = 0;
/// It was, and the estimate remembers others: a process that is not run for a moment must not have
/// all requests timed for a minute.
const SWIFT_NOW: u8 = 1;
/// It was, and so is all that the estimate remembers.
const SWIFT_LONG: u8 = 2;

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
#[repr(C)]
pub struct PeakEwma {
    // What each pick reads comes first, to share its cache line with the count in flight.
    // All relaxed: each is read for itself, and a reader that sees one a moment before another
    // is off by that moment.
    /// Requests without an answer, of those that are timed.
    waiting: AtomicU32,
    /// Whether the last answer was a failure.
    failed: AtomicBool,
    /// How swift the last answer was: one of the three above.
    pace: AtomicU8,
    /// 0 before the first answer, and then one more than what `usual` has samples, as far as they are
    /// counted.
    answers: AtomicU8,
    /// Whether the last answer of which `usual` knows was late.
    late: AtomicBool,
    /// Bits of a [`Usual`].
    usual: AtomicU64,
    /// Bits of `log2(estimate) + nanoseconds since base × slope`; minus infinity while nothing is
    /// known.
    level: AtomicU64,
    /// When the last answer came, or the first of the waiting requests started, in nanoseconds since
    /// the base.
    heard: AtomicU64,
    /// The same for all endpoints of a balancer.
    settings: Arc<Settings>,
    /// When the last sample was taken in; 0 while there was none. No pick reads it.
    sampled: AtomicU64,
    /// When the first answer came; 0 while there was none. No pick reads it either.
    warm: AtomicU64,
}

#[derive(Debug)]
struct Settings {
    /// What times are counted from.
    base: Instant,
    decay: Duration,
    penalty: Duration,
    /// What the level loses in a nanosecond: `log2(e) / decay`.
    slope: f64,
    /// Nanoseconds for which a sample that does not raise the estimate is left out.
    close: u64,
}

impl Settings {
    fn new(decay: Duration, penalty: Duration, base: Instant) -> Arc<Self> {
        Arc::new(Self {
            base,
            decay,
            penalty,
            slope: std::f64::consts::LOG2_E / (decay.as_secs_f64() * 1e9),
            close: nanos(decay) / CLOSE,
        })
    }
}

impl PeakEwma {
    /// Creates a tracker with a decay of 10 s and a penalty of 5 s.
    pub fn new() -> Self {
        Self::with(Settings::new(DECAY, PENALTY, Instant::now()))
    }

    /// Sets the time in which an old estimate loses 63 % of its influence; 10 s by default, at least
    /// 1 ms. Short follows each hiccup and soon forgets who was slow; long shuns an endpoint well after
    /// it has recovered.
    #[must_use]
    pub fn decay(self, decay: Duration) -> Self {
        let decay = decay.max(Duration::from_millis(1));
        let Settings { penalty, base, .. } = *self.settings;
        Self::with(Settings::new(decay, penalty, base))
    }

    /// Sets the least latency that a failed request counts as; 5 s by default. Zero makes a failure
    /// count as long as it took; much more than the usual latency keeps an endpoint that failed
    /// once out of use for `decay * ln(penalty / usual latency)`.
    #[must_use]
    pub fn penalty(self, penalty: Duration) -> Self {
        let Settings { decay, base, .. } = *self.settings;
        Self::with(Settings::new(decay, penalty, base))
    }

    fn with(settings: Arc<Settings>) -> Self {
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

    /// In nanoseconds since the base.
    #[inline]
    fn clock(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.settings.base))
    }

    /// The estimate in seconds, sunk to `now`; 0 while nothing is known.
    fn estimate(&self, level: u64, now: u64) -> f64 {
        let level = f64::from_bits(level);
        if level == f64::NEG_INFINITY {
            return 0.0;
        }
        exp2(level - float(now) * self.settings.slope)
    }

    /// The level of an estimate made at `now`.
    fn level(&self, estimate: f64, now: u64) -> f64 {
        log2(estimate.max(SHORTEST)) + float(now) * self.settings.slope
    }

    /// Returns whether the sample was taken in.
    fn sample(&self, sample: Duration, now: u64) -> bool {
        // Not the maximum of both: the threads that finish at the same time differ by that time, and
        // the next answer puts it right.
        self.heard.store(now, Relaxed);
        let before = self.sampled.load(Relaxed);
        if before > 0 && now.saturating_sub(before) < self.settings.close {
            self.raise(sample, now);
            return false;
        }
        // Whoever moves the time on owns the interval: none counts twice.
        let before = self.sampled.fetch_max(now.max(1), Relaxed);
        let kept = exp2(float(now.saturating_sub(before)) * -self.settings.slope);
        let sample = seconds(nanos(sample));
        // The closure never declines, so this cannot fail.
        let _ = self.level.fetch_update(Relaxed, Relaxed, |level| {
            let next = follow(self.estimate(level, now), sample, kept);
            Some(self.level(next, now).to_bits())
        });
        true
    }

    #[inline]
    fn known(&self) -> Usual {
        Usual::from_bits(self.usual.load(Relaxed))
    }

    /// Takes an answer into what is usual. Where two threads do at the same moment, one of both is lost.
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

    /// Whether a request was given up after so long although nothing else was answered meanwhile, and that is
    /// longer than answers take here. `took` is in nanoseconds.
    fn is_silent(&self, took: u64, now: u64) -> bool {
        let silence = now.saturating_sub(self.heard.load(Relaxed));
        let usual = self.estimate(self.level.load(Relaxed), now);
        // Of one that never answered nobody knows how long that takes. What a request took is measured more
        // coarsely than when the last answer came.
        usual > 0.0 && silence.saturating_add(COARSEST) >= took && seconds(took) > usual
    }

    /// Writes only what changes: a store takes the cache line from other threads.
    fn set_pace(&self, pace: u8) {
        if self.pace.load(Relaxed) != pace {
            self.pace.store(pace, Relaxed);
        }
    }

    /// The answer takes at least this long.
    fn raise(&self, least: Duration, now: u64) {
        let raised = self.level(seconds(nanos(least)), now);
        // Declines, and writes nothing, when the level is as high already.
        let _ = self.level.fetch_update(Relaxed, Relaxed, |level| {
            (f64::from_bits(level) < raised).then_some(raised.to_bits())
        });
    }
}

/// Saturates after 292 years.
fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().min(LONGEST / 1_000_000_000);
    seconds * 1_000_000_000 + u64::from(duration.subsec_nanos())
}

/// Nanoseconds that fit into a signed number, which processors convert in one step.
fn float(nanos: u64) -> f64 {
    (nanos as i64) as f64
}

fn seconds(nanos: u64) -> f64 {
    float(nanos) * 1e-9
}

/// The estimate after a sample: `sunk` is the one before, already multiplied by `kept`.
fn follow(sunk: f64, sample: f64, kept: f64) -> f64 {
    sample.max(sunk + sample * (1.0 - kept))
}

/// A tracker with the same settings, which has measured nothing: what is measured is one endpoint's.
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
        // Times are counted from a base, and before it there are none.
        if now >= self.settings.base {
            return Self::with(Arc::clone(&self.settings));
        }
        let Settings { decay, penalty, .. } = *self.settings;
        Self::with(Settings::new(decay, penalty, now))
    }

    fn start(&self, now: Instant) {
        // Before it is counted: a reader must not see it wait since the last answer.
        if self.waiting.load(Relaxed) == 0 {
            self.heard.store(self.clock(now), Relaxed);
        }
        self.waiting.fetch_add(1, Relaxed);
    }

    #[inline]
    fn times(&self, nth: u32) -> bool {
        nth % ONE_IN == 0 || self.pace.load(Relaxed) == SLOW
    }

    #[inline]
    fn timeless(&self, in_flight: usize) -> Option<f64> {
        // With a request waiting, it depends on how long it has.
        let known = self.pace.load(Relaxed) == SWIFT_LONG && self.waiting.load(Relaxed) == 0;
        known.then_some(ALIKE * (in_flight as f64 + 1.0))
    }

    #[inline]
    fn may_lag(&self) -> bool {
        // An estimate only sinks. How long requests have waited, and since when one has failed, is
        // what must be known to the moment.
        !self.failed.load(Relaxed) && self.waiting.load(Relaxed) == 0
    }

    fn record(&self, outcome: Outcome, rtt: Duration, now: Instant) {
        let now = self.clock(now);
        let took = nanos(rtt);
        let began = now.saturating_sub(took);
        match outcome {
            Outcome::Success if self.failed.load(Relaxed) => {
                // The penalty has done its work, and nothing is known of latencies before it.
                self.failed.store(false, Relaxed);
                self.heard.store(now, Relaxed);
                self.sampled.fetch_max(now.max(1), Relaxed);
                let level = self.level(seconds(took), now);
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
                // The second in a row: one alone may be that request's own.
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
        } else if self.estimate(self.level.load(Relaxed), now) > ALIKE {
            SWIFT_NOW
        } else {
            SWIFT_LONG
        });
        self.waiting.fetch_sub(1, Relaxed);
    }

    fn penalize(&self, now: Instant) {
        let now = self.clock(now);
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
        // What one sample says is little: one request at a time until there are two.
        if waiting && answers <= 2 {
            return None;
        }
        if waiting || self.late.load(Relaxed) {
            let now = self.clock(now());
            let silence = seconds(now.saturating_sub(self.heard.load(Relaxed)));
            if waiting && usual.is_late(silence, answers - 1) {
                return None;
            }
            // Also while it waits: the next answer tells.
            let estimate = || self.estimate(self.level.load(Relaxed), now);
            if self.late.load(Relaxed) && silence < SHUNNED * estimate() {
                return None;
            }
        }
        Some(usual)
    }

    fn load(&self, in_flight: usize, now: Instant) -> f64 {
        let now = self.clock(now);
        let waiting = self.waiting.load(Relaxed) > 0;
        if waiting && self.answers.load(Relaxed) == 0 && !self.failed.load(Relaxed) {
            return UNMEASURED + in_flight as f64;
        }
        let silence = now.saturating_sub(self.heard.load(Relaxed));
        if !waiting && self.failed.load(Relaxed) && silence >= nanos(SECOND_CHANCE) {
            return 0.0;
        }
        let mut estimate = self.estimate(self.level.load(Relaxed), now);
        if waiting {
            estimate = estimate.max(seconds(silence));
        }
        estimate * (in_flight as f64 + 1.0)
    }
}

#[cfg(test)]
mod tests;
