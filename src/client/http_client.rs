//! The service of one endpoint over HTTP.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use tower::Service;

#[cfg(any(feature = "http2", feature = "tls"))]
use super::negotiated::Negotiated;
use super::{
    body::HttpBody,
    error::HttpError,
    http1::{Answering, Http1},
    served::Served,
    uri::Place,
};
use crate::{classify, error::BoxError};

/// Sends requests to one instance over HTTP. Cheap to clone; clones share the connections, which
/// close when the last clone is dropped and the last response has ended.
///
/// A connection that is upgraded (a response with status 101, or a successful `CONNECT`) belongs to the
/// caller from then on. It does not count as a request in flight, neither for the load of the endpoint nor
/// for the drain of a removed one, and it stays open when the endpoint is removed. The response of an
/// upgrade ends with its head, and hyper hands out the connection itself, so nothing of this crate sees
/// its end. A service with many long-lived websockets balances them by `RoundRobin` rather than by load.
/// Over HTTP/2, a `CONNECT` gets a connection of its own, which ends with its tunnel.
///
/// A URI without an authority gets the name of the service, or without TLS the address of the instance if
/// that name is not a valid authority.
///
/// The extensions of a response have a [`Served`].
///
/// # Errors
/// [`HttpError`]; if [`is_connect`](HttpError::is_connect) is true, the request was not sent, and
/// [`take_request`](HttpError::take_request) returns it. A request that the server refused over HTTP/2
/// was handed over already, so it is not returned. To send it again, put a retry around the client, which
/// keeps a copy.
pub struct HttpClient<B>(pub(super) Protocol<B>);

/// One or two machine words, because a balancer clones and moves it for each request.
pub(super) enum Protocol<B> {
    Http1(Arc<Http1<B>>),
    #[cfg(any(feature = "http2", feature = "tls"))]
    Negotiated(Arc<Negotiated<B>>),
}

impl<B> HttpClient<B> {
    fn place(&self) -> &Arc<Place> {
        match &self.0 {
            Protocol::Http1(transport) => &transport.place,
            #[cfg(any(feature = "http2", feature = "tls"))]
            Protocol::Negotiated(transport) => transport.place(),
        }
    }
}

impl<B> Service<Request<B>> for HttpClient<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<HttpBody>;
    type Error = HttpError;
    type Future = HttpFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> HttpFuture {
        let exchange = match &self.0 {
            Protocol::Http1(transport) => transport.send(request),
            #[cfg(any(feature = "http2", feature = "tls"))]
            Protocol::Negotiated(transport) => transport.send(request),
        };
        HttpFuture {
            exchange: exchange.map_err(Some),
            served: Some(Served::begin(self.place())),
        }
    }
}

impl<B> Clone for HttpClient<B> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Protocol::Http1(transport) => Protocol::Http1(Arc::clone(transport)),
            #[cfg(any(feature = "http2", feature = "tls"))]
            Protocol::Negotiated(transport) => Protocol::Negotiated(Arc::clone(transport)),
        })
    }
}

impl_debug!([B] HttpClient<B>: |this| place = this.place());

/// A request over HTTP that waits for the head of its response.
pub struct HttpFuture {
    /// The exchange, or the error of a request that cannot be sent, until it is returned.
    exchange: Result<Answering, Option<HttpError>>,
    /// Taken by the response.
    served: Option<Served>,
}

impl Future for HttpFuture {
    type Output = Result<Response<HttpBody>, HttpError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let result = match &mut this.exchange {
            Ok(answer) => ready!(answer.as_mut().poll(cx)),
            Err(error) => Err(error.take().expect("not polled after it was done")),
        };
        Poll::Ready(match result {
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

impl_debug!(HttpFuture);
