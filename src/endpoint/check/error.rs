//! Why a check failed.

use std::{error::Error as StdError, fmt, time::Duration};

use http::StatusCode;

use crate::error::BoxError;

/// Why a check failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CheckError {
    /// No connection.
    Connect(BoxError),
    /// No answer in time.
    Timeout(Duration),
    /// The connection broke, or what came over it is not the protocol.
    Exchange(BoxError),
    /// A status that is not from 200 to 299; a redirect too, because where it leads is not this endpoint.
    Status(StatusCode),
    /// A gRPC status that is not 0.
    Grpc {
        /// The code: 5 when the endpoint does not know the service, 12 when it has no health service.
        code: u32,
        /// What it says about it.
        message: String,
    },
    /// A health service that does not say `SERVING` but this: 0 unknown, 2 not serving, 3 no such
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
                    write!(f, ": {message}")?;
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
