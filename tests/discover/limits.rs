//! Responses that exceed a limit of the client: large ones pass, and what is too large is told.

use std::{convert::Infallible, error::Error as _, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};
use tower::{Service, ServiceExt};
use tower_roster::{
    Registry,
    balance::EndpointState,
    classify,
    client::{HttpClient, HttpEndpoints, HttpError, Stack},
    discover::MakeEndpoint,
    registry::fixed::Fixed,
    service::retry::ReplayBody,
};

use crate::{raw::Raw, scripted::at};

type Body = Empty<Bytes>;

/// An answer with so many fields, each of so many bytes.
fn answer(fields: usize, bytes: usize) -> String {
    let mut text = String::from("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n");
    for n in 0..fields {
        text += &format!("x-{n:05}: {:0bytes$}\r\n", 0);
    }
    text + "\r\nok"
}

fn client(server: &Raw, mut endpoints: HttpEndpoints<Body>) -> HttpClient<Body> {
    endpoints.make_endpoint(&at("a", server.addr)).unwrap()
}

async fn call(client: &mut HttpClient<Body>) -> Result<usize, HttpError> {
    let request = Request::get("http://web/").body(Empty::new()).unwrap();
    Ok(client.call(request).await?.headers().len())
}

fn is_told(error: &HttpError, limit: &str) {
    assert!(error.is_too_large() && !error.is_connect(), "{error:?}");
    assert!(classify::is_over_limit(error), "{error:?}");
    let source = error.source().unwrap().to_string();
    assert!(source.contains(limit), "{source}");
}

#[tokio::test]
async fn a_response_with_many_or_long_fields_passes() {
    for (fields, bytes) in [(400, 10), (200, 1_000), (1, 60_000)] {
        let server = Raw::start(move |_| (answer(fields, bytes), false)).await;
        let mut client = client(&server, HttpEndpoints::new());
        assert_eq!(call(&mut client).await.unwrap(), fields + 1);
    }
}

/// Over HTTP/1, a connection begins with hyper's limit of 100 fields, and the head of such a response
/// is read by a second one.
#[tokio::test]
async fn a_response_with_many_fields_is_read_whole_and_asked_for_once() {
    let long = "0123456789".repeat(100_000);
    let body = long.clone();
    let server = Raw::start(move |head| {
        let mut answer = answer(400, 10);
        if head.contains("POST ") {
            answer = answer.replace("content-length: 2", "content-length: 1000000");
            answer.truncate(answer.len() - 2);
            answer += &body;
        } else if head.contains("PUT ") {
            answer = answer.replace("content-length: 2", "transfer-encoding: chunked");
            answer.truncate(answer.len() - 2);
            answer += "3\r\nabc\r\n0\r\n\r\n";
        } else if head.contains("HEAD ") {
            answer.truncate(answer.len() - 2);
        }
        (answer, false)
    })
    .await;
    for (method, text) in [
        (Method::POST, &*long),
        (Method::PUT, "abc"),
        (Method::HEAD, ""),
        (Method::GET, "ok"),
    ] {
        let (opened, requests) = (server.opened(), server.requests());
        let mut client: HttpClient<Full<Bytes>> = HttpEndpoints::new()
            .make_endpoint(&at("a", server.addr))
            .unwrap();
        for n in 1..=3 {
            let body = Full::new(Bytes::from_static(b"data"));
            let request = Request::builder().method(&method).uri("http://web/");
            let answer = client.call(request.body(body).unwrap()).await.unwrap();
            assert_eq!(answer.headers().len(), 401);
            let body = answer.into_body().collect().await.unwrap();
            assert!(body.to_bytes() == text, "{method}");
            assert_eq!(server.requests() - requests, n, "{method}");
            // The second connection has the full limit, so it goes on.
            assert_eq!(server.opened() - opened, n.min(2), "{method}");
        }
        drop(client);
        while server.open() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn an_upgrade_may_have_many_fields() {
    let server = Raw::start(|head| {
        let many = answer(400, 10);
        match head.contains("upgrade: echo") {
            true => (
                many.replace("200 OK\r\ncontent-length: 2", "101 Switching"),
                true,
            ),
            false => (many, false),
        }
    })
    .await;
    let mut client = client(&server, HttpEndpoints::new());
    for asked_before in [false, true] {
        if asked_before {
            assert_eq!(call(&mut client).await.unwrap(), 401);
        }
        let request = Request::get("http://web/").header("upgrade", "echo");
        let answer = client.call(request.body(Empty::new()).unwrap()).await;
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.headers().len()),
            (101, 400)
        );
        assert!(hyper::upgrade::on(answer).await.is_ok());
    }
}

