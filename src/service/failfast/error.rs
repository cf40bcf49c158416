//! The error of a refused call.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use crate::{
    classify::NotSent,
    error::{RequestErrorKind, find},
};

/// The inner service was not ready for too long; the call was not sent.
///
/// Inside a stack it comes as a boxed error; [`find`](Self::find) finds it there. A server that
/// passes it on responds with HTTP 503 or gRPC `UNAVAILABLE`. Any request, idempotent or not, can
/// safely be sent elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailFastError {
    name: Arc<str>,
    wait: Duration,
}

impl FailFastError {
    pub(super) fn new(name: Arc<str>, wait: Duration) -> Self {
        Self { name, wait }
    }

    /// Finds this error in an error or among its causes.
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// What the call failed with: [`NotReady`](RequestErrorKind::NotReady).
    pub fn kind(&self) -> RequestErrorKind {
        RequestErrorKind::NotReady
    }

    /// The configured wait for the inner service before calls fail.
    pub fn waited(&self) -> Duration {
        self.wait
    }
}

impl fmt::Display for FailFastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            write!(f, "service was not ready for {:?}", self.wait)
        } else {
            let (name, wait) = (&self.name, self.wait);
            write!(f, "service {name:?} was not ready for {wait:?}")
        }
    }
}

impl Error for FailFastError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        const SOURCE: &NotSent = &NotSent(RequestErrorKind::NotReady);
        Some(SOURCE)
    }
}
