//! Settings of this crate from those of a file.

use std::time::Duration;

use super::service::{
    BreakerConfig, BudgetConfig, ConnectionConfig, EjectionConfig, HealthCheckConfig, HedgeConfig,
    RetryConfig, ServiceConfig, SlowStartConfig, SplitConfig,
};
use crate::{
    backoff::Backoff,
    balance::{
        policy::{self, AnyPolicy},
        topology::{Shares, SplitSettings, Topology},
    },
    classify::Http,
    client::{http::HttpEndpoints, stack::Stack},
    endpoint::{SlowStart, check::HealthCheck, eject::Ejection},
    error::ConfigError,
    service::{
        breaker::BreakerSettings,
        hedge::HedgeSettings,
        retry::{BudgetSettings, Replay, RetrySettings, ShareReplay},
    },
};

/// The stack of each service. The policy is the only type that a file chooses.
pub(super) type ConfiguredStack = Stack<AnyPolicy, Http, Replay, ShareReplay>;

const MS: Duration = Duration::from_millis(1);

/// Applies a setting if it is set.
macro_rules! set {
    ($target:ident: $($method:ident = $value:expr),+ $(,)?) => {
        $(let $target = match $value {
            Some(value) => $target.$method(value),
            None => $target,
        };)+
    };
}

impl ServiceConfig {
    /// # Errors
    /// When a setting is out of its range.
    pub(super) fn stack(&self) -> Result<ConfiguredStack, ConfigError> {
        let name = self.policy.as_deref().unwrap_or("peak-ewma");
        let policy = policy::by_name(name)?;
        let slow_start = self.slow_start.settings();
        let stack = Stack::http()
            .balance(|balance| {
                let balance = balance.policy(policy).slow_start(slow_start);
                set!(balance: wait = self.wait, grace = self.grace, drain = self.drain);
                let mut settings = balance.current_settings();
                settings.ejection = self.ejection.settings();
                settings.health_check = self.health_check.settings();
                let balance = balance.settings(settings);
                match self.split.settings() {
                    Some(split) => balance.topology(Topology::new().split(split)),
                    None => balance,
                }
            })
            .retry(self.retry.settings()?)
            .hedge(self.hedge.settings());
        set!(stack: timeout = self.timeout.map(|timeout| timeout.0));
        Ok(stack)
    }
}

impl RetryConfig {
    /// # Errors
    /// When the delays are out of their range.
    pub(super) fn settings(&self) -> Result<RetrySettings, ConfigError> {
        let settings = RetrySettings::new();
        set!(settings:
            max_attempts = self.max_attempts,
            try_timeout = self.try_timeout.map(|timeout| timeout.0),
            max_pushback = self.max_pushback,
        );
        let settings = settings.budget(self.budget.settings());
        if self.delay.is_none() && self.max_delay.is_none() {
            return Ok(settings);
        }
        let base = self.delay.unwrap_or(25 * MS);
        let cap = self.max_delay.unwrap_or(60_000 * MS);
        Ok(settings.delay(Backoff::new(base, cap)?))
    }
}

impl BudgetConfig {
    pub(super) fn settings(&self) -> Option<BudgetSettings> {
        let settings = BudgetSettings::new();
        set!(settings: ratio = self.ratio, reserve = self.reserve, ttl = self.ttl);
        self.enabled.unwrap_or(true).then_some(settings)
    }
}

impl HedgeConfig {
    pub(super) fn settings(&self) -> HedgeSettings {
        let settings = HedgeSettings::new();
        set!(settings:
            enabled = self.enabled,
            delay = self.delay.map(|delay| delay.0),
            percentile = self.percentile,
            times_median = self.times_median,
            window = self.window,
            max_extra = self.max_extra,
            share = self.share,
        );
        settings
    }
}

