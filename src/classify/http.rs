//! Classifies HTTP responses: first by the status, then by whether the body is complete.

use http::{HeaderMap, Response, StatusCode};
use http_body::Body;

use super::{
    Classify, LONGEST_PUSHBACK, Observer, Outcome, Pushback, ResponseStatus, Verdict,
    body::Awaited, body::ObservedBody, retry_after::retry_after,
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
/// at most. It may be a number of seconds or a date; an unreadable one is ignored, and of several the
/// longest counts. `RateLimit` and `X-RateLimit-Reset` are not read: the first is a draft, and the second
/// is a number of seconds from some servers and a date from others. The verdict is known with the head. If the body of a successful response breaks off, a second verdict turns it into a
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

    fn status(&self, response: &Response<B>) -> Option<ResponseStatus> {
        Some(ResponseStatus::Http(response.status().as_u16()))
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

    fn status(&self, response: &Response<B>) -> Option<ResponseStatus> {
        Some(ResponseStatus::Http(response.status().as_u16()))
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

impl_debug!([F] HttpWith<F>);

/// Returns the verdict on the head of a response.
pub(super) fn head(status: StatusCode, headers: &HeaderMap) -> Verdict {
    let overloaded = status == StatusCode::TOO_MANY_REQUESTS;
    if !overloaded && !status.is_server_error() {
        return Verdict::SUCCESS;
    }
    let pushback = retry_after(headers);
    let pushback = pushback.map(|delay| Pushback::After(delay.min(LONGEST_PUSHBACK)));
    let overloaded =
        overloaded || (status == StatusCode::SERVICE_UNAVAILABLE && pushback.is_some());
    let outcome = if overloaded {
        Outcome::Overloaded
    } else {
        Outcome::Failure
    };
    Verdict { outcome, pushback }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header::RETRY_AFTER;

    use super::*;

    fn verdict(status: u16, retry_after: Option<&str>) -> Verdict {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(RETRY_AFTER, value.parse().expect("a header value"));
        }
        head(StatusCode::from_u16(status).expect("a status"), &headers)
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
}
