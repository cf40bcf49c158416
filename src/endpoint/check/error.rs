//! The errors of checks.

use std::{error::Error as StdError, fmt, time::Duration};

use http::StatusCode;

use crate::{error::BoxError, text::Escaped};

/// The reason why a check failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CheckError {
    /// The connection failed.
    Connect(BoxError),
    /// No response within the timeout.
    Timeout(Duration),
    /// The connection broke, or the data on it does not follow the protocol.
    Exchange(BoxError),
    /// The HTTP status is not from 200 to 299. A redirect fails too, because its target is not this
    /// endpoint.
    Status(StatusCode),
    /// A gRPC status other than 0.
    Grpc {
        /// The code: 5 when the endpoint does not have the service.
        code: u32,
        /// The message of the endpoint.
        message: String,
    },
    /// The health service reports this status instead of `SERVING`: 0 unknown, 2 not serving, 3 no such
    /// service.
    NotServing(u64),
    /// The task of the check ended without a result.
    Lost,
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(_) => f.write_str("no connection for a health check"),
            Self::Timeout(after) => write!(f, "no answer to a health check within {after:?}"),
            Self::Exchange(_) => f.write_str("a health check broke off"),
            Self::Status(status) => write!(f, "a health check was answered {status}"),
            Self::Grpc { code, message } => {
                write!(f, "a health check was answered with gRPC status {code}")?;
                if !message.is_empty() {
                    write!(f, ": {}", Escaped(message))?;
                }
                Ok(())
            }
            Self::NotServing(status) => {
                write!(
                    f,
                    "a health check was answered with serving status {status}"
                )
            }
            Self::Lost => f.write_str("a health check ended without a result"),
        }
    }
}

impl StdError for CheckError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Connect(error) | Self::Exchange(error) => Some(&**error),
            _ => None,
        }
    }
}
