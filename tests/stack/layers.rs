//! Each layer alone, in a plain `ServiceBuilder` around hyper's client.

use bytes::Bytes;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::{ServiceBuilder, ServiceExt};
use tower_roster::{
    classify::Http,
    service::{
        breaker::{BreakerError, BreakerSettings, BreakerState},
        failfast::{FailFastError, FailFastSettings},
        hedge::HedgeSettings,
        limit::LimitSettings,
        retry::{BudgetSettings, ReplayBody, RetryBudget, RetryLayer},
        throttle::{ThrottleError, ThrottleSettings},
    },
};

use crate::kit::*;

fn hyper<B>() -> legacy::Client<HttpConnector, B>
where
    B: http_body::Body<Data = Bytes> + Send,
{
    legacy::Client::builder(TokioExecutor::new()).build_http()
}

#[tokio::test]
async fn retry() {
    let [server] = servers(["a"]).await;
    let client = ServiceBuilder::new()
        .layer(RetryLayer::default().http())
        .service(hyper::<ReplayBody<Body>>());
    server.set_for(2, Mode::Status(503));
    assert_eq!(
        send(&client, get(&server.url())).await.unwrap(),
        (200, "a".into())
    );
    assert_eq!(server.gets(), 3);
    server.set_for(2, Mode::Status(503));
    assert_eq!(send(&client, post(&server.url())).await.unwrap().0, 503);
    assert_eq!(server.posts(), 1);
}

#[tokio::test]
async fn hedge() {
    let [server] = servers(["a"]).await;
    let budget = RetryBudget::new();
    let layer = HedgeSettings::new().delay(20 * MS).build().unwrap();
    let layer = layer.http().budget(budget.clone());
    let client = ServiceBuilder::new()
        .layer(layer)
        .service(hyper::<ReplayBody<Body>>());
    server.set_for(1, Mode::Hang);
    assert_eq!(
        send(&client, get(&server.url())).await.unwrap(),
        (200, "a".into())
    );
    assert_eq!((server.gets(), budget.withdrawn()), (2, 1));
    until("the first is cancelled", async || server.waiting() == 0).await;
}

#[tokio::test]
async fn retry_and_hedge_share_bodies_and_budget() {
    let [server] = servers(["a"]).await;
    let budget = BudgetSettings::new().reserve(2).build().unwrap();
    let retry = RetryLayer::default().http().shared_budget(budget.clone());
    let hedge = HedgeSettings::new().delay(30 * MS).build().unwrap();
    let client = ServiceBuilder::new()
        .layer(retry)
        .layer(hedge.http_below_retry().shared_budget(budget.clone()))
        .service(hyper::<ReplayBody<Body>>());
    let put = || {
        let request = http::Request::put(server.url());
        request.body(Body::from("?")).unwrap()
    };
    server.set_for(1, Mode::Hang);
    assert_eq!(send(&client, put()).await.unwrap(), (200, "a?".into()));
    server.set_for(1, Mode::Status(500));
    assert_eq!(send(&client, put()).await.unwrap(), (200, "a?".into()));
    assert_eq!(budget.withdrawn(), 2);
}

#[tokio::test]
async fn breaker() {
    let [server] = servers(["a"]).await;
    let layer = BreakerSettings::new()
        .count_window(4)
        .open_time(100 * MS, 1_000 * MS)
        .probes(1)
        .build()
        .unwrap()
        .classify(Http::default());
    let handle = layer.handle();
    let client = ServiceBuilder::new().layer(layer).service(hyper::<Body>());
    server.set(Mode::Status(500));
    for _ in 0..4 {
        assert_eq!(send(&client, get(&server.url())).await.unwrap().0, 500);
    }
    let error = send(&client, get(&server.url())).await.unwrap_err();
    assert!(BreakerError::find(&*error).is_some(), "{error:?}");
    assert_eq!(server.gets(), 4);
    server.set(Mode::Good);
    until("it is closed again", async || {
        let _ = send(&client, get(&server.url())).await;
        handle.state() == BreakerState::Closed
    })
    .await;
}

#[tokio::test]
async fn throttle() {
    let [server] = servers(["a"]).await;
    let layer = ThrottleSettings::new()
        .min_calls(10)
        .seed(7)
        .build()
        .unwrap()
        .classify(Http::default());
    let handle = layer.handle();
    let client = ServiceBuilder::new().layer(layer).service(hyper::<Body>());
    for _ in 0..20 {
        assert_eq!(send(&client, get(&server.url())).await.unwrap().0, 200);
    }
    assert_eq!(handle.probability(), 0.0);
    server.set(Mode::Status(500));
    let mut refused = 0;
    for _ in 0..200 {
        match send(&client, get(&server.url())).await {
            Ok((status, _)) => assert_eq!(status, 500),
            Err(error) => {
                assert!(ThrottleError::find(&*error).is_some(), "{error:?}");
                refused += 1;
            }
        }
    }
    assert_eq!(handle.refused(), refused);
    assert!(refused > 50, "{refused} of 200");
    assert_eq!(server.gets() as u64, 220 - refused);
}

#[tokio::test]
async fn limit() {
    let [server] = servers(["a"]).await;
    let layer = LimitSettings::new()
        .initial(2)
        .range(1, 2)
        .build()
        .unwrap()
        .classify(Http::default());
    let handle = layer.handle();
    let client = ServiceBuilder::new().layer(layer).service(hyper::<Body>());
    assert_eq!(send(&client, get(&server.url())).await.unwrap().0, 200);
    server.set(Mode::Hang);
    let calls: Vec<_> = (0..5)
        .map(|_| tokio::spawn(client.clone().oneshot(get(&server.url()))))
        .collect();
    until("as many as may are under way", async || {
        server.waiting() == 2
    })
    .await;
    assert_eq!(handle.in_flight(), 2);
    server.set(Mode::Good);
    for call in &calls[..] {
        call.abort();
    }
    until("nothing is under way", async || {
        handle.in_flight() == 0 && server.waiting() == 0
    })
    .await;
    assert_eq!(server.gets(), 3, "the others waited");
    for answer in burst(&client, 20, || get(&server.url())).await {
        assert_eq!(answer.unwrap().0, 200);
    }
}

#[tokio::test]
async fn failfast() {
    let [server] = servers(["a"]).await;
    let layer = FailFastSettings::new().wait(50 * MS).name("web");
    let client = ServiceBuilder::new()
        .layer(layer.build().unwrap())
        .concurrency_limit(1)
        .service(hyper::<Body>());
    server.set(Mode::Hang);
    let call = tokio::spawn(client.clone().oneshot(get(&server.url())));
    until("it holds the only place", async || server.waiting() == 1).await;
    let error = send(&client, get(&server.url())).await.unwrap_err();
    assert!(FailFastError::find(&*error).is_some(), "{error:?}");
    server.set(Mode::Good);
    call.abort();
    until("there is a place again", async || {
        send(&client, get(&server.url())).await.is_ok()
    })
    .await;
}
