//! Endpoints that are not ready, fail or panic: each costs itself only.

use std::error::Error as _;

use tower::ServiceExt;

use crate::kit::{Answer, Ready, Rig, key};

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_not_ready_hands_its_requests_to_another() {
    let rig = Rig::new();
    let [a, _] = rig.list(["a", "b"]).await;
    a.ready(Ready::Fails);
    assert_eq!(rig.spread(10, ["a", "b"]).await, [0, 10]);
    assert!(a.polls() > 0, "it was its turn");
    assert_eq!(a.calls(), 0);
    let info = rig.info("a").await;
    assert_eq!(info.failures as usize, a.polls(), "each costs it a failure");
    assert_eq!(rig.in_flight().await, 0);

    a.ready(Ready::Yes);
    let [to_a, to_b] = rig.spread(10, ["a", "b"]).await;
    assert_eq!((to_a, to_b), (5, 5), "nothing is for good");
}

#[tokio::test(start_paused = true)]
async fn when_none_is_ready_the_last_error_comes_and_no_endpoint_is_asked_twice() {
    let rig = Rig::new();
    let all = rig.list(["a", "b", "c"]).await;
    all.iter().for_each(|control| control.ready(Ready::Fails));
    let error = rig.call().await.unwrap_err();
    assert!(!error.is_no_endpoint());
    assert_eq!(error.source().unwrap().to_string(), "not ready");
    let last = error.key().unwrap();
    assert!(all.iter().any(|control| key(&control.name) == *last));
    assert_eq!(all.each_ref().map(|control| control.polls()), [1, 1, 1]);
    assert_eq!(rig.in_flight().await, 0);
}

#[tokio::test(start_paused = true)]
async fn one_endpoint_that_is_not_ready_is_asked_once_for_each_request() {
    let rig = Rig::new();
    let [a] = rig.list(["a"]).await;
    a.ready(Ready::Fails);
    for requests in 1..5 {
        rig.call().await.unwrap_err();
        assert_eq!(a.polls(), requests);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_its_endpoint_and_goes_on_when_that_wakes_it() {
    let rig = Rig::new();
    let [a] = rig.list(["a"]).await;
    a.ready(Ready::Waits);
    let request = rig.start().await;
    assert_eq!((a.calls(), rig.in_flight().await), (0, 1));
    a.ready(Ready::Yes);
    assert_eq!(request.await.unwrap().unwrap(), "a");
    assert_eq!((a.calls(), rig.in_flight().await), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waited_in_vain_goes_to_another_endpoint() {
    let rig = Rig::new();
    let [a, b] = rig.list(["a", "b"]).await;
    a.ready(Ready::Waits);
    b.ready(Ready::Waits);
    let request = rig.start().await;
    // The other was asked whether it is ready at once.
    let (waits, other) = if a.polls() > b.polls() {
        (&a, &b)
    } else {
        (&b, &a)
    };
    assert_eq!((waits.polls(), other.polls()), (2, 1));
    other.ready(Ready::Yes);
    waits.ready(Ready::Fails);
    assert_eq!(request.await.unwrap().unwrap(), other.name);
    assert_eq!(rig.in_flight().await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_busy_costs_nothing_while_another_is_ready() {
    let rig = Rig::new();
    let [a, b] = rig.list(["a", "b"]).await;
    a.ready(Ready::Waits);
    b.answer(Answer::Holds);
    let mut requests = Vec::new();
    for _ in 0..10 {
        requests.push(rig.start().await);
    }
    assert_eq!((a.calls(), b.calls()), (0, 10));
    assert_eq!(rig.info("a").await.in_flight, 0, "its place is given back");
    b.release(10);
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap(), "b");
    }
    let failures = (rig.info("a").await.failures, rig.info("b").await.failures);
    assert_eq!(failures, (0, 0), "to be busy is no failure");
}

#[tokio::test(start_paused = true)]
async fn a_request_looks_for_a_ready_endpoint_among_a_few_and_waits_for_the_first() {
    let rig = Rig::new();
    let ids = ["a", "b", "c", "d", "e", "f"];
    let all = rig.list(ids).await;
    all.iter().for_each(|control| control.ready(Ready::Waits));
    let request = rig.start().await;
    let polls = || all.each_ref().map(|control| control.polls());
    let asked = polls().iter().filter(|polls| **polls > 0).count();
    assert_eq!(asked, 4);
    let first = polls().iter().position(|polls| *polls == 2).unwrap();
    assert_eq!(rig.info(ids[first]).await.in_flight, 1);
    assert_eq!(rig.in_flight().await, 1, "it counts there alone");
    all[first].ready(Ready::Yes);
    assert_eq!(request.await.unwrap().unwrap(), ids[first]);
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_and_one_that_is_busy_leave_the_third() {
    let rig = Rig::new();
    let [a, b, c] = rig.list(["a", "b", "c"]).await;
    a.ready(Ready::Waits);
    b.ready(Ready::Fails);
    for _ in 0..30 {
        assert_eq!(rig.call().await.unwrap(), "c");
    }
    assert_eq!(c.calls(), 30);
    b.ready(Ready::Panics);
    let mut panics = 0;
    for _ in 0..30 {
        let call = tokio::spawn(rig.balance.clone().oneshot(0)).await;
        panics += usize::from(call.is_err_and(|error| error.is_panic()));
    }
    assert!((1..30).contains(&panics), "{panics}");
    assert_eq!(rig.in_flight().await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_service_is_passed_on_with_its_name_and_not_sent_again() {
    let rig = Rig::new();
    let all = rig.list(["a", "b"]).await;
    all.iter().for_each(|control| control.answer(Answer::Fails));
    let error = rig.call().await.unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "refused");
    let name = error.key().unwrap().clone();
    assert_eq!(error.to_string(), format!("endpoint {name} failed"));
    // It may have been done: only a retry policy may send it again.
    assert_eq!(all.iter().map(|control| control.calls()).sum::<usize>(), 1);
    assert_eq!(rig.info(name.id()).await.failures, 1);
    assert_eq!(rig.in_flight().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_an_endpoint_is_the_callers_and_held_against_the_endpoint() {
    for (ready, answer) in [
        (Ready::Panics, Answer::Name),
        (Ready::Yes, Answer::PanicsInCall),
        (Ready::Yes, Answer::PanicsInPoll),
    ] {
        let rig = Rig::new();
        let [a, b] = rig.list(["a", "b"]).await;
        a.ready(ready);
        a.answer(answer);
        let mut failed = 0;
        for _ in 0..10 {
            match tokio::spawn(rig.balance.clone().oneshot(0)).await {
                Ok(name) => assert_eq!(name.unwrap(), "b"),
                Err(error) => {
                    assert!(error.is_panic());
                    failed += 1;
                }
            }
        }
        assert_eq!((failed, b.calls()), (5, 5));
        let info = rig.info("a").await;
        assert_eq!((info.in_flight, info.failures), (0, 5));
        assert_eq!(a.open(), 0, "what panicked is dropped");

        a.ready(Ready::Yes);
        a.answer(Answer::Name);
        assert_eq!(rig.spread(10, ["a", "b"]).await, [5, 5]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_poll_ready_that_panics_after_it_waited_is_held_against_the_endpoint() {
    let rig = Rig::new();
    let [a] = rig.list(["a"]).await;
    a.ready(Ready::Waits);
    let request = rig.start().await;
    a.ready(Ready::Panics);
    assert!(request.await.unwrap_err().is_panic());
    let info = rig.info("a").await;
    assert_eq!((info.in_flight, info.failures), (0, 1));
}
