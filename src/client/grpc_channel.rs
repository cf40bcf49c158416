//! The client of a service over gRPC, as one plain type.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    ResponseBody,
    grpc::GrpcEndpoints,
    grpc_call::GrpcClient,
    http_service::{HttpService, HttpServiceFuture, HttpTemplate},
    stack::{Handles, Outermost, Stack, Stacked},
    status::{StatusFuture, StatusLayer, WithStatus},
};
use crate::{
    balance::{BalanceHandle, policy::Policy},
    classify::Grpc,
    error::{BoxError, ConfigError, RegistryError},
    registry::{Query, Registry, Watch},
    telemetry::Reporting,
};

/// The client of a service over gRPC: calls the instances that a registry lists, with balancing, retries,
/// hedging and ejection as set in a [`Stack`]. Any client that tonic generates takes it.
///
/// It is a plain type: `GreeterClient<GrpcChannel>` fits into a struct field, whatever policy and layers the
/// channel was made with. Layers of tower and tonic's interceptors go around it.
///
/// Cheap to clone; clones share the endpoints, their connections, and all state. The channel ends with its last
/// clone: its watch and its task end at once, and its connections close when they carry no call.
///
/// # Which calls are repeated
/// A call that was certainly not sent goes to another endpoint, whatever its method. A call that may have been
/// processed is repeated, or hedged, only if its method may be carried out twice:
/// [`Stack::repeatable`] says which. After a `kill -9` of a server, the calls in flight there fail without
/// it.
///
/// A call ends at its `grpc-timeout` (tonic's `Request::set_timeout`) or after the
/// [timeout](Stack::timeout) of the stack, with all its attempts. Each attempt tells its server what remains.
///
/// # Errors
/// A [`Status`] of the server as it is. When no server answered, a status that says why, as
/// [`to_status`](super::to_status): `UNAVAILABLE` when no endpoint is there or none could be reached,
/// `DEADLINE_EXCEEDED` when the time was over. The error is the source of the status.
///
/// # Cancel safety
/// Dropping the future of a call resets its streams; the connections stay.
///
/// # Examples
/// ```no_run
/// # mod hello { pub mod greeter_client {
/// #     pub struct GreeterClient<T>(T);
/// #     impl<T: tonic::client::GrpcService<tonic::body::Body>> GreeterClient<T> {
/// #         pub fn new(channel: T) -> Self { Self(channel) }
/// #     }
/// # } }
/// use hello::greeter_client::GreeterClient;
/// use tower_roster::{client::{GrpcChannel, Stack}, registry};
///
/// struct App {
///     greeter: GreeterClient<GrpcChannel>,
/// }
///
/// # #[cfg(feature = "consul")]
/// # fn app() -> Result<(), tower_roster::BoxError> {
/// let registry = registry::connect("consul://127.0.0.1:8500")?;
/// let channel = GrpcChannel::connect(&registry, "greeter")?;
/// let app = App { greeter: GreeterClient::new(channel) };
///
/// // All methods of one service and one method of another may be carried out twice.
/// let channel = Stack::grpc()
///     .repeatable(["helloworld.Greeter", "users.Users/Get"])
///     .connect(&registry, "greeter")?;
/// # Ok(())
/// # }
/// ```
///
/// With settings of the endpoints, here TLS:
/// ```no_run
/// # #[cfg(feature = "tls")]
/// # fn connect(
/// #     registry: &tower_roster::Registry,
/// #     tls: std::sync::Arc<rustls::ClientConfig>,
/// # ) -> Result<(), tower_roster::BoxError> {
/// use std::time::Duration;
/// use tower_roster::client::{GrpcEndpoints, Stack};
///
/// let channel = Stack::grpc()
///     .timeout(Duration::from_secs(5))
///     .over(GrpcEndpoints::new().tls(tls))
///     .connect(registry, "greeter")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a client does nothing until it is called"]
pub struct GrpcChannel(WithStatus<HttpService<Body>>);

impl GrpcChannel {
    /// Makes the client of a service with all defaults: HTTP/2 without TLS, and [`Stack::grpc`].
    ///
    /// # Errors
    /// When the registry cannot watch the service, or no tokio runtime runs. A registry that cannot be reached
    /// is not an error: the first call waits for it, for at most
    /// [`BalanceBuilder::wait`](crate::balance::BalanceBuilder::wait).
    pub fn connect(registry: &Registry, service: impl Into<Query>) -> Result<Self, RegistryError> {
        Stack::grpc().connect(registry, service)
    }

    /// The name of the service.
    pub fn service(&self) -> &str {
        self.0.inner().service()
    }

    /// The handle of the balancer: status, endpoints, events, orders by hand. A clone of it does not keep the
    /// client alive.
    pub fn handle(&self) -> &BalanceHandle {
        self.0.inner().handle()
    }

