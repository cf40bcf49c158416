//! Endpoints over HTTP: one hyper client for each.
//!
//! A URI says which *service* is called: `http://user-service/users/1` keeps `Host: user-service`
//! (`:authority` in HTTP/2, and the server name of TLS), while the bytes go to the instance that was
//! chosen. Each endpoint has a client, and so connections, of its own. Removing the endpoint closes
//! exactly those: idle ones at once, others when the answers they carry have ended. A shared pool
//! keeps the connections to removed instances until they have been idle for long.
//!
//! A request that found no connection comes back in the error, so that it can go to another endpoint
//! at once. HTTP/1.1 without TLS is [our own](super::http1) over hyper's connections; where TLS or
//! HTTP/2 is spoken, it is [hyper-util's client](super::negotiated).
//!
//! A client connects when a request needs it and again when that connection is gone. So it is always
//! ready, never fails in `poll_ready`, and an instance that was restarted gets traffic again
//! without a word from the registry.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
#[cfg(any(feature = "http2", feature = "tls"))]
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};
use tower::Service;

#[cfg(any(feature = "http2", feature = "tls"))]
use super::negotiated::Negotiated;
use super::{
    error::HttpError,
    http1::{Answer, Http1},
    pool::Pool,
    uri::Place,
};
#[cfg(any(feature = "http2", feature = "tls"))]
use crate::connect::Links;
use crate::{
    backoff::NEVER,
    connect::{Connector, Target},
    discover::MakeEndpoint,
    error::BoxError,
    instance::Instance,
};

/// Survives one lost packet of the handshake, which is sent again after 1 s (RFC 6298), and leaves
/// time to ask another endpoint.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Shorter than the 60 s and 75 s after which common servers and load balancers close an idle
/// connection: when the client closes first, no request is sent into a closing connection.
const IDLE_FOR: Duration = Duration::from_secs(50);

/// Starts to look for a peer that is gone without a word after this; how often TCP asks then is the
/// system's affair.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Makes endpoints over HTTP, for request bodies of type `B`.
///
/// HTTP/1.1 without TLS, unless set otherwise. Its services are [`HttpClient`]s.
///
/// # Examples
/// ```
/// # use tower_roster::{RegistryError, registry::{Registry, Watch}};
/// # fn connect(registry: Registry) -> Result<(), RegistryError> {
/// use http_body_util::Empty;
/// use tower_roster::client::HttpEndpoints;
///
/// let endpoints = HttpEndpoints::<Empty<bytes::Bytes>>::new();
/// let discover = registry.watch("user-service")?.discover(endpoints);
/// # Ok(())
/// # }
/// ```
///
/// Customised, for tower's own balancer, with requests that count until their answer's body has ended:
/// ```
/// # use tower_roster::{RegistryError, registry::{Registry, Watch}};
/// # fn connect(registry: Registry) -> Result<(), RegistryError> {
/// use std::time::Duration;
/// use http_body_util::Full;
/// use tower_roster::{
///     client::HttpEndpoints,
///     endpoint::{CompleteOnBody, load::PeakEwma},
/// };
///
/// let endpoints = HttpEndpoints::<Full<bytes::Bytes>>::new()
///     .connect_timeout(Duration::from_millis(500))
///     .max_idle(8);
/// let discover = registry
///     .watch("user-service")?
///     .discover(endpoints)
///     .measured(PeakEwma::new())
///     .complete(CompleteOnBody::default());
/// # Ok(())
/// # }
/// ```
pub struct HttpEndpoints<B> {
    connect_timeout: Duration,
    idle_timeout: Option<Duration>,
    max_idle: usize,
    keep_alive: Option<Duration>,
    #[cfg(feature = "http2")]
    http2: bool,
    #[cfg(feature = "tls")]
    tls: Option<Arc<rustls::ClientConfig>>,
    body: PhantomData<fn(B)>,
}

impl<B> HttpEndpoints<B> {
    /// Makes endpoints that speak HTTP/1.1 without TLS.
    pub fn new() -> Self {
        Self {
            connect_timeout: CONNECT_WITHIN,
            idle_timeout: Some(IDLE_FOR),
            max_idle: usize::MAX,
            keep_alive: Some(KEEP_ALIVE),
            #[cfg(feature = "http2")]
            http2: false,
            #[cfg(feature = "tls")]
            tls: None,
            body: PhantomData,
        }
    }

