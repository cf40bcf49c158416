//! Reads and writes `grpc-timeout`
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The largest number of the header: it has eight digits.
#[cfg(feature = "tonic")]
const LARGEST: u128 = 99_999_999;

/// Returns the timeout of a call; `None` if it has none, or an invalid one.
pub(crate) fn read(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get(TIMEOUT)?)
}

/// Writes a timeout in the finest unit that holds it, rounded up: a server that gives up earlier than
/// the client would answer with a status of its own.
#[cfg(feature = "tonic")]
pub(crate) fn write(timeout: Duration) -> HeaderValue {
    let nanos = timeout.as_nanos();
    let units = [
        ("n", 1),
        ("u", 1_000),
        ("m", 1_000_000),
        ("S", 1_000_000_000),
        ("M", 60_000_000_000),
    ];
    let fits = units
        .into_iter()
        .map(|(unit, size)| (unit, nanos.div_ceil(size)))
        .find(|(_, number)| *number <= LARGEST);
    let (unit, number) = fits.unwrap_or(("H", nanos.div_ceil(3_600_000_000_000).min(LARGEST)));
    HeaderValue::try_from(format!("{number}{unit}")).expect("digits and a letter")
}

/// Parses a `grpc-timeout`: up to eight digits and a unit. Returns `None` if it is invalid.
fn parse(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let read = |text| parse(&HeaderValue::from_static(text));
        for (text, time) in [
            ("2H", Duration::from_secs(7_200)),
            ("2M", Duration::from_secs(120)),
            ("2S", Duration::from_secs(2)),
            ("300m", Duration::from_millis(300)),
            ("0u", Duration::ZERO),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(read(text), Some(time), "{text}");
        }
        for text in [
            "",
            "m",
            "3",
            "3x",
            "-3m",
            "+3m",
            "3.5m",
            "123456789m",
            " 3m",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[cfg(feature = "tonic")]
    #[test]
    fn a_timeout_is_written_in_the_finest_unit_and_rounded_up() {
        for (time, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(299_700_001), "299701u"),
            (Duration::from_secs(30), "30000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(200_000), "200000S"),
            (Duration::from_secs(5_999_999_940), "99999999M"),
            (Duration::MAX, "99999999H"),
        ] {
            let value = write(time);
            assert_eq!(value, text, "{time:?}");
            assert!(parse(&value).is_some());
        }
    }
}
