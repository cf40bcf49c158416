//! A call over gRPC: what is sent, and what its failure is to the caller.

use std::{
    future::{Future, ready},
    mem,
    pin::Pin,
    sync::Arc,
    task::{self, Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header::USER_AGENT};
use pin_project::pin_project;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tonic::{Code, ConnectError, Status};
use tower::Service;

use super::{
    body::HttpBody,
    erased::Erased,
    error::HttpError,
    http2::{Failure, Http2},
    kept_call::KeptCall,
    limits::exhausted,
    served::Served,
    uri::Place,
};
use crate::{
    backoff::after,
    classify::{self, Refusal, refusal},
    deadline::{Deadline, DeadlinePassed, grpc},
    error::BoxError,
};

/// Sends calls to one instance over gRPC. Cheap to clone; clones share the connection, which closes
/// when the last clone is dropped and the last call has ended.
///
/// Generated clients accept it directly, or behind a balancer. It takes calls with any body, so
/// that a layer above may wrap the body of the generated client, as
/// [`Replay`](crate::service::retry::Replay) does. Calls carry the name of the service as their
/// authority, whatever their URI says.
///
/// The extensions of a response have a [`Served`].
///
/// # Errors
/// [`HttpError`]; if [`is_connect`](HttpError::is_connect) is true, the call was not sent, and
/// [`take_request`](HttpError::take_request) returns it. The same holds for
/// [`is_refused`](HttpError::is_refused), except for a call whose messages took more than 64 KiB
/// until then, or whose body is of a type that is neither tonic's nor a
/// [`ReplayBody`](crate::service::retry::ReplayBody) around tonic's. A generated client converts the
/// error to a status: `UNAVAILABLE` when there was no connection or it broke.
///
/// A call that a `GOAWAY` of the server excludes is sent once more, on a new connection.
#[derive(Clone)]
pub struct GrpcClient(Arc<Calls>);

/// What the clones of a client share.
pub(super) struct Calls {
    pub(super) http2: Arc<Http2<Erased>>,
    pub(super) place: Arc<Place>,
    /// Scheme and authority of all calls.
    pub(super) origin: Uri,
    pub(super) user_agent: HeaderValue,
    pub(super) timeout: Option<Duration>,
    /// Where calls wait, if their number is limited.
    pub(super) places: Option<Semaphore>,
}

impl<B> Service<Request<B>> for GrpcClient
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<HttpBody>;
    type Error = HttpError;
    type Future = GrpcFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> GrpcFuture {
        GrpcFuture {
            served: Some(Served::begin(&self.0.place)),
            answer: self.answer(request),
        }
    }
}

impl GrpcClient {
    fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let shared = &self.0;
        let limit = shared.limit(&request);
        if let Some(limit) = &limit
            && limit.by_caller
            && limit.time.is_zero()
        {
            return Box::pin(ready(Err(shared.expired())));
        }
        let (mut request, kept) = KeptCall::keep(request);
        if let Err(why) = shared.complete(&mut request) {
            let error = HttpError::invalid(Arc::clone(&shared.place), why);
            return Box::pin(ready(Err(error)));
        }
        let this = Arc::clone(shared);
        if limit.is_none() && shared.places.is_none() {
            return Box::pin(Sending {
                exchange: shared.http2.send(request),
                rest: Some((this, kept)),
                recovery: None,
            });
        }
        Box::pin(async move {
            let exchange = async {
                let _place = match &this.places {
                    Some(places) => places.acquire().await.ok(),
                    None => None,
                };
                if let Some(limit) = limit.as_ref().filter(|limit| limit.is_told) {
                    limit.tell(&mut request);
                }
                match this.http2.send(request).await {
                    Ok(answer) => Ok(answer),
                    Err(failure) => Box::pin(this.recover(failure, kept, limit)).await,
                }
            };
            let Some(limit) = limit else {
                return exchange.await;
            };
            match timeout_at(limit.end, exchange).await {
                // The server applies the same limit.
                Ok(Ok(answer)) if gave_up(&answer) && Instant::now() >= limit.end => {
                    Err(this.late(&limit))
                }
                Ok(result) => result,
                Err(_) => Err(this.late(&limit)),
            }
        })
    }

    pub(super) fn new(calls: Calls) -> Self {
        Self(Arc::new(calls))
    }
}

