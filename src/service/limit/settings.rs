//! What a user sets.

use tokio::sync::Semaphore;

use super::{gradient::Rules, layer::AdaptiveLimitLayer, shared::Shared};
use crate::error::{ConfigError, check_range};

const MOST: u32 = 1_000_000;
// The semaphore holds as many.
const _: () = assert!(MOST as usize <= Semaphore::MAX_PERMITS);

/// The settings of an adaptive limit. Each [`build`](Self::build) makes another limit of them.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "settings do nothing until they are built"]
pub struct LimitSettings(Rules);

impl LimitSettings {
    /// The defaults.
    pub fn new() -> Self {
        Self(Rules {
            initial: 20,
            min: 4,
            max: 1_000,
            tolerance: 1.5,
        })
    }

    /// Sets the limit to begin with, within the [range](Self::range); 20 by default.
    pub fn initial(mut self, calls: u32) -> Self {
        self.0.initial = calls;
        self
    }

    /// Sets the smallest limit, at least 1, and the largest, up to 1 000 000; 4 and 1 000 by default.
    /// Equal, they fix the limit.
    pub fn range(mut self, min: u32, max: u32) -> Self {
        (self.0.min, self.0.max) = (min, max);
        self
    }

    /// Sets how many times the usual latency does not shrink the limit yet: from 1, where noise shrinks
    /// it, to 10; 1.5 by default.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.0.tolerance = tolerance;
        self
    }

    /// Makes a limit that has seen no call, as a layer.
    ///
    /// # Errors
    /// When a setting is out of the range that its method names.
    pub fn build(&self) -> Result<AdaptiveLimitLayer, ConfigError> {
        let Rules {
            initial,
            min,
            max,
            tolerance,
        } = self.0;
        check_range("limit.range", max, 1..=MOST, "from 1 to 1000000")?;
        let accepted = "at least 1 and at most the largest limit";
        check_range("limit.range", min, 1..=max, accepted)?;
        check_range("limit.initial", initial, min..=max, "within the range")?;
        check_range("limit.tolerance", tolerance, 1.0..=10.0, "from 1 to 10")?;
        Ok(self.make())
    }

    /// Makes a limit of settings known to be in range.
    fn make(self) -> AdaptiveLimitLayer {
        AdaptiveLimitLayer::new(Shared::new(self.0))
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self::new()
    }
}

/// A limit with all defaults.
impl Default for AdaptiveLimitLayer {
    fn default() -> Self {
        LimitSettings::new().make()
    }
}
