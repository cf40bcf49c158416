//! Classifies gRPC responses. The status is in the trailers, or in the head of a response without a
//! body.
//!
//! Every response has HTTP status 200, also one that fails after a thousand messages; only its end
//! carries the status. (linkerd's biaser reads heads only, and its documentation says that it misses
//! these failures.)

use http::{HeaderMap, Response, StatusCode};
use http_body::Body;

use super::{
    Classify, Observer, Outcome, ResponseStatus, Verdict,
    body::{Awaited, ObservedBody},
    codes::{Codes, UNKNOWN, grpc_code, pushback},
    http::head as http_head,
};

/// Classifies gRPC responses by their status.
///
/// | status | outcome |
/// |---|---|
/// | `UNKNOWN` 2, `DEADLINE_EXCEEDED` 4, `INTERNAL` 13, `UNAVAILABLE` 14, `DATA_LOSS` 15 | failure |
/// | `RESOURCE_EXHAUSTED` 8 | overloaded |
/// | every other | success: the caller caused it, so it proves nothing about the endpoint |
/// | no status at the end of the response, or the response breaks off | failure |
/// | error | failure |
///
/// A status in the head (the response has no messages) decides at once, any other status with the
/// trailers. A call that is dropped before the trailers is neutral. A response without a gRPC status
/// whose HTTP status is not 200 is classified by
/// [gRPC's mapping](https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md). The
/// exceptions are 429, and 503 with a `Retry-After`: they count as overloaded, as [`Http`](super::Http)
/// counts them.
///
/// For any status but `OK`, `grpc-retry-pushback-ms` becomes the pushback, 300 s at most. A negative or
/// unreadable number, or several numbers, mean "never"
/// ([gRFC A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback)).
///
/// # Examples
/// ```
/// use http::Response;
/// use tower_roster::classify::{Classify, Grpc, Verdict};
///
/// let failed = Response::builder().header("grpc-status", "14").body(String::new())?;
/// let verdict = Grpc::default().judge(Ok::<_, &std::io::Error>(&failed));
/// assert_eq!(verdict, Some(Verdict::FAILURE));
/// # Ok::<_, http::Error>(())
/// ```
///
/// Customised, for services that return `UNKNOWN` when they permanently refuse a request:
/// ```
/// use tower_roster::classify::{Grpc, Outcome};
///
/// let classify = Grpc::default().outcome(2, Outcome::Success);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grpc {
    codes: Codes,
}

impl Grpc {
    /// Sets the outcome of a status code, given as a number or as tonic's `Code`. A number that gRPC
    /// does not define counts as `UNKNOWN`, as everywhere in gRPC.
    #[must_use]
    pub fn outcome(mut self, code: impl Into<i32>, outcome: Outcome) -> Self {
        self.codes.set(code.into().try_into().ok(), outcome);
        self
    }

    fn head<B>(&self, response: &Response<B>) -> Option<Verdict> {
        let headers = response.headers();
        let verdict = self.codes.status(headers);
        if verdict.is_some() || response.status() == StatusCode::OK {
            return verdict;
        }
        Some(self.http(response.status(), headers))
    }

    /// Returns the verdict on a head without a gRPC status.
    #[cold]
    fn http(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        let http = http_head(status, headers);
        if http.outcome == Outcome::Overloaded {
            return http;
        }
        let code = match status.as_u16() {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            502..=504 => 14,
            _ => UNKNOWN,
        };
        Verdict {
            outcome: self.codes.outcome(code),
            pushback: pushback(headers).or(http.pushback),
        }
    }
}

impl<B: Body, E> Classify<Response<B>, E> for Grpc {
    type Observed<O: Observer> = Response<ObservedBody<B, O>>;

    fn judge(&self, result: Result<&Response<B>, &E>) -> Option<Verdict> {
        match result {
            Ok(response) => self.head(response),
            Err(_) => Some(Verdict::FAILURE),
        }
    }

    fn status(&self, response: &Response<B>) -> Option<ResponseStatus> {
        let http = response.status();
        let own = grpc_code(response.headers()).map(ResponseStatus::Grpc);
        own.or_else(|| (http != StatusCode::OK).then(|| ResponseStatus::Http(http.as_u16())))
    }

