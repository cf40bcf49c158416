//! How a service is called.

use std::time::Duration;

use tower_roster::telemetry::Telemetry;

/// How a service is called. The defaults are the stack's.
#[derive(Clone, Debug)]
pub struct Settings {
    pub path: String,
    /// Of `policy::NAMES`.
    pub policy: String,
    /// The key that requests are hashed by; `{n}` in it stands for the request's number.
    pub key: String,
    pub retry: bool,
    pub hedge: bool,
    pub breaker: bool,
    pub try_timeout: Option<Duration>,
    pub timeout: Duration,
    /// Who is told of requests, beside the figures.
    pub telemetry: Telemetry,
}

impl Settings {
    pub fn new(timeout: Duration) -> Self {
        Self {
            path: "/".to_owned(),
            policy: "peak-ewma".to_owned(),
            key: "{n}".to_owned(),
            retry: true,
            hedge: true,
            breaker: false,
            try_timeout: None,
            timeout,
            telemetry: Telemetry::new(),
        }
    }
}
