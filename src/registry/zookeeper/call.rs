//! What the handle of a session and its task say to each other.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::wire::{Body, Code, Malformed, Reader};
use crate::{
    error::{ErrorKind, RegistryError},
    instance::Address,
};

/// Where the servers are, and what is asked of them. No `Debug`: it has a password.
pub(super) struct Options {
    pub(super) members: Vec<Address>,
    pub(super) login: Option<(String, String)>,
    /// The timeout of the session that is asked for; the servers may grant another (ZR9).
    pub(super) session_timeout: Duration,
    /// The time limit of a request.
    pub(super) within: Duration,
}

/// Whether the session has a connection now.
#[derive(Clone)]
pub(super) enum Link {
    /// Not now, and why, if that is known.
    Down(Option<RegistryError>),
    Up(Up),
}

/// A connection of the session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Up {
    /// Differs for each connection. A watch is armed on one connection, and ends with it.
    pub(super) number: u64,
    pub(super) session: i64,
    /// The timeout that the servers granted.
    pub(super) timeout: Duration,
    /// Until when a list may lack instances. It is set after the session or the contact was lost: the
    /// servers may have lost their state, or they were paused, and all sessions ended at once. The
    /// processes that are listed notice that only when they are connected again.
    pub(super) unsure_until: Option<Instant>,
}

/// What the task of the session is asked to do.
pub(super) enum Command {
    Call {
        /// The connection that the request is for; on another, it fails.
        number: u64,
        body: Body,
        reply: oneshot::Sender<Result<Reply, CallError>>,
    },
    /// Nobody waits for events of these nodes any more.
    Disarm(Vec<String>),
}

/// The answer to a request.
pub(super) struct Reply {
    pub(super) zxid: i64,
    fields: Vec<u8>,
}

impl Reply {
    pub(super) fn new(zxid: i64, fields: Vec<u8>) -> Self {
        Self { zxid, fields }
    }

    pub(super) fn fields(&self) -> Reader<'_> {
        Reader::new(&self.fields)
    }

    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// The server refuses it: it was not carried out.
    Said { code: Code, zxid: i64 },
    /// Nobody knows whether it was carried out (ZR2).
    Lost(RegistryError),
}

impl CallError {
    pub(super) fn is(&self, code: Code) -> bool {
        matches!(self, Self::Said { code: said, .. } if *said == code)
    }

    /// The error to report about the node of the request.
    pub(super) fn about(self, path: &str) -> RegistryError {
        let code = match self {
            Self::Lost(error) => return error,
            Self::Said { code, .. } => code,
        };
        let (kind, hint) = match code {
            // ZD23: a wrong password only makes the user another one.
            Code::NO_AUTH => (
                ErrorKind::Denied,
                " (no permission; a wrong user or password looks the same)",
            ),
            Code::AUTH_FAILED | Code::NEEDS_SASL => (ErrorKind::Denied, ""),
            Code::THROTTLED => (ErrorKind::Limited, ""),
            Code::NO_CHILDREN_FOR_EPHEMERALS => {
                (ErrorKind::Refused, " (the node above it is ephemeral)")
            }
            Code::INVALID_ACL => (
                ErrorKind::Refused,
                " (an ACL for the user needs a user and a password)",
            ),
            Code::BAD_ARGUMENTS | Code::UNIMPLEMENTED | Code::QUOTA_EXCEEDED => {
                (ErrorKind::Refused, "")
            }
            _ => (ErrorKind::Unavailable, ""),
        };
        RegistryError::new(kind, format!("{code} at {path:?}{hint}"))
    }
}

impl From<Malformed> for CallError {
    fn from(why: Malformed) -> Self {
        let message = format!("an answer cannot be used: {why}");
        Self::Lost(RegistryError::new(ErrorKind::Malformed, message))
    }
}
