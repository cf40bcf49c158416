//! Endpoints over HTTP: one hyper client for each.
//!
//! The URI names the *service*: `http://user-service/users/1` keeps `Host: user-service`
//! (`:authority` in HTTP/2, and the server name of TLS), while the bytes go to the chosen instance.
//! Each endpoint has its own client and its own connections. Removing the endpoint closes exactly
//! these: idle ones at once, others when their responses have ended. A shared pool would keep the
//! connections to removed instances until they have been idle for long.
//!
//! The error of a request that found no connection returns the request, so that it can go to
//! another endpoint at once. Requests go over hyper's connections directly, with [HTTP/1](super::http1)
//! or [HTTP/2](super::http2). With TLS, the [server may choose](super::negotiated) between them.
//!
//! A client connects when a request needs it, and again after that connection is lost. So it is
//! always ready and never fails in `poll_ready`, and an instance that restarted gets traffic again
//! without an update from the registry.

use std::{
    marker::PhantomData,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use http_body::Body;

#[cfg(any(feature = "http2", feature = "tls"))]
use super::negotiated::{Lines, Negotiated};
use super::{
    http_client::{HttpClient, Protocol},
    http1::Http1,
    limits::Limits,
    pool::Pool,
    uri::Place,
};
#[cfg(feature = "http2")]
use super::{
    http2::{Boxing, Http2},
    limits::Spoken,
};
use crate::{
    backoff::NEVER,
    connect::{Connector, Target, Tcp},
    discover::MakeEndpoint,
    error::BoxError,
    instance::Instance,
};

/// Long enough for one lost packet of the handshake, which is sent again after 1 s (RFC 6298), and
/// short enough to try another endpoint.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Below the 60 s and 75 s after which common servers and load balancers close an idle connection.
/// When the client closes first, no request is sent into a connection that is closing.
const IDLE_FOR: Duration = Duration::from_secs(50);

/// An hour: few handshakes, and about as long as a usual DNS change takes.
pub(super) const MAX_AGE: Duration = Duration::from_secs(3_600);

/// The silence after which TCP starts to probe a peer. The system sets the interval of the probes.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Makes endpoints over HTTP, for request bodies of type `B`.
///
/// HTTP/1.1 without TLS by default. Its services are [`HttpClient`]s.
///
/// A connection runs on the runtime of the request that made it, and requests from any runtime use it. If a
/// program has several runtimes, each must run for as long as the endpoints live: requests on the connections
/// of a runtime that is not polled any more, such as a current-thread runtime after its `block_on`, get no
/// response until their timeout. Connections of a runtime that was dropped are closed, and replaced.
///
/// A connection is closed whose server sends more than 1,000 interim responses (1xx) before a response, or over
/// HTTP/2 more than 7,500 frames without content (`PRIORITY`, pings, …) twice within 10 s.
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
/// Customised, for tower's own balancer. A request counts until the body of its response has ended:
/// ```
/// # use tower_roster::{RegistryError, registry::{Registry, Watch}};
/// # fn connect(registry: Registry) -> Result<(), RegistryError> {
/// use std::time::Duration;
/// use http_body_util::Full;
/// use tower_roster::{classify::Http, client::HttpEndpoints, endpoint::load::PeakEwma};
///
/// let endpoints = HttpEndpoints::<Full<bytes::Bytes>>::new()
///     .connect_timeout(Duration::from_millis(500))
///     .max_idle(8);
/// let discover = registry
///     .watch("user-service")?
///     .discover(endpoints)
///     .measured(PeakEwma::new())
///     .classify(Http::default());
/// # Ok(())
/// # }
/// ```
pub struct HttpEndpoints<B> {
    tcp: Tcp,
    idle_timeout: Option<Duration>,
    max_idle: usize,
    keep_alive: Option<Duration>,
    max_age: Option<Duration>,
    limits: Limits,
    #[cfg(feature = "http2")]
    http2: bool,
    #[cfg(feature = "tls")]
    tls: Option<Arc<rustls::ClientConfig>>,
    #[cfg(feature = "tls")]
    server_name: Option<rustls::pki_types::ServerName<'static>>,
    #[cfg(feature = "tls")]
    server_name_key: Option<Arc<str>>,
    body: PhantomData<fn(B)>,
}

impl<B> HttpEndpoints<B> {
    /// Makes endpoints that speak HTTP/1.1 without TLS.
    pub fn new() -> Self {
        let mut tcp = Tcp::new(CONNECT_WITHIN);
        tcp.set_keep_alive(Some(KEEP_ALIVE));
        Self {
            tcp,
            idle_timeout: Some(IDLE_FOR),
            max_idle: usize::MAX,
            keep_alive: Some(KEEP_ALIVE),
            max_age: Some(MAX_AGE),
            limits: Limits::new(),
            #[cfg(feature = "http2")]
            http2: false,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            server_name: None,
            #[cfg(feature = "tls")]
            server_name_key: None,
            body: PhantomData,
        }
    }

    /// Sets how long connecting may take, the resolution of a name included, and the TLS handshake
    /// the same time again; 2 s by default. It bounds how long a request waits for an endpoint that
    /// cannot be reached. With a short timeout one lost packet causes an error.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.tcp.set_timeout(timeout);
        self
    }

    /// Sets how long a connection may be idle before it is closed; 50 s by default, `None` for no
    /// limit. Some are closed an eighth of it earlier. Keep it below the idle timeout of the
    /// server: otherwise a request may be sent into a connection that is closing.
    ///
    /// A connection is idle from the end of its response on. A request body that is still being
    /// uploaded then may take this much longer; it is cut off at once if the connection is not kept,
    /// because of [`max_idle`](Self::max_idle) zero or because the head of the response says so.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = timeout.into();
        self
    }

    /// Sets how many idle connections an endpoint keeps; by default as many as there were requests
    /// at a time. Zero makes a connection for each request. A limit below the usual number of
    /// concurrent requests opens and closes connections continually.
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
        self.tcp.set_keep_alive(self.probe_after());
        self
    }

    /// Sets at which age a connection is replaced by a new one; 1 h by default, at least 1 s, `None` for
    /// never. Each connection lives up to a fifth less, so that they are not replaced together.
    ///
    /// An endpoint whose address is a host name follows that name to another address within this time.
    /// An old connection completes what it carries, and is kept as long as no new one can be made. A
    /// short age costs handshakes.
    #[must_use]
    pub fn max_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.max_age = age.into();
        self
    }

    /// Sets how many bytes the head of a response may have, and the trailers; 256 KiB by default. Over
    /// HTTP/2 each field counts 32 bytes more than its text.
    ///
    /// A larger head is an error that [names the limit](super::HttpError::is_too_large), and larger
    /// trailers end the body with such an error. It counts neither as a failure of the endpoint nor for a
    /// retry, as the next response would be as large.
    ///
    /// Over HTTP/2 a head is read before it is measured, up to 1 MiB or four times the limit. A server
    /// that sends still more breaks its stream or connection, which is a failure.
    #[must_use]
    pub fn max_header_size(mut self, bytes: u32) -> Self {
        self.limits.size = bytes;
        self
    }

    /// Sets how many fields the head of a response over HTTP/1 may have; 512 by default, at most 16,384.
    /// It fails in the same way if it has more.
    ///
    /// A connection begins with a limit of 100 fields, up to which hyper reads a head without allocating.
    /// The first response of an endpoint that has more is parsed twice, and ends its connection. Its request
    /// is not sent again. New connections of that endpoint then begin with the limit that is set here, for
    /// which hyper fills 64 bytes a field while it reads a head. If such a response comes while the request is
    /// still being uploaded on a connection with the limit of 100, the request fails as if it had too many
    /// fields. Trailers have the limit of their connection, at first 100.
    #[must_use]
    pub fn max_header_fields(mut self, fields: usize) -> Self {
        self.limits.fields(fields);
        self
    }

    /// Uses HTTP/2 only, without negotiation (prior knowledge; with TLS, only `h2` is offered). All
    /// requests to an endpoint then share one connection.
    #[cfg(feature = "http2")]
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Uses TLS, whatever the scheme of a URI is. The server is verified against the host of the
    /// URI, which names the service, not against the address of the instance.
    ///
    /// The ALPN protocols of the configuration are offered. HTTP/2 is used when the server chooses
    /// `h2`, which is offered only with the feature `http2`. With [`http2`](Self::http2), a server that does
    /// not choose it is not connected to.
    ///
    /// A URI without a host stands for the service. If the name of the service cannot be the name of a server
    /// (`user service`), such a request is [invalid](super::HttpError::is_invalid) unless a
    /// [server name](Self::server_name) is set.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Sets the name that the certificate of a server must contain; the host of each URI by default. All
    /// requests to an endpoint then share its connections, whatever hosts they name.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn server_name(mut self, name: rustls::pki_types::ServerName<'static>) -> Self {
        self.server_name = Some(name);
        self
    }

    /// Takes the name that the certificate of a server must contain from this metadata of its instance. An
    /// instance without it is verified as without this setting, and an instance whose value cannot be the name of
    /// a server gets no endpoint.
    ///
    /// For servers of one service that have different certificates. Who can write to the registry then chooses the
    /// name: it must be one that no other server has a certificate for, for example because the
    /// [configuration](Self::tls) trusts only an authority of your own.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn server_name_from(mut self, metadata: impl Into<Arc<str>>) -> Self {
        self.server_name_key = Some(metadata.into());
        self
    }

    /// The name that the certificate of this instance must contain, if one is set.
    #[cfg(feature = "tls")]
    fn verified(&self, instance: &Instance) -> Result<Option<String>, BoxError> {
        let key = self.server_name_key.as_deref();
        if let Some((key, name)) = key.and_then(|key| instance.metadata.get_key_value(key)) {
            return match rustls::pki_types::ServerName::try_from(name.as_str()) {
                Ok(_) => Ok(Some(name.clone())),
                Err(_) => Err(format!("metadata {key:?} cannot be the name of a server").into()),
            };
        }
        let name = self.server_name.as_ref();
        Ok(name.map(|name| name.to_str().into_owned()))
    }

    #[cfg(not(feature = "tls"))]
    fn verified(&self, _: &Instance) -> Result<Option<String>, BoxError> {
        Ok(None)
    }

    #[cfg(feature = "tls")]
    fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    #[cfg(not(feature = "tls"))]
    fn is_tls(&self) -> bool {
        false
    }

    #[cfg(feature = "http2")]
    fn is_http2(&self) -> bool {
        self.http2
    }

    #[cfg(not(feature = "http2"))]
    fn is_http2(&self) -> bool {
        false
    }

    /// The keep-alive time within the range of the system, so that adding it to the current time
    /// cannot overflow.
    fn probe_after(&self) -> Option<Duration> {
        let after = self.keep_alive?;
        Some(after.clamp(Duration::from_secs(1), NEVER))
    }

    /// The connector to `instance`, and whether it uses TLS.
    fn connector(&self, instance: &Instance) -> (Connector, bool) {
        let target = Target::Tcp(instance.address.clone());
        let connector = Connector::over(target, self.tcp.clone());
        #[cfg(feature = "http2")]
        let connector = connector.only_http2(self.http2);
        #[cfg(feature = "tls")]
        if let Some(config) = &self.tls {
            return (connector.tls(self.offer(config)), true);
        }
        (connector, false)
    }

    /// Whether the server may choose HTTP/2.
    #[cfg(all(feature = "http2", feature = "tls"))]
    fn offers_http2(&self) -> bool {
        let mut offered = self.tls.iter().flat_map(|config| &config.alpn_protocols);
        offered.any(|protocol| protocol == b"h2")
    }

    /// The configuration with only those ALPN protocols that this client can use.
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
        let place = Arc::new(Place::new(instance, tls, self.verified(instance)?));
        if !tls && !self.is_http2() {
            let http1 = self.http1(&place, connector, false);
            return Ok(HttpClient(Protocol::Http1(Arc::new(http1))));
        }
        #[cfg(any(feature = "http2", feature = "tls"))]
        return Ok(self.negotiated(place, connector));
        #[cfg(not(any(feature = "http2", feature = "tls")))]
        unreachable!("nothing else can be set")
    }
}

