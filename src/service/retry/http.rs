//! Retries of HTTP requests.

use std::{error::Error, sync::Arc};

use http::{Method, Request, request::Parts};
use http_body::Body;

use super::{
    reissue::{Hedgeable, Reissue},
    replay::{ReplayBody, Replayer},
};
use crate::{
    classify::{reclaim, returns},
    deadline::{Deadline, grpc},
};

/// As linkerd: enough for almost all calls of an API, and 64 MiB for a thousand of them at a time.
pub(crate) const LIMIT: usize = 64 * 1024;

/// Retries HTTP requests with an idempotent method and a body up to a limit.
///
/// The inner service gets an `http::Request<ReplayBody<B>>`. A request without a body costs a clone
/// of its head. A request with a body costs one more allocation, and the bytes that are read are
/// kept until the request is done. With [`reclaiming`](Self::reclaiming), a request that is not
/// idempotent costs neither.
///
/// # Examples
/// ```
/// use tower_roster::service::retry::Replay;
///
/// // An idempotency key makes any request of this API safe to repeat.
/// let replay = Replay::new()
///     .limit(16 * 1024)
///     .idempotent(|head| head.method.is_safe() || head.headers.contains_key("idempotency-key"));
/// ```
#[derive(Clone, Copy)]
pub struct Replay {
    limit: usize,
    idempotent: fn(&Parts) -> bool,
    reclaims: bool,
}

impl Replay {
    /// Retries requests that RFC 9110 calls idempotent, with a body of up to 64 KiB.
    pub const fn new() -> Self {
        Self {
            limit: LIMIT,
            idempotent: is_idempotent,
            reclaims: false,
        }
    }

    /// Keeps no copy of a request that is not idempotent. Such a request, when it was not sent, is
    /// retried only if its error [returns it](crate::classify::reclaim). The balancer and the gRPC
    /// endpoints of this crate return it, and this saves most of the cost of a retry. Over other
    /// services, such as tonic's `Channel`, such a request is retried only if their errors are
    /// [`Unsent`](crate::classify::Unsent) with the request.
    #[must_use]
    pub const fn reclaiming(mut self) -> Self {
        self.reclaims = true;
        self
    }

    /// Sets how many bytes of a body are kept; 64 KiB by default. A frame counts as at least 64
    /// bytes. With zero, a request with a body is retried only while nothing of the body was read,
    /// as after a failed connection. A high limit costs that much memory for each request in
    /// flight.
    #[must_use]
    pub const fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Sets which requests may be carried out twice; those with the methods GET, HEAD, OPTIONS,
    /// TRACE, PUT and DELETE by default.
    #[must_use]
    pub const fn idempotent(mut self, idempotent: fn(&Parts) -> bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// Prepares a request of which it is known whether it may be carried out twice.
    #[inline]
    pub(super) fn prepare_as<B: Body>(
        &self,
        idempotent: bool,
        head: Parts,
        body: B,
    ) -> (Request<ReplayBody<B>>, Option<HttpSpare<B>>) {
        if !idempotent && self.reclaims {
            let request = Request::from_parts(head, ReplayBody::once(body));
            return (request, Some(HttpSpare(HttpCopy::Returns)));
        }
        // Frames are kept also if the request is repeated only when it was not processed: an HTTP/2
        // server may refuse it after it has received the body.
        let (mut body, replayer) = ReplayBody::new(body, self.limit);
        let copy = Arc::new(head.clone());
        if idempotent {
            body = body.with_head(&copy);
        }
        let spare = HttpCopy::Copy {
            head: copy,
            replayer,
            idempotent,
        };
        (Request::from_parts(head, body), Some(HttpSpare(spare)))
    }
}

/// Whether the method is idempotent (RFC 9110, section 9.2.2).
fn is_idempotent(head: &Parts) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::PUT,
        Method::DELETE,
    ]
    .contains(&head.method)
}

