//! What a process tells of itself, and how the registry shall find out whether it is healthy.

use std::{sync::Arc, time::Duration};

use crate::{
    error::{ConfigError, ErrorKind, RegistryError},
    instance::{Host, Instance},
};

/// How a registry finds out whether an instance is healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// This process sends heartbeats; without one for this long it is unhealthy.
    Ttl(Duration),
    /// The registry requests this path (or a whole `http://` URL) from the instance.
    Http {
        /// Starts with `/`, or is a whole URL.
        target: String,
        /// The time between checks.
        interval: Duration,
        /// How long one check may take.
        timeout: Duration,
    },
    /// The registry connects to the instance.
    Tcp {
        /// The time between checks.
        interval: Duration,
        /// How long one check may take.
        timeout: Duration,
    },
    /// The registry calls `grpc.health.v1.Health/Check` of the instance.
    Grpc {
        /// The service asked about; empty for the whole server.
        service: String,
        /// The time between checks.
        interval: Duration,
        /// How long one check may take.
        timeout: Duration,
    },
    /// Nothing is checked: the instance counts as healthy until it is deregistered.
    Unchecked,
}

impl Health {
    /// Checks a path every 10 s, with a timeout of 2 s.
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

    fn validate(&self) -> Result<(), ConfigError> {
        let second = Duration::from_secs(1);
        match self {
            // A TTL of zero would register no check at all in Consul: healthy for ever.
            Self::Ttl(ttl) if *ttl < Duration::from_millis(100) => Err(ConfigError::new(
                "health",
                format!("a TTL of {ttl:?} is below 100 ms"),
            )),
            Self::Ttl(_) | Self::Unchecked => Ok(()),
            Self::Http { target, .. }
                if !["/", "http://", "https://"]
                    .iter()
                    .any(|start| target.starts_with(start)) =>
            {
                Err(ConfigError::new(
                    "health",
                    format!("{target:?} is neither a path nor an http URL"),
                ))
            }
            Self::Http {
                interval, timeout, ..
            }
            | Self::Tcp { interval, timeout }
            | Self::Grpc {
                interval, timeout, ..
            } => {
                if *interval < second / 100 || timeout.is_zero() {
                    return Err(ConfigError::new(
                        "health",
                        format!(
                            "interval {interval:?} is below 10 ms or timeout {timeout:?} is zero"
                        ),
                    ));
                }
                Ok(())
            }
        }
    }
}

/// An instance, and how the registry shall treat it. Made from an [`Instance`] alone, too.
#[derive(Clone, Debug)]
pub struct Announcement {
    instance: Instance,
    health: Health,
    reap_after: Option<Duration>,
}

impl Announcement {
    /// Announces `instance` with a TTL of 10 s, removed after 10 minutes without a sign of life.
    pub fn new(instance: Instance) -> Self {
        Self {
            instance,
            health: Health::Ttl(Duration::from_secs(10)),
            reap_after: Some(Duration::from_secs(600)),
        }
    }

    /// Sets how the registry finds out whether it is healthy; a TTL of 10 s by default.
    #[must_use]
    pub fn health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// Sets after how long of bad health the registry forgets the instance; 10 min by default,
    /// well above any pause that a process survives. `None` keeps it. Consul's minimum is 1 min.
    #[must_use]
    pub fn reap_after(mut self, time: Option<Duration>) -> Self {
        self.reap_after = time;
        self
    }

    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// How the registry finds out whether it is healthy.
    pub fn health_check(&self) -> &Health {
        &self.health
    }

    /// After how long of bad health the registry forgets it.
    pub fn reaped_after(&self) -> Option<Duration> {
        self.reap_after
    }

    pub(in crate::registry) fn validate(&self, backend: &Arc<str>) -> Result<(), RegistryError> {
        let invalid = |message: String| {
            RegistryError::new(
                ErrorKind::Invalid,
                Arc::clone(backend),
                Arc::clone(&self.instance.service),
                message,
            )
        };
        if self.instance.service.trim().is_empty() {
            return Err(invalid("the service has no name".to_owned()));
        }
        if self.instance.id().trim().is_empty() {
            return Err(invalid("the instance has no id".to_owned()));
        }
        if let Host::Ip(ip) = self.instance.address.host() {
            if ip.is_unspecified() {
                return Err(invalid(format!(
                    "address {}: other processes cannot connect to the unspecified address",
                    self.instance.address
                )));
            }
        }
        let checked = self.health.validate();
        checked.map_err(|error| invalid(error.to_string()))
    }
}

impl From<Instance> for Announcement {
    fn from(instance: Instance) -> Self {
        Self::new(instance)
    }
}
