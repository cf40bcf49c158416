//! Settings of health checks: what to request, how often, and how to judge the responses.

use std::time::Duration;

use http::uri::{Authority, PathAndQuery};

use crate::{
    backoff::NEVER,
    error::{ConfigError, check_range},
};

/// The usual range of Envoy, HAProxy and Kubernetes is 2 s to 10 s. User requests detect most failures; the
/// other failures may take three intervals.
const INTERVAL: Duration = Duration::from_secs(10);

/// Longer than any healthy response takes, even if one packet is lost while connecting (1 s).
const TIMEOUT: Duration = Duration::from_secs(2);

/// One check may be lost, and a second may coincide with a pause. Kubernetes has the same default.
const MAX_FAILURES: u32 = 3;

/// So that clients which started together do not check together.
const JITTER: f64 = 0.1;

/// Enough for 320 endpoints that never answer a check, with the times above. Far below the usual limit of
/// 1,024 open files.
const CONCURRENCY: usize = 64;

/// What a check requests.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Tcp,
    Http(PathAndQuery),
    #[cfg(feature = "http2")]
    Grpc(std::sync::Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Tcp,
    Http(String),
    Grpc(String),
}

/// An active health check: what to request, how often, and how to judge the responses.
///
/// # Examples
/// ```
/// use tower_roster::endpoint::check::HealthCheck;
///
/// let checks = HealthCheck::http("/health").build()?;
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
///
/// Customised:
/// ```
/// use std::time::Duration;
/// use tower_roster::endpoint::check::HealthCheck;
///
/// let checks = HealthCheck::tcp()
///     .interval(Duration::from_secs(2))
///     .timeout(Duration::from_millis(500))
///     .max_failures(2)
///     .passes(2)
///     .build()?;
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "settings do nothing until they are built"]
pub struct HealthCheck {
    asked: Asked,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) max_failures: u32,
    pub(super) passes: u32,
    pub(super) jitter: f64,
    pub(super) concurrency: usize,
    host: Option<String>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

/// A TLS configuration. It equals only itself.
#[cfg(feature = "tls")]
#[derive(Clone, Debug)]
struct Tls(std::sync::Arc<rustls::ClientConfig>);

#[cfg(feature = "tls")]
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        std::sync::Arc::ptr_eq(&self.0, &other.0)
    }
}

impl HealthCheck {
    /// Requests a path, optionally with a query. The check passes with a status from 200 to 299.
    pub fn http(path: impl Into<String>) -> Self {
        Self::new(Asked::Http(path.into()))
    }

    /// Opens a connection. The check passes if the endpoint accepts it.
    pub fn tcp() -> Self {
        Self::new(Asked::Tcp)
    }

    /// Queries the gRPC health service for a service; the empty name stands for the whole server. Uses
    /// HTTP/2 and needs feature `http2`.
    pub fn grpc(service: impl Into<String>) -> Self {
        Self::new(Asked::Grpc(service.into()))
    }

    fn new(asked: Asked) -> Self {
        Self {
            asked,
            interval: INTERVAL,
            timeout: TIMEOUT,
            max_failures: MAX_FAILURES,
            passes: 1,
            jitter: JITTER,
            concurrency: CONCURRENCY,
            host: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Sets the time from the end of a check to the next one; 10 s by default, at least 1 ms. The first
    /// check of an endpoint is at a random point of its first interval.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.min(NEVER);
        self
    }

    /// Sets how long a check may take, including the connection, above zero; 2 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(NEVER);
        self
    }

    /// Sets how many checks in a row must fail before an endpoint counts as failing, at least 1; 3 by
    /// default. With 1, a single lost packet may be enough.
    pub fn max_failures(mut self, n: u32) -> Self {
        self.max_failures = n;
        self
    }

    /// Sets how many checks in a row must pass before an endpoint counts as healthy again, at least 1. 1 by
    /// default, because slow start limits its traffic at first.
    pub fn passes(mut self, n: u32) -> Self {
        self.passes = n;
        self
    }

    /// Sets the random part of the interval as a ratio, from 0 to 1; 0.1 by default.
    pub fn jitter(mut self, ratio: f64) -> Self {
        self.jitter = ratio;
        self
    }

    /// Sets how many checks run at a time, at least 1; 64 by default. Other checks wait.
    pub fn concurrency(mut self, n: usize) -> Self {
        self.concurrency = n;
        self
    }

