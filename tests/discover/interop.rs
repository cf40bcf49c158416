//! tower's own balancer over our `Discover`.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use tower::{
    Service, ServiceExt, balance::p2c::Balance, buffer::Buffer, discover::Discover, load::Load,
};
use tower_roster::{
    BoxError, Instance,
    client::HttpEndpoints,
    discover::MeasuredDiscover,
    endpoint::{
        MeasuredEndpoint,
        load::{InFlight, PeakEwma},
    },
    instance::Key,
};

use crate::{
    scripted::{Script, at, drain, inserted, is_pending, mock, until},
    server::{Server, Wire},
};

type Body = Empty<Bytes>;

fn get(uri: &'static str) -> Request<Body> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = Uri::from_static(uri);
    request
}

/// One request through any service; the text of the answer.
async fn call<S, B>(service: &mut S, uri: &'static str) -> Result<String, BoxError>
where
    S: Service<Request<Body>, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Error: Into<BoxError>>,
{
    let ready = service.ready().await.map_err(Into::into)?;
    let response = ready.call(get(uri)).await.map_err(Into::into)?;
    let body = response.into_body().collect().await.map_err(Into::into)?;
    Ok(String::from_utf8(body.to_bytes().to_vec())?)
}

/// The endpoints as tower's balancer takes them.
fn measured(
    script: &Script,
) -> MeasuredDiscover<tower_roster::discover::Discover<HttpEndpoints<Body>>, PeakEwma> {
    let discover = script.watch().discover(HttpEndpoints::new());
    discover.measured(PeakEwma::new())
}

async fn three() -> [Server; 3] {
    [
        Server::start().await,
        Server::start().await,
        Server::start().await,
    ]
}

fn listed(servers: &[Server]) -> Vec<Instance> {
    let instance = |(n, server): (usize, &Server)| at(&format!("web-{n}"), server.addr);
    servers.iter().enumerate().map(instance).collect()
}

/// Sends requests until each server has had one.
async fn reach<D>(balance: &mut Balance<D, Request<Body>>, servers: &[Server])
where
    D: Discover<Key = Key> + Unpin,
    D::Error: Into<BoxError>,
    D::Service:
        Service<Request<Body>, Response = http::Response<tower_roster::client::HttpBody>> + Load,
    <D::Service as Load>::Metric: std::fmt::Debug,
    <D::Service as Service<Request<Body>>>::Error: Into<BoxError>,
{
    for _ in 0..10_000 {
        call(balance, "http://user-service/").await.unwrap();
        if servers.iter().all(|server| server.requests() > 0) {
            return;
        }
    }
    panic!("every server must get requests");
}

#[tokio::test]
async fn requests_reach_all_and_keep_the_name_of_the_service() {
    let servers = three().await;
    let script = Script::new(listed(&servers));
    let mut balance = Balance::new(measured(&script));
    let answer = call(&mut balance, "http://user-service/").await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 user-service 127.0.0.1:"),
        "{answer}"
    );
    let answer = call(&mut balance, "/path").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 web 127.0.0.1:"), "{answer}");
    reach(&mut balance, &servers).await;
}

#[tokio::test]
async fn many_share_it_behind_a_buffer() {
    let servers = three().await;
    let script = Script::new(listed(&servers));
    let balance = Balance::new(measured(&script));
    let service = Buffer::new(balance, 64);
    let calls: FuturesUnordered<_> = (0..300)
        .map(|_| {
            let mut service = service.clone();
            async move { call(&mut service, "http://user-service/").await }
        })
        .collect();
    let answers: Vec<_> = calls.collect().await;
    assert!(answers.iter().all(Result::is_ok));
    let requests: Vec<_> = servers.iter().map(Server::requests).collect();
    assert_eq!(requests.iter().sum::<usize>(), 300);
    assert!(requests.iter().all(|n| *n > 0), "{requests:?}");
}

