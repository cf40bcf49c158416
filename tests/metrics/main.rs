//! The metrics of a client, as a recorder sees them.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use metrics::{SharedString, Unit};
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_util::{
    CompositeKey, MetricKindMask,
    debugging::{DebugValue, DebuggingRecorder},
};
use tower::{Service, ServiceExt};
use tower_roster::{
    Instance, Registry,
    balance::topology::{Shares, SplitSettings, Topology},
    classify::Answers,
    client::Stack,
    instance::Key,
    registry::memory::Memory,
    registry::{Announcement, Health},
    service::breaker::BreakerSettings,
    telemetry::{Cardinality, Metrics, Telemetry},
};

const MS: Duration = Duration::from_millis(1);

/// Answers even numbers, and fails for odd ones.
#[derive(Clone)]
struct Even;

impl Service<u64> for Even {
    type Response = u64;
    type Error = tower_roster::BoxError;
    type Future = Ready<Result<u64, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u64) -> Self::Future {
        ready(if n.is_multiple_of(2) {
            Ok(n)
        } else {
            Err("it is odd".into())
        })
    }
}

fn list(memory: &Memory, id: &str) {
    let port = 1_000 + (id.bytes().map(u16::from).sum::<u16>());
    let address = format!("10.0.0.1:{port}").parse().unwrap();
    let instance = Instance::new("web", id, address)
        .zone("north")
        .meta("version", "v1");
    let announcement = Announcement::new(instance).health(Health::Unchecked);
    memory.register(announcement).unwrap();
}

fn even(_: &Instance) -> Result<Even, Infallible> {
    Ok(Even)
}

/// A metric. To read counters sets them to zero, so all are taken once.
type Taken = (CompositeKey, Option<Unit>, Option<SharedString>, DebugValue);

/// The sum of each metric, by its name and the values of these labels.
fn sums(taken: &[Taken], labels: &[&str]) -> BTreeMap<(String, Vec<String>), f64> {
    let mut sums = BTreeMap::new();
    for (key, _, _, value) in taken {
        let (_, key) = key.clone().into_parts();
        let value = match value {
            DebugValue::Counter(count) => *count as f64,
            DebugValue::Gauge(value) => value.into_inner(),
            DebugValue::Histogram(values) => values.len() as f64,
        };
        let of = |name: &&str| {
            let mut found = key.labels().filter(|label| label.key() == *name);
            found
                .next()
                .map_or(String::new(), |label| label.value().to_owned())
        };
        let labels: Vec<_> = labels.iter().map(of).collect();
        *sums.entry((key.name().to_owned(), labels)).or_default() += value;
    }
    sums
}

/// Waits for what will soon be so.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(5 * MS).await;
        }
    };
    let waited = tokio::time::timeout(20_000 * MS, wait).await;
    assert!(waited.is_ok(), "not in time: {what}");
}

#[tokio::test(start_paused = true)]
async fn every_metric_of_the_table_is_emitted_and_no_other() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let memory = Memory::new();
    ["a", "b", "c"].iter().for_each(|id| list(&memory, id));
    let metrics = Metrics::new()
        .recorder(Arc::new(recorder))
        .interval(10 * MS);
    let split = SplitSettings::new(Shares::canary("v1", 0.5));
    let stack = Stack::cloned(Answers::default())
        .balance(|balance| balance.topology(Topology::new().split(split)))
        .breaker(BreakerSettings::new())
        .telemetry(Telemetry::new().service("web").metrics(metrics));
    let watch = Registry::new(memory.clone()).watch("web").unwrap();
    let built = stack.build(watch.discover(even)).unwrap();
    let balance = &built.handles.balance;
    balance.wait_for(|status| status.usable == 3).await.unwrap();
    tokio::time::sleep(20 * MS).await;
    for n in 0..20 {
        let _ = built.service.clone().oneshot(n).await;
    }
    let key = Key::new("a", "");
    balance.eject(&key).await.unwrap();
    balance.restore(&key).await.unwrap();
    assert!(memory.deregister("c"));
    tokio::time::sleep(50 * MS).await;

    let emitted: BTreeSet<_> = sums(&snapshotter.snapshot().into_vec(), &[])
        .into_keys()
        .map(|(name, _)| name)
        .collect();
    let text = std::fs::read_to_string("src/docs/metrics.md").unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let table: BTreeSet<_> = rows
        .map(|row| row.split('`').next().unwrap().to_owned())
        .collect();
    // A registry that fails and a guard that trips take more than this test has.
    let rare = ["roster_registry_errors_total", "roster_split_trips_total"];
    let rare: BTreeSet<_> = rare.map(str::to_owned).into();
    let missing: BTreeSet<_> = table.difference(&emitted).cloned().collect();
    assert!(missing.is_subset(&rare), "in the table only: {missing:?}");
    let unknown: Vec<_> = emitted.difference(&table).collect();
    assert!(unknown.is_empty(), "not in the table: {unknown:?}");
}

