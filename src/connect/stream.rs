//! The stream of a connection, which reports its loss to the code that received a response on it.
//!
//! Some replies of a server hold only while its process runs. Two servers at one address cannot be
//! distinguished by their responses, but a server that ends loses its connections. hyper's pool replaces
//! lost connections silently: if the old one broke before the request was written, it sends the request
//! on a new one. So the stream itself records the loss.
//!
//! Only an end by the other side counts. The pool also closes connections because they are idle or too
//! many; that proves nothing about the server.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

/// The state of one connection.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(feature = "consul"),
    expect(dead_code, reason = "only Consul needs links")
)]
pub(crate) struct Link(watch::Receiver<bool>);

#[cfg(feature = "consul")]
impl Link {
    /// Whether the other side closed the connection, or it failed.
    pub(crate) fn is_lost(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the connection is lost. Never completes if this side closes it first.
    pub(crate) async fn lost(mut self) {
        if self.0.wait_for(|lost| *lost).await.is_err() {
            std::future::pending().await
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Any stream. It is boxed: a connection is made rarely and lives long.
pub(crate) struct Stream {
    stream: Box<dyn Duplex>,
    is_http2: bool,
    /// Whether all that was written has been flushed.
    #[cfg_attr(
        not(feature = "http"),
        allow(dead_code, reason = "only HTTP/1 of the client asks for it")
    )]
    flushed: bool,
    /// Reports the loss to the links, if the connector makes links.
    lost: Option<watch::Sender<bool>>,
}

impl Stream {
    pub(super) fn new(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        is_http2: bool,
        linked: bool,
    ) -> Self {
        Self {
            stream: Box::new(stream),
            is_http2,
            flushed: true,
            lost: linked.then(watch::Sender::default),
        }
    }

    /// Whether HTTP/2 was chosen in the TLS handshake.
    #[cfg(feature = "http")]
    pub(crate) fn is_http2(&self) -> bool {
        self.is_http2
    }

    /// Whether the last call was a flush that is complete. A writer that keeps bytes back flushes only
    /// after it has written them.
    #[cfg(feature = "http")]
    pub(crate) fn is_flushed(&self) -> bool {
        self.flushed
    }

    fn link(&self) -> Option<Link> {
        Some(Link(self.lost.as_ref()?.subscribe()))
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.report_loss();
        }
        result
    }

    fn report_loss(&self) {
        if let Some(lost) = &self.lost {
            lost.send_replace(true);
        }
    }
}

impl_debug!(Stream: |this| is_http2 = this.is_http2);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let mut connected = Connected::new();
        if let Some(link) = self.link() {
            connected = connected.extra(link);
        }
        if self.is_http2 {
            connected = connected.negotiated_h2();
        }
        connected
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        // Reading nothing although the buffer has room means that the other side has closed the stream.
        if room > 0 && buf.filled().len() == before {
            self.report_loss();
        }
        Poll::Ready(self.note(result))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.flushed = false;
        let result = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(self.note(result))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.flushed = false;
        let result = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        Poll::Ready(self.note(result))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        self.flushed = result.is_ok();
        Poll::Ready(self.note(result))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // This side closes the stream, which is no loss, whether or not it succeeds.
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(feature = "consul")]
#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn linked(stream: tokio::io::DuplexStream) -> (Stream, Link) {
        let stream = Stream::new(stream, false, true);
        let link = stream.link().expect("it was asked for");
        (stream, link)
    }

    #[tokio::test]
    async fn the_end_of_the_other_side_is_a_loss() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (mut stream, link) = linked(ours);
        theirs.write_all(b"ab").await.unwrap();
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(stream.read(&mut []).await.unwrap(), 0);
        assert!(!link.is_lost(), "no room is no end");
        drop(theirs);
        assert_eq!(stream.read(&mut bytes).await.unwrap(), 0);
        assert!(link.is_lost());
        drop(stream);
        link.lost().await;
    }

    #[tokio::test]
    async fn a_failed_write_is_a_loss() {
        let (ours, theirs) = tokio::io::duplex(16);
        let (mut stream, link) = linked(ours);
        drop(theirs);
        stream.write_all(b"ab").await.unwrap_err();
        assert!(link.is_lost());
    }

    #[tokio::test]
    async fn the_end_that_this_side_makes_is_none() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (mut stream, link) = linked(ours);
        stream.shutdown().await.unwrap();
        drop(stream);
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
        assert!(!link.is_lost());
        let mut lost = tokio_test::task::spawn(link.lost());
        assert!(lost.poll().is_pending());
    }
}