    /// Sets the host name of checks over HTTP and gRPC, which is also the server name of TLS. The address
    /// of the endpoint by default.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Uses TLS in checks over HTTP and gRPC. The check determines which protocols are offered.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: std::sync::Arc<rustls::ClientConfig>) -> Self {
        self.tls = Some(Tls(config));
        self
    }

    /// Validates the settings.
    ///
    /// # Errors
    /// When a setting is out of range, when the path or the host is not valid in a request, or when a
    /// feature that the check needs is not compiled in.
    pub fn build(&self) -> Result<Checks, ConfigError> {
        let error = |field: &str, text: String| {
            let field = format!("health_check.{field}");
            Err(ConfigError::new(field, text))
        };
        let kind = match &self.asked {
            Asked::Tcp => Kind::Tcp,
            Asked::Http(path) => match path.parse() {
                Ok(parsed) if path.starts_with('/') => Kind::Http(parsed),
                _ => {
                    return error(
                        "http",
                        format!("{path:?} must be a path that begins with /"),
                    );
                }
            },
            #[cfg(feature = "http2")]
            Asked::Grpc(service) => Kind::Grpc(service.as_str().into()),
            #[cfg(not(feature = "http2"))]
            Asked::Grpc(service) => {
                return error("grpc", format!("to check {service:?} needs feature http2"));
            }
        };
        let host = match &self.host {
            None => None,
            Some(host) => match host.parse::<Authority>() {
                Ok(host) if !host.as_str().contains('@') => Some(host),
                _ => return error("host", format!("{host:?} must be a host")),
            },
        };
        let least = Duration::from_millis(1);
        check_range("health_check.interval", self.interval, least..)?;
        let least = Duration::from_nanos(1);
        check_range("health_check.timeout", self.timeout, least..)?;
        check_range("health_check.max_failures", self.max_failures, 1..)?;
        check_range("health_check.passes", self.passes, 1..)?;
        check_range("health_check.concurrency", self.concurrency, 1..)?;
        check_range("health_check.jitter", self.jitter, 0.0..=1.0)?;
        #[cfg(feature = "tls")]
        let tls = self.tls.as_ref().map(|tls| offer(&tls.0, &kind));
        Ok(Checks {
            settings: self.clone(),
            kind,
            host,
            #[cfg(feature = "tls")]
            tls,
        })
    }
}

/// The configuration with the protocols of the check.
#[cfg(feature = "tls")]
fn offer(config: &rustls::ClientConfig, kind: &Kind) -> std::sync::Arc<rustls::ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = match kind {
        #[cfg(feature = "http2")]
        Kind::Grpc(_) => vec![b"h2".to_vec()],
        _ => Vec::new(),
    };
    std::sync::Arc::new(config)
}

/// Validated settings of a health check; made by [`HealthCheck::build`].
#[derive(Clone, Debug)]
pub struct Checks {
    pub(super) settings: HealthCheck,
    pub(super) kind: Kind,
    pub(super) host: Option<Authority>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<std::sync::Arc<rustls::ClientConfig>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        let tcp = HealthCheck::tcp;
        for (settings, field) in [
            (HealthCheck::http("health"), "health_check.http"),
            (HealthCheck::http(""), "health_check.http"),
            (HealthCheck::http("/a b"), "health_check.http"),
            (tcp().interval(Duration::ZERO), "health_check.interval"),
            (tcp().timeout(Duration::ZERO), "health_check.timeout"),
            (tcp().max_failures(0), "health_check.max_failures"),
            (tcp().passes(0), "health_check.passes"),
            (tcp().concurrency(0), "health_check.concurrency"),
            (tcp().jitter(1.1), "health_check.jitter"),
            (tcp().jitter(f64::NAN), "health_check.jitter"),
            (tcp().host("a b"), "health_check.host"),
            (tcp().host("me:secret@web"), "health_check.host"),
        ] {
            let error = settings.build().unwrap_err();
            assert_eq!(error.field(), field, "{error}");
        }
        let for_ever = tcp().interval(Duration::MAX).timeout(Duration::MAX);
        assert!(for_ever.host("web:80").build().is_ok());
    }

    #[test]
    fn grpc_is_refused_where_it_is_not_compiled_in() {
        let built = HealthCheck::grpc("").build();
        assert_eq!(built.is_ok(), cfg!(feature = "http2"));
    }
}