#[tokio::test(start_paused = true)]
async fn counters_agree_with_what_callers_saw() {
    for by in [
        Cardinality::Endpoint,
        Cardinality::Zone,
        Cardinality::Version,
        Cardinality::None,
    ] {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let memory = Memory::new();
        ["a", "b"].iter().for_each(|id| list(&memory, id));
        let metrics = Metrics::new().recorder(Arc::new(recorder)).by(by);
        let stack = Stack::cloned(Answers::default())
            .telemetry(Telemetry::new().service("web").metrics(metrics));
        let watch = Registry::new(memory).watch("web").unwrap();
        let built = stack.build(watch.discover(even)).unwrap();
        let balance = &built.handles.balance;
        balance.wait_for(|status| status.usable == 2).await.unwrap();
        let mut failed = 0;
        for n in 0..1_000 {
            failed += u32::from(built.service.clone().oneshot(n * n % 7).await.is_err());
        }
        let taken = snapshotter.snapshot().into_vec();
        let all = sums(&taken, &[]);
        let total = |name: &str| all[&(name.to_owned(), vec![])];
        let by_outcome = sums(&taken, &["outcome"]);
        let with = |name: &str, outcome: &str| {
            let found = by_outcome.get(&(name.to_owned(), vec![outcome.to_owned()]));
            found.copied().unwrap_or_default()
        };
        assert_eq!(total("roster_requests_total"), 1_000.0);
        assert_eq!(with("roster_requests_total", "other"), f64::from(failed));
        assert_eq!(
            with("roster_requests_total", "success"),
            f64::from(1_000 - failed)
        );
        assert_eq!(total("roster_requests_in_flight"), 0.0);
        assert_eq!(total("roster_attempts_in_flight"), 0.0);
        let by_kind = sums(&taken, &["kind"]);
        let kind = |kind: &str| {
            let found = by_kind.get(&("roster_attempts_total".into(), vec![kind.to_owned()]));
            found.copied().unwrap_or_default()
        };
        assert_eq!(kind("first"), 1_000.0);
        let budget = built.handles.budget.as_ref().unwrap().withdrawn();
        assert_eq!(kind("retry") + kind("hedge"), budget as f64);
        assert_eq!(
            total("roster_attempts_total"),
            ["first", "retry", "hedge", "resend"]
                .map(kind)
                .iter()
                .sum::<f64>()
        );
        let label = match by {
            Cardinality::Endpoint => ("endpoint", vec!["a", "b"]),
            Cardinality::Zone => ("zone", vec!["north"]),
            Cardinality::Version => ("version", vec!["v1"]),
            _ => ("endpoint", vec![""]),
        };
        let series = sums(&taken, &[label.0]);
        let values: Vec<_> = series
            .keys()
            .filter(|(name, _)| name == "roster_attempts_total")
            .map(|(_, labels)| labels[0].as_str())
            .collect();
        assert_eq!(values, label.1);
    }
}

/// In real time, because the recorder has a clock of its own.
#[tokio::test]
async fn the_series_of_endpoints_that_are_gone_disappear() {
    let recorder = PrometheusBuilder::new()
        .idle_timeout(
            MetricKindMask::COUNTER | MetricKindMask::GAUGE,
            Some(300 * MS),
        )
        .build_recorder();
    let exporter = recorder.handle();
    let metrics = Metrics::new()
        .recorder(Arc::new(recorder))
        .interval(50 * MS);
    let stack = Stack::cloned(Answers::default())
        .balance(|balance| balance.grace(Duration::ZERO).drain(Duration::ZERO))
        .telemetry(Telemetry::new().service("web").metrics(metrics));
    let memory = Memory::new();
    let watch = Registry::new(memory.clone()).watch("web").unwrap();
    let built = stack.build(watch.discover(even)).unwrap();
    let balance = built.handles.balance.clone();
    list(&memory, "stays");
    let mut client = built.service.clone();
    for wave in 0..10 {
        let ids: Vec<_> = (0..100).map(|n| format!("wave-{wave}-{n}")).collect();
        ids.iter().for_each(|id| list(&memory, id));
        balance
            .wait_for(|status| status.usable == 101)
            .await
            .unwrap();
        for n in 0..1_000 {
            client.ready().await.unwrap().call(2 * n).await.unwrap();
        }
        for id in &ids {
            assert!(memory.deregister(id));
        }
        balance
            .wait_for(|status| status.endpoints == 1)
            .await
            .unwrap();
    }
    let most = exporter.render().matches("endpoint=\"wave").count();
    until("the series of the waves are gone", || {
        !exporter.render().contains("endpoint=\"wave")
    })
    .await;
    assert!(most > 0, "they were there");
    // The one that stays has not been called for longer than the timeout.
    tokio::time::sleep(400 * MS).await;
    assert!(exporter.render().contains("endpoint=\"stays\""));
}
