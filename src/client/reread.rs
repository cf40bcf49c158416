//! Reads the head of a response again, if its connection refused it for its number of fields.
//!
//! hyper reads up to 100 fields into an array on the stack. A connection with a larger limit makes two
//! buffers for each head and fills them, with 32 bytes for each field that it would take: with 512, this
//! is a fifth of the instructions of a small request. Hardly any response has that many fields, so a
//! connection begins with hyper's own limit, and the larger one is used only where it is needed:
//!
//! ```text
//! connection ──a head with at most 100 fields──▶ response
//!     │ more: it ends, and its buffer holds the head
//!     ▼
//! second connection on the same socket, with the full limit ──the same head──▶ response
//! ```
//! The server receives nothing twice. hyper reads a response only after a request, so the second
//! connection gets one, and what it writes is dropped. It carries this one response. New
//! connections of this endpoint have the full limit from then on.
//!
//! hyper gives up a request that it has not sent in full when it refuses the head of its response. The
//! second connection could not send the rest, and the response might never end. So the head of such a
//! response is not read again; the request gets an error.
//!
//! hyper gives nothing back of a connection that can be upgraded. So a request that asks for an
//! upgrade gets a connection with the full limit.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::http1::{Connection, Parts},
    rt::{Read, ReadBufCursor, Write},
};
use tokio::sync::oneshot;

use super::{
    life::Life,
    limits::{FREE_FIELDS, Limits},
    upload::Uploading,
};
use crate::{connect::Io, error::BoxError};

/// The socket of a connection that refused a head, and that head.
pub(super) type RefusedHead = Parts<Io>;

/// Why a connection ended.
pub(super) enum Verdict {
    /// It refused a head for its number of fields.
    ManyFields(RefusedHead),
    /// It did so before it had sent its whole request. The rest is lost, and a server that needs it
    /// would never end its response.
    Unsent,
    /// Another reason, such as the size of a head.
    Other,
}

/// What a connection makes of a head that it refuses, for the request on it.
pub(super) struct Refusal {
    pub(super) verdict: oneshot::Receiver<Verdict>,
    uploading: Uploading,
}

impl Refusal {
    /// Returns what runs a connection until it ends, and what learns of a refusal.
    pub(super) fn watch<B>(connection: Connection<Io, B>) -> (impl Future<Output = ()>, Self)
    where
        B: Body + 'static,
        B::Error: Into<BoxError>,
    {
        let ((tell, verdict), uploading) = (oneshot::channel(), Uploading::default());
        let run = run(connection, uploading.clone(), tell);
        (run, Self { verdict, uploading })
    }

    /// What has to be told of the body of a request on this connection.
    #[inline]
    pub(super) fn uploading(&self) -> &Uploading {
        &self.uploading
    }
}

/// Runs a connection until it ends, and tells why it did.
async fn run<B>(
    mut connection: Connection<Io, B>,
    uploading: Uploading,
    tell: oneshot::Sender<Verdict>,
) where
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    let ended = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    // The request on this connection gets the error, too.
    let broke = ended.inspect_err(|error| tracing::debug!(%error, "connection broke"));
    // Before hyper drops the rest of the body.
    let uploading = uploading.get();
    let mut parts = connection.into_parts();
    // hyper gives up its side with the head. Only the socket tells whether it had written all.
    let unsent = uploading || !parts.io.inner().is_flushed();
    if !has_many_fields(&parts.read_buf) {
        let _ = tell.send(Verdict::Other);
    } else if unsent && broke.is_ok() {
        let _ = tell.send(Verdict::Unsent);
    } else {
        // Including a broken socket, whose server waits for nothing more.
        match tell.send(Verdict::ManyFields(parts)) {
            Err(Verdict::ManyFields(unwanted)) => parts = unwanted,
            _ => return,
        }
    }
    let _ = poll_fn(|cx| Pin::new(&mut parts.io).poll_shutdown(cx)).await;
}

/// Whether it may be a head with too many fields for a connection without the full limit.
fn has_many_fields(read: &[u8]) -> bool {
    let lines = read.iter().filter(|byte| **byte == b'\n');
    read.starts_with(b"HTTP/") && lines.count() > usize::from(FREE_FIELDS)
}

/// Reads a head with the full limit. Returns the response, and what keeps its connection.
pub(super) async fn read(
    refused: RefusedHead,
    limits: Limits,
    method: Method,
) -> hyper::Result<(Response<Incoming>, Arc<Life>)> {
    let io = Received {
        head: refused.read_buf,
        io: refused.io,
        asked: false,
        reader: None,
    };
    let (mut sender, connection) = limits.http1().handshake(io).await?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection broke");
        }
    });
    let life = Life::new(task.abort_handle());
    // The method tells whether the response has a body.
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    let response = sender.send_request(request).await?;
    Ok((response, life))
}

/// A socket whose request was sent before, and of whose response a part was read before.
struct Received {
    head: Bytes,
    io: Io,
    /// Whether hyper has written a request. Until then it would take a response for an error.
    asked: bool,
    reader: Option<Waker>,
}

impl Read for Received {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.head.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.head.len().min(buf.remaining());
        buf.put_slice(&self.head.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl Write for Received {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.asked = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