    /// Sets how long connecting may take, the lookup of a name included, and the TLS handshake as
    /// long again; 2 s by default. It bounds how long a request waits for an endpoint that is off the
    /// network; short makes one lost packet an error.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long a connection may be idle before it is closed; 50 s by default, `None` for ever.
    /// Some are closed an eighth of it earlier. Keep it below the server's own, else a request may meet
    /// a connection that is being closed.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = timeout.into();
        self
    }

    /// Sets how many idle connections an endpoint keeps; as many as there were requests at a time by
    /// default. Zero makes a connection for each request; a limit below the usual number of
    /// requests at a time makes and closes connections all the while.
    #[must_use]
    pub fn max_idle(mut self, connections: usize) -> Self {
        self.max_idle = connections;
        self
    }

    /// Sets after how much silence a connection is probed (TCP keep-alive, and in HTTP/2 a ping
    /// while requests wait); 30 s by default, at least 1 s, `None` for never.
    #[must_use]
    pub fn keep_alive(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.keep_alive = after.into();
        self
    }

    /// Speaks HTTP/2 only, without asking whether the server does (prior knowledge; with TLS, only
    /// `h2` is offered). All requests to an endpoint then share one connection.
    #[cfg(feature = "http2")]
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Speaks TLS, whatever the scheme of a URI says. The server is verified against the host of the
    /// URI, which names the service, not against the address of the instance.
    ///
    /// The configuration's ALPN protocols are offered, and `h2` is spoken when the server chooses it
    /// (only with feature `http2`; else it is not offered).
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    #[cfg(feature = "http2")]
    fn is_http2(&self) -> bool {
        self.http2
    }

    #[cfg(not(feature = "http2"))]
    fn is_http2(&self) -> bool {
        false
    }

    /// Within what the system takes, and without overflow where it is added to the present.
    fn probe_after(&self) -> Option<Duration> {
        let after = self.keep_alive?;
        Some(after.clamp(Duration::from_secs(1), NEVER))
    }

    /// The connector to `instance`, and whether it speaks TLS.
    fn connector(&self, instance: &Instance) -> (Connector, bool) {
        let target = Target::Tcp(instance.address.clone());
        let connector = Connector::new(target, self.connect_timeout).keep_alive(self.probe_after());
        #[cfg(feature = "tls")]
        if let Some(config) = &self.tls {
            return (connector.tls(self.offer(config)), true);
        }
        (connector, false)
    }

    /// The configuration, offering only what can then be spoken.
    #[cfg(feature = "tls")]
    fn offer(&self, config: &Arc<rustls::ClientConfig>) -> Arc<rustls::ClientConfig> {
        let protocols = if self.is_http2() {
            vec![b"h2".to_vec()]
        } else if cfg!(feature = "http2") {
            return Arc::clone(config);
        } else {
            let spoken = config.alpn_protocols.iter().filter(|p| *p != b"h2");
            spoken.cloned().collect()
        };
        if protocols == config.alpn_protocols {
            return Arc::clone(config);
        }
        let mut config = rustls::ClientConfig::clone(config);
        config.alpn_protocols = protocols;
        Arc::new(config)
    }
}

impl<B> MakeEndpoint for HttpEndpoints<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Service = HttpClient<B>;
    type Error = BoxError;

    fn make_endpoint(&mut self, instance: &Instance) -> Result<HttpClient<B>, BoxError> {
        let (connector, tls) = self.connector(instance);
        let place = Arc::new(Place::new(instance, tls));
        if !tls && !self.is_http2() {
            return Ok(HttpClient(Transport::Http1(Arc::new(Http1 {
                place,
                connector,
                pool: Arc::new(Pool::new(self.max_idle, self.idle_timeout)),
            }))));
        }
        #[cfg(any(feature = "http2", feature = "tls"))]
        return Ok(self.negotiated(place, connector));
        #[cfg(not(any(feature = "http2", feature = "tls")))]
        unreachable!("nothing else can be set")
    }
}

