//! Many services behind one client.

use std::{
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response, header::HOST};
use http_body_util::Full;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_roster::{
    Registry,
    client::{HttpEndpoints, HttpTemplate, ResponseExt, Router, RouterError, Stack, Unknown},
    registry::memory::Memory,
};

use crate::kit::{Server, list, registry, tasks, until};

const MS: Duration = Duration::from_millis(1);

fn template() -> HttpTemplate {
    Stack::http()
        .balance(|balance| balance.wait(500 * MS))
        .over(HttpEndpoints::new())
}

async fn text(router: &Router, uri: &str) -> String {
    let response = router.get(uri).await.unwrap();
    response.text(1_000).await.unwrap()
}

fn refused(error: &BoxError) -> &RouterError {
    error.downcast_ref().unwrap_or_else(|| panic!("{error:?}"))
}

async fn fleet() -> ([Server; 2], Registry, Memory) {
    let servers = [Server::start("users").await, Server::start("orders").await];
    let (registry, memory) = registry([
        servers[0].instance("user-service"),
        servers[1].instance("order-service"),
    ]);
    (servers, registry, memory)
}

#[tokio::test]
async fn the_authority_names_the_service_and_clones_share_its_client() {
    let (servers, registry, _memory) = fleet().await;
    let router = Router::new(&registry);
    for _ in 0..10 {
        let clone = router.clone();
        assert_eq!(text(&clone, "http://user-service/users/42").await, "users");
        assert_eq!(text(&clone, "http://order-service/").await, "orders");
    }
    assert_eq!(router.services(), ["order-service", "user-service"]);
    assert_eq!(servers[0].open(), 1, "one client, and one connection");
    let client = router.client("User-Service").unwrap();
    assert_eq!(client.handle().endpoints().await.unwrap()[0].requests, 10);
}

#[tokio::test]
async fn a_port_a_dot_and_capitals_make_no_difference() {
    let (_servers, registry, _memory) = fleet().await;
    let router = Router::new(&registry);
    for (uri, host) in [
        ("http://user-service/host", "user-service"),
        ("http://user-service:8080/host", "user-service:8080"),
        ("http://USER-Service/host", "USER-Service"),
        ("http://user-service./host", "user-service."),
    ] {
        assert_eq!(text(&router, uri).await, host, "{uri}");
    }
    assert_eq!(router.services(), ["user-service"]);
}

#[tokio::test]
async fn the_uri_chooses_the_service_and_not_the_header() {
    let (_servers, registry, _memory) = fleet().await;
    let router = Router::new(&registry);
    let mut request = Request::get("http://user-service/host")
        .body(Full::default())
        .unwrap();
    request
        .headers_mut()
        .insert(HOST, "order-service".parse().unwrap());
    let response = router.send(request).await.unwrap();
    assert_eq!(
        response.text(100).await.unwrap(),
        "order-service",
        "as it was given"
    );
    assert_eq!(router.services(), ["user-service"]);
    let mut request = Request::get("/").body(Full::default()).unwrap();
    request
        .headers_mut()
        .insert(HOST, "order-service".parse().unwrap());
    let error = router.send(request).await.unwrap_err();
    assert!(refused(&error).is_invalid(), "{error}");
}

#[tokio::test]
async fn what_names_no_service_is_refused_and_makes_no_client() {
    let (_servers, registry, _memory) = fleet().await;
    let router = Router::new(&registry);
    for (uri, why) in [
        ("/users/42", "no authority"),
        ("http://:80/", "empty"),
        ("ftp://user-service/", "ftp"),
        ("http://user:SECRET@user-service/", "user information"),
        ("http://127.0.0.1:80/", "is an address"),
        ("http://[::1]/", "is an address"),
    ] {
        let error = router.get(uri).await.unwrap_err();
        assert!(refused(&error).is_invalid(), "{uri}: {error:?}");
        let all = format!("{error} {error:?}");
        assert!(all.contains(why) && !all.contains("SECRET"), "{uri}: {all}");
    }
    let error = router.get("http://[::1").await.unwrap_err();
    assert!(error.to_string().contains("invalid"), "{error}");
    assert!(router.services().is_empty());
    let error = router.get("http://no-service/").await.unwrap_err();
    assert!(refused(&error).is_unknown(), "{error:?}");
    assert_eq!(
        error.to_string(),
        r#"the registry knows no service "no-service""#
    );
}

