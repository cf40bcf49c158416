//! The data of a registration: the instance, and how the registry checks its health.

use std::time::Duration;

use crate::{
    error::{ErrorKind, RegistryError},
    instance::Instance,
};

/// How a registry checks the health of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// This process sends heartbeats. Without a heartbeat for this long, the instance is unhealthy.
    Ttl(Duration),
    /// The registry requests this path (or a whole `http://` URL) from the instance.
    Http {
        /// A path that starts with `/`, or a whole URL.
        target: String,
        /// The time between checks.
        interval: Duration,
        /// The timeout of one check.
        timeout: Duration,
    },
    /// The registry opens a TCP connection to the instance.
    Tcp {
        /// The time between checks.
        interval: Duration,
        /// The timeout of one check.
        timeout: Duration,
    },
    /// The registry calls `grpc.health.v1.Health/Check` of the instance.
    Grpc {
        /// The gRPC service to check; empty for the whole server.
        service: String,
        /// The time between checks.
        interval: Duration,
        /// The timeout of one check.
        timeout: Duration,
    },
    /// No check: the instance counts as healthy until it is deregistered.
    Unchecked,
}

impl Health {
    /// Requests a path every 10 s, with a timeout of 2 s.
    pub fn http(target: impl Into<String>) -> Self {
        Self::Http {
            target: target.into(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
        }
    }

    /// Connects every 10 s, with a timeout of 2 s.
    pub fn tcp() -> Self {
        Self::Tcp {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
        }
    }

    /// Calls the gRPC health service every 10 s, with a timeout of 2 s.
    pub fn grpc(service: impl Into<String>) -> Self {
        Self::Grpc {
            service: service.into(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
        }
    }

    /// The error says why no registry could check this.
    fn validate(&self) -> Result<(), String> {
        let wrong = match self {
            // With a TTL of zero, Consul would register no check at all, and the instance would count as
            // healthy for ever.
            Self::Ttl(ttl) if *ttl < Duration::from_millis(100) => {
                format!("a TTL of {ttl:?} is below 100 ms")
            }
            Self::Http { target, .. } if !is_path_or_url(target) => {
                format!("{target:?} is neither a path nor an http URL")
            }
            Self::Http { target, .. }
                if target.chars().any(char::is_control) || has_no_host(target) =>
            {
                format!(
                    "{target:?} has a control character or no host, so no registry can request it"
                )
            }
            Self::Http {
                interval, timeout, ..
            }
            | Self::Tcp { interval, timeout }
            | Self::Grpc {
                interval, timeout, ..
            } if *interval < Duration::from_millis(10) || timeout.is_zero() => {
                format!("interval {interval:?} is below 10 ms or timeout {timeout:?} is zero")
            }
            _ => return Ok(()),
        };
        Err(wrong)
    }
}

fn is_path_or_url(target: &str) -> bool {
    let starts = ["/", "http://", "https://"];
    starts.iter().any(|start| target.starts_with(start))
}

/// Whether a target is a whole URL without a host.
fn has_no_host(target: &str) -> bool {
    let rest = target
        .split_once("://")
        .filter(|_| !target.starts_with('/'));
    rest.is_some_and(|(_, rest)| {
        matches!(rest.bytes().next(), None | Some(b'/' | b'?' | b'#' | b':'))
    })
}

/// An instance to register, and how the registry checks it. An [`Instance`] converts into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    instance: Instance,
    health: Health,
    reap_after: Option<Duration>,
    starts_passing: bool,
}

impl Announcement {
    /// Creates an announcement with a TTL of 10 s. The registry removes the instance after 10 minutes of
    /// bad health.
    pub fn new(instance: Instance) -> Self {
        Self {
            instance,
            health: Health::Ttl(Duration::from_secs(10)),
            reap_after: Some(Duration::from_secs(600)),
            starts_passing: false,
        }
    }

    /// Sets how the registry checks the health of the instance; a TTL of 10 s by default.
    #[must_use]
    pub fn health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// Sets after how long of bad health the registry removes the instance. The default, 10 min, is well
    /// above any pause that a process survives. `None` keeps the instance. Consul's minimum is 1 min.
    #[must_use]
    pub fn reap_after(mut self, time: Option<Duration>) -> Self {
        self.reap_after = time;
        self
    }

    /// Sets whether the instance counts as healthy before its first check; false by default. Only Consul
    /// would withhold it: there, the first check over HTTP, TCP or gRPC comes within one interval, at a random
    /// time. With a wrong `true`, clients send requests to an instance that cannot answer, until that check.
    /// An instance with a TTL is healthy at once anyway.
    #[must_use]
    pub fn starts_passing(mut self, passing: bool) -> Self {
        self.starts_passing = passing;
        self
    }

    /// Returns the instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Returns how the registry checks the health of the instance.
    pub fn health_check(&self) -> &Health {
        &self.health
    }

    /// Returns after how long of bad health the registry removes the instance; `None` for never.
    pub fn reaped_after(&self) -> Option<Duration> {
        self.reap_after
    }

    /// Whether the instance counts as healthy before its first check.
    pub fn is_passing_at_start(&self) -> bool {
        self.starts_passing
    }

    pub(in crate::registry) fn validate(&self) -> Result<(), RegistryError> {
        let invalid = |message: String| RegistryError::new(ErrorKind::Invalid, message);
        if self.instance.service.trim().is_empty() {
            return Err(invalid("the service has no name".to_owned()));
        }
        if self.instance.id().trim().is_empty() {
            return Err(invalid("the instance has no id".to_owned()));
        }
        let checked = self.health.validate();
        checked.map_err(|error| invalid(format!("registration.health: {error}")))
    }
}

impl From<Instance> for Announcement {
    fn from(instance: Instance) -> Self {
        Self::new(instance)
    }
}