#[tokio::test]
async fn a_caller_that_gives_up_while_many_fields_come_closes_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let endpoint = HttpEndpoints::new().make_endpoint(&at("a", addr));
    let mut client: HttpClient<Body> = endpoint.unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut got).await.unwrap();
        }
        let answer = answer(400, 10);
        stream.write_all(&answer.as_bytes()[..6_000]).await.unwrap();
        assert_eq!(stream.read_to_end(&mut got).await.unwrap(), 0);
    };
    let time = Duration::from_millis(50);
    let (given_up, ()) = tokio::join!(timeout(time, call(&mut client)), server);
    assert!(given_up.is_err());
}

/// A server that reads the head of each request and no more, and then answers with so many fields and
/// a body that lacks its last byte. If it breaks, it is closed at once, which resets it, as there is more to
/// read.
async fn early(fields: usize, breaks: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut got = Vec::new();
            while !got.windows(4).any(|end| end == b"\r\n\r\n") {
                stream.read_buf(&mut got).await.unwrap();
            }
            let mut answer = answer(fields, 10);
            if !breaks {
                answer.pop();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            if !breaks {
                held.push(stream);
            }
        }
    });
    addr
}

/// As large as no buffer of a socket.
fn large() -> Full<Bytes> {
    Full::new(Bytes::from(vec![0; 64 << 20]))
}

/// It begins, and does not end.
fn endless() -> impl http_body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static {
    let data = Frame::data(Bytes::from(vec![0; 1 << 10]));
    StreamBody::new(stream::iter([Ok(data)]).chain(stream::pending()))
}

#[tokio::test]
async fn a_response_with_many_fields_that_comes_before_the_end_of_the_upload_does_not_wait_for_it()
{
    async fn check<B>(what: &str, body: impl Fn() -> B)
    where
        B: http_body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
    {
        let addr = early(400, false).await;
        let endpoint = HttpEndpoints::new().make_endpoint(&at("a", addr));
        let mut client: HttpClient<B> = endpoint.unwrap();
        let mut call = async || {
            let request = Request::post("http://web/").body(body()).unwrap();
            let answer = timeout(Duration::from_secs(10), client.call(request)).await;
            answer.expect(what)
        };
        let error = call().await.expect_err(what);
        is_told(&error, "512 (max_header_fields)");
        // The next connection has the full limit, and goes on with the upload.
        let answer = call().await.expect(what);
        assert_eq!(answer.headers().len(), 401, "{what}");
    }
    check("it is in the buffer of hyper", large).await;
    check("it never ends", endless).await;
}

#[tokio::test]
async fn a_response_with_many_fields_is_read_even_if_its_connection_breaks_during_the_upload() {
    let addr = early(150, true).await;
    let mut endpoints = HttpEndpoints::new();
    let mut client: HttpClient<Full<Bytes>> = endpoints.make_endpoint(&at("a", addr)).unwrap();
    let request = Request::post("http://web/").body(large()).unwrap();
    let answer = client.call(request).await.unwrap();
    assert_eq!(answer.headers().len(), 151);
    let body = answer.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "ok");
}

#[tokio::test]
async fn the_error_of_a_response_that_is_too_large_names_the_limit() {
    let server = Raw::start(|_| (answer(400, 1_000), false)).await;
    // hyper does not tell which limit it was, so the message states both with their values.
    let (fields, default) = ("512 fields (max_header_fields)", 256 << 10);
    for (endpoints, fields, size) in [
        (HttpEndpoints::new(), fields, default),
        (HttpEndpoints::new().max_header_size(4_096), fields, 4_096),
        (
            HttpEndpoints::new()
                .max_header_size(1 << 20)
                .max_header_fields(300),
            "300 fields (max_header_fields)",
            1 << 20,
        ),
    ] {
        let error = call(&mut client(&server, endpoints)).await.unwrap_err();
        is_told(&error, fields);
        is_told(&error, &format!("{size} bytes (max_header_size)"));
    }
    let endpoints = HttpEndpoints::new().max_header_size(1 << 20);
    assert_eq!(call(&mut client(&server, endpoints)).await.unwrap(), 401);
}

