//! A stack is a template: what its clients share is what was said to be shared.

use tower_roster::{
    balance::topology::{Guard, Shares, SplitSettings, Topology},
    client::Stack,
    service::{
        breaker::{BreakerError, BreakerSettings, BreakerState},
        retry::{BudgetSettings, RetrySettings},
    },
};

use crate::kit::*;

/// One attempt more is all that a budget of this allows.
const ONE: u32 = 1;

fn breaker() -> BreakerSettings {
    BreakerSettings::new()
        .min_calls(4)
        .open_time(60_000 * MS, 60_000 * MS)
}

#[tokio::test]
async fn two_clients_of_one_template_share_nothing() {
    let servers = servers(["a", "b"]).await;
    let instances = || servers.each_ref().map(Server::instance);
    let template = Stack::http()
        .hedge(None)
        .retry(RetrySettings::new().budget(BudgetSettings::new().ratio(0.0).reserve(ONE)))
        .breaker(breaker());
    let (one, of_one) = build(template.clone(), instances()).await;
    let (other, of_other) = build(template, instances()).await;
    let [one_breaker, other_breaker] = [&of_one, &of_other].map(|it| it.breaker.clone().unwrap());

    servers
        .iter()
        .for_each(|server| server.set(Mode::Status(500)));
    for _ in 0..4 {
        assert_eq!(send(&one, get("/")).await.unwrap().0, 500);
    }
    assert_eq!(of_one.budget.as_ref().unwrap().withdrawn(), 1);
    assert!(
        of_one.budget.as_ref().unwrap().refused() > 0,
        "its budget is exhausted"
    );
    assert_eq!(one_breaker.state(), BreakerState::Open);

    assert_eq!(other_breaker.state(), BreakerState::Closed);
    assert_eq!(other_breaker.counts().total, 0);
    servers
        .iter()
        .for_each(|server| server.set_for(1, Mode::Status(500)));
    assert_eq!(
        send(&other, get("/")).await.unwrap().0,
        500,
        "both failed it"
    );
    assert_eq!(
        (
            of_other.budget.as_ref().unwrap().withdrawn(),
            of_other.budget.as_ref().unwrap().refused()
        ),
        (1, 1)
    );
    assert_eq!(send(&other, get("/")).await.unwrap().0, 200);
}

#[tokio::test]
async fn the_split_of_a_client_is_its_own_unless_it_is_shared() {
    let [server] = servers(["a"]).await;
    let settings = SplitSettings::new(Shares::canary("v2", 0.1)).guard(Guard::new("v2"));
    let shared = settings.build().unwrap();
    for (topology, is_shared) in [
        (Topology::new().split(settings), false),
        (Topology::new().shared_split(shared), true),
    ] {
        let template = Stack::http().balance(|balance| balance.topology(topology));
        let (_one, of_one) = build(template.clone(), [server.instance()]).await;
        let (_other, of_other) = build(template, [server.instance()]).await;
        let [one, other] = [&of_one, &of_other].map(|it| it.balance.split().unwrap());
        one.set(Shares::canary("v2", 0.5)).unwrap();
        let expected = if is_shared { 0.5 } else { 0.1 };
        assert_eq!(other.shares().share("v2"), expected, "shared: {is_shared}");
    }
}

#[tokio::test]
async fn a_shared_budget_bounds_the_retries_of_both_clients() {
    let [server] = servers(["a"]).await;
    let budget = BudgetSettings::new()
        .ratio(0.0)
        .reserve(ONE)
        .build()
        .unwrap();
    let template = Stack::http().hedge(None).shared_budget(budget.clone());
    let (one, of_one) = build(template.clone(), [server.instance()]).await;
    let (other, _) = build(template, [server.instance()]).await;
    server.set_for(1, Mode::Status(500));
    assert_eq!(send(&one, get("/")).await.unwrap().0, 200, "sent again");
    server.set_for(1, Mode::Status(500));
    assert_eq!(
        send(&other, get("/")).await.unwrap().0,
        500,
        "nothing is left"
    );
    assert_eq!(
        (
            budget.withdrawn(),
            of_one.budget.as_ref().unwrap().withdrawn()
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn a_shared_breaker_opens_for_both_clients() {
    let [server] = servers(["a"]).await;
    let layer = breaker().build().unwrap();
    let template = Stack::http().shared_breaker(layer.clone());
    let (one, of_one) = build(template.clone(), [server.instance()]).await;
    let (other, _) = build(template, [server.instance()]).await;
    server.set(Mode::Status(500));
    for _ in 0..4 {
        assert_eq!(send(&one, post("/")).await.unwrap().0, 500);
    }
    let error = send(&other, post("/")).await.unwrap_err();
    assert!(BreakerError::find(&*error).is_some(), "{error:?}");
    assert_eq!(layer.handle().refused(), 1);
    assert_eq!(of_one.breaker.unwrap().refused(), 1);
}

#[tokio::test]
async fn what_is_out_of_range_is_refused_when_the_client_is_built() {
    let stack = Stack::http().breaker(BreakerSettings::new().probes(0));
    let Err(error) = stack.build(discover([])) else {
        panic!("it is refused");
    };
    assert_eq!(error.field(), "breaker.probes");
}
