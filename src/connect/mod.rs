//! One connector for one target: TCP with a connect timeout, or a Unix socket, with TLS on request.
//!
//! The URI of a request names the *service*; it becomes the `Host` header and the server name of TLS.
//! The target of the connector is fixed when the endpoint is made. So clients of two endpoints never
//! share a connection, and dropping a client closes its own connections only.

mod flood;
#[cfg(any(feature = "http", feature = "_transport"))]
pub(crate) mod limits;
mod stream;
#[cfg(any(feature = "http", feature = "_transport"))]
mod whole;

#[cfg(feature = "consul")]
pub(crate) use self::stream::Link;
#[cfg(feature = "http")]
pub(crate) use self::whole::Incomplete;
#[cfg(any(feature = "http", feature = "_transport"))]
pub(crate) use self::whole::Whole;

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

use self::{flood::Bounded, stream::Stream};
use crate::{error::BoxError, instance::Address};

/// The target of a connector. The URI of a request does not change it.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// An address. A host name is resolved for each connection.
    Tcp(Address),
    /// A socket in the file system.
    #[cfg(all(unix, feature = "consul"))]
    Unix(std::path::PathBuf),
}

/// How TCP connections are made. Clones share it, so an endpoint needs little memory.
#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    timeout: Duration,
    connector: HttpConnector,
}

impl Tcp {
    /// Probes a connection after 30 s without data.
    pub(crate) fn new(timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timeout));
        connector.set_keepalive(Some(Duration::from_secs(30)));
        Self { timeout, connector }
    }

    #[cfg(feature = "http")]
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
        self.connector.set_connect_timeout(Some(timeout));
    }

    /// Sets the idle time after which a connection is probed, `None` for no probes.
    #[cfg(feature = "http")]
    pub(crate) fn set_keep_alive(&mut self, after: Option<Duration>) {
        self.connector.set_keepalive(after);
    }

    #[cfg(feature = "http")]
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// Connects to one target.
#[derive(Clone)]
pub(crate) struct Connector {
    target: Target,
    tcp: Tcp,
    #[cfg(feature = "tls")]
    tls: Option<tokio_rustls::TlsConnector>,
    #[cfg(feature = "tls")]
    server_name: Option<String>,
    /// Whether connections are for HTTP/2 only.
    only_http2: bool,
    linked: bool,
}

impl Connector {
    pub(crate) fn new(target: Target, timeout: Duration) -> Self {
        Self::over(target, Tcp::new(timeout))
    }

    pub(crate) fn over(target: Target, tcp: Tcp) -> Self {
        Self {
            target,
            tcp,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            server_name: None,
            only_http2: false,
            linked: false,
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(mut self, config: std::sync::Arc<rustls::ClientConfig>) -> Self {
        self.tls = Some(config.into());
        self
    }

    /// Sets the server name that the certificate must contain; the host of the URI by default.
    #[cfg(all(feature = "tls", any(feature = "consul", feature = "http")))]
    pub(crate) fn server_name(mut self, name: Option<String>) -> Self {
        self.server_name = name;
        self
    }

    /// Sets whether connections are for HTTP/2 only. With TLS, a server is then refused that does not choose it in
    /// the handshake. It may have chosen HTTP/1.1, or know nothing of the choice (ALPN); in both cases it need
    /// not understand HTTP/2.
    #[cfg(any(feature = "http2", feature = "tonic"))]
    pub(crate) fn only_http2(mut self, only: bool) -> Self {
        self.only_http2 = only;
        self
    }

    /// Puts a [`Link`] into the extensions of every response. Not for connections that carry a user's
    /// requests: each response would pay for it.
    #[cfg(feature = "consul")]
    pub(crate) fn linked(mut self) -> Self {
        self.linked = true;
        self
    }

    async fn connect(mut self, uri: Uri) -> Result<Io, BoxError> {
        let timeout = self.tcp.timeout;
        match &self.target {
            Target::Tcp(address) => {
                let to = Uri::builder()
                    .scheme("http")
                    .authority(address.to_string())
                    .path_and_query("/")
                    .build()?;
                let stream = tokio::time::timeout(timeout, self.tcp.connector.call(to)).await;
                let stream = stream.map_err(|_| {
                    let text = format!("no connection to {address} within {timeout:?}");
                    io::Error::new(io::ErrorKind::TimedOut, text)
                })??;
                self.secured(stream.into_inner(), &uri).await
            }
            #[cfg(all(unix, feature = "consul"))]
            Target::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await?;
                self.secured(stream, &uri).await
            }
        }
    }

    /// Starts TLS on a new connection, if it is set.
    async fn secured(
        &self,
        plain: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        uri: &Uri,
    ) -> Result<Io, BoxError> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let name = self
                .server_name
                .as_deref()
                .or(uri.host())
                .unwrap_or_default();
            let stream = secure(tls, plain, name, self.tcp.timeout).await?;
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            if self.only_http2 && !is_http2 {
                return Err("the server did not choose HTTP/2 in the TLS handshake".into());
            }
            let stream = Bounded::new(stream, is_http2);
            return Ok(TokioIo::new(Stream::new(stream, is_http2, self.linked)));
        }
        let _ = uri;
        let stream = Bounded::new(plain, self.only_http2);
        Ok(TokioIo::new(Stream::new(stream, false, self.linked)))
    }
}

/// A connection, as hyper uses it.
pub(crate) type Io = TokioIo<Stream>;

#[cfg(feature = "tls")]
async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
    tls: &tokio_rustls::TlsConnector,
    stream: S,
    host: &str,
    timeout: Duration,
) -> Result<tokio_rustls::client::TlsStream<S>, BoxError> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = rustls::pki_types::ServerName::try_from(host.to_owned())
        .map_err(|error| format!("{host:?} is no TLS server name: {error}"))?;
    let handshake = tokio::time::timeout(timeout, tls.connect(name, stream)).await;
    let stream = handshake
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time"))??;
    Ok(stream)
}

impl_debug!(Connector: |this| target = this.target, timeout = this.tcp.timeout);

impl Service<Uri> for Connector {
    type Response = Io;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Io, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}
