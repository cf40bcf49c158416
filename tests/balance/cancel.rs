//! Requests that are dropped on their way, and what may cross threads.

use tower::{Service, ServiceExt};
use tower_roster::{
    balance::{Balance, BalanceError, BalanceHandle, BalanceLayer, policy::RoundRobin},
    classify::Answers,
};

use crate::kit::{Answer, Mock, Ready, Rig, poll, settle};

fn is_send<T: Send>(_: &T) {}
fn is_static_and_shared<T: Clone + Send + Sync + 'static>(_: &T) {}

#[tokio::test(start_paused = true)]
async fn a_balancer_crosses_threads_and_so_do_its_requests() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn send<T: Send + Sync + 'static>() {}
    shared::<Balance<Mock, RoundRobin, Answers>>();
    shared::<BalanceHandle>();
    shared::<BalanceLayer<RoundRobin>>();
    send::<BalanceError>();
    // What gRPC clients ask of a service, and axum of a state.
    fn as_channel<S, Request>(_: &S)
    where
        S: Service<Request, Future: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
            + Clone
            + Send
            + Sync
            + 'static,
    {
    }
    let rig = Rig::new();
    rig.list(["a"]).await;
    as_channel::<_, u32>(&rig.balance);
    is_static_and_shared(&rig.balance);
    let mut balance = rig.balance.clone();
    let request = balance.ready().await.unwrap().call(0);
    is_send(&request);
    assert_eq!(tokio::spawn(request).await.unwrap().unwrap(), "a");
    // And boxed, where the type is to be forgotten.
    let boxed = tower::util::BoxCloneSyncService::new(rig.balance.clone());
    assert_eq!(boxed.oneshot(0).await.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_request_dropped_before_its_first_poll_gives_its_place_back() {
    for (ready, calls) in [(Ready::Yes, 1), (Ready::Waits, 0), (Ready::Fails, 0)] {
        let rig = Rig::new();
        let [a] = rig.list(["a"]).await;
        a.ready(ready);
        let request = rig.balance.clone().call(0);
        assert_eq!(rig.in_flight().await, usize::from(ready != Ready::Fails));
        drop(request);
        assert_eq!((rig.in_flight().await, a.open(), a.calls()), (0, 0, calls));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_dropped_while_its_endpoint_gets_ready_gives_its_place_back() {
    let rig = Rig::new();
    let [a] = rig.list(["a"]).await;
    a.ready(Ready::Waits);
    let mut request = Box::pin(rig.balance.clone().call(0));
    assert!(poll(&mut request).await.is_pending());
    assert_eq!(rig.in_flight().await, 1);
    drop(request);
    assert_eq!((rig.in_flight().await, a.calls()), (0, 0));
    a.ready(Ready::Yes);
    assert_eq!(rig.call().await.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_request_dropped_while_it_is_called_gives_its_place_back() {
    let rig = Rig::new();
    let [a] = rig.list(["a"]).await;
    a.answer(Answer::Holds);
    let mut request = Box::pin(rig.balance.clone().call(0));
    assert!(poll(&mut request).await.is_pending());
    assert_eq!((rig.in_flight().await, a.open()), (1, 1));
    drop(request);
    assert_eq!((rig.in_flight().await, a.open()), (0, 0));
    let info = rig.info("a").await;
    assert_eq!(
        (info.requests, info.failures),
        (1, 0),
        "whoever stops waiting proves nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_there_is_complete_though_its_future_lives() {
    let rig = Rig::new();
    rig.list(["a"]).await;
    let mut request = Box::pin(rig.balance.clone().call(0));
    assert!(poll(&mut request).await.is_ready());
    assert_eq!(rig.in_flight().await, 0);
    drop(request);
    assert_eq!(rig.in_flight().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_wait_for_a_first_endpoint_leaves_nothing() {
    let rig = Rig::new();
    let mut balance = rig.balance.clone();
    let mut ready = Box::pin(balance.ready());
    assert!(poll(&mut ready).await.is_pending());
    drop(ready);
    let clone = balance.clone();
    rig.list(["a"]).await;
    assert_eq!(balance.ready().await.unwrap().call(0).await.unwrap(), "a");
    assert_eq!(clone.oneshot(0).await.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_readiness_that_is_not_used_reserves_nothing() {
    let rig = Rig::new();
    let [a] = rig.list(["a"]).await;
    let mut idle: Vec<_> = vec![rig.balance.clone(); 10];
    for balance in &mut idle {
        balance.ready().await.unwrap();
        balance.ready().await.unwrap();
    }
    assert_eq!((rig.in_flight().await, a.polls()), (0, 0));
    drop(idle);
    assert_eq!(rig.call().await.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn every_request_may_have_a_clone_of_its_own() {
    let rig = Rig::new();
    let all = rig.list(["a", "b", "c"]).await;
    all.iter().for_each(|control| control.answer(Answer::Holds));
    let requests: Vec<_> = (0..99)
        .map(|_| tokio::spawn(rig.balance.clone().oneshot(0)))
        .collect();
    settle().await;
    assert_eq!(all.each_ref().map(|control| control.open()), [33, 33, 33]);
    assert_eq!(rig.in_flight().await, 99);
    for (number, request) in requests.iter().enumerate() {
        if number % 3 == 0 {
            request.abort();
        }
    }
    settle().await;
    assert_eq!(rig.in_flight().await, 66);
    all.iter().for_each(|control| control.release(33));
    let mut answered = 0;
    for request in requests {
        answered += usize::from(request.await.is_ok_and(|answer| answer.is_ok()));
    }
    assert_eq!((answered, rig.in_flight().await), (66, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_outlives_everything_else() {
    let rig = Rig::new();
    let [a, b] = rig.list(["a", "b"]).await;
    a.ready(Ready::Waits);
    b.ready(Ready::Waits);
    let request = rig.start().await;
    // Of the two, the one that it waits for was asked twice.
    let picked = if a.polls() > b.polls() { &a } else { &b };
    drop(rig);
    settle().await;
    // There is no balancer to ask for another endpoint any more.
    picked.ready(Ready::Fails);
    let error = request.await.unwrap().unwrap_err();
    assert_eq!(error.key().unwrap().id(), picked.name);
    assert!(!a.lives() && !b.lives());
}
