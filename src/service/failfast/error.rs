//! What a caller gets instead of an answer.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use crate::{classify::NotSent, service::find_in_chain};

/// The inner service has not been ready for too long; the call was not sent.
///
/// Inside a stack it comes as a boxed error; [`find`](Self::find) looks for it. Answered to a client
/// of one's own, it is HTTP 503 or gRPC `UNAVAILABLE`. Sending the request elsewhere is safe whatever
/// its method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailFastError {
    name: Arc<str>,
    wait: Duration,
}

impl FailFastError {
    pub(super) fn new(name: Arc<str>, wait: Duration) -> Self {
        Self { name, wait }
    }

    /// Finds it in an error or among its causes.
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        find_in_chain(error)
    }

    /// How long the inner service was waited for, at least, before calls began to fail.
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
        NotSent::SOURCE
    }
}
