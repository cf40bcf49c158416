//! A real Prometheus scrapes a client of real backends, and answers queries of the dashboard.

use std::{convert::Infallible, fs, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde_json::Value;
use tokio::net::TcpListener;
use tower::{Service, ServiceExt};
use tower_roster::{
    client::{HttpEndpoints, Stack},
    registry,
    telemetry::{Metrics, Telemetry},
};

use crate::{
    queries,
    support::{Backend, eventually, http1, need, ports::Port, process::Process},
};

const WITHIN: Duration = Duration::from_secs(30);

/// Serves what the exporter has.
async fn serve(exporter: PrometheusHandle) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let exporter = exporter.clone();
            let service = service_fn(move |_: Request<Incoming>| {
                let text = exporter.render();
                async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
            });
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    addr
}

/// The value of a query, summed over its series; `None` while there are none.
async fn ask(prometheus: SocketAddr, query: &str) -> Option<f64> {
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let target = format!("/api/v1/query?query={encoded}");
    let reply = http1::send(prometheus, "GET", &target, &[], b"", Duration::from_secs(5)).await;
    let reply = reply.ok().filter(|reply| reply.status == 200)?.json();
    let series = reply["data"]["result"].as_array()?;
    let value = |one: &Value| one["value"][1].as_str()?.parse::<f64>().ok();
    let values: Vec<f64> = series.iter().filter_map(value).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// The query of the dashboard that contains this text.
fn of_dashboard(part: &str) -> String {
    let found = queries().into_iter().find(|query| query.contains(part));
    found.unwrap_or_else(|| panic!("no query of the dashboard has {part}"))
}

#[tokio::test]
async fn a_real_prometheus_answers_queries_of_the_dashboard() {
    let program = need!(prometheus);
    let buckets = [0.005, 0.02, 0.05, 0.1, 0.5, 1.0];
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &buckets)
        .unwrap()
        .build_recorder();
    let exporter = serve(recorder.handle()).await;
    let metrics = Metrics::new()
        .recorder(Arc::new(recorder))
        .interval(Duration::from_millis(100));
    let backends = [Backend::start("a").await, Backend::start("b").await];
    backends
        .iter()
        .for_each(|backend| backend.set_delay(Duration::from_millis(30)));
    let addresses = backends
        .each_ref()
        .map(|backend| backend.addr().to_string());
    let registry = registry::connect(&format!("fixed:{}", addresses.join(","))).unwrap();
    let watch = registry.watch("user-service").unwrap();
    let built = Stack::http()
        .hedge(None)
        .telemetry(Telemetry::new().service("user-service").metrics(metrics))
        .build(watch.discover(HttpEndpoints::new()))
        .unwrap();

    let (dir, port) = (tempfile::tempdir().unwrap(), Port::lease());
    let prometheus = SocketAddr::from(([127, 0, 0, 1], port.get()));
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: call, metrics_path: /metrics, \
         static_configs: [{{targets: ['{exporter}']}}]}}]\n"
    );
    fs::write(dir.path().join("config.yml"), config).unwrap();
    let listen = format!("--web.listen-address={prometheus}");
    let args = [
        "--config.file=config.yml",
        "--storage.tsdb.path=data",
        &*listen,
    ];
    let log = dir.path().join("log");
    let _server = Process::spawn(&program, &args, dir.path(), &log).unwrap();

    let client = built.service;
    let load = tokio::spawn(async move {
        loop {
            let request = Request::get("http://user-service/").body(Empty::<Bytes>::new());
            let mut client = client.clone();
            let response = client.ready().await.unwrap().call(request.unwrap()).await;
            response.unwrap().into_body().collect().await.unwrap();
        }
    });
    let rate = of_dashboard("sum(rate(roster_requests_total{service=~\".*\"}[1m]))");
    let rate = rate.split(" / ").last().unwrap().to_owned();
    eventually(WITHIN, "requests per second", || async {
        let seen = ask(prometheus, &rate).await;
        // One after the other, and each takes 30 ms.
        seen.filter(|rate| (3.0..34.0).contains(rate)).ok_or(seen)
    })
    .await;
    let usable = of_dashboard("sum(roster_endpoints_usable");
    eventually(WITHIN, "two usable endpoints", || async {
        let seen = ask(prometheus, &usable).await;
        (seen == Some(2.0)).then_some(()).ok_or(seen)
    })
    .await;
    let p99 = of_dashboard("histogram_quantile(0.99, sum by (le) (rate(roster_request_duration");
    eventually(WITHIN, "the 99th percentile", || async {
        let seen = ask(prometheus, &p99).await;
        seen.filter(|p99| (0.02..0.5).contains(p99)).ok_or(seen)
    })
    .await;
    load.abort();
}