#[tokio::test]
async fn hostile_hosts_cannot_make_it_grow_and_known_services_go_on() {
    let (_servers, registry, _memory) = fleet().await;
    let router: Router = Router::builder(&registry)
        .template(template())
        .service("order-service", template())
        .max_services(8)
        .build()
        .unwrap();
    assert_eq!(text(&router, "http://user-service/").await, "users");
    let before = tasks();
    for n in 0..500 {
        let error = router
            .get(format!("http://host-{n}.test/"))
            .await
            .unwrap_err();
        let error = refused(&error);
        assert!(error.is_unknown() || error.is_full(), "{error:?}");
        assert!(router.services().len() <= 9);
    }
    until("their tasks end", || tasks() <= before + 7 * 4).await;
    assert_eq!(text(&router, "http://user-service/").await, "users");
    assert_eq!(text(&router, "http://order-service/").await, "orders");
}

#[tokio::test]
async fn when_all_services_are_known_the_error_says_which_setting_limits_them() {
    let server = Server::start("one").await;
    let (registry, _memory) = registry(["a", "b", "c"].map(|name| server.instance(name)));
    let router: Router = Router::builder(&registry)
        .template(template())
        .max_services(2)
        .build()
        .unwrap();
    assert_eq!(text(&router, "http://a/").await, "one");
    assert_eq!(text(&router, "http://b/").await, "one");
    let error = router.get("http://c/").await.unwrap_err();
    assert!(refused(&error).is_full(), "{error:?}");
    assert!(error.to_string().contains("router.max_services"), "{error}");
    assert_eq!(text(&router, "http://a/").await, "one");
}

