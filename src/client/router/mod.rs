//! Many services behind one client, by the names in the URIs of requests.

mod clients;
mod error;
mod layer;
mod name;
mod route;
mod seats;
mod settings;

pub use self::{
    error::RouterError,
    layer::{OrElse, OrElseFuture, RouterLayer},
    route::RouterFuture,
    settings::{RouterBuilder, Unknown},
};

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::Service;

use self::{clients::Clients, name::lower};
use super::{http_service::HttpService, response_body::ResponseBody};
use crate::{
    balance::BalanceShared,
    error::{BoxError, ConfigError},
    registry::Registry,
};

/// Sends each request to the service that its URI names: `http://user-service/users/42` goes to an instance of
/// `user-service`.
///
/// The client of a service is made by the first request to it, from one template or from settings of its own, and
/// is dropped when it was not called for some time. Clones share all clients. `B` is the type of request bodies.
///
/// | authority of the URI | means |
/// |---|---|
/// | `user-service` | the service of this name |
/// | `User-Service`, `user-service.` | the same: names of hosts have no case, and may end with a dot |
/// | `user-service:8080` | the same: the registry lists the ports; this one is only sent in `Host` |
/// | `10.0.0.7:8080`, `[::1]` | an address is no service: [`Unknown`] |
/// | a name that the registry does not know | [`Unknown`]: refused by default |
/// | none, as in `/users/42` | refused, also if there is a header `Host` |
/// | `user:password@user-service` | refused, and the text is in no error |
///
/// The URI alone chooses the service. A header `Host` that names another one is sent as it is; without one, the
/// authority of the URI is sent. A server that trusts `Host` must not get that of a stranger: remove it before the
/// request comes here. Registries that distinguish cases are asked for a name in lower case, unless a
/// [service](RouterBuilder::service) is set with another spelling.
///
/// # What it costs
/// Some 100 ns for a request to a service that is known: no lock that a request waits for, no allocation.
///
/// # Readiness
/// It is always ready, as the service is known only by the request. The future of a request waits for the first
/// endpoint of its service.
///
/// # Errors
/// [`RouterError`], and those of [`HttpService`], boxed.
///
/// # Cancel safety
/// Dropping the future of a request drops its attempts. A client that it made stays until it is idle.
///
/// # Examples
/// ```no_run
/// # #[cfg(feature = "consul")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_roster::BoxError> {
/// use tower_roster::{client::{ResponseExt, Router}, registry};
///
/// let router = Router::new(&registry::connect("consul://127.0.0.1:8500")?);
/// let user = router.get("http://user-service/users/42").await?;
/// let orders = router.get("http://order-service/orders?user=42").await?;
/// println!("{} {}", user.text(64 * 1024).await?, orders.text(64 * 1024).await?);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "consul"))]
/// # fn main() {}
/// ```
///
/// Customised: shorter timeouts, more for one service, and plain DNS for other names:
/// ```no_run
/// # #[cfg(feature = "consul")]
/// # fn connect(registry: &tower_roster::Registry) -> Result<(), tower_roster::ConfigError> {
/// use std::time::Duration;
/// use tower_roster::client::{HttpEndpoints, Router, Stack, Unknown};
///
/// let usual = Stack::http().timeout(Duration::from_secs(2));
/// let slow = usual.clone().timeout(Duration::from_secs(20)).hedge(None);
/// let router: Router = Router::builder(registry)
///     .template(usual.over(HttpEndpoints::new()))
///     .service("report-service", slow.over(HttpEndpoints::new()))
///     .unknown(Unknown::Dns)
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a client does nothing until it is called"]
pub struct Router<B = Full<Bytes>> {
    clients: BalanceShared<Arc<Clients<B>>>,
    /// The configuration that it was made with, in a form that can change.
    #[cfg(feature = "config")]
    configuration: Option<Configuration>,
}

#[cfg(feature = "config")]
type Configuration = Arc<dyn std::any::Any + Send + Sync>;

impl Router {
    /// A router with all defaults, for request bodies of type `Full<Bytes>`.
    pub fn new(registry: &Registry) -> Self {
        let built = Self::builder(registry).build();
        built.expect("the defaults are in range")
    }
}

impl<B> Router<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Returns a builder with the default settings.
    pub fn builder(registry: &Registry) -> RouterBuilder<B> {
        RouterBuilder::new(registry)
    }
}

impl<B: 'static> RouterBuilder<B> {
    /// Builds the router. It sends nothing yet.
    ///
    /// # Errors
    /// When a setting, also one of a template, is out of its range, or a service has no name or two settings.
    pub fn build(self) -> Result<Router<B>, ConfigError> {
        let (registry, rules) = self.check()?;
        Ok(Router {
            clients: BalanceShared::new(Arc::new(Clients::new(registry, rules))),
            #[cfg(feature = "config")]
            configuration: None,
        })
    }
}

impl<B: 'static> Router<B> {
    /// The names of the services that there are clients of now, in lower case and in their order. With
    /// [`Unknown::Dns`] also the addresses that are called, as `host:port`.
    pub fn services(&self) -> Vec<String> {
        self.clients.names()
    }

    /// The client of a service, with its handles, if it was called and is not idle. The service stays watched as
    /// long as that client exists.
    pub fn client(&self, service: &str) -> Option<HttpService<B>> {
        self.clients.get(lower(service, &mut [0; 253]).ok()?)
    }
}

#[cfg(feature = "config")]
impl<B: 'static> Router<B> {
    pub(super) fn configured(mut self, configuration: Configuration) -> Self {
        self.configuration = Some(configuration);
        self
    }

    pub(super) fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    pub(super) fn clients(&self) -> Vec<(String, HttpService<B>)> {
        self.clients.all()
    }

    pub(super) fn replace(&self, name: &str, service: HttpService<B>) {
        self.clients.replace(name, service);
    }
}

impl<B: Send + 'static> Service<Request<B>> for Router<B> {
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = RouterFuture<B>;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> RouterFuture<B> {
        RouterFuture::begin(&self.clients, request)
    }
}

impl<B> Clone for Router<B> {
    fn clone(&self) -> Self {
        Self {
            clients: self.clients.clone(),
            #[cfg(feature = "config")]
            configuration: self.configuration.clone(),
        }
    }
}

impl_debug!([B: 'static] Router<B>: |this| services = this.clients.names());
