//! Makes clients of services, from the settings of a stack and of its endpoints.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::Service;

use super::HttpService;
use crate::{
    balance::policy::Policy,
    classify::Http,
    client::{
        http::HttpEndpoints,
        http_client::HttpClient,
        stack::{Built, Outermost, Stack, Stacked},
    },
    error::{BoxError, ConfigError, RegistryError},
    registry::{Query, Registry, Watch},
    telemetry::Reporting,
};

/// Makes [`HttpService`]s: the settings of a [`Stack`] and of its [`HttpEndpoints`], for request bodies of type
/// `B`. [`Stack::over`] makes it.
///
/// Two clients made from one template share nothing, unless the stack says so.
pub struct HttpTemplate<B = Full<Bytes>> {
    make: Arc<Make<B>>,
    check: Arc<Check>,
    /// What `Debug` shows.
    settings: Arc<dyn fmt::Debug + Send + Sync>,
}

type Check = dyn Fn() -> Result<(), ConfigError> + Send + Sync;

type Make<B> = dyn Fn(Watch) -> Result<HttpService<B>, ConfigError> + Send + Sync;

impl<B> HttpTemplate<B> {
    pub(in crate::client) fn new(
        settings: impl fmt::Debug + Send + Sync + 'static,
        check: impl Fn() -> Result<(), ConfigError> + Send + Sync + 'static,
        make: impl Fn(Watch) -> Result<HttpService<B>, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            make: Arc::new(make),
            check: Arc::new(check),
            settings: Arc::new(settings),
        }
    }

    /// Makes the client of a service. It sends nothing to the service yet, and does not wait for the registry:
    /// the first request waits until the endpoints are known.
    ///
    /// # Errors
    /// When a setting is out of its range, the registry cannot watch the service, or no tokio runtime runs. A
    /// registry that cannot be reached is not an error.
    pub fn connect(
        &self,
        registry: &Registry,
        service: impl Into<Query>,
    ) -> Result<HttpService<B>, RegistryError> {
        let watch = registry.watch(service)?;
        let service = Arc::clone(watch.query().service());
        let made = self.watching(watch);
        made.map_err(|error| RegistryError::from(error).about("", &service))
    }

    /// Checks all settings, without making anything.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        (self.check)()
    }

    /// Makes the client of the service that `watch` watches.
    ///
    /// # Errors
    /// When a setting is out of its range.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watching(&self, watch: Watch) -> Result<HttpService<B>, ConfigError> {
        (self.make)(watch)
    }
}

impl<B> Clone for HttpTemplate<B> {
    fn clone(&self) -> Self {
        Self {
            make: Arc::clone(&self.make),
            check: Arc::clone(&self.check),
            settings: Arc::clone(&self.settings),
        }
    }
}

impl<B> fmt::Debug for HttpTemplate<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl HttpService {
    /// Makes the client of a service with all defaults: HTTP/1.1 without TLS, and [`Stack::http`]. Its requests
    /// have bodies of type `Full<Bytes>`; [`Stack::connect`] makes clients for other bodies.
    ///
    /// # Errors
    /// When the registry cannot watch the service, or no tokio runtime runs. A registry that cannot be reached
    /// is not an error: the first request waits for it, for at most
    /// [`BalanceBuilder::wait`](crate::balance::BalanceBuilder::wait).
    pub fn connect(registry: &Registry, service: impl Into<Query>) -> Result<Self, RegistryError> {
        Stack::http().connect(registry, service)
    }
}

impl<P, R, H, W, K, T> Stack<P, Http, R, H, W, K, T>
where
    P: Policy + Clone + fmt::Debug,
    R: Clone + Send + Sync + 'static,
    H: Clone + Send + Sync + 'static,
    W: Clone + Send + Sync + 'static,
    K: Clone + fmt::Debug + Send + Sync + 'static,
    T: Reporting<Http> + fmt::Debug + Sync,
{
    /// Makes the client of a service over HTTP/1.1 without TLS; [`over`](Self::over) sets other endpoints.
    ///
    /// # Errors
    /// As [`HttpTemplate::connect`].
    pub fn connect<X, B, A>(
        self,
        registry: &Registry,
        service: impl Into<Query>,
    ) -> Result<HttpService<B>, RegistryError>
    where
        T::Endpoint<HttpClient<X>>: Send + Sync + 'static,
        K: Outermost<Stacked<T::Endpoint<HttpClient<X>>, P, Http, R, H, W>, Http>,
        T::Client<K::Service>:
            Service<Request<B>, Response = Response<A>> + Clone + Send + Sync + 'static,
        <T::Client<K::Service> as Service<Request<B>>>::Error: Into<BoxError>,
        <T::Client<K::Service> as Service<Request<B>>>::Future: Send + 'static,
        X: Body + Send + Unpin + 'static,
        X::Data: Send,
        X::Error: Into<BoxError>,
        A: Body<Data = Bytes> + Send + Sync + 'static,
        A::Error: Into<BoxError>,
    {
        self.over(HttpEndpoints::new()).connect(registry, service)
    }

    /// Makes a template of clients over these endpoints, whose types are hidden.
    pub fn over<X, B, A>(self, endpoints: HttpEndpoints<X>) -> HttpTemplate<B>
    where
        T::Endpoint<HttpClient<X>>: Send + Sync + 'static,
        K: Outermost<Stacked<T::Endpoint<HttpClient<X>>, P, Http, R, H, W>, Http>,
        T::Client<K::Service>:
            Service<Request<B>, Response = Response<A>> + Clone + Send + Sync + 'static,
        <T::Client<K::Service> as Service<Request<B>>>::Error: Into<BoxError>,
        <T::Client<K::Service> as Service<Request<B>>>::Future: Send + 'static,
        X: Body + Send + Unpin + 'static,
        X::Data: Send,
        X::Error: Into<BoxError>,
        A: Body<Data = Bytes> + Send + Sync + 'static,
        A::Error: Into<BoxError>,
    {
        let settings = (self.clone(), endpoints.clone());
        let stack = self.clone();
        let check = move || stack.check();
        HttpTemplate::new(settings, check, move |watch| {
            let service = Arc::clone(watch.query().service());
            let discover = watch.discover(endpoints.clone());
            let Built {
                service: stack,
                handles,
            } = self.clone().named(&service).build(discover)?;
            Ok(HttpService::new(service, stack, handles))
        })
    }
}
