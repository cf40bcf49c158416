//! Errors. Each of them names the part that failed: the setting, or the backend and the service.

use std::{
    fmt,
    ops::{Bound, RangeBounds},
    sync::Arc,
    time::Duration,
};

/// Any error, as tower passes it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The error for a setting that cannot be used.
///
/// Its [field](Self::field) is the part of the crate and the name of the setter, such as
/// `breaker.failure_ratio`, or the name of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: String,
    message: String,
}

impl ConfigError {
    /// Creates an error about `field`. The message should name the given value and the accepted ones.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }

    /// Returns the setting that was refused.
    pub fn field(&self) -> &str {
        &self.field
    }
}

/// Returns an error, which states the range, if a value is outside of its range. NaN is in no range.
pub(crate) fn check_range<T: PartialOrd + fmt::Debug>(
    field: &str,
    value: T,
    range: impl RangeBounds<T>,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let least = match range.start_bound() {
        Bound::Included(least) => Some(format!("at least {least:?}")),
        Bound::Excluded(least) => Some(format!("above {least:?}")),
        Bound::Unbounded => None,
    };
    let most = match range.end_bound() {
        Bound::Included(most) => Some(format!("at most {most:?}")),
        Bound::Excluded(most) => Some(format!("below {most:?}")),
        Bound::Unbounded => None,
    };
    let bounds: Vec<_> = least.into_iter().chain(most).collect();
    let message = format!("{value:?} must be {}", bounds.join(" and "));
    Err(ConfigError::new(field, message))
}

/// Returns an error unless the share is above 0 and at most 1.
pub(crate) fn check_share(field: &str, share: f64) -> Result<(), ConfigError> {
    let range = (Bound::Excluded(0.0), Bound::Included(1.0));
    check_range(field, share, range)
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl std::error::Error for ConfigError {}

/// The kind of a registry error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The connection could not be made, or it broke.
    Unreachable,
    /// There was no complete response in time.
    Timeout,
    /// The registry responded, but cannot serve the request now (5xx, no leader).
    Unavailable,
    /// The registry demands fewer requests (429).
    Limited,
    /// The token does not permit the request (401, 403).
    Denied,
    /// The registry refuses the request itself (400, 404, a redirect, …). Only a person can fix that, so
    /// it is retried slowly.
    Refused,
    /// The response violates the protocol.
    Malformed,
    /// The response was well-formed and empty, and there is a sign that this is wrong.
    Doubtful,
    /// A setting, an instance or a URL cannot be used.
    Invalid,
    /// A defect: a backend panicked.
    Internal,
}

/// An error of a registry.
///
/// It is cheap to clone, because every watch of a service reports the same error.
#[derive(Clone)]
pub struct RegistryError(Arc<Details>);

struct Details {
    kind: ErrorKind,
    backend: Arc<str>,
    service: Arc<str>,
    message: String,
    retry_after: Option<Duration>,
    source: Option<BoxError>,
}

impl RegistryError {
    /// Creates an error of `kind` in `backend` about `service` (may be empty).
    pub fn new(
        kind: ErrorKind,
        backend: impl Into<Arc<str>>,
        service: impl Into<Arc<str>>,
        message: impl Into<String>,
    ) -> Self {
        Self(Arc::new(Details {
            kind,
            backend: backend.into(),
            service: service.into(),
            message: message.into(),
            retry_after: None,
            source: None,
        }))
    }

    /// Sets the cause.
    #[must_use]
    pub fn with_source(self, source: impl Into<BoxError>) -> Self {
        self.edit(|inner| inner.source = Some(source.into()))
    }

    /// Sets the delay that the registry demands before the next request.
    #[must_use]
    pub fn with_retry_after(self, delay: Duration) -> Self {
        self.edit(|inner| inner.retry_after = Some(delay))
    }

    fn edit(mut self, edit: impl FnOnce(&mut Details)) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            edit(inner);
        }
        self
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the backend, such as `consul http://127.0.0.1:8500`.
    pub fn backend(&self) -> &str {
        &self.0.backend
    }

    /// Returns the service; empty if the error concerns none.
    pub fn service(&self) -> &str {
        &self.0.service
    }

    /// Returns the delay that the registry demands before the next request.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the registry could not be reached, or could not serve the request.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Unavailable
        )
    }

    /// Whether both are clones of one error.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the message and all its causes, in one line.
    pub fn to_chain(&self) -> String {
        use std::error::Error as _;
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details {
            backend,
            service,
            message,
            ..
        } = &*self.0;
        if service.is_empty() {
            write!(f, "{backend}: {message}")
        } else {
            write!(f, "{backend}: service {service:?}: {message}")
        }
    }
}

impl fmt::Debug for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryError")
            .field("kind", &self.0.kind)
            .field("backend", &self.0.backend)
            .field("service", &self.0.service)
            .field("message", &self.0.message)
            .field("retry_after", &self.0.retry_after)
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for RegistryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

impl From<ConfigError> for RegistryError {
    fn from(error: ConfigError) -> Self {
        Self::new(ErrorKind::Invalid, "configuration", "", error.to_string())
    }
}
