//! The settings of the client of one service.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use super::field::{OrNone, section};

section! {
    /// The settings of the clients of services. What is unset is taken from the service that it is
    /// [`like`](Self::like), then from the [defaults](super::ClientConfig::defaults) of the file, then from those of
    /// this crate, which are stated here.
    pub struct ServiceConfig {
        /// Another service of the file whose settings hold where this one sets nothing; none by default.
        pub like: Option<String>,
        /// How endpoints are chosen, as [`policy::by_name`](crate::balance::policy::by_name); `peak-ewma`.
        pub policy: Option<String>,
        /// How long a request may take until the head of its response, with all attempts; `30s`, or `none`.
        /// *Can change at run time.*
        pub timeout: Option<OrNone>,
        /// How long a request waits for a first endpoint; `3s`.
        pub wait: Option<Duration>,
        /// How long the state of an endpoint that left is kept; `60s`.
        pub grace: Option<Duration>,
        /// How long an endpoint that left is kept for its requests in flight; `30s`.
        pub drain: Option<Duration>,
        /// Weights by the id of an instance, which replace those of the registry, from 0 to 65535; none.
        /// *Can change at run time.*
        pub weights: BTreeMap<String, u16>,
        /// Retries. *Can change at run time.*
        pub retry: RetryConfig,
        /// Hedges. *Can change at run time.*
        pub hedge: HedgeConfig,
        /// Ejection of endpoints that fail.
        pub ejection: EjectionConfig,
        /// Slow start of new endpoints.
        pub slow_start: SlowStartConfig,
        /// The circuit breaker around all layers.
        pub breaker: BreakerConfig,
        /// Active checks of endpoints.
        pub health_check: HealthCheckConfig,
        /// A split of the traffic between versions.
        pub split: SplitConfig,
        /// Connections.
        pub connection: ConnectionConfig,
    }
}

section! {
    /// Settings of [retries](crate::service::retry::RetrySettings).
    pub struct RetryConfig {
        /// How often a request is sent at most; 3.
        pub max_attempts: Option<NonZeroU32>,
        /// How long one attempt may take; `none`.
        pub try_timeout: Option<OrNone>,
        /// The delay before the second attempt, which doubles for each further one; `25ms`.
        pub delay: Option<Duration>,
        /// The longest delay; `60s`.
        pub max_delay: Option<Duration>,
        /// The longest delay that a server may ask for; `60s`.
        pub max_pushback: Option<Duration>,
        /// The budget of retries and hedges.
        pub budget: BudgetConfig,
    }
}

section! {
    /// Settings of the [budget](crate::service::retry::BudgetSettings).
    pub struct BudgetConfig {
        /// Whether there is one; true.
        pub enabled: Option<bool>,
        /// The attempts beyond the first for each request, from 0 to 10; 0.2.
        pub ratio: Option<f64>,
        /// The attempts in reserve; 10.
        pub reserve: Option<u32>,
        /// For how long a request counts, from 1 s to 60 s; `10s`.
        pub ttl: Option<Duration>,
    }
}

section! {
    /// Settings of [hedges](crate::service::hedge::HedgeSettings).
    pub struct HedgeConfig {
        /// Whether slow attempts are hedged; true.
        pub enabled: Option<bool>,
        /// A fixed delay; `none`, so that it is measured.
        pub delay: Option<OrNone>,
        /// The share of attempts that finish before a hedge is sent, between 0 and 1; 0.97.
        pub percentile: Option<f64>,
        /// The least delay as a multiple of the median, from 1 to 1,000; 3.
        pub times_median: Option<f64>,
        /// How far back latencies are measured, from 1 s to 10 min; `15s`.
        pub window: Option<Duration>,
        /// How many attempts may run beside the first; 1.
        pub max_extra: Option<NonZeroU32>,
        /// The share of attempts that may be hedged, from 0 to 1; 0.03.
        pub share: Option<f64>,
    }
}

