//! Texts from outside in messages.

use std::fmt::{self, Write as _};

/// A text from outside, such as an id, as it may stand in a log or an error: without characters that begin a
/// new line, control a terminal, or change the direction of the text around them. They are written as
/// `\n` or `\u{1b}`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.contains(is_unsafe) {
            return f.write_str(self.0);
        }
        for c in self.0.chars() {
            match is_unsafe(c) {
                true => write!(f, "{}", c.escape_default())?,
                false => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Whether a character is a control character, ends a line or a paragraph, is invisible, or changes the
/// direction of text.
fn is_unsafe(c: char) -> bool {
    let formats = [
        '\u{200b}'..='\u{200f}',
        '\u{2028}'..='\u{202e}',
        '\u{2060}'..='\u{206f}',
    ];
    c.is_control() || c == '\u{feff}' || formats.iter().any(|range| range.contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_begins_a_line_or_controls_a_terminal() {
        for (text, shown) in [
            ("web-1", "web-1"),
            ("用户 é \\ \"", "用户 é \\ \""),
            ("a\nWARN forged", "a\\nWARN forged"),
            ("\u{1b}[2J\r\t\u{9b}\0", "\\u{1b}[2J\\r\\t\\u{9b}\\u{0}"),
            ("\u{202e}\u{2028}\u{feff}", "\\u{202e}\\u{2028}\\u{feff}"),
        ] {
            assert_eq!(Escaped(text).to_string(), shown);
        }
    }
}
