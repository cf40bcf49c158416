//! Requests to one endpoint over TLS or over HTTP/2.
//!
//! The certificate of a server is verified against the host of the URI, so requests with different
//! hosts do not share connections. Nearly all requests name the service; the connections for other
//! names are found by that name.
//!
//! If the client offers both versions of HTTP, the server chooses one in the TLS handshake. Requests
//! are sent with the version that was chosen last. If the server chooses the other one for a new
//! connection, the error of the request contains that connection and the request, which then goes
//! out on it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};
#[cfg(feature = "http2")]
use std::{
    mem,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use http::{Request, Uri};
use http_body::Body;

#[cfg(all(feature = "http2", feature = "tls"))]
use super::error::OtherVersion;
#[cfg(feature = "http2")]
use super::http2::{Failure, Http2};
use super::{
    error::HttpError,
    http1::{Answering, Http1},
    uri::Place,
};
#[cfg(feature = "http2")]
use crate::classify::is_refused;
use crate::{error::BoxError, sync::lock};

/// For how many names besides that of the service connections are kept. Arbitrary: a client that uses
/// more names connects more often.
const NAMES: usize = 16;

/// What the clones of a client share.
pub(super) struct Negotiated<B> {
    place: Arc<Place>,
    /// Makes the connections for a name.
    make: Box<Make<B>>,
    /// The connections for requests that name the service.
    own: Arc<Lines<B>>,
    /// Those for other names, the latest at the end. Locked for a moment, and only by requests with
    /// such a name.
    others: Mutex<VecDeque<NamedLines<B>>>,
}

type Make<B> = dyn Fn(Option<&str>) -> Lines<B> + Send + Sync;

type NamedLines<B> = (Box<str>, Arc<Lines<B>>);

/// The connections for one name.
pub(super) struct Lines<B> {
    pub(super) http1: Arc<Http1<B>>,
    #[cfg(feature = "http2")]
    pub(super) http2: Arc<Http2<B>>,
    /// Whether HTTP/2 was chosen last. Relaxed: a hint that publishes no other memory.
    #[cfg(feature = "http2")]
    pub(super) is_http2: AtomicBool,
    /// Whether the server chooses the version.
    #[cfg(all(feature = "http2", feature = "tls"))]
    pub(super) negotiates: bool,
}

impl<B> Negotiated<B> {
    /// `make` makes the connections for a name, `None` for that of the service.
    pub(super) fn new(
        place: Arc<Place>,
        make: impl Fn(Option<&str>) -> Lines<B> + Send + Sync + 'static,
    ) -> Self {
        Self {
            place,
            own: Arc::new(make(None)),
            make: Box::new(make),
            others: Mutex::default(),
        }
    }

    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// The connections for requests with this URI.
    fn lines(&self, uri: &Uri) -> Arc<Lines<B>> {
        let name = match uri.host() {
            Some(name) if !self.place.serves(name) => name,
            _ => return Arc::clone(&self.own),
        };
        let mut others = lock(&self.others);
        if let Some((_, lines)) = others.iter().find(|(known, _)| **known == *name) {
            return Arc::clone(lines);
        }
        let lines = Arc::new((self.make)(Some(name)));
        others.push_back((name.into(), Arc::clone(&lines)));
        let old = (others.len() > NAMES).then(|| others.pop_front());
        // The lock is released first, because dropping connections wakes tasks.
        drop(others);
        drop(old);
        lines
    }
}

impl<B> Negotiated<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Sends a request, at once if there is a connection for it.
    pub(super) fn send(&self, request: Request<B>) -> Result<Answering, HttpError> {
        if let Err(message) = self.place.check(request.uri()) {
            return Err(HttpError::invalid(Arc::clone(&self.place), message));
        }
        let lines = self.lines(request.uri());
        #[cfg(all(feature = "http2", feature = "tls"))]
        if lines.negotiates {
            return lines.send_and_follow(&self.place, request);
        }
        #[cfg(feature = "http2")]
        if lines.is_http2.load(Relaxed) {
            return lines.send_http2(&self.place, request);
        }
        lines.http1.send(request)
    }
}

#[cfg(feature = "http2")]
impl<B> Lines<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn send_http2(
        &self,
        place: &Arc<Place>,
        mut request: Request<B>,
    ) -> Result<Answering, HttpError> {
        let place = Arc::clone(place);
        let uri = mem::take(request.uri_mut());
        match place.complete(uri.clone()) {
            Ok(complete) => *request.uri_mut() = complete,
            Err(why) => return Err(HttpError::invalid(place, why)),
        }
        // The version is a property of the connection: a request that came in over HTTP/1 may
        // continue over HTTP/2.
        let version = mem::replace(request.version_mut(), http::Version::HTTP_2);
        let sent = self.http2.send(request);
        Ok(Box::pin(async move {
            sent.await.map_err(|failure| match failure {
                Failure::Unsent(error, mut request) => {
                    *request.uri_mut() = uri;
                    *request.version_mut() = version;
                    HttpError::unsent(place, error, *request)
                }
                Failure::Broke(error) if is_refused(&error) => {
                    HttpError::refused::<B>(place, error.into(), None)
                }
                Failure::Broke(error) => HttpError::broke(place, error),
                Failure::TooLarge(error) => HttpError::too_large(place, error.into()),
            })
        }))
    }
}

#[cfg(all(feature = "http2", feature = "tls"))]
impl<B> Lines<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Sends a request, and once more if the server chooses the other version.
    fn send_and_follow(
        self: Arc<Self>,
        place: &Arc<Place>,
        request: Request<B>,
    ) -> Result<Answering, HttpError> {
        let (sent, is_http2) = self.send(place, request)?;
        let place = Arc::clone(place);
        Ok(Box::pin(async move {
            let mut error = match sent.await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let Some(io) = OtherVersion::find(&error) else {
                return Err(error);
            };
            self.is_http2.store(!is_http2, Relaxed);
            // Others that waited for the same connection may have taken it.
            match io {
                Some(io) if is_http2 => self.http1.adopt(io).await,
                Some(io) => self.http2.adopt(io).await,
                None => {}
            }
            let Some(request) = error.take_request() else {
                return Err(error);
            };
            let (sent, _) = self.send(&place, request)?;
            sent.await
        }))
    }

    /// Also returns whether it is sent over HTTP/2.
    fn send(
        &self,
        place: &Arc<Place>,
        request: Request<B>,
    ) -> Result<(Answering, bool), HttpError> {
        let is_http2 = self.is_http2.load(Relaxed);
        let sent = if is_http2 {
            self.send_http2(place, request)?
        } else {
            self.http1.send(request)?
        };
        Ok((sent, is_http2))
    }
}
