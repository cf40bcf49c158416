//! A router in front of another service, for what is in no registry.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::{Layer, Service, ServiceExt, util::Oneshot};

use super::{
    Router,
    route::{Refused, Route},
};
use crate::{client::response_body::ResponseBody, error::BoxError};

/// A [`Layer`] that sends requests to the services that their URIs name, and those that name no service of the
/// registry to the inner service; made by [`Router::or_else`].
///
/// # Examples
/// ```
/// # #[cfg(feature = "memory")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_roster::BoxError> {
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
/// use tower_roster::{client::{ResponseExt, Router}, registry};
///
/// // For example a client of hyper-util with a proxy for the web.
/// let web = service_fn(|_: Request<Full<Bytes>>| async {
///     Ok::<_, BoxError>(Response::new(Full::<Bytes>::from("the web")))
/// });
/// let router = Router::new(&registry::connect("memory:")?);
/// let client = ServiceBuilder::new().layer(router.or_else()).service(web);
/// let request = Request::get("http://example.test/").body(Full::default())?;
/// let response = client.oneshot(request).await?;
/// assert_eq!(response.text(100).await?, "the web");
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "memory"))]
/// # fn main() {}
/// ```
pub struct RouterLayer<B>(Router<B>);

impl<B> Router<B> {
    /// Turns this router into a layer, whose inner service gets the requests that name no service of the registry.
    pub fn or_else(self) -> RouterLayer<B> {
        RouterLayer(self)
    }
}

impl<B, S> Layer<S> for RouterLayer<B> {
    type Service = OrElse<B, S>;

    fn layer(&self, inner: S) -> OrElse<B, S> {
        OrElse {
            router: self.0.clone(),
            inner,
        }
    }
}

/// Sends requests to the services that their URIs name, and others to the inner service; made by
/// [`RouterLayer`].
pub struct OrElse<B, S> {
    router: Router<B>,
    inner: S,
}

impl<B> Clone for RouterLayer<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B, S: Clone> Clone for OrElse<B, S> {
    fn clone(&self) -> Self {
        Self {
            router: self.router.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl_debug!([B: 'static] RouterLayer<B>: |this| router = this.0);
impl_debug!([B: 'static, S] OrElse<B, S>: |this| router = this.router);

impl<B: 'static, S, A> Service<Request<B>> for OrElse<B, S>
where
    S: Service<Request<B>, Response = Response<A>> + Clone,
    S::Error: Into<BoxError>,
    A: Body<Data = Bytes> + Send + Sync + 'static,
    A::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = OrElseFuture<B, S>;

    /// Always ready; the inner service is waited for when a request goes to it.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> OrElseFuture<B, S> {
        let route = Route::begin(&self.router.clients, request);
        let called = matches!(route, Route::Calling(_));
        OrElseFuture {
            route,
            inner: (!called).then(|| self.inner.clone()),
            other: None,
        }
    }
}

/// A request of an [`OrElse`] that waits for the head of its response.
#[must_use = "futures do nothing unless polled"]
pub struct OrElseFuture<B, S: Service<Request<B>>> {
    route: Route<B>,
    inner: Option<S>,
    /// The request at the inner service.
    other: Option<Other<B, S>>,
}

type Other<B, S> = Pin<Box<Oneshot<S, Request<B>>>>;

// No field is pinned in place.
impl<B, S: Service<Request<B>>> Unpin for OrElseFuture<B, S> {}

impl<B, S, A> Future for OrElseFuture<B, S>
where
    B: 'static,
    S: Service<Request<B>, Response = Response<A>>,
    S::Error: Into<BoxError>,
    A: Body<Data = Bytes> + Send + Sync + 'static,
    A::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.other.is_none() {
            let request = match ready!(this.route.poll(cx)) {
                Ok(result) => return Poll::Ready(result),
                Err(Refused::Failed(error)) => return Poll::Ready(Err(error)),
                Err(Refused::Unknown(request, _)) => *request,
            };
            let inner = this.inner.take().expect("not polled after it was done");
            this.other = Some(Box::pin(inner.oneshot(request)));
        }
        let Some(other) = &mut this.other else {
            unreachable!("it was set above");
        };
        let response = ready!(other.as_mut().poll(cx)).map_err(Into::into)?;
        Poll::Ready(Ok(response.map(ResponseBody::new)))
    }
}

impl_debug!([B, S: Service<Request<B>>] OrElseFuture<B, S>);