#[tokio::test]
async fn an_idle_client_is_dropped_with_all_it_has_and_the_next_request_makes_a_new_one() {
    let (servers, registry, _memory) = fleet().await;
    let before = tasks();
    let router: Router = Router::builder(&registry)
        .template(template())
        .idle(200 * MS)
        .build()
        .unwrap();
    assert_eq!(text(&router, "http://order-service/").await, "orders");
    for _ in 0..20 {
        tokio::time::sleep(20 * MS).await;
        assert_eq!(text(&router, "http://user-service/").await, "users");
    }
    assert_eq!(router.services(), ["user-service"], "the other was idle");
    until("its connection closes", || servers[1].open() == 0).await;
    assert_eq!(servers[0].open(), 1);
    until("all are dropped", || router.services().is_empty()).await;
    until("connections close", || servers[0].open() == 0).await;
    until("tasks end, the sweeper too", || tasks() <= before).await;
    assert_eq!(text(&router, "http://user-service/").await, "users");
    drop(router);
    until("connections close", || servers[0].open() == 0).await;
    until("tasks end", || tasks() <= before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_idle_client_leaves_every_thread() {
    let (servers, registry, _memory) = fleet().await;
    let router: Router = Router::builder(&registry).idle(200 * MS).build().unwrap();
    let calls = (0..64).map(|_| {
        let router = router.clone();
        tokio::spawn(async move { text(&router, "http://user-service/").await })
    });
    for answer in join_all(calls).await {
        assert_eq!(answer.unwrap(), "users");
    }
    until("it is dropped", || router.services().is_empty()).await;
    until("its connections close", || servers[0].open() == 0).await;
}

#[tokio::test]
async fn a_request_that_is_dropped_at_any_await_leaves_nothing_behind() {
    let (servers, registry, memory) = fleet().await;
    let before = tasks();
    for unknown in [Unknown::Refuse, Unknown::Dns] {
        let router: Router = Router::builder(&registry)
            .template(template())
            .unknown(unknown)
            .idle(100 * MS)
            .build()
            .unwrap();
        // Polled so often and then dropped: before the endpoints are known, while it connects, while it waits.
        for polls in 0..6 {
            for uri in ["http://user-service/hang", "http://no-service.invalid/"] {
                let mut request = Box::pin(router.get(uri));
                for _ in 0..polls {
                    let polled = futures_util::poll!(request.as_mut());
                    if polled.is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
        }
        // In the middle of a body.
        let response = router.get("http://user-service/").await.unwrap();
        drop(response);
        until("its requests are given up", || servers[0].waiting() == 0).await;
        until("its clients are idle", || router.services().is_empty()).await;
        until("tasks end", || tasks() <= before).await;
        until("connections close", || servers[0].open() == 0).await;
        // Without waiting for the sweeper.
        let mut request = Box::pin(router.get("http://user-service/hang"));
        assert!(futures_util::poll!(request.as_mut()).is_pending());
        drop(request);
        drop(router);
        until("tasks end", || tasks() <= before).await;
    }
    drop(memory);
}

#[tokio::test]
async fn names_that_the_registry_does_not_know_go_to_dns_by_choice() {
    let (_servers, registry, memory) = fleet().await;
    let other = Server::start("other").await;
    let router: Router = Router::builder(&registry)
        .template(template())
        .unknown(Unknown::Dns)
        .build()
        .unwrap();
    let port = other.addr.port();
    for host in ["localhost", "127.0.0.1", "LocalHost"] {
        let uri = format!("http://{host}:{port}/");
        assert_eq!(text(&router, &uri).await, "other", "{host}");
    }
    assert_eq!(text(&router, "http://user-service/").await, "users");
    // As soon as the registry lists it, requests go there.
    let listed = Server::start("listed").await;
    list(&memory, listed.instance("localhost"));
    let client = router.client("localhost").unwrap();
    client
        .handle()
        .wait_for(|status| status.usable == 1)
        .await
        .unwrap();
    assert_eq!(
        text(&router, &format!("http://localhost:{port}/")).await,
        "listed"
    );
    // Neither what resolvers read as an address in another notation.
    let error = router.get("http://0x7f.1/").await.unwrap_err();
    assert!(refused(&error).is_invalid(), "{error:?}");
}

#[tokio::test]
async fn while_the_registry_cannot_be_reached_no_name_goes_to_dns() {
    // Nobody listens there.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("rest://{}", socket.local_addr().unwrap());
    let other = Server::start("other").await;
    let registry = tower_roster::registry::connect(&url).unwrap();
    let router: Router = Router::builder(&registry)
        .template(template())
        .unknown(Unknown::Dns)
        .build()
        .unwrap();
    let uri = format!("http://localhost:{}/", other.addr.port());
    router.get(uri).await.unwrap_err();
    assert_eq!(other.requests(), 0);
}

#[tokio::test]
async fn as_a_layer_it_leaves_other_requests_to_the_inner_service() {
    let (_servers, registry, _memory) = fleet().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let inner = service_fn({
        let seen = Arc::clone(&seen);
        move |_: Request<Full<Bytes>>| {
            seen.fetch_add(1, Relaxed);
            async { Ok::<_, BoxError>(Response::new(Full::<Bytes>::from("inner"))) }
        }
    });
    let client = Router::new(&registry).or_else().layer(inner);
    for (uri, answer) in [
        ("http://user-service/", "users"),
        ("http://example.test/", "inner"),
        ("http://127.0.0.1/", "inner"),
    ] {
        let request = Request::get(uri).body(Full::default()).unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        assert_eq!(response.text(100).await.unwrap(), answer, "{uri}");
    }
    assert_eq!(seen.load(Relaxed), 2);
}

#[tokio::test]
async fn a_service_has_its_own_settings_and_its_own_spelling() {
    let server = Server::start("one").await;
    let (registry, _memory) = registry([server.instance("Billing"), server.instance("users")]);
    let hasty = Stack::http().timeout(20 * MS).over(HttpEndpoints::new());
    let router: Router = Router::builder(&registry)
        .template(template())
        .service("Billing", hasty)
        .build()
        .unwrap();
    assert_eq!(text(&router, "http://billing/").await, "one");
    router.get("http://billing/hang").await.unwrap_err();
    let patient = tokio::time::timeout(100 * MS, router.get("http://users/hang"));
    assert!(patient.await.is_err());
}

#[test]
fn settings_out_of_range_are_refused_when_it_is_built() {
    let (registry, _memory) = registry([]);
    let builder = || Router::<Full<Bytes>>::builder(&registry);
    let wrong = || {
        Stack::http()
            .timeout(Duration::ZERO)
            .over(HttpEndpoints::new())
    };
    for (built, field) in [
        (builder().max_services(0).build(), "router.max_services"),
        (builder().idle(Duration::ZERO).build(), "router.idle"),
        (builder().service("", template()).build(), "router.service"),
        (
            builder()
                .service("a", template())
                .service("A", template())
                .build(),
            "router.service",
        ),
        (builder().template(wrong()).build(), "stack.timeout"),
        (builder().service("a", wrong()).build(), "stack.timeout"),
    ] {
        assert_eq!(built.unwrap_err().field(), field);
    }
}
