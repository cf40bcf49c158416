//! The framing of responses over HTTP/1 (RFC 9112, sections 6, 7, 9.3 and 9.6): what is read, and whether
//! the connection carries another request.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use tower::Service;
use tower_roster::{
    client::{HttpClient, HttpEndpoints},
    discover::MakeEndpoint,
};

use crate::{
    raw::{Raw, ok, path},
    scripted::at,
};

type Client = HttpClient<Empty<Bytes>>;

/// What a response must be to the caller.
#[derive(Clone, Copy, Debug)]
enum Read {
    Body(&'static str),
    /// No response, or one that breaks off.
    Error,
}

use Read::{Body, Error};

/// Whether the connection is used again.
const KEPT: bool = true;
const CLOSED: bool = false;

async fn read(client: &mut Client, request: Request<Empty<Bytes>>) -> Option<Bytes> {
    let answer = client.call(request).await.ok()?;
    let body = answer.into_body().collect().await.ok()?;
    Some(body.to_bytes())
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(format!("http://web{path}"));
    request.body(Empty::new()).unwrap()
}

/// The head and the rest of an answer whose lines end with a semicolon.
fn answer(lines: &str, rest: &str) -> String {
    lines.replace("; ", "\r\n") + "\r\n\r\n" + rest
}

/// Sends `first`, then another request. The server closes after the first if `ends`.
async fn check(first: Request<Empty<Bytes>>, sent: String, ends: bool, expected: (Read, bool)) {
    let script = sent.clone();
    let server = Raw::start(move |head| match path(head) {
        "/next" => (ok("next"), false),
        _ => (script.clone(), ends),
    })
    .await;
    let mut endpoints = HttpEndpoints::new();
    let mut client = endpoints.make_endpoint(&at("a", server.addr)).unwrap();
    let got = read(&mut client, first).await;
    match expected.0 {
        Body(text) => assert_eq!(got.as_deref(), Some(text.as_bytes()), "{sent:?}"),
        Error => assert_eq!(got, None, "{sent:?}"),
    }
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let next = read(&mut client, get("/next")).await;
    assert_eq!(next.as_deref(), Some(&b"next"[..]), "after {sent:?}");
    assert_eq!(
        server.opened() == 1,
        expected.1,
        "connection kept, after {sent:?}"
    );
}

#[tokio::test]
async fn a_connection_is_used_again_only_after_a_response_with_one_certain_end() {
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    for (lines, rest, ends, expected) in [
        // 6.1: the coding "chunked" is the last one, there once, and without a length.
        (
            "HTTP/1.1 200 OK; transfer-encoding: chunked",
            chunks,
            false,
            (Body("hello"), KEPT),
        ),
        (
            "HTTP/1.1 200 OK; transfer-encoding: CHUNKED",
            chunks,
            false,
            (Body("hello"), KEPT),
        ),
        (
            "HTTP/1.1 200 OK; transfer-encoding: gzip, chunked",
            chunks,
            false,
            (Body("hello"), KEPT),
        ),
        (
            "HTTP/1.1 200 OK; transfer-encoding: gzip; transfer-encoding: chunked",
            chunks,
            false,
            (Body("hello"), KEPT),
        ),
        (
            "HTTP/1.1 200 OK; transfer-encoding: chunked; content-length: 5",
            chunks,
            false,
            (Body("hello"), CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; content-length: 5; transfer-encoding: chunked",
            chunks,
            false,
            (Body("hello"), CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; transfer-encoding: chunked, chunked",
            chunks,
            false,
            (Body("hello"), CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; transfer-encoding: gzip",
            "hello",
            true,
            (Body("hello"), CLOSED),
        ),
        (
            "HTTP/1.0 200 OK; connection: keep-alive; transfer-encoding: chunked",
            chunks,
            false,
            (Error, CLOSED),
        ),
        // 6.2 and 6.3: one length, which is a number.
        (
            "HTTP/1.1 200 OK; content-length: 5",
            "hello",
            false,
            (Body("hello"), KEPT),
        ),
        (
            "HTTP/1.1 200 OK; content-length: 5; content-length: 5",
            "hello",
            false,
            (Body("hello"), KEPT),
        ),
        (
            "HTTP/1.1 200 OK; content-length: 5; content-length: 6",
            "hello",
            false,
            (Error, CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; content-length: 5, 6",
            "hello",
            false,
            (Error, CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; content-length: +5",
            "hello",
            false,
            (Error, CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; content-length: -5",
            "hello",
            false,
            (Error, CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; content-length: 0x5",
            "hello",
            false,
            (Error, CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; content-length: 5 5",
            "hello",
            false,
            (Error, CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; content-length: ",
            "hello",
            false,
            (Error, CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; content-length: 18446744073709551616",
            "hello",
            false,
            (Error, CLOSED),
        ),
        ("HTTP/1.1 200 OK", "hello", true, (Body("hello"), CLOSED)),
        // 6.3: responses that have no body may not announce one, except 304 and those to HEAD.
        ("HTTP/1.1 204 No Content", "", false, (Body(""), KEPT)),
        (
            "HTTP/1.1 204 No Content; content-length: 0",
            "",
            false,
            (Body(""), KEPT),
        ),
        (
            "HTTP/1.1 204 No Content; content-length: 2",
            "",
            false,
            (Body(""), CLOSED),
        ),
        (
            "HTTP/1.1 204 No Content; transfer-encoding: chunked",
            "",
            false,
            (Body(""), CLOSED),
        ),
        (
            "HTTP/1.1 304 Not Modified; content-length: 7",
            "",
            false,
            (Body(""), KEPT),
        ),
        (
            "HTTP/1.1 304 Not Modified; transfer-encoding: chunked",
            "",
            false,
            (Body(""), KEPT),
        ),
        (
            "HTTP/1.1 205 Reset Content; content-length: 0",
            "",
            false,
            (Body(""), KEPT),
        ),
        // Bytes that belong to no response.
        (
            "HTTP/1.1 200 OK; content-length: 2",
            "hello",
            false,
            (Body("he"), CLOSED),
        ),
        (
            "HTTP/1.1 204 No Content",
            "hello",
            false,
            (Body(""), CLOSED),
        ),
        (
            "HTTP/1.1 304 Not Modified",
            "hello",
            false,
            (Body(""), CLOSED),
        ),
        // 7 and 8: incomplete or invalid.
        (
            "HTTP/1.1 200 OK; content-length: 9",
            "hello",
            true,
            (Error, CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; transfer-encoding: chunked",
            "5\r\nhello\r\n",
            true,
            (Error, CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; transfer-encoding: chunked",
            "5\r\nhel",
            true,
            (Error, CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; transfer-encoding: chunked",
            "five\r\nhello",
            false,
            (Error, CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; transfer-encoding: chunked",
            "5\r\nhello world",
            false,
            (Error, CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; content-length : 5",
            "hello",
            false,
            (Error, CLOSED),
        ),
        ("HTTP/1.1 200", "", true, (Body(""), CLOSED)),
        // 9.3 and 9.6: the version and the option "close".
        (
            "HTTP/1.1 200 OK; connection: close; content-length: 5",
            "hello",
            false,
            (Body("hello"), CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; connection: Close; content-length: 5",
            "hello",
            false,
            (Body("hello"), CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; connection: keep-alive, close; content-length: 5",
            "hello",
            false,
            (Body("hello"), CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; connection: close; connection: keep-alive; content-length: 5",
            "hello",
            false,
            (Body("hello"), CLOSED),
        ),
        (
            "HTTP/1.0 200 OK; content-length: 5",
            "hello",
            false,
            (Body("hello"), CLOSED),
        ),
        (
            "HTTP/1.0 200 OK; connection: keep-alive; content-length: 5",
            "hello",
            false,
            (Body("hello"), KEPT),
        ),
        (
            "HTTP/1.1 200 OK; connection: keep-alive; keep-alive: timeout=5, max=9; content-length: 5",
            "hello",
            false,
            (Body("hello"), KEPT),
        ),
        (
            "HTTP/1.1 200 OK; connection: keep-alive; keep-alive: timeout=0; content-length: 5",
            "hello",
            false,
            (Body("hello"), CLOSED),
        ),
        (
            "HTTP/1.1 200 OK; connection: keep-alive; keep-alive: max=0; content-length: 5",
            "hello",
            false,
            (Body("hello"), CLOSED),
        ),
    ] {
        check(get("/"), answer(lines, rest), ends, expected).await;
    }
}

#[tokio::test]
async fn the_request_counts_too() {
    let head = |headers: &[(&str, &str)]| {
        let mut request = get("/");
        *request.method_mut() = Method::HEAD;
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        request
    };
    for lines in [
        "HTTP/1.1 200 OK; content-length: 5",
        "HTTP/1.1 200 OK; transfer-encoding: chunked",
    ] {
        check(head(&[]), answer(lines, ""), false, (Body(""), KEPT)).await;
    }
    let plain = answer("HTTP/1.1 200 OK; content-length: 5", "");
    let closing = head(&[("connection", "close")]);
    check(closing, plain, false, (Body(""), CLOSED)).await;
}
