//! The way of a request through a router.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use http::{Request, Response};
use tower::Service;

use super::{
    clients::{Clients, is_unknown},
    error::RouterError,
    name::{Target, address, target},
    settings::Unknown,
};
use crate::{
    client::{
        http_service::{HttpService, HttpServiceFuture},
        response_body::ResponseBody,
    },
    error::BoxError,
};

/// A request that is given to the client of its service.
///
/// ```text
/// Waiting ──an endpoint──▶ Calling ──▶ response
///    └── no such service ──▶ refused, with the request
/// ```
pub(super) enum Route<B> {
    Calling(HttpServiceFuture),
    /// The service has no endpoint yet. Boxed, because this is rare and a request is large.
    Waiting(Box<Waiting<B>>),
    /// The result, until it is returned.
    Refused(Option<Refused<B>>),
}

pub(super) struct Waiting<B> {
    service: HttpService<B>,
    request: Request<B>,
}

/// Why a request was not given to a client.
pub(super) enum Refused<B> {
    /// It names no service of the registry.
    Unknown(Box<Request<B>>, RouterError),
    Failed(BoxError),
}

impl<B: 'static> Route<B> {
    /// Finds the client, and calls it if it is ready.
    #[inline]
    pub(super) fn begin(clients: &Arc<Clients<B>>, request: Request<B>) -> Self {
        let mut buffer = [0; 253];
        match target(request.uri(), &mut buffer) {
            Ok(Target::Service(name)) => {
                if let Some(mut seat) = clients.seat()
                    && let Some(service) = seat.get(name)
                {
                    return Self::call(service, request);
                }
                match clients.find(name) {
                    Ok(mut service) => Self::call(&mut service, request),
                    Err(error) => Self::failed(error),
                }
            }
            Ok(Target::Address(given)) => {
                let error = RouterError::address(given.to_string());
                Self::unknown(request, error)
            }
            Err(error) => Self::failed(error),
        }
    }

    /// Gives the request to the client if that is ready.
    #[inline]
    pub(super) fn call(service: &mut HttpService<B>, request: Request<B>) -> Self {
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self::Calling(service.call(request)),
            Poll::Ready(Err(error)) => Self::no_endpoint(service, request, error),
            Poll::Pending => {
                // The time of the wait has begun in the client that was polled, so that one waits on.
                let fresh = service.clone();
                let service = mem::replace(service, fresh);
                Self::Waiting(Box::new(Waiting { service, request }))
            }
        }
    }

    #[cold]
    fn no_endpoint(service: &HttpService<B>, request: Request<B>, error: BoxError) -> Self {
        if is_unknown(service) {
            let error = RouterError::unknown(service.service(), error);
            return Self::unknown(request, error);
        }
        Self::Refused(Some(Refused::Failed(error)))
    }

    #[cold]
    fn unknown(request: Request<B>, error: RouterError) -> Self {
        Self::Refused(Some(Refused::Unknown(Box::new(request), error)))
    }

    #[cold]
    fn failed(error: RouterError) -> Self {
        Self::Refused(Some(Refused::Failed(error.into())))
    }

    /// # Errors
    /// When the request was not given to a client.
    #[inline]
    #[expect(
        clippy::type_complexity,
        reason = "the result of a request, or the request"
    )]
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Result<Response<ResponseBody>, BoxError>, Refused<B>>> {
        loop {
            match self {
                Self::Calling(call) => return Pin::new(call).poll(cx).map(Ok),
                Self::Waiting(waiting) => {
                    let ready = ready!(waiting.service.poll_ready(cx));
                    let Self::Waiting(waiting) = mem::replace(self, Self::Refused(None)) else {
                        unreachable!("it was waiting a line above");
                    };
                    let Waiting {
                        mut service,
                        request,
                    } = *waiting;
                    *self = match ready {
                        Ok(()) => Self::Calling(service.call(request)),
                        Err(error) => Self::no_endpoint(&service, request, error),
                    };
                }
                Self::Refused(refused) => {
                    let refused = refused.take().expect("not polled after it was done");
                    return Poll::Ready(Err(refused));
                }
            }
        }
    }
}

/// A request of a [`Router`](super::Router) that waits for the head of its response.
#[must_use = "futures do nothing unless polled"]
pub struct RouterFuture<B> {
    route: Route<B>,
    /// For a request to go out of the registry; else it is not kept.
    outside: Option<Arc<Clients<B>>>,
}

impl<B: 'static> RouterFuture<B> {
    #[inline]
    pub(super) fn begin(clients: &Arc<Clients<B>>, request: Request<B>) -> Self {
        let route = Route::begin(clients, request);
        let called = matches!(route, Route::Calling(_));
        let asks = !called && clients.unknown() == Unknown::Dns;
        Self {
            route,
            outside: asks.then(|| Arc::clone(clients)),
        }
    }
}

impl<B: 'static> Future for RouterFuture<B> {
    type Output = Result<Response<ResponseBody>, BoxError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let refused = match ready!(self.route.poll(cx)) {
                Ok(result) => return Poll::Ready(result),
                Err(refused) => refused,
            };
            let (request, error) = match refused {
                Refused::Unknown(request, error) => (request, error),
                Refused::Failed(error) => return Poll::Ready(Err(error)),
            };
            let Some(clients) = self.outside.take() else {
                return Poll::Ready(Err(error.into()));
            };
            let found = clients.find_outside(&address(request.uri()));
            self.route = match found {
                Ok(mut service) => Route::call(&mut service, *request),
                Err(error) => return Poll::Ready(Err(error.into())),
            };
        }
    }
}

impl_debug!([B] RouterFuture<B>);