impl<B: Body + 'static> Reissue<Request<B>> for Replay {
    type Request = Request<ReplayBody<B>>;
    type Spare = HttpSpare<B>;

    /// The [`Deadline`] in the extensions, or the `grpc-timeout` of a call, which is a POST.
    #[inline]
    fn deadline(&self, request: &Request<B>) -> Option<Deadline> {
        let given = request.extensions().get::<Deadline>().copied();
        if request.method() != Method::POST {
            return given;
        }
        let asked = grpc::read(request.headers()).map(Deadline::within);
        match (given, asked) {
            (Some(given), Some(asked)) => Some(given.min(asked)),
            (given, asked) => given.or(asked),
        }
    }

    fn set_deadline(&self, request: &mut Request<B>, deadline: Deadline) {
        request.extensions_mut().insert(deadline);
    }

    #[inline]
    fn prepare(&self, request: Request<B>) -> (Self::Request, Option<Self::Spare>) {
        let (head, body) = request.into_parts();
        let idempotent = (self.idempotent)(&head);
        self.prepare_as(idempotent, head, body)
    }

    fn is_idempotent(&self, spare: &Self::Spare) -> bool {
        spare.is_idempotent()
    }

    fn is_whole(&self, spare: &Self::Spare) -> bool {
        spare.is_whole()
    }

    fn supersede(&self, spare: &Self::Spare) {
        if let HttpCopy::Copy { replayer, .. } = &spare.0 {
            replayer.supersede();
        }
    }

    fn reissue(&self, spare: &Self::Spare) -> Option<Self::Request> {
        spare.reissue()
    }

    fn returns(&self, spare: &Self::Spare, error: &(dyn Error + 'static)) -> bool {
        matches!(spare.0, HttpCopy::Returns) && returns::<Self::Request>(error)
    }

    fn reclaim(&self, spare: &Self::Spare, error: &(dyn Error + 'static)) -> Option<Self::Request> {
        match spare.0 {
            HttpCopy::Copy { .. } => None,
            HttpCopy::Returns => reclaim(error),
        }
    }
}

impl Hedgeable for Replay {
    type Hedge = ShareReplay;

    fn hedge(&self) -> ShareReplay {
        ShareReplay::next_to_retry()
    }
}

/// Repeats requests that a [`Replay`] above has wrapped, without wrapping them twice.
///
/// For a hedge below a retry. By default it decides by the method, as `Replay` does.
#[derive(Clone, Copy)]
pub struct ShareReplay {
    /// `None` when no layer stands between the retry and this hedge. The retry has decided then,
    /// and its copy of the head is used.
    idempotent: Option<fn(&Parts) -> bool>,
}

impl ShareReplay {
    /// Repeats requests that RFC 9110 calls idempotent.
    pub const fn new() -> Self {
        Self {
            idempotent: Some(is_idempotent),
        }
    }

    /// For a hedge directly below the retry: it repeats what the retry treats as idempotent, from
    /// the same copy of the head.
    const fn next_to_retry() -> Self {
        Self { idempotent: None }
    }

    /// Sets which requests may be carried out twice, like [`Replay::idempotent`].
    #[must_use]
    pub const fn idempotent(mut self, idempotent: fn(&Parts) -> bool) -> Self {
        self.idempotent = Some(idempotent);
        self
    }
}

impl<B> Reissue<Request<ReplayBody<B>>> for ShareReplay {
    type Request = Request<ReplayBody<B>>;
    type Spare = HttpSpare<B>;

    #[inline]
    fn deadline(&self, request: &Request<ReplayBody<B>>) -> Option<Deadline> {
        request.extensions().get().copied()
    }

    #[inline]
    fn prepare(&self, request: Request<ReplayBody<B>>) -> (Self::Request, Option<Self::Spare>) {
        let Some(idempotent) = self.idempotent else {
            let body = request.body();
            let spare = body.head().zip(body.replayer());
            let spare = spare.map(|(head, replayer)| HttpCopy::Copy {
                head: Arc::clone(head),
                replayer,
                idempotent: true,
            });
            return (request, spare.map(HttpSpare));
        };
        let Some(replayer) = request.body().replayer() else {
            return (request, None);
        };
        let (head, body) = request.into_parts();
        // First, because a copy of the head costs more than the rest.
        if !idempotent(&head) {
            return (Request::from_parts(head, body), None);
        }
        let spare = HttpCopy::Copy {
            idempotent: true,
            head: Arc::new(head.clone()),
            replayer,
        };
        (Request::from_parts(head, body), Some(HttpSpare(spare)))
    }

    fn is_idempotent(&self, spare: &Self::Spare) -> bool {
        spare.is_idempotent()
    }

    fn is_whole(&self, spare: &Self::Spare) -> bool {
        spare.is_whole()
    }

    fn reissue(&self, spare: &Self::Spare) -> Option<Self::Request> {
        spare.reissue()
    }
}

/// What later attempts of an HTTP request are made from.
pub struct HttpSpare<B>(HttpCopy<B>);

enum HttpCopy<B> {
    Copy {
        /// Shared, so that layers move a pointer only.
        head: Arc<Parts>,
        replayer: Replayer<B>,
        idempotent: bool,
    },
    /// No copy: the request itself is used, if its error returns it.
    Returns,
}

impl<B> HttpSpare<B> {
    fn is_idempotent(&self) -> bool {
        matches!(
            self.0,
            HttpCopy::Copy {
                idempotent: true,
                ..
            }
        )
    }

    fn is_whole(&self) -> bool {
        match &self.0 {
            HttpCopy::Copy { replayer, .. } => replayer.is_whole(),
            HttpCopy::Returns => false,
        }
    }

    fn reissue(&self) -> Option<Request<ReplayBody<B>>> {
        let HttpCopy::Copy {
            head,
            replayer,
            idempotent,
        } = &self.0
        else {
            return None;
        };
        replayer.is_whole().then(|| {
            let mut body = replayer.copy();
            if *idempotent {
                body = body.with_head(head);
            }
            Request::from_parts(Parts::clone(head), body)
        })
    }
}

impl Default for Replay {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for ShareReplay {
    fn default() -> Self {
        Self::new()
    }
}

impl_debug!(Replay: |this| limit = this.limit);

impl_debug!(ShareReplay);

impl_debug!([B] HttpSpare<B>: |this| is_idempotent = this.is_idempotent());

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Empty;

    use super::*;

    fn head<B>(spare: &HttpSpare<B>) -> &Arc<Parts> {
        match &spare.0 {
            HttpCopy::Copy { head, .. } => head,
            HttpCopy::Returns => panic!("nothing was kept"),
        }
    }

    #[test]
    fn a_hedge_next_to_its_retry_takes_as_idempotent_what_that_does() {
        for (idempotent, reclaims) in [(false, false), (false, true), (true, false)] {
            let mut retry = Replay::new().idempotent(if idempotent { |_| true } else { |_| false });
            if reclaims {
                retry = retry.reclaiming();
            }
            let request = Request::get("/").body(Empty::<Bytes>::new());
            let (sent, _) = retry.prepare(request.expect("a valid request"));
            let (_, spare) = ShareReplay::next_to_retry().prepare(sent);
            assert_eq!(spare.is_some(), idempotent);
        }
    }

    #[test]
    fn a_hedge_repeats_what_came_to_it_whatever_was_between() {
        let (mut sent, _) = Replay::new().prepare(Request::new(Empty::<Bytes>::new()));
        sent.headers_mut().insert("x-between", 1.into());
        let (_, spare) = ShareReplay::new().prepare(sent);
        let again = spare.and_then(|spare| spare.reissue());
        assert!(
            again
                .expect("it is whole")
                .headers()
                .contains_key("x-between")
        );
    }

    #[test]
    fn a_hedge_next_to_its_retry_needs_no_copy_of_its_own() {
        let request = Request::put("http://web/users/1").body(Empty::<Bytes>::new());
        let (first, above) = Replay::new().prepare(request.expect("a valid request"));
        let above = above.expect("it can be repeated");
        for sent in [Some(first), above.reissue()] {
            let hedge = ShareReplay::next_to_retry();
            let (_, spare) = hedge.prepare(sent.expect("it is whole"));
            let spare = spare.expect("it can be repeated");
            assert!(Arc::ptr_eq(head(&spare), head(&above)));
            let again = spare.reissue().expect("it is whole");
            assert_eq!(
                (again.method(), again.uri().path()),
                (&Method::PUT, "/users/1")
            );
        }
    }
}
