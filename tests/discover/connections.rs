//! What becomes of the connections of a hyper endpoint when requests and answers go astray.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::Service;
use tower_roster::{
    client::{HttpClient, HttpEndpoints},
    discover::MakeEndpoint,
    endpoint::load::InFlight,
};

use crate::{
    raw::{Raw, ok, path},
    scripted::{Script, at, drain, inserted, until},
};

type Body = BoxBody<Bytes, io::Error>;

fn client(server: &Raw) -> HttpClient<Body> {
    endpoints(server, HttpEndpoints::new())
}

fn endpoints(server: &Raw, mut endpoints: HttpEndpoints<Body>) -> HttpClient<Body> {
    endpoints.make_endpoint(&at("a", server.addr)).unwrap()
}

fn request(method: Method, uri: &str) -> Request<Body> {
    let body = Full::new(Bytes::new()).map_err(|never| match never {});
    let builder = Request::builder().method(method).uri(uri);
    builder.body(body.boxed()).unwrap()
}

fn get(path: &str) -> Request<Body> {
    request(Method::GET, &format!("http://web{path}"))
}

async fn text(client: &mut HttpClient<Body>, path: &str) -> String {
    let answer = client.call(get(path)).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn no_request_gets_the_answer_to_one_that_was_dropped() {
    for max_idle in [1, usize::MAX] {
        let server = Raw::start(|head| (ok(path(head)), false)).await;
        let mut client = endpoints(&server, HttpEndpoints::new().max_idle(max_idle));
        for polls in 0..40 {
            let mut call = tokio_test::task::spawn(client.call(get("/dropped")));
            for _ in 0..polls {
                if call.poll().is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(call);
            let own = format!("/{polls}");
            assert_eq!(text(&mut client, &own).await, own);
        }
    }
}

#[tokio::test]
async fn a_body_that_is_not_read_holds_its_connection_and_no_other() {
    let long = "x".repeat(1 << 22);
    let server = Raw::start(move |head| match path(head) {
        "/long" => (ok(&long), false),
        other => (ok(other), false),
    })
    .await;
    let mut client = client(&server);
    let unread = client.call(get("/long")).await.unwrap();
    for _ in 0..3 {
        assert_eq!(text(&mut client, "/a").await, "/a");
    }
    assert_eq!(server.opened(), 2);
    drop(unread);
    until("it closes", || async { server.open() == 1 }).await;
    // The last handle is gone before its answer has ended.
    let answer = client.call(get("/long")).await.unwrap();
    drop(client);
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes().len(),
        1 << 22
    );
    until("all close", || async { server.open() == 0 }).await;
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection() {
    let server = Raw::start(|head| {
        let answer = match path(head) {
            "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n",
            "/103" => {
                "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
            }
            "/head" => "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n",
            _ => "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n",
        };
        (answer.into(), false)
    })
    .await;
    let mut client = client(&server);
    for _ in 0..2 {
        for (method, path, status) in [
            (Method::GET, "/204", 204),
            (Method::GET, "/304", 304),
            (Method::GET, "/103", 204),
            (Method::HEAD, "/head", 200),
            (Method::GET, "/1.0", 200),
        ] {
            let answer = client.call(request(method, path)).await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
            assert!(
                answer
                    .into_body()
                    .collect()
                    .await
                    .unwrap()
                    .to_bytes()
                    .is_empty()
            );
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(server.opened(), 1);
}

#[tokio::test]
async fn connections_that_the_server_ends_are_not_used_again() {
    for (answer, ends) in [
        (
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            false,
        ),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", false),
        ("HTTP/1.0 200 OK\r\n\r\nok", true),
        ("HTTP/1.1 200 OK\r\n\r\nok", true),
        // What nobody asked for.
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
            false,
        ),
        // Without a word.
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
    ] {
        let server = Raw::start(move |_| (answer.into(), ends)).await;
        let mut client = client(&server);
        for n in 1..=20 {
            match client.call(get("/")).await {
                Ok(got) => {
                    let body = got.into_body().collect().await.unwrap();
                    assert_eq!(body.to_bytes(), "ok", "{answer}");
                }
                Err(error) => panic!("request {n}, {answer:?}: {error:?}"),
            }
            // Long enough for the end to arrive, or not.
            for _ in 0..n % 4 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!((server.requests(), server.opened()), (20, 20), "{answer}");
        drop(client);
        until("all close", || async { server.open() == 0 }).await;
    }
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_was_sent() {
    let server = Raw::start(|head| match path(head) {
        "/early" => (
            "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n".into(),
            false,
        ),
        other => (ok(other), false),
    })
    .await;
    for max_idle in [0, 1, usize::MAX] {
        let mut client = endpoints(&server, HttpEndpoints::new().max_idle(max_idle));
        let never = StreamBody::new(futures_util::stream::pending()).boxed();
        let early = Request::post("/early").body(never).unwrap();
        let answer = client.call(early).await.unwrap();
        assert_eq!(answer.status(), 413);
        answer.into_body().collect().await.unwrap();
        for _ in 0..3 {
            assert_eq!(text(&mut client, "/a").await, "/a", "on another connection");
        }
    }
}

#[tokio::test]
async fn upgraded_connections_are_the_callers() {
    for method in [Method::GET, Method::CONNECT] {
        let server = Raw::start(|head| match head {
            _ if head.starts_with("CONNECT other:443 ") => {
                ("HTTP/1.1 200 OK\r\n\r\n".into(), false)
            }
            _ if head.contains("upgrade: echo") => {
                let switch =
                    "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
                (switch.into(), false)
            }
            _ if head.starts_with("PING") => ("PONG".into(), true),
            _ => (ok("plain"), false),
        })
        .await;
        for max_idle in [0, 1, usize::MAX] {
            let mut client = endpoints(&server, HttpEndpoints::new().max_idle(max_idle));
            let uri = if method == Method::CONNECT {
                "other:443"
            } else {
                "/"
            };
            let mut ask = request(method.clone(), uri);
            if method == Method::GET {
                let headers = ask.headers_mut();
                headers.insert("connection", "upgrade".parse().unwrap());
                headers.insert("upgrade", "echo".parse().unwrap());
            }
            let answer = client.call(ask).await.unwrap();
            let upgraded = hyper::upgrade::on(answer).await.unwrap();
            assert_eq!(text(&mut client, "/").await, "plain");
            let mut io = TokioIo::new(upgraded);
            io.write_all(b"PING\r\n\r\n").await.unwrap();
            let mut got = String::new();
            io.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, "PONG");
            assert_eq!(text(&mut client, "/").await, "plain");
        }
    }
}

#[tokio::test]
async fn an_upgraded_connection_is_not_in_flight_and_outlives_its_endpoint() {
    let server = Raw::start(|head| match head {
        _ if head.starts_with("PING") => ("PONG".into(), true),
        _ => {
            let switch = "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
            (switch.into(), false)
        }
    })
    .await;
    let script = Script::new([at("a", server.addr)]);
    script.apply([at("a", server.addr)]).await;
    let discover = script.watch().discover(HttpEndpoints::<Body>::new());
    let mut discover = discover.measured(InFlight::new());
    let mut endpoint = inserted(drain(&mut discover)).remove(0);
    let mut ask = get("/");
    let headers = ask.headers_mut();
    headers.insert("connection", "upgrade".parse().unwrap());
    headers.insert("upgrade", "echo".parse().unwrap());
    let answer = endpoint.call(ask).await.unwrap();
    let mut io = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    assert_eq!(endpoint.in_flight(), 0);
    drop((endpoint, discover));
    io.write_all(b"PING\r\n\r\n").await.unwrap();
    let mut got = String::new();
    io.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "PONG");
}

/// Begins, and then does what it should not.
struct Bad {
    begun: bool,
    panics: bool,
}

impl http_body::Body for Bad {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if !std::mem::replace(&mut self.begun, true) {
            cx.waker().wake_by_ref();
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"begun")))));
        }
        assert!(!self.panics, "as this body does");
        Poll::Ready(Some(Err(io::Error::other("as this body does"))))
    }
}