#[tokio::test]
async fn a_removal_closes_exactly_its_connections() {
    let servers = three().await;
    let script = Script::new(listed(&servers));
    let mut balance = Balance::new(measured(&script));
    reach(&mut balance, &servers).await;
    assert!(servers.iter().all(|server| server.open() > 0));

    script.apply(listed(&servers).into_iter().skip(1)).await;
    balance.ready().await.unwrap();
    until("the connections of the first close", || async {
        servers[0].open() == 0
    })
    .await;
    assert_eq!([servers[1].closed(), servers[2].closed()], [0, 0]);
    let before = servers[0].requests();
    for _ in 0..20 {
        call(&mut balance, "http://user-service/").await.unwrap();
    }
    assert_eq!(servers[0].requests(), before);
}

#[tokio::test]
async fn a_request_in_flight_outlives_the_removal_of_its_endpoint() {
    let server = Server::start().await;
    let script = Script::new([at("web-0", server.addr)]);
    let mut balance = Balance::new(measured(&script));
    let held = balance
        .ready()
        .await
        .unwrap()
        .call(get("http://user-service/hold"));
    let held = tokio::spawn(held);
    until("it arrives", || async { server.requests() == 1 }).await;

    let other = Server::start().await;
    script.apply([at("web-1", other.addr)]).await;
    call(&mut balance, "http://user-service/").await.unwrap();
    assert_eq!((server.open(), other.requests()), (1, 1));
    server.release();
    let response = held.await.unwrap().unwrap();
    response.into_body().collect().await.unwrap();
    until("its connection closes then", || async {
        server.open() == 0
    })
    .await;
}

#[tokio::test]
async fn updates_make_no_connection() {
    let servers = three().await;
    let script = Script::new(listed(&servers));
    let mut balance = Balance::new(measured(&script));
    reach(&mut balance, &servers).await;
    let closed = || servers.iter().map(Server::closed).sum::<usize>();
    for n in 0..100u16 {
        let changed = listed(&servers).into_iter();
        let changed = changed.map(|i| {
            i.weight(1 + n % 7)
                .tag(format!("v{n}"))
                .meta("n", n.to_string())
        });
        script.apply(changed).await;
        call(&mut balance, "http://user-service/").await.unwrap();
    }
    assert_eq!(closed(), 0, "no connection may be lost");
    let opened: usize = servers.iter().map(Server::opened).sum();
    // The client may start a second connection while the first is on its way back to its pool.
    assert!(
        opened <= 6,
        "{opened} connections for three servers and one caller"
    );
}

#[tokio::test]
async fn a_changed_address_moves_the_traffic_without_a_failure() {
    let (old, new) = (Server::start().await, Server::start().await);
    let script = Script::new([at("web-0", old.addr)]);
    let mut balance = Balance::new(measured(&script));
    call(&mut balance, "http://user-service/").await.unwrap();
    let held = balance
        .ready()
        .await
        .unwrap()
        .call(get("http://user-service/hold"));
    let held = tokio::spawn(held);
    until("it arrives", || async { old.requests() == 2 }).await;

    script.apply([at("web-0", new.addr)]).await;
    for _ in 0..10 {
        call(&mut balance, "http://user-service/").await.unwrap();
    }
    assert_eq!((old.requests(), new.requests()), (2, 10));
    assert_eq!(old.open(), 1, "the old connection works off what it has");
    old.release();
    drop(held.await.unwrap().unwrap());
    until("then it closes", || async { old.open() == 0 }).await;
}

