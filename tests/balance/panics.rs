//! Routes, classifiers and clones that panic: no request is lost without a word, and none is in flight
//! for ever.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use tower::{Service, ServiceExt};
use tower_roster::{
    balance::{BalanceLayer, Handle, RequestGuard, policy::RoundRobin, topology::Wish},
    classify::{self, Classify, Observer, Verdict},
    endpoint::load::InFlight,
};

use crate::kit::{Failed, Ready, layer, script, settle};

/// Requests in flight and failures of all endpoints.
async fn totals(handle: &Handle) -> (usize, u64) {
    let all = handle.endpoints().await.unwrap();
    all.iter().fold((0, 0), |(in_flight, failures), info| {
        (in_flight + info.in_flight, failures + info.failures)
    })
}

#[tokio::test(start_paused = true)]
async fn a_route_that_panics_costs_the_request_and_is_named() {
    let (feed, script) = script();
    let a = feed.insert("a");
    let route = |number: &u32| {
        assert_ne!(*number, 13, "a route that panics");
        Wish::new()
    };
    let balance = layer().route(route).balance_plain(script);
    settle().await;
    for _ in 0..3 {
        let error = balance.clone().oneshot(13).await.unwrap_err();
        assert!(error.is_panic() && !error.is_no_endpoint());
        assert_eq!(error.key(), None);
        let text = error.to_string();
        assert!(text.starts_with("the balancer's route "), "{text}");
        assert!(text.contains("a_route_that_panics"), "{text}");
        assert_eq!(balance.clone().oneshot(1).await.unwrap(), "a");
    }
    assert_eq!(a.calls(), 3, "what has no route is not sent");
    assert_eq!(totals(&balance.handle()).await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_route_that_panics_when_the_request_is_sent_on_costs_it_too() {
    for waits in [false, true] {
        let (feed, script) = script();
        let endpoints = [feed.insert("a"), feed.insert("b")];
        let asked = Arc::new(AtomicUsize::new(0));
        let route = {
            let asked = Arc::clone(&asked);
            move |_: &u32| {
                assert_eq!(asked.fetch_add(1, SeqCst), 0, "a route that panics");
                Wish::new()
            }
        };
        let balance = layer().route(route).balance_plain(script);
        settle().await;
        // In `call`, and when the future is polled.
        let ready = if waits { Ready::Waits } else { Ready::Fails };
        endpoints.iter().for_each(|endpoint| endpoint.ready(ready));
        let request = tokio::spawn(balance.clone().oneshot(0));
        settle().await;
        endpoints.iter().for_each(|it| it.ready(Ready::Fails));
        let error = request
            .await
            .expect("the caller's task goes on")
            .unwrap_err();
        assert!(error.is_panic(), "{error}");
        assert_eq!(asked.load(SeqCst), 2);
        // The one endpoint that was not ready failed it.
        assert_eq!(totals(&balance.handle()).await, (0, 1));
    }
}

fn judge(result: Result<&String, &Failed>) -> Verdict {
    assert_ne!(result.unwrap(), "bad", "a classifier that panics");
    Verdict::SUCCESS
}

/// Panics when it hands on the answer of `bad`.
#[derive(Clone)]
struct Hands;

impl Classify<String, Failed> for Hands {
    type Observed<O: Observer> = String;

    fn judge(&self, _: Result<&String, &Failed>) -> Option<Verdict> {
        Some(Verdict::SUCCESS)
    }

    fn observe<O: Observer>(&self, response: String, _: O) -> String {
        assert_ne!(response, "bad", "a classifier that panics");
        response
    }
}

async fn costs_the_request<C>(layer: BalanceLayer<RoundRobin, C>)
where
    C: Classify<String, Failed, Observed<RequestGuard<InFlight>> = String>,
{
    let (feed, script) = script();
    feed.insert("good");
    feed.insert("bad");
    let balance = layer.balance_plain(script);
    settle().await;
    let mut failed = 0;
    for _ in 0..10 {
        match balance.clone().oneshot(0).await {
            Ok(name) => assert_eq!(name, "good"),
            Err(error) => {
                assert!(error.is_panic());
                assert_eq!(error.key(), None);
                let text = error.to_string();
                assert!(text.starts_with("the balancer's classifier "), "{text}");
                failed += 1;
            }
        }
    }
    assert_eq!(failed, 5);
    assert_eq!(
        totals(&balance.handle()).await,
        (0, 0),
        "it is not the endpoint's fault"
    );
}

#[tokio::test(start_paused = true)]
async fn a_classifier_that_panics_costs_the_request_and_is_named() {
    costs_the_request(layer().classify(classify::from_fn(judge))).await;
    costs_the_request(layer().classify(Hands)).await;
}

/// A service whose clones panic where it is told to.
struct Unique(Arc<AtomicBool>);

impl Clone for Unique {
    fn clone(&self) -> Self {
        assert!(!self.0.load(SeqCst), "a clone that panics");
        Self(Arc::clone(&self.0))
    }
}

impl Service<()> for Unique {
    type Response = ();
    type Error = Infallible;
    type Future = std::future::Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        std::future::ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_that_panics_is_the_callers_and_the_balancer_goes_on() {
    let (feed, script) = script();
    let panics = Arc::new(AtomicBool::new(false));
    feed.put("a", Unique(Arc::clone(&panics)));
    let balance = layer().balance_plain(script);
    settle().await;
    panics.store(true, SeqCst);
    for _ in 0..100 {
        let request = tokio::spawn(balance.clone().oneshot(()));
        assert!(request.await.unwrap_err().is_panic());
    }
    panics.store(false, SeqCst);
    balance.clone().oneshot(()).await.unwrap();
    assert_eq!(totals(&balance.handle()).await, (0, 0));
}
