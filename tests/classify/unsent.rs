//! A request that no endpoint has seen comes back whole, and no other does.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
};
use tower::Service;
use tower_roster::{
    BoxError, Instance,
    classify::{self, Unsent},
    client::{HttpClient, HttpEndpoints, HttpError},
    discover::MakeEndpoint,
};

type Body = BoxBody<Bytes, BoxError>;

/// An address where nobody listens, and nobody else can.
fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

fn client(addr: SocketAddr) -> HttpClient<Body> {
    let instance = Instance::new("web", "web-1", addr.try_into().unwrap());
    HttpEndpoints::new().make_endpoint(&instance).unwrap()
}

fn empty() -> Body {
    Empty::new()
        .map_err(|never: Infallible| match never {})
        .boxed()
}

/// Frames that come one by one, and cannot be had twice.
fn stream(parts: Vec<Result<&'static str, BoxError>>) -> Body {
    let parts = futures_util::stream::iter(parts);
    let frames =
        parts.map(|part| part.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))));
    BoxBody::new(StreamBody::new(frames))
}

fn post(body: Body) -> Request<Body> {
    let request = Request::post("/users?id=7").version(http::Version::HTTP_2);
    let request = request.header("x-trace", "abc").header("x-trace", "def");
    request.extension(42u8).body(body).unwrap()
}

/// Echoes bodies on every connection, one after another.
async fn echo(listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        });
        let served = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        let _ = served.serve_connection(TokioIo::new(stream), service).await;
    }
}

async fn refused(addr: SocketAddr) -> HttpError {
    let request = post(stream(vec![Ok("one "), Ok("two")]));
    client(addr).call(request).await.unwrap_err()
}

#[tokio::test]
async fn a_refused_request_comes_back_as_it_was_and_goes_elsewhere() {
    let (_socket, addr) = refusing();
    let mut error = refused(addr).await;
    assert!(
        error.is_connect() && classify::is_unsent(&error),
        "{error:?}"
    );
    assert!(
        error.take_request::<Empty<Bytes>>().is_none(),
        "another body"
    );
    let request = error.take_request::<Body>().expect("it was not sent");
    assert!(error.take_request::<Body>().is_none(), "there is but one");
    assert!(error.is_connect(), "that stays true");

    assert_eq!(request.method(), http::Method::POST);
    assert_eq!(request.uri(), "/users?id=7");
    assert_eq!(request.version(), http::Version::HTTP_2);
    let traces: Vec<_> = request.headers().get_all("x-trace").iter().collect();
    assert_eq!(traces, ["abc", "def"]);
    assert_eq!(request.headers().len(), 2);
    assert_eq!(request.extensions().get(), Some(&42u8));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut other = client(listener.local_addr().unwrap());
    let server = tokio::spawn(echo(listener));
    let response = other.call(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "one two");
    server.abort();
}

#[tokio::test]
async fn any_error_gives_it_back_by_its_type() {
    let (_socket, addr) = refusing();
    let error: BoxError = refused(addr).await.into();
    assert!(classify::is_unsent(&*error));
    assert!(classify::reclaim::<Request<String>>(&*error).is_none());
    let request = classify::reclaim::<Request<Body>>(&*error).expect("it was not sent");
    let body = request.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "one two");
}

#[tokio::test]
async fn a_request_without_a_body_comes_back_too() {
    let (_socket, addr) = refusing();
    let request = Request::get("http://web/").body(empty()).unwrap();
    let mut error = client(addr).call(request).await.unwrap_err();
    assert_eq!(error.take_request::<Body>().unwrap().uri(), "http://web/");
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn over_http2_it_comes_back_too() {
    let (_socket, addr) = refusing();
    let instance = Instance::new("web", "web-1", addr.try_into().unwrap());
    let mut endpoints = HttpEndpoints::new().http2();
    let mut client = endpoints.make_endpoint(&instance).unwrap();
    let mut error = client.call(post(stream(vec![Ok("x")]))).await.unwrap_err();
    assert!(error.take_request::<Body>().is_some());
}

#[tokio::test]
async fn it_comes_back_when_the_connection_it_would_have_gone_over_is_gone() {
    let (socket, addr) = refusing();
    let server = tokio::spawn(echo(socket.listen(1).unwrap()));
    let mut client = client(addr);
    for _ in 0..2 {
        let request = post(stream(vec![Ok("alive")]));
        let response = client.call(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    server.abort();
    let _ = server.await;
    // The client may not have noticed yet, and then learns it with the first.
    let mut back = Vec::new();
    for _ in 0..3 {
        let call = client.call(post(stream(vec![Ok("late")])));
        let mut error = call.await.unwrap_err();
        assert!(error.is_connect(), "{error:?}");
        back.push(error.take_request::<Body>());
    }
    assert!(back[1..].iter().all(Option::is_some), "{back:?}");
    let body = back.pop().unwrap().unwrap().into_body().collect().await;
    assert_eq!(body.unwrap().to_bytes(), "late");
}

#[tokio::test]
async fn it_comes_back_while_other_answers_hold_all_connections() {
    let (socket, addr) = refusing();
    let listener = socket.listen(1).unwrap();
    let mut client = client(addr);
    let accept = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut read).await.unwrap();
        }
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
        stream.write_all(head).await.unwrap();
        stream
    });
    let request = Request::get("http://web/").body(empty()).unwrap();
    let half = client.call(request).await.unwrap();
    let held = accept.await.unwrap();
    let mut back = Vec::new();
    for _ in 0..3 {
        let mut error = client.call(post(empty())).await.unwrap_err();
        assert!(error.is_connect(), "{error:?}");
        back.push(error.take_request::<Body>().is_some());
    }
    assert_eq!(back[1..], [true, true], "the first finds out");
    drop((half, held));
}

