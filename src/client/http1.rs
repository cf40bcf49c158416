//! Requests to one endpoint over HTTP/1.1, on [connections of its own](super::pool).
//!
//! hyper-util's client serves any number of servers over both versions of HTTP: for each request it
//! looks up the connections of the server, moves all its settings, and starts a task. That is an
//! eighth of the time of a small request on loopback. Here there is one server, and hyper's
//! connections are used directly. They also return a request that they had not begun to write, so
//! no copy is needed: the request goes out on another connection, or the error returns it.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{
    Method, Request, Response, Uri, Version,
    header::{HOST, UPGRADE},
};
use http_body::Body;
use hyper::{body::Incoming, client::conn::TrySendError, upgrade::OnUpgrade};
use pin_project::pin_project;
use tower::Service;

use super::{
    body::HttpBody,
    error::{HttpError, OtherVersion},
    life::{Life, again, age},
    limits::Limits,
    pool::{Connecting, Connection, Pool},
    reread::{self, Refusal, Verdict},
    reuse,
    upload::Upload,
    uri::Place,
};
use crate::{
    connect::{Connector, Io, limits::is_head_too_large},
    error::BoxError,
};

/// What the clones of a client share.
pub(super) struct Http1<B> {
    pub(super) place: Arc<Place>,
    pub(super) connector: Connector,
    pub(super) pool: Arc<Pool<Upload<B>>>,
    pub(super) limits: Limits,
    /// At which age connections are replaced.
    pub(super) max_age: Option<Duration>,
    /// Whether the server chooses the version of HTTP in the TLS handshake.
    pub(super) negotiates: bool,
    /// Whether a response had more fields than a connection takes at first. Relaxed: a hint that
    /// publishes no other memory.
    pub(super) many_fields: AtomicBool,
}

/// A connection, which tells whether the body of its request is still being sent.
type Connected<B> = Connection<Upload<B>>;

pub(super) type Answering =
    Pin<Box<dyn Future<Output = Result<Response<HttpBody>, HttpError>> + Send>>;

