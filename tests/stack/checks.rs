//! Active health checks.

use tower_roster::{
    balance::Event,
    endpoint::{
        check::HealthCheck,
        eject::{Cause, Restored},
    },
    service::stack::Stack,
};

use crate::kit::*;

#[tokio::test]
async fn a_server_whose_checks_fail_is_out_until_they_pass() {
    let servers = servers(["a", "b"]).await;
    let check = HealthCheck::http("/health")
        .interval(20 * MS)
        .timeout(1_000 * MS)
        .max_failures(2);
    let stack = Stack::http()
        .try_balance(|balance| balance.health_check(check))
        .unwrap();
    let (client, handles) = build(stack, servers.each_ref().map(Server::instance)).await;
    let mut events = handles.balance.subscribe().await.unwrap();
    servers[1].set_healthy(false);
    let cause = loop {
        if let Event::Ejected(key, cause, until) = events.recv().await.unwrap() {
            assert_eq!((key.id(), until), ("b", None));
            break cause;
        }
    };
    assert!(
        matches!(cause, Cause::HealthCheck { failures: 2.. }),
        "{cause:?}"
    );
    assert!(is_ejected(&handles.balance, "b").await);
    for answer in burst(&client, 30, || get("/")).await {
        assert_eq!(answer.unwrap(), (200, "a".into()));
    }

    servers[1].set_healthy(true);
    let restored = loop {
        if let Event::Restored(key, why) = events.recv().await.unwrap() {
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