    fn observe<O: Observer>(
        &self,
        response: Response<B>,
        head: Option<Verdict>,
        observer: O,
    ) -> Self::Observed<O> {
        let awaited = head.map_or(Awaited::Status(self.codes), Awaited::after);
        response.map(|body| ObservedBody::new(body, observer, awaited))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::classify::Pushback;

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, value.parse().expect("a header value"))
            })
            .collect()
    }

    fn head(status: u16, pairs: &[(&'static str, &str)]) -> Option<Verdict> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        *response.headers_mut() = fields(pairs);
        Grpc::default().head(&response)
    }

    #[test]
    fn every_code_has_an_outcome_in_the_head_and_in_trailers() {
        for code in 0..=16 {
            let outcome = match code {
                2 | 4 | 13..=15 => Outcome::Failure,
                8 => Outcome::Overloaded,
                _ => Outcome::Success,
            };
            let fields = fields(&[("grpc-status", &code.to_string())]);
            let end = Codes::default().end(Some(&fields));
            assert_eq!(end, Verdict::new(outcome), "{code}");
            let head = head(200, &[("grpc-status", &code.to_string())]);
            assert_eq!(head, Some(Verdict::new(outcome)), "{code}");
        }
    }

    #[test]
    fn what_is_no_code_is_unknown_and_none_at_the_end_is_a_failure() {
        for value in ["17", "-1", "", "ok", "99999999999999999999"] {
            let head = head(200, &[("grpc-status", value)]);
            assert_eq!(head, Some(Verdict::FAILURE), "{value:?}");
        }
        assert_eq!(head(200, &[]), None);
        assert_eq!(Codes::default().end(None), Verdict::FAILURE);
        let empty = HeaderMap::new();
        assert_eq!(Codes::default().end(Some(&empty)), Verdict::FAILURE);
    }

    #[test]
    fn without_a_status_http_tells() {
        for (status, retry_after, outcome) in [
            (400, None, Outcome::Failure),
            (401, None, Outcome::Success),
            (403, None, Outcome::Success),
            (404, None, Outcome::Success),
            (418, None, Outcome::Failure),
            (429, None, Outcome::Overloaded),
            (500, None, Outcome::Failure),
            (503, None, Outcome::Failure),
            (503, Some("7"), Outcome::Overloaded),
            (204, None, Outcome::Failure),
        ] {
            let pairs = retry_after.map(|value| ("retry-after", value));
            let verdict = head(status, pairs.as_slice()).expect("a verdict at once");
            assert_eq!(verdict.outcome, outcome, "{status}");
            let pushback = retry_after.map(|_| Pushback::After(Duration::from_secs(7)));
            assert_eq!(verdict.pushback, pushback, "{status}");
        }
        let both = head(503, &[("grpc-status", "5")]);
        assert_eq!(both, Some(Verdict::SUCCESS), "a status of gRPC goes first");
    }

    #[test]
    fn pushback_is_milliseconds_or_never() {
        let after = |ms| Pushback::Exactly(Duration::from_millis(ms));
        for (value, expected) in [
            ("0", after(0)),
            ("1500", after(1500)),
            ("300001", after(300_000)),
            ("2147483647", after(300_000)),
            ("2147483648", Pushback::Never),
            ("-1", Pushback::Never),
            ("", Pushback::Never),
            ("1.5", Pushback::Never),
            ("soon", Pushback::Never),
        ] {
            let pairs = [("grpc-status", "14"), ("grpc-retry-pushback-ms", value)];
            let failed = Verdict::FAILURE.pushback(expected);
            assert_eq!(head(200, &pairs), Some(failed), "{value:?}");
            let end = Codes::default().end(Some(&fields(&pairs)));
            assert_eq!(end, failed, "{value:?}");
        }
        let twice = [
            ("grpc-status", "14"),
            ("grpc-retry-pushback-ms", "1"),
            ("grpc-retry-pushback-ms", "2"),
        ];
        let mut several = HeaderMap::new();
        for (name, value) in twice {
            several.append(name, http::HeaderValue::from_static(value));
        }
        let end = Codes::default().end(Some(&several));
        assert_eq!(end, Verdict::FAILURE.pushback(Pushback::Never), "several");
        let ok = [("grpc-status", "0"), ("grpc-retry-pushback-ms", "1")];
        assert_eq!(head(200, &ok), Some(Verdict::SUCCESS));
    }

    #[test]
    fn an_outcome_can_be_set_and_a_number_out_of_range_is_unknown() {
        let grpc = Grpc::default().outcome(5, Outcome::Failure);
        let end = |grpc: Grpc, code: &str| grpc.codes.end(Some(&fields(&[("grpc-status", code)])));
        assert_eq!(end(grpc, "5"), Verdict::FAILURE);
        for code in [2, 17, -1, i32::MAX] {
            let grpc = Grpc::default().outcome(code, Outcome::Success);
            assert_eq!(end(grpc, "2"), Verdict::SUCCESS, "{code}");
            assert_eq!(end(grpc, "13"), Verdict::FAILURE, "{code}");
        }
    }
}
