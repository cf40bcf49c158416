//! What the status codes of gRPC count as.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{LONGEST_PUSHBACK, Outcome, Pushback, Verdict};

pub(super) const UNKNOWN: usize = 2;

// As constants, since a name that comes as text is parsed for each look-up.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What each code counts as.
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
    /// Sets what a code counts as; one that gRPC does not define means `UNKNOWN`.
    pub(super) fn set(&mut self, code: Option<usize>, outcome: Outcome) {
        self.0[self.index(code)] = outcome;
    }

    /// What a code counts as.
    pub(super) fn outcome(&self, code: usize) -> Outcome {
        self.0[code]
    }

    fn index(&self, code: Option<usize>) -> usize {
        let known = code.filter(|code| *code < self.0.len());
        known.unwrap_or(UNKNOWN)
    }

    /// The verdict that a head or trailers bring, if they bring one.
    #[inline]
    pub(super) fn status(&self, fields: &HeaderMap) -> Option<Verdict> {
        let status = fields.get(STATUS)?;
        // Nearly all of them, so nothing is parsed, and nothing else looked up.
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

    /// The verdict on an answer that has ended, where its head did not tell.
    pub(super) fn end(&self, trailers: Option<&HeaderMap>) -> Verdict {
        let verdict = trailers.and_then(|trailers| self.status(trailers));
        verdict.unwrap_or(Verdict::FAILURE)
    }
}

pub(super) fn pushback(fields: &HeaderMap) -> Option<Pushback> {
    let value = fields.get(PUSHBACK)?;
    // What does not fit is unreadable too, says the gRFC.
    let ms: Option<i32> = value.to_str().ok().and_then(|text| text.parse().ok());
    Some(match ms.and_then(|ms| u64::try_from(ms).ok()) {
        Some(ms) => Pushback::After(Duration::from_millis(ms).min(LONGEST_PUSHBACK)),
        None => Pushback::Never,
    })
}