impl<B> Http1<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Sends a request, at once if there is a connection for it.
    #[inline]
    pub(super) fn send(self: &Arc<Self>, request: Request<B>) -> Result<Answering, HttpError> {
        if let Err(message) = self.place.check(request.uri()) {
            return Err(HttpError::invalid(Arc::clone(&self.place), message));
        }
        let this = Arc::clone(self);
        let Some(connection) = self.pool.take(may_upgrade(&request)) else {
            return Ok(Box::pin(this.connect_and_send(request)));
        };
        Ok(this.send_on(connection, request))
    }

    /// Sends a request on a connection that seemed to be ready. If that connection had not begun
    /// the request, sends it on another.
    fn send_on(self: Arc<Self>, mut connection: Connected<B>, request: Request<B>) -> Answering {
        let (request, given) = self.prepare(request, &connection);
        let sent = connection.sender.try_send_request(request);
        Box::pin(OnConnection {
            sent,
            rest: Some((self, connection, given)),
            again: None,
        })
    }

    async fn connect_and_send(
        self: Arc<Self>,
        mut request: Request<B>,
    ) -> Result<Response<HttpBody>, HttpError> {
        let upgrades = may_upgrade(&request);
        loop {
            let connected = match self.pool.take(upgrades) {
                Some(connection) => Ok((connection, true)),
                None => {
                    let connecting = self.connect(request.uri(), upgrades);
                    if upgrades {
                        connecting.await.map(|connection| (connection, false))
                    } else {
                        self.pool.wait(connecting).await
                    }
                }
            };
            let (mut connection, used) = match connected {
                Ok(connected) => connected,
                Err(error) => return Err(self.unsent(error, request)),
            };
            let (sent, given) = self.prepare(request, &connection);
            match connection.sender.try_send_request(sent).await {
                Ok(answer) => return Ok(self.answered(connection, answer)),
                Err(mut error) => match error.take_message() {
                    Some(back) => {
                        request = given.restore(back);
                        // Only a used connection permits another round: a server that closes new
                        // connections would cause an endless loop.
                        if !used {
                            return Err(self.unsent(error.into_error().into(), request));
                        }
                    }
                    None => {
                        let error = error.into_error();
                        return self.unanswered(connection, given.is_head, error).await;
                    }
                },
            }
        }
    }

    /// Puts the connection back, and makes the response keep it until its end.
    #[inline]
    fn answered(
        &self,
        mut connection: Connected<B>,
        answer: Response<Incoming>,
    ) -> Response<HttpBody> {
        if answer.extensions().get::<OnUpgrade>().is_some() {
            self.pool.release(connection);
            return HttpBody::wrap(answer, None, self.limits);
        }
        let life = (!answer.body().is_end_stream()).then(|| Arc::clone(&connection.life));
        connection.note(reuse::hint(answer.headers()));
        if reuse::is_framed(&answer) {
            self.pool.put(connection);
        }
        HttpBody::wrap(answer, life, self.limits)
    }

    /// The result of a request without a response, unless only the connection refused that response.
    #[cold]
    fn unanswered(
        self: Arc<Self>,
        mut connection: Connected<B>,
        is_head: bool,
        error: hyper::Error,
    ) -> Answering {
        Box::pin(async move {
            let refusal = match connection.refusal.take() {
                Some(refusal) if is_head_too_large(&error) => refusal,
                _ => return Err(self.failed(error)),
            };
            let place = Arc::clone(&self.place);
            let refused = match refusal.verdict.await {
                Ok(Verdict::ManyFields(refused)) => refused,
                Ok(Verdict::Unsent) => {
                    self.many_fields.store(true, Relaxed);
                    return Err(HttpError::too_large(place, self.limits.unsent().into()));
                }
                Ok(Verdict::Other) => return Err(self.failed(error)),
                // The task of the connection has ended, and its socket with it.
                Err(_) => return Err(HttpError::broke(place, error)),
            };
            let method = if is_head { Method::HEAD } else { Method::GET };
            let (answer, life) = reread::read(refused, self.limits, method)
                .await
                .map_err(|error| self.failed(error))?;
            self.many_fields.store(true, Relaxed);
            let life = (!answer.body().is_end_stream()).then_some(life);
            Ok(HttpBody::wrap(answer, life, self.limits))
        })
    }

    #[cold]
    fn failed(&self, error: hyper::Error) -> HttpError {
        let place = Arc::clone(&self.place);
        match self.limits.head_over_http1(&error) {
            Some(over) => HttpError::too_large(place, over.into()),
            None => HttpError::broke(place, error),
        }
    }

    fn unsent(&self, error: BoxError, request: Request<B>) -> HttpError {
        HttpError::unsent(self.place.clone(), error, request)
    }

    /// Connects. `upgrades` says whether it must be possible to upgrade the connection.
    fn connect(self: &Arc<Self>, uri: &Uri, upgrades: bool) -> Connecting<Upload<B>> {
        let connection = self.connector.clone().call(uri.clone());
        let (negotiates, this) = (self.negotiates, Arc::downgrade(self));
        Box::pin(async move {
            let io = connection.await?;
            if negotiates && io.inner().is_http2() {
                return Err(OtherVersion::of(io).into());
            }
            Self::handshake(&this, io, upgrades).await
        })
    }

    /// Makes a connection over `io`.
    async fn handshake(
        this: &Weak<Self>,
        io: Io,
        upgrades: bool,
    ) -> Result<Connected<B>, BoxError> {
        let (limits, fewer, max_age) = {
            let this = this.upgrade().ok_or("the endpoint was removed")?;
            let full = upgrades || this.many_fields.load(Relaxed);
            let fewer = this.limits.fewer_fields().filter(|_| !full);
            (this.limits, fewer, this.max_age)
        };
        let (mut sender, connection) = fewer.unwrap_or(limits).http1().handshake(io).await?;
        let mut refusal = None;
        let task = if fewer.is_some() {
            let (run, refuses) = Refusal::watch(connection);
            refusal = Some(refuses);
            tokio::spawn(run)
        } else {
            tokio::spawn(async move {
                // The request on this connection gets the error, too.
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!(%error, "connection broke");
                }
            })
        };
        let life = Life::new(task.abort_handle());
        if let Some(max_age) = max_age {
            let renewal = Self::renew(Weak::clone(this), Arc::downgrade(&life), max_age);
            life.set_renewal(tokio::spawn(renewal).abort_handle());
        }
        sender.ready().await?;
        Ok(Connection::new(sender, life, refusal))
    }

    /// Replaces a connection at its greatest age, or closes it if it is idle: a new one would begin to be
    /// idle anew, and so none would ever be closed.
    async fn renew(this: Weak<Self>, life: Weak<Life>, max_age: Duration) {
        tokio::time::sleep(age(max_age)).await;
        loop {
            let connecting = match this.upgrade() {
                Some(this) if this.pool.close_idle(&life) => return,
                Some(this) => this.connect(&Uri::default(), false),
                None => return,
            };
            match (connecting.await, this.upgrade(), life.upgrade()) {
                (Ok(new), Some(this), Some(life)) => {
                    life.retire();
                    this.pool.sweep();
                    return this.pool.put(new);
                }
                // The server has changed, so the next request asks it for the version anew.
                (Err(error), Some(this), Some(life)) if error.is::<OtherVersion>() => {
                    life.retire();
                    return this.pool.sweep();
                }
                (Err(error), Some(this), Some(_)) => {
                    tracing::debug!(endpoint = %this.place.key, %error, "connection not replaced");
                }
                _ => return,
            }
            tokio::time::sleep(again(max_age)).await;
        }
    }

    /// Keeps a connection that was made for another version.
    #[cfg(all(feature = "http2", feature = "tls"))]
    pub(super) async fn adopt(self: &Arc<Self>, io: Io) {
        if let Ok(connection) = Self::handshake(&Arc::downgrade(self), io, false).await {
            self.pool.put(connection);
        }
    }

    /// Prepares a request for sending: the authority of its URI becomes a header, and the path
    /// becomes the URI. Also returns the former values.
    #[inline]
    fn prepare(
        &self,
        mut request: Request<B>,
        connection: &Connected<B>,
    ) -> (Request<Upload<B>>, Given) {
        let uri = mem::take(request.uri_mut());
        let sent = match uri.path_and_query() {
            _ if request.method() == Method::CONNECT => {
                self.place.authority(&uri).cloned().map(Uri::from)
            }
            Some(path) if path.as_str() != "/" => Some(Uri::from(path.clone())),
            // The URI is already "/", its default.
            _ => None,
        };
        if let Some(sent) = sent {
            *request.uri_mut() = sent;
        }
        // The version is a property of the connection: a request that came in over HTTP/2 may
        // continue over HTTP/1.
        let version = mem::replace(request.version_mut(), Version::HTTP_11);
        let is_head = request.method() == Method::HEAD;
        let unnamed = !request.headers().contains_key(HOST);
        if unnamed && let Some(host) = self.place.host(&uri) {
            request.headers_mut().insert(HOST, host);
        }
        let given = Given {
            uri,
            version,
            is_head,
            unnamed,
        };
        let uploading = connection.refusal.as_ref().map(Refusal::uploading);
        (request.map(|body| Upload::new(body, uploading)), given)
    }
}

