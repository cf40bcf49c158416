//! When the connections of an endpoint end, whatever their peers do.
#![cfg(target_os = "linux")]

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::Service;
use tower_roster::{
    client::{HttpClient, HttpEndpoints},
    discover::MakeEndpoint,
};

use crate::{
    raw::{Raw, ok, path},
    scripted::{at, until},
};

type Body = BoxBody<Bytes, io::Error>;

const IDLE: Duration = Duration::from_millis(200);

fn client(addr: SocketAddr, mut endpoints: HttpEndpoints<Body>) -> HttpClient<Body> {
    endpoints.make_endpoint(&at("a", addr)).unwrap()
}

/// The connections to this address that this process has not closed. A server cannot tell: what a
/// client wrote before it closed comes first, and a server that does not read never learns more.
fn established(server: SocketAddr) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!("{:04X}", server.port());
    let open = table.lines().filter(|line| {
        let mut columns = line.split_whitespace().skip(2);
        let remote = columns.next().unwrap();
        remote.ends_with(&format!(":{port}")) && columns.next() == Some("01")
    });
    open.count()
}

async fn all_close(server: SocketAddr) {
    until("all connections close", || async {
        established(server) == 0
    })
    .await;
}

/// An upload that begins and never ends.
fn endless() -> Request<Body> {
    let data = |_| Ok(Frame::data(Bytes::from_static(&[b'x'; 1024])));
    let begun = stream::iter([(); 4].map(data));
    let body = StreamBody::new(begun.chain(stream::pending()));
    Request::post("http://web/")
        .body(BodyExt::boxed(body))
        .unwrap()
}

/// An upload that is larger than all buffers.
fn flood() -> Request<Body> {
    let data = |()| Ok(Frame::data(Bytes::from_static(&[b'x'; 1 << 16])));
    let body = StreamBody::new(stream::repeat(()).map(data));
    Request::post("http://web/")
        .body(BodyExt::boxed(body))
        .unwrap()
}

/// A server that accepts connections and neither reads nor writes.
async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    addr
}

const EARLY: [&str; 2] = [
    "HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno",
    "HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno",
];

#[tokio::test]
async fn an_upload_that_goes_on_after_its_response_ends_with_the_idle_timeout() {
    for answer in EARLY {
        for max_idle in [0, 1, usize::MAX] {
            let server = Raw::start(move |_| (answer.into(), false)).await;
            let endpoints = HttpEndpoints::new().idle_timeout(IDLE).max_idle(max_idle);
            let mut client = client(server.addr, endpoints);
            let answer = client.call(endless()).await.unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "no");
            all_close(server.addr).await;
        }
    }
}

#[tokio::test]
async fn an_upload_that_is_cut_off_by_a_response_of_many_fields_closes_its_connection() {
    for upload in [endless, flood] {
        let server = Raw::start(|_| {
            let fields = "a: b\r\n".repeat(400);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{fields}\r\n");
            (head, false)
        })
        .await;
        let mut client = client(server.addr, HttpEndpoints::new().idle_timeout(None));
        let error = client.call(upload()).await.unwrap_err();
        assert!(error.is_too_large(), "{error:?}");
        all_close(server.addr).await;
    }
}

#[tokio::test]
async fn an_upload_that_goes_on_after_its_response_ends_with_the_endpoint() {
    for answer in EARLY {
        for max_idle in [1, usize::MAX] {
            let server = Raw::start(move |_| (answer.into(), false)).await;
            let endpoints = HttpEndpoints::new().idle_timeout(None).max_idle(max_idle);
            let mut client = client(server.addr, endpoints);
            let answer = client.call(endless()).await.unwrap();
            drop(client);
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "no");
            all_close(server.addr).await;
        }
    }
}

#[tokio::test]
async fn a_caller_that_gives_up_in_the_middle_of_an_upload_closes_its_connection() {
    let addr = silent().await;
    let all = [
        HttpEndpoints::new(),
        #[cfg(feature = "http2")]
        HttpEndpoints::new().http2().idle_timeout(IDLE),
    ];
    for endpoints in all {
        let mut client = client(addr, endpoints);
        let call = tokio::spawn(client.call(flood()));
        until("it connects", || async { established(addr) == 1 }).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        call.abort();
        all_close(addr).await;
    }
}

