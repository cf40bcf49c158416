//! Hedging below a retry, and above something that picks endpoints.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt};
use tower_roster::{
    Backoff,
    attempt::{EndpointId, Tried},
    service::{
        hedge::{HedgeLayer, HedgeSettings},
        retry::{BudgetSettings, RetryLayer, RetrySettings},
    },
};

use crate::kit::{Failure, MS, SEC, Server, by_status, fails, says};

/// Picks the first endpoint that the request has not been to. Each answers after its own time.
#[derive(Clone)]
struct Toy {
    endpoints: Arc<Vec<(EndpointId, Duration, bool)>>,
    picked: Arc<Mutex<Vec<usize>>>,
}

impl Toy {
    fn new(endpoints: &[(Duration, bool)]) -> Self {
        let endpoints = endpoints
            .iter()
            .map(|(time, ok)| (EndpointId::next(), *time, *ok));
        Self {
            endpoints: Arc::new(endpoints.collect()),
            picked: Arc::default(),
        }
    }

    fn picked(&self) -> Vec<usize> {
        self.picked.lock().unwrap().clone()
    }
}

impl Service<u32> for Toy {
    type Response = usize;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<usize, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: u32) -> Self::Future {
        let tried = Tried::current().unwrap();
        let mut endpoints = self.endpoints.iter();
        let pick = endpoints.position(|(id, ..)| !tried.contains(*id)).unwrap();
        let (id, time, ok) = self.endpoints[pick];
        Tried::note(id);
        self.picked.lock().unwrap().push(pick);
        Box::pin(async move {
            tokio::time::sleep(time).await;
            ok.then_some(pick).ok_or_else(|| Failure::Broke.into())
        })
    }
}

fn after_50_ms() -> HedgeLayer {
    HedgeSettings::new().delay(50 * MS).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_second_attempt_goes_to_another_endpoint() {
    let toy = Toy::new(&[(SEC, true), (10 * MS, true)]);
    let layer = after_50_ms();
    let service = ServiceBuilder::new().layer(layer).service(toy.clone());
    assert_eq!(service.oneshot(7).await.unwrap(), 1);
    assert_eq!(toy.picked(), [0, 1]);
    assert_eq!(Tried::current(), None, "nothing is left behind");
}

#[tokio::test(start_paused = true)]
async fn a_retry_avoids_what_both_attempts_went_to() {
    let toy = Toy::new(&[(100 * MS, false), (100 * MS, false), (10 * MS, true)]);
    let service = ServiceBuilder::new()
        .layer(
            RetrySettings::new()
                .delay(Backoff::fixed(MS))
                .build()
                .unwrap(),
        )
        .layer(after_50_ms())
        .service(toy.clone());
    assert_eq!(service.oneshot(7).await.unwrap(), 2);
    assert_eq!(toy.picked(), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn retries_are_hedged_too_all_from_one_budget() {
    let [budget, own] = [10, 10].map(|many| {
        let budget = BudgetSettings::new().reserve(many).build();
        budget.unwrap()
    });
    let slow = fails(Failure::Broke).after(400 * MS);
    let server = Server::new(VecDeque::from([slow; 20]));
    let retry = RetryLayer::default().shared_budget(budget.clone());
    let hedge = after_50_ms().classify(by_status());
    let service = ServiceBuilder::new()
        .layer(retry)
        .layer(hedge.budget(own.clone()).shared_budget(budget.clone()))
        .service(server.clone());
    assert!(service.oneshot(7).await.is_err());
    assert_eq!(
        server.calls(),
        3 * 3,
        "three attempts, each hedged, and a failure beside the hedge made up for"
    );
    assert_eq!(budget.withdrawn(), 8, "all from one budget");
    assert_eq!(own.withdrawn(), 6, "and the hedges from their own");
}

#[tokio::test(start_paused = true)]
async fn a_hedge_pays_from_its_share_and_from_the_shared_budget() {
    // What hedges may, what both may, and what comes of it.
    for (own, both, hedges) in [(1, 9, 1), (9, 1, 1), (0, 9, 0), (9, 0, 0), (3, 3, 3)] {
        let [own, both] = [own, both].map(|attempts| {
            let budget = BudgetSettings::new().ratio(0.0).reserve(attempts);
            budget.build().unwrap()
        });
        let hedge = HedgeSettings::new().delay(Duration::ZERO);
        let hedge = hedge.build().unwrap().classify(by_status());
        let hedge = hedge.budget(own.clone()).shared_budget(both.clone());
        let server = Server::new(VecDeque::from([says(200).after(10 * MS); 20]));
        let service = hedge.layer(server.clone());
        let calls = (0..5).map(|_| service.clone().oneshot(7));
        futures_util::future::join_all(calls).await;
        assert_eq!(
            (server.calls(), both.withdrawn()),
            (5 + hedges, hedges as u64)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_hangs_is_sent_again_for_the_budget_of_retries_alone() {
    let [own, both] = [0, 1].map(|attempts| {
        let budget = BudgetSettings::new().ratio(0.0).reserve(attempts);
        budget.build().unwrap()
    });
    let hedge = after_50_ms().classify(by_status());
    let hedge = hedge.budget(own.clone()).shared_budget(both.clone());
    let server = Server::new([says(200).after(10 * SEC), says(204)]);
    let service = hedge.layer(server.clone());
    let began = Instant::now();
    let answer = service.oneshot(7).await.unwrap();
    assert_eq!(answer.status, 204);
    assert_eq!(began.elapsed(), 500 * MS, "after ten delays");
    assert_eq!((own.withdrawn(), both.withdrawn()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_shared_budget_counts_a_request_once() {
    let budget = BudgetSettings::new().ratio(1.0).reserve_per_sec(0);
    let budget = budget.build().unwrap();
    let server = Server::new([says(200)]);
    let service = ServiceBuilder::new()
        .layer(RetryLayer::default().shared_budget(budget.clone()))
        .layer(HedgeLayer::default().shared_budget(budget.clone()))
        .service(server);
    service.oneshot(7).await.unwrap();
    assert_eq!(budget.available(Instant::now()), 1);
}
