//! What an open status page costs the process that serves it.
//!
//! One thread runs a balancer, its requests, and a real HTTP server with the page; another thread reads the
//! events as a browser does. The cost is the processor time of the first thread with a reader, less that
//! without.
//!
//! `cargo bench --bench status --features status`

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::{
    convert::Infallible,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use nix::time::{ClockId, clock_gettime};
use tokio::{
    net::TcpListener,
    time::{MissedTickBehavior, interval, sleep},
};
use tower::{Service, ServiceExt, service_fn};
use tower_roster::{
    Instance,
    classify::Answers,
    client::Stack,
    registry,
    telemetry::{Latencies, Telemetry, status::StatusPage},
};

/// How long each measurement takes.
const RUN: Duration = Duration::from_secs(10);

/// Requests per second, so that all figures of the page change.
const RATE: u32 = 1_000;

fn main() {
    println!("  endpoints  pages open  of a core  KB/s");
    for endpoints in [10, 100, 1_000, 10_000] {
        for pages in [1, 10] {
            measure(endpoints, pages);
        }
    }
}

fn measure(endpoints: usize, pages: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let (idle, open, bytes) = runtime.block_on(async {
        let addr = serve(endpoints).await;
        let idle = busy(RUN).await;
        let readers: Vec<_> = (0..pages)
            .map(|_| thread::spawn(move || read(addr, RUN + Duration::from_secs(2))))
            .collect();
        // The first events are not typical.
        sleep(Duration::from_secs(1)).await;
        let open = busy(RUN).await;
        let bytes: usize = tokio::task::spawn_blocking(|| {
            readers
                .into_iter()
                .map(|reader| reader.join().unwrap())
                .sum()
        })
        .await
        .unwrap();
        (idle, open, bytes)
    });
    let cost = 100.0 * (open.as_secs_f64() - idle.as_secs_f64()) / RUN.as_secs_f64();
    let rate = bytes as f64 / (RUN.as_secs_f64() + 2.0) / 1e3;
    println!("  {endpoints:>9}  {pages:>10}  {cost:>7.2} %  {rate:>4.0}");
}

/// The processor time of this thread while it sleeps for so long.
async fn busy(time: Duration) -> Duration {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let before = now();
    sleep(time).await;
    now() - before
}

/// A client with requests, and its page.
async fn serve(endpoints: usize) -> SocketAddr {
    let addresses: Vec<_> = (0..endpoints)
        .map(|n| format!("10.{}.{}.{}:80", n / 62_500, n / 250 % 250, n % 250))
        .collect();
    let registry = registry::connect(&format!("fixed:{}", addresses.join(","))).unwrap();
    let discover = registry.watch("user-service").unwrap();
    let discover = discover.discover(|_: &Instance| {
        Ok::<_, Infallible>(service_fn(|n: u32| async move { Ok::<_, Infallible>(n) }))
    });
    let latencies = Latencies::new();
    let stack =
        Stack::cloned(Answers::default()).telemetry(Telemetry::new().monitor(latencies.clone()));
    let built = stack.build(discover).unwrap();
    let handles = built.handles.clone();
    let listed = handles
        .balance
        .wait_for(|status| status.endpoints == endpoints);
    listed.await.unwrap();
    let page = StatusPage::new().service_with_latencies("user-service", handles, latencies);
    let page = page.build().unwrap();

    let client = built.service;
    tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(10));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            for n in 0..RATE / 100 {
                let mut client = client.clone();
                let _ = client.ready().await.unwrap().call(n).await;
            }
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(page.clone());
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    addr
}

/// Reads events for so long. Returns the number of bytes.
fn read(addr: SocketAddr, time: Duration) -> usize {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "GET /events HTTP/1.1\r\nhost: {addr}\r\n\r\n").unwrap();
    let (until, mut bytes) = (std::time::Instant::now() + time, 0);
    let mut reader = BufReader::new(stream);
    while std::time::Instant::now() < until {
        let mut line = Vec::new();
        bytes += reader.read_until(b'\n', &mut line).unwrap();
    }
    bytes
}