#[tokio::test]
async fn idle_connections_close_at_once_with_the_endpoint() {
    let server = Raw::start(|_| (ok("hello"), false)).await;
    let mut client = client(server.addr, HttpEndpoints::new().idle_timeout(None));
    let body = BodyExt::boxed(StreamBody::new(stream::empty()));
    let request = Request::get("http://web/").body(body).unwrap();
    let answer = client.call(request).await.unwrap();
    answer.into_body().collect().await.unwrap();
    assert_eq!(established(server.addr), 1);
    drop(client);
    all_close(server.addr).await;
}

/// The shortest that can be set.
const AGE: Duration = Duration::from_secs(1);

fn get(path: &str) -> Request<Body> {
    let body = BodyExt::boxed(StreamBody::new(stream::empty()));
    Request::get(format!("http://web{path}"))
        .body(body)
        .unwrap()
}

async fn text(client: &mut HttpClient<Body>, path: &str) -> String {
    let answer = client.call(get(path)).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_connection_is_replaced_at_its_greatest_age_and_no_response_is_cut_off() {
    let long = "x".repeat(1 << 22);
    let server = Raw::start(move |head| match path(head) {
        "/long" => (ok(&long), false),
        other => (ok(other), false),
    })
    .await;
    let endpoints = HttpEndpoints::new().max_age(AGE).idle_timeout(None);
    let mut client = client(server.addr, endpoints);
    let unread = client.call(get("/long")).await.unwrap();
    until("it is replaced", || async { server.opened() == 2 }).await;
    let read = unread.into_body().collect().await.unwrap();
    assert_eq!(read.to_bytes().len(), 1 << 22);
    until("only the new one is open", || async {
        established(server.addr) == 1
    })
    .await;
}

#[tokio::test]
async fn an_old_connection_that_is_free_closes_when_the_new_one_stands() {
    let server = Raw::start(|head| (ok(path(head)), false)).await;
    let endpoints = HttpEndpoints::new().max_age(AGE).idle_timeout(None);
    let mut client = client(server.addr, endpoints);
    assert_eq!(text(&mut client, "/a").await, "/a");
    until("it is replaced", || async { server.opened() == 2 }).await;
    until("only the new one is open", || async {
        established(server.addr) == 1
    })
    .await;
    assert_eq!(text(&mut client, "/b").await, "/b");
    assert_eq!(server.opened(), 2, "it went over the new one");
}

#[tokio::test]
async fn an_idle_connection_closes_at_its_greatest_age() {
    for idle in [AGE, 2 * AGE] {
        let server = Raw::start(|head| (ok(path(head)), false)).await;
        let endpoints = HttpEndpoints::new().max_age(AGE).idle_timeout(idle);
        let mut client = client(server.addr, endpoints);
        assert_eq!(text(&mut client, "/a").await, "/a");
        all_close(server.addr).await;
    }
}

const SWITCH: &str = "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";

#[tokio::test]
async fn an_upload_that_goes_on_after_an_upgrade_ends_with_the_idle_timeout() {
    for max_idle in [0, 1, usize::MAX] {
        let server = Raw::start(|_| (SWITCH.into(), false)).await;
        let endpoints = HttpEndpoints::new().idle_timeout(IDLE).max_idle(max_idle);
        let mut client = client(server.addr, endpoints);
        let mut request = endless();
        let echo = "echo".parse().unwrap();
        request.headers_mut().insert("upgrade", echo);
        let answer = client.call(request).await.unwrap();
        assert!(hyper::upgrade::on(answer).await.is_err());
        all_close(server.addr).await;
    }
}

#[tokio::test]
async fn an_upload_may_end_after_its_upgrade_and_after_its_endpoint() {
    let server = Raw::start(|_| (SWITCH.into(), false)).await;
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let last = async move {
        let _ = ended.await;
        Ok(Frame::data(Bytes::from_static(b"x")))
    };
    let body = BodyExt::boxed(StreamBody::new(stream::once(Box::pin(last))));
    let request = Request::post("http://web/").header("upgrade", "echo");
    let request = request.body(body).unwrap();
    let mut client = client(server.addr, HttpEndpoints::new());
    let answer = client.call(request).await.unwrap();
    drop(client);
    tokio::time::sleep(Duration::from_millis(20)).await;
    end.send(()).unwrap();
    let upgraded = hyper::upgrade::on(answer).await.unwrap();
    assert_eq!(established(server.addr), 1);
    drop(upgraded);
    all_close(server.addr).await;
}

#[tokio::test]
async fn a_connection_that_cannot_be_replaced_is_used_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    // It accepts one connection, and refuses all others.
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut head = vec![0; 1024];
        while stream.read(&mut head).await.unwrap() > 0 {
            stream.write_all(ok("one").as_bytes()).await.unwrap();
        }
    });
    let mut client = client(addr, HttpEndpoints::new().max_age(AGE));
    for _ in 0..6 {
        assert_eq!(text(&mut client, "/").await, "one");
        tokio::time::sleep(AGE / 4).await;
    }
}

