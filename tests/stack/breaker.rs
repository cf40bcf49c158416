//! The circuit breaker around everything.

use std::sync::{Arc, Mutex};

use tower_roster::{
    Deadline,
    client::Stack,
    service::breaker::{BreakerCause, BreakerError, BreakerSettings, BreakerState},
};

use crate::kit::*;

#[tokio::test]
async fn it_opens_while_all_fail_and_closes_when_they_are_well() {
    let servers = servers(["a", "b"]).await;
    let breaker = BreakerSettings::new()
        .name("web")
        .min_calls(10)
        .open_time(200 * MS, 1_000 * MS)
        .probes(1);
    let stack = Stack::http().breaker(breaker);
    let (client, handles) = build(stack, servers.each_ref().map(Server::instance)).await;
    let breaker = handles.breaker.expect("it has one");
    assert_eq!(breaker.state(), BreakerState::Closed);
    let transitions = Arc::new(Mutex::new(Vec::new()));
    let mut changes = breaker.subscribe();
    let heard = Arc::clone(&transitions);
    let listener = tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            let change = *changes.borrow_and_update();
            heard.lock().unwrap().push(change);
        }
    });

    servers
        .iter()
        .for_each(|server| server.set(Mode::Status(500)));
    for _ in 0..10 {
        assert_eq!(send(&client, post("/")).await.unwrap().0, 500);
    }
    assert_eq!(breaker.state(), BreakerState::Open);
    let asked: usize = servers.iter().map(Server::posts).sum();
    let error = send(&client, post("/")).await.unwrap_err();
    let error = BreakerError::find(&*error).expect("the breaker's error");
    assert!(
        error.is_open() && error.retry_after().is_some(),
        "{error:?}"
    );
    assert_eq!(servers.iter().map(Server::posts).sum::<usize>(), asked);
    assert!(breaker.refused() >= 1);

    servers.iter().for_each(|server| server.set(Mode::Good));
    until("it is closed again", async || {
        match send(&client, post("/")).await {
            Ok((status, _)) => assert_eq!(status, 200),
            Err(error) => assert!(BreakerError::find(&*error).is_some(), "{error:?}"),
        }
        breaker.state() == BreakerState::Closed
    })
    .await;
    for answer in burst(&client, 10, || post("/")).await {
        assert_eq!(answer.unwrap().0, 200);
    }
    until("the listener has heard of it", async || {
        transitions.lock().unwrap().last().map(|it| it.to) == Some(BreakerState::Closed)
    })
    .await;
    listener.abort();
    let transitions = transitions.lock().unwrap();
    assert!(
        matches!(transitions[0].cause, BreakerCause::Failures(counts) if counts.failed == 10),
        "{transitions:?}"
    );
    assert_eq!(transitions[0].to, BreakerState::Open);
    let last = transitions.last().unwrap();
    assert_eq!(
        (last.from, last.cause),
        (BreakerState::HalfOpen, BreakerCause::ProbesSucceeded)
    );
}

#[tokio::test]
async fn without_one_nothing_is_ever_refused() {
    let servers = servers(["a", "b"]).await;
    let (client, handles) = build(Stack::http(), servers.each_ref().map(Server::instance)).await;
    servers
        .iter()
        .for_each(|server| server.set(Mode::Status(500)));
    for answer in burst(&client, 50, || post("/")).await {
        assert_eq!(answer.unwrap().0, 500);
    }
    for _ in 0..50 {
        assert_eq!(send(&client, post("/")).await.unwrap().0, 500);
    }
    assert!(handles.breaker.is_none(), "and it says so");
}

#[tokio::test]
async fn callers_that_come_after_their_deadline_do_not_open_it() {
    let [server] = servers(["a"]).await;
    let breaker = BreakerSettings::new().min_calls(5);
    let stack = Stack::http().breaker(breaker);
    let (client, handles) = build(stack, [server.instance()]).await;
    let breaker = handles.breaker.expect("it has one");
    for _ in 0..20 {
        let mut request = get("/");
        let late = Deadline::within(std::time::Duration::ZERO);
        request.extensions_mut().insert(late);
        send(&client, request).await.unwrap_err();
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    assert_eq!((breaker.counts().failed, server.gets()), (0, 0));
    assert_eq!(send(&client, get("/")).await.unwrap().0, 200);
}
