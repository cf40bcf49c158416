//! The settings of a breaker.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    layer::BreakerLayer,
    machine::{BreakerRules, Machine},
    shared::{BreakerShared, Counted, Thresholds},
};
use crate::{
    error::{ConfigError, check_range, check_share},
    rng::small_rng,
    window::{CountWindow, TimeWindow},
};

/// The buckets of a window of time. A call leaves the window early by at most a tenth of it.
const BUCKETS: usize = 10;

const MIN_CALLS: u32 = 20;
const MAX_CALLS: usize = 100_000;

/// The upper limit of probes: more calls at a time are normal traffic.
const MAX_PROBES: u32 = 63;

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = DAY.saturating_mul(365);

/// The settings of a circuit breaker. Each [`build`](Self::build) makes a new breaker.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use tower_roster::{classify::Answers, service::breaker::BreakerSettings};
///
/// let settings = BreakerSettings::new()
///     .name("users")
///     .count_window(100)
///     .failure_ratio(0.25)
///     .open_time(Duration::from_millis(500), Duration::from_secs(20));
/// let layer = settings.build()?.classify(Answers::default());
/// # let _ = layer;
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "settings do nothing until they are built"]
pub struct BreakerSettings {
    name: Arc<str>,
    window: Window,
    failure_ratio: f64,
    slow: Option<(Duration, f64)>,
    min_calls: Option<u32>,
    rules: BreakerRules,
    seed: Option<u64>,
}

/// Which calls are counted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Window {
    Time(Duration),
    Calls(usize),
}

impl BreakerSettings {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            name: Arc::from(""),
            window: Window::Time(Duration::from_secs(10)),
            failure_ratio: 0.5,
            slow: None,
            min_calls: None,
            rules: BreakerRules {
                open_time: (Duration::from_secs(1), Duration::from_secs(30)),
                jitter: 0.2,
                probes: 3,
                probe_deadline: Duration::from_secs(10),
            },
            seed: None,
        }
    }

    /// Sets the name in errors and events, usually that of the service; empty by default.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Counts the calls of this period, from 10 ms to a day; 10 s by default. A short window reacts
    /// faster and needs more traffic to reach [`min_calls`](Self::min_calls).
    pub fn time_window(mut self, span: Duration) -> Self {
        self.window = Window::Time(span);
        self
    }

    /// Counts this many last calls instead, from 1 to 100 000, however old they are. For a service
    /// that has too few calls for a window of time.
    pub fn count_window(mut self, calls: usize) -> Self {
        self.window = Window::Calls(calls);
        self
    }

    /// Sets the share of failed calls in the window that opens the breaker: above 0, up to 1, where
    /// all calls must fail; 0.5 by default.
    pub fn failure_ratio(mut self, ratio: f64) -> Self {
        self.failure_ratio = ratio;
        self
    }

    /// Also opens when a share `ratio` of the calls, above 0 and up to 1, was slow: the head of the
    /// response did not come within `slow`, from 1 µs to one day. A slow call may still be a
    /// success, but a slow probe counts as failed. By default no call is slow.
    pub fn slow_calls(mut self, slow: Duration, ratio: f64) -> Self {
        self.slow = Some((slow, ratio));
        self
    }

    /// Sets how many calls the window must hold before the breaker may open: from 1, where the
    /// first failure may open it, to the calls that the window can hold. By default 20, or all
    /// calls of a smaller window.
    pub fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = Some(calls);
        self
    }

    /// Sets how long the breaker stays open: `base` the first time, twice as long each further
    /// time, at most `cap`; from 1 ms to 365 days. Each `cap` of time spent closed cancels one
    /// doubling. 1 s and 30 s by default.
    pub fn open_time(mut self, base: Duration, cap: Duration) -> Self {
        self.rules.open_time = (base, cap);
        self
    }

    /// Sets the share by which an open time may be shorter or longer: from 0, where all clients
    /// that opened together also probe together, to 1; 0.2 by default.
    pub fn jitter(mut self, jitter: f64) -> Self {
        self.rules.jitter = jitter;
        self
    }

    /// Sets how many calls may be in flight while the breaker is half-open, and how many successes
    /// close it: from 1 to 63; 3 by default.
    pub fn probes(mut self, probes: u32) -> Self {
        self.rules.probes = probes;
        self
    }

    /// Sets how long a probe may wait for the head of its response: from 1 ms to one hour; 10 s by
    /// default. The probe itself is not cancelled then; use a timeout for that.
    pub fn probe_deadline(mut self, deadline: Duration) -> Self {
        self.rules.probe_deadline = deadline;
        self
    }

    /// Seeds the jitter, so that it is reproducible. By default it differs in each breaker.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes a layer with a new breaker, closed and with an empty window.
    ///
    /// # Errors
    /// When a setting is outside of the range that its method states.
    pub fn build(&self) -> Result<BreakerLayer, ConfigError> {
        let calls = match self.window {
            Window::Time(span) => {
                check_range("breaker.time_window", span, 10 * MS..=DAY)?;
                u32::MAX
            }
            Window::Calls(calls) => {
                check_range("breaker.count_window", calls, 1..=MAX_CALLS)?;
                calls as u32
            }
        };
        check_range("breaker.min_calls", self.least(), 1..=calls)?;
        check_share("breaker.failure_ratio", self.failure_ratio)?;
        if let Some((slow, ratio)) = self.slow {
            check_range("breaker.slow_calls", slow, MS / 1_000..=DAY)?;
            check_share("breaker.slow_calls", ratio)?;
        }
        let (base, cap) = self.rules.open_time;
        check_range("breaker.open_time", base, MS..=cap)?;
        check_range("breaker.open_time", cap, MS..=YEAR)?;
        check_range("breaker.jitter", self.rules.jitter, 0.0..=1.0)?;
        check_range("breaker.probes", self.rules.probes, 1..=MAX_PROBES)?;
        let (deadline, range) = (self.rules.probe_deadline, MS..=3_600_000 * MS);
        check_range("breaker.probe_deadline", deadline, range)?;
        let now = Instant::now();
        let window = match self.window {
            Window::Time(span) => Counted::Time(TimeWindow::new(span, BUCKETS, now)),
            Window::Calls(calls) => Counted::Calls(CountWindow::new(calls)),
        };
        let limits = Thresholds {
            min_calls: self.least().into(),
            failure_ratio: self.failure_ratio,
            slow: self.slow,
            probe_deadline: self.rules.probe_deadline,
        };
        let machine = Machine::new(self.rules, small_rng(self.seed), now);
        let shared = BreakerShared::new(Arc::clone(&self.name), machine, limits, window, now);
        Ok(BreakerLayer::new(Arc::new(shared)))
    }

    /// The fewest calls to judge by: as set, or as the window allows.
    fn least(&self) -> u32 {
        self.min_calls.unwrap_or(match self.window {
            Window::Calls(calls) if calls < MIN_CALLS as usize => calls as u32,
            _ => MIN_CALLS,
        })
    }
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self::new()
    }
}

/// A breaker with the default settings.
impl Default for BreakerLayer {
    fn default() -> Self {
        BreakerSettings::new()
            .build()
            .expect("the defaults are in range")
    }
}
