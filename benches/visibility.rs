//! How long after a bare blocking query a change in Consul is visible in the `Discover`, and what many
//! services and long lists cost while nothing happens.
//!
//! A real agent; each round registers or deregisters one instance of a service of 20. Two watchers
//! wait for it at the same time: a bare `GET …?index=N` over one hyper connection, stamped when its
//! last byte has arrived, and the crate's whole way up to the `Change` that tower's balancer
//! would get. Reported is the difference of the two, median and spread. Then 500 services are watched on
//! an agent as it is by default, and one of 5,000 instances. With the features `etcd` and `zookeeper`,
//! changes are compared on those too, with few instances and many. Needs their servers (`tests/run.sh`
//! gets them); says so when there is none.
//!
//! `cargo bench --bench visibility --features etcd,zookeeper`

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
    #[cfg(feature = "etcd")]
    for instances in [20, if once { 100 } else { 10_000 }] {
        runtime.block_on(etcd(instances, if once { 3 } else { 200 }));
    }
    #[cfg(feature = "zookeeper")]
    {
        for instances in [20, if once { 100 } else { 10_000 }] {
            runtime.block_on(zookeeper::changes(instances, if once { 3 } else { 200 }));
        }
        runtime.block_on(zookeeper::many_watches(if once { 20 } else { 1_000 }));
    }
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

/// The processor's time that this process has used.
fn processor() -> Duration {
    let spent = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID);
    spent.expect("a clock").into()
}

fn config(agent: &support::Agent) -> ConsulConfig {
    ConsulConfig::new(agent.url())
}

/// The processor's time of this process while nothing happens.
async fn share_of_a_core(time: Duration) -> f64 {
    let (before, began) = (processor(), Instant::now());
    tokio::time::sleep(time).await;
    (processor() - before).as_secs_f64() / began.elapsed().as_secs_f64()
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

    let act = async |round: usize| match round % 2 {
        0 => register(&agent, "extra", 9_000).await,
        _ => agent.deregister_service("extra").await,
    };
    let title = "a bare blocking query of Consul returned";
    compare(title, 2, rounds, act, &mut discover, &mut bare).await;
}

/// Prints how much later the `Discover` sees a change than a bare watch.
async fn compare<D>(
    title: &str,
    bar: u32,
    rounds: usize,
    act: impl AsyncFn(usize),
    discover: &mut Pin<Box<D>>,
    bare: &mut mpsc::UnboundedReceiver<Instant>,
) where
    D: tower::discover::Discover<Error = Infallible>,
{
    let mut differences = Vec::new();
    for round in 0..rounds {
        // Changes that come faster than the pace of ten a second are seen together.
        tokio::time::sleep(Duration::from_millis(250)).await;
        while bare.try_recv().is_ok() {}
        let seen = async {
            change(discover).await;
            Instant::now()
        };
        let answered = async { bare.recv().await.expect("a stamp") };
        let all = async { tokio::join!(act(round), seen, answered) };
        let ((), seen, answered) = timeout(PATIENCE, all).await.expect("a change is seen");
        differences.push(
            seen.duration_since(answered).as_secs_f64() * 1e3
                - answered.duration_since(seen).as_secs_f64() * 1e3,
        );
    }
    differences.sort_by(f64::total_cmp);
    let quantile = |q: f64| differences[((differences.len() - 1) as f64 * q) as usize];
    println!("\n| visible in the Discover after {title} | ms |");
    println!("|---|---|");
    println!(
        "| median of {rounds} changes | {:.3} (bar: {bar}) |",
        quantile(0.5)
    );
    println!(
        "| fastest tenth, slowest tenth | {:.3}, {:.3} |",
        quantile(0.1),
        quantile(0.9)
    );
}

