//! The hyper endpoints one by one.

use std::{error::Error as _, time::Duration};

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty, Full};
use tower::Service;
use tower_roster::{
    Instance,
    classify::Http,
    client::{HttpClient, HttpEndpoints},
    discover::MakeEndpoint,
    endpoint::load::InFlight,
};

use crate::{
    scripted::{Script, at, drain, inserted, until},
    server::{Server, Wire},
};

type Body = Empty<Bytes>;

fn client(instance: &Instance) -> HttpClient<Body> {
    HttpEndpoints::new().make_endpoint(instance).unwrap()
}

fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Empty::new()).unwrap()
}

pub(crate) async fn text(client: &mut HttpClient<Body>, uri: &str) -> String {
    let response = client.call(get(uri)).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn connects_over_ipv6_and_to_names() {
    let six = Server::on("[::1]:0".parse().unwrap(), Wire::Plain).await;
    let mut by_six = client(&at("six", six.addr));
    let expected = format!("HTTP/1.1 user-service {}", six.addr);
    assert_eq!(text(&mut by_six, "http://user-service/").await, expected);

    let four = Server::start().await;
    let name: tower_roster::instance::Address =
        format!("localhost:{}", four.addr.port()).parse().unwrap();
    let mut by_name = client(&at("named", name));
    let expected = format!("HTTP/1.1 user-service {}", four.addr);
    assert_eq!(text(&mut by_name, "http://user-service/").await, expected);
}

#[tokio::test]
async fn a_service_whose_name_is_no_authority_goes_by_its_address() {
    let server = Server::start().await;
    let odd = Instance::new("用户 / ?", "odd", server.addr.try_into().unwrap());
    let expected = format!("HTTP/1.1 {0} {0}", server.addr);
    assert_eq!(text(&mut client(&odd), "/path?q").await, expected);
}

#[tokio::test]
async fn a_request_that_came_over_http2_goes_on_over_http1() {
    let server = Server::start().await;
    let mut request = get("http://user-service/");
    *request.version_mut() = Version::HTTP_2;
    let response = client(&at("a", server.addr)).call(request).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_11);
}

#[tokio::test]
async fn an_error_names_the_endpoint_and_tells_that_nothing_was_sent() {
    let server = Server::start().await;
    let addr = server.addr;
    drop(server);
    until("the port is closed", || async {
        tokio::net::TcpStream::connect(addr).await.is_err()
    })
    .await;
    let error = client(&at("web-7", addr))
        .call(get("http://user-service/"))
        .await
        .unwrap_err();
    assert!(error.is_connect() && !error.is_invalid());
    assert_eq!(
        (error.key().id(), error.address().to_string()),
        ("web-7", addr.to_string())
    );
    assert_eq!(
        error.to_string(),
        format!("endpoint web-7 ({addr}): no connection")
    );
    let mut chain = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        chain.push(error.to_string());
        cause = error.source();
    }
    let chain = chain.join(": ");
    assert!(chain.contains("refused"), "{chain}");
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_is_no_connect_error() {
    let server = Server::start().await;
    let mut client = client(&at("web-7", server.addr));
    let held = tokio::spawn(client.call(get("http://user-service/hold")));
    until("it arrives", || async { server.requests() == 1 }).await;
    drop(server);
    let error = held.await.unwrap().unwrap_err();
    assert!(!error.is_connect(), "it may have had an effect: {error:?}");
    assert!(error.to_string().contains("web-7"), "{error}");
}

#[tokio::test]
async fn an_https_uri_is_never_sent_in_the_clear() {
    let server = Server::start().await;
    let error = client(&at("a", server.addr))
        .call(get("https://user-service/"))
        .await
        .unwrap_err();
    assert!(
        error.is_invalid() && error.to_string().contains("without TLS"),
        "{error}"
    );
    assert_eq!(server.opened(), 0);
}

