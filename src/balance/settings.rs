//! Settings of a balancer that are plain data.

use std::time::Duration;

use super::topology::Topology;
#[cfg(feature = "_hyper")]
use crate::endpoint::check::HealthCheck;
use crate::{
    endpoint::{SlowStart, eject::Ejection},
    error::ConfigError,
    registry::Watch,
};

/// The default wait, that of linkerd's failfast timeout. A restarted registry client gets its first
/// response within it, and it is short enough for a waiting caller.
const WAIT: Duration = Duration::from_secs(3);

/// The default grace, 60 s. An instance that flaps, or restarts at its address, comes back within it and
/// finds its state.
const GRACE: Duration = Duration::from_secs(60);

/// The default drain, 30 s: the time that orchestrators give a process to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// Settings of a balancer that are plain data, for example from a configuration file. The setters of
/// [`BalanceBuilder`](super::BalanceBuilder) describe their effects.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BalanceSettings {
    /// How long `poll_ready` waits for a first endpoint; 3 s by default.
    pub wait: Duration,
    /// How long the state of an endpoint that left is kept; 60 s by default.
    pub grace: Duration,
    /// How long an endpoint that left is kept for its requests in flight; 30 s by default.
    pub drain: Duration,
    /// When endpoints are ejected because of the outcomes of their requests; `None`, the default, for
    /// never.
    pub ejection: Option<Ejection>,
    /// How new and restored endpoints reach their full share.
    pub slow_start: SlowStart,
    /// How endpoints are checked actively; `None`, the default, for no checks.
    #[cfg(feature = "_hyper")]
    pub health_check: Option<HealthCheck>,
    /// The seed that makes picks repeatable; `None`, the default, for random picks.
    pub seed: Option<u64>,
}

impl BalanceSettings {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            wait: WAIT,
            grace: GRACE,
            drain: DRAIN,
            ejection: None,
            slow_start: SlowStart::new(),
            #[cfg(feature = "_hyper")]
            health_check: None,
            seed: None,
        }
    }
}

impl Default for BalanceSettings {
    fn default() -> Self {
        Self::new()
    }
}

/// All that is set except for the policy, the classifier and the route.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) settings: BalanceSettings,
    /// Not plain data: its split may be shared with the user.
    pub(super) topology: Topology,
    pub(super) watch: Option<Watch>,
}

impl Config {
    pub(super) fn new() -> Self {
        Self {
            settings: BalanceSettings::new(),
            topology: Topology::new(),
            watch: None,
        }
    }

    /// # Errors
    /// When a setting is out of range.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.topology.check()?;
        if let Some(ejection) = &self.settings.ejection {
            ejection.check()?;
        }
        #[cfg(feature = "_hyper")]
        if let Some(health_check) = &self.settings.health_check {
            health_check.check()?;
        }
        self.settings.slow_start.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_compared_and_refused_by_the_name_of_the_field() {
        let mut settings = BalanceSettings::new();
        assert_eq!(settings, BalanceSettings::default());
        settings.slow_start = SlowStart::new().least(2.0);
        assert_ne!(settings, BalanceSettings::default());
        let mut config = Config::new();
        config.settings = settings;
        let refused = config.check().unwrap_err();
        assert_eq!(refused.field(), "slow_start.least");
    }
}
