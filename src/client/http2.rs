//! Requests to one endpoint over HTTP/2, all on one connection.
//!
//! ```text
//! Down ──a request needs it──▶ Connecting ──▶ Up ──the connection is lost──▶ (as Down)
//!   ▲                              │ fails: every request that waits gets its error
//!   └──────────────────────────────┘
//! ```
//! hyper's connection is used directly: a request goes into its queue and the response comes back
//! from there, with no task, timer or look-up between. The connection also returns a request that
//! was still queued when it ended, and the request is sent once more on a new connection. So no
//! copy of it is kept.
//!
//! All requests that wait for a connection wait for the same one. A task makes it, so that a caller
//! that gives up does not affect the others; the task ends with the endpoint.

use std::{
    error::Error,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{Request, Response, Uri};
use http_body::Body;
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http2::{Builder, SendRequest},
    },
    rt::Executor,
};
use tokio::{sync::watch, task::AbortHandle};
use tower::Service;

use crate::{connect::Connector, error::BoxError};

/// What the clones of a client share.
pub(super) struct Http2<B> {
    connector: Connector,
    builder: Builder<Boxing>,
    /// Locked for a moment only: no code waits while it holds the lock.
    line: Mutex<Line<B>>,
}

/// Spawns the tasks of a connection: one for the connection, and one or two for each request, all
/// of the same future type. tokio moves a future about six times before it runs, and this one is as
/// large as a connection: moving it takes 3,000 instructions per request, and boxing it a tenth of
/// that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boxing;

impl<F> Executor<F> for Boxing
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        tokio::spawn(Box::pin(future));
    }
}

enum Line<B> {
    Down,
    Connecting(Told, AbortHandle),
    /// The connection. It may be closed by now.
    Up(SendRequest<B>),
}

/// The result of connecting, once it is known.
type Told = watch::Receiver<Option<Result<(), NoConnection>>>;

/// The result of a request in the queue of a connection.
type Sent<B> = Result<Response<Incoming>, TrySendError<Request<B>>>;

/// Why a request got no response.
pub(super) enum Failure<B> {
    /// No part of it was sent. Boxed, because this is rare.
    Unsent(BoxError, Box<Request<B>>),
    /// The connection broke, or the peer refused it.
    Broke(hyper::Error),
}

/// Why there is no connection, for each request that waited for it.
#[derive(Clone, Debug)]
struct NoConnection(Arc<BoxError>);

impl<B> Http2<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(connector: Connector, builder: Builder<Boxing>) -> Self {
        Self {
            connector,
            builder,
            line: Mutex::new(Line::Down),
        }
    }

    /// Sends a request, at once if there is a connection.
    #[inline]
    pub(super) fn send(
        self: &Arc<Self>,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure<B>>> + Send + use<B> {
        let sent = self.try_send(request);
        let this = Arc::clone(self);
        async move {
            let request = match sent {
                Err(request) => request,
                Ok(sent) => match sent.await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => match Failure::of(error) {
                        // It was in the queue of a connection that has ended.
                        Failure::Unsent(_, request) => request,
                        broke => return Err(broke),
                    },
                },
            };
            Box::pin(this.connect_and_send(request)).await
        }
    }

    /// Puts a request into the queue of the connection, if there is one.
    #[inline]
    fn try_send(
        &self,
        request: Request<B>,
    ) -> Result<impl Future<Output = Sent<B>> + Send + use<B>, Box<Request<B>>> {
        match &mut *self.lock() {
            Line::Up(sender) if !sender.is_closed() => Ok(sender.try_send_request(request)),
            _ => Err(Box::new(request)),
        }
    }

    /// Connects, then sends a request, once: a peer that closes each connection at once would cause
    /// an endless loop.
    async fn connect_and_send(
        self: Arc<Self>,
        request: Box<Request<B>>,
    ) -> Result<Response<Incoming>, Failure<B>> {
        if let Err(error) = self.connected().await {
            return Err(Failure::Unsent(error.into(), request));
        }
        match self.try_send(*request) {
            Ok(sent) => sent.await.map_err(Failure::of),
            Err(request) => Err(Failure::Unsent("the peer hung up at once".into(), request)),
        }
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

    /// Drops the connection if it has ended.
    fn let_go(&self) {
        let mut line = self.lock();
        let ended = matches!(&*line, Line::Up(sender) if sender.is_closed());
        let old = ended.then(|| std::mem::replace(&mut *line, Line::Down));
        // The lock is released first, because dropping the connection wakes the requests that it
        // returns.
        drop(line);
        drop(old);
    }

    /// Starts a connection if there is none and none is being made.
    fn connect(self: &Arc<Self>) -> Option<Told> {
        let mut line = self.lock();
        match &*line {
            Line::Up(sender) if !sender.is_closed() => return None,
            Line::Connecting(told, task) if !task.is_finished() => return Some(told.clone()),
            _ => {}
        }
        let (tell, told) = watch::channel(None);
        let (this, establish) = (Arc::downgrade(self), self.establish());
        let task = tokio::spawn(async move {
            let made = establish.await;
            let Some(this) = this.upgrade() else { return };
            let (line, result) = match made {
                Ok(sender) => (Line::Up(sender), Ok(())),
                Err(error) => (Line::Down, Err(NoConnection(Arc::new(error)))),
            };
            *this.lock() = line;
            tell.send_replace(Some(result));
        });
        let old = std::mem::replace(
            &mut *line,
            Line::Connecting(told.clone(), task.abort_handle()),
        );
        // As in `let_go`: dropping a connection wakes the requests that it returns.
        drop(line);
        drop(old);
        Some(told)
    }

    fn establish(
        self: &Arc<Self>,
    ) -> impl Future<Output = Result<SendRequest<B>, BoxError>> + Send + use<B> {
        // The connector has the address and the server name.
        let connection = self.connector.clone().call(Uri::default());
        let builder = self.builder.clone();
        let this = Arc::downgrade(self);
        async move {
            let (sender, connection) = builder.handshake(connection.await?).await?;
            tokio::spawn(async move {
                // The requests on this connection get the error, too.
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection broke");
                }
                // Drops the sender at once: a request that entered its queue at this moment is
                // returned with it.
                if let Some(this) = this.upgrade() {
                    this.let_go();
                }
            });
            Ok(sender)
        }
    }
}

impl<B> Http2<B> {
    fn lock(&self) -> MutexGuard<'_, Line<B>> {
        // No code that holds the lock panics half-way, so a poisoned lock is used as it is.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Drop for Http2<B> {
    fn drop(&mut self) {
        if let Line::Connecting(_, task) = &*self.lock() {
            task.abort();
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
