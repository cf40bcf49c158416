//! Endpoints over HTTP: one hyper client for each.
//!
//! A URI says which *service* is called: `http://user-service/users/1` keeps `Host: user-service`
//! (`:authority` in HTTP/2, and the server name of TLS), while the bytes go to the instance that was
//! chosen. Each endpoint has a client, and so connections, of its own. Removing the endpoint closes
//! exactly those: idle ones at once, others when the answers they carry have ended. A shared pool
//! keeps the connections to removed instances until they have been idle for long.
//!
//! A request that found no connection comes back in the error, so that it can go to another endpoint
//! at once. hyper-util's client takes the request and drops it when it cannot connect; so its head is
//! copied before, and its body waits where both can take it. That is done when there may be no
//! connection for it: as many requests wait as connections are open, or the last attempt to connect
//! failed. Most requests of a busy client do not pay for it; one that finds its connection closed in
//! the same instant, or held by the long body of another answer, may be lost to it.
//!
//! A client connects when a request needs it and again when that connection is gone. So it is always
//! ready, never fails in `poll_ready`, and an instance that was restarted gets traffic again
//! without a word from the registry.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};
use pin_project::pin_project;
use tower::Service;

use super::{
    error::HttpError,
    kept::{Kept, KeptBody},
    uri::Place,
};
use crate::{
    backoff::NEVER,
    connect::{Connector, Links, Target},
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
/// # use tower_roster::{Error, registry::{Registry, Watch}};
/// # fn connect(registry: Registry) -> Result<(), Error> {
/// use http_body_util::Empty;
/// use tower_roster::client::HttpEndpoints;
///
/// let endpoints = HttpEndpoints::<Empty<bytes::Bytes>>::new();
/// let discover = registry.watch("user-service")?.discover(endpoints);
/// # Ok(())
/// # }
/// ```
///
/// Customised, with requests that count until their answer's body has ended:
/// ```
/// # use tower_roster::{Error, registry::{Registry, Watch}};
/// # fn connect(registry: Registry) -> Result<(), Error> {
/// use std::time::Duration;
/// use http_body_util::Full;
/// use tower_roster::{client::HttpEndpoints, endpoint::CompleteOnBody};
///
/// let endpoints = HttpEndpoints::<Full<bytes::Bytes>>::new()
///     .connect_timeout(Duration::from_millis(500))
///     .max_idle(8);
/// let discover = registry
///     .watch("user-service")?
///     .discover(endpoints)
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
    /// Keep it below the server's own, else a request may meet a connection that is being closed.
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
        Ok(HttpClient {
            line: Arc::new(Line {
                client: builder.build(connector),
                place: Arc::new(Place::new(instance, tls)),
                links,
                waiting: AtomicUsize::new(0),
                shared: self.is_http2(),
            }),
        })
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
/// [`take_request`](HttpError::take_request) mostly gives it back: unless it seemed sure that there
/// was a connection for it.
pub struct HttpClient<B> {
    /// One word: a balancer clones it for each request, and moves what it has cloned.
    line: Arc<Line<B>>,
}

/// What the clones of a client share.
struct Line<B> {
    client: legacy::Client<Connector, KeptBody<B>>,
    place: Arc<Place>,
    links: Arc<Links>,
    /// Requests whose answer has not begun. Relaxed: a hint, that publishes no other memory.
    waiting: AtomicUsize,
    /// Whether one connection carries all requests.
    shared: bool,
}

impl<B> Line<B> {
    /// Whether one more request may have to wait for a connection, and so may fail for want of one.
    fn may_connect(&self, waiting: usize) -> bool {
        let open = self.links.open();
        let enough = if self.shared {
            open > 0
        } else {
            open > waiting
        };
        !enough || self.links.is_failing()
    }
}

/// A request that waits for its answer.
struct Waiting<B>(Arc<Line<B>>);

impl<B> Drop for Waiting<B> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
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

    fn call(&mut self, request: Request<B>) -> HttpFuture<B> {
        let waiting = self.line.waiting.fetch_add(1, Relaxed);
        let line = Waiting(Arc::clone(&self.line));
        // Before it is completed for this endpoint: another may complete it otherwise.
        let (mut request, kept) = if self.line.may_connect(waiting) {
            let (request, kept) = Kept::keep(request);
            (request, Some(Box::new(kept)))
        } else {
            (Kept::pass(request), None)
        };
        let exchange = match self.line.place.complete(std::mem::take(request.uri_mut())) {
            Ok(uri) => {
                *request.uri_mut() = uri;
                // The version is the connection's affair: a request that came in over HTTP/2 may go
                // on over HTTP/1, and the other way round.
                *request.version_mut() = Version::HTTP_11;
                Exchange::Sent(self.line.client.request(request))
            }
            Err(message) => Exchange::Refused(message),
        };
        HttpFuture {
            exchange,
            kept,
            line,
        }
    }
}

impl<B> Clone for HttpClient<B> {
    fn clone(&self) -> Self {
        Self {
            line: Arc::clone(&self.line),
        }
    }
}

impl<B> fmt::Debug for HttpClient<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient")
            .field("place", &self.line.place)
            .finish_non_exhaustive()
    }
}

/// A request over HTTP that waits for the head of its answer.
#[pin_project]
pub struct HttpFuture<B> {
    #[pin]
    exchange: Exchange,
    /// Taken when the exchange is over. Boxed, because most have none.
    kept: Option<Box<Kept<B>>>,
    line: Waiting<B>,
}

#[pin_project(project = ExchangeProj)]
#[derive(Debug)]
enum Exchange {
    Sent(#[pin] legacy::ResponseFuture),
    Refused(String),
}

impl<B: Send + 'static> Future for HttpFuture<B> {
    type Output = Result<Response<Incoming>, HttpError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let place = || Arc::clone(&this.line.0.place);
        Poll::Ready(match this.exchange.project() {
            ExchangeProj::Sent(exchange) => {
                let result = ready!(exchange.poll(cx));
                let kept = this.kept.take();
                let request = || kept.and_then(|kept| kept.give_back());
                result.map_err(|error| HttpError::exchange(place(), error, request))
            }
            ExchangeProj::Refused(message) => {
                Err(HttpError::invalid(place(), std::mem::take(message)))
            }
        })
    }
}

impl<B> fmt::Debug for HttpFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpFuture")
            .field("exchange", &self.exchange)
            .field("place", &self.line.0.place)
            .finish_non_exhaustive()
    }
}
