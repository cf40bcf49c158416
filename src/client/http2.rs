//! Requests to one endpoint over HTTP/2, all on one connection.
//!
//! ```text
//! Down ──a request needs it──▶ Connecting ──▶ Up ──the connection is lost──▶ (as Down)
//!   ▲                              │ fails: every request that waits gets its error
//!   └──────────────────────────────┘
//! ```
//! hyper's connection is used directly: a request goes into its queue and the response comes back
//! from there, with no task, timer or look-up between. The connection also returns a request that
//! was still queued when it ended, and the request is sent once more on a new connection.
//!
//! All requests that wait for a connection wait for the same one. A task makes it, so that a caller
//! that gives up does not affect the others; the task ends with the endpoint.
//!
//! A connection that carries nothing for the idle timeout is closed. A response that has ended counts
//! as done, even if its request is still being uploaded.

mod executor;
mod keeping;
mod making;

pub(super) use self::executor::Boxing;

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Method, Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http2::{Builder, SendRequest},
    },
    upgrade::OnUpgrade,
};
use pin_project::pin_project;
use tokio::{sync::watch, task::AbortHandle};

use super::{
    body::HttpBody,
    life::{Life, tick},
    limits::Limits,
};
use crate::{
    classify::OverLimit,
    connect::{Connector, limits::http2_reads},
    error::BoxError,
    sync::lock,
};

/// What the clones of a client share.
pub(super) struct Http2<B> {
    connector: Connector,
    builder: Builder<Boxing>,
    limits: Limits,
    /// At which age a connection is replaced.
    max_age: Option<Duration>,
    /// The time between looks at an idle connection; `None` when it has no idle timeout.
    tick: Option<Duration>,
    /// Whether the server chooses the version of HTTP in the TLS handshake.
    negotiates: bool,
    /// Locked for a moment only: no code waits while it holds the lock.
    line: Mutex<Line<B>>,
}

enum Line<B> {
    Down,
    Connecting(ConnectResult, AbortHandle),
    /// The connection. It may be closed by now.
    Up(SharedConnection<B>),
}

struct SharedConnection<B> {
    sender: SendRequest<B>,
    life: Arc<Life>,
    /// Whether a request was sent since the last look, and the looks since then that found it idle.
    used: bool,
    idle: u32,
}

/// The result of connecting, once it is known.
type ConnectResult = watch::Receiver<Option<Result<(), NoConnection>>>;

/// The result of a request in the queue of a connection.
type QueuedResult<B> = Result<Response<Incoming>, TrySendError<Request<B>>>;

/// A request in the queue of a connection, with what keeps the connection.
type Queued<F> = (F, Arc<Life>);

type Again<B> = Pin<Box<dyn Future<Output = Result<Response<HttpBody>, Failure<B>>> + Send>>;

/// A request in the queue of a connection.
///
/// It is not an `async` block, because a block stores a future that it captured and awaits twice.
#[pin_project]
struct Exchange<F, B> {
    #[pin]
    sent: Option<F>,
    /// Keeps the connection.
    life: Option<Arc<Life>>,
    http2: Arc<Http2<B>>,
    /// The request on a new connection, if there was none or it ended before it sent the request.
    again: Option<Again<B>>,
}

impl<F, B> Future for Exchange<F, B>
where
    F: Future<Output = QueuedResult<B>>,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<HttpBody>, Failure<B>>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(again) = this.again {
            return again.as_mut().poll(cx);
        }
        let sent = this.sent.as_pin_mut().expect("or there is `again`");
        let error = match ready!(sent.poll(cx)) {
            Ok(answer) => {
                let life = this.life.take().expect("not polled after it was done");
                return Poll::Ready(this.http2.answered(answer, life));
            }
            Err(error) => error,
        };
        *this.life = None;
        match Failure::of(error) {
            // It was in the queue of a connection that has ended.
            Failure::Unsent(_, request) => {
                let again = Arc::clone(this.http2).connecting(request);
                this.again.insert(again).as_mut().poll(cx)
            }
            broke => Poll::Ready(Err(broke)),
        }
    }
}

/// Why a request got no response.
pub(super) enum Failure<B> {
    /// No part of it was sent. Boxed, because this is rare.
    Unsent(BoxError, Box<Request<B>>),
    /// The connection broke, or the peer refused the connection or the request.
    Broke(hyper::Error),
    /// The head of the response exceeds the limit.
    TooLarge(OverLimit),
}

/// Why there is no connection, for each request that waited for it.
#[derive(Clone, Debug)]
pub(super) struct NoConnection(Arc<BoxError>);

