//! A client of real backends, and its status page on a real HTTP server.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};
use tower_roster::{
    BoxError, Instance, Registry,
    balance::{
        EndpointInfo,
        policy::RoundRobin,
        topology::{Shares, SplitSettings, Topology},
    },
    client::{Handles, HttpEndpoints, Stack},
    registry::{Announcement, Health, memory::Memory},
    service::breaker::BreakerSettings,
    telemetry::{
        Latencies, Telemetry,
        status::{StatusPage, StatusService, StatusSettings},
    },
};

use crate::support::{Backend, eventually, http1, http1::Reply};

pub(crate) const SERVICE: &str = "user-service";
pub(crate) const TOKEN: &str = "a-token-of-20-letters";
pub(crate) const WITHIN: Duration = Duration::from_secs(10);

/// What somebody who may write to the registry could try.
pub(crate) const SCRIPT: &str =
    "</script><img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>";

type Body = Full<Bytes>;

/// Three backends, a client of them, and its page.
pub(crate) struct Rig {
    pub(crate) backends: Vec<Backend>,
    pub(crate) memory: Memory,
    pub(crate) handles: Handles,
    pub(crate) page: Page,
    client: BoxCloneSyncService<http::Request<Body>, u16, BoxError>,
}

/// A page on a server.
pub(crate) struct Page {
    pub(crate) addr: SocketAddr,
    server: AbortHandle,
}

impl Drop for Page {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub(crate) fn settings() -> StatusSettings {
    StatusSettings::new()
        .title("test <page> & \"title\"")
        .interval(Duration::from_millis(250))
}

impl Rig {
    pub(crate) async fn start(settings: StatusSettings) -> Self {
        let mut backends = Vec::new();
        let memory = Memory::new();
        for (at, name) in ["user-1", "user-2", "user-3"].into_iter().enumerate() {
            let backend = Backend::start(name).await;
            let address = backend.addr().to_string().parse().unwrap();
            let instance = Instance::new(SERVICE, name, address)
                .zone(format!("zone-{at}"))
                .meta("version", if at == 2 { "v2" } else { "v1" })
                .meta("note", SCRIPT);
            backends.push(backend);
            memory
                .register(Announcement::new(instance).health(Health::Unchecked))
                .unwrap();
        }
        let registry = Registry::new(memory.clone());
        let discover = registry.watch(SERVICE).unwrap();
        let split = SplitSettings::new(Shares::canary("v2", 1.0 / 3.0));
        let latencies = Latencies::new();
        let built = Stack::http()
            .telemetry(Telemetry::new().monitor(latencies.clone()))
            .balance(|balance| {
                let topology = Topology::new().split(split);
                balance.policy(RoundRobin::new()).topology(topology).seed(1)
            })
            .hedge(None)
            .breaker(BreakerSettings::new())
            .build(discover.discover(HttpEndpoints::new()))
            .unwrap();
        let client = built.service.map_future(|response| async move {
            let response: http::Response<_> = response.await?;
            let status = response.status().as_u16();
            let body: http_body_util::Collected<Bytes> = response.into_body().collect().await?;
            drop(body);
            Ok(status)
        });
        let handles = built.handles;
        let status = StatusPage::new()
            .service_with_latencies(SERVICE, handles.clone(), latencies)
            .settings(settings)
            .build()
            .unwrap();
        handles
            .balance
            .wait_for(|status| status.endpoints == 3)
            .await
            .unwrap();
        Self {
            backends,
            memory,
            page: Page::serve(status).await,
            client: BoxCloneSyncService::new(client),
            handles,
        }
    }

    pub(crate) async fn call(&self, requests: usize) {
        for _ in 0..requests {
            let request = http::Request::get(format!("http://{SERVICE}/"));
            let request = request.body(Body::default()).unwrap();
            let mut client = self.client.clone();
            let _ = client.ready().await.unwrap().call(request).await;
        }
    }

    pub(crate) async fn endpoints(&self) -> Vec<EndpointInfo> {
        self.handles.balance.endpoints().await.unwrap()
    }

    pub(crate) fn deregister(&self, id: &str) {
        assert!(self.memory.deregister(id));
    }
}

impl Page {
    pub(crate) async fn serve(status: StatusService) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(status.clone());
                connections.spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            addr,
            server: server.abort_handle(),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.addr)
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let sent = http1::send(self.addr, method, target, headers, body.as_bytes(), WITHIN).await;
        sent.unwrap()
    }

    pub(crate) async fn get(&self, target: &str) -> Reply {
        self.send("GET", target, &[], "").await
    }

    pub(crate) async fn json(&self, query: &str) -> Value {
        self.get(&format!("/status.json{query}")).await.ok().json()
    }

    /// Sends an order with everything that it needs.
    pub(crate) async fn order(&self, order: Value) -> Reply {
        let token = format!("Bearer {TOKEN}");
        let origin = format!("http://{}", self.addr);
        let headers = [
            ("content-type", "application/json"),
            ("authorization", &*token),
            ("origin", &*origin),
        ];
        let mut body = json!({"service": SERVICE});
        let all = order.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(all);
        self.send("POST", "/orders", &headers, &body.to_string())
            .await
    }

    /// Opens an event stream, of which nothing is read yet.
    pub(crate) async fn open(&self, target: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let head = format!("GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n", self.addr);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    /// The endpoint of this id in a list.
    pub(crate) fn row<'a>(list: &'a Value, id: &str) -> &'a Value {
        let rows = list["endpoints"].as_array().unwrap();
        let row = rows.iter().find(|row| row["id"] == id);
        row.unwrap_or_else(|| panic!("{id} in {list}"))
    }
}

/// Waits until the JSON fulfils a condition.
pub(crate) async fn until(page: &Page, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(WITHIN, what, || async {
        let seen = page.json("").await;
        if holds(&seen) { Ok(seen) } else { Err(seen) }
    })
    .await
}