/// The same on etcd, beside a bare watch, and what so many instances cost.
#[cfg(feature = "etcd")]
async fn etcd(instances: usize, rounds: usize) {
    use support::etcd::encode;

    if support::etcd::binary().is_none() {
        println!("etcd: not run, because there is none (tests/run.sh gets one)");
        return;
    }
    let etcd = support::Etcd::server().await;
    let put = |id: usize| {
        let address = format!("10.{}.{}.1:8080", id >> 8, id & 255);
        let instance = Instance::new("web", format!("web-{id:05}"), address.parse().expect("one"));
        let value = registry::record::encode(&instance, 1);
        let key = encode(format!("/services/web/web-{id:05}"));
        json!({"request_put": {"key": key, "value": encode(value)}})
    };
    for first in (0..instances).step_by(100) {
        let puts: Vec<_> = (first..instances.min(first + 100)).map(put).collect();
        etcd.post("/v3/kv/txn", json!({"success": puts})).await.ok();
    }
    let (stamps, mut bare) = mpsc::unbounded_channel();
    tokio::spawn(bare_etcd(etcd.addr(), stamps));
    let registry = registry::connect(&etcd.url()).expect("a URL");
    let began = Instant::now();
    let mut watch = registry.watch("web").expect("a watch");
    let listed = watch.wait_for(|view| view.instances.len() == instances);
    let listed = timeout(PATIENCE, listed).await.expect("the list in time");
    listed.expect("the runtime runs");
    let listed = began.elapsed();
    let discover = watch.discover(|_: &Instance| Ok::<_, Infallible>(()));
    let mut discover = Box::pin(discover.fuse());
    for _ in 0..instances {
        change(&mut discover).await;
    }
    timeout(PATIENCE, bare.recv())
        .await
        .expect("the first line")
        .expect("a stamp");
    let sent = || etcd.metric("etcd_network_client_grpc_sent_bytes_total");
    let before = sent().await;
    let act = async |round: usize| match round % 2 {
        0 => etcd.put("/services/web/extra", "10.0.0.1:80").await,
        _ => etcd.delete("/services/web/extra").await,
    };
    let title = format!("a bare watch of etcd did, {instances} instances");
    compare(&title, 2, rounds, act, &mut discover, &mut bare).await;
    let bytes = (sent().await - before) / rounds as f64;
    println!(
        "| first set | {:.0} (bar: 1000) |",
        listed.as_secs_f64() * 1e3
    );
    println!("| bytes of one change, for both watches | {bytes:.0} |");
}

/// The same on ZooKeeper: additions, beside a bare watch of the list; and what many watches cost.
#[cfg(feature = "zookeeper")]
mod zookeeper {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    fn record(id: &str) -> Vec<u8> {
        let instance = Instance::new("web", id, "10.0.0.7:8080".parse().expect("one"));
        registry::record::encode(&instance, 1)
    }

    pub(crate) async fn changes(instances: usize, rounds: usize) {
        if support::zookeeper::binary().is_none() {
            println!("ZooKeeper: not run, because there is none (tests/run.sh gets one)");
            return;
        }
        let server = support::Zookeeper::server().await;
        let client = Arc::new(server.client().await);
        let nodes = (0..instances).map(|id| format!("web-{id:05}"));
        let nodes = nodes.map(|id| (id.clone(), record(&id)));
        client.put_all("/services/web", nodes).await;
        let (stamps, mut bare) = mpsc::unbounded_channel();
        tokio::spawn(bare_list(server.client().await, stamps));
        let (addr, bytes) = counting(server.addr()).await;
        let registry = registry::connect(&format!("zk://{addr}")).expect("a URL");
        let (began, before) = (Instant::now(), processor());
        let mut watch = registry.watch("web").expect("a watch");
        let listed = watch.wait_for(|view| view.instances.len() == instances);
        let listed = timeout(PATIENCE, listed).await.expect("the list in time");
        listed.expect("the runtime runs");
        let (listed, spent) = (began.elapsed(), processor() - before);
        let first = bytes.swap(0, Relaxed);
        let discover = watch.discover(|_: &Instance| Ok::<_, Infallible>(()));
        let mut discover = Box::pin(discover.fuse());
        for _ in 0..instances {
            change(&mut discover).await;
        }
        let requests = || server.metric("zk_packets_received");
        let (before, requests_before) = (processor(), requests());
        let act = async |round: usize| {
            let path = format!("/services/web/extra-{round:03}");
            client
                .put(&path, record(&format!("extra-{round:03}")))
                .await;
        };
        let title = format!("a bare watch of ZooKeeper did, {instances} instances");
        compare(&title, 5, rounds, act, &mut discover, &mut bare).await;
        let each = |all: f64| all / rounds as f64;
        println!(
            "| first set | {:.0} (bar: 1000) |",
            listed.as_secs_f64() * 1e3
        );
        println!(
            "| processor, bytes of the first set | {:.0}, {first} |",
            spent.as_secs_f64() * 1e3
        );
        println!(
            "| bytes of one change | {:.0} |",
            each(bytes.load(Relaxed) as f64)
        );
        println!(
            "| requests of one change, with those of the bare watch and of the writer | {:.1} |",
            each(requests() - requests_before)
        );
        println!(
            "| processor of one change, of all three | {:.2} |",
            each((processor() - before).as_secs_f64() * 1e3)
        );
    }

