//! The error of a refused call.

use std::{error::Error, fmt, sync::Arc};

use crate::error::{RequestErrorKind, find};

/// A call that was refused because the service accepts too few calls; it was not sent.
///
/// Inside a stack it comes as a [`BoxError`](crate::BoxError); [`find`](Self::find) finds it there.
/// A server that passes it on responds with HTTP 503 or gRPC `UNAVAILABLE`. Retrying it at once
/// only increases the share of refused calls.
#[derive(Clone, Debug, PartialEq)]
pub struct ThrottleError {
    name: Arc<str>,
    probability: f64,
}

impl ThrottleError {
    pub(super) fn new(name: Arc<str>, probability: f64) -> Self {
        Self { name, probability }
    }

    /// Finds this error in an error or among its causes.
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// What the call failed with: [`Throttled`](RequestErrorKind::Throttled).
    pub fn kind(&self) -> RequestErrorKind {
        RequestErrorKind::Throttled
    }

    /// The share of calls that are refused, 0 to 1.
    pub fn probability(&self) -> f64 {
        self.probability
    }
}

impl fmt::Display for ThrottleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("throttle")?;
        if !self.name.is_empty() {
            write!(f, " {:?}", self.name)?;
        }
        let percent = self.probability * 100.0;
        write!(f, " refuses {percent:.1} % of the calls, and this one")
    }
}

impl Error for ThrottleError {}
