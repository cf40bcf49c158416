//! One connector for one target: TCP with a connect timeout, or a Unix socket, with TLS on request.
//!
//! The URI of a request names the *service*; it becomes the `Host` header and the server name of TLS.
//! The target of the connector is fixed when the endpoint is made. So clients of two endpoints never
//! share a connection, and dropping a client closes its own connections only.

#[cfg(feature = "consul")]
mod link;
#[cfg(any(feature = "http", feature = "_transport"))]
mod whole;

#[cfg(feature = "consul")]
pub(crate) use self::link::Link;
#[cfg(feature = "http")]
pub(crate) use self::whole::Incomplete;
#[cfg(any(feature = "http", feature = "_transport"))]
pub(crate) use self::whole::Whole;

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

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

/// Connects to one target.
#[derive(Clone)]
pub(crate) struct Connector {
    target: Target,
    timeout: Duration,
    tcp: HttpConnector,
    #[cfg(feature = "tls")]
    tls: Option<tokio_rustls::TlsConnector>,
    #[cfg(feature = "tls")]
    server_name: Option<String>,
    #[cfg(feature = "consul")]
    linked: bool,
}

impl Connector {
    pub(crate) fn new(target: Target, timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(timeout));
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        Self {
            target,
            timeout,
            tcp,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            server_name: None,
            #[cfg(feature = "consul")]
            linked: false,
        }
    }

    /// Sets the idle time after which TCP probes a connection; 30 s by default, `None` for no probes.
    #[cfg(feature = "http")]
    pub(crate) fn keep_alive(mut self, after: Option<Duration>) -> Self {
        self.tcp.set_keepalive(after);
        self
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

    /// Puts a [`Link`] into the extensions of every response. Not for connections that carry a user's
    /// requests: each response would pay for it.
    #[cfg(feature = "consul")]
    pub(crate) fn linked(mut self) -> Self {
        self.linked = true;
        self
    }

    async fn connect(mut self, uri: Uri) -> Result<Io, BoxError> {
        match &self.target {
            Target::Tcp(address) => {
                let to = Uri::builder()
                    .scheme("http")
                    .authority(address.to_string())
                    .path_and_query("/")
                    .build()?;
                let stream = tokio::time::timeout(self.timeout, self.tcp.call(to)).await;
                let stream = stream.map_err(|_| {
                    let text = format!("no connection to {address} within {:?}", self.timeout);
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
            let stream = secure(tls, plain, name, self.timeout).await?;
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let mut io = self.io(stream);
            io.h2 = h2;
            return Ok(io);
        }
        let _ = uri;
        Ok(self.io(plain))
    }

    fn io(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Io {
        #[cfg(feature = "consul")]
        if self.linked {
            let (stream, link) = link::Linked::new(stream);
            return Io {
                link: Some(link),
                ..Io::new(TokioIo::new(stream))
            };
        }
        Io::new(TokioIo::new(stream))
    }
}

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

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("target", &self.target)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

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

/// Any connection. The stream is boxed: a connection is made rarely and lives long.
pub(crate) struct Io {
    stream: Box<dyn Stream>,
    h2: bool,
    #[cfg(feature = "consul")]
    link: Option<Link>,
}

trait Stream: Read + Write + Send + Unpin {}
impl<T: Read + Write + Send + Unpin> Stream for T {}

impl Io {
    fn new(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            h2: false,
            #[cfg(feature = "consul")]
            link: None,
        }
    }
}

#[cfg(feature = "http")]
impl Io {
    /// Whether HTTP/2 was chosen in the TLS handshake.
    pub(crate) fn is_http2(&self) -> bool {
        self.h2
    }
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io")
            .field("h2", &self.h2)
            .finish_non_exhaustive()
    }
}

impl Connection for Io {
    fn connected(&self) -> Connected {
        let mut connected = Connected::new();
        #[cfg(feature = "consul")]
        if let Some(link) = &self.link {
            connected = connected.extra(link.clone());
        }
        if self.h2 {
            connected = connected.negotiated_h2();
        }
        connected
    }
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_read(cx, buf)
    }
}

impl Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write_vectored(cx, bufs)
    }
}
