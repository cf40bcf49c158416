//! Reads the whole body of a response, up to a size.

use std::{error::Error, fmt, future::Future, pin::pin};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::error::{BoxError, find};

/// The default of [`ResponseExt::json`], as that of the extractors of axum for requests: far above the
/// usual response of an API, and 2 GB for a thousand of them at a time.
#[cfg(feature = "json")]
const LIMIT: usize = 2 * 1024 * 1024;

/// Reads the whole body of a response: of an [`HttpService`](super::HttpService), or of any layer
/// around it.
///
/// Each method has a limit of size. A response that announces more is refused before any of it is read,
/// and reading stops when more than the limit has come.
///
/// # Cancel safety
/// Dropping a future gives up the rest of the response.
pub trait ResponseExt: Sized {
    /// Reads the body as bytes, at most `limit` of them. Trailers are dropped.
    ///
    /// # Errors
    /// When the body breaks off or is larger.
    fn bytes(self, limit: usize) -> impl Future<Output = Result<Bytes, ReadError>> + Send;

    /// Reads the body as text in UTF-8, at most `limit` bytes of it.
    ///
    /// # Errors
    /// When the body breaks off, is larger, or is not UTF-8.
    fn text(self, limit: usize) -> impl Future<Output = Result<String, ReadError>> + Send;

    /// Reads the body as JSON, at most 2 MiB of it. The status of the response is not looked at, except
    /// that an error names it.
    ///
    /// # Errors
    /// When the body breaks off, is larger, or is not JSON of this type.
    #[cfg(feature = "json")]
    fn json<T>(self) -> impl Future<Output = Result<T, ReadError>> + Send
    where
        T: serde::de::DeserializeOwned,
    {
        self.json_within(LIMIT)
    }

    /// The same with another limit, in bytes.
    ///
    /// # Errors
    /// As [`json`](Self::json).
    #[cfg(feature = "json")]
    fn json_within<T>(self, limit: usize) -> impl Future<Output = Result<T, ReadError>> + Send
    where
        T: serde::de::DeserializeOwned;
}

impl<B> ResponseExt for Response<B>
where
    B: Body + Send,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    async fn bytes(self, limit: usize) -> Result<Bytes, ReadError> {
        let status = self.status();
        read(self, limit)
            .await
            .map_err(|what| ReadError { status, what })
    }

    async fn text(self, limit: usize) -> Result<String, ReadError> {
        let status = self.status();
        let bytes = self.bytes(limit).await?;
        String::from_utf8(bytes.into()).map_err(|error| ReadError {
            status,
            // The error as it is holds all bytes of the body.
            what: What::Content("is not text in UTF-8", error.utf8_error().into()),
        })
    }

    #[cfg(feature = "json")]
    async fn json_within<T>(self, limit: usize) -> Result<T, ReadError>
    where
        T: serde::de::DeserializeOwned,
    {
        let status = self.status();
        let bytes = self.bytes(limit).await?;
        serde_json::from_slice(&bytes).map_err(|error| ReadError {
            status,
            what: What::Content("is not the expected JSON", JsonError::of(&error).into()),
        })
    }
}

async fn read<B>(response: Response<B>, limit: usize) -> Result<Bytes, What>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let body = response.into_body();
    if body.size_hint().lower() > limit as u64 {
        return Err(What::TooLarge(limit));
    }
    let body = pin!(Limited::new(body, limit));
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if find::<LengthLimitError>(&*error).is_some() => Err(What::TooLarge(limit)),
        Err(error) => Err(What::Broke(error)),
    }
}

/// The body of a response could not be read as was asked for. The error has no part of the body.
#[derive(Debug)]
pub struct ReadError {
    status: StatusCode,
    what: What,
}

#[derive(Debug)]
enum What {
    TooLarge(usize),
    Broke(BoxError),
    Content(&'static str, BoxError),
}

impl ReadError {
    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether the body is larger than the limit.
    pub fn is_too_large(&self) -> bool {
        matches!(self.what, What::TooLarge(_))
    }

    /// Whether the body broke off before its end.
    pub fn is_broken_off(&self) -> bool {
        matches!(self.what, What::Broke(_))
    }

    /// Whether the body was complete, and is not what was asked for.
    pub fn is_content(&self) -> bool {
        matches!(self.what, What::Content(..))
    }
}

/// Where JSON is wrong. The message of serde_json would quote values of the body.
#[cfg(feature = "json")]
#[derive(Debug)]
struct JsonError {
    what: &'static str,
    line: usize,
    column: usize,
}

#[cfg(feature = "json")]
impl JsonError {
    fn of(error: &serde_json::Error) -> Self {
        use serde_json::error::Category;
        let what = match error.classify() {
            Category::Data => "a value has the wrong type, is missing, or is unknown",
            Category::Eof => "it ends too early",
            Category::Io | Category::Syntax => "it is not valid JSON",
        };
        let (line, column) = (error.line(), error.column());
        Self { what, line, column }
    }
}

#[cfg(feature = "json")]
impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, line, column } = self;
        write!(f, "{what}, at line {line} column {column}")
    }
}

#[cfg(feature = "json")]
impl Error for JsonError {}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the body of a response with status {} ",
            self.status.as_u16()
        )?;
        match &self.what {
            What::TooLarge(limit) => write!(f, "has more than {limit} bytes"),
            What::Broke(_) => f.write_str("broke off"),
            What::Content(what, _) => f.write_str(what),
        }
    }
}

impl Error for ReadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.what {
            What::TooLarge(_) => None,
            What::Broke(error) | What::Content(_, error) => Some(&**error),
        }
    }
}

#[cfg(feature = "json")]
#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http_body_util::Full;

    use super::*;

    #[tokio::test]
    async fn an_error_shows_no_part_of_the_body() {
        let response = |body: &'static [u8]| Response::new(Full::new(Bytes::from_static(body)));
        for error in [
            response(b"SECRET\xff").text(100).await.unwrap_err(),
            response(br#"{"age": "SECRET"}"#)
                .json::<BTreeMap<String, u8>>()
                .await
                .unwrap_err(),
            response(b"SECRET").json::<u8>().await.unwrap_err(),
        ] {
            assert!(error.is_content());
            let source = error.source().unwrap();
            let shown = format!("{error} {error:?} {source} {source:?}");
            // The bytes of a vector are shown as numbers.
            assert!(
                !shown.contains("SECRET") && !shown.contains("83, 69"),
                "{shown}"
            );
        }
    }
}