impl Calls {
    /// Sets the URI and headers that are sent.
    fn complete(&self, request: &mut Request<Erased>) -> Result<(), String> {
        let mut sent = self.origin.clone().into_parts();
        sent.path_and_query = mem::take(request.uri_mut()).into_parts().path_and_query;
        *request.uri_mut() =
            Uri::from_parts(sent).map_err(|why| format!("cannot complete the URI: {why}"))?;
        let headers = request.headers_mut();
        let agent = headers.insert(USER_AGENT, self.user_agent.clone());
        if let Some(agent) = &agent {
            headers.insert(USER_AGENT, joined(agent, &self.user_agent));
        }
        Ok(())
    }

    /// The time limit of a call, if it has one.
    fn limit<B>(&self, request: &Request<B>) -> Option<CallLimit> {
        let asked = grpc::read(request.headers());
        let deadline = request.extensions().get::<Deadline>();
        let remaining = deadline.map(|deadline| deadline.remaining());
        let callers = [asked, remaining].into_iter().flatten().min();
        let time = [callers, self.timeout].into_iter().flatten().min()?;
        Some(CallLimit {
            time,
            end: after(Instant::now(), time),
            by_caller: callers == Some(time),
            is_asked: asked.is_some(),
            // The header that the caller wrote is right if the call is sent at once.
            is_told: remaining.is_some() || (asked.is_some() && self.places.is_some()),
        })
    }

    /// Sends a call again after its connection had ended before the server processed it, or returns
    /// the error for the caller.
    #[cold]
    async fn recover<B>(
        &self,
        failure: Failure<Erased>,
        kept: KeptCall<B>,
        limit: Option<CallLimit>,
    ) -> Result<Response<HttpBody>, HttpError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let call = match self.after(failure, kept) {
            After::Again(call) => *call,
            After::Failed(error) => return Err(error),
        };
        // Once, on a new connection: a server that closes each connection would cause an endless
        // loop.
        let (mut request, kept) = KeptCall::keep(call);
        if let Err(why) = self.complete(&mut request) {
            return Err(HttpError::invalid(Arc::clone(&self.place), why));
        }
        if let Some(limit) = limit.filter(|limit| limit.is_told || limit.is_asked) {
            limit.tell(&mut request);
        }
        let failure = match self.http2.send(request).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        Err(match self.after(failure, kept) {
            After::Failed(error) => error,
            After::Again(call) => {
                let status = refused("the server closes each connection".into());
                HttpError::refused(Arc::clone(&self.place), status.into(), Some(*call))
            }
        })
    }

    /// What to do after a call failed.
    fn after<B>(&self, failure: Failure<Erased>, kept: KeptCall<B>) -> After<B>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let place = Arc::clone(&self.place);
        After::Failed(match failure {
            Failure::Unsent(error, unsent) => {
                drop(unsent);
                // tonic converts this error to `UNAVAILABLE`, and any other to `CANCELLED` or
                // `UNKNOWN`.
                HttpError::unsent(place, ConnectError(error).into(), kept.give_back())
            }
            Failure::TooLarge(error) => HttpError::too_large(place, exhausted(error).into()),
            Failure::Broke(error) => match refusal(&error) {
                None => HttpError::status(place, told(error)),
                Some(refusal) => match (refusal, kept.give_back()) {
                    (Refusal::Connection, Some(call)) => return After::Again(Box::new(call)),
                    (_, call) => HttpError::refused(place, refused(error.into()).into(), call),
                },
            },
        })
    }

    /// The error of a call that exceeded its time limit.
    #[cold]
    fn late(&self, limit: &CallLimit) -> HttpError {
        let text = format!("no answer within {:?}", limit.time);
        let mut status = Status::deadline_exceeded(text);
        if limit.by_caller {
            status.set_source(Arc::new(DeadlinePassed::InFlight));
        }
        HttpError::status(Arc::clone(&self.place), status)
    }

    /// The error of a call that came after its deadline.
    #[cold]
    fn expired(&self) -> HttpError {
        let mut status = Status::deadline_exceeded("the deadline had passed before the call");
        status.set_source(Arc::new(DeadlinePassed::BeforeCall));
        HttpError::status(Arc::clone(&self.place), status)
    }
}

