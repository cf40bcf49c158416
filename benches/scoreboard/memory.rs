//! What an endpoint and a client take of memory, without connections.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use tokio::time::sleep;
use tower::ServiceExt;
use tower_roster::{
    Instance, Registry,
    balance::{BalanceLayer, BalanceStatus},
    client::{HttpEndpoints, Stack},
    registry::memory::Memory,
};

use super::{
    cluster,
    measure::{Effort, Samples, here},
    report::{Bar, Row},
};

const SIZE: usize = 10_000;

/// All that is allocated for a balancer and what discovery said, its instances included.
pub fn run(_: Effort) -> Vec<Row> {
    let runtime = here();
    let mut kept = None;
    let counted = allocation_counter::measure(|| {
        kept = Some(runtime.block_on(async {
            let endpoints = (0..SIZE).map(|index| cluster::endpoint(index, 1));
            let mut balance = BalanceLayer::new().balance(cluster::listed(endpoints));
            balance.ready().await.expect("endpoints");
            balance
        }));
    });
    drop(kept);
    let bytes = Samples(vec![counted.bytes_current as f64 / SIZE as f64]);
    vec![Row::new("memory of an endpoint, of 10,000", "B", &bytes).bar(Bar::Limit(1_024.0))]
}

/// As many services, with as many instances each.
const SERVICES: usize = 100;
const INSTANCES: usize = 10;

/// All that is allocated for the client of a service as a user builds it: the watch, its task, the
/// endpoints, the balancer and the layers. The records of the registry are not part of it.
pub fn client(_: Effort) -> Vec<Row> {
    let runtime = here();
    let memory = Memory::new();
    let name = |service: usize| format!("service-{service:03}");
    runtime.block_on(async {
        for service in 0..SERVICES {
            for index in 0..INSTANCES {
                let id = format!("{}-{index}", name(service));
                let address = format!("10.0.{service}.{index}:80");
                let address = address.parse().expect("an address");
                let instance = Instance::new(name(service), id, address);
                memory.register(instance).expect("a sound instance");
            }
        }
    });
    let registry = Registry::new(memory);
    let mut kept = Vec::with_capacity(SERVICES);
    let per_client = |counted: allocation_counter::AllocationInfo| {
        Samples(vec![counted.bytes_current as f64 / SERVICES as f64])
    };
    let counted = allocation_counter::measure(|| {
        runtime.block_on(async {
            for service in 0..SERVICES {
                let watch = registry.watch(name(service)).expect("a watch");
                let discover = watch.discover(HttpEndpoints::<Empty<Bytes>>::new());
                let client = Stack::http().build(discover).expect("defaults");
                let listed = |status: &BalanceStatus| status.endpoints == INSTANCES;
                let listed = client.handles.balance.wait_for(listed).await;
                listed.expect("the endpoints are listed");
                kept.push(client.service);
            }
            // What was made on the way and is over is given back.
            sleep(Duration::from_millis(1)).await;
        });
    });
    let bytes = per_client(counted);
    let name = "memory of a client of ten instances, default stack";
    vec![Row::new(name, "B", &bytes).bar(Bar::Limit(30_000.0))]
}