    /// The handles of all layers: balancer, breaker, budget.
    pub fn handles(&self) -> &Handles {
        self.0.inner().handles()
    }
}

impl From<HttpService<Body>> for GrpcChannel {
    fn from(service: HttpService<Body>) -> Self {
        Self(StatusLayer.layer(service))
    }
}

impl Service<Request<Body>> for GrpcChannel {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = GrpcChannelFuture;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.0.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Body>) -> GrpcChannelFuture {
        GrpcChannelFuture(self.0.call(request))
    }
}

impl_debug!(GrpcChannel: |this|
    service = this.service(),
    status = this.handle().status(),
);

/// A call of a [`GrpcChannel`] that waits for the head of its response.
#[must_use = "futures do nothing unless polled"]
pub struct GrpcChannelFuture(StatusFuture<HttpServiceFuture>);

impl Future for GrpcChannelFuture {
    type Output = Result<Response<ResponseBody>, Status>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl_debug!(GrpcChannelFuture);

/// Makes [`GrpcChannel`]s: the settings of a [`Stack`] and of its [`GrpcEndpoints`]. [`Stack::over`] makes it.
///
/// Two channels made from one template share nothing, unless the stack says so.
#[derive(Clone)]
pub struct GrpcTemplate(HttpTemplate<Body>);

impl GrpcTemplate {
    /// Makes the client of a service. It sends nothing to the service yet, and does not wait for the registry:
    /// the first call waits until the endpoints are known.
    ///
    /// # Errors
    /// When a setting is out of its range, the registry cannot watch the service, or no tokio runtime runs. A
    /// registry that cannot be reached is not an error.
    pub fn connect(
        &self,
        registry: &Registry,
        service: impl Into<Query>,
    ) -> Result<GrpcChannel, RegistryError> {
        self.0.connect(registry, service).map(GrpcChannel::from)
    }

    /// Makes the client of the service that `watch` watches.
    ///
    /// # Errors
    /// When a setting is out of its range.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watching(&self, watch: Watch) -> Result<GrpcChannel, ConfigError> {
        self.0.watching(watch).map(GrpcChannel::from)
    }
}

impl fmt::Debug for GrpcTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<P, R, H, W, K, T> Stack<P, Grpc, R, H, W, K, T>
where
    P: Policy + Clone + fmt::Debug,
    R: Clone + Send + Sync + 'static,
    H: Clone + Send + Sync + 'static,
    W: Clone + Send + Sync + 'static,
    K: Clone + fmt::Debug + Send + Sync + 'static,
    T: Reporting<Grpc> + fmt::Debug + Sync,
{
    /// Makes the client of a service over HTTP/2 without TLS; [`over`](Self::over) sets other endpoints.
    ///
    /// # Errors
    /// As [`GrpcTemplate::connect`].
    pub fn connect<A>(
        self,
        registry: &Registry,
        service: impl Into<Query>,
    ) -> Result<GrpcChannel, RegistryError>
    where
        T::Endpoint<GrpcClient>: Send + Sync + 'static,
        K: Outermost<Stacked<T::Endpoint<GrpcClient>, P, Grpc, R, H, W>, Grpc>,
        T::Client<K::Service>:
            Service<Request<Body>, Response = Response<A>> + Clone + Send + Sync + 'static,
        <T::Client<K::Service> as Service<Request<Body>>>::Error: Into<BoxError>,
        <T::Client<K::Service> as Service<Request<Body>>>::Future: Send + 'static,
        A: HttpBody<Data = Bytes> + Send + Sync + 'static,
        A::Error: Into<BoxError>,
    {
        self.over(GrpcEndpoints::new()).connect(registry, service)
    }

    /// Makes a template of clients over these endpoints, whose types are hidden.
    pub fn over<A>(self, endpoints: GrpcEndpoints) -> GrpcTemplate
    where
        T::Endpoint<GrpcClient>: Send + Sync + 'static,
        K: Outermost<Stacked<T::Endpoint<GrpcClient>, P, Grpc, R, H, W>, Grpc>,
        T::Client<K::Service>:
            Service<Request<Body>, Response = Response<A>> + Clone + Send + Sync + 'static,
        <T::Client<K::Service> as Service<Request<Body>>>::Error: Into<BoxError>,
        <T::Client<K::Service> as Service<Request<Body>>>::Future: Send + 'static,
        A: HttpBody<Data = Bytes> + Send + Sync + 'static,
        A::Error: Into<BoxError>,
    {
        let settings = (self.clone(), endpoints.clone());
        let stack = self.clone();
        let check = move || stack.check();
        GrpcTemplate(HttpTemplate::new(settings, check, move |watch| {
            let service = Arc::clone(watch.query().service());
            let stack = self.clone().named(&service);
            let built = stack.build(watch.discover(endpoints.clone()))?;
            Ok(HttpService::new(service, built.service, built.handles))
        }))
    }
}
