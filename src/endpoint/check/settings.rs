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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CheckKind {
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
/// let check = HealthCheck::http("/health");
/// ```
///
/// Customised:
/// ```
/// use std::time::Duration;
/// use tower_roster::endpoint::check::HealthCheck;
///
/// let check = HealthCheck::tcp()
///     .interval(Duration::from_secs(2))
///     .timeout(Duration::from_millis(500))
///     .max_failures(2)
///     .passes(2);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "settings do nothing until they are built"]
pub struct HealthCheck {
    pub(super) kind: CheckKind,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) max_failures: u32,
    pub(super) passes: u32,
    pub(super) jitter: f64,
    pub(super) concurrency: usize,
    pub(super) host: Option<String>,
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
        Self::new(CheckKind::Http(path.into()))
    }

    /// Opens a connection. The check passes if the endpoint accepts it.
    pub fn tcp() -> Self {
        Self::new(CheckKind::Tcp)
    }

    /// Queries the gRPC health service for a service; the empty name stands for the whole server. Uses
    /// HTTP/2 and needs feature `http2`.
    ///
    /// A server that has no health service (`UNIMPLEMENTED`) passes, as
    /// [gRFC A17](https://github.com/grpc/proposal/blob/master/A17-client-side-health-checking.md)
    /// requires: it responds, and a check must not take away all servers of a service that never had one.
    /// A server that has the health service and not the asked service (`NOT_FOUND`) fails.
    pub fn grpc(service: impl Into<String>) -> Self {
        Self::new(CheckKind::Grpc(service.into()))
    }

    fn new(kind: CheckKind) -> Self {
        Self {
            kind,
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

    /// # Errors
    /// When a setting is out of range, when the path or the host is not valid in a request, or when a
    /// feature that the check needs is not compiled in.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let error = |field, text| Err(ConfigError::new(field, text));
        match &self.kind {
            CheckKind::Http(path)
                if !path.starts_with('/') || path.parse::<PathAndQuery>().is_err() =>
            {
                let text = format!("{path:?} must be a path that begins with /");
                return error("health_check.http", text);
            }
            CheckKind::Grpc(service) if cfg!(not(feature = "http2")) => {
                let text = format!("to check {service:?} needs feature http2");
                return error("health_check.grpc", text);
            }
            _ => {}
        }
        if let Some(host) = &self.host
            && (host.contains('@') || host.parse::<Authority>().is_err())
        {
            return error("health_check.host", format!("{host:?} must be a host"));
        }
        let least = Duration::from_millis(1);
        check_range("health_check.interval", self.interval, least..)?;
        let least = Duration::from_nanos(1);
        check_range("health_check.timeout", self.timeout, least..)?;
        check_range("health_check.max_failures", self.max_failures, 1..)?;
        check_range("health_check.passes", self.passes, 1..)?;
        check_range("health_check.concurrency", self.concurrency, 1..)?;
        check_range("health_check.jitter", self.jitter, 0.0..=1.0)
    }

    /// The TLS configuration with the protocols of the check.
    #[cfg(feature = "tls")]
    pub(super) fn tls_config(&self) -> Option<std::sync::Arc<rustls::ClientConfig>> {
        let Tls(config) = self.tls.as_ref()?;
        let mut config = rustls::ClientConfig::clone(config);
        config.alpn_protocols = match &self.kind {
            CheckKind::Grpc(_) => vec![b"h2".to_vec()],
            _ => Vec::new(),
        };
        Some(std::sync::Arc::new(config))
    }
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
            let error = settings.check().unwrap_err();
            assert_eq!(error.field(), field, "{error}");
        }
        let for_ever = tcp().interval(Duration::MAX).timeout(Duration::MAX);
        assert!(for_ever.host("web:80").check().is_ok());
    }

    #[test]
    fn grpc_is_refused_where_it_is_not_compiled_in() {
        let checked = HealthCheck::grpc("").check();
        assert_eq!(checked.is_ok(), cfg!(feature = "http2"));
    }
}