#[tokio::test]
async fn requests_that_wait_for_more_connections_come_back() {
    let (socket, addr) = refusing();
    let listener = socket.listen(1).unwrap();
    let mut client = client(addr);
    let first = tokio::spawn(client.call(post(empty())));
    let held = listener.accept().await.unwrap();
    drop(listener);
    let mut error = client
        .call(post(stream(vec![Ok("more")])))
        .await
        .unwrap_err();
    assert!(error.take_request::<Body>().is_some(), "{error:?}");
    first.abort();
    drop(held);
}

#[tokio::test]
async fn a_body_that_was_begun_is_never_given_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = client(listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while !read.windows(5).any(|window| window == b"begun") {
            stream.read_buf(&mut read).await.unwrap();
        }
        // Cut in the middle of an answer's head.
        stream.write_all(b"HTTP/1.1 200").await.unwrap();
    });
    let mut error = client
        .call(post(stream(vec![Ok("begun")])))
        .await
        .unwrap_err();
    server.await.unwrap();
    assert!(
        !error.is_connect() && !classify::is_unsent(&error),
        "{error:?}"
    );
    assert!(error.take_request::<Body>().is_none());
    assert!(classify::reclaim::<Request<Body>>(&error).is_none());
}

#[tokio::test]
async fn a_body_that_fails_because_its_own_source_was_unreachable_leaves_the_request_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = client(listener.local_addr().unwrap());
    let server = tokio::spawn(echo(listener));
    let inner = Unsent::new("no connection to the source").with_request(7u8);
    let body = stream(vec![Ok("begun"), Err(inner.into())]);
    let error = client.call(post(body)).await;
    server.abort();
    // The head and a part of the body are out.
    let error = match error {
        Err(error) => error,
        Ok(response) => panic!("it cannot be whole: {response:?}"),
    };
    assert!(
        !error.is_connect() && !classify::is_unsent(&error),
        "{error:?}"
    );
    assert_eq!(classify::reclaim::<u8>(&error), None);
}

#[tokio::test]
async fn what_no_endpoint_can_take_is_no_reason_to_go_elsewhere() {
    let (_socket, addr) = refusing();
    let request = Request::get("ftp://web/").body(empty()).unwrap();
    let error = client(addr).call(request).await.unwrap_err();
    assert!(error.is_invalid() && !classify::is_unsent(&error));
}

#[tokio::test]
async fn a_call_that_is_dropped_while_it_connects_drops_the_request() {
    let (_socket, addr) = refusing();
    let (dropped, seen) = tokio::sync::oneshot::channel::<()>();
    let parts = futures_util::stream::once(async move {
        let _dropped = dropped;
        Ok::<_, BoxError>(Frame::data(Bytes::new()))
    });
    let body = BoxBody::new(StreamBody::new(Box::pin(parts)));
    let mut call = tokio_test::task::spawn(client(addr).call(post(body)));
    let _ = call.poll();
    drop(call);
    assert!(seen.await.is_err());
}

#[tokio::test]
async fn a_body_of_known_length_keeps_its_length() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = client(listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"data") {
            stream.read_buf(&mut read).await.unwrap();
        }
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        String::from_utf8(read).unwrap()
    });
    let body = Full::new(Bytes::from_static(b"data")).map_err(|never| match never {});
    client.call(post(body.boxed())).await.unwrap();
    let sent = server.await.unwrap().to_lowercase();
    assert!(sent.contains("content-length: 4"), "{sent}");
}
