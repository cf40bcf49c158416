//! Services that other libraries registered.

use tower_roster::registry::ViewState;

use super::{
    support::{Etcd, need_etcd},
    *,
};

#[tokio::test]
async fn services_of_other_libraries_are_watched_by_url_alone() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let old = etcd.grant(60).await;
    for (key, value) in [
        ("user.rpc/7587861234567890123", "10.0.0.7:8080"),
        // The same process under its next lease.
        ("user.rpc/7587861234567890124", "10.0.0.7:8080"),
        (
            "greeter/10.0.0.7:8080",
            r#"{"Op":0,"Addr":"10.0.0.7:8080","Metadata":{"zone":"a"}}"#,
        ),
        (
            "/microservices/web/web-1",
            r#"{"id":"web-1","name":"web","version":"v1","metadata":{"weight":"10"},"endpoints":["http://10.0.0.7:8080?isSecure=false","grpc://10.0.0.7:9090"]}"#,
        ),
        (
            "/micro/registry/web/web-1",
            r#"{"name":"web","version":"latest","metadata":null,"endpoints":[],"nodes":[{"id":"web-1","address":"10.0.0.7:8080","metadata":{}}]}"#,
        ),
        (
            "kitex/registry-etcd/web/10.0.0.7:8080",
            r#"{"network":"tcp","address":"10.0.0.7:8080","weight":10,"tags":{"zone":"a"}}"#,
        ),
        ("/service/web/10.0.0.7:8080", "http://10.0.0.7:8080"),
        (
            "/dubbo/com.example.Greeter/dubbo%3A%2F%2F10.0.0.7%3A8080%2FG%3Fweight%3D200",
            "",
        ),
    ] {
        etcd.put_leased(key, value, &old).await;
    }
    for (parameters, service, id, port, weight) in [
        ("prefix=", "user.rpc", "10.0.0.7:8080", 8080, 1),
        ("prefix=", "greeter", "10.0.0.7:8080", 8080, 1),
        ("prefix=/microservices", "web", "web-1", 8080, 10),
        (
            "prefix=/microservices&endpoint=grpc",
            "web",
            "web-1",
            9090,
            10,
        ),
        ("prefix=/micro/registry/", "web", "web-1", 8080, 1),
        (
            "prefix=kitex/registry-etcd",
            "web",
            "10.0.0.7:8080",
            8080,
            10,
        ),
        ("prefix=/service", "web", "10.0.0.7:8080", 8080, 1),
        (
            "prefix=/dubbo&dubbo",
            "com.example.Greeter",
            "10.0.0.7:8080",
            8080,
            200,
        ),
    ] {
        let registry = connect(&format!("{}?{parameters}", etcd.url()));
        let mut watch = registry.watch(service).unwrap();
        let view = until(&mut watch, parameters, |v| v.state == ViewState::Live).await;
        assert_eq!(ids(&view), [id], "{parameters}");
        let instance = view.instances.iter().next().unwrap();
        assert_eq!(instance.address.port(), port, "{parameters}");
        assert_eq!(instance.weight.get(), weight, "{parameters}");
    }
}