#[tokio::test]
async fn no_number_of_fields_is_too_large_to_be_set() {
    let server = Raw::start(|_| (answer(30_000, 1), false)).await;
    let endpoints = || HttpEndpoints::new().max_header_size(1 << 24);
    let mut client = client(&server, endpoints().max_header_fields(usize::MAX));
    is_told(&call(&mut client).await.unwrap_err(), "16384 fields");
    let server = Raw::start(|_| (answer(16_000, 1), false)).await;
    let mut client = self::client(&server, endpoints().max_header_fields(usize::MAX));
    assert_eq!(call(&mut client).await.unwrap(), 16_001);
}

#[tokio::test]
async fn what_is_too_large_is_not_tried_again_and_not_held_against_the_endpoint() {
    let server = Raw::start(|_| (answer(600, 10), false)).await;
    let listed = [(server.addr.try_into().unwrap(), 1.into())];
    let discover = Registry::new(Fixed::new(listed)).watch("web").unwrap();
    let endpoints = HttpEndpoints::<ReplayBody<Body>>::new();
    let built = Stack::http().build(discover.discover(endpoints)).unwrap();
    for n in 1..=20 {
        let request = Request::get("http://web/").body(Body::new()).unwrap();
        let error = built.service.clone().oneshot(request).await.unwrap_err();
        assert!(classify::is_over_limit(&*error), "{error:?}");
        assert_eq!(server.requests(), n, "one attempt for each");
    }
    let endpoints = built.handles.balance.endpoints().await.unwrap();
    let states: Vec<_> = endpoints.iter().map(|endpoint| endpoint.state).collect();
    assert_eq!(states, [EndpointState::Active]);
}

#[cfg(feature = "http2")]
mod http2 {
    use super::*;
    use crate::frames::{END_STREAM, Frames, head, trailers};

    /// As the limit counts it, each takes 54 bytes.
    const FIELD: (&str, &str) = ("ab", "01234567890123456789");

    #[tokio::test]
    async fn a_large_head_passes_and_one_that_is_too_large_is_told() {
        let server = Frames::start(|_| vec![head(END_STREAM, &[FIELD; 400])]).await;
        for (limit, passes) in [(None, true), (Some(22_000), true), (Some(8_000), false)] {
            let mut endpoints = HttpEndpoints::<Body>::new().http2();
            if let Some(limit) = limit {
                endpoints = endpoints.max_header_size(limit);
            }
            let mut client = endpoints.make_endpoint(&at("a", server.addr)).unwrap();
            match call(&mut client).await {
                Ok(fields) => assert!(passes && fields == 400, "{limit:?} {fields}"),
                Err(error) => {
                    assert!(!passes, "{limit:?} {error:?}");
                    is_told(&error, "max_header_size");
                }
            }
        }
    }

    #[tokio::test]
    async fn trailers_that_are_too_large_are_told() {
        let script = |_| vec![head(0, &[]), trailers(&[FIELD; 400])];
        let server = Frames::start(script).await;
        for (endpoints, passes) in [
            (HttpEndpoints::<Body>::new().http2(), true),
            (HttpEndpoints::new().http2().max_header_size(8_000), false),
        ] {
            let mut endpoints = endpoints;
            let mut client = endpoints.make_endpoint(&at("a", server.addr)).unwrap();
            let request = Request::get("http://web/").body(Empty::new()).unwrap();
            let body = client.call(request).await.unwrap().into_body();
            match body.collect().await {
                Ok(body) => assert!(passes && body.trailers().unwrap().len() == 400),
                Err(error) => assert!(!passes && classify::is_over_limit(&error), "{error:?}"),
            }
        }
    }

    #[cfg(feature = "tonic")]
    #[tokio::test]
    async fn a_call_whose_response_is_too_large_ends_with_resource_exhausted() {
        use tower_roster::client::{GrpcEndpoints, to_status};

        let server = Frames::start(|_| vec![head(END_STREAM, &[FIELD; 400])]).await;
        let mut endpoints = GrpcEndpoints::new().max_header_size(8_000);
        let mut client = endpoints.make_endpoint(&at("a", server.addr)).unwrap();
        let request = Request::post("/a.B/C").body(Body::new()).unwrap();
        let error = client.call(request).await.unwrap_err();
        assert!(error.is_too_large(), "{error:?}");
        assert_eq!(to_status(error).code(), tonic::Code::ResourceExhausted);
    }
}
