//! Settings, and the layer made of them.

use std::{fmt, sync::Arc, time::Duration};

use rand::RngExt;
use tokio::time::Instant;
use tower::Layer;

use super::{
    Breaker, BreakerHandle,
    machine::Rules,
    shared::{Limits, Shared, Window, micros},
};
use crate::{
    classify::Answers,
    error::ConfigError,
    rng::small_rng,
    window::{CountWindow, TimeWindow},
};

/// Puts a circuit breaker around a service. See the [module](super).
///
/// One layer is one breaker: all services it makes, and its clones, share state and handle. Build
/// another for another.
#[derive(Clone)]
pub struct BreakerLayer<C = Answers> {
    classify: C,
    shared: Arc<Shared>,
}

impl BreakerLayer {
    /// Settings to begin with: all defaults, and any answer a success.
    pub fn builder() -> Builder {
        Builder {
            classify: Answers,
            name: Arc::from(""),
            window: Kind::Time(Duration::from_secs(10)),
            failure_ratio: 0.5,
            slow: None,
            min_calls: None,
            open_time: (Duration::from_secs(1), Duration::from_secs(30)),
            jitter: 0.2,
            probes: 3,
            probe_deadline: Duration::from_secs(10),
            seed: None,
        }
    }
}

impl<C> BreakerLayer<C> {
    /// A hand on the breaker.
    pub fn handle(&self) -> BreakerHandle {
        BreakerHandle::new(Arc::clone(&self.shared))
    }
}

impl Default for BreakerLayer {
    fn default() -> Self {
        let builder = Self::builder();
        let seed = small_rng(None).random();
        builder.finish(seed)
    }
}

impl<S, C: Clone> Layer<S> for BreakerLayer<C> {
    type Service = Breaker<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Breaker::new(inner, self.classify.clone(), Arc::clone(&self.shared))
    }
}

impl<C> fmt::Debug for BreakerLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerLayer")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

/// Settings of a breaker.
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until they are built"]
pub struct Builder<C = Answers> {
    classify: C,
    name: Arc<str>,
    window: Kind,
    failure_ratio: f64,
    slow: Option<(Duration, f64)>,
    /// `None`: the default, or what fits the window.
    min_calls: Option<u32>,
    open_time: (Duration, Duration),
    jitter: f64,
    probes: u32,
    probe_deadline: Duration,
    seed: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Time(Duration),
    Calls(usize),
}

/// Buckets of a window of time: a call leaves it a tenth of the span early at most.
const BUCKETS: usize = 10;
const MIN_CALLS: u64 = 20;
const MAX_CALLS: usize = 100_000;

/// More at a time are no probes any more.
const MAX_PROBES: u32 = 63;

/// Longer than anybody waits for an answer to begin.
const MAX_DEADLINE: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

impl<C> Builder<C> {
    /// Judges calls by this. Default: [`Answers`], where only errors are failures.
    pub fn classify<D>(self, classify: D) -> Builder<D> {
        Builder {
            classify,
            name: self.name,
            window: self.window,
            failure_ratio: self.failure_ratio,
            slow: self.slow,
            min_calls: self.min_calls,
            open_time: self.open_time,
            jitter: self.jitter,
            probes: self.probes,
            probe_deadline: self.probe_deadline,
            seed: self.seed,
        }
    }

    /// Names it in errors and events, usually after the service. Default: no name.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Counts the calls of this last time: 10 ms to a day. Default: 10 s. A short one reacts faster
    /// and needs more traffic to reach [`min_calls`](Self::min_calls).
    pub fn time_window(mut self, span: Duration) -> Self {
        self.window = Kind::Time(span);
        self
    }

    /// Counts the last so many calls instead, 1 to 100 000, however long ago they were. For a
    /// service that is called too seldom for a window of time.
    pub fn count_window(mut self, calls: usize) -> Self {
        self.window = Kind::Calls(calls);
        self
    }

    /// Opens when this share of the calls in the window failed: above 0, up to 1, where all have to.
    /// Default: 0.5.
    pub fn failure_ratio(mut self, ratio: f64) -> Self {
        self.failure_ratio = ratio;
        self
    }

    /// Opens also when a share `ratio` of the calls, above 0 and up to 1, was slow: had no head of an
    /// answer within `slow`, 1 µs to one day. Such a call need not have failed, and a slow probe
    /// counts as failed. Default: no call is slow.
    pub fn slow_calls(mut self, slow: Duration, ratio: f64) -> Self {
        self.slow = Some((slow, ratio));
        self
    }

