//! What tests ask of etcd itself, apart from the backend under test.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::Etcd;
use crate::support::http1::{self, Reply};

const WITHIN: Duration = Duration::from_secs(10);

pub fn encode(text: impl AsRef<[u8]>) -> String {
    STANDARD.encode(text)
}

pub fn decode(value: &Value) -> String {
    let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Etcd {
    /// Sends a request to the gateway; with the token of root, when there is one.
    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.try_post(path, body).await.unwrap()
    }

    pub async fn try_post(&self, path: &str, body: Value) -> std::io::Result<Reply> {
        let token = self.token();
        let headers: Vec<_> = token
            .iter()
            .map(|token| ("authorization", token.as_str()))
            .collect();
        let body = body.to_string();
        http1::send(self.addr(), "POST", path, &headers, body.as_bytes(), WITHIN).await
    }

    pub async fn put(&self, key: &str, value: &str) {
        let body = json!({"key": encode(key), "value": encode(value)});
        self.post("/v3/kv/put", body).await.ok();
    }

    pub async fn put_leased(&self, key: &str, value: &str, lease: &str) {
        let body = json!({"key": encode(key), "value": encode(value), "lease": lease});
        self.post("/v3/kv/put", body).await.ok();
    }

    pub async fn delete(&self, key: &str) {
        let body = json!({"key": encode(key)});
        self.post("/v3/kv/deleterange", body).await.ok();
    }

    /// The key as etcd shows it, in JSON.
    pub async fn get(&self, key: &str) -> Option<Value> {
        let body = json!({"key": encode(key)});
        let reply = self.post("/v3/kv/range", body).await.ok().json();
        reply["kvs"].get(0).cloned()
    }

    pub async fn value(&self, key: &str) -> Option<String> {
        Some(decode(&self.get(key).await?["value"]))
    }

    /// All keys, in order.
    pub async fn keys(&self) -> Vec<String> {
        let body = json!({"key": encode("\0"), "range_end": encode("\0"), "keys_only": true});
        let reply = self.post("/v3/kv/range", body).await.ok().json();
        let kvs = reply["kvs"].as_array().cloned().unwrap_or_default();
        kvs.iter().map(|kv| decode(&kv["key"])).collect()
    }

    pub async fn revision(&self) -> i64 {
        let body = json!({"key": encode("x"), "count_only": true});
        let reply = self.post("/v3/kv/range", body).await.ok().json();
        let revision = reply["header"]["revision"].as_str().unwrap();
        revision.parse().unwrap()
    }

    /// Forgets all revisions before the current one.
    pub async fn compact(&self) {
        let revision = self.revision().await.to_string();
        let body = json!({"revision": revision, "physical": true});
        self.post("/v3/kv/compaction", body).await.ok();
    }

    pub async fn grant(&self, ttl: u64) -> String {
        let body = json!({"TTL": ttl.to_string()});
        let reply = self.post("/v3/lease/grant", body).await.ok().json();
        reply["ID"].as_str().unwrap().to_owned()
    }

    pub async fn revoke(&self, lease: &str) {
        self.post("/v3/lease/revoke", json!({"ID": lease}))
            .await
            .ok();
    }

    /// The ids of all leases.
    pub async fn leases(&self) -> Vec<String> {
        let reply = self.post("/v3/lease/leases", json!({})).await.ok().json();
        let leases = reply["leases"].as_array().cloned().unwrap_or_default();
        let ids = leases
            .iter()
            .map(|lease| lease["ID"].as_str().unwrap().to_owned());
        ids.collect()
    }

    /// A number of the server's own metrics.
    pub async fn metric(&self, name: &str) -> f64 {
        let reply = http1::send(self.addr(), "GET", "/metrics", &[], b"", WITHIN).await;
        let text = reply.unwrap().text();
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        line.and_then(|line| line.split(' ').nth(1)?.parse().ok())
            .unwrap_or_default()
    }

    /// Asks for users from now on: `root` with this password, and `reader`, who may read `/services/`
    /// and has the password `reader`.
    pub async fn enable_auth(&mut self, password: &str) {
        for (user, password) in [("root", password), ("reader", "reader")] {
            let body = json!({"name": user, "password": password});
            self.post("/v3/auth/user/add", body).await.ok();
        }
        for role in ["root", "reader"] {
            self.post("/v3/auth/role/add", json!({"name": role}))
                .await
                .ok();
            let body = json!({"user": role, "role": role});
            self.post("/v3/auth/user/grant", body).await.ok();
        }
        self.permit_reader(true).await;
        self.post("/v3/auth/enable", json!({})).await.ok();
        self.log_in(password).await;
    }

    /// Grants or revokes the right of `reader`.
    pub async fn permit_reader(&self, may: bool) {
        let (key, end) = (encode("/services/"), encode("/services0"));
        if may {
            let perm = json!({"permType": "READ", "key": key, "range_end": end});
            let body = json!({"name": "reader", "perm": perm});
            self.post("/v3/auth/role/grant", body).await.ok();
        } else {
            let body = json!({"role": "reader", "key": key, "range_end": end});
            self.post("/v3/auth/role/revoke", body).await.ok();
        }
    }

    pub async fn log_in(&mut self, password: &str) {
        self.set_token(None);
        let body = json!({"name": "root", "password": password});
        let reply = self.post("/v3/auth/authenticate", body).await.ok().json();
        self.set_token(Some(reply["token"].as_str().unwrap().to_owned()));
    }
}
