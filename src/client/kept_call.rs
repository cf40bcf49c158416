//! A call over gRPC that can be given back after it was sent, because the server refused it.
//!
//! A server may refuse a stream after it has received the head and messages of it. hyper has dropped
//! the head by then, and has read the body. So the head is copied, and the frames that are read are
//! kept, until the response begins.
//!
//! The request that is given back must have the type of body that the caller used. The body itself
//! is given back if nothing of it was read. Otherwise it is made of the kept frames and the rest,
//! which is possible for the bodies of tonic, and for those with a `ReplayBody` around them.

use std::{any::Any, mem};

use bytes::Bytes;
use http::{Extensions, HeaderName, HeaderValue, Method, Request, Uri, Version, request::Parts};
use http_body::Body;
use tonic::body::Body as TonicBody;

use super::erased::{Erased, KeptBody, Rewound, Taken};
use crate::{error::BoxError, service::retry::ReplayBody};

/// What is needed to give a call back.
pub(super) struct KeptCall<B> {
    head: Head,
    body: CallBody<B>,
}

/// A copy of the head. The fields are in a list, because a copy of their map allocates twice and
/// copies its index, and hardly any call comes back.
struct Head {
    method: Method,
    uri: Uri,
    version: Version,
    extensions: Extensions,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Head {
    fn copy(head: &Parts, extensions: Extensions) -> Self {
        let mut fields = Vec::with_capacity(head.headers.len());
        let all = head.headers.iter();
        fields.extend(all.map(|(name, value)| (name.clone(), value.clone())));
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            extensions,
            fields,
        }
    }

    fn request<B>(self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.extensions_mut() = self.extensions;
        let headers = request.headers_mut();
        headers.reserve(self.fields.len());
        for (name, value) in self.fields {
            headers.append(name, value);
        }
        request
    }
}

enum CallBody<B> {
    /// It has no data.
    Here(B),
    Sent(KeptBody<B>),
}

impl<B> KeptCall<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn keep(request: Request<B>) -> (Request<Erased>, Self) {
        let (mut head, body) = request.into_parts();
        // Extensions are for the caller's own services; below is only hyper, which reads one of a
        // CONNECT request. A copy of them takes as long as a copy of all headers.
        let extensions = mem::take(&mut head.extensions);
        if head.method == Method::CONNECT {
            head.extensions = extensions.clone();
        }
        let kept = Head::copy(&head, extensions);
        let (sent, body) = if body.is_end_stream() {
            (Erased::empty(), CallBody::Here(body))
        } else {
            let (sent, kept) = Erased::keep(body);
            (sent, CallBody::Sent(kept))
        };
        let kept = Self { head: kept, body };
        (Request::from_parts(head, sent), kept)
    }

    /// Returns the call as it was; `None` when its body cannot be restored. Only for a call that was
    /// not processed.
    pub(super) fn give_back(self) -> Option<Request<B>> {
        let body = match self.body {
            CallBody::Here(body) => body,
            // A task of hyper's may still read it.
            CallBody::Sent(kept) => match kept.take()? {
                Taken::Unread(body) => body,
                Taken::Read(rewound) => made_of(rewound)?,
            },
        };
        Some(self.head.request(body))
    }
}

/// Makes a body of the type that the caller used, if that type is known.
fn made_of<B>(rewound: Rewound<B>) -> Option<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let mut body: Option<B> = None;
    let place: &mut dyn Any = &mut body;
    if let Some(place) = place.downcast_mut::<Option<TonicBody>>() {
        *place = Some(TonicBody::new(rewound));
    } else if let Some(place) = place.downcast_mut::<Option<ReplayBody<TonicBody>>>() {
        *place = Some(ReplayBody::once(TonicBody::new(rewound)));
    }
    body
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::service::retry::LIMIT;

    fn request<B>(body: B) -> Request<B> {
        let request = Request::post("http://greeter/Greet");
        let request = request
            .header("user-agent", "one")
            .header("user-agent", "two");
        request
            .extension(42_u8)
            .body(body)
            .expect("a valid request")
    }

    fn full() -> Full<Bytes> {
        Full::new(Bytes::from_static(b"data"))
    }

    #[tokio::test]
    async fn a_call_comes_back_as_it_was_after_its_body_was_read() {
        for read in [false, true] {
            let (sent, kept) = KeptCall::keep(request(TonicBody::new(full())));
            assert!(sent.extensions().is_empty());
            let mut body = sent.into_body();
            if read {
                assert!(body.frame().await.is_some());
            }
            let back = kept.give_back().expect("a body of tonic's");
            assert_eq!(back.uri(), "http://greeter/Greet");
            let agents = back.headers().get_all("user-agent");
            assert!(agents.iter().eq(["one", "two"]));
            assert_eq!(back.extensions().get(), Some(&42_u8));
            let data = back.into_body().collect().await.expect("it is whole");
            assert_eq!(data.to_bytes(), "data");
            if !read {
                let frame = body.frame().await.expect("not an end");
                assert!(frame.is_err(), "the body is sent by the other request");
            }
        }
    }

    #[tokio::test]
    async fn a_body_around_which_a_retry_stands_comes_back_too() {
        let body = ReplayBody::once(TonicBody::new(full()));
        let (sent, kept) = KeptCall::keep(request(body));
        assert!(sent.into_body().frame().await.is_some());
        let back = kept.give_back().expect("its type is known");
        let data = back.into_body().collect().await.expect("it is whole");
        assert_eq!(data.to_bytes(), "data");
    }

    #[tokio::test]
    async fn a_body_of_another_type_comes_back_only_unread() {
        let (sent, kept) = KeptCall::keep(request(full()));
        drop(sent);
        assert!(kept.give_back().is_some());
        let (sent, kept) = KeptCall::keep(request(full()));
        assert!(sent.into_body().frame().await.is_some());
        assert!(kept.give_back().is_none());
        let (sent, kept) = KeptCall::keep(request(Full::<Bytes>::default()));
        assert!(sent.into_body().is_end_stream());
        assert!(kept.give_back().is_some(), "it has no data");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_does_not_come_back() {
        let body = Full::new(Bytes::from(vec![1; LIMIT + 1]));
        let (sent, kept) = KeptCall::keep(request(TonicBody::new(body)));
        let mut body = sent.into_body();
        assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
        assert!(kept.give_back().is_none());
    }
}
