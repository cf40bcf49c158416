//! How long after a bare blocking query a change in Consul is visible in the `Discover`, and what many
//! services and long lists cost while nothing happens.
//!
//! A real agent; each round registers or deregisters one instance of a service of 20. Two watchers
//! wait for it at the same time: a bare `GET …?index=N` over one hyper connection, stamped when its
//! last byte has arrived, and the crate's whole way up to the `Change` that tower's balancer
//! would get. Reported is the difference of the two, median and spread. Then 500 services are watched on
//! an agent as it is by default, and one of 5,000 instances. Needs a Consul binary
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
use futures_util::{
    StreamExt,
    future::{join_all, poll_fn},
};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tower_roster::{
    Instance, Registry,
    registry::{
        self, ViewState,
        consul::{Consistency, Consul, ConsulConfig, ConsulOptions},
    },
};

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
    let time = Duration::from_secs(if once { 1 } else { 20 });
    runtime.block_on(many_services(if once { 20 } else { 500 }, time));
    runtime.block_on(long_list(if once { 100 } else { 5_000 }, time));
}

/// Watches many services on an agent that grants 200 connections, as it does by default.
async fn many_services(services: usize, time: Duration) {
    let agent = support::Agent::server().await;
    for service in 0..services {
        let name = format!("service-{service:03}");
        agent
            .register_service(&name, &name, "127.0.0.1", 80, json!({}))
            .await;
    }
    let began = Instant::now();
    let registry = Registry::new(Consul::new(config(&agent)).expect("a client"));
    let watches = (0..services).map(|service| {
        let watch = registry.watch(format!("service-{service:03}"));
        watch.expect("a watch")
    });
    let mut watches: Vec<_> = watches.collect();
    let live = watches
        .iter_mut()
        .map(|watch| watch.wait_for(|view| view.state == ViewState::Live));
    timeout(6 * PATIENCE, join_all(live))
        .await
        .expect("all are live in time");
    let live = began.elapsed();
    tokio::time::sleep(time).await;
    let share = share_of_a_core(time).await;
    println!("\n| {services} services, default agent | measured | bar |");
    println!("|---|---|---|");
    println!("| all live after | {:.2} s | 5 s |", live.as_secs_f64());
    println!(
        "| share of a core while idle | {:.2} % | 3 % |",
        share * 100.0
    );
}

/// What confirming a long list costs: with the probe, and as a stale query, which has none.
async fn long_list(instances: usize, time: Duration) {
    let agent = support::Agent::server().await;
    // A transaction has at most 64 operations.
    for first in (0..instances).step_by(20) {
        let ids = first..instances.min(first + 20);
        let operations: Vec<_> = ids.flat_map(entry).collect();
        agent
            .put("/v1/txn", Some(serde_json::Value::Array(operations)))
            .await
            .ok();
    }
    println!("\n| one confirmation of {instances} instances | processor |");
    println!("|---|---|");
    let stale = ConsulOptions::default().consistency(Consistency::Stale(PATIENCE));
    for (name, options) in [
        ("by one of its instances", ConsulOptions::default()),
        ("by reading the list", stale),
    ] {
        let wait = Duration::from_secs(1);
        let consul = Consul::new(config(&agent).options(options.wait(wait)));
        let registry = Registry::new(consul.expect("a client"));
        let mut watch = registry.watch("web").expect("a watch");
        let listed = watch.wait_for(|view| view.instances.len() == instances);
        timeout(PATIENCE, listed)
            .await
            .expect("the list in time")
            .expect("the runtime runs");
        tokio::time::sleep(2 * wait).await;
        let share = share_of_a_core(time).await;
        println!("| {name} | {:.2} ms |", share * wait.as_secs_f64() * 1e3);
    }
}

fn entry(index: usize) -> [serde_json::Value; 3] {
    let (id, node) = (format!("web-{index:05}"), format!("node-{index:05}"));
    let address = format!("10.0.{}.{}", index >> 8, index & 255);
    [
        json!({"Node": {"Verb": "set", "Node": {"Node": node, "Address": address}}}),
        json!({"Service": {"Verb": "set", "Node": node, "Service": {
            "ID": id, "Service": "web", "Address": address, "Port": 8080,
            "Tags": ["v1", "primary"], "Meta": {"zone": "eu-1a", "version": "1.4.2"},
        }}}),
        json!({"Check": {"Verb": "set", "Check": {
            "Node": node, "CheckID": format!("service:{id}"), "Name": "a check of the service",
            "Status": "passing", "ServiceID": id, "Output": "HTTP GET: 200 OK Output: ok",
        }}}),
    ]
}

fn config(agent: &support::Agent) -> ConsulConfig {
    ConsulConfig::new(agent.url())
}

/// The processor's time of this process while nothing happens.
async fn share_of_a_core(time: Duration) -> f64 {
    let spent = || -> Duration {
        let spent = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID);
        spent.expect("a clock").into()
    };
    let (before, began) = (spent(), Instant::now());
    tokio::time::sleep(time).await;
    (spent() - before).as_secs_f64() / began.elapsed().as_secs_f64()
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