#[cfg(any(feature = "http2", feature = "tls"))]
impl<B> HttpEndpoints<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn negotiated(&self, place: Arc<Place>, connector: Connector) -> HttpClient<B> {
        let links = Arc::<Links>::default();
        let connector = connector.links(Arc::clone(&links));
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(self.idle_timeout.map(|time| time.min(NEVER)))
            .pool_max_idle_per_host(self.max_idle);
        #[cfg(feature = "http2")]
        builder
            .http2_only(self.http2)
            .http2_keep_alive_interval(self.probe_after());
        let client = builder.build(connector);
        let negotiated = Negotiated::new(client, place, links, self.is_http2());
        HttpClient(Transport::Negotiated(Arc::new(negotiated)))
    }
}

impl<B> Default for HttpEndpoints<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> Clone for HttpEndpoints<B> {
    fn clone(&self) -> Self {
        Self {
            connect_timeout: self.connect_timeout,
            idle_timeout: self.idle_timeout,
            max_idle: self.max_idle,
            keep_alive: self.keep_alive,
            #[cfg(feature = "http2")]
            http2: self.http2,
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
            body: PhantomData,
        }
    }
}

impl<B> fmt::Debug for HttpEndpoints<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpEndpoints")
            .field("connect_timeout", &self.connect_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("max_idle", &self.max_idle)
            .field("keep_alive", &self.keep_alive)
            .field("http2", &self.is_http2())
            .finish_non_exhaustive()
    }
}

/// Sends requests to one instance over HTTP. Cheap to clone; clones share the connections, which
/// close when the last clone is gone and the last answer has ended.
///
/// A URI without authority gets the name of the service, or the address of the instance where that
/// name is no authority.
///
/// # Errors
/// [`HttpError`]; [`is_connect`](HttpError::is_connect) tells when the request was not sent, and then
/// [`take_request`](HttpError::take_request) gives it back. With HTTP/2 or TLS it mostly does: unless
/// it seemed sure that there was a connection for it.
pub struct HttpClient<B>(Transport<B>);

/// A word or two: a balancer clones it for each request, and moves what it has cloned.
enum Transport<B> {
    Http1(Arc<Http1<B>>),
    #[cfg(any(feature = "http2", feature = "tls"))]
    Negotiated(Arc<Negotiated<B>>),
}

impl<B> HttpClient<B> {
    fn place(&self) -> &Place {
        match &self.0 {
            Transport::Http1(transport) => &transport.place,
            #[cfg(any(feature = "http2", feature = "tls"))]
            Transport::Negotiated(transport) => transport.place(),
        }
    }
}

impl<B> Service<Request<B>> for HttpClient<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Incoming>;
    type Error = HttpError;
    type Future = HttpFuture<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> HttpFuture<B> {
        let exchange = match &self.0 {
            Transport::Http1(transport) => transport.send(request),
            #[cfg(any(feature = "http2", feature = "tls"))]
            Transport::Negotiated(transport) => transport.send(request),
        };
        HttpFuture {
            exchange: exchange.map_err(Some),
            body: PhantomData,
        }
    }
}

impl<B> Clone for HttpClient<B> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Transport::Http1(transport) => Transport::Http1(Arc::clone(transport)),
            #[cfg(any(feature = "http2", feature = "tls"))]
            Transport::Negotiated(transport) => Transport::Negotiated(Arc::clone(transport)),
        })
    }
}

impl<B> fmt::Debug for HttpClient<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient")
            .field("place", self.place())
            .finish_non_exhaustive()
    }
}

/// A request over HTTP that waits for the head of its answer.
pub struct HttpFuture<B> {
    /// Or why it cannot be sent at all, until that is told.
    exchange: Result<Answer, Option<HttpError>>,
    body: PhantomData<fn(B)>,
}

impl<B> Future for HttpFuture<B> {
    type Output = Result<Response<Incoming>, HttpError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.exchange {
            Ok(answer) => answer.as_mut().poll(cx),
            Err(error) => Poll::Ready(Err(error.take().expect("not polled after it was done"))),
        }
    }
}

impl<B> fmt::Debug for HttpFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpFuture").finish_non_exhaustive()
    }
}
