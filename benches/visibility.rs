//! How long after a bare blocking query a change in Consul is visible in the `Discover`.
//!
//! A real agent; each round registers or deregisters one instance of a service of 20. Two watchers
//! wait for it at the same time: a bare `GET …?index=N` over one hyper connection, stamped when its
//! last byte has arrived, and the crate's whole way up to the `Change` that tower's balancer
//! would get. Reported is the difference of the two, median and spread. Needs a Consul binary
//! (`tests/run.sh` gets one); says so when there is none.
//!
//! `cargo bench --bench visibility`

#![allow(unreachable_pub, reason = "a program has no public items")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    convert::Infallible,
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::poll_fn};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tower_roster::{Instance, registry};

const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    let once = std::env::args().any(|arg| arg == "--test" || arg == "--list");
    if support::consul::binary().is_none() {
        println!("visibility: not run, because no Consul was found (tests/run.sh gets one)");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(run(if once { 3 } else { 200 }));
}

async fn run(rounds: usize) {
    let agent = support::Agent::dev().await;
    for id in 0..20 {
        register(&agent, &format!("web-{id}"), 8_000 + id).await;
    }
    let (stamps, mut bare) = mpsc::unbounded_channel();
    tokio::spawn(bare_watch(agent.http_addr(), stamps));

    let registry = registry::connect(&agent.url().replace("http", "consul")).expect("a URL");
    let watch = registry.watch("web").expect("a watch");
    let discover = watch.discover(|_: &Instance| Ok::<_, Infallible>(()));
    let mut discover = Box::pin(discover.fuse());
    for _ in 0..20 {
        change(&mut discover).await;
    }
    timeout(PATIENCE, bare.recv())
        .await
        .expect("the first answer")
        .expect("a stamp");

    let mut differences = Vec::new();
    for round in 0..rounds {
        // Changes that come faster than the pace of ten a second are seen together.
        tokio::time::sleep(Duration::from_millis(250)).await;
        while bare.try_recv().is_ok() {}
        let act = async {
            match round % 2 {
                0 => register(&agent, "extra", 9_000).await,
                _ => agent.deregister_service("extra").await,
            }
        };
        let seen = async {
            change(&mut discover).await;
            Instant::now()
        };
        let answered = async { bare.recv().await.expect("a stamp") };
        let all = async { tokio::join!(act, seen, answered) };
        let ((), seen, answered) = timeout(PATIENCE, all).await.expect("a change is seen");
        differences.push(
            seen.duration_since(answered).as_secs_f64() * 1e3
                - answered.duration_since(seen).as_secs_f64() * 1e3,
        );
    }
    differences.sort_by(f64::total_cmp);
    let quantile = |q: f64| differences[((differences.len() - 1) as f64 * q) as usize];
    println!("\n| visible in the Discover after a bare blocking query returned | ms |");
    println!("|---|---|");
    println!(
        "| median of {rounds} changes | {:.3} (bar: 2) |",
        quantile(0.5)
    );
    println!(
        "| fastest tenth, slowest tenth | {:.3}, {:.3} |",
        quantile(0.1),
        quantile(0.9)
    );
}

async fn register(agent: &support::Agent, id: &str, port: u16) {
    agent
        .register_service(id, "web", "127.0.0.1", port, json!({}))
        .await;
}

async fn change<D>(discover: &mut Pin<Box<D>>)
where
    D: tower::discover::Discover<Error = Infallible>,
{
    let next = poll_fn(|cx| discover.as_mut().poll_discover(cx));
    let change = timeout(PATIENCE, next).await.expect("a change in time");
    assert!(change.is_some(), "a Discover never ends");
}

/// The least that any client must do: ask with an index, read the answer, ask again.
async fn bare_watch(agent: std::net::SocketAddr, stamps: mpsc::UnboundedSender<Instant>) {
    let stream = TcpStream::connect(agent).await.expect("the agent listens");
    stream.set_nodelay(true).expect("a socket");
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.expect("http");
    tokio::spawn(connection);
    let mut index = String::from("1");
    loop {
        let uri = format!("/v1/health/service/web?index={index}&wait=60s");
        let request = Request::get(uri)
            .header("host", "consul")
            .body(Empty::<Bytes>::new())
            .expect("a request");
        let Ok(response) = send.send_request(request).await else {
            return;
        };
        let (head, body) = response.into_parts();
        if body.collect().await.is_err() || stamps.send(Instant::now()).is_err() {
            return;
        }
        let header = head.headers["x-consul-index"].to_str();
        header.expect("an index").clone_into(&mut index);
    }
}