#[tokio::test]
async fn an_age_of_zero_costs_no_more_than_a_handshake_each_second() {
    let server = Raw::start(|head| (ok(path(head)), false)).await;
    let mut client = client(server.addr, HttpEndpoints::new().max_age(Duration::ZERO));
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        assert_eq!(text(&mut client, "/a").await, "/a");
    }
    assert_eq!(server.opened(), 1);
}

#[cfg(feature = "http2")]
mod http2 {
    use super::*;
    use crate::frames::{END_STREAM, Frames, head};

    fn endpoints() -> HttpEndpoints<Body> {
        HttpEndpoints::new().http2()
    }

    #[tokio::test]
    async fn an_upload_that_goes_on_after_its_response_ends_with_the_idle_timeout() {
        let server = Frames::start(|_| vec![head(END_STREAM, &[])]).await;
        let mut client = client(server.addr, endpoints().idle_timeout(IDLE));
        let answer = client.call(endless()).await.unwrap();
        answer.into_body().collect().await.unwrap();
        assert_eq!(established(server.addr), 1);
        all_close(server.addr).await;
    }

    #[tokio::test]
    async fn an_upload_that_goes_on_after_its_response_ends_with_the_endpoint() {
        let server = Frames::start(|_| vec![head(END_STREAM, &[])]).await;
        let mut client = client(server.addr, endpoints().idle_timeout(None));
        let answer = client.call(endless()).await.unwrap();
        drop(client);
        assert_eq!(established(server.addr), 1, "a response is being read");
        answer.into_body().collect().await.unwrap();
        all_close(server.addr).await;
    }

    #[tokio::test]
    async fn a_response_that_is_read_keeps_its_connection_however_long() {
        let server = Frames::start(|_| vec![head(0, &[])]).await;
        let mut client = client(server.addr, endpoints().idle_timeout(IDLE));
        let mut body = client.call(endless()).await.unwrap().into_body();
        let late = tokio::time::timeout(4 * IDLE, body.frame()).await;
        assert!(late.is_err(), "{late:?}");
        assert_eq!(established(server.addr), 1);
        drop(body);
        all_close(server.addr).await;
    }

    #[tokio::test]
    async fn a_connection_is_replaced_at_its_greatest_age_and_no_response_is_cut_off() {
        let server = Frames::start(|n| match n {
            0 => vec![head(0, &[])],
            _ => vec![head(END_STREAM, &[])],
        })
        .await;
        let endpoints = endpoints().max_age(AGE).idle_timeout(None);
        let mut client = client(server.addr, endpoints);
        let mut body = client.call(get("/")).await.unwrap().into_body();
        until("it is replaced", || async { established(server.addr) == 2 }).await;
        assert_eq!(text(&mut client, "/").await, "");
        let late = tokio::time::timeout(AGE, body.frame()).await;
        assert!(late.is_err(), "{late:?}");
        drop(body);
        until("the old one closes", || async {
            established(server.addr) == 1
        })
        .await;
    }

