//! Real HTTP: an endpoint that refuses connections, and one that dies.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
};
use tower::ServiceExt;
use tower_roster::{
    Instance,
    balance::{Balance, policy::RoundRobin},
    classify,
    client::{HttpClient, HttpEndpoints},
    registry::{Registry, fixed::Fixed},
};

use crate::kit::layer;

type Body = Full<Bytes>;

/// A server that answers with its address and what it was sent; dropping it cuts its connections.
struct Server {
    addr: SocketAddr,
    task: AbortHandle,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accept = async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service =
                    hyper::service::service_fn(move |request: Request<Incoming>| async move {
                        let sent = request.into_body().collect().await.unwrap().to_bytes();
                        let text = format!("{addr} {}", String::from_utf8_lossy(&sent));
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                    });
                connections.spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        };
        Self {
            addr,
            task: tokio::spawn(accept).abort_handle(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn balanced(addrs: &[SocketAddr]) -> Balance<HttpClient<Body>, RoundRobin> {
    let addrs = addrs
        .iter()
        .map(|addr| ((*addr).try_into().unwrap(), 1.into()));
    let registry = Registry::new(Fixed::new(addrs.collect::<Vec<_>>()));
    let watch = registry.watch("user-service").unwrap();
    layer()
        .build()
        .unwrap()
        .balance(watch.discover(HttpEndpoints::new()))
}

/// One request with a body; the text of the answer.
async fn call(balance: &Balance<HttpClient<Body>, RoundRobin>) -> Result<String, String> {
    let request = Request::post("http://user-service/");
    let request = request.body(Full::new(Bytes::from("cargo"))).unwrap();
    let response = balance.clone().oneshot(request).await;
    let response = response.map_err(|error| format!("{error:?}"))?;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

/// An address where nobody listens, and nobody else can begin to while this is held.
async fn refused() -> (tokio::net::TcpSocket, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

#[tokio::test]
async fn requests_reach_every_server() {
    let servers = [
        Server::start().await,
        Server::start().await,
        Server::start().await,
    ];
    let addrs = servers.each_ref().map(|server| server.addr);
    let balance = balanced(&addrs).await;
    let handle = balance.handle();
    handle.wait_for(|status| status.usable == 3).await.unwrap();
    let mut counts = [0; 3];
    for _ in 0..30 {
        let answer = call(&balance).await.unwrap();
        let by = addrs
            .iter()
            .position(|addr| answer == format!("{addr} cargo"));
        counts[by.unwrap()] += 1;
    }
    assert_eq!(counts, [10; 3]);
    let list = handle.endpoints().await.unwrap();
    assert!(
        list.iter()
            .all(|info| info.in_flight == 0 && info.requests == 10)
    );
}

#[tokio::test]
async fn a_refused_connection_sends_the_request_to_another_endpoint_at_once() {
    let servers = [Server::start().await, Server::start().await];
    let (_held, nobody) = refused().await;
    let addrs = [servers[0].addr, nobody, servers[1].addr];
    let balance = balanced(&addrs).await;
    let handle = balance.handle();
    handle.wait_for(|status| status.usable == 3).await.unwrap();
    for request in 0..30 {
        let answer = call(&balance).await;
        let answer = answer.unwrap_or_else(|error| panic!("request {request}: {error}"));
        assert!(answer.ends_with(" cargo"), "with its body: {answer}");
    }
    let list = handle.endpoints().await.unwrap();
    let dead = list
        .iter()
        .find(|info| info.failures > 0)
        .expect("the one that refuses");
    assert_eq!(
        dead.instance.as_ref().unwrap().address.to_string(),
        nobody.to_string()
    );
    assert!(dead.requests >= 10, "it had its turns");
    assert!(list.iter().all(|info| info.in_flight == 0));
}

#[tokio::test]
async fn when_every_connection_is_refused_the_error_says_so() {
    let (_held, one) = refused().await;
    let (_held_too, two) = refused().await;
    let balance = balanced(&[one, two]).await;
    let error = call(&balance).await.unwrap_err();
    assert!(error.contains("Endpoint"), "{error}");
    // And the request comes back to whoever may send it later.
    let request = Request::get("http://user-service/").body(Body::default());
    let error = balance.clone().oneshot(request.unwrap()).await.unwrap_err();
    assert!(classify::reclaim::<Request<Body>>(&error).is_some());
    let list = balance.handle().endpoints().await.unwrap();
    assert_eq!(list.iter().map(|info| info.in_flight).sum::<usize>(), 0);
}

#[tokio::test]
async fn an_instance_is_what_the_registry_says() {
    let server = Server::start().await;
    let balance = balanced(&[server.addr]).await;
    let handle = balance.handle();
    handle.wait_for(|status| status.usable == 1).await.unwrap();
    let list = handle.endpoints().await.unwrap();
    let instance: &Instance = list[0].instance.as_ref().expect("one of ours");
    assert_eq!(instance.address.to_string(), server.addr.to_string());
}
