//! The client of one service.

use std::time::Duration;

use axum::{Router, extract::State, routing::get};
use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::join_all,
    stream::{self, BoxStream},
};
use http::{Request, StatusCode, header::HOST};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_http::trace::TraceLayer;
use tower_roster::{
    RequestErrorKind,
    balance::policy::{LeastRequests, RoundRobin},
    client::{HttpError, HttpService, ResponseExt, Stack},
    service::breaker::BreakerSettings,
};

use crate::kit::{Server, list, registry, tasks, until};

fn assert_plain<T: Clone + Send + Sync + Unpin + std::fmt::Debug + 'static>() {}

#[test]
fn it_is_a_plain_type() {
    assert_plain::<HttpService>();
    assert_plain::<HttpService<Empty<Bytes>>>();
}

#[derive(Clone)]
struct App {
    users: HttpService,
}

#[tokio::test]
async fn it_stands_in_the_state_of_an_axum_server() {
    async fn user(State(app): State<App>) -> String {
        let response = app.users.get("/users/42").await.unwrap();
        response.text(100).await.unwrap()
    }

    let server = Server::start("one").await;
    let (registry, _memory) = registry([server.instance("users")]);
    let users = HttpService::connect(&registry, "users").unwrap();
    assert_eq!(users.service(), "users");
    let axum = Router::new()
        .route("/", get(user))
        .with_state(App { users });
    let request = Request::get("/").body(axum::body::Body::empty()).unwrap();
    let response = axum.oneshot(request).await.unwrap();
    assert_eq!(response.text(100).await.unwrap(), "one");
}

#[tokio::test]
async fn clients_of_different_settings_have_one_type() {
    let server = Server::start("one").await;
    let (registry, _memory) = registry([server.instance("web")]);
    let clients: [HttpService; 4] = [
        HttpService::connect(&registry, "web").unwrap(),
        Stack::http()
            .balance(|balance| balance.policy(LeastRequests::new()))
            .connect(&registry, "web")
            .unwrap(),
        Stack::http()
            .balance(|balance| balance.policy(RoundRobin::new()))
            .hedge(None)
            .connect(&registry, "web")
            .unwrap(),
        Stack::http()
            .breaker(BreakerSettings::new())
            .connect(&registry, "web")
            .unwrap(),
    ];
    for client in &clients {
        let response = client.get("http://web/").await.unwrap();
        assert_eq!(response.text(100).await.unwrap(), "one");
        assert_eq!(client.handle().status().usable, 1);
    }
    assert!(clients[3].handles().breaker.is_some());
    assert_eq!(clients[0].handles().budget.as_ref().unwrap().withdrawn(), 0);
}

#[tokio::test]
async fn layers_of_tower_http_go_around_it() {
    let server = Server::start("one").await;
    let (registry, _memory) = registry([server.instance("web")]);
    let client = HttpService::connect(&registry, "web").unwrap();
    let client = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .service(client);
    let request = Request::get("/").body(Full::<Bytes>::default()).unwrap();
    let response = client.oneshot(request).await.unwrap();
    assert_eq!(response.text(100).await.unwrap(), "one");
}

#[tokio::test]
async fn bodies_stream_in_both_directions_at_a_time() {
    type Part = Result<Frame<Bytes>, BoxError>;
    type Parts = StreamBody<BoxStream<'static, Part>>;

    let server = Server::start("one").await;
    let (registry, _memory) = registry([server.instance("web")]);
    let client: HttpService<Parts> = Stack::http().connect(&registry, "web").unwrap();
    let (send, mut parts) = mpsc::channel::<Part>(1);
    let parts = stream::poll_fn(move |cx| parts.poll_recv(cx));
    let parts = StreamBody::new(parts.boxed());
    let request = Request::post("/echo").body(parts).unwrap();
    let mut body = client.send(request).await.unwrap().into_body();
    for part in ["one", "two", "three"] {
        let data = Bytes::from_static(part.as_bytes());
        send.send(Ok(Frame::data(data.clone()))).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), data);
    }
    drop(send);
    assert!(body.frame().await.is_none());
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct User {
    name: String,
    age: u8,
}

