//! Endpoints over gRPC: an HTTP/2 connection for each, for the clients that tonic generates.
//!
//! ```text
//! GreeterClient::new(balancer) ──▶ balancer ──▶ GrpcClient ──▶ one HTTP/2 connection of hyper's
//! ```
//!
//! The trailers of a call contain its outcome. So set [`Grpc`](crate::classify::Grpc) as the
//! classifier of each layer that judges calls: the balancer of this crate, a retry, and below tower's
//! balancer each [`MeasuredEndpoint`](crate::endpoint::MeasuredEndpoint).
//!
//! An endpoint connects when a call needs it, and again after its connection is lost. The error of
//! a call that found no connection returns the call. All calls that wait for a connection wait for
//! the same one, and fail together when it cannot be made. tonic converts errors that are not its
//! own to `UNKNOWN`, unless a [`StatusLayer`](super::StatusLayer) is around them.
//!
//! tonic's `Channel` is not used. It serves callers that share a connection and nothing else: each
//! call goes through a queue to a task, and is boxed four times. Without it a call takes a tenth fewer
//! instructions.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use http::{HeaderValue, Uri, uri::Authority};
use hyper::client::conn::http2::Builder;
use hyper_util::rt::TokioTimer;
use tokio::sync::Semaphore;

use super::{
    grpc_call::{Calls, GrpcClient, joined},
    http::MAX_AGE,
    http2::{Boxing, Http2},
    limits::{Limits, Spoken},
    uri::Place,
};
use crate::{
    backoff::NEVER,
    connect::{Connector, Target, Tcp},
    discover::MakeEndpoint,
    error::BoxError,
    instance::Instance,
};

/// As for [`HttpEndpoints`](super::HttpEndpoints): long enough for one lost packet of the
/// handshake.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// The shortest interval that every gRPC server accepts: servers in Go and C++ close a connection
/// that sends pings more often (<https://github.com/grpc/grpc/blob/master/doc/keepalive.md>).
const KEEP_ALIVE: Duration = Duration::from_secs(300);

/// gRPC's own default for the response to a ping, from the same document.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// As other gRPC clients (<https://github.com/grpc/grpc/blob/master/doc/connectivity-semantics-and-api.md>
/// leaves it to them: 30 min in Go, Java and C++).
const IDLE_FOR: Duration = Duration::from_secs(1_800);

/// The `User-Agent` of this crate.
const AGENT: &str = concat!("tower-roster/", env!("CARGO_PKG_VERSION"));

/// Makes endpoints over gRPC, one lazily connected HTTP/2 connection for each.
///
/// HTTP/2 without TLS by default. Its services are [`GrpcClient`]s. A connection belongs to a runtime and is
/// closed by a flood, as those of [`HttpEndpoints`](super::HttpEndpoints) are.
///
/// # Examples
/// With tower's own balancer:
/// ```
/// # use tower_roster::{RegistryError, registry::{Registry, Watch}};
/// # fn connect(registry: Registry) -> Result<(), RegistryError> {
/// use tower::balance::p2c::Balance;
/// use tower_roster::{
///     classify::Grpc,
///     client::GrpcEndpoints,
///     endpoint::load::PeakEwma,
/// };
///
/// let discover = registry
///     .watch("greeter")?
///     .discover(GrpcEndpoints::new())
///     .measured(PeakEwma::new())
///     .classify(Grpc::default());
/// // let mut client = GreeterClient::new(Balance::new(discover));
/// # let _: Balance<_, http::Request<tonic::body::Body>> = Balance::new(discover);
/// # Ok(())
/// # }
/// ```
///
/// Customised:
/// ```
/// use std::{num::NonZeroUsize, time::Duration};
/// use tower_roster::client::GrpcEndpoints;
///
/// let endpoints = GrpcEndpoints::new()
///     .connect_timeout(Duration::from_millis(500))
///     .timeout(Duration::from_secs(5))
///     .concurrency_limit(NonZeroUsize::new(100).unwrap());
/// ```
#[derive(Clone)]
pub struct GrpcEndpoints {
    tcp: Tcp,
    keep_alive: Option<Duration>,
    keep_alive_timeout: Duration,
    keep_alive_while_idle: bool,
    timeout: Option<Duration>,
    concurrency_limit: Option<NonZeroUsize>,
    user_agent: HeaderValue,
    authority: Option<Authority>,
    limits: Limits,
    idle_timeout: Option<Duration>,
    max_age: Option<Duration>,
    #[cfg(feature = "tls")]
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl GrpcEndpoints {
    /// Makes endpoints that speak HTTP/2 without TLS.
    pub fn new() -> Self {
        Self {
            tcp: Tcp::new(CONNECT_WITHIN),
            keep_alive: Some(KEEP_ALIVE),
            keep_alive_timeout: KEEP_ALIVE_TIMEOUT,
            keep_alive_while_idle: false,
            timeout: None,
            concurrency_limit: None,
            user_agent: HeaderValue::from_static(AGENT),
            authority: None,
            limits: Limits::new().of(Spoken::Grpc),
            idle_timeout: Some(IDLE_FOR),
            max_age: Some(MAX_AGE),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Sets how long connecting may take, the resolution of a name included, and the TLS handshake
    /// the same time again; 2 s by default. It bounds how long a call waits for an endpoint that
    /// cannot be reached. With a short timeout one lost packet causes an error.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.tcp.set_timeout(timeout);
        self
    }

    /// Sets how long a connection may carry no call before it is closed; 30 min by default, `None` for
    /// no limit. Some are closed an eighth of it earlier. A call whose response has ended is none, even
    /// if its messages are still being sent.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = timeout.into();
        self
    }

    /// Sets at which age a connection is replaced by a new one; 1 h by default, at least 1 s, `None` for
    /// never. It lives up to a fifth less, so that connections are not replaced together.
    ///
    /// An endpoint whose address is a host name follows that name to another address within this time.
    /// An old connection completes its calls, and is kept as long as no new one can be made. A short
    /// age costs handshakes.
    #[must_use]
    pub fn max_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.max_age = age.into();
        self
    }

