//! The parts of Consul's HTTP API that tests use to set a scene and to look at it, apart from the
//! code under test.

use std::{io, time::Duration};

use serde_json::{Value, json};

use super::Agent;
use crate::support::http1::{self, Reply};

/// Longer than any wait of a test, shorter than the patience of its reader.
const TIMEOUT: Duration = Duration::from_secs(75);

impl Agent {
    /// One request with any token or none; the errors are those of the connection.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
        timeout: Duration,
    ) -> io::Result<Reply> {
        let token = token.map(|token| ("X-Consul-Token", token));
        let body = body.map(Value::to_string).unwrap_or_default();
        let headers = token.as_slice();
        http1::send(
            self.http_addr(),
            method,
            path,
            headers,
            body.as_bytes(),
            timeout,
        )
        .await
    }

    /// With the token of the handle; panics when there is no answer.
    pub async fn get(&self, path: &str) -> Reply {
        self.must("GET", path, self.token(), None).await
    }

    /// With the token of the handle; panics when there is no answer.
    pub async fn put(&self, path: &str, body: Option<Value>) -> Reply {
        self.must("PUT", path, self.token(), body).await
    }

    /// With this token, or none.
    pub async fn get_as(&self, token: Option<&str>, path: &str) -> Reply {
        self.must("GET", path, token, None).await
    }

    /// With this token, or none.
    pub async fn put_as(&self, token: Option<&str>, path: &str, body: Option<Value>) -> Reply {
        self.must("PUT", path, token, body).await
    }

    async fn must(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Reply {
        let reply = self
            .request(method, path, token, body.as_ref(), TIMEOUT)
            .await;
        reply.unwrap_or_else(|e| panic!("{method} {path} at {}: {e}", self.node_name()))
    }

    /// Registers on this agent; the fields of `more` are added or replace.
    pub async fn register_service(
        &self,
        id: &str,
        name: &str,
        address: &str,
        port: u16,
        more: Value,
    ) {
        let mut service = json!({ "ID": id, "Name": name, "Address": address, "Port": port });
        let fields = service.as_object_mut().expect("an object");
        fields.extend(more.as_object().cloned().unwrap_or_default());
        self.put("/v1/agent/service/register", Some(service))
            .await
            .ok();
    }

    /// A service with a TTL check `check:<id>` in the given status.
    pub async fn register_with_ttl(&self, id: &str, name: &str, port: u16, status: &str) {
        let check = json!({ "CheckID": format!("check:{id}"), "TTL": "10m", "Status": status });
        self.register_service(id, name, "127.0.0.1", port, json!({ "Check": check }))
            .await;
    }

    pub async fn deregister_service(&self, id: &str) {
        self.put(&format!("/v1/agent/service/deregister/{id}"), None)
            .await
            .ok();
    }

    /// A node, service or check that no agent looks after.
    pub async fn catalog_register(&self, body: Value) {
        self.put("/v1/catalog/register", Some(body)).await.ok();
    }

    pub async fn catalog_deregister(&self, body: Value) {
        self.put("/v1/catalog/deregister", Some(body)).await.ok();
    }

    /// A node of its own with one service, for sets larger than one agent would have.
    pub async fn catalog_instance(
        &self,
        node: &str,
        id: &str,
        name: &str,
        address: &str,
        port: u16,
    ) {
        self.catalog_register(json!({
            "Node": node,
            "Address": address,
            "Service": { "ID": id, "Service": name, "Address": address, "Port": port },
        }))
        .await;
    }

    pub async fn pass_check(&self, check: &str) {
        self.put(&format!("/v1/agent/check/pass/{check}"), None)
            .await
            .ok();
    }

    pub async fn warn_check(&self, check: &str) {
        self.put(&format!("/v1/agent/check/warn/{check}"), None)
            .await
            .ok();
    }

    pub async fn fail_check(&self, check: &str) {
        self.put(&format!("/v1/agent/check/fail/{check}"), None)
            .await
            .ok();
    }

    pub async fn service_maintenance(&self, id: &str, on: bool) {
        self.put(
            &format!("/v1/agent/service/maintenance/{id}?enable={on}"),
            None,
        )
        .await
        .ok();
    }

    pub async fn node_maintenance(&self, on: bool) {
        self.put(&format!("/v1/agent/maintenance?enable={on}"), None)
            .await
            .ok();
    }

    /// The entries of `/v1/health/service`, all statuses.
    pub async fn health(&self, service: &str) -> Vec<Value> {
        let reply = self
            .get(&format!("/v1/health/service/{service}"))
            .await
            .ok();
        reply.json().as_array().expect("a list").clone()
    }

    /// The IDs of the instances that pass all their checks, sorted.
    pub async fn passing(&self, service: &str) -> Vec<String> {
        let reply = self
            .get(&format!("/v1/health/service/{service}?passing"))
            .await
            .ok();
        let list = reply.json();
        let entries = list.as_array().expect("a list").iter();
        let id = |entry: &Value| entry["Service"]["ID"].as_str().map(String::from);
        let mut ids: Vec<_> = entries.filter_map(id).collect();
        ids.sort();
        ids
    }

    /// The index now of a health query on this service.
    pub async fn index(&self, service: &str) -> u64 {
        let reply = self
            .get(&format!("/v1/health/service/{service}"))
            .await
            .ok();
        reply.index().expect("an index")
    }

    /// A gauge, or the count of a counter or sample. Consul shows an interval of 10 s when it is
    /// over, so this is late by up to 20 s.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let metrics = self.get("/v1/agent/metrics").await.ok().json();
        let find = |list: &str, field: &str| {
            let metric = metrics[list]
                .as_array()?
                .iter()
                .find(|m| m["Name"] == name)?;
            metric[field].as_f64()
        };
        find("Gauges", "Value")
            .or_else(|| find("Counters", "Count"))
            .or_else(|| find("Samples", "Count"))
    }

    /// Creates or replaces a policy, and a token with only that policy; returns accessor and
    /// secret.
    pub async fn acl_token(&self, policy: &str, rules: &str) -> (String, String) {
        let body = json!({ "Name": policy, "Rules": rules });
        self.put("/v1/acl/policy", Some(body)).await.ok();
        let body = json!({ "Policies": [{ "Name": policy }] });
        let token = self.put("/v1/acl/token", Some(body)).await.ok().json();
        let field = |name: &str| token[name].as_str().expect("a token").to_owned();
        (field("AccessorID"), field("SecretID"))
    }

    /// Gives a token its policies anew; none takes all its rights away.
    pub async fn acl_set_policies(&self, accessor: &str, policies: &[&str]) {
        let policies: Vec<_> = policies
            .iter()
            .map(|name| json!({ "Name": name }))
            .collect();
        let body = json!({ "AccessorID": accessor, "Policies": policies });
        self.put(&format!("/v1/acl/token/{accessor}"), Some(body))
            .await
            .ok();
    }

    pub async fn acl_revoke(&self, accessor: &str) {
        let path = format!("/v1/acl/token/{accessor}");
        self.must("DELETE", &path, self.token(), None).await.ok();
    }

    /// Creates a token with a known secret, as after a restore.
    pub async fn acl_restore(&self, accessor: &str, secret: &str, policy: &str) {
        let body = json!({
            "AccessorID": accessor,
            "SecretID": secret,
            "Policies": [{ "Name": policy }],
        });
        self.put("/v1/acl/token", Some(body)).await.ok();
    }
}