impl<B> HttpEndpoints<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn http1(&self, place: &Arc<Place>, connector: Connector, negotiates: bool) -> Http1<B> {
        Http1 {
            place: Arc::clone(place),
            connector,
            pool: Arc::new(Pool::new(self.max_idle, self.idle_timeout)),
            negotiates,
            limits: self.limits,
            max_age: self.max_age,
            many_fields: AtomicBool::new(false),
        }
    }

    #[cfg(any(feature = "http2", feature = "tls"))]
    fn negotiated(&self, place: Arc<Place>, connector: Connector) -> HttpClient<B> {
        let this = self.clone();
        let near = Arc::clone(&place);
        let negotiated = Negotiated::new(place, move |name| {
            let connector = connector.clone();
            #[cfg(feature = "tls")]
            let connector = connector.server_name(name.or(near.name()).map(str::to_owned));
            #[cfg(not(feature = "tls"))]
            let _ = name;
            #[cfg(all(feature = "http2", feature = "tls"))]
            let negotiates = !this.http2 && this.offers_http2();
            #[cfg(not(all(feature = "http2", feature = "tls")))]
            let negotiates = false;
            Lines {
                #[cfg(feature = "http2")]
                http2: Arc::new(this.over_http2(connector.clone(), negotiates)),
                // The preferred version, until the server has chosen.
                #[cfg(feature = "http2")]
                is_http2: (this.http2 || negotiates).into(),
                #[cfg(all(feature = "http2", feature = "tls"))]
                negotiates,
                http1: Arc::new(this.http1(&near, connector, negotiates)),
            }
        });
        HttpClient(Protocol::Negotiated(Arc::new(negotiated)))
    }

    #[cfg(feature = "http2")]
    fn over_http2(&self, connector: Connector, negotiates: bool) -> Http2<B> {
        let mut builder = hyper::client::conn::http2::Builder::new(Boxing);
        builder
            .timer(hyper_util::rt::TokioTimer::new())
            .keep_alive_interval(self.probe_after());
        Http2::new(
            connector,
            builder,
            self.limits.of(Spoken::Http2),
            self.idle_timeout,
            self.max_age,
        )
        .negotiates(negotiates)
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
            tcp: self.tcp.clone(),
            idle_timeout: self.idle_timeout,
            max_idle: self.max_idle,
            keep_alive: self.keep_alive,
            max_age: self.max_age,
            limits: self.limits,
            #[cfg(feature = "http2")]
            http2: self.http2,
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
            #[cfg(feature = "tls")]
            server_name: self.server_name.clone(),
            #[cfg(feature = "tls")]
            server_name_key: self.server_name_key.clone(),
            body: PhantomData,
        }
    }
}

impl_debug!([B] HttpEndpoints<B>: |this|
    connect_timeout = this.tcp.timeout(),
    idle_timeout = this.idle_timeout,
    max_idle = this.max_idle,
    keep_alive = this.keep_alive,
    max_age = this.max_age,
    limits = this.limits,
    http2 = this.is_http2(),
    tls = this.is_tls(),
);
