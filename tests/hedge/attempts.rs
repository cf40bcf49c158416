//! Which attempt wins, and what becomes of the others.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::Instant;
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceExt};
use tower_roster::{
    classify::Classify,
    service::{
        hedge::{HedgeLayer, HedgeSettings},
        retry::{BudgetSettings, Cloned, RetryBudget, reissue},
    },
};

use crate::kit::*;

/// A second attempt after 50 ms.
fn settings() -> HedgeSettings {
    HedgeSettings::new().delay(50 * MS)
}

/// With the share that hedges have by default.
fn by_share(settings: HedgeSettings) -> HedgeLayer<Cloned, impl Classify<Answer, Failure>> {
    settings.build().unwrap().classify(by_status())
}

/// With a budget that is never exhausted.
fn with(settings: HedgeSettings) -> HedgeLayer<Cloned, impl Classify<Answer, Failure>> {
    let enough = BudgetSettings::new().reserve(100).build();
    by_share(settings).budget(enough.unwrap())
}

fn plain() -> HedgeLayer<Cloned, impl Classify<Answer, Failure>> {
    with(settings())
}

/// The same once, whatever comes of it.
fn once() -> HedgeLayer<Cloned, impl Classify<Answer, Failure>> {
    let one = BudgetSettings::new().ratio(0.0).reserve_per_sec(1);
    plain().budget(one.ttl(SEC).build().unwrap())
}

/// The result, and after how many milliseconds it came.
async fn ask<C: Classify<Answer, Failure>>(
    hedge: HedgeLayer<Cloned, C>,
    server: &Server,
) -> (Result<u16, Failure>, u128) {
    let start = Instant::now();
    let hedge = hedge.layer(server.clone());
    let result = hedge.oneshot(7).await.map(|answer| answer.status);
    assert_eq!(
        server.in_flight(),
        0,
        "the loser is dropped with the answer"
    );
    (result, start.elapsed().as_millis())
}

