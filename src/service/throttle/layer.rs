//! Settings, and the layer made of them.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use rand::RngExt;
use tokio::time::Instant;
use tower::Layer;

use super::{handle::ThrottleHandle, service::Throttle, shared::Shared};
use crate::{classify::Answers, error::ConfigError, rng::small_rng, window::TimeWindow};

/// Throttles a service by what it accepts. See the [module](super).
///
/// One layer is one throttle: all services it makes, and its clones, share counts and handle.
#[derive(Clone)]
pub struct ThrottleLayer<C = Answers> {
    classify: C,
    shared: Arc<Shared>,
}

impl ThrottleLayer {
    /// Settings to begin with: all defaults, and any answer accepted.
    pub fn builder() -> Builder {
        Builder {
            classify: Answers,
            name: Arc::from(""),
            k: 2.0,
            window: Duration::from_secs(5),
            min_calls: 20,
            seed: None,
        }
    }
}

impl<C> ThrottleLayer<C> {
    /// Shows what the throttle does.
    pub fn handle(&self) -> ThrottleHandle {
        ThrottleHandle::new(Arc::clone(&self.shared))
    }
}

impl Default for ThrottleLayer {
    fn default() -> Self {
        Self::builder().finish()
    }
}

impl<S, C: Clone> Layer<S> for ThrottleLayer<C> {
    type Service = Throttle<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Throttle::new(inner, self.classify.clone(), Arc::clone(&self.shared))
    }
}

impl<C> fmt::Debug for ThrottleLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottleLayer")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

/// Settings of a throttle.
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until they are built"]
pub struct Builder<C = Answers> {
    classify: C,
    name: Arc<str>,
    k: f64,
    window: Duration,
    min_calls: u32,
    seed: Option<u64>,
}

const DAY: Duration = Duration::from_secs(86_400);

impl<C> Builder<C> {
    /// Judges by this which calls were accepted. Default: [`Answers`], where only errors are not.
    pub fn classify<D>(self, classify: D) -> Builder<D> {
        Builder {
            classify,
            name: self.name,
            k: self.k,
            window: self.window,
            min_calls: self.min_calls,
            seed: self.seed,
        }
    }

    /// Names it in errors, usually after the service. Default: no name.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// How many calls are sent for each that is accepted, at most: from 1, where one failure already
    /// throttles, to 100, where 99 of 100 may fail first. Default: 2, where more than half have to.
    pub fn k(mut self, k: f64) -> Self {
        self.k = k;
        self
    }

    /// The time over which calls are counted: 100 ms to a day. Default: 5 s. It finds a recovery in
    /// proportion to it.
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Refuses nothing with fewer calls in the window: at least 1. Default: 20.
    pub fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = calls;
        self
    }

    /// Makes the draws repeatable. Default: different in each throttle.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    /// When a setting is out of the range that its method tells.
    pub fn build(self) -> Result<ThrottleLayer<C>, ConfigError> {
        // NaN is in no range.
        if !(1.0..=100.0).contains(&self.k) {
            let message = format!("{} must be from 1 to 100", self.k);
            return Err(ConfigError::new("k", message));
        }
        if !(Duration::from_millis(100)..=DAY).contains(&self.window) {
            let message = format!("{:?} must be from 100 ms to one day", self.window);
            return Err(ConfigError::new("window", message));
        }
        if self.min_calls == 0 {
            return Err(ConfigError::new("min_calls", "0 must be at least 1"));
        }
        Ok(self.finish())
    }

    /// Makes the layer of settings known to be valid.
    fn finish(self) -> ThrottleLayer<C> {
        let base = Instant::now();
        ThrottleLayer {
            classify: self.classify,
            shared: Arc::new(Shared {
                name: self.name,
                k: self.k,
                span: self.window,
                min_calls: self.min_calls,
                base,
                window: TimeWindow::new(self.window, 10, base),
                seed: self.seed.unwrap_or_else(|| small_rng(None).random()),
                draws: AtomicU64::new(0),
                passed: AtomicU64::new(0),
                refused: AtomicU64::new(0),
            }),
        }
    }
}
