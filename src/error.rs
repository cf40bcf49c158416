//! Errors. Each of them names the part that failed: the setting, or the backend and the service.

mod request_kind;

pub use self::request_kind::RequestErrorKind;

use std::{
    error::Error,
    fmt,
    iter::successors,
    ops::{Bound, RangeBounds},
    sync::Arc,
    time::Duration,
};

use crate::text::Escaped;

/// Any error, as tower passes it.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Returns an error and all its causes, the outermost first.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |error| (*error).source())
}

/// Finds an error of a type in an error or among its causes, however deep it is wrapped.
pub(crate) fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|error| error.downcast_ref())
}

/// Returns the messages of an error and all its causes, in one line.
pub(crate) fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let messages = causes(error).map(|error| Escaped(&error.to_string()).to_string());
    messages.collect::<Vec<_>>().join(": ")
}

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

    /// Returns why it was refused.
    #[cfg(feature = "config")]
    pub(crate) fn message(&self) -> &str {
        &self.message
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

impl Error for ConfigError {}

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

impl ErrorKind {
    /// Returns its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Limited => "limited",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Doubtful => "doubtful",
            Self::Invalid => "invalid",
            Self::Internal => "internal",
        }
    }
}

/// An error of a registry.
///
/// It is cheap to clone, because every watch of a service reports the same error.
#[derive(Clone, Debug)]
pub struct RegistryError {
    kind: ErrorKind,
    backend: Arc<str>,
    service: Arc<str>,
    message: Arc<str>,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl RegistryError {
    /// Creates an error of `kind`. A backend need not say whom it concerns: [`Registry`] adds the names of
    /// the backend and of the service to the errors of its backend.
    ///
    /// [`Registry`]: crate::registry::Registry
    pub fn new(kind: ErrorKind, message: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            backend: Arc::default(),
            service: Arc::default(),
            message: message.into(),
            retry_after: None,
            source: None,
        }
    }

    /// Names the backend and the service of the error, unless it names them already.
    #[must_use]
    pub fn about(mut self, backend: &str, service: &str) -> Self {
        for (known, new) in [(&mut self.backend, backend), (&mut self.service, service)] {
            if known.is_empty() {
                *known = new.into();
            }
        }
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into().into());
        self
    }

    /// Sets the delay that the registry demands before the next request.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Finds this error in an error or among its causes.
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the backend, such as `consul http://127.0.0.1:8500`; empty if the error names none.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// Returns the service; empty if the error concerns none.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Returns the delay that the registry demands before the next request.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether the registry could not be reached, or could not serve the request.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Unavailable
        )
    }

    /// Returns the message and all its causes, in one line.
    pub fn to_chain(&self) -> String {
        in_one_line(self)
    }
}

/// Two errors are equal if they have one kind and the same text, with all causes.
impl PartialEq for RegistryError {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.to_chain() == other.to_chain()
    }
}

impl Eq for RegistryError {}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.backend.is_empty() {
            write!(f, "{}: ", Escaped(&self.backend))?;
        }
        if !self.service.is_empty() {
            write!(f, "service {:?}: ", self.service)?;
        }
        Escaped(&self.message).fmt(f)
    }
}

impl Error for RegistryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_deref()?)
    }
}

impl From<ConfigError> for RegistryError {
    fn from(error: ConfigError) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string())
    }
}
