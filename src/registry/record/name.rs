//! Services and ids as one part of a path.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;

/// Encodes a service or an id as one part of a path in a registry. Most are left as they are, so that
/// other clients find them: only `/`, `%`, control characters, and the parts `.` and `..` are
/// percent-encoded.
pub fn encode_name(text: &str) -> String {
    let mut part = String::with_capacity(text.len());
    let dots = matches!(text, "." | "..");
    for c in text.chars() {
        if dots || c.is_control() || matches!(c, '/' | '%') {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(part, "%{byte:02X}");
            }
        } else {
            part.push(c);
        }
    }
    part
}

/// Decodes a part of a path, also of another client. What is not percent-encoded stays as it is.
pub fn decode_name(part: &str) -> String {
    percent_decode_str(part).decode_utf8_lossy().into_owned()
}
