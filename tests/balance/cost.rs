//! What a request allocates: nothing.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
};

use tower::{Service, discover::Change};
use tower_roster::balance::{
    BalanceLayer,
    policy::{DefaultPolicy, Policy, RoundRobin},
};

#[derive(Clone)]
struct Echo;

impl Service<u64> for Echo {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(Ok(request))
    }
}

async fn allocations<P: Policy>(policy: P, seed: Option<u64>) -> u64 {
    let listed = (0..100).map(|number| Ok::<_, Infallible>(Change::Insert(number, Echo)));
    let mut layer = BalanceLayer::builder().policy(policy);
    if let Some(seed) = seed {
        layer = layer.seed(seed);
    }
    let balance = layer.build().unwrap();
    let balance = balance.balance_plain(futures_util::stream::iter(listed));
    let usable = balance
        .handle()
        .wait_for(|status| status.usable == 100)
        .await;
    usable.unwrap();
    let cx = &mut Context::from_waker(Waker::noop());
    let mut requests = || {
        for request in 0..1_000 {
            let mut balance = balance.clone();
            assert!(balance.poll_ready(cx).is_ready());
            let answer = pin!(balance.call(request)).poll(cx);
            assert!(matches!(answer, Poll::Ready(Ok(echo)) if echo == request));
        }
    };
    // What a thread sets up once is no cost of a request.
    requests();
    allocation_counter::measure(requests).count_total
}

#[tokio::test(start_paused = true)]
async fn a_request_allocates_nothing() {
    assert_eq!(allocations(RoundRobin::new(), None).await, 0);
    assert_eq!(allocations(RoundRobin::new(), Some(1)).await, 0);
    assert_eq!(allocations(DefaultPolicy::default(), None).await, 0);
}
