//! Why an error is no failure of the endpoint that caused it.
//!
//! The endpoint did answer if the response exceeds a limit of this client, and it is not to blame for a
//! deadline of the caller, nor for a request that no endpoint could take. A layer that boxes errors finds the reason among the sources of an error. The
//! body of a response, and layers that return the error of the inner service unchanged, know nothing
//! about its type. So the client below notes the reason for the current thread when it returns an error,
//! and the layer reads the note after its poll:
//!
//! ```text
//! layer:  forget() ─▶ poll ─────────────────▶ Ready(Err(_)) ─▶ noted()
//! client:                └─▶ note(&error) ─▶ Ready(Err(error))
//! ```
//! If the error passes through another task, such as that of a `tower::buffer::Buffer`, there is no note,
//! and the error counts as a failure.

#[cfg(feature = "http")]
use std::fmt;
use std::{cell::Cell, error::Error};

use super::{Outcome, OverLimit, Verdict};
#[cfg(feature = "_hyper")]
use crate::error::RequestErrorKind;
use crate::{deadline::DeadlinePassed, error::find};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excuse {
    /// The response exceeds a limit of this client.
    OverLimit,
    /// No endpoint can take the request as it is.
    Invalid,
    /// The deadline of the caller passed.
    Deadline(DeadlinePassed),
}

/// A source of the errors of requests that no endpoint can take as they are. Neither the endpoint is to blame,
/// nor would a retry help.
#[cfg(feature = "http")]
#[derive(Debug)]
pub(crate) struct InvalidRequest;

#[cfg(feature = "http")]
impl fmt::Display for InvalidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no endpoint can take the request as it is")
    }
}

#[cfg(feature = "http")]
impl Error for InvalidRequest {}

#[cfg(feature = "http")]
fn is_invalid(error: &(dyn Error + 'static)) -> bool {
    find::<InvalidRequest>(error).is_some()
}

#[cfg(not(feature = "http"))]
fn is_invalid(_: &(dyn Error + 'static)) -> bool {
    false
}

thread_local! {
    /// The excuse of the last error that a client returned on this thread.
    static NOTED: Cell<Option<Excuse>> = const { Cell::new(None) };
}

/// Discards the note of an earlier error, before a poll.
#[inline]
pub(crate) fn forget() {
    NOTED.set(None);
}

/// Notes the excuse of an error that is about to be returned, if it has one.
#[cold]
pub(crate) fn note(error: &(dyn Error + 'static)) {
    NOTED.set(Excuse::of(error));
}

/// The excuse of the error that a poll has just returned.
#[cold]
pub(crate) fn noted() -> Option<Excuse> {
    NOTED.get()
}

impl Excuse {
    /// Finds it in an error or its sources.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        match find::<OverLimit>(error) {
            Some(_) => Some(Self::OverLimit),
            None if is_invalid(error) => Some(Self::Invalid),
            None => find(error).copied().map(Self::Deadline),
        }
    }

    /// The kind of the error that it excuses.
    #[cfg(feature = "_hyper")]
    pub(super) fn kind(self) -> RequestErrorKind {
        match self {
            Self::OverLimit => RequestErrorKind::TooLarge,
            Self::Invalid => RequestErrorKind::Invalid,
            Self::Deadline(_) => RequestErrorKind::Timeout,
        }
    }

    fn verdict(self) -> Verdict {
        match self {
            Self::OverLimit => Verdict::SUCCESS,
            Self::Invalid | Self::Deadline(_) => Verdict::new(Outcome::Cancelled),
        }
    }
}

/// Returns the verdict on an error of an endpoint. `judged` is the verdict of a classifier, which sees
/// the type of the error only.
#[cold]
pub(crate) fn on_error(judged: Option<Verdict>, excuse: Option<Excuse>) -> Verdict {
    match excuse {
        Some(excuse) => excuse.verdict(),
        None => judged.unwrap_or(Verdict::FAILURE),
    }
}

/// Returns the verdict on an error of a whole service, as [`on_error`] does. But a deadline that passed
/// while the service was to answer is a failure: a service that hangs shows itself in no other way.
#[cold]
pub(crate) fn on_service_error(judged: Option<Verdict>, excuse: Option<Excuse>) -> Verdict {
    match excuse {
        #[cfg(feature = "tonic")]
        Some(Excuse::Deadline(DeadlinePassed::InFlight)) => judged.unwrap_or(Verdict::FAILURE),
        excuse => on_error(judged, excuse),
    }
}
