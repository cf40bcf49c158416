//! The responses of the server: JSON, for successes and errors.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use super::{EPOCH, INDEX};
use crate::registry::memory::Position;

/// The error response to a refused request.
#[derive(Debug)]
pub(super) struct RestFailure {
    status: StatusCode,
    message: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl RestFailure {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            header: None,
        }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn method(allow: &'static str) -> Self {
        Self {
            header: Some((header::ALLOW, HeaderValue::from_static(allow))),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("this path takes {allow}"),
            )
        }
    }

    /// A limit is reached that holds for a moment.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self {
            header: Some((header::RETRY_AFTER, HeaderValue::from_static("1"))),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }

    pub(super) fn injected() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the registry was told to fail",
        )
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        #[derive(Serialize)]
        struct FailureBody {
            error: String,
        }
        let mut response = json(
            self.status,
            &FailureBody {
                error: self.message,
            },
        );
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let (status, body) = match serde_json::to_vec(body) {
        Ok(body) => (status, body),
        // Cannot happen: the values are text, numbers, and maps with text keys.
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, b"{}".to_vec()),
    };
    whole(status, body.into())
}

/// A response with a body that is JSON already.
pub(super) fn whole(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    // A cached response would be out of date.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn positioned(
    mut response: Response<Full<Bytes>>,
    position: Position,
) -> Response<Full<Bytes>> {
    for (name, number) in [(INDEX, position.index), (EPOCH, position.epoch)] {
        let name = HeaderName::from_static(name);
        response.headers_mut().insert(name, number.into());
    }
    response
}
