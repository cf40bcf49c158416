//! Names as segments of the paths of Consul's HTTP API.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

/// The longest name, in bytes. Arbitrary: percent-encoding makes at most 24 KiB of it, and a URI may
/// have 64 KiB.
const LONGEST: usize = 8 << 10;

/// Encodes a name as one path segment.
pub(super) fn segment(name: &str) -> PercentEncode<'_> {
    const ALL_BUT_PLAIN: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~');
    utf8_percent_encode(name, ALL_BUT_PLAIN)
}

/// Checks that a request can name this; otherwise returns what the name has. Encoding does not help: the agent decodes the
/// whole path before it looks at it.
///
/// - Go's router redirects (301) every path that its `path.Clean` changes. Without a leading slash, such
///   names have an empty segment (one slash at the end is allowed), or a segment `.` or `..`.
/// - Consul refuses (400) every path with a character that is not printable, as Go's `unicode.IsPrint`
///   defines it.
///
/// The agent accepts such a name in the body of a registration. But then no heartbeat, read or
/// deregistration could reach what it registered.
pub(super) fn check(name: &str) -> Result<(), String> {
    if name.len() > LONGEST {
        let length = name.len();
        return Err(format!(
            "has {length} bytes, and at most {LONGEST} fit in a path"
        ));
    }
    let mut parts = name.strip_suffix('/').unwrap_or(name).split('/');
    match parts.find(|part| matches!(*part, "" | "." | "..")) {
        Some("") => {
            let what = "has an empty path segment (a slash at its start, or two in a row)";
            return Err(format!("{what}, which Consul does not keep in a path"));
        }
        Some(part) => {
            let what = format!("has the path segment {part:?}");
            return Err(format!("{what}, which Consul does not keep in a path"));
        }
        None => {}
    }
    match name.chars().find(|c| !is_printable(*c)) {
        Some(odd) => Err(format!(
            "has the character {}, and Consul refuses a path with a character that is not printable",
            odd.escape_unicode()
        )),
        None => Ok(()),
    }
}

/// Whether a character is a letter, mark, number, punctuation, symbol or the ASCII space. The standard
/// library escapes all others when it follows a base character. Its Unicode tables are newer than those of an
/// old agent, so such an agent may refuse a character that this accepts.
fn is_printable(c: char) -> bool {
    matches!(c, '"' | '\'' | '\\')
        || ['a', c].iter().collect::<String>().escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_an_agent_can_be_asked_about_are_accepted() {
        for name in [
            "web", "a/b", "a/", "a%2Fb", "a?b#c", "a b", " a ", "ä", "e\u{301}", "\u{301}", "服务",
            "a...", "...", ".a", "a/.b/..c", "a\\..\\b", "a;b", "a\"'b", "register", "🦀", "~",
        ] {
            assert_eq!(check(name), Ok(()), "{name:?}");
        }
        assert_eq!(check(&"ä".repeat(LONGEST / 2)), Ok(()));
    }

    #[test]
    fn names_that_an_agent_cannot_be_asked_about_are_named_with_the_reason() {
        for (name, reason) in [
            ("/a", "an empty path segment"),
            ("/", "an empty path segment"),
            ("//", "an empty path segment"),
            ("a//b", "an empty path segment"),
            ("a//", "an empty path segment"),
            (".", r#"the path segment ".""#),
            ("..", r#"the path segment "..""#),
            ("./", r#"the path segment ".""#),
            ("a/..", r#"the path segment "..""#),
            ("a/../b", r#"the path segment "..""#),
            ("./a", r#"the path segment ".""#),
            ("a\nb", "not printable"),
            ("a\0", "not printable"),
            ("a\u{7f}", "not printable"),
            ("a\u{a0}b", "not printable"),
            ("a\u{200b}b", "not printable"),
            ("a\u{2028}b", "not printable"),
        ] {
            let why = check(name).expect_err(name);
            assert!(why.contains(reason), "{name:?}: {why}");
        }
        let why = check(&"ä".repeat(LONGEST)).expect_err("it is too long");
        assert!(why.contains("16384 bytes"), "{why}");
    }
}
