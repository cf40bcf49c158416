//! Reads `Retry-After` (RFC 9110, section 10.2.3), for every part that obeys it.
#![expect(clippy::disallowed_types, reason = "a date in a header is a date")]

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header::RETRY_AFTER};

/// Returns how long the peer asks to wait: a number of seconds, or the time until a date. Unreadable
/// values are ignored; of several the longest counts, because each of them is asked for. A number that is
/// too large for its type is the largest duration.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(RETRY_AFTER).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.filter_map(|text| delay(text, SystemTime::now)).max()
}

fn delay(text: &str, now: impl FnOnce() -> SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(text.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn it_is_seconds_or_a_date() {
        // 1994-11-06 08:49:37, the date of the RFC's examples.
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let before = |secs| date - Duration::from_secs(secs);
        let secs = |secs| Some(Duration::from_secs(secs));
        for (text, now, expected) in [
            ("0", date, secs(0)),
            ("120", date, secs(120)),
            (" 120 ", date, secs(120)),
            ("99999999999999999999999999", date, Some(Duration::MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", before(7), secs(7)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", before(7), secs(7)),
            ("Sun Nov  6 08:49:37 1994", before(7), secs(7)),
            (
                "Sun, 06 Nov 1994 08:49:37 GMT",
                before(86_400),
                secs(86_400),
            ),
            ("Sun, 06 Nov 1994 08:49:30 GMT", date, secs(0)),
            ("Sun, 06 Nov 1994 08:49:37 CET", date, None),
            ("Sun, 99 Foo 1994 08:49:37 GMT", date, None),
            ("-1", date, None),
            ("1.5", date, None),
            ("", date, None),
            ("soon", date, None),
        ] {
            assert_eq!(delay(text, || now), expected, "{text:?}");
        }
    }

    #[test]
    fn of_several_the_longest_counts() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        for value in ["soon", "7", "30", "2"] {
            headers.append(RETRY_AFTER, HeaderValue::from_static(value));
        }
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(30)));
    }
}
