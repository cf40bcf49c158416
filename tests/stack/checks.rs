//! Active health checks.

use tower_roster::{
    balance::BalanceEvent,
    client::Stack,
    endpoint::{
        check::HealthCheck,
        eject::{EjectCause, Restored},
    },
    registry::memory::Memory,
};

use crate::kit::*;

#[tokio::test]
async fn a_server_whose_checks_fail_is_out_until_they_pass() {
    let servers = servers(["a", "b"]).await;
    let check = HealthCheck::http("/health")
        .interval(20 * MS)
        .timeout(1_000 * MS)
        .max_failures(2);
    let stack = Stack::http().balance(|balance| balance.health_check(check));
    let (client, handles) = build(stack, servers.each_ref().map(Server::instance)).await;
    let mut events = handles.balance.subscribe().await.unwrap();
    servers[1].set_healthy(false);
    let cause = loop {
        if let BalanceEvent::Ejected {
            key,
            cause,
            time: until,
            ..
        } = events.recv().await.unwrap()
        {
            assert_eq!((key.id(), until), ("b", None));
            break cause;
        }
    };
    assert!(
        matches!(cause, EjectCause::HealthCheck { failures: 2.. }),
        "{cause:?}"
    );
    assert!(is_ejected(&handles.balance, "b").await);
    for answer in burst(&client, 30, || get("/")).await {
        assert_eq!(answer.unwrap(), (200, "a".into()));
    }

    servers[1].set_healthy(true);
    let restored = loop {
        if let BalanceEvent::Restored { key, by: why, .. } = events.recv().await.unwrap() {
            break (key, why);
        }
    };
    assert_eq!((restored.0.id(), restored.1), ("b", Restored::HealthCheck));
    until("it gets requests", async || {
        burst(&client, 9, || get("/")).await;
        servers[1].gets() > 0
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_back_is_not_well_until_a_check_passes() {
    let servers = servers(["a", "b"]).await;
    let check = HealthCheck::http("/health")
        .interval(20 * MS)
        .timeout(1_000 * MS)
        .max_failures(3);
    let stack = Stack::http().balance(|balance| balance.health_check(check));
    let memory = Memory::new();
    for server in &servers {
        list(&memory, server.instance());
    }
    let built = stack.build(discover_in(memory.clone())).unwrap();
    let handle = built.handles.balance;
    handle.wait_for(|status| status.usable == 2).await.unwrap();
    let mut events = handle.subscribe().await.unwrap();
    let b = &servers[1];
    b.set_healthy(false);
    until("it is ejected", async || is_ejected(&handle, "b").await).await;

    assert!(memory.deregister("b"));
    handle
        .wait_for(|status| status.endpoints == 1)
        .await
        .unwrap();
    list(&memory, b.instance());
    handle
        .wait_for(|status| status.endpoints == 2)
        .await
        .unwrap();
    // With the third check of those that are its own now, the first two have been heard.
    let before = b.checks();
    until("it is checked", async || b.checks() >= before + 3).await;
    assert!(is_ejected(&handle, "b").await);
    let told = std::iter::from_fn(|| events.try_recv().ok());
    let restored: Vec<_> = told
        .filter(|event| matches!(event, BalanceEvent::Restored { .. }))
        .collect();
    assert!(restored.is_empty(), "{restored:?}");
    b.set_healthy(true);
    until("it is back", async || !is_ejected(&handle, "b").await).await;
}
