//! Requests to one endpoint over TLS or HTTP/2, through hyper-util's client.
//!
//! hyper-util's client drops a request when it cannot connect. So the head of the request is copied
//! before, and the body is kept in a slot from which it can be taken back. This is done only when
//! there may be no connection for the request: when as many requests wait as connections are open,
//! or when the last attempt to connect failed. So most requests of a busy client do not have this
//! cost. A request may be lost if its connection closes at the same moment, or if the long body of
//! another response still occupies it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use http::{Request, Version};
use http_body::Body;
use hyper_util::client::legacy;

use super::{
    error::HttpError,
    http1::Answer,
    kept::{Kept, KeptBody},
    uri::Place,
};
use crate::{
    connect::{Connector, Links},
    error::BoxError,
};

type Client<B> = legacy::Client<Connector, KeptBody<B>>;

/// What the clones of a client share.
pub(super) struct Negotiated<B> {
    client: Client<B>,
    place: Arc<Place>,
    links: Arc<Links>,
    /// Requests whose response has not begun. Relaxed: a hint that publishes no other memory.
    waiting: AtomicUsize,
    /// Whether one connection carries all requests.
    shared: bool,
}

impl<B> Negotiated<B> {
    pub(super) fn new(
        client: Client<B>,
        place: Arc<Place>,
        links: Arc<Links>,
        shared: bool,
    ) -> Self {
        Self {
            client,
            place,
            links,
            waiting: AtomicUsize::new(0),
            shared,
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Whether one more request may have to wait for a connection, and so may fail without one.
    fn may_connect(&self, waiting: usize) -> bool {
        let open = self.links.open();
        let enough = if self.shared {
            open > 0
        } else {
            open > waiting
        };
        !enough || self.links.is_failing()
    }
}

impl<B> Negotiated<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    pub(super) fn send(self: &Arc<Self>, request: Request<B>) -> Result<Answer, HttpError> {
        let waiting = self.waiting.fetch_add(1, Relaxed);
        let this = Waiting(Arc::clone(self));
        // Before it is completed for this endpoint, because another endpoint may complete it
        // differently.
        let (mut request, kept) = if self.may_connect(waiting) {
            let (request, kept) = Kept::keep(request);
            (request, Some(Box::new(kept)))
        } else {
            (Kept::pass(request), None)
        };
        let uri = self.place.complete(std::mem::take(request.uri_mut()));
        *request.uri_mut() = uri.map_err(|why| HttpError::invalid(this.place(), why))?;
        // The version is a property of the connection: a request that came in over HTTP/2 may
        // continue over HTTP/1, and vice versa.
        *request.version_mut() = Version::HTTP_11;
        let exchange = self.client.request(request);
        Ok(Box::pin(async move {
            let result = exchange.await;
            let request = || kept.and_then(|kept| kept.give_back());
            result.map_err(|error| HttpError::exchange(this.place(), error, request))
        }))
    }
}

/// Counts a request that waits for its response.
struct Waiting<B>(Arc<Negotiated<B>>);

impl<B> Waiting<B> {
    fn place(&self) -> Arc<Place> {
        Arc::clone(&self.0.place)
    }
}

impl<B> Drop for Waiting<B> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}
