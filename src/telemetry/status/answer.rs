//! The responses: the page, JSON, and refusals.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::body::StatusBody;

const STYLE: &str = include_str!("assets/page.css");
const SCRIPT: &str = include_str!("assets/page.js");
const PAGE: &str = include_str!("assets/page.html");

/// A refused request.
#[derive(Debug)]
pub(super) struct StatusFailure {
    status: StatusCode,
    message: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl StatusFailure {
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
        let message = format!("this path takes {allow}");
        Self {
            header: Some((header::ALLOW, HeaderValue::from_static(allow))),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, message)
        }
    }

    pub(super) fn unauthorized() -> Self {
        Self {
            header: Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            ..Self::new(StatusCode::UNAUTHORIZED, "the token is missing or wrong")
        }
    }

    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self {
            header: Some((header::RETRY_AFTER, HeaderValue::from_static("60"))),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }

    pub(super) fn into_response(self) -> Response<StatusBody> {
        #[derive(Serialize)]
        struct FailureBody {
            error: String,
        }
        let error = FailureBody {
            error: self.message,
        };
        let mut response = json(&error);
        *response.status_mut() = self.status;
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// The page. Its nonce is new in each response, so that no text that gets into the page can name it.
pub(super) fn page(title: &str) -> Response<StatusBody> {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let title = escaped(title);
    let fill = |name: &str| match name {
        "title" => title.as_str(),
        "nonce" => nonce.as_str(),
        "style" => STYLE,
        _ => SCRIPT,
    };
    let mut page = String::with_capacity(PAGE.len() + STYLE.len() + SCRIPT.len() + 256);
    let mut rest = PAGE;
    // Not by one replacement after the other: a title may contain a placeholder.
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        page.push_str(before);
        page.push_str(fill(name));
        rest = after;
    }
    page.push_str(rest);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    );
    let mut response = whole("text/html; charset=utf-8", page.into());
    if let Ok(policy) = HeaderValue::try_from(policy) {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

pub(super) fn json(body: &impl Serialize) -> Response<StatusBody> {
    whole("application/json", to_json(body).into())
}

/// Cannot fail: the values are text, numbers, lists, and maps with text keys.
pub(super) fn to_json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_else(|_| b"{}".to_vec())
}

pub(super) fn whole(kind: &'static str, body: Bytes) -> Response<StatusBody> {
    with_headers(kind, StatusBody::whole(body))
}

pub(super) fn with_headers(kind: &'static str, body: StatusBody) -> Response<StatusBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Text as markup that shows it.
fn escaped(text: &str) -> String {
    let mut markup = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => markup.push_str("&amp;"),
            '<' => markup.push_str("&lt;"),
            '>' => markup.push_str("&gt;"),
            '"' => markup.push_str("&quot;"),
            '\'' => markup.push_str("&#39;"),
            c => markup.push(c),
        }
    }
    markup
}