#[tokio::test]
async fn json_goes_out_and_comes_back_up_to_a_size() {
    let server = Server::start("one").await;
    let (registry, _memory) = registry([server.instance("web")]);
    let client = HttpService::connect(&registry, "web").unwrap();
    let ann = User {
        name: "Ann".into(),
        age: 42,
    };
    let post = || async { client.post_json("/echo", &ann).await.unwrap() };
    assert_eq!(post().await.json::<User>().await.unwrap(), ann);
    let error = post().await.json_within::<User>(10).await.unwrap_err();
    assert!(error.is_too_large(), "{error}");
    assert_eq!(
        error.to_string(),
        "the body of a response with status 200 has more than 10 bytes"
    );
    let error = client.get("/status/500").await.unwrap();
    let error = error.json::<User>().await.unwrap_err();
    assert!(error.is_content() && error.status() == 500, "{error}");
}

#[tokio::test]
async fn an_unbounded_response_is_not_kept() {
    let server = Server::start("one").await;
    let (registry, _memory) = registry([server.instance("web")]);
    type Endless = StreamBody<BoxStream<'static, Result<Frame<Bytes>, BoxError>>>;
    let client: HttpService<Endless> = Stack::http().connect(&registry, "web").unwrap();
    let part = Frame::data(Bytes::from_static(&[b'x'; 1_000]));
    let endless = stream::repeat_with(move || Ok(Frame::data(part.data_ref().unwrap().clone())));
    let request = Request::post("/echo")
        .body(StreamBody::new(endless.boxed()))
        .unwrap();
    let response = client.send(request).await.unwrap();
    let error = response.bytes(100_000).await.unwrap_err();
    assert!(error.is_too_large(), "{error}");
}

#[tokio::test]
async fn it_ends_with_its_last_clone() {
    let server = Server::start("one").await;
    // The embedded registry has a task as long as anything is listed.
    let (registry, memory) = registry([server.instance("other")]);
    let before = tasks();
    let client = HttpService::connect(&registry, "web").unwrap();
    list(&memory, server.instance("web"));
    let response = client.get("/").await.unwrap();
    assert_eq!(response.text(100).await.unwrap(), "one");
    let other = client.clone();
    drop(client);
    assert_eq!(other.get("/").await.unwrap().status(), 200);
    drop(other);
    until("its connections close", || server.open() == 0).await;
    until("its tasks end", || tasks() <= before).await;
}

#[tokio::test]
async fn a_dropped_request_leaves_nothing_behind() {
    let server = Server::start("one").await;
    // The embedded registry has a task as long as anything is listed.
    let (registry, memory) = registry([server.instance("other")]);
    let before = tasks();
    let client = HttpService::connect(&registry, "web").unwrap();
    // While it waits for the response.
    list(&memory, server.instance("web"));
    client
        .handle()
        .wait_for(|status| status.usable == 1)
        .await
        .unwrap();
    let hangs = tokio::spawn({
        let client = client.clone();
        async move { client.get("/hang").await.map(drop) }
    });
    until("the request is there", || server.waiting() == 1).await;
    hangs.abort();
    until("the request is given up", || server.waiting() == 0).await;
    // While it reads the body.
    let response = client.get("/").await.unwrap();
    drop(response);
    drop(client);
    until("its connections close", || server.open() == 0).await;
    until("its tasks end", || tasks() <= before).await;
}

/// An agent that cannot be reached: the client cannot know whether the service has instances.
#[cfg(feature = "consul")]
#[tokio::test]
async fn a_request_that_is_dropped_while_it_waits_for_an_endpoint_leaves_nothing_behind() {
    // A port where nobody listens.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("consul://{}", socket.local_addr().unwrap());
    let registry = tower_roster::registry::connect(&url).unwrap();
    let before = tasks();
    let client = HttpService::connect(&registry, "web").unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(50), client.get("/")).await;
    assert!(waited.is_err(), "it waits: {waited:?}");
    drop((client, registry));
    until("its tasks end", || tasks() <= before).await;
}