/// A request on a connection.
///
/// It is not an `async` block, because a block stores a future that it captured and awaits twice.
/// Its 1.6 KB were the most expensive allocation of a request: the allocator has no free list for
/// this size.
#[pin_project]
struct OnConnection<F, B> {
    #[pin]
    sent: F,
    /// `None` after the connection has answered or failed.
    rest: Option<(Arc<Http1<B>>, Connected<B>, Given)>,
    /// The request on another connection, after the first had not begun it; or its response, after the
    /// first had refused it.
    again: Option<Answering>,
}

impl<F, B> Future for OnConnection<F, B>
where
    F: Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload<B>>>>>,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<HttpBody>, HttpError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(again) = this.again {
            return again.as_mut().poll(cx);
        }
        let sent = ready!(this.sent.poll(cx));
        let rest = this.rest.take();
        let (http, connection, given) = rest.expect("not polled after it was done");
        let mut error = match sent {
            Ok(answer) => return Poll::Ready(Ok(http.answered(connection, answer))),
            Err(error) => error,
        };
        let again = match error.take_message() {
            Some(request) => {
                drop(connection);
                Box::pin(http.connect_and_send(given.restore(request)))
            }
            None => http.unanswered(connection, given.is_head, error.into_error()),
        };
        this.again.insert(again).as_mut().poll(cx)
    }
}

/// Whether the response may turn the connection over to the caller.
#[inline]
fn may_upgrade<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE)
}

/// The former values of a request, to restore the request before it is returned.
struct Given {
    uri: Uri,
    version: Version,
    is_head: bool,
    /// Whether the request had no header `Host`.
    unnamed: bool,
}

impl Given {
    fn restore<B: Body>(self, request: Request<Upload<B>>) -> Request<B> {
        let mut request = request.map(Upload::into_inner);
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        if self.unnamed {
            request.headers_mut().remove(HOST);
        }
        request
    }
}

impl_debug!([B] Http1<B>: |this| place = this.place, pool = this.pool);