    /// Sets after how much silence a connection gets a ping while calls wait; 5 min by default, at
    /// least 1 s, `None` for never. Set less only if the server's keep-alive policy permits it:
    /// other servers close the connection with `ENHANCE_YOUR_CALM`.
    #[must_use]
    pub fn keep_alive(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.keep_alive = after.into();
        self
    }

    /// Sets how long the response to a [ping](Self::keep_alive) may take before the connection is
    /// closed; 20 s by default. A short timeout closes connections to servers that only pause.
    #[must_use]
    pub fn keep_alive_timeout(mut self, timeout: Duration) -> Self {
        self.keep_alive_timeout = timeout;
        self
    }

    /// Sets whether connections also get [pings](Self::keep_alive) while no call waits; they do not
    /// by default, because some servers do not permit it. Such pings detect a lost server before a
    /// call does.
    #[must_use]
    pub fn keep_alive_while_idle(mut self, probes: bool) -> Self {
        self.keep_alive_while_idle = probes;
        self
    }

    /// Sets how long each call may take until the head of its response; no limit by default. A
    /// shorter `grpc-timeout` or [`Deadline`](crate::Deadline) of the call takes precedence; of a
    /// deadline, the call carries what remains as its `grpc-timeout`. A call that takes longer fails
    /// with `DEADLINE_EXCEEDED`.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets how many calls at a time may wait for the head of their response at each endpoint;
    /// further calls wait before they are sent. No limit by default, except for the server's limit
    /// of streams. A limit below the concurrency of the server delays calls without need.
    #[must_use]
    pub fn concurrency_limit(mut self, calls: NonZeroUsize) -> Self {
        self.concurrency_limit = Some(calls);
        self
    }

    /// Sets the name of the calling program, which precedes the name of this crate in `User-Agent`.
    #[must_use]
    pub fn user_agent(mut self, program: HeaderValue) -> Self {
        self.user_agent = joined(&program, &HeaderValue::from_static(AGENT));
        self
    }

    /// Sets the authority of calls, against which the certificate of a server is also verified; by
    /// default the name of the service.
    #[must_use]
    pub fn authority(mut self, authority: Authority) -> Self {
        self.authority = Some(authority);
        self
    }

    /// Sets how many bytes the head or the trailers of a response may have, 32 more for each field
    /// than its text; 256 KiB by default. A call with larger ones fails with `RESOURCE_EXHAUSTED`. That
    /// counts neither as a failure of the endpoint nor for a retry, as the next response would be as
    /// large.
    ///
    /// A head is read before it is measured, up to 1 MiB or four times the limit. A server that sends
    /// still more breaks its stream or connection, which is a failure.
    #[must_use]
    pub fn max_header_size(mut self, bytes: u32) -> Self {
        self.limits.size = bytes;
        self
    }

    /// Uses TLS. The server is verified against the name of the service, or against the
    /// [authority](Self::authority) if it is set. Without that, no endpoint is made for a service whose name
    /// cannot be the name of a server. Of the ALPN protocols only `h2` is offered, whatever the configuration
    /// lists, and a server that does not choose it is not connected to.
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
        let connector = Connector::over(target, self.tcp.clone()).only_http2(true);
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

    fn builder(&self) -> Builder<Boxing> {
        let mut builder = Builder::new(Boxing);
        let after = self.keep_alive;
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(after.map(|after| after.clamp(Duration::from_secs(1), NEVER)))
            .keep_alive_timeout(self.keep_alive_timeout)
            .keep_alive_while_idle(self.keep_alive_while_idle);
        builder
    }
}

impl MakeEndpoint for GrpcEndpoints {
    type Service = GrpcClient;
    type Error = BoxError;

    fn make_endpoint(&mut self, instance: &Instance) -> Result<GrpcClient, BoxError> {
        // Connections start tasks, so a runtime is required.
        tokio::runtime::Handle::try_current()?;
        let place = Place::new(instance, self.is_tls(), None);
        let given = self.authority.clone().map(Uri::from);
        let origin = place.complete(given.unwrap_or_default())?;
        let connector = self.connector(instance, &origin);
        Ok(GrpcClient::new(Calls {
            http2: Arc::new(Http2::new(
                connector,
                self.builder(),
                self.limits,
                self.idle_timeout,
                self.max_age,
            )),
            place: Arc::new(place),
            origin,
            user_agent: self.user_agent.clone(),
            timeout: self.timeout,
            places: self
                .concurrency_limit
                .map(|calls| Semaphore::new(calls.get().min(Semaphore::MAX_PERMITS))),
        }))
    }
}

impl Default for GrpcEndpoints {
    fn default() -> Self {
        Self::new()
    }
}

impl_debug!(GrpcEndpoints: |this|
    connect_timeout = this.tcp.timeout(),
    keep_alive = this.keep_alive,
    timeout = this.timeout,
    concurrency_limit = this.concurrency_limit,
    limits = this.limits,
    idle_timeout = this.idle_timeout,
    max_age = this.max_age,
    tls = this.is_tls(),
);
