//! A decaying estimate as one number: `log2(estimate) + t / half-life`.
//!
//! This level does not change while time passes, so one atomic holds value and time together, and the
//! estimate at `now` is `2^(level - now / half-life)`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::endpoint::load::log2::{exp2, log2};

/// A sample may be left out when it follows within the decay divided by this, which is 1 ms for 10 s. It
/// would weigh less than a ten-thousandth, which is less than the difference between any two requests.
const CLOSE: u64 = 10_000;

/// The number of nanoseconds at which durations saturate. It is one second below the limit of `i64`.
const LONGEST: u64 = i64::MAX as u64 - 1_000_000_000;

/// Seconds. The least latency that is assumed. It is below the resolution of any clock, and keeps the
/// logarithm finite.
const SHORTEST: f64 = 1e-9;

/// The settings of a tracker, with the conversions that they determine.
#[derive(Debug)]
pub(super) struct PeakEwmaSettings {
    /// The zero point of all times.
    pub(super) base: Instant,
    pub(super) decay: Duration,
    pub(super) penalty: Duration,
    /// The decay of the level per nanosecond: `log2(e) / decay`.
    slope: f64,
    /// Nanoseconds after a sample within which one that does not raise the estimate is left out.
    pub(super) close: u64,
}

impl PeakEwmaSettings {
    pub(super) fn new(decay: Duration, penalty: Duration, base: Instant) -> Arc<Self> {
        Arc::new(Self {
            base,
            decay,
            penalty,
            slope: std::f64::consts::LOG2_E / (decay.as_secs_f64() * 1e9),
            close: nanos(decay) / CLOSE,
        })
    }

    /// A time in nanoseconds since the base.
    #[inline]
    pub(super) fn clock(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.base))
    }

    /// The estimate in seconds, decayed to `now`; 0 while nothing is known.
    #[inline]
    pub(super) fn estimate(&self, level: u64, now: u64) -> f64 {
        let level = f64::from_bits(level);
        if level == f64::NEG_INFINITY {
            return 0.0;
        }
        exp2(level - float(now) * self.slope)
    }

    /// The level that stores an estimate made at `now`.
    #[inline]
    pub(super) fn level(&self, estimate: f64, now: u64) -> f64 {
        log2(estimate.max(SHORTEST)) + float(now) * self.slope
    }

    /// The part of an estimate that is left after some nanoseconds.
    #[inline]
    pub(super) fn kept(&self, nanos: u64) -> f64 {
        exp2(float(nanos) * -self.slope)
    }
}

/// The duration in nanoseconds. It saturates after 292 years.
#[inline]
pub(super) fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().min(LONGEST / 1_000_000_000);
    seconds * 1_000_000_000 + u64::from(duration.subsec_nanos())
}

/// The nanoseconds as a float. Processors convert a signed integer in one step; the value always fits
/// into one.
#[inline]
pub(super) fn float(nanos: u64) -> f64 {
    (nanos as i64) as f64
}

#[inline]
pub(super) fn seconds(nanos: u64) -> f64 {
    float(nanos) * 1e-9
}

/// The estimate after a sample. `sunk` is the previous estimate, already multiplied by `kept`.
#[inline]
pub(super) fn follow(sunk: f64, sample: f64, kept: f64) -> f64 {
    sample.max(sunk + sample * (1.0 - kept))
}
