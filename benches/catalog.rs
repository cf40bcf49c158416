//! What one change of a large service costs: decoding, folding and comparing.
//!
//! Criterion measures each step alone; at the end a table shows the ratios that matter, each from
//! interleaved runs in this process, as the median of several, and what a rollout in the embedded
//! registry costs one that watches. `cargo bench --bench catalog`;
//! with `--test` everything runs once.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput};
use futures_util::StreamExt;
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tower_roster::{
    Registry,
    catalog::{EmptyGuard, InstanceSet, Listing, Settle, diff},
    instance::Instance,
    registry::{consul::wire, memory::Memory},
};

/// A reply as an agent writes it: two checks, two tags and two pairs of metadata for each instance.
fn reply(instances: usize, changed: Option<usize>) -> Vec<u8> {
    let entry = |index: usize| -> Value {
        let (id, node) = (format!("web-{index:05}"), format!("node-{:05}", index));
        let address = format!("10.{}.{}.{}", index >> 16, (index >> 8) & 255, index & 255);
        let weight = if changed == Some(index) { 2 } else { 1 };
        let check = |name: &str, service: &str| {
            json!({
                "Node": node, "CheckID": name, "Name": "a check of the service", "Status": "passing",
                "Notes": "", "Output": "HTTP GET http://10.0.0.1:8080/health: 200 OK Output: ok",
                "ServiceID": service, "ServiceName": "web", "ServiceTags": ["v1", "primary"],
                "Type": "http", "Definition": {}, "CreateIndex": 10, "ModifyIndex": 10,
            })
        };
        json!({
            "Node": {
                "ID": "40e4a748-2192-161a-0510-9bf59fe950b5", "Node": node, "Address": address,
                "Datacenter": "dc1", "TaggedAddresses": {"lan": address, "wan": address},
                "Meta": {"consul-network-segment": ""}, "CreateIndex": 5, "ModifyIndex": 5,
            },
            "Service": {
                "ID": id, "Service": "web", "Tags": ["v1", "primary"], "Address": address,
                "TaggedAddresses": {"lan_ipv4": {"Address": address, "Port": 8080}},
                "Meta": {"zone": "eu-1a", "version": "1.4.2"}, "Port": 8080,
                "Weights": {"Passing": weight, "Warning": 1}, "EnableTagOverride": false,
                "Proxy": {"MeshGateway": {}, "Expose": {}}, "Connect": {},
                "CreateIndex": 10, "ModifyIndex": 10,
            },
            "Checks": [check("serfHealth", ""), check(&format!("service:{id}"), &id)],
        })
    };
    let entries: Vec<_> = (0..instances).map(entry).collect();
    serde_json::to_vec(&entries).expect("a reply is JSON")
}

fn listing(decoder: &mut wire::Decoder, body: &[u8]) -> Listing {
    let decoded = decoder.decode(body).expect("the reply is sound");
    Listing {
        instances: decoded.instances,
        exists: true,
        doubt: None,
        rejected: decoded.rejected,
    }
}

/// A decoder and a catalog that have seen `body`.
fn catalog(body: &[u8]) -> (wire::Decoder, Settle) {
    let mut decoder = wire::Decoder::new("web".into(), None);
    let mut settle = Settle::new(EmptyGuard::default(), Duration::ZERO, false);
    settle.offer(listing(&mut decoder, body), tokio::time::Instant::now());
    (decoder, settle)
}

/// A set all of whose instances are copies of their own; only the service's name is shared, as it
/// is between all instances of one watch.
fn set(service: &Arc<str>, instances: usize, changed: Option<usize>) -> InstanceSet {
    let instance = |index: usize| {
        let address = format!(
            "10.{}.{}.{}:80",
            index >> 16,
            (index >> 8) & 255,
            index & 255
        );
        let address = address.parse().expect("it is an address");
        let weight = if changed == Some(index) { 2 } else { 1 };
        Instance::new(Arc::clone(service), format!("web-{index:05}"), address)
            .weight(weight)
            .meta("version", "1.4.2")
    };
    (0..instances).map(instance).collect()
}

