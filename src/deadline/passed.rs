//! The mark of an error whose cause is the deadline that the caller set.

use std::{error::Error, fmt};

use tower::timeout::error::Elapsed;

/// The deadline of the caller had passed. How long a caller waits proves nothing about an endpoint, so
/// such an error is no failure of one. tower's `Elapsed` is its source, as the error of a deadline
/// that the retry applies itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeadlinePassed {
    /// It had passed when the request came, so the request was not sent.
    BeforeCall,
    /// It passed while the endpoint was to answer.
    #[cfg(feature = "tonic")]
    InFlight,
}

impl fmt::Display for DeadlinePassed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BeforeCall => "the deadline had passed before the call",
            #[cfg(feature = "tonic")]
            Self::InFlight => "the deadline passed before the answer came",
        })
    }
}

impl Error for DeadlinePassed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        const ELAPSED: &Elapsed = &Elapsed::new();
        Some(ELAPSED)
    }
}
