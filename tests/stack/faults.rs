//! The default stack over servers that fail, refuse or hang.

use tower_roster::{
    balance::BalanceEvent,
    client::Stack,
    endpoint::eject::{EjectCause, Restored},
};

use crate::kit::*;

#[tokio::test]
async fn a_server_that_answers_503_is_ejected_and_nobody_notices() {
    let servers = servers(["a", "b", "c"]).await;
    let (client, handles) = build(Stack::http(), servers.each_ref().map(Server::instance)).await;
    warm(&client).await;
    let mut events = handles.balance.subscribe().await.unwrap();
    let before = servers[1].gets();
    servers[1].set(Mode::Status(503));
    for answer in burst(&client, 60, || get("/")).await {
        let (status, text) = answer.unwrap();
        assert!(status == 200 && text != "b", "{status} {text}");
    }
    until("it is ejected", async || {
        is_ejected(&handles.balance, "b").await
    })
    .await;
    let failed = servers[1].gets() - before;
    assert!(failed >= 5, "only {failed} of 60 requests went there");
    assert_eq!(
        handles.budget.as_ref().unwrap().withdrawn(),
        failed as u64,
        "one retry for each"
    );
    let (key, cause) = loop {
        if let BalanceEvent::Ejected { key, cause, .. } = events.recv().await.unwrap() {
            break (key, cause);
        }
    };
    assert_eq!(key.id(), "b");
    assert!(
        matches!(cause, EjectCause::ConsecutiveFailures { n } if n >= 5),
        "{cause:?}"
    );

    servers[1].set(Mode::Good);
    let before = servers[1].gets();
    until("it gets its traffic back", async || {
        for answer in burst(&client, 9, || get("/")).await {
            assert_eq!(answer.unwrap().0, 200);
        }
        servers[1].gets() > before + 1
    })
    .await;
    let restored = loop {
        if let BalanceEvent::Restored { key, by: why, .. } = events.recv().await.unwrap() {
            break (key, why);
        }
    };
    assert_eq!((restored.0.id(), restored.1), ("b", Restored::Probe));
}

#[tokio::test]
async fn a_post_that_was_sent_is_not_sent_again() {
    let servers = servers(["a", "b", "c"]).await;
    let (client, handles) = build(Stack::http(), servers.each_ref().map(Server::instance)).await;
    warm(&client).await;
    servers[1].set(Mode::Status(503));
    let answers = burst(&client, 60, || post("/")).await;
    let failed = answers.into_iter().filter(|answer| {
        let (status, text) = answer.as_ref().unwrap();
        assert!(*status == 503 || text.ends_with('!'), "{status} {text}");
        *status == 503
    });
    let failed = failed.count();
    assert!(failed >= 5, "only {failed} of 60 requests went there");
    assert_eq!(servers[1].posts(), failed);
    assert_eq!(servers.iter().map(Server::posts).sum::<usize>(), 60);
    assert_eq!(handles.budget.as_ref().unwrap().withdrawn(), 0);
}

#[tokio::test]
async fn a_port_that_refuses_costs_nobody_anything() {
    let servers = servers(["a", "b"]).await;
    let (_socket, addr) = refusing();
    let mut listed = servers.each_ref().map(Server::instance).to_vec();
    listed.push(instance("refusing", addr));
    let (client, handles) = build(Stack::http(), listed).await;
    for request in [post, get, post] {
        for answer in burst(&client, 60, || request("/")).await {
            assert_eq!(answer.unwrap().0, 200);
        }
    }
    assert_eq!(servers.iter().map(Server::posts).sum::<usize>(), 120);
    assert_eq!(
        handles.budget.as_ref().unwrap().withdrawn(),
        0,
        "no retry was needed"
    );
    let refusing = endpoint(&handles.balance, "refusing").await;
    assert!(refusing.failures > 0, "it was never asked");
}

#[tokio::test]
async fn a_server_that_dies_under_load_fails_no_request_that_may_be_repeated() {
    let [a, b, c] = servers(["a", "b", "c"]).await;
    let listed = [&a, &b, &c].map(Server::instance);
    let (client, handles) = build(Stack::http(), listed).await;
    warm(&client).await;
    b.set(Mode::Hang);
    let under_way = tokio::spawn({
        let client = client.clone();
        async move { burst(&client, 9, || get("/")).await }
    });
    until("it has some", async || b.waiting() > 0).await;
    drop(b);
    for answer in under_way.await.unwrap() {
        assert_eq!(answer.unwrap().0, 200);
    }
    for _ in 0..5 {
        for answer in burst(&client, 9, || get("/")).await {
            assert_eq!(answer.unwrap().0, 200);
        }
    }
    assert!(handles.budget.as_ref().unwrap().withdrawn() >= 1);
    assert_eq!(in_flight(&handles.balance).await, 0);
}

#[tokio::test]
async fn requests_hedge_around_a_server_that_hangs() {
    let servers = servers(["a", "b", "c"]).await;
    let listed = servers.each_ref().map(Server::instance);
    let (client, handles) = build(Stack::http(), listed).await;
    // It takes three seconds until the first percentile is known. A hedge shows that it is, but where all
    // are fast there is none.
    let begun = std::time::Instant::now();
    until("it is known who is slow", async || {
        warm(&client).await;
        handles.budget.as_ref().unwrap().withdrawn() > 0 || begun.elapsed() > 5_000 * MS
    })
    .await;
    let (before, drawn) = (
        servers[1].gets(),
        handles.budget.as_ref().unwrap().withdrawn(),
    );
    servers[1].set(Mode::Hang);
    let begun = std::time::Instant::now();
    for answer in burst(&client, 60, || get("/")).await {
        let (status, text) = answer.unwrap();
        assert!(status == 200 && text != "b", "{status} {text}");
    }
    let took = begun.elapsed();
    let hung = servers[1].gets() - before;
    assert!(hung >= 1, "none of 60 requests went there");
    assert!(took < 3_000 * MS, "{took:?}");
    let hedges = handles.budget.as_ref().unwrap().withdrawn() - drawn;
    assert!(hedges >= hung as u64, "{hedges} hedges for {hung} requests");
    until("the losers are cancelled", async || {
        in_flight(&handles.balance).await == 0 && servers[1].waiting() == 0
    })
    .await;
}
