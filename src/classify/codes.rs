//! The outcome of each gRPC status code.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{LONGEST_PUSHBACK, Outcome, Pushback, Verdict};

pub(super) const UNKNOWN: usize = 2;

// Constants, because a header name given as text is parsed at each look-up.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The outcome of each code; the index is the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Codes([Outcome; 17]);

impl Default for Codes {
    fn default() -> Self {
        let mut outcomes = [Outcome::Success; 17];
        for failure in [UNKNOWN, 4, 13, 14, 15] {
            outcomes[failure] = Outcome::Failure;
        }
        outcomes[8] = Outcome::Overloaded;
        Self(outcomes)
    }
}

impl Codes {
    /// Sets the outcome of a code. A code that gRPC does not define counts as `UNKNOWN`.
    pub(super) fn set(&mut self, code: Option<usize>, outcome: Outcome) {
        self.0[self.index(code)] = outcome;
    }

    /// Returns the outcome of a code.
    pub(super) fn outcome(&self, code: usize) -> Outcome {
        self.0[code]
    }

    fn index(&self, code: Option<usize>) -> usize {
        let known = code.filter(|code| *code < self.0.len());
        known.unwrap_or(UNKNOWN)
    }

    /// Returns the verdict in a head or in trailers, if they contain a status.
    #[inline]
    pub(super) fn status(&self, fields: &HeaderMap) -> Option<Verdict> {
        let status = fields.get(STATUS)?;
        // Nearly every status is `OK`: then no number is parsed, and no other header is looked up.
        if status.as_bytes() == b"0" {
            return Some(Verdict::new(self.0[0]));
        }
        Some(self.bad_status(status, fields))
    }

    #[cold]
    fn bad_status(&self, status: &HeaderValue, fields: &HeaderMap) -> Verdict {
        let code = self.index(status.to_str().ok().and_then(|text| text.parse().ok()));
        Verdict {
            outcome: self.0[code],
            pushback: pushback(fields).filter(|_| code != 0),
        }
    }

    /// Returns the verdict on a complete response whose head carried no status.
    pub(super) fn end(&self, trailers: Option<&HeaderMap>) -> Verdict {
        let verdict = trailers.and_then(|trailers| self.status(trailers));
        verdict.unwrap_or(Verdict::FAILURE)
    }
}

/// Returns the status code in a head or in trailers, if they contain one. An unreadable one counts as
/// `UNKNOWN`.
pub(crate) fn grpc_code(fields: &HeaderMap) -> Option<u16> {
    let status = fields.get(STATUS)?.to_str().ok();
    let code = status.and_then(|text| text.parse().ok());
    Some(code.unwrap_or(UNKNOWN as u16))
}

/// Reads the pushback. Several of them, like an unreadable one, forbid a retry, as in grpc-go.
pub(super) fn pushback(fields: &HeaderMap) -> Option<Pushback> {
    let mut values = fields.get_all(PUSHBACK).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return Some(Pushback::Never);
    }
    // The gRFC counts a number that does not fit into 32 bits as unreadable.
    let ms: Option<i32> = value.to_str().ok().and_then(|text| text.parse().ok());
    Some(match ms.and_then(|ms| u64::try_from(ms).ok()) {
        Some(ms) => Pushback::Exactly(Duration::from_millis(ms).min(LONGEST_PUSHBACK)),
        None => Pushback::Never,
    })
}
