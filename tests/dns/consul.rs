//! Consul's own DNS, which returns a part of the records at random over UDP.

use serde_json::json;
use tower_roster::registry::ViewState;

use crate::{
    support::{Agent, need, ports::Port},
    until, watch,
};

#[tokio::test]
async fn all_instances_of_consul_are_found_over_tcp_with_their_weights() {
    need!(consul);
    let port = Port::lease();
    let agent = Agent::dev()
        .config(json!({"ports": {"dns": port.get()}}))
        .await;
    for n in 1..=60_u16 {
        let (id, address) = (format!("web-{n}"), format!("127.0.0.{n}"));
        let weights = json!({"Weights": {"Passing": n, "Warning": 1}});
        agent
            .register_service(&id, "web", &address, 8_000 + n, weights)
            .await;
    }
    let addr = port.addr();
    // TCP is the default for SRV at this port only, which a test cannot use.
    let srv = format!("dns+srv+tcp://{addr}/web.service.consul?poll=1s");
    let mut srv = watch(&srv);
    let view = until(&mut srv, "all", |v| v.instances.len() == 60).await;
    assert_eq!(view.state, ViewState::Live);
    for instance in &view.instances {
        let n = u32::from(instance.address.port()) - 8_000;
        assert_eq!(instance.weight.get(), n, "the weight of the service");
        assert_eq!(instance.address.host().to_string(), format!("127.0.0.{n}"));
    }
    let mut plain = watch(&format!("dns+tcp://{addr}/web.service.consul:80?poll=1s"));
    until(&mut plain, "all", |v| v.instances.len() == 60).await;
    // Over UDP with EDNS, as it is always asked for, all addresses fit; without EDNS these would be three.
    let mut udp = watch(&format!("dns://{addr}/web.service.consul:80?poll=1s"));
    until(&mut udp, "all", |v| v.instances.len() == 60).await;

    agent.deregister_service("web-7").await;
    let gone = |view: &tower_roster::registry::View| {
        let mut hosts = view.instances.iter().map(|i| i.address.host().to_string());
        view.instances.len() == 59 && hosts.all(|host| host != "127.0.0.7")
    };
    until(&mut srv, "one less", gone).await;
    until(&mut plain, "one less", gone).await;

    // An unknown service, and one without a healthy instance, are no such name.
    let mut unknown = watch(&format!("dns+tcp://{addr}/other.service.consul:80?poll=1s"));
    until(&mut unknown, "no such name", |v| {
        v.state == ViewState::Missing
    })
    .await;
    agent
        .register_with_ttl("sick-1", "sick", 80, "critical")
        .await;
    let mut sick = watch(&format!("dns+tcp://{addr}/sick.service.consul:80?poll=1s"));
    until(&mut sick, "no such name", |v| v.state == ViewState::Missing).await;
    agent.pass_check("check:sick-1").await;
    until(&mut sick, "its instance", |v| v.instances.len() == 1).await;
}