    /// Opens only with at least so many calls in the window: 1, where the first failure may open it,
    /// up to the calls that the window holds. Default: 20, or all calls of a smaller window.
    pub fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = Some(calls);
        self
    }

    /// How long it stays open the first time, `base`, and at most, `cap`: from 1 ms to 365 days.
    /// Twice as long each time that it opens again; each `cap` of time spent closed takes one
    /// doubling back. Default: 1 s and 30 s.
    pub fn open_time(mut self, base: Duration, cap: Duration) -> Self {
        self.open_time = (base, cap);
        self
    }

    /// The share by which an open time may be shorter or longer: 0, where all clients that opened
    /// together probe together, up to 1. Default: 0.2.
    pub fn jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter;
        self
    }

    /// How many calls are let through at a time while half-open, and how many successes close it: 1
    /// to 63. Default: 3.
    pub fn probes(mut self, probes: u32) -> Self {
        self.probes = probes;
        self
    }

    /// When the answer to a probe must have begun: 1 ms to one hour. Default: 10 s. The probe itself
    /// is not ended then; that is for a timeout.
    pub fn probe_deadline(mut self, deadline: Duration) -> Self {
        self.probe_deadline = deadline;
        self
    }

    /// Makes the jitter repeatable. Default: different in each breaker.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    /// When a setting is out of the range that its method tells.
    pub fn build(self) -> Result<BreakerLayer<C>, ConfigError> {
        let refuse = |field: &str, message: String| Err(ConfigError::new(field, message));
        // NaN is in no range.
        let is_share = |ratio: f64| ratio > 0.0 && ratio <= 1.0;
        match self.window {
            Kind::Time(span) if !(Duration::from_millis(10)..=DAY).contains(&span) => {
                return refuse(
                    "time_window",
                    format!("{span:?} must be from 10 ms to one day"),
                );
            }
            Kind::Calls(calls) if !(1..=MAX_CALLS).contains(&calls) => {
                return refuse(
                    "count_window",
                    format!("{calls} must be from 1 to {MAX_CALLS}"),
                );
            }
            _ => {}
        }
        let most = match self.window {
            Kind::Time(_) => u32::MAX,
            Kind::Calls(calls) => calls as u32,
        };
        if let Some(calls) = self.min_calls.filter(|calls| !(1..=most).contains(calls)) {
            return refuse(
                "min_calls",
                format!("{calls} must be from 1 to the calls in the window, {most}"),
            );
        }
        if !is_share(self.failure_ratio) {
            return refuse(
                "failure_ratio",
                format!("{} must be above 0 and at most 1", self.failure_ratio),
            );
        }
        if let Some((slow, ratio)) = self.slow {
            if !(Duration::from_micros(1)..=DAY).contains(&slow) || !is_share(ratio) {
                return refuse(
                    "slow_calls",
                    format!("{slow:?} must be from 1 µs to one day, {ratio} above 0 and at most 1"),
                );
            }
        }
        let (base, cap) = self.open_time;
        if base < Duration::from_millis(1) || base > cap || cap > 365 * DAY {
            return refuse(
                "open_time",
                format!("base {base:?} must be from 1 ms to the cap, {cap:?}, that up to 365 days"),
            );
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return refuse("jitter", format!("{} must be from 0 to 1", self.jitter));
        }
        if !(1..=MAX_PROBES).contains(&self.probes) {
            return refuse(
                "probes",
                format!("{} must be from 1 to {MAX_PROBES}", self.probes),
            );
        }
        if !(Duration::from_millis(1)..=MAX_DEADLINE).contains(&self.probe_deadline) {
            return refuse(
                "probe_deadline",
                format!("{:?} must be from 1 ms to one hour", self.probe_deadline),
            );
        }
        let seed = self.seed.unwrap_or_else(|| small_rng(None).random());
        Ok(self.finish(seed))
    }

    /// Makes the layer of settings known to be valid.
    fn finish(self, seed: u64) -> BreakerLayer<C> {
        let base = Instant::now();
        let rules = Rules {
            open_time: self.open_time,
            jitter: self.jitter,
            probes: self.probes,
            probe_deadline: self.probe_deadline.as_millis() as u64,
            seed,
        };
        let most = match self.window {
            Kind::Time(_) => MIN_CALLS,
            Kind::Calls(calls) => calls as u64,
        };
        let limits = Limits {
            min_calls: self.min_calls.map_or(MIN_CALLS.min(most), u64::from),
            failure_ratio: self.failure_ratio,
            slow_from: self.slow.map_or(u64::MAX, |(slow, _)| micros(slow)),
            slow_ratio: self.slow.map_or(1.0, |(_, ratio)| ratio),
            probe_deadline: micros(self.probe_deadline),
        };
        let window = match self.window {
            Kind::Time(span) => Window::Time(TimeWindow::new(span, BUCKETS, base)),
            Kind::Calls(calls) => Window::Calls(CountWindow::new(calls)),
        };
        BreakerLayer {
            classify: self.classify,
            shared: Arc::new(Shared::new(self.name, rules, limits, window, base)),
        }
    }
}
