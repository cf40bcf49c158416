//! Verdicts that come with the end of an answer.

use tokio::time;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_roster::{
    classify::{Classify, Observer, Outcome, Verdict},
    service::breaker::{Breaker, BreakerCall, BreakerCause, BreakerSettings, BreakerState},
};

use super::kit::{AtTheEnd, AtTheHead, Do, Obedient, SECOND, Streaming};

fn settings() -> BreakerSettings {
    BreakerSettings::new()
        .count_window(4)
        .jitter(0.0)
        .probes(2)
        .probe_deadline(5 * SECOND)
}

fn service<C: Clone>(settings: BreakerSettings, classify: C) -> Breaker<Obedient, C> {
    let layer = settings.build().unwrap().classify(classify);
    layer.layer(Obedient::default())
}

async fn begin<C>(service: &mut Breaker<Obedient, C>) -> Streaming<BreakerCall>
where
    C: Classify<&'static str, BoxError, Observed<BreakerCall> = Streaming<BreakerCall>>,
{
    let ready = service.ready().await.unwrap();
    ready.call(Do::Succeed).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_answer_is_what_counts() {
    let mut service = service(settings(), AtTheEnd);
    let handle = service.handle();
    let streams = [
        begin(&mut service).await,
        begin(&mut service).await,
        begin(&mut service).await,
        begin(&mut service).await,
        begin(&mut service).await,
    ];
    assert_eq!(handle.counts().total, 0, "no verdict yet");
    let [a, b, c, d, e] = streams;
    a.end(Verdict::SUCCESS);
    b.end(Verdict::SUCCESS);
    drop(c);
    d.end(Verdict::FAILURE);
    assert_eq!((handle.counts().total, handle.counts().failed), (3, 1));
    e.end(Verdict::OVERLOADED);
    assert_eq!(handle.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_takes_its_success_back() {
    for settings in [settings(), settings().time_window(10 * SECOND).min_calls(4)] {
        let mut service = service(settings, AtTheHead);
        let handle = service.handle();
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(begin(&mut service).await);
        }
        assert_eq!((handle.counts().total, handle.counts().failed), (4, 0));
        let mut first = streams.remove(0);
        first.observer.conclude(Verdict::FAILURE);
        first.observer.conclude(Verdict::FAILURE);
        first.observer.conclude(Verdict::new(Outcome::Cancelled));
        drop(first);
        assert_eq!((handle.counts().total, handle.counts().failed), (4, 1));
        streams.remove(0).end(Verdict::FAILURE);
        assert_eq!(handle.state(), BreakerState::Open);
        // Too late to count for anything.
        streams.remove(0).end(Verdict::FAILURE);
        assert_eq!(handle.counts().failed, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn probes_that_stream_count_as_good_at_their_deadline() {
    let mut service = service(settings(), AtTheEnd);
    let handle = service.handle();
    for _ in 0..4 {
        begin(&mut service).await.end(Verdict::FAILURE);
    }
    time::advance(SECOND).await;
    let (one, other) = (begin(&mut service).await, begin(&mut service).await);
    time::advance(4 * SECOND).await;
    assert_eq!(handle.state(), BreakerState::HalfOpen);
    time::advance(SECOND).await;
    assert_eq!(handle.state(), BreakerState::Closed);
    assert_eq!(
        handle.subscribe().borrow().cause,
        BreakerCause::ProbesSucceeded
    );
    // What becomes of them later is of another time.
    one.end(Verdict::FAILURE);
    other.end(Verdict::FAILURE);
    assert_eq!(
        (handle.state(), handle.counts().total),
        (BreakerState::Closed, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn probes_that_stream_may_fail_or_succeed_before() {
    let mut service = service(settings(), AtTheEnd);
    let handle = service.handle();
    for _ in 0..4 {
        begin(&mut service).await.end(Verdict::FAILURE);
    }
    time::advance(SECOND).await;
    let (one, other) = (begin(&mut service).await, begin(&mut service).await);
    one.end(Verdict::SUCCESS);
    assert_eq!(handle.state(), BreakerState::HalfOpen);
    other.end(Verdict::FAILURE);
    assert_eq!(handle.state(), BreakerState::Open);
    time::advance(2 * SECOND).await;
    let (one, other) = (begin(&mut service).await, begin(&mut service).await);
    drop(one); // cancelled: its permit comes back
    let third = begin(&mut service).await;
    other.end(Verdict::SUCCESS);
    third.end(Verdict::SUCCESS);
    assert_eq!(handle.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_breaks_off_opens_it_again() {
    let mut service = service(settings(), AtTheHead);
    let handle = service.handle();
    for _ in 0..4 {
        begin(&mut service).await.end(Verdict::FAILURE);
    }
    assert_eq!(handle.state(), BreakerState::Open);
    time::advance(SECOND).await;
    let probe = begin(&mut service).await;
    assert_eq!(handle.state(), BreakerState::HalfOpen);
    probe.end(Verdict::FAILURE);
    assert_eq!(handle.state(), BreakerState::Open);
}
