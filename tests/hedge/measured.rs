//! A delay that follows what is usual.

use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use tower_roster::service::{
    hedge::{Hedge, HedgeLayer, HedgeSettings},
    retry::{BudgetSettings, Cloned},
};

use crate::kit::*;

/// By the percentile alone.
fn measured(server: &Server) -> Hedge<Server, Cloned> {
    let layer = HedgeSettings::new().times_median(1.0).build();
    layer.unwrap().layer(server.clone())
}

/// Sends so many requests at once.
async fn all_at_once(hedge: &Hedge<Server, Cloned>, requests: u32) {
    let calls = (0..requests).map(|n| tokio::spawn(hedge.clone().oneshot(n)));
    for call in calls.collect::<Vec<_>>() {
        let _ = call.await.unwrap();
    }
}

/// After how long the next attempt starts beside one that takes 10 s, in milliseconds.
async fn delay(hedge: &Hedge<Server, Cloned>, server: &Server) -> Option<u128> {
    let before = server.calls();
    let _ = tokio::time::timeout(5 * SEC, hedge.clone().oneshot(7)).await;
    let times = server.times().split_off(before);
    (times.len() > 1).then(|| times[1] - times[0])
}

#[tokio::test(start_paused = true)]
async fn it_is_the_97th_percentile_of_the_last_answers() {
    // 200 answers, one of each number of milliseconds.
    let usual = (1..=200).map(|ms| says(200).after(ms * MS));
    let server = Server::new(usual.chain([says(200).after(10 * SEC); 2]));
    let hedge = measured(&server);
    all_at_once(&hedge, 200).await;
    sleep(3 * SEC).await;
    let delay = delay(&hedge, &server).await.unwrap();
    assert!((194..=202).contains(&delay), "{delay} ms");
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
    let layer = HedgeSettings::new().percentile(0.3).times_median(1.0);
    let hedge = layer.build().unwrap().layer(server.clone());
    all_at_once(&hedge, 200).await;
    sleep(2 * SEC).await;
    let delay = delay(&hedge, &server).await.unwrap();
    assert!((100..=107).contains(&delay), "{delay} ms");
}

#[tokio::test(start_paused = true)]
async fn callers_who_give_up_do_not_hide_that_all_is_slow() {
    let fast = (0..1_000).map(|_| says(200).after(10 * MS));
    let slow = (0..9_000).map(|_| says(200).after(10 * SEC));
    let server = Server::new(fast.chain(slow));
    let budget = BudgetSettings::new().ratio(10.0).build().unwrap();
    let layer = HedgeSettings::new().times_median(1.0).build().unwrap();
    let hedge = layer.budget(budget).layer(server.clone());
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

#[tokio::test(start_paused = true)]
async fn an_overload_ends_hedging_within_a_second_and_hedging_returns_after_it() {
    let usual =
        |many| (0..many).map(|n| says(200).after(if n % 20 == 0 { 80 * MS } else { 10 * MS }));
    let hangs = [says(200).after(10 * SEC); 2];
    let overload = [says(200).after(200 * MS); 200];
    let script = usual(400).chain(hangs).chain(overload);
    let script = script.chain(hangs).chain(usual(20 * 200)).chain(hangs);
    let server = Server::new(script);
    // One hedge at a time is enough to see the delay, and changes nothing else.
    let budget = BudgetSettings::new().ratio(0.0).reserve_per_sec(1).ttl(SEC);
    let layer = HedgeLayer::default().budget(budget.build().unwrap());
    let hedge = layer.layer(server.clone());
    all_at_once(&hedge, 400).await;
    sleep(SEC).await;
    let before = delay(&hedge, &server).await.unwrap();
    assert!((80..=90).contains(&before), "{before} ms");
    // One of them is a hedge.
    all_at_once(&hedge, 199).await;
    sleep(SEC).await;
    let during = delay(&hedge, &server).await.unwrap();
    assert!((600..=675).contains(&during), "three medians: {during} ms");
    for _ in 0..20 {
        all_at_once(&hedge, 200).await;
        sleep(SEC).await;
    }
    let after = delay(&hedge, &server).await.unwrap();
    assert!((80..=90).contains(&after), "{after} ms");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_several_times_the_median_is_not_slow() {
    // As in the test of the percentile: the median is 100 ms.
    let usual = (1..=200).map(|ms| says(200).after(ms * MS));
    let server = Server::new(usual.chain([says(200).after(10 * SEC); 2]));
    let layer = HedgeLayer::default();
    let hedge = layer.layer(server.clone());
    all_at_once(&hedge, 200).await;
    sleep(3 * SEC).await;
    let delay = delay(&hedge, &server).await.unwrap();
    assert!((300..=338).contains(&delay), "{delay} ms");
}