impl EjectionConfig {
    pub(super) fn settings(&self) -> Option<Ejection> {
        let settings = Ejection::new();
        set!(settings:
            consecutive_failures = self.consecutive_failures,
            failure_ratio = self.failure_ratio,
            min_requests = self.min_requests,
            window = self.window,
            slow_factor = self.slow_factor,
            slow_floor = self.slow_floor,
            min_peers = self.min_peers,
            probe_timeout = self.probe_timeout,
            max_ejected = self.max_ejected,
        );
        let time = self.time.unwrap_or(500 * MS);
        let settings = settings.time(time, self.max_time.unwrap_or(30_000 * MS));
        self.enabled.unwrap_or(true).then_some(settings)
    }
}

impl SlowStartConfig {
    pub(super) fn settings(&self) -> SlowStart {
        let settings = SlowStart::new();
        set!(settings:
            window = self.window,
            least = self.least,
            aggression = self.aggression,
        );
        settings
    }
}

impl BreakerConfig {
    pub(super) fn settings(&self, name: &str) -> Option<BreakerSettings> {
        let settings = BreakerSettings::new().name(name);
        set!(settings:
            failure_ratio = self.failure_ratio,
            time_window = self.window,
            min_calls = self.min_calls,
            probes = self.probes,
        );
        let open = self.open_time.unwrap_or(1_000 * MS);
        let settings = settings.open_time(open, self.max_open_time.unwrap_or(30_000 * MS));
        self.enabled.unwrap_or(false).then_some(settings)
    }
}

impl HealthCheckConfig {
    pub(super) fn settings(&self) -> Option<HealthCheck> {
        let check = match &self.path {
            Some(path) => HealthCheck::http(path.clone()),
            None => HealthCheck::tcp(),
        };
        set!(check: interval = self.interval, timeout = self.timeout);
        self.enabled.unwrap_or(false).then_some(check)
    }
}

impl SplitConfig {
    pub(super) fn shares(&self) -> Shares {
        let add = |shares: Shares, (version, share): (&String, &f64)| {
            shares.version(version.as_str(), *share)
        };
        let shares = self.shares.iter().fold(Shares::new(), add);
        shares.rest(self.rest.unwrap_or(0.0))
    }

    fn settings(&self) -> Option<SplitSettings> {
        if self.shares.is_empty() {
            return None;
        }
        let settings = SplitSettings::new(self.shares());
        set!(settings: by_metadata = self.metadata.clone());
        Some(settings)
    }
}

impl ConnectionConfig {
    /// # Errors
    /// When HTTP/2 is set, and not compiled in.
    pub(super) fn endpoints<X>(
        &self,
        endpoints: HttpEndpoints<X>,
    ) -> Result<HttpEndpoints<X>, ConfigError> {
        set!(endpoints:
            connect_timeout = self.connect_timeout,
            idle_timeout = self.idle_timeout.map(|timeout| timeout.0),
            keep_alive = self.keep_alive.map(|after| after.0),
            max_age = self.max_age.map(|age| age.0),
            max_idle = self.max_idle,
        );
        if self.http2 != Some(true) {
            return Ok(endpoints);
        }
        #[cfg(feature = "http2")]
        return Ok(endpoints.http2());
        #[cfg(not(feature = "http2"))]
        {
            let why = "needs the feature http2, which is not compiled in";
            Err(ConfigError::new("connection.http2", why))
        }
    }
}

/// The path in a file of a setting of this crate, which an error names as `part.setter`.
pub(super) fn path_of(field: &str) -> String {
    let renamed = match field {
        "stack.timeout" => "timeout",
        "policy.name" => "policy",
        "backoff.base" => "retry.delay",
        "backoff.cap" => "retry.max_delay",
        "breaker.time_window" => "breaker.window",
        "health_check.http" => "health_check.path",
        _ => field,
    };
    match renamed.strip_prefix("retry_budget.") {
        Some(setter) => format!("retry.budget.{setter}"),
        None => renamed.to_owned(),
    }
}
