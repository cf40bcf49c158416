//! The client of a service over HTTP, as one plain type.

mod erase;
mod template;

pub use self::template::HttpTemplate;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::Service;

use self::erase::{Answering, ErasedStack};
use super::{response_body::ResponseBody, stack::Handles};
use crate::{
    balance::{BalanceHandle, BalanceShared},
    error::BoxError,
};

/// The client of a service over HTTP: calls the instances that a registry lists, with balancing, retries,
/// hedging and ejection as set in a [`Stack`](super::Stack).
///
/// It is a plain type: it fits into a struct field or the state of an axum router, whatever policy and
/// layers it was made with. `B` is the type of request bodies; any other than `Full<Bytes>` streams, such as
/// `axum::body::Body`. It is a [`tower::Service`], so layers of tower and tower-http go around it.
///
/// Cheap to clone; clones share the endpoints, their connections, and all state. The client ends with its last
/// clone: its watch and its task end at once, and its connections close when they are idle.
///
/// # URIs
/// The authority of a URI is a name for the server only (`Host`, `:authority`, and with TLS the name that its
/// certificate must have). It does not choose the service: this client calls the service that it was made for,
/// whatever a URI says. A URI without one (`/users/42`) gets the name of
/// the service. A request with its own header `Host` keeps it. The scheme must be `http`, or `https` if the
/// endpoints use TLS. User information (`http://user:password@…`) is refused.
///
/// # Errors
/// Those of the stack, boxed: [`RetryError`](crate::service::retry::RetryError),
/// [`BalanceError`](crate::balance::BalanceError), [`HttpError`](super::HttpError), … as an error or as one of
/// its sources. A response with an error status is a response.
///
/// # Cancel safety
/// Dropping the future of a request drops its attempts. Connections are kept where the response allows it.
///
/// # Examples
/// ```no_run
/// # #[cfg(feature = "consul")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_roster::BoxError> {
/// use tower_roster::{client::{HttpService, ResponseExt}, registry};
///
/// struct App {
///     users: HttpService,
/// }
///
/// let registry = registry::connect("consul://127.0.0.1:8500")?;
/// let app = App { users: HttpService::connect(&registry, "user-service")? };
///
/// let response = app.users.get("/users/42").await?;
/// println!("{}: {}", response.status(), response.text(64 * 1024).await?);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "consul"))]
/// # fn main() {}
/// ```
///
/// With settings, TLS with an own authority, and streaming bodies:
/// ```no_run
/// # #[cfg(all(feature = "consul", feature = "tls"))]
/// # fn connect(
/// #     registry: &tower_roster::Registry,
/// #     tls: rustls::ClientConfig,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// use std::{sync::Arc, time::Duration};
/// use bytes::Bytes;
/// use http_body_util::combinators::UnsyncBoxBody;
/// use tower_roster::{
///     BoxError,
///     balance::policy::LeastRequests,
///     client::{HttpEndpoints, HttpService, Stack},
/// };
///
/// type Body = UnsyncBoxBody<Bytes, BoxError>;
///
/// let client: HttpService<Body> = Stack::http()
///     .balance(|balance| balance.policy(LeastRequests::new()))
///     .timeout(Duration::from_secs(5))
///     .over(HttpEndpoints::new().tls(Arc::new(tls)))
///     .connect(registry, "user-service")?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a client does nothing until it is called"]
pub struct HttpService<B = Full<Bytes>> {
    stack: Box<dyn ErasedStack<B>>,
    about: BalanceShared<About>,
}

/// What clones share beside the stack. Its reference is of the kind that cores do not contend for.
struct About {
    service: Arc<str>,
    handles: Handles,
    /// What a configured router needs to change its settings.
    #[cfg(feature = "config")]
    live: Option<Live>,
}

#[cfg(feature = "config")]
type Live = Arc<dyn std::any::Any + Send + Sync>;

impl<B> HttpService<B> {
    pub(in crate::client) fn new(
        service: Arc<str>,
        stack: impl ErasedStack<B> + 'static,
        handles: Handles,
    ) -> Self {
        let about = About {
            service,
            handles,
            #[cfg(feature = "config")]
            live: None,
        };
        Self::about(Box::new(stack), about)
    }

    fn about(stack: Box<dyn ErasedStack<B>>, about: About) -> Self {
        Self {
            stack,
            about: BalanceShared::new(Arc::new(about)),
        }
    }

    #[cfg(feature = "config")]
    pub(super) fn with_live(self, live: Live) -> Self {
        let about = About {
            service: Arc::clone(&self.about.service),
            handles: self.about.handles.clone(),
            live: Some(live),
        };
        Self::about(self.stack, about)
    }

    #[cfg(feature = "config")]
    pub(super) fn live(&self) -> Option<Live> {
        self.about.live.clone()
    }

    /// The name of the service.
    pub fn service(&self) -> &str {
        &self.about.service
    }

    /// The handle of the balancer: status, endpoints, events, orders by hand. A clone of it does not keep the
    /// client alive.
    pub fn handle(&self) -> &BalanceHandle {
        &self.about.handles.balance
    }

    /// The handles of all layers: balancer, breaker, budget.
    pub fn handles(&self) -> &Handles {
        &self.about.handles
    }
}

impl<B> Service<Request<B>> for HttpService<B> {
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = HttpServiceFuture;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.stack.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> HttpServiceFuture {
        HttpServiceFuture(self.stack.call(request))
    }
}

impl<B> Clone for HttpService<B> {
    fn clone(&self) -> Self {
        Self {
            stack: self.stack.boxed_clone(),
            about: self.about.clone(),
        }
    }
}

impl_debug!([B] HttpService<B>: |this|
    service = this.about.service,
    status = this.about.handles.balance.status(),
);

/// A request of an [`HttpService`] that waits for the head of its response.
#[must_use = "futures do nothing unless polled"]
pub struct HttpServiceFuture(Answering);

impl Future for HttpServiceFuture {
    type Output = Result<Response<ResponseBody>, BoxError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl_debug!(HttpServiceFuture);
