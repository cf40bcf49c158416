//! Whether a connection still stands, told to those who had an answer on it.
//!
//! What a server said can hold for as long as it runs and no longer, and nothing in the answers of
//! two servers at one address tells them apart. But one that ends takes its connections along. The
//! pool of hyper replaces them without a word, and sends a request again, on a new one, when the old
//! one broke before the request was written; so the loss is noted where the bytes pass.
//!
//! Only the end that the other side made counts. That the pool closes a connection, because it was
//! idle for long or because there were too many, says nothing about the server.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

/// What became of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Link(watch::Receiver<bool>);

impl Link {
    /// Whether the other side ended it, or it failed.
    pub(crate) fn is_lost(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is lost; for ever when this side closes it before.
    pub(crate) async fn lost(mut self) {
        if self.0.wait_for(|lost| *lost).await.is_err() {
            std::future::pending().await
        }
    }
}

/// A stream that tells its [`Link`] of its end.
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
        // Nothing read although there was room is the end.
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
        // The end that this side makes; whether it succeeds is no matter.
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
