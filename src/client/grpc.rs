//! Endpoints over gRPC: one tonic channel for each, for the clients that tonic generates.
//!
//! ```text
//! GreeterClient::new(balancer) ──▶ balancer ──▶ GrpcClient ──▶ Channel ──▶ one HTTP/2 connection
//! ```
//!
//! The outcome of a call is in its trailers: give [`Grpc`](crate::classify::Grpc) to whoever judges
//! (the balancer, a retry, [`CompleteOnBody::new`](crate::endpoint::CompleteOnBody::new)).
//!
//! A channel connects when a call needs it, and again when its connection is gone; a call that finds
//! no connection comes back in the error. It does so for one call after another, though: where a peer
//! swallows everything, the second call in the queue begins to connect when the first has given up.
//! [`HttpEndpoints`](super::HttpEndpoints) with `http2` do not queue, and serve generated clients as
//! well. What they lack is what tonic's `Endpoint` can be told. tonic makes `UNKNOWN` of errors that
//! are not its own, unless a [`StatusLayer`](super::StatusLayer) stands around them.

use std::{
    error::Error as _,
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use pin_project::pin_project;
use tonic::{
    Code, ConnectError, Status,
    body::Body,
    transport::{self, Channel, Endpoint},
};
use tower::Service;

use super::{error::HttpError, kept::Kept, uri::Place};
use crate::{
    backoff::NEVER,
    classify,
    connect::{Connector, Target},
    discover::MakeEndpoint,
    error::BoxError,
    instance::Instance,
};

/// As for [`HttpEndpoints`](super::HttpEndpoints): survives one lost packet of the handshake.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// The shortest that every gRPC server takes: those of Go and C++ close a connection that is probed
/// more often (<https://github.com/grpc/grpc/blob/master/doc/keepalive.md>).
const KEEP_ALIVE: Duration = Duration::from_secs(300);

/// How often TCP probes a silent connection, which no server minds.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(30);

type Configure = Arc<dyn Fn(Endpoint) -> Endpoint + Send + Sync>;

/// Makes endpoints over gRPC, one lazily connected [`Channel`] for each.
///
/// HTTP/2 without TLS, unless set otherwise. Its services are [`GrpcClient`]s.
///
/// # Examples
/// ```
/// # use tower_roster::{Error, registry::{Registry, Watch}};
/// # fn connect(registry: Registry) -> Result<(), Error> {
/// use tower::balance::p2c::Balance;
/// use tower_roster::{classify::Grpc, client::GrpcEndpoints, endpoint::CompleteOnBody};
///
/// let discover = registry
///     .watch("greeter")?
///     .discover(GrpcEndpoints::new())
///     .complete(CompleteOnBody::new(Grpc::default()));
/// // let mut client = GreeterClient::new(Balance::new(discover));
/// # let _: Balance<_, http::Request<tonic::body::Body>> = Balance::new(discover);
/// # Ok(())
/// # }
/// ```
///
/// Customised, with whatever a channel of tonic can be told:
/// ```
/// use std::time::Duration;
/// use tower_roster::client::GrpcEndpoints;
///
/// let endpoints = GrpcEndpoints::new()
///     .connect_timeout(Duration::from_millis(500))
///     .configure(|endpoint| endpoint.timeout(Duration::from_secs(5)).concurrency_limit(100));
/// ```
#[derive(Clone)]
pub struct GrpcEndpoints {
    connect_timeout: Duration,
    keep_alive: Option<Duration>,
    configure: Option<Configure>,
    #[cfg(feature = "tls")]
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl GrpcEndpoints {
    /// Makes endpoints that speak HTTP/2 without TLS.
    pub fn new() -> Self {
        Self {
            connect_timeout: CONNECT_WITHIN,
            keep_alive: Some(KEEP_ALIVE),
            configure: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Sets how long connecting may take, the lookup of a name included, and the TLS handshake as
    /// long again; 2 s by default. It bounds how long a call waits for an endpoint that is off the
    /// network; short makes one lost packet an error.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets after how much silence a connection is probed by a ping, while calls wait; 5 min by
    /// default, at least 1 s, `None` for never. Without an answer within 20 s the connection is
    /// closed. Less is for servers whose keep-alive policy permits it: others close the connection,
    /// with `ENHANCE_YOUR_CALM`.
    #[must_use]
    pub fn keep_alive(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.keep_alive = after.into();
        self
    }

    /// Sets all else that tonic's `Endpoint` can be told: message windows, a timeout for calls, limits,
    /// user agent, another origin. Called for each endpoint, after the other settings, which it can
    /// override; its timeout for connecting runs beside [`connect_timeout`](Self::connect_timeout).
    /// A later call replaces an earlier one.
    #[must_use]
    pub fn configure<F>(mut self, configure: F) -> Self
    where
        F: Fn(Endpoint) -> Endpoint + Send + Sync + 'static,
    {
        self.configure = Some(Arc::new(configure));
        self
    }

    /// Speaks TLS. The server is verified against the name of the service, or against the address
    /// where that is no authority; of the configuration's ALPN protocols `h2` alone is offered.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    #[cfg(feature = "tls")]
    fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    #[cfg(not(feature = "tls"))]
    fn is_tls(&self) -> bool {
        false
    }

    fn connector(&self, instance: &Instance, origin: &Uri) -> Connector {
        let target = Target::Tcp(instance.address.clone());
        let connector = Connector::new(target, self.connect_timeout);
        let connector = connector.keep_alive(Some(TCP_KEEP_ALIVE));
        #[cfg(feature = "tls")]
        if let Some(config) = &self.tls {
            let mut config = rustls::ClientConfig::clone(config);
            config.alpn_protocols = vec![b"h2".to_vec()];
            let name = origin.host().map(str::to_owned);
            return connector.tls(Arc::new(config)).server_name(name);
        }
        let _ = origin;
        connector
    }
}

impl MakeEndpoint for GrpcEndpoints {
    type Service = GrpcClient;
    type Error = BoxError;

    fn make_endpoint(&mut self, instance: &Instance) -> Result<GrpcClient, BoxError> {
        // A channel needs a task of its own.
        tokio::runtime::Handle::try_current()?;
        let place = Place::new(instance, self.is_tls());
        let origin = place.complete(Uri::default())?;
        // Always http: the connector does the TLS, and tonic would refuse what it cannot do itself.
        let mut endpoint =
            Endpoint::from_shared(format!("http://{}", instance.address))?.origin(origin.clone());
        if let Some(after) = self.keep_alive {
            endpoint =
                endpoint.http2_keep_alive_interval(after.clamp(Duration::from_secs(1), NEVER));
        }
        if let Some(configure) = &self.configure {
            endpoint = configure(endpoint);
        }
        Ok(GrpcClient {
            channel: endpoint.connect_with_connector_lazy(self.connector(instance, &origin)),
            place: Arc::new(place),
        })
    }
}

impl Default for GrpcEndpoints {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for GrpcEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcEndpoints")
            .field("connect_timeout", &self.connect_timeout)
            .field("keep_alive", &self.keep_alive)
            .field("tls", &self.is_tls())
            .finish_non_exhaustive()
    }
}

/// Sends calls to one instance over gRPC. Cheap to clone; clones share the connection, which closes
/// when the last clone is gone and the last call has ended.
///
/// Generated clients take it as it is, and anything that balances over it. It takes calls with any body,
/// so that a layer above may wrap that of the generated client, as a
/// [`Replay`](crate::service::retry::Replay) does. Calls carry the name of the service as their
/// authority, whatever their URI says.
///
/// # Errors
/// [`HttpError`]; [`is_connect`](HttpError::is_connect) tells when the call was not sent, and then
/// [`take_request`](HttpError::take_request) gives it back. A generated client makes a status of it:
/// `UNAVAILABLE`, when there was no connection or it broke.
#[derive(Clone)]
pub struct GrpcClient {
    channel: Channel,
    place: Arc<Place>,
}

impl<B> Service<Request<B>> for GrpcClient
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = HttpError;
    type Future = GrpcFuture<B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        let ready = ready!(self.channel.poll_ready(cx));
        Poll::Ready(ready.map_err(|error| fail::<B>(&self.place, error, None)))
    }

    fn call(&mut self, request: Request<B>) -> GrpcFuture<B> {
        let (request, kept) = Kept::keep(request);
        GrpcFuture {
            exchange: self.channel.call(request.map(Body::new)),
            kept: Some(kept),
            place: Arc::clone(&self.place),
        }
    }
}

impl fmt::Debug for GrpcClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcClient")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// A call over gRPC that waits for the head of its answer.
#[pin_project]
pub struct GrpcFuture<B = Body> {
    #[pin]
    exchange: <Channel as Service<Request<Body>>>::Future,
    /// Taken when the exchange is over.
    kept: Option<Kept<B>>,
    place: Arc<Place>,
}

impl<B: Send + 'static> Future for GrpcFuture<B> {
    type Output = Result<Response<Body>, HttpError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.exchange.poll(cx));
        let kept = this.kept.take();
        Poll::Ready(result.map_err(|error| fail(this.place, error, kept)))
    }
}

fn fail<B: Send + 'static>(
    place: &Arc<Place>,
    error: transport::Error,
    kept: Option<Kept<B>>,
) -> HttpError {
    let place = Arc::clone(place);
    let request = || kept.and_then(Kept::give_back);
    let source = error.source().and_then(|source| source.downcast_ref());
    if source.is_some_and(hyper::Error::is_canceled) {
        // The connection was gone when the call's turn came. tonic would make `CANCELLED` of that,
        // as if the caller had wanted it, and `UNAVAILABLE` of this.
        return HttpError::exchange(place, ConnectError(error.into()), request);
    }
    if classify::is_unsent(&error) {
        return HttpError::exchange(place, error, request);
    }
    let mut status = Status::from_error(error.into());
    if status.code() == Code::Unknown {
        // A connection that broke, which is `UNAVAILABLE` everywhere else.
        let told = mem::replace(&mut status, Status::unavailable("the connection broke"));
        status.set_source(Arc::new(told));
    }
    HttpError::exchange(place, status, request)
}

impl<B> fmt::Debug for GrpcFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcFuture")
            .field("exchange", &self.exchange)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