#[tokio::test(start_paused = true)]
async fn a_usual_answer_is_not_asked_for_twice() {
    let server = Server::new([says(200).after(49 * MS)]);
    assert_eq!(ask(plain(), &server).await, (Ok(200), 49));
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_second_attempt_wins_over_a_slow_first() {
    let server = Server::new([says(200).after(SEC), says(204).after(10 * MS)]);
    assert_eq!(ask(plain(), &server).await, (Ok(204), 60));
    assert_eq!(server.times(), [0, 50]);
}

#[tokio::test(start_paused = true)]
async fn the_first_attempt_may_still_win() {
    let server = Server::new([says(200).after(70 * MS), says(204).after(SEC)]);
    assert_eq!(ask(plain(), &server).await, (Ok(200), 70));
    assert_eq!(server.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_waits_for_the_other_attempt() {
    let script = [
        fails(Failure::Broke).after(60 * MS),
        says(204).after(40 * MS),
    ];
    assert_eq!(ask(once(), &Server::new(script)).await, (Ok(204), 90));
    let script = [says(200).after(90 * MS), says(503).after(10 * MS)];
    assert_eq!(ask(once(), &Server::new(script)).await, (Ok(200), 90));
}

#[tokio::test(start_paused = true)]
async fn of_two_failures_an_answer_is_better_than_an_error_and_else_the_first() {
    let broke = fails(Failure::Broke).after(60 * MS);
    let script = [broke, says(503).after(40 * MS)];
    assert_eq!(ask(once(), &Server::new(script)).await, (Ok(503), 90));
    let script = [
        says(503).after(60 * MS),
        fails(Failure::Broke).after(40 * MS),
    ];
    assert_eq!(ask(once(), &Server::new(script)).await, (Ok(503), 90));
    let script = [broke, fails(Failure::Refused).after(40 * MS)];
    let result = ask(once(), &Server::new(script)).await;
    assert_eq!(result, (Err(Failure::Broke), 90));
    let script = [says(500).after(100 * MS), says(501).after(10 * MS)];
    assert_eq!(ask(once(), &Server::new(script)).await, (Ok(501), 100));
}

#[tokio::test(start_paused = true)]
async fn a_failure_before_the_second_attempt_is_handed_on() {
    let server = Server::new([fails(Failure::Broke).after(20 * MS)]);
    assert_eq!(ask(plain(), &server).await, (Err(Failure::Broke), 20));
    let server = Server::new([says(503)]);
    assert_eq!(ask(plain(), &server).await, (Ok(503), 0));
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_beside_a_late_attempt_is_made_up_for_once() {
    let late = says(200).after(SEC);
    let broke = fails(Failure::Broke).after(10 * MS);
    let server = Server::new([late, broke, says(204).after(5 * MS)]);
    assert_eq!(ask(plain(), &server).await, (Ok(204), 105));
    assert_eq!(server.times(), [0, 50, 100]);
    let server = Server::new([late, broke, broke, says(204)]);
    assert_eq!(ask(plain(), &server).await, (Ok(200), 1_000));
    assert_eq!(server.calls(), 3);
    // The first may fail, and the second hang.
    let broke = fails(Failure::Broke).after(60 * MS);
    let server = Server::new([broke, late, says(204).after(5 * MS)]);
    assert_eq!(ask(plain(), &server).await, (Ok(204), 105));
}

#[tokio::test(start_paused = true)]
async fn there_is_one_more_attempt_unless_told_and_each_waits_a_delay() {
    let slow = || Server::new([says(200).after(SEC); 9]);
    let server = slow();
    assert_eq!(ask(plain(), &server).await, (Ok(200), 1_000));
    assert_eq!(server.times(), [0, 50]);
    let server = slow();
    let hedge = with(settings().max_extra(NonZeroU32::new(3).unwrap()));
    ask(hedge, &server).await.0.unwrap();
    assert_eq!(server.times(), [0, 50, 100, 150]);
}

#[tokio::test(start_paused = true)]
async fn no_delay_sends_both_at_once() {
    let server = Server::new([says(200).after(SEC), says(204).after(10 * MS)]);
    let hedge = with(settings().delay(Duration::ZERO));
    assert_eq!(ask(hedge, &server).await, (Ok(204), 10));
    assert_eq!(server.times(), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_sends_nothing_more() {
    let empty = BudgetSettings::new().ratio(0.0).reserve_per_sec(0);
    let empty = empty.build().unwrap();
    let server = Server::new([says(200).after(SEC)]);
    let result = ask(plain().budget(empty.clone()), &server).await;
    assert_eq!((result, server.calls()), ((Ok(200), 1_000), 1));
    // The budget is asked again and again, and counts the one attempt that was not sent.
    assert_eq!(empty.refused(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_everything_is_slow_the_share_and_one_more_are_sent_twice() {
    let server = Server::new([says(200).after(SEC); 2_000]);
    let hedge = by_share(settings()).layer(server.clone());
    let calls = (0..1_000).map(|n| tokio::spawn(hedge.clone().oneshot(n)));
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    assert_eq!(server.calls(), 1_000 + 30 + 1);
}

#[tokio::test(start_paused = true)]
async fn what_still_runs_when_there_is_something_again_is_sent_then() {
    let one = BudgetSettings::new().ratio(0.0).reserve_per_sec(1).ttl(SEC);
    let one = one.build().unwrap();
    assert!(one.withdraw(Instant::now()));
    let server = Server::new([says(200).after(10 * SEC), says(204).after(10 * MS)]);
    // It comes back within a slot after a second.
    let (result, took) = ask(plain().budget(one), &server).await;
    assert_eq!(result, Ok(204));
    assert!((1_010..=1_160).contains(&took), "{took} ms");
}

#[tokio::test(start_paused = true)]
async fn the_share_holds_over_any_window_and_nothing_grows_back_with_time() {
    let server = Server::new(vec![says(200).after(300 * MS); 9_000]);
    let hedge = by_share(settings().share(0.05)).layer(server.clone());
    // 100 a second for 20 s, then a minute's pause, and again.
    let mut hedges = 0;
    for round in 1..=2u32 {
        for _ in 0..2_000 {
            tokio::spawn(hedge.clone().oneshot(7));
            tokio::time::sleep(10 * MS).await;
        }
        tokio::time::sleep(60 * SEC).await;
        hedges = server.calls() - 2_000 * round as usize;
        let most = 100 * round as usize + 1;
        assert!(
            (most - 8..=most).contains(&hedges),
            "{hedges} in round {round}"
        );
    }
    // Over each second: what it earns, what the one before it left, and the one.
    let seconds = server.times();
    for start in (0..20_000u128).step_by(500) {
        let sent = seconds
            .iter()
            .filter(|at| (start..start + 1_000).contains(*at));
        assert!(sent.count() <= 100 + 5 + 6 + 1, "from {start} ms on");
    }
    assert!(hedges > 190);
}

#[tokio::test(start_paused = true)]
async fn a_client_with_hardly_any_traffic_hedges_once_and_earns_the_next() {
    let slow = [says(200).after(SEC); 3];
    let fast = [says(200); 34];
    let script = slow
        .into_iter()
        .chain(fast)
        .chain([says(200).after(SEC); 3]);
    let server = Server::new(script);
    let hedge = by_share(settings()).layer(server.clone());
    let mut sent = Vec::new();
    for n in 0..38 {
        let before = server.calls();
        hedge.clone().oneshot(n).await.unwrap();
        sent.push(server.calls() - before);
        tokio::time::sleep(10 * SEC).await;
    }
    assert_eq!(sent[..2], [2, 1], "one, and no second");
    assert_eq!(sent[2..36], [1; 34], "fast ones earn");
    assert_eq!(sent[36..], [2, 1], "one");
}

#[tokio::test(start_paused = true)]
async fn clones_and_services_of_a_layer_share_what_hedges_have() {
    let server = Server::new([says(200).after(SEC); 99]);
    let layer = by_share(settings());
    let one = layer.layer(server.clone());
    let others = [
        one.clone(),
        layer.layer(server.clone()),
        layer.clone().layer(server.clone()),
    ];
    for service in [one].into_iter().chain(others) {
        service.oneshot(7).await.unwrap();
    }
    assert_eq!(server.calls(), 4 + 1);
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_repeated_is_sent_once() {
    let even = reissue::clone_if(|request: &u32| request.is_multiple_of(2));
    let layer = settings().delay(MS).build().unwrap().reissue(even);
    for (request, calls) in [(7, 1), (8, 2)] {
        let server = Server::new([says(200).after(SEC)]);
        let answer = layer.layer(server.clone()).oneshot(request).await;
        assert_eq!((answer.unwrap().status, server.calls()), (200, calls));
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_delays_only_the_second_attempt() {
    for (ready_in, expected) in [(None, (Ok(200), 500)), (Some(80 * MS), (Ok(204), 80))] {
        let server = Server::new([says(200).after(500 * MS), says(204)]);
        let start = Instant::now();
        let mut hedge = plain().layer(server.clone());
        let call = hedge.ready().await.unwrap().call(7);
        server.ready_in(ready_in);
        let result = call.await.map(|answer| answer.status);
        assert_eq!((result, start.elapsed().as_millis()), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_in_poll_ready_does_not_disturb_the_first_attempt() {
    let server = Server::new([says(200).after(SEC)]);
    let mut hedge = plain().layer(server.clone());
    let call = hedge.ready().await.unwrap().call(7);
    server.close();
    assert_eq!(call.await, Ok(answer(200)));
    let error = hedge.ready().await.err().unwrap();
    assert_eq!(error, Failure::Closed, "later calls are told");
}

#[tokio::test(start_paused = true)]
async fn dropping_a_call_drops_all_its_attempts() {
    for (ms, calls) in [(0, 1), (30, 1), (60, 2)] {
        let budget = RetryBudget::new();
        let server = Server::new([says(200).after(SEC); 2]);
        let hedge = plain().budget(budget.clone());
        let mut hedge = hedge.layer(server.clone());
        let mut call = task::spawn(hedge.ready().await.unwrap().call(7));
        assert_pending!(call.poll());
        tokio::time::advance(ms * MS).await;
        assert_pending!(call.poll());
        assert_eq!(server.in_flight(), calls, "after {ms} ms");
        drop(call);
        assert_eq!(server.in_flight(), 0, "after {ms} ms");
        assert_eq!(budget.withdrawn(), calls as u64 - 1, "after {ms} ms");
        assert_eq!(server.clones(), 2, "after {ms} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_works_on_its_own() {
    let server = Server::new([says(200).after(SEC); 2]);
    let mut one = plain().layer(server.clone());
    one.ready().await.unwrap();
    let mut two = one.clone();
    let (a, b) = tokio::join!(one.call(1), two.ready().await.unwrap().call(2));
    assert_eq!((a, b), (Ok(answer(200)), Ok(answer(200))));
    drop((one, two));
    assert_eq!(server.clones(), 1);
}

#[test]
fn refuses_what_is_out_of_range_and_names_the_field() {
    for percentile in [0.0, 1.0, -0.5, 95.0, f64::NAN] {
        let error = HedgeSettings::new().percentile(percentile).build();
        assert_eq!(error.unwrap_err().field(), "hedge.percentile");
    }
    for times in [0.0, 0.99, -3.0, 1_001.0, f64::NAN] {
        let error = HedgeSettings::new().times_median(times).build();
        assert_eq!(error.unwrap_err().field(), "hedge.times_median");
    }
    for share in [-0.01, 1.01, f64::NAN] {
        let error = HedgeSettings::new().share(share).build();
        assert_eq!(error.unwrap_err().field(), "hedge.share");
    }
    for window in [Duration::ZERO, 999 * MS, 601 * SEC, Duration::MAX] {
        let error = HedgeSettings::new().window(window).build();
        assert_eq!(error.unwrap_err().field(), "hedge.window");
    }
}