#[tokio::test(start_paused = true)]
async fn connecting_is_bounded() {
    // Reserved for documentation: nobody answers, or the system says at once that there is no way.
    let nowhere = at(
        "lost",
        "192.0.2.1:80"
            .parse::<tower_roster::instance::Address>()
            .unwrap(),
    );
    let mut endpoints = HttpEndpoints::<Body>::new().connect_timeout(Duration::from_millis(100));
    let mut client = endpoints.make_endpoint(&nowhere).unwrap();
    let call = client.call(get("http://user-service/"));
    let error = tokio::time::timeout(Duration::from_secs(5), call)
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.is_connect(), "{error:?}");
}

#[tokio::test]
async fn idle_connections_are_kept_up_to_the_limit() {
    let server = Server::start().await;
    let mut endpoints = HttpEndpoints::<Body>::new().max_idle(0);
    let mut client = endpoints.make_endpoint(&at("a", server.addr)).unwrap();
    for _ in 0..3 {
        text(&mut client, "http://user-service/").await;
    }
    assert_eq!(server.opened(), 3);
    until("none is kept", || async { server.open() == 0 }).await;
}

#[tokio::test]
async fn the_longest_times_mean_never() {
    let server = Server::start().await;
    let longest = || {
        HttpEndpoints::<Body>::new()
            .connect_timeout(Duration::MAX)
            .idle_timeout(Duration::MAX)
            .keep_alive(Duration::MAX)
    };
    let all = [
        longest(),
        #[cfg(feature = "http2")]
        longest().http2(),
    ];
    for mut endpoints in all {
        let mut client = endpoints.make_endpoint(&at("a", server.addr)).unwrap();
        for _ in 0..2 {
            text(&mut client, "http://user-service/").await;
        }
    }
}

#[tokio::test]
async fn dropping_a_request_anywhere_gives_back_its_place() {
    let server = Server::start().await;
    let script = Script::new([at("a", server.addr)]);
    script.apply([at("a", server.addr)]).await;
    let endpoints = HttpEndpoints::<Full<Bytes>>::new();
    let mut discover = script
        .watch()
        .discover(endpoints)
        .measured(InFlight::new())
        .classify(Http::default());
    let mut endpoint = inserted(drain(&mut discover)).remove(0);
    let post = |path: &str| {
        Request::post(path)
            .body(Full::new(Bytes::from_static(b"x")))
            .unwrap()
    };

    // Before it is polled; while it connects or waits, after any number of polls; with its body unread.
    drop(endpoint.call(post("http://web/hold")));
    assert_eq!(endpoint.in_flight(), 0);
    for polls in 1..30 {
        let mut call = tokio_test::task::spawn(endpoint.call(post("http://web/hold")));
        for _ in 0..polls {
            assert!(call.poll().is_pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(endpoint.in_flight(), 1);
        drop(call);
        assert_eq!(endpoint.in_flight(), 0, "dropped after {polls} polls");
    }
    let response = endpoint.call(post("http://web/")).await.unwrap();
    assert_eq!(endpoint.in_flight(), 1);
    drop(response);
    assert_eq!(endpoint.in_flight(), 0);
    let response = endpoint.call(post("http://web/")).await.unwrap();
    response.into_body().collect().await.unwrap();
    assert_eq!(endpoint.in_flight(), 0);
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn http2_shares_one_connection() {
    let server = Server::start().await;
    let mut endpoints = HttpEndpoints::<Body>::new().http2();
    let mut client = endpoints.make_endpoint(&at("a", server.addr)).unwrap();
    assert_eq!(
        text(&mut client, "http://user-service/").await,
        format!("HTTP/2.0 user-service {}", server.addr)
    );
    let calls = (0..20).map(|_| client.call(get("http://user-service/hold")));
    let calls = tokio::spawn(futures_util::future::join_all(calls));
    until("all arrive", || async { server.requests() == 21 }).await;
    assert_eq!(server.opened(), 1);
    server.release();
    assert!(calls.await.unwrap().iter().all(Result::is_ok));
    drop(client);
    until("it closes", || async { server.open() == 0 }).await;
}
