//! Errors, each of which names who failed: the backend and the service.

use std::{
    fmt,
    ops::{Bound, RangeBounds},
    sync::Arc,
    time::Duration,
};

/// Any error, as tower passes them.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A setting that cannot be used.
///
/// Its [field](Self::field) is the part of the crate and the name of the setter, as
/// `breaker.failure_ratio`, or the name of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: String,
    message: String,
}

impl ConfigError {
    /// Creates an error about `field`; the message says what was given and what is accepted.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }

    /// The setting that was refused.
    pub fn field(&self) -> &str {
        &self.field
    }
}

/// Refuses a value outside of its range, which `accepted` puts in words. NaN is in no range.
pub(crate) fn check_range<T: PartialOrd + fmt::Debug>(
    field: &str,
    value: T,
    range: impl RangeBounds<T>,
    accepted: &str,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let message = format!("{value:?} must be {accepted}");
    Err(ConfigError::new(field, message))
}

/// Refuses what is no share above 0 and up to 1.
pub(crate) fn check_share(field: &str, share: f64) -> Result<(), ConfigError> {
    let range = (Bound::Excluded(0.0), Bound::Included(1.0));
    check_range(field, share, range, "above 0 and at most 1")
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl std::error::Error for ConfigError {}

/// What kind of trouble a registry made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No connection, or it broke.
    Unreachable,
    /// No (complete) answer in time.
    Timeout,
    /// The registry is there and cannot answer now (5xx, no leader).
    Unavailable,
    /// The registry asks for fewer requests (429).
    Limited,
    /// The token does not permit this (401, 403).
    Denied,
    /// The registry refuses the request as it stands (400, 404, a redirect, …); only people can
    /// mend this, so it is retried slowly.
    Refused,
    /// The answer is not what the protocol promises.
    Malformed,
    /// The answer was well-formed and empty where it may well be wrong.
    Doubtful,
    /// A setting, an instance or a URL that cannot be used.
    Invalid,
    /// A defect: a backend panicked.
    Internal,
}

/// Trouble with a registry.
///
/// Cheap to clone, because every watcher of a service is told of the same trouble.
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

    /// Adds the cause.
    #[must_use]
    pub fn with_source(self, source: impl Into<BoxError>) -> Self {
        self.edit(|inner| inner.source = Some(source.into()))
    }

    /// Adds the delay that the registry asks for before the next request.
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

    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The backend that made it, such as `consul http://127.0.0.1:8500`.
    pub fn backend(&self) -> &str {
        &self.0.backend
    }

    /// The service it is about; empty when it is about none.
    pub fn service(&self) -> &str {
        &self.0.service
    }

    /// The delay that the registry asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the registry could not be asked at all, or could not answer.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Unavailable
        )
    }

    /// Whether both are the very same error.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The message and every cause below it, in one line.
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
