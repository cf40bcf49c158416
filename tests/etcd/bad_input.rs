//! Keys and records that no registration of ours makes: each costs itself only.

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};
use tower_roster::registry::ViewState;

use super::{
    fake::{created, events, gateway, kv, list, ok, stream, url},
    support::etcd::encode,
    *,
};

/// A key below the service with any value, both as bytes.
fn raw(id: &[u8], value: &[u8]) -> Value {
    let key = [b"/services/web/", id].concat();
    json!({
        "key": encode(&key), "value": encode(value),
        "create_revision": "5", "mod_revision": "5", "version": "1",
    })
}

/// The keys of a list stand in order.
fn bad_records() -> Vec<Value> {
    let long = format!(
        r#"{{"address":"10.0.0.1","port":80,"name":"{}"}}"#,
        "x".repeat(1 << 20)
    );
    vec![
        raw(b"b-long", long.as_bytes()),
        raw(b"b-not-utf8", b"\xff\xfe{}"),
        raw(b"b-zero-port", br#"{"address":"10.0.0.1","port":0}"#),
        raw(b"b-port", br#"{"address":"10.0.0.1","port":65536}"#),
        raw(b"b-type", br#"{"address":7,"port":"80"}"#),
        raw(b"b-cut", br#"{"address":"10.0.0.1","po"#),
        raw(b"b\xffkey", br#"{"address":"10.0.0.1","port":80}"#),
        raw(b"b/c", br#"{"address":"10.0.0.1","port":80}"#),
        raw(b"", br#"{"address":"10.0.0.1","port":80}"#),
    ]
}

#[tokio::test]
async fn a_bad_record_costs_itself_only_in_a_list_and_in_a_change() {
    let bad = bad_records().len();
    let server = gateway(|path, _, _| match path {
        "/v3/watch" => {
            let mut changes: Vec<_> = bad_records();
            changes.push(kv("c", 9));
            for change in &mut changes {
                change["mod_revision"] = "9".into();
            }
            let changes: Vec<_> = changes.into_iter().map(|kv| json!({"kv": kv})).collect();
            stream(&[created(7), events(9, changes.into())]).hang()
        }
        _ => {
            let mut kvs = bad_records();
            kvs.push(kv("a", 5));
            kvs.sort_by_key(|kv| BASE64_STANDARD.decode(kv["key"].as_str().unwrap()).unwrap());
            let count = kvs.len().to_string();
            ok(json!({"header": {"cluster_id": "1", "revision": "7"}, "kvs": kvs, "count": count}))
        }
    })
    .await;
    let mut watch = connect(&url(&server)).watch("web").unwrap();
    let view = until(&mut watch, "both", |v| ids(v) == ["a", "c"]).await;
    assert_eq!(view.state, ViewState::Live);
    assert_eq!(view.rejected.len(), bad, "{:?}", view.rejected);
    for rejected in view.rejected.iter() {
        let text = rejected.to_string();
        assert!(
            text.len() < 1_000 && !text.contains("xxxxx"),
            "{} bytes",
            text.len()
        );
    }
}

/// Two keys whose records have one id are one instance.
#[tokio::test]
async fn an_id_under_two_keys_counts_once() {
    let server = gateway(|path, _, _| match path {
        "/v3/watch" => stream(&[created(7)]).hang(),
        _ => {
            let value = record("web", "a");
            let kvs = [raw(b"one", value.as_bytes()), raw(b"two", value.as_bytes())];
            ok(json!({"header": {"cluster_id": "1", "revision": "7"}, "kvs": kvs, "count": "2"}))
        }
    })
    .await;
    let mut watch = connect(&url(&server)).watch("web").unwrap();
    let view = until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    assert_eq!(view.rejected.len(), 1, "{:?}", view.rejected);
}

/// In the middle of a stream, whose beginning was right.
#[tokio::test]
async fn a_revision_that_goes_back_is_followed_by_a_list() {
    let server = gateway(|path, _, n| match (path, n) {
        ("/v3/watch", 0) => {
            let change = |id: &str, revision| events(revision, json!([{"kv": kv(id, revision)}]));
            stream(&[created(7), change("b", 9), change("c", 3)]).hang()
        }
        ("/v3/watch", _) => stream(&[created(9)]).hang(),
        (_, 0) => list(7, &["a"]),
        _ => list(9, &["a", "b"]),
    })
    .await;
    let mut watch = connect(&url(&server)).watch("web").unwrap();
    until(&mut watch, "the change", |v| ids(v) == ["a", "b"]).await;
    support::eventually(LONG, "another list", || async {
        let lists = server.requests();
        lists
            .iter()
            .filter(|head| head.path() == "/v3/kv/range")
            .count()
            >= 2
    })
    .await;
    let view = until(&mut watch, "the list", |v| v.state == ViewState::Live).await;
    assert_eq!(ids(&view), ["a", "b"], "the older change is none");
}
