//! Services that other libraries registered.

use tower_roster::registry::ViewState;

use super::{
    support::{Zookeeper, need_zookeeper},
    *,
};

#[tokio::test]
async fn services_of_other_libraries_are_watched_by_url_alone() {
    need_zookeeper!();
    let server = Zookeeper::server().await;
    let client = server.client().await;
    for (path, data) in [
        (
            "/services/web/6c1f-0001",
            r#"{"name":"web","id":"web-1","address":"10.0.0.7","port":8080,"sslPort":null,"payload":{"@class":"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance","id":"web-1","name":"web","metadata":{"instance_status":"UP"}},"registrationTimeUTC":1796026880012,"serviceType":"DYNAMIC","uriSpec":null}"#,
        ),
        (
            "/discovery/prod/web/member_0000000012",
            r#"{"serviceEndpoint":{"host":"10.0.0.7","port":8080},"additionalEndpoints":{"admin":{"host":"10.0.0.7","port":9990}},"status":"ALIVE","shard":3}"#,
        ),
        (
            "/discovery/prod/web/vector_0000000001",
            r#"{"vector":[{"select":"shard=3","weight":0.5,"priority":1}]}"#,
        ),
        (
            "/microservices/web/web-1",
            r#"{"id":"web-1","name":"web","version":"v1","metadata":{"weight":"10"},"endpoints":["http://10.0.0.7:8080?isSecure=false","grpc://10.0.0.7:9090"]}"#,
        ),
        ("/armeria/web/10.0.0.7_8080", "10.0.0.7:8080:100"),
        (
            "/gokit/web/_c_2f6c1f8a2f6c1f8a2f6c1f8a2f6c1f8a-0000000003",
            "10.0.0.7:8080",
        ),
        ("/plain/web/10.0.0.7:8080", ""),
        (
            "/dubbo/com.example.Greeter/providers/dubbo%3A%2F%2F10.0.0.7%3A8080%2FG%3Fweight%3D200",
            "127.0.0.1",
        ),
    ] {
        client.put(path, data).await;
    }
    for (parameters, service, id, port, weight) in [
        ("prefix=/services", "web", "web-1", 8080, 1),
        ("prefix=/discovery/prod", "web", "10.0.0.7:8080", 8080, 1),
        (
            "prefix=/discovery/prod&endpoint=admin",
            "web",
            "10.0.0.7:9990",
            9990,
            1,
        ),
        ("prefix=/microservices", "web", "web-1", 8080, 10),
        (
            "prefix=/microservices&endpoint=grpc",
            "web",
            "web-1",
            9090,
            10,
        ),
        ("prefix=/armeria", "web", "10.0.0.7:8080", 8080, 100),
        ("prefix=gokit", "web", "10.0.0.7:8080", 8080, 1),
        ("prefix=/plain/", "web", "10.0.0.7:8080", 8080, 1),
        (
            "prefix=/dubbo&dubbo",
            "com.example.Greeter",
            "10.0.0.7:8080",
            8080,
            200,
        ),
    ] {
        let registry = connect(&format!("zk://{}?{parameters}", server.addr()));
        let mut watch = registry.watch(service).unwrap();
        let view = until(&mut watch, parameters, |v| v.state == ViewState::Live).await;
        assert_eq!(ids(&view), [id], "{parameters}");
        let instance = view.instances.iter().next().unwrap();
        assert_eq!(instance.address.port(), port, "{parameters}");
        assert_eq!(instance.weight.get(), weight, "{parameters}");
    }
}
