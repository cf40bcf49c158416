//! Classifies HTTP responses: first by the status, then by whether the body is complete.
#![expect(clippy::disallowed_types, reason = "a date in a header is a date")]

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Response, StatusCode, header::RETRY_AFTER};
use http_body::Body;

use super::{
    Classify, LONGEST_PUSHBACK, Observer, Outcome, Pushback, Verdict, body::Awaited,
    body::ObservedBody,
};

/// Classifies HTTP responses by their status.
///
/// | response | outcome |
/// |---|---|
/// | error | failure |
/// | 429; 503 with a `Retry-After` | overloaded |
/// | any other 5xx | failure |
/// | every other status | success; the caller caused a 4xx, so it proves nothing about the endpoint |
///
/// For every outcome but success, `Retry-After` (RFC 9110, section 10.2.3) becomes the pushback, 300 s
/// at most. It may be a number of seconds or a date; an unreadable one is ignored. The verdict is known
/// with the head. If the body of a successful response breaks off, a second verdict turns it into a
/// failure.
///
/// # Examples
/// ```
/// use http::{Response, StatusCode};
/// use tower_roster::classify::{Http, Outcome};
///
/// let mut response = Response::new(());
/// *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
/// let verdict = Http::verdict(Ok::<_, &std::io::Error>(&response));
/// assert_eq!(verdict.outcome, Outcome::Overloaded);
/// ```
///
/// Customised, here for a service for which 404 is a failure:
/// ```
/// use http::{Response, StatusCode};
/// use tower_roster::classify::{Http, Verdict};
///
/// let classify = Http::with(|result: Result<&Response<String>, &std::io::Error>| match result {
///     Ok(response) if response.status() == StatusCode::NOT_FOUND => Verdict::FAILURE,
///     _ => Http::verdict(result),
/// });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Http;

impl Http {
    /// Creates a classifier that applies a closure, like [`from_fn`](super::from_fn), and observes the
    /// end of the body too.
    pub fn with<F, B, E>(judge: F) -> HttpWith<F>
    where
        F: Fn(Result<&Response<B>, &E>) -> Verdict + Clone + Send + Sync + 'static,
    {
        HttpWith(judge)
    }

    /// Returns the verdict on a response or an error. Closures that change the verdict on a few
    /// responses only can call it for the others.
    pub fn verdict<B, E>(result: Result<&Response<B>, &E>) -> Verdict {
        match result {
            Ok(response) => head(response.status(), response.headers()),
            Err(_) => Verdict::FAILURE,
        }
    }
}

impl<B: Body, E> Classify<Response<B>, E> for Http {
    type Observed<O: Observer> = Response<ObservedBody<B, O>>;

    fn judge(&self, result: Result<&Response<B>, &E>) -> Option<Verdict> {
        Some(Self::verdict(result))
    }

    fn observe<O: Observer>(
        &self,
        response: Response<B>,
        head: Option<Verdict>,
        observer: O,
    ) -> Self::Observed<O> {
        let awaited = head.map_or(Awaited::Whole, Awaited::after);
        response.map(|body| ObservedBody::new(body, observer, awaited))
    }
}

/// A classifier that applies a closure to HTTP responses; made by [`Http::with`].
#[derive(Clone, Copy)]
pub struct HttpWith<F>(F);

impl<F, B, E> Classify<Response<B>, E> for HttpWith<F>
where
    F: Fn(Result<&Response<B>, &E>) -> Verdict + Clone + Send + Sync + 'static,
    B: Body,
{
    type Observed<O: Observer> = Response<ObservedBody<B, O>>;

    fn judge(&self, result: Result<&Response<B>, &E>) -> Option<Verdict> {
        Some((self.0)(result))
    }

    fn observe<O: Observer>(
        &self,
        response: Response<B>,
        head: Option<Verdict>,
        observer: O,
    ) -> Self::Observed<O> {
        let awaited = head.map_or(Awaited::Whole, Awaited::after);
        response.map(|body| ObservedBody::new(body, observer, awaited))
    }
}

impl<F> fmt::Debug for HttpWith<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpWith").finish_non_exhaustive()
    }
}

/// Returns the verdict on the head of a response.
pub(super) fn head(status: StatusCode, headers: &HeaderMap) -> Verdict {
    let overloaded = status == StatusCode::TOO_MANY_REQUESTS;
    if !overloaded && !status.is_server_error() {
        return Verdict::SUCCESS;
    }
    let pushback = retry_after(headers, SystemTime::now);
    let overloaded =
        overloaded || (status == StatusCode::SERVICE_UNAVAILABLE && pushback.is_some());
    let outcome = if overloaded {
        Outcome::Overloaded
    } else {
        Outcome::Failure
    };
    Verdict { outcome, pushback }
}

fn retry_after(headers: &HeaderMap, now: impl FnOnce() -> SystemTime) -> Option<Pushback> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let delay = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number with more digits than `u64` holds exceeds the maximum.
        text.parse().map_or(LONGEST_PUSHBACK, Duration::from_secs)
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        date.duration_since(now()).unwrap_or_default()
    };
    Some(Pushback::After(delay.min(LONGEST_PUSHBACK)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16, retry_after: Option<&str>) -> Verdict {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(RETRY_AFTER, value.parse().expect("a header value"));
        }
        head(StatusCode::from_u16(status).expect("a status"), &headers)
    }

    fn secs(secs: u64) -> Option<Pushback> {
        Some(Pushback::After(Duration::from_secs(secs)))
    }

    #[test]
    fn the_status_tells() {
        for (status, retry_after, outcome) in [
            (200, None, Outcome::Success),
            (204, None, Outcome::Success),
            (301, Some("5"), Outcome::Success),
            (400, None, Outcome::Success),
            (404, None, Outcome::Success),
            (408, None, Outcome::Success),
            (429, None, Outcome::Overloaded),
            (429, Some("5"), Outcome::Overloaded),
            (500, None, Outcome::Failure),
            (500, Some("5"), Outcome::Failure),
            (502, None, Outcome::Failure),
            (503, None, Outcome::Failure),
            (503, Some("soon"), Outcome::Failure),
            (503, Some("5"), Outcome::Overloaded),
            (504, None, Outcome::Failure),
            (599, None, Outcome::Failure),
        ] {
            let verdict = verdict(status, retry_after);
            assert_eq!(verdict.outcome, outcome, "{status} {retry_after:?}");
            let pushback = (outcome != Outcome::Success && retry_after == Some("5"))
                .then_some(Pushback::After(Duration::from_secs(5)));
            assert_eq!(verdict.pushback, pushback, "{status} {retry_after:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        // 1994-11-06 08:49:37, the date of the RFC's examples.
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |value: &str, now: SystemTime| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().expect("a header value"));
            retry_after(&headers, || now)
        };
        let before = |secs| date - Duration::from_secs(secs);
        for (value, now, pushback) in [
            ("0", date, secs(0)),
            ("120", date, secs(120)),
            (" 120 ", date, secs(120)),
            ("301", date, secs(300)),
            ("99999999999999999999999999", date, secs(300)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", before(7), secs(7)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", before(7), secs(7)),
            ("Sun Nov  6 08:49:37 1994", before(7), secs(7)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", before(86_400), secs(300)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", date, secs(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", date, secs(300)),
            ("Sun, 06 Nov 1994 08:49:37 CET", date, None),
            ("Sun, 99 Foo 1994 08:49:37 GMT", date, None),
            ("-1", date, None),
            ("1.5", date, None),
            ("", date, None),
            ("soon", date, None),
        ] {
            assert_eq!(read(value, now), pushback, "{value:?}");
        }
    }
}