    pub(crate) async fn many_watches(services: usize) {
        if support::zookeeper::binary().is_none() {
            return;
        }
        let server = support::Zookeeper::server().await;
        let client = server.client().await;
        for service in 0..services {
            let path = format!("/services/service-{service:04}/web-1");
            client.put(&path, record("web-1")).await;
        }
        let registry = registry::connect(&format!("zk://{}", server.addr())).expect("a URL");
        let before = resident();
        let began = Instant::now();
        let mut watches: Vec<_> = (0..services)
            .map(|service| {
                let watch = registry.watch(format!("service-{service:04}"));
                watch.expect("a watch")
            })
            .collect();
        let live = watches
            .iter_mut()
            .map(|watch| watch.wait_for(|view| view.state == ViewState::Live));
        timeout(6 * PATIENCE, join_all(live))
            .await
            .expect("all are live in time");
        println!("\n| {services} services on ZooKeeper | measured |");
        println!("|---|---|");
        println!(
            "| all live after | {:.2} s |",
            began.elapsed().as_secs_f64()
        );
        let each = (resident() - before) / services as f64;
        println!("| memory of one watch, with its instance | {each:.1} KiB |");
        println!(
            "| watches that the server holds for one | {:.1} |",
            server.watches() / services as f64
        );
    }

    /// The memory of this process, in KiB.
    fn resident() -> f64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.trim().split(' ').next());
        number.and_then(|number| number.parse().ok()).unwrap_or(0.0)
    }

    /// The least that any client must do: list, and wait for the event.
    async fn bare_list(client: support::zookeeper::Client, stamps: mpsc::UnboundedSender<Instant>) {
        loop {
            let armed = client.raw().get_and_watch_children("/services/web").await;
            let (_, _, watcher) = armed.expect("a list");
            watcher.changed().await;
            if stamps.send(Instant::now()).is_err() {
                return;
            }
        }
    }

    /// Counts the bytes of both directions on the way to a server.
    async fn counting(server: std::net::SocketAddr) -> (std::net::SocketAddr, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let bytes = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&bytes);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(server).await else {
                    continue;
                };
                for stream in [&near, &far] {
                    stream.set_nodelay(true).expect("a socket");
                }
                let (near, far) = (near.into_split(), far.into_split());
                for (mut from, mut to) in [(near.0, far.1), (far.0, near.1)] {
                    let count = Arc::clone(&count);
                    tokio::spawn(async move {
                        let mut buffer = vec![0; 64 << 10];
                        while let Ok(length @ 1..) = from.read(&mut buffer).await {
                            count.fetch_add(length as u64, Relaxed);
                            if to.write_all(&buffer[..length]).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            }
        });
        (addr, bytes)
    }
}

/// The least that any client of etcd must do: open a watch, and read its lines.
#[cfg(feature = "etcd")]
async fn bare_etcd(server: std::net::SocketAddr, stamps: mpsc::UnboundedSender<Instant>) {
    use support::etcd::encode;

    let stream = TcpStream::connect(server)
        .await
        .expect("the server listens");
    stream.set_nodelay(true).expect("a socket");
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.expect("http");
    tokio::spawn(connection);
    let (key, end) = (encode("/services/web/"), encode("/services/web0"));
    let body = json!({"create_request": {"key": key, "range_end": end}});
    let request = Request::post("/v3/watch")
        .header("host", "etcd")
        .body(http_body_util::Full::<Bytes>::from(body.to_string()))
        .expect("a request");
    let response = send.send_request(request).await.expect("a watch");
    let mut body = response.into_body();
    while let Some(Ok(_)) = body.frame().await {
        if stamps.send(Instant::now()).is_err() {
            return;
        }
    }
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
