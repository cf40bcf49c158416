//! The settings of a failfast.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use super::{layer::FailFastLayer, shared::FailFastShared};
use crate::error::{ConfigError, check_range};

/// The settings of a failfast. Each [`build`](Self::build) makes a new layer with a state of its
/// own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "settings do nothing until they are built"]
pub struct FailFastSettings {
    name: Arc<str>,
    wait: Duration,
}

impl FailFastSettings {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            name: Arc::from(""),
            wait: Duration::from_secs(3),
        }
    }

    /// Sets the name in errors and events, usually that of the service; empty by default.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets how long the inner service may stay unready: from 1 ms, which is too short for a call
    /// to wait for a new connection, to 365 days, where every call waits; 3 s by default.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    /// When the wait is out of its range.
    pub fn build(&self) -> Result<FailFastLayer, ConfigError> {
        let range = Duration::from_millis(1)..=Duration::from_secs(365 * 86_400);
        check_range("failfast.wait", self.wait, range)?;
        Ok(FailFastLayer::new(FailFastShared {
            name: Arc::clone(&self.name),
            wait: self.wait,
            failing: AtomicBool::new(false),
        }))
    }
}

impl Default for FailFastSettings {
    fn default() -> Self {
        Self::new()
    }
}

/// A layer with the default settings.
impl Default for FailFastLayer {
    fn default() -> Self {
        FailFastSettings::new()
            .build()
            .expect("the defaults are in range")
    }
}