impl<B> Http2<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(
        connector: Connector,
        mut builder: Builder<Boxing>,
        limits: Limits,
        idle_timeout: Option<Duration>,
        max_age: Option<Duration>,
    ) -> Self {
        builder.max_header_list_size(http2_reads(limits.size));
        Self {
            connector,
            builder,
            limits,
            max_age,
            tick: idle_timeout.map(tick),
            negotiates: false,
            line: Mutex::new(Line::Down),
        }
    }

    /// Sets whether to fail with [`OtherVersion`] when the server does not choose HTTP/2 in the TLS handshake.
    #[cfg(feature = "http2")]
    pub(super) fn negotiates(mut self, negotiates: bool) -> Self {
        self.negotiates = negotiates;
        self
    }

    /// Sends a request, at once if there is a connection.
    #[inline]
    pub(super) fn send(
        self: &Arc<Self>,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<HttpBody>, Failure<B>>> + Send + use<B> {
        let http2 = Arc::clone(self);
        let (sent, again) = match self.try_send(request) {
            Ok(sent) => (Some(sent), None),
            Err(request) => (None, Some(Arc::clone(self).connecting(request))),
        };
        let (sent, life) = sent.unzip();
        Exchange {
            sent,
            life,
            http2,
            again,
        }
    }

    /// Puts a request into the queue of the connection, if there is one.
    #[inline]
    fn try_send(
        &self,
        request: Request<B>,
    ) -> Result<Queued<impl Future<Output = QueuedResult<B>> + Send + use<B>>, Box<Request<B>>>
    {
        if request.method() == Method::CONNECT {
            return Err(Box::new(request));
        }
        let mut line = self.lock();
        let connection = match &mut *line {
            Line::Up(connection) if !connection.sender.is_closed() => connection,
            _ => return Err(Box::new(request)),
        };
        connection.used = true;
        let sent = connection.sender.try_send_request(request);
        let life = Arc::clone(&connection.life);
        drop(line);
        Ok((sent, life))
    }

    /// Checks a response, and makes it keep the connection until its end.
    #[inline]
    fn answered(
        &self,
        answer: Response<Incoming>,
        life: Arc<Life>,
    ) -> Result<Response<HttpBody>, Failure<B>> {
        let limits = self.limits;
        limits
            .check_head(answer.headers())
            .map_err(Failure::TooLarge)?;
        if answer.extensions().get::<OnUpgrade>().is_some() {
            life.leave();
        }
        // The length comes first, because a look at the stream takes the lock of its connection.
        let body = answer.body();
        let ended = body.size_hint().exact() == Some(0) && body.is_end_stream();
        Ok(HttpBody::wrap(answer, (!ended).then_some(life), limits))
    }

    #[cold]
    fn connecting(self: Arc<Self>, request: Box<Request<B>>) -> Again<B> {
        Box::pin(self.connect_and_send(request))
    }

    /// Connects, then sends a request, once: a peer that closes each connection at once would cause
    /// an endless loop.
    async fn connect_and_send(
        self: Arc<Self>,
        request: Box<Request<B>>,
    ) -> Result<Response<HttpBody>, Failure<B>> {
        if request.method() == Method::CONNECT {
            return self.open_tunnel(request).await;
        }
        if let Err(error) = self.connected().await {
            return Err(Failure::Unsent(error.into(), request));
        }
        match self.try_send(*request) {
            Ok((sent, life)) => {
                let answer = sent.await.map_err(Failure::of)?;
                self.answered(answer, life)
            }
            Err(request) => Err(Failure::Unsent("the peer hung up at once".into(), request)),
        }
    }

    /// Sends a `CONNECT` on a connection of its own. Nothing aborts the connection of a tunnel, so a
    /// stream beside it that stalls would keep that connection for ever.
    async fn open_tunnel(
        self: Arc<Self>,
        request: Box<Request<B>>,
    ) -> Result<Response<HttpBody>, Failure<B>> {
        let made = match self.establish().await {
            Ok(io) => Self::handshake(&Arc::downgrade(&self), io).await,
            Err(error) => Err(error),
        };
        let mut connection = match made {
            Ok(connection) => connection,
            Err(error) => return Err(Failure::Unsent(error, request)),
        };
        let sent = connection.sender.try_send_request(*request);
        let answer = sent.await.map_err(Failure::of)?;
        self.answered(answer, Arc::clone(&connection.life))
    }

    /// Waits until there is a connection.
    async fn connected(self: &Arc<Self>) -> Result<(), NoConnection> {
        for _ in 0..2 {
            let Some(mut told) = self.connect() else {
                return Ok(());
            };
            // An error means that the task ended with its runtime. The task of this request may run
            // in another one; but a runtime that shuts down ends every task at once.
            if let Ok(told) = told.wait_for(Option::is_some).await {
                return told.clone().unwrap_or(Ok(()));
            }
        }
        let gone: BoxError = "the runtime is shutting down".into();
        Err(NoConnection(Arc::new(gone)))
    }
}

impl<B> Http2<B> {
    fn lock(&self) -> MutexGuard<'_, Line<B>> {
        lock(&self.line)
    }
}

impl<B> Drop for Http2<B> {
    fn drop(&mut self) {
        if let Line::Connecting(_, task) = &*self.lock() {
            task.abort();
        }
    }
}

impl<B> Drop for SharedConnection<B> {
    fn drop(&mut self) {
        if !self.life.is_used() {
            self.life.end_in_order();
        }
    }
}

impl<B> Failure<B> {
    fn of(mut error: TrySendError<Request<B>>) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(error.into_error().into(), Box::new(request)),
            None => Self::Broke(error.into_error()),
        }
    }
}

impl fmt::Display for NoConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot connect")
    }
}

impl Error for NoConnection {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&**self.0)
    }
}
