//! Why a copy of a request body cannot be sent to its end.

use std::fmt;

/// Why a copy of a request body cannot be sent to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReplayError {
    /// Another attempt sends the body.
    Superseded,
    /// The body was too long to be kept.
    TooLong,
    /// The body broke off while another attempt read it.
    Broke,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Superseded => "the request body is sent by a later attempt",
            Self::TooLong => "the request body is too long to be sent twice",
            Self::Broke => "the request body broke off in another attempt",
        })
    }
}

impl std::error::Error for ReplayError {}
