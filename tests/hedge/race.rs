//! Hedges that find the budget used up at the last moment.

use std::{
    future::Future,
    task::{Context, Poll},
};

use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};
use tower_roster::service::{
    hedge::HedgeSettings,
    retry::{BudgetSettings, RetryBudget},
};

use crate::kit::*;

/// A service during whose second `poll_ready`, that of the first hedge, another request uses up the
/// budget.
#[derive(Clone)]
struct Rival {
    server: Server,
    budget: RetryBudget,
    polls: usize,
}

impl Service<u32> for Rival {
    type Response = Answer;
    type Error = Failure;
    type Future = <Server as Service<u32>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.polls += 1;
        if self.polls == 2 {
            assert!(self.budget.withdraw(Instant::now()), "it was there");
        }
        self.server.poll_ready(cx)
    }

    fn call(&mut self, request: u32) -> Self::Future {
        self.server.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_loses_the_race_for_the_budget_is_only_put_off() {
    // One, and another each second.
    let budget = BudgetSettings::new().ratio(0.0).reserve_per_sec(1).ttl(SEC);
    let budget = budget.build().unwrap();
    let server = Server::new([says(200).after(60 * SEC), says(204)]);
    let rival = Rival {
        server: server.clone(),
        budget: budget.clone(),
        polls: 0,
    };
    let layer = HedgeSettings::new().delay(50 * MS).build().unwrap();
    let layer = layer.classify(by_status()).budget(budget);
    let start = Instant::now();
    let answer = layer.layer(rival).oneshot(7).await;
    assert_eq!(answer.unwrap().status, 204);
    assert!(start.elapsed() < 3 * SEC, "{:?}", start.elapsed());
    assert_eq!(server.calls(), 2);
}

/// Counts how often a request that has no budget is woken.
#[tokio::test(start_paused = true)]
async fn a_hedge_without_a_budget_asks_for_it_less_and_less_often() {
    let empty = BudgetSettings::new().ratio(0.0).reserve_per_sec(0);
    let layer = HedgeSettings::new().delay(MS).build().unwrap();
    let layer = layer.classify(by_status()).budget(empty.build().unwrap());
    let server = Server::new([says(200).after(10 * SEC)]);
    let mut polls = 0;
    let mut call = std::pin::pin!(layer.layer(server).oneshot(7));
    let answer = std::future::poll_fn(|cx| {
        polls += 1;
        call.as_mut().poll(cx)
    });
    assert_eq!(answer.await.unwrap().status, 200);
    // Seven to reach a tenth of a second, and one in each of those that are left.
    assert!(polls < 120, "{polls}");
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_was_put_off_is_sent_as_soon_as_the_request_hangs() {
    // Its share is empty, and the budget of the retries is not.
    let with = |attempts| BudgetSettings::new().ratio(0.0).reserve(attempts).build();
    let layer = HedgeSettings::new().delay(50 * MS).build().unwrap();
    let layer = layer.classify(by_status()).budget(with(0).unwrap());
    let layer = layer.shared_budget(with(1).unwrap());
    let server = Server::new([says(200).after(60 * SEC), says(204)]);
    let answer = layer.layer(server.clone()).oneshot(7).await;
    assert_eq!(answer.unwrap().status, 204);
    assert_eq!(server.times(), [0, 500]);
}
