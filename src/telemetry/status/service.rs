//! The page as a tower service: which request gets which response.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, request::Parts};
use http_body::Body;
use tokio::time::{Instant, sleep};
use tower::Service;

use super::{
    access,
    answer::{self, StatusFailure},
    body::{BoxFuture, EventStream, StatusBody},
    orders,
    select::Wanted,
    shared::StatusShared,
};
use crate::error::BoxError;

/// The longest query. The longest that the page sends has about 400 bytes.
const MAX_QUERY: usize = 2 << 10;

/// How long one event stream lasts. A browser then opens another. Arbitrary: it bounds what a connection
/// that is half dead holds.
const STREAM_LASTS: Duration = Duration::from_secs(600);

/// Serves a status page; see the [module](super). Cheap to clone.
#[derive(Clone)]
pub struct StatusService(Arc<StatusShared>);

impl StatusService {
    pub(super) fn new(shared: StatusShared) -> Self {
        Self(Arc::new(shared))
    }

    /// The response, or for an order the rest of the work.
    fn answer(&self, head: &Parts) -> Result<Asked, StatusFailure> {
        let settings = &self.0.settings;
        let path = head.uri.path().strip_prefix(&*settings.at);
        let (asked, allow) = match path {
            Some("" | "/") => (Path::Page, "GET, HEAD"),
            Some("/status.json") => (Path::Json, "GET, HEAD"),
            Some("/events") => (Path::Events, "GET"),
            Some("/orders") => (Path::Orders, "POST"),
            _ => {
                let message = "no such path: there are /, /status.json, /events and /orders";
                return Err(StatusFailure::new(StatusCode::NOT_FOUND, message));
            }
        };
        access::check_host(head, settings)?;
        if !allow.split(", ").any(|name| name == head.method.as_str()) {
            return Err(StatusFailure::method(allow));
        }
        let query = head.uri.query().unwrap_or_default();
        if query.len() > MAX_QUERY {
            let message = format!("the query is longer than {MAX_QUERY} bytes");
            return Err(StatusFailure::new(StatusCode::URI_TOO_LONG, message));
        }
        let has_body = head.method != Method::HEAD;
        Ok(match asked {
            Path::Page => Asked::Page,
            Path::Json | Path::Events => {
                access::check_site(head, settings)?;
                let wanted = Wanted::parse(query)?;
                match asked {
                    Path::Json => Asked::Json(wanted, has_body),
                    _ => Asked::Events(wanted),
                }
            }
            Path::Orders => {
                access::check_order(head, settings)?;
                if !query.is_empty() {
                    return Err(StatusFailure::bad("an order has no query"));
                }
                Asked::Order
            }
        })
    }

    fn events(&self, wanted: Wanted) -> Result<Response<StatusBody>, StatusFailure> {
        let slot = self.0.slots.open().ok_or_else(|| {
            StatusFailure::busy("too many pages follow the events: poll status.json instead")
        })?;
        let (shared, wanted) = (Arc::clone(&self.0), Arc::new(wanted));
        let event = move |delay: Option<Duration>| -> BoxFuture<Bytes> {
            let (shared, wanted) = (Arc::clone(&shared), Arc::clone(&wanted));
            Box::pin(async move {
                if let Some(delay) = delay {
                    sleep(delay).await;
                }
                let json = shared.status(&wanted).await;
                let mut event = Vec::with_capacity(json.len() + 40);
                event.extend_from_slice(b"event: status\ndata: ");
                // JSON of serde has no line breaks outside of its texts, and none within.
                event.extend_from_slice(&json);
                event.extend_from_slice(b"\n\n");
                event.into()
            })
        };
        let interval = self.0.settings.interval;
        let body = StatusBody::events(EventStream {
            slot,
            until: Instant::now() + STREAM_LASTS,
            next: event(None),
            make: Box::new(move || event(Some(interval))),
        });
        Ok(answer::with_headers("text/event-stream", body))
    }
}

#[derive(Clone, Copy)]
enum Path {
    Page,
    Json,
    Events,
    Orders,
}

/// A request that is understood and allowed.
enum Asked {
    Page,
    /// And whether the response has a body.
    Json(Wanted, bool),
    Events(Wanted),
    Order,
}

impl_debug!(StatusService: |this| settings = this.0.settings);

impl<B> Service<Request<B>> for StatusService
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<StatusBody>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        let service = self.clone();
        let asked = self.answer(&head);
        Box::pin(async move {
            let shared = &service.0;
            let response = match asked {
                Ok(Asked::Page) => Ok(answer::page(&shared.settings.title)),
                Ok(Asked::Json(_, false)) => Ok(answer::whole("application/json", Bytes::new())),
                Ok(Asked::Json(wanted, true)) => Ok(answer::whole(
                    "application/json",
                    shared.status(&wanted).await.into(),
                )),
                Ok(Asked::Events(wanted)) => service.events(wanted),
                Ok(Asked::Order) => orders::obey(shared, body).await,
                Err(failure) => Err(failure),
            };
            Ok(response.unwrap_or_else(StatusFailure::into_response))
        })
    }
}