    #[tokio::test]
    async fn an_idle_connection_closes_at_its_greatest_age() {
        for idle in [AGE, 2 * AGE] {
            let server = Frames::start(|_| vec![head(END_STREAM, &[])]).await;
            let endpoints = endpoints().max_age(AGE).idle_timeout(idle);
            let mut client = client(server.addr, endpoints);
            assert_eq!(text(&mut client, "/").await, "");
            all_close(server.addr).await;
        }
    }

    #[tokio::test]
    async fn a_response_that_has_ended_keeps_no_connection() {
        let server = Frames::start(|_| vec![head(END_STREAM, &[])]).await;
        let mut client = client(server.addr, endpoints().idle_timeout(None));
        let held = client.call(get("/")).await.unwrap();
        drop(client);
        all_close(server.addr).await;
        drop(held);
    }

    #[tokio::test]
    async fn an_idle_connection_ends_in_order() {
        for (endpoints, is_removed) in [
            (endpoints().idle_timeout(IDLE), false),
            (endpoints().max_age(AGE).idle_timeout(AGE), false),
            (endpoints(), true),
        ] {
            let server = Frames::start(|_| vec![head(END_STREAM, &[])]).await;
            let mut client = client(server.addr, endpoints);
            assert_eq!(text(&mut client, "/").await, "");
            assert_eq!(server.goaways(), 0);
            let client = Some(client).filter(|_| !is_removed);
            all_close(server.addr).await;
            until("it said so", || async { server.goaways() == 1 }).await;
            drop(client);
        }
    }

    #[tokio::test]
    async fn a_stalled_upload_shares_no_connection_with_a_tunnel() {
        let server = Frames::start(|n| match n {
            0 => vec![head(END_STREAM, &[])],
            _ => vec![head(0, &[])],
        })
        .await;
        let mut client = client(server.addr, endpoints().idle_timeout(None));
        let answer = client.call(endless()).await.unwrap();
        answer.into_body().collect().await.unwrap();
        let body = BodyExt::boxed(StreamBody::new(stream::empty()));
        let connect = Request::connect("other:443").body(body).unwrap();
        let answer = client.call(connect).await.unwrap();
        let tunnel = hyper::upgrade::on(answer).await.unwrap();
        drop(client);
        until("that of the upload closes", || async {
            established(server.addr) == 1
        })
        .await;
        drop(tunnel);
        all_close(server.addr).await;
    }

    #[tokio::test]
    async fn a_tunnel_leaves_its_connection_and_shares_it_with_no_later_request() {
        // A head without an end accepts a CONNECT.
        let server = Frames::start(|n| match n {
            0 => vec![head(0, &[])],
            _ => vec![head(END_STREAM, &[])],
        })
        .await;
        let mut client = client(server.addr, endpoints().idle_timeout(None));
        let body = BodyExt::boxed(StreamBody::new(stream::empty()));
        let connect = Request::connect("other:443").body(body).unwrap();
        let answer = client.call(connect).await.unwrap();
        let tunnel = hyper::upgrade::on(answer).await.unwrap();
        assert_eq!(text(&mut client, "/").await, "");
        assert_eq!(established(server.addr), 2);
        drop(client);
        until("that of the other request closes", || async {
            established(server.addr) == 1
        })
        .await;
        drop(tunnel);
        all_close(server.addr).await;
    }

    #[cfg(feature = "tonic")]
    #[tokio::test]
    async fn a_connection_for_calls_is_replaced_at_its_greatest_age() {
        use tower_roster::client::GrpcEndpoints;

        let server = Frames::start(|_| vec![head(0, &[])]).await;
        let mut endpoints = GrpcEndpoints::new().max_age(AGE);
        let mut client = endpoints.make_endpoint(&at("a", server.addr)).unwrap();
        let call = Request::post("/a.B/C");
        let call = call.body(http_body_util::Empty::<Bytes>::new()).unwrap();
        let response = client.call(call).await.unwrap();
        until("it is replaced", || async { established(server.addr) == 2 }).await;
        drop(response);
        until("the old one closes", || async {
            established(server.addr) == 1
        })
        .await;
    }
}