#[tokio::test(start_paused = true)]
async fn the_old_service_serves_until_the_new_one_is_ready() {
    let script = Script::new([mock("a")]);
    let (release, gate) = tokio::sync::watch::channel(false);
    let discover = script.watch().discover(move |instance: &Instance| {
        let old = instance.address == mock("a").address;
        let mut gate = gate.clone();
        let opened = Box::pin(async move {
            let _ = gate.wait_for(|open| *open).await;
        });
        let ready = old;
        Ok::<_, Infallible>(Gated { old, ready, opened })
    });
    let mut balance = Balance::new(discover.measured(PeakEwma::new()));
    assert_eq!(
        balance.ready().await.unwrap().call(()).await.unwrap(),
        "old"
    );
    // Ready again, as it is between requests: tower keeps a ready service for one more request
    // after its successor came, and drops one that is not.
    balance.ready().await.unwrap();
    let mut moved = mock("a");
    moved.address = "10.0.0.2:80".parse().unwrap();
    script.apply([moved]).await;
    assert_eq!(
        balance.ready().await.unwrap().call(()).await.unwrap(),
        "old"
    );
    release.send_replace(true);
    assert_eq!(
        balance.ready().await.unwrap().call(()).await.unwrap(),
        "new"
    );
}

/// The old one is ready at once, the new one when the gate opens.
struct Gated {
    old: bool,
    ready: bool,
    opened: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Service<()> for Gated {
    type Response = &'static str;
    type Error = Infallible;
    type Future = std::future::Ready<Result<&'static str, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.ready || self.opened.as_mut().poll(cx).is_ready() {
            self.ready = true;
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    fn call(&mut self, (): ()) -> Self::Future {
        std::future::ready(Ok(if self.old { "old" } else { "new" }))
    }
}

#[tokio::test]
async fn a_rolling_replacement_fails_no_request() {
    let (blue, green) = (three().await, three().await);
    let script = Script::new(listed(&blue));
    let mut balance = Balance::new(measured(&script));
    reach(&mut balance, &blue).await;
    // One by one, then all at once.
    for (n, server) in green.iter().enumerate() {
        let mut mixed = listed(&blue).split_off(n);
        mixed.push(at(&format!("green-{n}"), server.addr));
        script.apply(mixed).await;
        for _ in 0..20 {
            call(&mut balance, "http://user-service/").await.unwrap();
        }
    }
    let all = green
        .iter()
        .enumerate()
        .map(|(n, s)| at(&format!("next-{n}"), s.addr));
    script.apply(all).await;
    reach(&mut balance, &green).await;
    until("the old ones are left", || async {
        blue.iter().all(|s| s.open() == 0)
    })
    .await;
}

#[tokio::test]
async fn traffic_returns_to_a_server_that_was_restarted_behind_the_registrys_back() {
    let server = Server::start().await;
    let addr = server.addr;
    let script = Script::new([at("web-0", addr)]);
    let mut balance = Balance::new(measured(&script));
    call(&mut balance, "http://user-service/").await.unwrap();
    let counts = std::sync::Arc::clone(&server.counts);
    drop(server);
    until("its connections are cut", || {
        let open = counts.open.load(std::sync::atomic::Ordering::Relaxed);
        async move { open == 0 }
    })
    .await;
    let mut refused = 0;
    for _ in 0..5 {
        refused += usize::from(call(&mut balance, "http://user-service/").await.is_err());
    }
    assert!(refused >= 4, "a dead server answers nothing");
    let _server = Server::on(addr, Wire::Plain).await;
    call(&mut balance, "http://user-service/")
        .await
        .expect("it is back");
}

#[tokio::test]
async fn one_address_under_two_keys_is_two_endpoints() {
    let server = Server::start().await;
    let script = Script::new([at("one", server.addr), at("two", server.addr)]);
    let mut discover = script.watch().discover(HttpEndpoints::<Body>::new());
    script
        .apply([at("one", server.addr), at("two", server.addr)])
        .await;
    let mut endpoints = inserted(drain(&mut discover));
    for endpoint in &mut endpoints {
        call(endpoint, "http://user-service/").await.unwrap();
    }
    assert_eq!(server.open(), 2);
    drop(endpoints.pop());
    until("one of the connections closes", || async {
        server.open() == 1
    })
    .await;
    call(&mut endpoints[0], "http://user-service/")
        .await
        .unwrap();
}

/// A service that never answers, so that load builds up.
fn stuck(_: &Instance) -> Result<Stuck, Infallible> {
    Ok(Stuck)
}

#[derive(Clone)]
struct Stuck;

impl Service<()> for Stuck {
    type Response = ();
    type Error = Infallible;
    type Future = std::future::Pending<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        std::future::pending()
    }
}

