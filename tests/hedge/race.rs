//! Hedges that find the budget used up at the last moment.

use std::task::{Context, Poll};

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
