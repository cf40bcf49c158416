//! Subsets and zones.

use http::{HeaderName, Request};
use tower_roster::{
    balance::topology::{ByHeaders, Locality, Otherwise, Subsets, Topology, ZonePreference},
    client::Stack,
};

use crate::kit::*;

fn staged(stage: &str) -> Request<Body> {
    let request = Request::get("/").header("x-stage", stage);
    request.body(Body::default()).unwrap()
}

#[tokio::test]
async fn a_header_names_the_subset() {
    let servers = servers(["a", "b", "c"]).await;
    let stages = ["prod", "prod", "beta"];
    let listed = servers
        .each_ref()
        .map(Server::instance)
        .into_iter()
        .zip(stages);
    let listed = listed.map(|(instance, stage)| instance.meta("stage", stage));
    let subsets = Subsets::by(["stage"]).otherwise(Otherwise::Fail);
    let route = ByHeaders::new().subset(HeaderName::from_static("x-stage"), "stage");
    let stack = Stack::http().balance(|balance| {
        let balance = balance.route(route);
        balance.topology(Topology::new().subsets(subsets))
    });
    let (client, _) = build(stack, listed).await;
    for answer in burst(&client, 20, || staged("beta")).await {
        assert_eq!(answer.unwrap(), (200, "c".into()));
    }
    for answer in burst(&client, 20, || staged("prod")).await {
        assert_ne!(answer.unwrap().1, "c");
    }
    for answer in burst(&client, 30, || get("/")).await {
        assert_eq!(answer.unwrap().0, 200);
    }
    assert!(servers.iter().all(|server| server.gets() > 5));
    let error = send(&client, staged("alpha")).await.unwrap_err();
    let error = std::iter::successors(Some(&*error as &dyn std::error::Error), |it| it.source());
    let mut error = error.filter_map(|it| it.downcast_ref::<tower_roster::balance::BalanceError>());
    assert!(error.next().expect("the balancer's").is_no_endpoint());
}

#[tokio::test]
async fn the_own_zone_comes_first_and_the_other_serves_when_it_is_gone() {
    let [near, far] = servers(["near", "far"]).await;
    let listed = [near.instance().zone("a"), far.instance().zone("b")];
    let zone = ZonePreference::new("a").locality(Locality::Prefer);
    let stack = Stack::http().balance(|balance| balance.topology(Topology::new().zone(zone)));
    let (client, handles) = build(stack, listed).await;
    for answer in burst(&client, 20, || get("/")).await {
        assert_eq!(answer.unwrap(), (200, "near".into()));
    }
    drop(near);
    for request in [get, post, get, post] {
        for answer in burst(&client, 10, || request("/")).await {
            assert_eq!(answer.unwrap().0, 200);
        }
    }
    assert_eq!(far.posts(), 20);
    assert!(is_ejected(&handles.balance, "near").await);
}
