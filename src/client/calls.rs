//! Requests in one line, for all clients over HTTP.

use std::{error::Error, fmt};

use http::{Request, Response, Uri, uri::PathAndQuery};
use tower::ServiceExt;

use super::{http_service::HttpService, response_body::ResponseBody, router::Router};
use crate::{
    classify::InvalidRequest,
    error::{BoxError, in_one_line},
};

/// Gives a client its methods for requests in one line.
macro_rules! impl_calls {
    ([$($bounds:tt)*] $client:ident<B>) => {
        impl<$($bounds)*> $client<B> {
            /// Sends a request, and waits for the head of its response.
            ///
            /// # Errors
            /// As the [service](Self#errors).
            ///
            /// # Cancel safety
            /// Dropping the future drops the request.
            pub async fn send(
                &self,
                request: Request<B>,
            ) -> Result<Response<ResponseBody>, BoxError> {
                self.clone().oneshot(request).await
            }

            /// Sends a GET request without a body.
            ///
            /// # Errors
            /// When the URI cannot be used, and as [`send`](Self::send).
            ///
            /// # Cancel safety
            /// Dropping the future drops the request.
            pub async fn get<U>(&self, uri: U) -> Result<Response<ResponseBody>, BoxError>
            where
                U: TryInto<Uri>,
                U::Error: Into<BoxError>,
                B: Default,
            {
                self.send(get(uri)?).await
            }

            /// Sends a POST request with `value` as JSON. A POST is not idempotent, so it is sent again only
            /// if it was certainly not processed.
            ///
            /// # Errors
            /// When the URI cannot be used or `value` cannot be JSON, and as [`send`](Self::send).
            ///
            /// # Cancel safety
            /// Dropping the future drops the request; a server may have processed it.
            #[cfg(feature = "json")]
            pub async fn post_json<U, T>(
                &self,
                uri: U,
                value: &T,
            ) -> Result<Response<ResponseBody>, BoxError>
            where
                U: TryInto<Uri>,
                U::Error: Into<BoxError>,
                T: serde::Serialize + ?Sized,
                B: From<bytes::Bytes>,
            {
                self.send(post_json(uri, value)?).await
            }
        }
    };
}

impl_calls!([B] HttpService<B>);
impl_calls!([B: Send + 'static] Router<B>);

fn get<U, B>(uri: U) -> Result<Request<B>, BoxError>
where
    U: TryInto<Uri>,
    U::Error: Into<BoxError>,
    B: Default,
{
    let mut request = Request::new(B::default());
    *request.uri_mut() = complete(uri)?;
    Ok(request)
}

#[cfg(feature = "json")]
fn post_json<U, T, B>(uri: U, value: &T) -> Result<Request<B>, BoxError>
where
    U: TryInto<Uri>,
    U::Error: Into<BoxError>,
    T: serde::Serialize + ?Sized,
    B: From<bytes::Bytes>,
{
    use http::{HeaderValue, Method, header::CONTENT_TYPE};

    let json = serde_json::to_vec(value).map_err(InvalidCall::new)?;
    let mut request = Request::new(B::from(json.into()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = complete(uri)?;
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(CONTENT_TYPE, json);
    Ok(request)
}

/// Checks that a URI has the form of one. `users/42` would parse as an authority or not at all.
fn complete<U>(uri: U) -> Result<Uri, BoxError>
where
    U: TryInto<Uri>,
    U::Error: Into<BoxError>,
{
    let uri: Uri = uri.try_into().map_err(InvalidCall::new)?;
    let begins = uri.path_and_query().map(PathAndQuery::as_str);
    let is_path = uri.scheme().is_some() || begins.is_some_and(|path| path.starts_with(['/', '*']));
    if !is_path {
        let why = "the URI is neither absolute nor begins with a slash";
        return Err(InvalidCall::new(why).into());
    }
    Ok(uri)
}

/// A request that cannot be made: its URI cannot be used, or its body not be written.
#[derive(Debug)]
struct InvalidCall(String);

impl InvalidCall {
    fn new(why: impl Into<BoxError>) -> Self {
        Self(in_one_line(&*why.into()))
    }
}

impl fmt::Display for InvalidCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for InvalidCall {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&InvalidRequest)
    }
}