#[tokio::test(start_paused = true)]
async fn weights_divide_the_requests_in_flight() {
    let instances = || [mock("heavy").weight(3), mock("light").weight(1)];
    let script = Script::new(instances());
    script.apply(instances()).await;
    // A second stream over the same watch would measure on its own, so look through the futures.
    let (endpoints, mut balance) = watched_balance(&script).await;
    let held = flood(&mut balance, 400).await;
    let in_flight: Vec<_> = endpoints
        .iter()
        .map(|e| (e.endpoint().key().id().to_owned(), e.in_flight()))
        .collect();
    let heavy = in_flight[0].1;
    assert!((299..=301).contains(&heavy), "{in_flight:?}");
    drop(held);
    assert!(endpoints.iter().all(|e| e.in_flight() == 0));
}

#[tokio::test(start_paused = true)]
async fn weight_zero_gets_nothing_and_comes_back() {
    let with = |weight| [mock("a").weight(3), mock("b"), mock("c").weight(weight)];
    let script = Script::new(with(0));
    script.apply(with(0)).await;
    let (endpoints, mut balance) = watched_balance(&script).await;
    let held = flood(&mut balance, 200).await;
    let count = |n: usize| endpoints[n].in_flight();
    assert_eq!(count(2), 0);
    assert!(count(0) > count(1), "{} and {}", count(0), count(1));
    script.apply(with(1)).await;
    let more = flood(&mut balance, 50).await;
    assert!(count(2) > 0, "a new weight takes effect without a change");
    drop((held, more));
}

#[tokio::test(start_paused = true)]
async fn what_answers_slowly_gets_few_requests() {
    let instances = || [mock("fast"), mock("slow")];
    let script = Script::new(instances());
    script.apply(instances()).await;
    let discover = script.watch().discover(|instance: &Instance| {
        let slow = instance.key.id() == "slow";
        Ok::<_, Infallible>(tower::service_fn(move |()| async move {
            let time = if slow { 100 } else { 1 };
            tokio::time::sleep(Duration::from_millis(time)).await;
            Ok::<_, Infallible>(slow)
        }))
    });
    let mut balance = Balance::new(discover.measured(PeakEwma::new()));
    let mut slow = 0;
    for _ in 0..500 {
        slow += usize::from(balance.ready().await.unwrap().call(()).await.unwrap());
    }
    assert!(
        (1..20).contains(&slow),
        "{slow} of 500 went to the slow one"
    );
}

type Watched = MeasuredEndpoint<Stuck, InFlight>;

/// A balancer, and clones of its endpoints to look at.
async fn watched_balance(
    script: &Script,
) -> (
    Vec<Watched>,
    Balance<impl Discover<Key = Key, Service = Watched, Error = Infallible> + Unpin, ()>,
) {
    let mut discover = script.watch().discover(stuck).measured(InFlight::new());
    let changes = drain(&mut discover);
    let mut endpoints = Vec::new();
    for change in &changes {
        if let tower::discover::Change::Insert(_, endpoint) = change {
            endpoints.push(endpoint.clone());
        }
    }
    let first = futures_util::stream::iter(changes.into_iter().map(Ok));
    (endpoints, Balance::new(first.chain(discover)))
}

/// Starts this many requests, and waits for none.
async fn flood<D>(balance: &mut Balance<D, ()>, requests: usize) -> Vec<impl Sized + use<D>>
where
    D: Discover<Key = Key, Service = Watched, Error = Infallible> + Unpin,
{
    let mut held = Vec::new();
    for _ in 0..requests {
        poll_fn(|cx| balance.poll_ready(cx)).await.unwrap();
        let mut response = tokio_test::task::spawn(balance.call(()));
        assert!(is_pending(&response.poll()));
        held.push(response);
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    held
}
