//! Reports the loss of a connection to the code that received a response on it.
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

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

/// The state of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Link(watch::Receiver<bool>);

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

/// A stream that reports its end to its [`Link`].
pub(super) struct Linked<S> {
    stream: S,
    lost: watch::Sender<bool>,
}

impl<S> Linked<S> {
    pub(super) fn new(stream: S) -> (Self, Link) {
        let (lost, link) = watch::channel(false);
        (Self { stream, lost }, Link(link))
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.lost.send_replace(true);
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Linked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        // Reading nothing although the buffer has room means that the other side has closed the stream.
        if room > 0 && buf.filled().len() == before {
            self.lost.send_replace(true);
        }
        Poll::Ready(self.note(result))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Linked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(self.note(result))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        Poll::Ready(self.note(result))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(self.note(result))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // This side closes the stream, which is no loss, whether or not it succeeds.
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn the_end_of_the_other_side_is_a_loss() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (mut stream, link) = Linked::new(ours);
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
        let (mut stream, link) = Linked::new(ours);
        drop(theirs);
        stream.write_all(b"ab").await.unwrap_err();
        assert!(link.is_lost());
    }

    #[tokio::test]
    async fn the_end_that_this_side_makes_is_none() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (mut stream, link) = Linked::new(ours);
        stream.shutdown().await.unwrap();
        drop(stream);
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
        assert!(!link.is_lost());
        let mut lost = tokio_test::task::spawn(link.lost());
        assert!(lost.poll().is_pending());
    }
}
