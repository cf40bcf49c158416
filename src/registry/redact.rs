//! What messages may show of texts from outside: of the URLs of a user, and of what registries send.

#[cfg(feature = "_transport")]
use std::{collections::HashSet, error::Error, fmt, io, ops::Range};

#[cfg(feature = "_transport")]
use http::HeaderValue;

#[cfg(feature = "_transport")]
use crate::{
    error::{BoxError, causes},
    text::Escaped,
};

/// Returns a URL or an address without the parts that may contain secrets: user, password, query and
/// fragment.
pub(super) fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let Some(at) = url.rfind('@') else {
        return url[..end].to_owned();
    };
    let start = match (url.find("//"), url.find(':')) {
        (Some(start), _) if start < at => start + 2,
        (_, Some(colon)) if colon < at => colon + 1,
        _ => 0,
    };
    // A password may contain `?` and `#` too. So after one of them, a password cannot be told from a
    // host.
    let host = url.get(at..end).unwrap_or_default();
    format!("{}…{host}", &url[..start.min(end)])
}

/// The most characters of a registry's text in a message. Arbitrary: two lines.
#[cfg(feature = "_transport")]
const LONGEST: usize = 200;

/// How much of a text is searched for secrets, in bytes; enough for [`LONGEST`] characters.
#[cfg(feature = "_transport")]
const SEARCHED: usize = 4_096;

/// How many successive characters of a secret are hidden. Whoever quotes a request may cut it anywhere, so
/// the whole secret is not all that must be found. Arbitrary: few enough to be of no use to an attacker, and
/// too many to be found in other text.
#[cfg(feature = "_transport")]
const PIECE: usize = 8;

#[cfg(feature = "_transport")]
const HIDDEN: &str = "[hidden]";

/// The secrets of one request: the values of its sensitive headers, and what they were made of. Some servers
/// quote the request in their response.
#[cfg(feature = "_transport")]
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<Vec<u8>>);

#[cfg(feature = "_transport")]
impl Secrets {
    /// Those in the headers of a request.
    pub(super) fn of<'a>(headers: impl IntoIterator<Item = &'a HeaderValue>) -> Self {
        let mut secrets = Self::default();
        for value in headers.into_iter().filter(|value| value.is_sensitive()) {
            let text = String::from_utf8_lossy(value.as_bytes());
            match text.split_once(' ') {
                Some((scheme, code)) if scheme.eq_ignore_ascii_case("basic") => {
                    secrets.add(code);
                    secrets.add_credentials(code);
                }
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                    secrets.add(token);
                }
                _ => secrets.add(&text),
            }
        }
        secrets
    }

    /// Adds a text that no message may contain.
    pub(super) fn add(&mut self, secret: &str) {
        if !secret.is_empty() {
            self.0.push(plain(secret).map(|(byte, _)| byte).collect());
        }
    }

    #[cfg(feature = "consul")]
    fn add_credentials(&mut self, code: &str) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let Ok(credentials) = STANDARD.decode(code) else {
            return;
        };
        let credentials = String::from_utf8_lossy(&credentials);
        self.add(&credentials);
        if let Some((_, password)) = credentials.split_once(':') {
            self.add(password);
        }
    }

    #[cfg(not(feature = "consul"))]
    fn add_credentials(&mut self, _: &str) {}

    /// Returns the beginning of a text from outside, as one line without secrets.
    pub(super) fn shown(&self, text: &str) -> String {
        self.shown_bytes(text.as_bytes())
    }

    /// As [`shown`](Self::shown), for bytes that need not be text.
    pub(super) fn shown_bytes(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SEARCHED)]);
        let open = self.without_secrets(&text);
        let line = open.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = Escaped(&line).to_string();
        match line.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    }

    /// Replaces the pieces of secrets in a text, however they are encoded.
    fn without_secrets(&self, text: &str) -> String {
        let (bytes, places): (Vec<u8>, Vec<Range<usize>>) = plain(text).unzip();
        let mut hidden = vec![false; text.len()];
        for secret in &self.0 {
            let length = secret.len().min(PIECE);
            let pieces: HashSet<&[u8]> = secret.windows(length).collect();
            for (at, piece) in bytes.windows(length).enumerate() {
                if pieces.contains(piece) {
                    hidden[places[at].start..places[at + length - 1].end].fill(true);
                }
            }
        }
        let mut open = String::with_capacity(text.len());
        let mut in_secret = false;
        for (at, c) in text.char_indices() {
            match (hidden[at], in_secret) {
                (false, _) => open.push(c),
                (true, false) => open.push_str(HIDDEN),
                (true, true) => {}
            }
            in_secret = hidden[at];
        }
        open
    }

    /// Describes an error, and all its causes, by texts without secrets.
    pub(super) fn cause(&self, error: impl Into<BoxError>) -> Cause {
        let error = error.into();
        let texts = causes(&*error).map(|cause| self.shown(&cause.to_string()));
        let text = texts.collect::<Vec<_>>().join(": ");
        Cause {
            text,
            is_hangup: is_hangup(&*error),
        }
    }
}

