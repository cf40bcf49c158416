//! The error of a response that exceeds a limit of this client.

use std::{error::Error, fmt};

use crate::error::find;

/// The head or the trailers of a response exceed a limit that this client sets.
///
/// The endpoint has answered, so layers count the request as a success of the endpoint; and every
/// endpoint would answer the same, so a retry does not send it again. The message names the limit.
///
/// A layer that passes errors on without knowing their type, such as a hedge or a measured endpoint, and the
/// body of a response, learn it from the poll that returned the error. If another task is in between, such
/// as that of a `tower::buffer::Buffer`, they count a failure. They cannot tell errors apart within one poll:
/// if a service between drops this error and returns another in the same poll, such as the error of a
/// fallback that failed at once, they take the other for this one, and count a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverLimit(String);

impl OverLimit {
    /// `what` exceeds the limit; the text names the setting.
    #[cfg(feature = "http")]
    pub(crate) fn new(what: String) -> Self {
        Self(what)
    }
}

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for OverLimit {}

/// Whether an error says that a response exceeds a limit of this client.
pub fn is_over_limit(error: &(dyn Error + 'static)) -> bool {
    find::<OverLimit>(error).is_some()
}