#[tokio::test]
async fn a_body_that_fails_or_panics_costs_its_own_connection() {
    let server = Raw::start(|head| match path(head) {
        "/bad" => (String::new(), false),
        other => (ok(other), false),
    })
    .await;
    let mut client = client(&server);
    for panics in [false, true] {
        assert_eq!(text(&mut client, "/a").await, "/a");
        let body = Bad {
            begun: false,
            panics,
        }
        .boxed();
        let bad = Request::post("/bad").body(body).unwrap();
        let error = client.call(bad).await.unwrap_err();
        assert!(!error.is_connect(), "{error:?}");
        assert_eq!(text(&mut client, "/a").await, "/a");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_leave_no_more_than_may_be_idle() {
    let server = Raw::start(|head| (ok(path(head)), false)).await;
    let client = endpoints(&server, HttpEndpoints::new().max_idle(3));
    for _ in 0..5 {
        let all = (0..100).map(|n| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let own = format!("/{n}");
                assert_eq!(text(&mut client, &own).await, own);
            })
        });
        join_all(all).await.into_iter().for_each(|end| end.unwrap());
        until("the others close", || async { server.open() <= 3 }).await;
    }
    drop(client);
    until("all close", || async { server.open() == 0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_is_seen_twice_whatever_its_connection_does() {
    let seen = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    let sees = Arc::clone(&seen);
    // Some answers are long, some connections end with the answer, some before it.
    let server = Raw::start(move |head| {
        let n: usize = path(head)[1..].parse().unwrap();
        *sees.lock().unwrap().entry(path(head).into()).or_default() += 1;
        match n % 7 {
            0 => (ok(&format!("{n:020000}")), false),
            1 | 2 => (ok(&format!("{n}")), true),
            3 if n.is_multiple_of(5) => ("HTTP/1.1 ".into(), true),
            _ => (ok(&format!("{n}")), false),
        }
    })
    .await;
    for max_idle in [2, usize::MAX] {
        seen.lock().unwrap().clear();
        let client = endpoints(&server, HttpEndpoints::new().max_idle(max_idle));
        let all = (0..8).map(|task| {
            let (mut client, seen) = (client.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                for n in (task * 1_000..).take(300) {
                    let own = format!("/{n}");
                    let mut call = client.call(get(&own));
                    if n % 11 == 0 {
                        tokio::select! {
                            biased;
                            () = yields(n % 13) => continue,
                            _ = &mut call => continue,
                        }
                    }
                    let answer = match call.await {
                        Ok(answer) => answer,
                        Err(error) => {
                            let sent = seen.lock().unwrap().contains_key(&own);
                            assert!(!sent || !error.is_connect(), "{error:?}");
                            continue;
                        }
                    };
                    if n % 17 != 0 {
                        let body = answer.into_body().collect().await.unwrap().to_bytes();
                        let got: usize = std::str::from_utf8(&body).unwrap().parse().unwrap();
                        assert_eq!(got, n);
                    }
                }
            })
        });
        join_all(all).await.into_iter().for_each(|end| end.unwrap());
        assert!(seen.lock().unwrap().values().all(|times| *times == 1));
        drop(client);
        until("all close", || async { server.open() == 0 }).await;
    }
}

async fn yields(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_client_goes_on_when_its_runtime_is_gone() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let servers = runtime();
    let server = servers.block_on(Raw::start(|head| (ok(path(head)), false)));
    let mut client = client(&server);
    for n in 1..=3 {
        let shut = runtime();
        shut.block_on(async {
            for _ in 0..3 {
                assert_eq!(text(&mut client, "/a").await, "/a");
            }
        });
        drop(shut);
        assert!(server.opened() >= n);
    }
    drop(client);
    servers.block_on(until("all close", || async { server.open() == 0 }));
}
