//! How long a retry waits.

use std::{num::NonZeroU32, time::Duration};

use tower::{Layer, ServiceExt};
use tower_roster::{
    Backoff,
    backoff::Jitter,
    service::retry::{BudgetSettings, RetrySettings},
};

use crate::kit::*;

/// The pauses before the attempts at a request that fails ten times.
async fn pauses(backoff: Backoff, seed: u64) -> Vec<u128> {
    let layer = RetrySettings::new()
        .delay(backoff)
        .max_attempts(NonZeroU32::new(10).unwrap())
        .seed(seed)
        .budget(None)
        .build()
        .unwrap()
        .classify(by_status());
    let server = Server::new([says(500); 10]);
    layer.layer(server.clone()).oneshot(7).await.unwrap();
    let times = server.times();
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn a_fixed_interval_is_kept() {
    assert_eq!(pauses(Backoff::fixed(30 * MS), 1).await, [30; 9]);
    assert_eq!(pauses(Backoff::fixed(Duration::ZERO), 1).await, [0; 9]);
}

#[tokio::test(start_paused = true)]
async fn an_exponential_delay_doubles_to_its_cap() {
    let backoff = Backoff::new(10 * MS, 500 * MS).unwrap();
    let exact = backoff.jitter(Jitter::None);
    assert_eq!(
        pauses(exact, 1).await,
        [10, 20, 40, 80, 160, 320, 500, 500, 500]
    );
    for seed in 0..50 {
        let bounds = [10, 20, 40, 80, 160, 320, 500, 500, 500];
        // The timer rounds up to the millisecond.
        for (pause, bound) in pauses(backoff, seed).await.into_iter().zip(bounds) {
            assert!(pause <= bound + 1, "{pause} of {bound}, seed {seed}");
        }
        let equal = backoff.jitter(Jitter::Equal);
        for (pause, bound) in pauses(equal, seed).await.into_iter().zip(bounds) {
            assert!((bound / 2..=bound + 1).contains(&pause), "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_decorrelated_delay_follows_the_one_before() {
    let backoff = Backoff::new(10 * MS, 500 * MS).unwrap();
    let backoff = backoff.jitter(Jitter::Decorrelated);
    let mut differ = false;
    for seed in 0..50 {
        let pauses = pauses(backoff, seed).await;
        let mut previous = 10;
        for pause in &pauses {
            let bounds = 10..=(previous * 3).min(500) + 1;
            assert!(bounds.contains(pause), "{pauses:?}, seed {seed}");
            previous = *pause;
        }
        differ |= pauses != self::pauses(backoff, seed + 1_000).await;
    }
    assert!(differ);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_waits_the_same_and_requests_do_not_wait_in_step() {
    let backoff = Backoff::new(100 * MS, SEC).unwrap();
    assert_eq!(pauses(backoff, 5).await, pauses(backoff, 5).await);
    let layer = RetrySettings::new()
        .delay(Backoff::new(SEC, SEC).unwrap())
        .budget(BudgetSettings::new().reserve(20))
        .seed(5);
    let layer = layer.build().unwrap().classify(by_status());
    let server = Server::new([says(500); 20]);
    let calls = (0..20).map(|n| layer.layer(server.clone()).oneshot(n));
    let calls: Vec<_> = calls.map(|call| tokio::spawn(call)).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let mut times = server.times().split_off(20);
    times.dedup();
    assert!(times.len() > 15, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_retry_of_what_was_not_sent_waits_for_nothing() {
    let layer = RetrySettings::new().delay(Backoff::fixed(30 * MS));
    let layer = layer.build().unwrap().classify(by_status());
    let layer = layer.unsent(is_refused);
    let refused = fails(Failure::Refused);
    let server = Server::new([refused, refused]);
    layer.layer(server.clone()).oneshot(7).await.unwrap();
    assert_eq!(server.times(), [0, 0, 30]);
}
