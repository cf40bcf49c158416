//! What each request does when all is well.

use serde_json::json;

use super::*;

const FULL: &str = r#"{
    "serviceId": "user-1", "serviceName": "user-service", "host": "::1", "port": 8080,
    "metadata": {"model": "groß", "cores": 8, "gpu": true}, "heartbeatInterval": 2000,
    "lastHeartbeat": 1, "weight": 3, "zone": "eu-1a", "tags": ["v2"], "status": "warning",
    "healthCheck": {"path": "/health", "maxFailures": 5}, "unknown": [{}]
}"#;

#[tokio::test]
async fn a_registration_is_answered_with_what_is_held() {
    let front = Front::start().await;
    let mut held = front.put(FULL).await.ok().json();
    assert!(held["lastHeartbeat"].as_u64().unwrap() > 1_600_000_000_000);
    held["lastHeartbeat"].take();
    assert_eq!(
        held,
        json!({
            "id": "user-1", "serviceId": "user-1", "serviceName": "user-service",
            "host": "::1", "port": 8080, "weight": 3, "zone": "eu-1a", "tags": ["v2"],
            "metadata": {"model": "groß", "cores": "8", "gpu": "true"},
            "status": "warning", "generation": 1, "heartbeatInterval": 2000, "ttl": 6000,
            "healthCheck": {
                "path": "/health", "interval": 10000, "timeout": 2000, "maxFailures": 5,
                "reapAfter": 600000
            },
            "lastHeartbeat": null,
        })
    );
    let instance = &front.memory.instances("user-service")[0];
    assert_eq!(instance.address.to_string(), "[::1]:8080");
}

#[tokio::test]
async fn without_a_service_name_the_service_id_names_the_service() {
    let front = Front::start().await;
    let body = r#"{"serviceId": "web", "host": "10.0.0.1", "port": 80}"#;
    let held = front.put(body).await.ok().json();
    assert_eq!(held["id"], "web-10.0.0.1-80");
    assert_eq!(held["serviceName"], "web");
    assert_eq!(held["heartbeatInterval"], 10_000, "the default");

    let beat = |body: &'static str| front.send("POST", "/registry/heartbeat", body);
    for body in [
        r#"{"serviceId": "web-10.0.0.1-80"}"#,
        r#"{"serviceId": "web"}"#,
        r#"{"serviceId": "web", "host": "10.0.0.1", "port": 80}"#,
    ] {
        assert_eq!(beat(body).await.ok().json()["id"], "web-10.0.0.1-80");
    }
    let other = r#"{"serviceId": "web", "host": "10.0.0.2", "port": 80}"#;
    assert_eq!(beat(other).await.status, 404, "nothing listens there");
    front.put(other).await.ok();
    let several = beat(r#"{"serviceId": "web"}"#).await;
    assert_eq!(several.status, 409);
    assert!(
        several.text().contains("host and port"),
        "{}",
        several.text()
    );
    assert_eq!(beat(other).await.ok().json()["id"], "web-10.0.0.2-80");

    let gone = front.send("DELETE", "/registry/web", "").await;
    assert_eq!(gone.status, 409);
    let target = "/registry/web?host=10.0.0.2&port=80";
    assert_eq!(
        front.send("DELETE", target, "").await.ok().json()["id"],
        "web-10.0.0.2-80"
    );
    front.send("DELETE", "/registry/web", "").await.ok();
    assert_eq!(front.send("DELETE", "/registry/web", "").await.status, 404);
}

#[tokio::test]
async fn names_may_hold_any_text() {
    let front = Front::start().await;
    let name = "用户/服务 ?#%";
    let id = "a/b c";
    let body = json!({"serviceName": name, "serviceId": id, "host": "h", "port": 1}).to_string();
    front.put(&body).await.ok();
    let path = "/registry/services/%E7%94%A8%E6%88%B7%2F%E6%9C%8D%E5%8A%A1%20%3F%23%25";
    let reply = front.get(path).await.ok();
    assert_eq!(
        (reply.json()["serviceName"].as_str(), listed(&reply)),
        (Some(name), vec![id.into()])
    );
    front.send("DELETE", "/registry/a%2Fb%20c", "").await.ok();

    let registry = front.registry();
    let address = "127.0.0.1:80".parse().unwrap();
    let registration = registry.register(Instance::new(name, id, address)).unwrap();
    let mut watch = registry.watch(name).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == [id]).await;
    registration.deregister().await.unwrap();
    until(&mut watch, "its end", |v| v.instances.is_empty()).await;
}

#[tokio::test]
async fn services_and_liveness_are_told() {
    let front = Front::start().await;
    front.memory.register(instance("a")).unwrap();
    front.memory.register(instance("b")).unwrap();
    let services = front.get("/registry/services").await.ok();
    assert_eq!(services.json(), json!({"services": {"web": 2}}));
    assert_eq!(position(&services).0, front.memory.index());
    let health = front.get("/registry/health").await.ok().json();
    assert_eq!(
        (&health["status"], &health["instances"]),
        (&json!("passing"), &json!(2))
    );
    let unknown = front.get("/registry/services/none").await.ok().json();
    assert_eq!(
        unknown,
        json!({"serviceName": "none", "exists": false, "instances": []})
    );
    front.memory.deregister("a");
    front.memory.deregister("b");
    let empty = front.get("/registry/services/web").await.ok().json();
    assert_eq!(
        empty,
        json!({"serviceName": "web", "exists": true, "instances": []})
    );
}

#[tokio::test]
async fn sessions_tell_incarnations_apart() {
    let front = Front::start().await;
    let put = |session: &str, weight: u32| {
        let body = json!({
            "serviceId": "a", "serviceName": "web", "host": "h", "port": 1,
            "session": session, "weight": weight,
        });
        let body = body.to_string();
        let front = &front;
        async move { front.put(&body).await.ok().json() }
    };
    for (session, weight, generation) in [
        ("one", 1, 1),
        ("one", 1, 1),
        ("one", 2, 1),
        ("two", 2, 2),
        ("two", 2, 2),
    ] {
        let held = put(session, weight).await;
        assert_eq!(held["generation"], generation, "{session} {weight}");
        assert_eq!(held.get("session"), None, "it is nobody else's to know");
    }
    let old = front.send("DELETE", "/registry/a?generation=1", "").await;
    assert_eq!(old.status, 404, "only the generation that is held");
    front
        .send("DELETE", "/registry/a?generation=2", "")
        .await
        .ok();
}