/// The bytes that a text stands for, each with its place in the text: in lower case, and without the
/// encodings of URLs (`%2D`) and JSON (`\u002d`).
#[cfg(feature = "_transport")]
fn plain(text: &str) -> impl Iterator<Item = (u8, Range<usize>)> + '_ {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let first = *bytes.get(start)?;
        let code = |from: usize| {
            let digits = text.get(from..from + 2)?;
            u8::from_str_radix(digits, 16).ok()
        };
        let encoded = match first {
            b'%' => code(start + 1).map(|byte| (byte, 3)),
            b'\\' if bytes[start..].starts_with(b"\\u00") => code(start + 4).map(|byte| (byte, 6)),
            _ => None,
        };
        let (byte, length) = encoded.unwrap_or((first, 1));
        at += length;
        Some((byte.to_ascii_lowercase(), start..at))
    })
}

/// The cause of an error, as text. The causes of a failed exchange may quote what the registry sent, so they
/// are not kept themselves.
#[cfg(feature = "_transport")]
#[derive(Debug)]
pub(super) struct Cause {
    text: String,
    #[cfg_attr(not(feature = "consul"), allow(dead_code))]
    /// Whether the other side ended an established connection before it sent any part of a response.
    is_hangup: bool,
}

#[cfg(feature = "_transport")]
impl Cause {
    #[cfg(feature = "consul")]
    pub(super) fn is_hangup(&self) -> bool {
        self.is_hangup
    }

    /// The cause of a response that began and broke off. An agent that refuses a connection closes it without
    /// a byte, which looks alike otherwise.
    pub(super) fn after_head(self) -> Self {
        Self {
            text: format!("its body is incomplete: {}", self.text),
            is_hangup: false,
        }
    }
}

#[cfg(feature = "_transport")]
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(feature = "_transport")]
impl Error for Cause {}

#[cfg(feature = "_transport")]
fn is_hangup(error: &(dyn Error + 'static)) -> bool {
    for error in causes(error) {
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && error.is_incomplete_message()
        {
            return true;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
            let kinds = [
                BrokenPipe,
                ConnectionAborted,
                ConnectionReset,
                UnexpectedEof,
            ];
            return kinds.contains(&error.kind());
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_not_shown() {
        for (url, text) in [
            ("rest://h:1", "rest://h:1"),
            ("rest://h:1?token=secret", "rest://h:1"),
            ("rest://user:secret@h:1/p?q#f", "rest://…@h:1/p"),
            ("rest://user:se?c#ret@h:1", "rest://…"),
            ("rest://h:1?token=a@b", "rest://…"),
            ("a?//b@c", "a…"),
            ("consul:secret@h:1", "consul:…@h:1"),
            ("user:secret@h:1", "user:…@h:1"),
            ("secret@//h:1", "…@//h:1"),
            ("//@", "//…@"),
            ("", ""),
        ] {
            assert_eq!(shown(url), text, "{url}");
        }
    }

    #[cfg(feature = "consul")]
    #[test]
    fn a_secret_is_hidden_however_it_is_quoted() {
        const TOKEN: &str = "7f0c1ed2-8a3b-4c5d-9e6f-secret&more";
        let header = |text: &str| {
            let mut value = HeaderValue::from_str(text).unwrap();
            value.set_sensitive(true);
            value
        };
        // Of consul:pass-word-77.
        let basic = "Basic Y29uc3VsOnBhc3Mtd29yZC03Nw==";
        let secrets = Secrets::of([
            &header(TOKEN),
            &header(basic),
            &HeaderValue::from_static("application/json"),
        ]);
        let percent = TOKEN.replace('-', "%2D").replace('&', "%26");
        for quoted in [
            TOKEN.to_owned(),
            TOKEN.to_uppercase(),
            percent.clone(),
            percent.to_uppercase().replace("%2D", "%2d"),
            TOKEN.replace('&', "\\u0026"),
            TOKEN[..20].to_owned(),
            TOKEN[9..].to_owned(),
            basic.to_owned(),
            basic[6..20].to_lowercase(),
            "consul:pass-word-77".to_owned(),
            "pass-word-77".to_owned(),
            format!("{TOKEN}{TOKEN}"),
        ] {
            for (before, after) in [("", ""), ("a=", "&b"), ("\"", "\""), ("é ", " é")] {
                let shown = secrets.shown(&format!("{before}{quoted}{after}"));
                let around = [before, "[hidden]", after].concat();
                let expected = [around.clone(), format!("{before}Basic [hidden]{after}")];
                assert!(expected.contains(&shown), "{quoted}: {shown}");
            }
        }
        assert_eq!(
            secrets.shown("application/json, consul"),
            "application/json, consul"
        );
    }

    #[cfg(feature = "consul")]
    #[test]
    fn a_text_is_cut_after_its_secrets_are_hidden() {
        let mut secrets = Secrets::default();
        secrets.add("0123456789abcdef");
        for place in 0..=LONGEST + 20 {
            let text = format!("{}0123456789abcdef{}", "x".repeat(place), "y".repeat(99));
            let shown = secrets.shown(&text);
            assert!(shown.chars().count() <= LONGEST + 1, "{shown}");
            assert!(!shown.contains("0123"), "{shown}");
        }
        // The end of what is searched is farther than the end of what is shown.
        let text = "0123456789abcdef".repeat(1_000);
        assert_eq!(secrets.shown(&text), HIDDEN);
        assert_eq!(
            secrets.shown("a\n\u{1b}[1mb\u{0}\r\nc"),
            "a \\u{1b}[1mb\\u{0} c"
        );
        assert_eq!(secrets.shown_bytes(b"\xff\xfea"), "\u{fffd}\u{fffd}a");
    }
}