fn criterion_benches(criterion: &mut Criterion) {
    let service: Arc<str> = "web".into();
    let now = tokio::time::Instant::now();

    let mut group = criterion.benchmark_group("health_reply");
    for instances in [10, 100, 1_000, 5_000] {
        let (before, after) = (
            reply(instances, None),
            reply(instances, Some(instances / 2)),
        );
        group.throughput(Throughput::Bytes(after.len() as u64));
        group.bench_function(BenchmarkId::new("parse_alone", instances), |bencher| {
            bencher.iter(|| black_box(wire::parse(black_box(&after)).expect("sound").len()));
        });
        group.bench_function(BenchmarkId::new("decode_and_diff", instances), |bencher| {
            let (mut decoder, mut settle) = catalog(&before);
            let mut bodies = [&after, &before].into_iter().cycle();
            bencher.iter(|| {
                let old = settle.set().clone();
                let body = bodies.next().expect("it repeats");
                settle.offer(listing(&mut decoder, black_box(body)), now);
                black_box(diff(&old, settle.set()).len())
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("diff");
    for instances in [100, 1_000, 10_000] {
        let (old, fresh) = (
            set(&service, instances, None),
            set(&service, instances, Some(instances / 2)),
        );
        // As in use: what did not change is shared between the two.
        let mut settle = Settle::new(EmptyGuard::default(), Duration::ZERO, false);
        let list = |set: &InstanceSet| Listing {
            instances: set.iter().map(|i| Arc::new((**i).clone())).collect(),
            exists: true,
            ..Listing::default()
        };
        settle.offer(list(&old), now);
        let shared = settle.set().clone();
        settle.offer(list(&fresh), now);
        group.bench_function(BenchmarkId::new("shared", instances), |bencher| {
            bencher.iter(|| black_box(diff(black_box(&shared), settle.set()).len()));
        });
        group.bench_function(BenchmarkId::new("nothing_shared", instances), |bencher| {
            bencher.iter(|| black_box(diff(black_box(&old), &fresh).len()));
        });
    }
    group.finish();
}

/// The median time of `rounds` runs of each of two functions, taken in turns.
fn side_by_side(rounds: usize, mut a: impl FnMut(), mut b: impl FnMut()) -> (Duration, Duration) {
    let mut times = (Vec::new(), Vec::new());
    let time = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    for _ in 0..rounds {
        times.0.push(time(&mut a));
        times.1.push(time(&mut b));
    }
    times.0.sort();
    times.1.sort();
    (times.0[rounds / 2], times.1[rounds / 2])
}

/// The share of a core that a rollout takes: 500 changes a second of 5,000 instances in the embedded
/// registry, with a `Discover` of them that is polled or without.
fn rollout(time: Duration, watched: bool) -> f64 {
    const INSTANCES: u32 = 5_000;
    let instance = |index: u32, weight: u16| {
        let address = format!("10.0.{}.{}:80", index >> 8, index & 255);
        let address = address.parse().expect("an address");
        Instance::new("web", format!("web-{index:05}"), address).weight(weight)
    };
    let spent = || -> Duration {
        let spent = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID);
        spent.expect("a clock").into()
    };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let memory = Memory::new();
        for index in 0..INSTANCES {
            memory.register(instance(index, 1)).expect("sound");
        }
        if watched {
            let watch = Registry::new(memory.clone()).watch("web");
            let watch = watch.expect("a watch");
            let made = |_: &Instance| Ok::<_, std::convert::Infallible>(());
            tokio::spawn(watch.discover(made).for_each(|_| std::future::ready(())));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (before, began) = (spent(), Instant::now());
        let mut ticks = tokio::time::interval(Duration::from_millis(2));
        let mut change = 0;
        while began.elapsed() < time {
            ticks.tick().await;
            change += 1;
            let weight = 2 + (change / INSTANCES) as u16;
            memory
                .register(instance(change % INSTANCES, weight))
                .expect("sound");
        }
        (spent() - before).as_secs_f64() / began.elapsed().as_secs_f64()
    })
}

fn table(rounds: usize) {
    let service: Arc<str> = "web".into();
    let now = tokio::time::Instant::now();
    let (before, after) = (reply(5_000, None), reply(5_000, Some(2_500)));
    let (mut decoder, mut settle) = catalog(&before);
    let mut bodies = [&after, &before].into_iter().cycle();
    let (parse, whole) = side_by_side(
        rounds,
        || {
            black_box(wire::parse(black_box(&after)).expect("sound").len());
        },
        || {
            let old = settle.set().clone();
            let body = bodies.next().expect("it repeats");
            settle.offer(listing(&mut decoder, body), now);
            assert_eq!(diff(&old, settle.set()).len(), 1, "one instance changed");
        },
    );
    let ratio = whole.as_secs_f64() / parse.as_secs_f64();

    let (mut decoder, mut settle) = catalog(&before);
    let known = settle.set().clone();
    settle.offer(listing(&mut decoder, &before), now);
    assert!(
        settle.set().is_same(&known),
        "a reply that says nothing new yields the same set"
    );

    let (old, new) = (
        set(&service, 10_000, None),
        set(&service, 10_000, Some(5_000)),
    );
    // As in use, what did not change is the same `Arc` in both.
    let list = |set: &InstanceSet| Listing {
        instances: set.iter().cloned().collect(),
        exists: true,
        ..Listing::default()
    };
    let mut settle = Settle::new(EmptyGuard::default(), Duration::ZERO, false);
    settle.offer(list(&old), now);
    let before = settle.set().clone();
    settle.offer(list(&new), now);
    let (cold, shared) = side_by_side(
        rounds,
        || {
            assert_eq!(diff(&old, &new).len(), 1);
        },
        || {
            assert_eq!(diff(&before, settle.set()).len(), 1);
        },
    );
    println!("\n| figure (median of {rounds} interleaved runs) | measured | bar |");
    println!("|---|---|---|");
    println!(
        "| parse a reply of 5 000 instances ({} bytes) | {parse:.2?} | |",
        after.len()
    );
    println!("| decode, fold and diff it, one change | {whole:.2?} | |");
    println!("| ratio of the two | {ratio:.2} | at most 1.3 |");
    println!("| diff of 10 000 instances, as in use | {shared:.2?} | below 1 ms |");
    println!("| the same, when no instance is shared between the sets | {cold:.2?} | |");
    let time = Duration::from_millis(if rounds == 1 { 50 } else { 5_000 });
    let (with, without) = (rollout(time, true), rollout(time, false));
    let watcher = (with - without).max(0.0) * 100.0;
    println!(
        "| share of a core to watch 5 000 instances of the embedded registry, 500 changes a second | \
         {watcher:.1} % | |"
    );
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    criterion_benches(&mut criterion);
    criterion.final_summary();
    let once = std::env::args().any(|arg| arg == "--test");
    table(if once { 1 } else { 101 });
}
