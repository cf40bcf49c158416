//! A response over HTTP/2 that ends before its end is no response.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use tower::Service;
use tower_roster::{
    RequestErrorKind, classify,
    client::{HttpClient, HttpEndpoints},
    discover::MakeEndpoint,
};

use crate::{
    frames::{CLOSE, DATA, END_STREAM, Frame, Frames, GOAWAY, RST_STREAM, head, trailers},
    scripted::at,
};

/// The end of a stream without an error.
fn reset() -> Frame {
    (RST_STREAM, 0, vec![0; 4])
}

async fn text(method: Method, answer: Vec<Frame>) -> Result<Bytes, String> {
    let server = Frames::start(move |_| answer.clone()).await;
    let mut endpoints = HttpEndpoints::<Empty<Bytes>>::new().http2();
    let mut client: HttpClient<_> = endpoints.make_endpoint(&at("a", server.addr)).unwrap();
    let request = Request::builder().method(method).uri("http://web/");
    let answer = client.call(request.body(Empty::new()).unwrap()).await;
    let answer = answer.map_err(|error| format!("head: {error}"))?;
    let body = answer.into_body().collect().await;
    let body = body.map_err(|error| format!("body: {error}"))?;
    assert_eq!(server.requests(), 1);
    Ok(body.to_bytes())
}

#[tokio::test]
async fn a_response_over_http2_that_is_reset_before_its_end_is_an_error() {
    let length = &[("content-length", "10")][..];
    let hello = |flags| (DATA, flags, b"hello".to_vec());
    for (what, answer) in [
        ("short", vec![head(0, length), hello(0), reset()]),
        ("short, no length", vec![head(0, &[]), hello(0), reset()]),
        ("nothing", vec![head(0, length), reset()]),
        ("ended too early", vec![head(0, length), hello(END_STREAM)]),
        (
            "trailers too early",
            vec![head(0, length), hello(0), trailers(&[("a", "b")])],
        ),
    ] {
        let text = text(Method::GET, answer).await;
        assert!(
            text.as_ref().is_err_and(|why| why.starts_with("body: ")),
            "{what}: {text:?}"
        );
    }
}

#[tokio::test]
async fn a_complete_response_over_http2_may_be_followed_by_a_reset() {
    let length = &[("content-length", "5")][..];
    let hello = |flags| (DATA, flags, b"hello".to_vec());
    for answer in [
        vec![head(0, length), hello(END_STREAM)],
        vec![head(0, length), hello(END_STREAM), reset()],
        vec![head(0, &[]), hello(END_STREAM), reset()],
        vec![head(0, &[]), hello(0), trailers(&[("a", "b")]), reset()],
        // All that was announced is here, and only the end is missing.
        vec![head(0, length), hello(0), reset()],
    ] {
        let read = text(Method::GET, answer.clone()).await;
        assert_eq!(read.as_deref(), Ok(&b"hello"[..]), "{answer:?}");
    }
    // The length of what a GET would bring.
    let read = text(Method::HEAD, vec![head(END_STREAM, length)]).await;
    assert_eq!(read.as_deref(), Ok(&b""[..]));
}

/// Asks a server that answers so, and returns its number of requests with the client's error.
async fn error(answer: Vec<Frame>) -> (usize, Box<dyn std::error::Error>) {
    let server = Frames::start(move |_| answer.clone()).await;
    let mut endpoints = HttpEndpoints::<Empty<Bytes>>::new().http2();
    let mut client: HttpClient<_> = endpoints.make_endpoint(&at("a", server.addr)).unwrap();
    let request = Request::post("http://web/").body(Empty::new()).unwrap();
    let error = match client.call(request).await {
        Ok(answer) => answer.into_body().collect().await.unwrap_err().into(),
        Err(error) => error.into(),
    };
    (server.requests(), error)
}

#[tokio::test]
async fn a_request_is_refused_only_before_its_response_begins() {
    let refused = || (RST_STREAM, 0, vec![0, 0, 0, 7]);
    let (_, before) = error(vec![refused()]).await;
    assert!(classify::is_unsent(&*before), "{before:?}");
    for answer in [
        vec![head(0, &[]), refused()],
        vec![head(0, &[]), (DATA, 0, b"hello".to_vec()), refused()],
    ] {
        let (requests, after) = error(answer).await;
        assert_eq!(requests, 1);
        assert!(!classify::is_unsent(&*after), "{after:?}");
        let kind = RequestErrorKind::of(&*after);
        assert_eq!(kind, RequestErrorKind::Connection, "{after:?}");
    }
}

#[tokio::test]
async fn a_request_that_a_closing_server_took_may_have_had_its_effect() {
    // Its last stream, then its reason.
    let goaway = |last| (GOAWAY, 0, vec![0, 0, 0, last, 0, 0, 0, 0]);
    let close = || (CLOSE, 0, Vec::new());
    let (requests, error) = error(vec![goaway(1), close()]).await;
    assert_eq!(requests, 1, "it must not be sent again");
    assert!(!classify::is_unsent(&*error), "{error:?}");
}
