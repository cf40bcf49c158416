//! A connection whose peer must read what is written to it, and that can read some bytes again.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use pin_project::pin_project;
use tokio::time::{Sleep, sleep};

/// Fails a write that does not get through within a time: a peer that does not read holds a connection and
/// a response. The time is for everything up to a flush, because a peer can read a byte now and then.
#[pin_project]
pub(super) struct Writes<T> {
    #[pin]
    inner: T,
    /// What is read before the rest.
    again: Bytes,
    within: Duration,
    /// Set while something waits to be written.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<T> Writes<T> {
    pub(super) fn new(inner: T, again: Bytes, within: Duration) -> Self {
        Self {
            inner,
            again,
            within,
            deadline: None,
        }
    }

    pub(super) fn into_inner(self) -> T {
        self.inner
    }

    fn bound<R>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        written: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if written.is_ready() {
            return written;
        }
        let this = self.project();
        let within = *this.within;
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(sleep(within)));
        match deadline.as_mut().poll(cx) {
            Poll::Ready(()) => {
                let message = format!("the peer did not read a response within {within:?}");
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: Read> Read for Writes<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.again.is_empty() {
            return this.inner.poll_read(cx, buf);
        }
        let length = this.again.len().min(buf.remaining());
        buf.put_slice(&this.again.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<T: Write> Write for Writes<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.as_mut().project().inner.poll_write(cx, buf);
        self.bound(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes once it has written everything.
        let flushed = self.as_mut().project().inner.poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            *self.project().deadline = None;
            return flushed;
        }
        self.bound(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = self.as_mut().project().inner.poll_shutdown(cx);
        self.bound(cx, shut)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.as_mut().project().inner.poll_write_vectored(cx, bufs);
        self.bound(cx, written)
    }
}
