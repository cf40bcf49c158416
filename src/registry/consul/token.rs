//! The ACL token of requests, and the file that it comes from.
//!
//! Whoever rotates a token replaces its file. So the file is read again when it has changed, and when its
//! token is refused. Many requests may be refused at a time, and the first of them that reads the file has
//! replaced the token when the others come. So each compares with the token that it sent itself.
//!
//! Some programs empty a file before they write it. An empty file never replaces a token: without one,
//! requests would have the rights of an anonymous client.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
    sync::Mutex,
    time::Duration,
};

use http::HeaderValue;
use tokio::time::Instant;

use super::config::TokenSource;
use crate::{error::ConfigError, sync::lock};

/// How often the file is looked at, at most. Arbitrary: it is local, and the look costs a few microseconds.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The largest file of a token, in bytes. A JWT has a few KiB.
const LARGEST: u64 = 64 << 10;

/// The current token, and its source.
pub(super) struct Credentials {
    source: TokenSource,
    held: Mutex<Held>,
}

struct Held {
    token: Option<HeaderValue>,
    /// What the file looked like before it was read.
    seen: Option<Seen>,
    looked: Instant,
}

/// What changes when a file does: the time of the last change, and the length.
#[allow(
    clippy::disallowed_types,
    reason = "the dates of files are compared with each other only"
)]
type Seen = (Option<std::time::SystemTime>, u64);

impl Credentials {
    /// # Errors
    /// When there is no usable token although one is configured.
    pub(super) fn new(source: TokenSource) -> Result<Self, ConfigError> {
        let seen = look(&source);
        let held = Mutex::new(Held {
            token: read(&source)?,
            seen,
            looked: Instant::now(),
        });
        Ok(Self { source, held })
    }

    /// Returns the token for a request. If its file has changed, it is read first; if that fails, the
    /// token stays.
    pub(super) fn current(&self) -> Option<HeaderValue> {
        let mut held = lock(&self.held);
        if matches!(self.source, TokenSource::File(_)) && held.looked.elapsed() >= LOOK_EVERY {
            held.looked = Instant::now();
            let seen = look(&self.source);
            if seen != held.seen {
                held.seen = seen;
                match read(&self.source) {
                    Ok(token) => held.token = token,
                    Err(error) => tracing::warn!(%error, "keeping the last token"),
                }
            }
        }
        held.token.clone()
    }

    /// Returns the token to send instead of `sent`, which was refused; `None` if there is no other.
    ///
    /// # Errors
    /// When the file of the token cannot be used. The last token stays.
    pub(super) fn after_refusal(
        &self,
        sent: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, ConfigError> {
        let mut held = lock(&self.held);
        if matches!(self.source, TokenSource::File(_)) && held.token.as_ref() == sent {
            let seen = look(&self.source);
            held.token = read(&self.source)?;
            held.seen = seen;
        }
        let other = held.token.as_ref().filter(|token| Some(*token) != sent);
        Ok(other.cloned())
    }
}

fn look(source: &TokenSource) -> Option<Seen> {
    let TokenSource::File(path) = source else {
        return None;
    };
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok(), metadata.len()))
}

/// Reads a token. It blocks, because the file is small and local.
fn read(source: &TokenSource) -> Result<Option<HeaderValue>, ConfigError> {
    let (field, text) = match source {
        TokenSource::None => return Ok(None),
        TokenSource::Literal(text) => ("consul.token", text.clone()),
        TokenSource::File(path) => ("consul.token_file", read_file("consul.token_file", path)?),
    };
    let text = text.trim();
    if text.is_empty() {
        // Without a token, requests would have the rights of an anonymous client.
        return Err(ConfigError::new(field, "the token is empty"));
    }
    hidden(field, text).map(Some)
}

fn read_file(field: &str, path: &Path) -> Result<String, ConfigError> {
    let unusable = |why: String| ConfigError::new(field, format!("cannot read {path:?}: {why}"));
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_string(&mut text))
        .map_err(|error| unusable(error.to_string()))?;
    if text.len() as u64 > LARGEST {
        return Err(unusable(format!("it has more than {LARGEST} bytes")));
    }
    Ok(text)
}

/// Creates a header whose value is never logged.
pub(super) fn hidden(field: &str, text: &str) -> Result<HeaderValue, ConfigError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| ConfigError::new(field, "holds characters that cannot stand in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of a token, and what reads it.
    fn scene(token: &str) -> (tempfile::NamedTempFile, Credentials) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), token).unwrap();
        let credentials = Credentials::new(TokenSource::File(file.path().into())).unwrap();
        (file, credentials)
    }

    fn token(text: &'static str) -> Option<HeaderValue> {
        Some(HeaderValue::from_static(text))
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_that_was_refused_gets_the_token_that_replaced_its_own() {
        let (file, credentials) = scene("old");
        let sent = credentials.current();
        fs::write(file.path(), "new").unwrap();
        for _ in 0..20 {
            assert_eq!(credentials.after_refusal(sent.as_ref()), Ok(token("new")));
        }
        assert_eq!(credentials.after_refusal(token("new").as_ref()), Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn an_emptied_file_keeps_the_last_token_and_is_an_error() {
        let (file, credentials) = scene("old");
        fs::write(file.path(), " \n").unwrap();
        let error = credentials
            .after_refusal(token("old").as_ref())
            .unwrap_err();
        assert_eq!(error.field(), "consul.token_file");
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(credentials.current(), token("old"));
        fs::write(file.path(), "new").unwrap();
        assert_eq!(
            credentials.after_refusal(token("old").as_ref()),
            Ok(token("new"))
        );
        assert_eq!(credentials.current(), token("new"));
        fs::write(file.path(), "\n").unwrap();
        assert!(Credentials::new(TokenSource::File(file.path().into())).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_read_before_its_token_is_refused() {
        let (file, credentials) = scene("old");
        fs::write(file.path(), "another").unwrap();
        assert_eq!(
            credentials.current(),
            token("old"),
            "looked at a moment ago"
        );
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(credentials.current(), token("another"));
        fs::remove_file(file.path()).unwrap();
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(credentials.current(), token("another"));
    }

    #[test]
    fn a_file_without_an_end_is_refused() {
        let endless = TokenSource::File("/dev/zero".into());
        if Path::new("/dev/zero").exists() {
            assert!(Credentials::new(endless).is_err());
        }
    }
}
