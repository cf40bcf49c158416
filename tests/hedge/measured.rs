//! A delay that follows what is usual.

use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use tower_roster::service::{
    hedge::{Hedge, HedgeLayer},
    retry::{Cloned, RetryBudget},
};

use crate::kit::*;

fn measured(server: &Server) -> Hedge<Server, Cloned> {
    HedgeLayer::cloned().build().unwrap().layer(server.clone())
}

/// After how long the next attempt starts beside one that takes 10 s, in milliseconds.
async fn delay(hedge: &Hedge<Server, Cloned>, server: &Server) -> Option<u128> {
    let before = server.calls();
    let _ = tokio::time::timeout(5 * SEC, hedge.clone().oneshot(7)).await;
    let times = server.times().split_off(before);
    (times.len() > 1).then(|| times[1] - times[0])
}

#[tokio::test(start_paused = true)]
async fn it_is_the_95th_percentile_of_the_last_answers() {
    // 200 answers, one of each number of milliseconds.
    let usual = (1..=200).map(|ms| says(200).after(ms * MS));
    let server = Server::new(usual.chain([says(200).after(10 * SEC); 2]));
    let hedge = measured(&server);
    let calls = (0..200).map(|n| tokio::spawn(hedge.clone().oneshot(n)));
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    sleep(3 * SEC).await;
    let delay = delay(&hedge, &server).await.unwrap();
    assert!((190..=203).contains(&delay), "{delay} ms");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_before_enough_was_measured() {
    let server = Server::new(
        (0..99)
            .map(|_| says(200).after(MS))
            .chain([says(200).after(SEC)]),
    );
    let hedge = measured(&server);
    for n in 0..99 {
        hedge.clone().oneshot(n).await.unwrap();
    }
    sleep(3 * SEC).await;
    assert_eq!(delay(&hedge, &server).await, None);
}

#[tokio::test(start_paused = true)]
async fn fast_failures_do_not_shorten_it() {
    let usual = (0..200).map(|n| {
        if n % 2 == 0 {
            says(200).after(100 * MS)
        } else {
            fails(Failure::Broke).after(MS)
        }
    });
    let server = Server::new(usual.chain([says(200).after(10 * SEC); 2]));
    let layer = HedgeLayer::cloned().percentile(0.3).build().unwrap();
    let hedge = layer.layer(server.clone());
    for n in 0..200 {
        let _ = hedge.clone().oneshot(n).await;
    }
    sleep(2 * SEC).await;
    let delay = delay(&hedge, &server).await.unwrap();
    assert!((100..=107).contains(&delay), "{delay} ms");
}

#[tokio::test(start_paused = true)]
async fn callers_who_give_up_do_not_hide_that_all_is_slow() {
    let fast = (0..1_000).map(|_| says(200).after(10 * MS));
    let slow = (0..9_000).map(|_| says(200).after(10 * SEC));
    let server = Server::new(fast.chain(slow));
    let budget = RetryBudget::builder().ratio(10.0).build().unwrap();
    let layer = HedgeLayer::cloned().budget(budget).build().unwrap();
    let hedge = layer.layer(server.clone());
    for n in 0..1_000 {
        hedge.clone().oneshot(n).await.unwrap();
    }
    // From now on nothing answers within the second that callers wait.
    let until = Instant::now() + 20 * SEC;
    while Instant::now() < until {
        for n in 0..10 {
            let call = tokio::time::timeout(SEC, hedge.clone().oneshot(n));
            tokio::spawn(call);
        }
        sleep(100 * MS).await;
    }
    let delay = delay(&hedge, &server).await.unwrap();
    assert!((1_000..=1_070).contains(&delay), "{delay} ms");
}
