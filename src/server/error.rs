//! How serving ends.

use std::{error::Error, fmt, io};

use crate::error::{BoxError, RegistryError};

/// How a server left.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Left {
    /// Whether the registry held the instance when the server was told to leave.
    pub announced: bool,
    /// Whether the registry confirmed that the instance is taken out; `Ok` too if it was never announced.
    /// After an error, the instance is listed until its check expires.
    pub deregistered: Result<(), RegistryError>,
    /// Whether the server ended by itself within [`grace`](super::ServerSettings::grace). Otherwise requests or
    /// streams were still in flight. They were cut off, or run on tasks of their own until the runtime ends.
    pub finished: bool,
}

/// Why [`serve`](super::AnnouncedServer::serve) failed.
#[derive(Debug)]
pub struct ServeError(ServeErrorKind);

#[derive(Debug)]
pub(super) enum ServeErrorKind {
    /// The system does not tell of signals.
    Signals(io::Error),
    Registry(RegistryError),
    Server(BoxError),
    Interrupted,
}

impl ServeError {
    /// Whether the server itself failed. Its error is the `source()`.
    pub fn is_server(&self) -> bool {
        matches!(self.0, ServeErrorKind::Server(_))
    }

    /// Whether a further signal ended the leave early, so that requests may have been cut off.
    pub fn is_interrupted(&self) -> bool {
        matches!(self.0, ServeErrorKind::Interrupted)
    }
}

impl From<ServeErrorKind> for ServeError {
    fn from(kind: ServeErrorKind) -> Self {
        Self(kind)
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            ServeErrorKind::Signals(_) => "signals cannot be received",
            ServeErrorKind::Registry(_) => "the server cannot be announced",
            ServeErrorKind::Server(_) => "the server failed",
            ServeErrorKind::Interrupted => "stopped again before all requests were answered",
        })
    }
}

impl Error for ServeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            ServeErrorKind::Signals(error) => Some(error),
            ServeErrorKind::Registry(error) => Some(error),
            ServeErrorKind::Server(error) => Some(&**error),
            ServeErrorKind::Interrupted => None,
        }
    }
}
