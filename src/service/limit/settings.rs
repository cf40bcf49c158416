//! The settings of a limit.

use tokio::sync::Semaphore;

use super::{gradient::LimitRules, layer::AdaptiveLimitLayer, shared::LimitShared};
use crate::error::{ConfigError, check_range};

const MOST: u32 = 1_000_000;
// The semaphore can hold this many permits.
const _: () = assert!(MOST as usize <= Semaphore::MAX_PERMITS);

/// The settings of an adaptive limit. Each [`build`](Self::build) makes a new limit.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "settings do nothing until they are built"]
pub struct LimitSettings(LimitRules);

impl LimitSettings {
    /// The defaults.
    pub fn new() -> Self {
        Self(LimitRules {
            initial: 20,
            min: 4,
            max: 1_000,
            tolerance: 1.5,
        })
    }

    /// Sets the first limit, within the [range](Self::range); 20 by default.
    pub fn initial(mut self, calls: u32) -> Self {
        self.0.initial = calls;
        self
    }

    /// Sets the smallest limit, at least 1, and the largest, up to 1 000 000; 4 and 1 000 by
    /// default. Equal values fix the limit.
    pub fn range(mut self, min: u32, max: u32) -> Self {
        (self.0.min, self.0.max) = (min, max);
        self
    }

    /// Sets up to which multiple of the usual latency the limit does not shrink: from 1, where
    /// noise shrinks it, to 10; 1.5 by default.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.0.tolerance = tolerance;
        self
    }

    /// Makes a layer with a new limit.
    ///
    /// # Errors
    /// When a setting is outside of the range that its method states.
    pub fn build(&self) -> Result<AdaptiveLimitLayer, ConfigError> {
        let LimitRules {
            initial,
            min,
            max,
            tolerance,
        } = self.0;
        check_range("limit.range", max, 1..=MOST)?;
        check_range("limit.range", min, 1..=max)?;
        check_range("limit.initial", initial, min..=max)?;
        check_range("limit.tolerance", tolerance, 1.0..=10.0)?;
        Ok(AdaptiveLimitLayer::new(LimitShared::new(self.0)))
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self::new()
    }
}

/// A limit with the default settings.
impl Default for AdaptiveLimitLayer {
    fn default() -> Self {
        LimitSettings::new()
            .build()
            .expect("the defaults are in range")
    }
}