/// Whether the head of an answer says that the server gave the call up: `DEADLINE_EXCEEDED`, or
/// `CANCELLED` as servers of tonic do.
fn gave_up<B>(answer: &Response<B>) -> bool {
    let status = answer.headers().get("grpc-status");
    status.is_some_and(|status| status == "1" || status == "4")
}

/// The time limit of a call.
#[derive(Clone, Copy)]
struct CallLimit {
    /// What remained of it when the call came.
    time: Duration,
    end: Instant,
    /// Whether the caller set it, and not this client.
    by_caller: bool,
    /// Whether the call came with a `grpc-timeout`.
    is_asked: bool,
    /// Whether the call gets a new `grpc-timeout` when it is sent for the first time.
    is_told: bool,
}

impl CallLimit {
    /// Writes the time that remains now into a call. For a call that is about to be sent.
    fn tell<B>(&self, request: &mut Request<B>) {
        let left = self.end.saturating_duration_since(Instant::now());
        let headers = request.headers_mut();
        headers.insert(grpc::TIMEOUT, grpc::write(left));
    }
}

/// What to do after a call failed.
enum After<B> {
    /// Send it again to the same server, over a new connection.
    Again(Box<Request<B>>),
    Failed(HttpError),
}

/// The status of a call that was sent and got no response.
fn told(error: hyper::Error) -> Status {
    let mut status = Status::from_error(error.into());
    if status.code() == Code::Unknown {
        // The connection broke, which is `UNAVAILABLE` in other gRPC clients.
        let told = mem::replace(&mut status, Status::unavailable("the connection broke"));
        status.set_source(Arc::new(told));
    }
    status
}

/// The status of a call that the server refused; other codes than this would say that the call may
/// have been processed.
fn refused(error: BoxError) -> Status {
    let mut status = Status::unavailable("the server refused the call unprocessed");
    status.set_source(Arc::from(error));
    status
}

/// Joins the names of a program and of the library that it uses.
pub(super) fn joined(program: &HeaderValue, library: &HeaderValue) -> HeaderValue {
    let joined = [program.as_bytes(), b" ", library.as_bytes()].concat();
    HeaderValue::from_bytes(&joined).expect("both are header values")
}

impl_debug!(GrpcClient: |this| place = this.0.place);

/// A call over gRPC that waits for the head of its response.
pub struct GrpcFuture {
    answer: Answer,
    /// Taken by the response.
    served: Option<Served>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<HttpBody>, HttpError>> + Send>>;

/// A call without a time limit.
///
/// It is not an `async` block, because a block stores a future that it captured and awaits twice.
#[pin_project]
struct Sending<F, B> {
    #[pin]
    exchange: F,
    /// `None` after the exchange has ended.
    rest: Option<(Arc<Calls>, KeptCall<B>)>,
    /// What follows a failure.
    recovery: Option<Answer>,
}

impl<F, B> Future for Sending<F, B>
where
    F: Future<Output = Result<Response<HttpBody>, Failure<Erased>>>,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<HttpBody>, HttpError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(recovery) = this.recovery {
            return recovery.as_mut().poll(cx);
        }
        let result = task::ready!(this.exchange.poll(cx));
        let (calls, kept) = this.rest.take().expect("not polled after it was done");
        match result {
            Ok(answer) => Poll::Ready(Ok(answer)),
            Err(failure) => {
                let recovery = async move { calls.recover(failure, kept, None).await };
                let recovery = this.recovery.insert(Box::pin(recovery));
                recovery.as_mut().poll(cx)
            }
        }
    }
}

impl Future for GrpcFuture {
    type Output = Result<Response<HttpBody>, HttpError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        Poll::Ready(match task::ready!(this.answer.as_mut().poll(cx)) {
            Ok(mut response) => {
                if let Some(served) = this.served.take() {
                    served.insert_into(&mut response);
                }
                Ok(response)
            }
            Err(error) => {
                classify::note(&error);
                Err(error)
            }
        })
    }
}

impl_debug!(GrpcFuture);
