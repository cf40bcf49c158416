//! What the tests of the watcher share.
#![allow(unreachable_pub)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Response;
use serde_json::{Value, json};
use tower_roster::{
    Registry,
    registry::{
        View, Watch, WatchSettings,
        consul::{Consul, ConsulConfig, ConsulOptions},
    },
};

use crate::support::{
    RequestHead,
    http1::{consul_reply, reply},
};

/// Longer than anything takes that a test waits for, on a machine with much else to do.
pub const SOON: Duration = Duration::from_secs(20);

/// The most requests that the pace lets a watch send in a second.
pub const PER_SECOND: f64 = 10.0;

/// Queries that end after a second, so that what happens at their end happens soon.
pub fn short() -> ConsulOptions {
    ConsulOptions::default().wait(Duration::from_secs(1))
}

/// Queries that end later than any test waits: what is seen was not seen because one ended.
pub fn long() -> ConsulOptions {
    ConsulOptions::default().wait(Duration::from_secs(120))
}

pub fn registry(url: &str, options: ConsulOptions) -> Registry {
    configured(
        ConsulConfig::new(url).options(options),
        WatchSettings::default(),
    )
}

pub fn configured(config: ConsulConfig, settings: WatchSettings) -> Registry {
    Registry::with_settings(Consul::new(config).unwrap(), settings).unwrap()
}

/// Waits until the view is as wanted; panics with what it is instead.
#[track_caller]
pub fn see(
    watch: &mut Watch,
    what: &str,
    wanted: impl FnMut(&View) -> bool,
) -> impl Future<Output = View> {
    let caller = std::panic::Location::caller();
    async move {
        let seen = tokio::time::timeout(SOON, watch.wait_for(wanted)).await;
        match seen {
            Ok(view) => view.expect("the runtime runs"),
            Err(_) => panic!(
                "{caller}: not within {SOON:?}: {what}; the view is {:#?}",
                watch.view()
            ),
        }
    }
}

/// The ids of the set, in the order of their keys.
pub fn ids(view: &View) -> Vec<&str> {
    view.instances
        .iter()
        .map(|instance| instance.id())
        .collect()
}

/// The error and its causes, or nothing.
pub fn trouble(view: &View) -> String {
    view.error
        .as_ref()
        .map(|error| error.to_chain())
        .unwrap_or_default()
}

/// Every view that a watch showed, from the first look on.
pub struct History {
    views: Arc<Mutex<Vec<View>>>,
    task: tokio::task::AbortHandle,
}

impl History {
    pub fn of(watch: &Watch) -> History {
        let mut watch = watch.clone();
        let views = Arc::new(Mutex::new(vec![watch.view()]));
        let seen = Arc::clone(&views);
        let task = tokio::spawn(async move {
            while let Ok(view) = watch.changed().await {
                seen.lock().unwrap().push(view);
            }
        });
        History {
            views,
            task: task.abort_handle(),
        }
    }

    pub fn views(&self) -> Vec<View> {
        self.views.lock().unwrap().clone()
    }

    /// The messages of all errors that were shown.
    pub fn troubles(&self) -> Vec<String> {
        let all = self.views();
        all.iter()
            .map(trouble)
            .filter(|text| !text.is_empty())
            .collect()
    }

    pub fn smallest_set(&self) -> usize {
        let all = self.views();
        all.iter()
            .map(|view| view.instances.len())
            .min()
            .unwrap_or(0)
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether a request asks for what is newer than an index.
pub fn blocks(head: &RequestHead) -> bool {
    head.param("index").is_some()
}

/// An element of a health reply.
pub fn entry(id: &str, node: &str, port: i64) -> Value {
    json!({
        "Node": {"ID": "", "Node": node, "Address": "127.0.0.1", "Datacenter": "dc1", "Meta": null},
        "Service": {
            "ID": id, "Service": "web", "Tags": [], "Address": "", "Port": port, "Meta": null,
            "Weights": {"Passing": 1, "Warning": 1},
        },
        "Checks": [{"CheckID": "serfHealth", "Status": "passing"}],
    })
}

/// A health reply that lists one instance on each of these ports, with ids `web-PORT`.
pub fn listing(index: u64, ports: &[i64]) -> Response<bytes::Bytes> {
    let entries = ports
        .iter()
        .map(|port| entry(&format!("web-{port}"), "n1", *port));
    consul_reply(index, Value::from_iter(entries).to_string())
}

/// An error as Consul sends it: with an index that means nothing.
pub fn failure(status: u16, body: &str) -> Response<bytes::Bytes> {
    let mut response = reply(status, body.to_owned());
    let headers = response.headers_mut();
    headers.insert("x-consul-index", http::HeaderValue::from_static("1"));
    headers.insert(
        "x-consul-knownleader",
        http::HeaderValue::from_static("false"),
    );
    headers.insert("x-consul-lastcontact", http::HeaderValue::from_static("0"));
    response
}
