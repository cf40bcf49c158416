//! Whether the connection of a response can carry another request, by the head of the response. Pure.
//!
//! hyper closes a connection after `Connection: close`, after a body that ends with the connection, and
//! when bytes arrive that belong to no response. What remains are responses whose head contradicts
//! itself: the peer, or something on the way, may see the end of the response elsewhere than hyper
//! does, and then the rest of it would be the beginning of the next response (RFC 9112, sections 6.1 to
//! 6.3).

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use http_body::Body;

// A constant, because a name given as text is parsed at each look-up.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Whether the head of a response leaves no doubt where the response ends.
#[inline]
pub(super) fn is_framed<B: Body>(answer: &Response<B>) -> bool {
    let headers = answer.headers();
    if answer.status() == StatusCode::NO_CONTENT {
        // It has no body, and must not announce one. A length of zero is frequent, and does no harm.
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        return !headers.contains_key(TRANSFER_ENCODING) && lengths.all(|length| length == "0");
    }
    // hyper knows the length, unless the body is in chunks or ends with the connection.
    if answer.body().size_hint().exact().is_some() || !headers.contains_key(TRANSFER_ENCODING) {
        return true;
    }
    let codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = codings.flat_map(items).filter(|item| is_chunked(item));
    chunked.count() == 1 && !headers.contains_key(CONTENT_LENGTH)
}

/// Whether a coding is `chunked`. Parameters do not make another one of it.
fn is_chunked(coding: &[u8]) -> bool {
    let name = coding.split(|byte| *byte == b';').next();
    name.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// What the peer announces about the further life of a connection in `Keep-Alive` (RFC 2068, section
/// 19.7.1, and draft-thomson-hybi-http-timeout).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hint {
    /// For how long it can be idle, with a margin for what is on the way.
    pub(super) idle: Option<Duration>,
    /// How many further requests it can carry.
    pub(super) requests: Option<u32>,
}

/// Reads the announcement, if there is one. Unknown or unreadable parts are ignored; of repeated ones,
/// the least counts.
#[inline]
pub(super) fn hint(headers: &HeaderMap) -> Option<Hint> {
    headers.get(KEEP_ALIVE)?;
    let mut hint = Hint::default();
    for item in headers.get_all(KEEP_ALIVE).iter().flat_map(items) {
        let Some((name, number)) = std::str::from_utf8(item)
            .ok()
            .and_then(|text| text.split_once('='))
            .and_then(|(name, value)| Some((name.trim(), number(value)?)))
        else {
            continue;
        };
        if name.eq_ignore_ascii_case("timeout") {
            hint.idle = hint.idle.into_iter().chain([margin(number)]).min();
        } else if name.eq_ignore_ascii_case("max") {
            hint.requests = hint.requests.into_iter().chain([number]).min();
        }
    }
    Some(hint)
}

/// The items of a list.
fn items(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let items = value.as_bytes().split(|byte| *byte == b',');
    items.map(<[u8]>::trim_ascii)
}

/// A number, with or without quotes. One that is too large is as good as the largest.
fn number(text: &str) -> Option<u32> {
    let text = text.trim().trim_matches('"');
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u32::MAX))
}

/// A second less, so that no request is sent into a connection that is closing; half of a short time.
fn margin(secs: u32) -> Duration {
    let time = Duration::from_secs(secs.into());
    (time / 2).max(time.saturating_sub(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_announces_how_long_and_how_often_a_connection_can_be_used() {
        let ms = |ms| Some(Duration::from_millis(ms));
        for (lines, idle, requests) in [
            (&["timeout=5, max=100"][..], ms(4_000), Some(100)),
            (&["Timeout = 5 ,MAX=\"7\""], ms(4_000), Some(7)),
            (&["timeout=5", "max=3"], ms(4_000), Some(3)),
            (&["timeout=2"], ms(1_000), None),
            (
                &["timeout=2, timeout=9", "timeout=3, max=4, max=9"],
                ms(1_000),
                Some(4),
            ),
            (&["timeout=1"], ms(500), None),
            (&["timeout=0, max=0"], ms(0), Some(0)),
            (&["max=99999999999"], None, Some(u32::MAX)),
            (&["timeout=-1, max=1.5, other=3, timeout"], None, None),
            (&[""], None, None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(KEEP_ALIVE, line.parse().expect("a value"));
            }
            assert_eq!(hint(&headers), Some(Hint { idle, requests }), "{lines:?}");
        }
        assert_eq!(hint(&HeaderMap::new()), None);
    }

    #[test]
    fn a_response_whose_fields_contradict_each_other_ends_its_connection() {
        for (status, fields, framed) in [
            (204, &[("content-length", "0")][..], true),
            (
                204,
                &[("content-length", "0"), ("content-length", "2")],
                false,
            ),
            (204, &[("content-length", "2")], false),
            (204, &[("transfer-encoding", "chunked")], false),
            (200, &[("transfer-encoding", "gzip, Chunked")], true),
            (200, &[("transfer-encoding", "chunked;x, chunked")], false),
            (
                200,
                &[("transfer-encoding", "chunked"), ("content-length", "2")],
                false,
            ),
        ] {
            // A body of unknown length, as one in chunks is.
            let body = http_body_util::StreamBody::new(futures_util::stream::empty::<
                Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>,
            >());
            let mut answer = Response::builder().status(status);
            for (name, value) in fields {
                answer = answer.header(*name, *value);
            }
            let answer = answer.body(body).expect("a response");
            assert_eq!(is_framed(&answer), framed, "{status} {fields:?}");
        }
    }
}
