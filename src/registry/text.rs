//! Text from outside: shortened for messages, and parsed as a time.

use std::time::Duration;

/// Returns a text with at most so many characters, for logs and errors: others may send any length.
#[cfg(any(feature = "consul", feature = "memory", feature = "_record"))]
pub(super) fn excerpt(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Parses a time with its unit, such as `500ms`, `20s`, `1.5h` or `1m30s`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let digit = |c: char| c.is_ascii_digit() || c == '.';
    let (mut rest, mut total) = (text, None);
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c| !digit(c))?);
        let (unit, tail) = tail.split_at(tail.find(digit).unwrap_or(tail.len()));
        let seconds = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => return None,
        };
        let time = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = Some(total.unwrap_or(Duration::ZERO).saturating_add(time));
        rest = tail;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_their_unit() {
        for (text, ms) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("1.5s", 1_500),
            ("2m", 120_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text).unwrap().as_millis(), ms, "{text}");
        }
        for text in [
            "", "30", "s", "-5s", "1.s.", "5 s", "1..5s", "5x", "1e3s", "NaNs", "infs", "30s5",
            "９s",
        ] {
            assert!(duration(text).is_none(), "{text:?} must be refused");
        }
        let huge = format!("{}h", "9".repeat(400));
        assert!(duration(&huge).is_none());
    }
}