section! {
    /// Settings of [ejection](crate::endpoint::eject::Ejection).
    pub struct EjectionConfig {
        /// Whether endpoints are ejected; true.
        pub enabled: Option<bool>,
        /// After how many failures in a row, at least 1; 5.
        pub consecutive_failures: Option<u32>,
        /// At which share of failures, above 0 and up to 1; 0.5.
        pub failure_ratio: Option<f64>,
        /// The least number of requests in the window, at least 1; 20.
        pub min_requests: Option<u32>,
        /// The length of the window, from 100 ms to 5 min; `10s`.
        pub window: Option<Duration>,
        /// At which multiple of the usual latency, above 1; 3.
        pub slow_factor: Option<f64>,
        /// The latency up to which no endpoint is slow; `50ms`.
        pub slow_floor: Option<Duration>,
        /// How many endpoints must be measured, at least 3; 3.
        pub min_peers: Option<u32>,
        /// For how long the first time; `500ms`.
        pub time: Option<Duration>,
        /// For how long at most; `30s`.
        pub max_time: Option<Duration>,
        /// How long a probe may take; `1s`.
        pub probe_timeout: Option<Duration>,
        /// The share of endpoints that may be ejected at a time, from 0 to 1; 0.5.
        pub max_ejected: Option<f64>,
    }
}

section! {
    /// Settings of [slow start](crate::endpoint::SlowStart).
    pub struct SlowStartConfig {
        /// After how long an endpoint has its full share; `5s`.
        pub window: Option<Duration>,
        /// The share at the start, above 0 and up to 1; 0.1.
        pub least: Option<f64>,
        /// How soon the share grows, above 0; 1.
        pub aggression: Option<f64>,
    }
}

section! {
    /// Settings of the [circuit breaker](crate::service::breaker::BreakerSettings).
    pub struct BreakerConfig {
        /// Whether there is one; false.
        pub enabled: Option<bool>,
        /// The share of failures that opens it, above 0 and up to 1; 0.5.
        pub failure_ratio: Option<f64>,
        /// The length of the window, from 10 ms to a day; `10s`.
        pub window: Option<Duration>,
        /// The least number of calls in the window, at least 1; 20.
        pub min_calls: Option<u32>,
        /// How long it stays open the first time; `1s`.
        pub open_time: Option<Duration>,
        /// How long it stays open at most; `30s`.
        pub max_open_time: Option<Duration>,
        /// How many calls probe it, from 1 to 63; 3.
        pub probes: Option<u32>,
    }
}

section! {
    /// Settings of [health checks](crate::endpoint::check::HealthCheck).
    pub struct HealthCheckConfig {
        /// Whether endpoints are checked; false.
        pub enabled: Option<bool>,
        /// The path of a check over HTTP, such as `/health`; none, so that a check only connects.
        pub path: Option<String>,
        /// The time between two checks; `10s`.
        pub interval: Option<Duration>,
        /// How long a check may take; `2s`.
        pub timeout: Option<Duration>,
    }
}

section! {
    /// Settings of a [split](crate::balance::topology::SplitSettings) of the traffic; without shares there is none.
    pub struct SplitConfig {
        /// The shares of versions, relative to each other. *Can change at run time*, if there were some at the start.
        pub shares: BTreeMap<String, f64>,
        /// The share of all other versions together; 0. *Can change at run time.*
        pub rest: Option<f64>,
        /// The metadata that holds the version of an instance; `version`.
        pub metadata: Option<String>,
    }
}

section! {
    /// Settings of [connections](crate::client::HttpEndpoints).
    pub struct ConnectionConfig {
        /// How long connecting may take; `2s`.
        pub connect_timeout: Option<Duration>,
        /// How long a connection may be idle; `50s`, or `none`.
        pub idle_timeout: Option<OrNone>,
        /// After how much silence a connection is probed; `30s`, or `none`.
        pub keep_alive: Option<OrNone>,
        /// At which age a connection is replaced; `1h`, or `none`.
        pub max_age: Option<OrNone>,
        /// How many idle connections an endpoint keeps; as many as there were requests at a time.
        pub max_idle: Option<usize>,
        /// Whether HTTP/2 is used without negotiation, which needs the feature `http2`; false.
        pub http2: Option<bool>,
    }
}
