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
            what: What::Content("is not text in UTF-8", error.into()),
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
            what: What::Content("is not the expected JSON", error.into()),
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
