//! The settings of a throttle.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use rand::RngExt;
use tokio::time::Instant;

use super::{layer::ThrottleLayer, shared::ThrottleShared};
use crate::{
    error::{ConfigError, check_range},
    rng::small_rng,
    window::TimeWindow,
};

/// The settings of a throttle. Each [`build`](Self::build) makes a new throttle.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "settings do nothing until they are built"]
pub struct ThrottleSettings {
    name: Arc<str>,
    k: f64,
    window: Duration,
    min_calls: u32,
    seed: Option<u64>,
}

impl ThrottleSettings {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            name: Arc::from(""),
            k: 2.0,
            window: Duration::from_secs(5),
            min_calls: 20,
            seed: None,
        }
    }

    /// Sets the name in errors, usually that of the service; empty by default.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets how many calls are sent at most for each accepted call: from 1, where one failure
    /// already throttles, to 100, where 99 of 100 calls may fail first. 2 by default: more than
    /// half must fail.
    pub fn k(mut self, k: f64) -> Self {
        self.k = k;
        self
    }

    /// Sets the time over which calls are counted, from 100 ms to a day; 5 s by default. The time
    /// of a recovery is proportional to it.
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets how many calls the window must hold before calls are refused, at least 1; 20 by
    /// default.
    pub fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = calls;
        self
    }

    /// Seeds the draws, so that they are reproducible. By default they differ in each throttle.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes a layer with a new throttle.
    ///
    /// # Errors
    /// When a setting is outside of the range that its method states.
    pub fn build(&self) -> Result<ThrottleLayer, ConfigError> {
        check_range("throttle.k", self.k, 1.0..=100.0)?;
        let range = Duration::from_millis(100)..=Duration::from_secs(86_400);
        check_range("throttle.window", self.window, range)?;
        check_range("throttle.min_calls", self.min_calls, 1..)?;
        let base = Instant::now();
        Ok(ThrottleLayer::new(ThrottleShared {
            name: Arc::clone(&self.name),
            k: self.k,
            span: self.window,
            min_calls: self.min_calls,
            base,
            window: TimeWindow::new(self.window, 10, base),
            seed: self.seed.unwrap_or_else(|| small_rng(None).random()),
            draws: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
    }
}

impl Default for ThrottleSettings {
    fn default() -> Self {
        Self::new()
    }
}

/// A throttle with the default settings.
impl Default for ThrottleLayer {
    fn default() -> Self {
        ThrottleSettings::new()
            .build()
            .expect("the defaults are in range")
    }
}
