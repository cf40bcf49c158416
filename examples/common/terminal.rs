//! How wide the output is, and whether it has colours.

use std::io::{IsTerminal, stdout};

use rustix::termios::tcgetwinsize;

/// The width of what is not a terminal.
const PLAIN: usize = 80;

/// Columns of the output. Others than those of a terminal are 80.
pub fn width() -> usize {
    if !stdout().is_terminal() {
        return PLAIN;
    }
    let width = tcgetwinsize(stdout()).map_or(0, |size| usize::from(size.ws_col));
    if width == 0 { PLAIN } else { width }
}

/// Whether the output is a terminal, and nobody has set `NO_COLOR`.
pub fn has_colours() -> bool {
    let is_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stdout().is_terminal() && !is_off
}

/// Text in a colour, by its number, where there are colours.
pub fn paint(colour: &str, text: &str) -> String {
    if has_colours() {
        format!("\x1b[{colour}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// A bar that is full at 1, in steps of an eighth of a column, filled up with spaces.
pub fn bar(full: f64, columns: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (full.clamp(0.0, 1.0) * 8.0 * columns as f64).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    if eighths / 8 < columns {
        bar.push(EIGHTHS[eighths % 8]);
    }
    format!("{bar:<columns$}")
}

/// The beginning of a text, in so many columns.
pub fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let start: String = text.chars().take(columns.saturating_sub(1)).collect();
    format!("{start}…")
}
