//! The REST front of the embedded registry and its client.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod bad_answers;
mod bad_input;
mod blocking;
mod browser;
mod client;
mod limits;
mod requests;
mod restart;

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{net::TcpListener, task::AbortHandle};
use tower_roster::{
    Instance, Registry,
    registry::{
        self, View, Watch,
        memory::Memory,
        rest::{RestServer, RestServerSettings},
    },
};

use support::Reply;

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(30);
const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];

/// A served registry. Dropping it cuts every connection, as a kill does.
struct Front {
    addr: SocketAddr,
    memory: Memory,
    task: AbortHandle,
}

impl Front {
    async fn start() -> Self {
        Self::over(Memory::new(), "127.0.0.1:0".parse().unwrap()).await
    }

    async fn over(memory: Memory, addr: SocketAddr) -> Self {
        Self::with(memory, addr, RestServerSettings::new()).await
    }

    async fn with(memory: Memory, addr: SocketAddr, settings: RestServerSettings) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = settings.build(memory.clone()).unwrap();
        let serve = server.serve(listener, std::future::pending());
        let task = tokio::spawn(serve).abort_handle();
        Self { addr, memory, task }
    }

    fn url(&self) -> String {
        format!("rest://{}", self.addr)
    }

    fn registry(&self) -> Registry {
        registry::connect(&self.url()).unwrap()
    }

    async fn send(&self, method: &str, target: &str, body: &str) -> Reply {
        support::http1::send(self.addr, method, target, JSON, body.as_bytes(), LONG)
            .await
            .unwrap()
    }

    async fn get(&self, target: &str) -> Reply {
        self.send("GET", target, "").await
    }

    async fn put(&self, body: &str) -> Reply {
        self.send("PUT", "/registry/register", body).await
    }

    /// Waits until the socket can be bound again.
    async fn stop(self) -> SocketAddr {
        let Self { addr, task, .. } = &self;
        task.abort();
        support::eventually(LONG, "the listener is gone", || async move {
            std::net::TcpListener::bind(addr).is_ok()
        })
        .await;
        *addr
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn instance(id: &str) -> Instance {
    let port = 8_000 + u16::from(*id.as_bytes().last().unwrap_or(&0));
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    Instance::new("web", id, address)
}

fn ids(view: &View) -> Vec<&str> {
    view.instances.iter().map(|i| i.id()).collect()
}

async fn until(watch: &mut Watch, what: &str, condition: impl FnMut(&View) -> bool) -> View {
    match tokio::time::timeout(LONG, watch.wait_for(condition)).await {
        Ok(view) => view.unwrap(),
        Err(_) => panic!("not in time: {what}; last seen: {:?}", watch.view()),
    }
}

/// Index and epoch of an answer.
fn position(reply: &Reply) -> (u64, u64) {
    let number = |name| reply.headers[name].to_str().unwrap().parse().unwrap();
    (number("x-registry-index"), number("x-registry-epoch"))
}

fn listed(reply: &Reply) -> Vec<String> {
    let body: Value = reply.json();
    let instances = body["instances"].as_array().unwrap();
    instances
        .iter()
        .map(|i| i["id"].as_str().unwrap().to_owned())
        .collect()
}