#[tokio::test]
async fn a_relative_uri_names_the_service_and_an_absolute_one_the_server() {
    let server = Server::start("one").await;
    let (registry, _memory) = registry([server.instance("web")]);
    let client = HttpService::connect(&registry, "web").unwrap();
    for (uri, host) in [
        ("/host", "web"),
        ("http://web/host", "web"),
        ("http://web:80/host", "web"),
        ("http://other.test:8080/host", "other.test:8080"),
    ] {
        let response = client.get(uri).await.unwrap();
        assert_eq!(response.text(100).await.unwrap(), host, "{uri}");
    }
    // A header of the caller stays, whatever the URI says.
    let mut request = Request::get("http://web/host")
        .body(Full::default())
        .unwrap();
    request.headers_mut().insert(HOST, "given".parse().unwrap());
    let response = client.send(request).await.unwrap();
    assert_eq!(response.text(100).await.unwrap(), "given");
}

#[tokio::test]
async fn a_uri_that_cannot_be_used_is_refused_and_shows_no_password() {
    let server = Server::start("one").await;
    let (registry, _memory) = registry([server.instance("web")]);
    let client = HttpService::connect(&registry, "web").unwrap();
    for (uri, why) in [
        ("ftp://web/", "scheme ftp is neither http nor https"),
        ("https://web/", "made without TLS"),
        ("http://[::1", "invalid"),
        ("http://user:SECRET@web/", "user information"),
        ("http://SECRET@web/", "user information"),
        ("web/users", "invalid"),
        ("web", "neither absolute nor begins with a slash"),
        ("", ""),
    ] {
        let error = client.get(uri).await.expect_err(uri);
        let all = format!("{error}: {error:?}");
        assert!(all.contains(why), "{uri}: {all}");
        assert!(!all.contains("SECRET"), "{uri}: {all}");
        let kind = RequestErrorKind::of(&*error);
        assert_eq!(kind, RequestErrorKind::Invalid, "{uri}: {all}");
    }
    assert_eq!(server.requests(), 0);
    let budget = client.handles().budget.as_ref().unwrap();
    assert_eq!(budget.withdrawn(), 0, "nothing of it is retried");
    for _ in 0..10 {
        client.get("ftp://web/").await.unwrap_err();
    }
    let endpoints = client.handle().endpoints().await.unwrap();
    assert_eq!(endpoints[0].failures, 0, "nor a failure of the endpoint");
    let error = HttpService::connect(&registry, "").unwrap_err();
    assert!(error.to_string().contains("no name"), "{error}");
}

#[tokio::test]
async fn an_error_is_found_among_its_sources() {
    let (registry, memory) = registry([]);
    // A port where nobody listens.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().try_into().unwrap();
    list(
        &memory,
        tower_roster::Instance::new("web", "web-1", address),
    );
    let client = HttpService::connect(&registry, "web").unwrap();
    let error = client.get("/").await.unwrap_err();
    let mut sources = std::iter::successors(Some(&*error as &dyn std::error::Error), |error| {
        error.source()
    });
    let found = sources.find_map(|error| error.downcast_ref::<HttpError>());
    assert!(found.is_some_and(HttpError::is_connect), "{error:?}");
}

#[tokio::test]
async fn many_callers_share_its_connections() {
    let servers = [Server::start("one").await, Server::start("two").await];
    let (registry, _memory) = registry(servers.iter().map(|server| server.instance("web")));
    let client = HttpService::connect(&registry, "web").unwrap();
    for _ in 0..5 {
        let calls = (0..20).map(|_| client.get("/"));
        for response in join_all(calls).await {
            let response = response.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            response.bytes(100).await.unwrap();
        }
    }
    let open = servers.iter().map(Server::open).sum::<usize>();
    assert!(open <= 40, "{open} connections");
    assert_eq!(servers.iter().map(Server::requests).sum::<usize>(), 100);
}
