//! What an operator reads: the log, and the list of endpoints.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::sleep;
use tower::ServiceExt;
use tower_roster::{
    balance::{BalanceEvent, EndpointState},
    endpoint::eject::{EjectCause, Ejection},
    error::ErrorKind,
};
use tracing::Level;

use crate::{
    kit::{Answer, Rig, Word, layer, settle},
    log::Log,
    registry::{Listed, at},
};

const SECOND: Duration = Duration::from_secs(1);

/// The lines since the last call.
fn log_lines(log: &Log) -> Vec<String> {
    log.take()
        .lines()
        .map(|line| line.trim().to_owned())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn each_fact_is_one_line_that_names_the_service() {
    let (log, _guard) = Log::start(Level::INFO);
    let listed = Listed::new([at("a", 80, 1), at("b", 81, 1)]);
    let layer = layer().ejection(Ejection::new());
    let balance = layer.build().unwrap().balance(listed.discover());
    settle().await;
    let balancer = "balancer{service=web}:";
    let watch = "watch{service=web backend=scripted}:";
    assert_eq!(
        log_lines(&log),
        [
            format!("INFO {watch} instances are listed instances=2"),
            format!("INFO {balancer} endpoints changed: added a b endpoints=2"),
        ]
    );
    listed.apply([at("b", 81, 1), at("c", 82, 1)]).await;
    let changed = "endpoints changed: added c, removed a endpoints=2";
    assert_eq!(log_lines(&log), [format!("INFO {balancer} {changed}")]);

    listed.control("b").answer(Answer::Fails);
    for _ in 0..20 {
        let _ = balance.clone().oneshot(0).await;
        settle().await;
    }
    let lines = log_lines(&log);
    let ejected = lines.iter().filter(|line| line.contains("ejected"));
    assert_eq!(ejected.count(), 1, "{lines:?}");
    assert!(
        lines.iter().all(|line| line.contains(balancer)),
        "{lines:?}"
    );

    // A registry that is lost breaks a connection, then refuses, then is silent: that is one fact.
    for kind in [
        ErrorKind::Unreachable,
        ErrorKind::Timeout,
        ErrorKind::Unavailable,
    ] {
        listed.say(Err(kind));
        sleep(SECOND).await;
    }
    let lines = log_lines(&log);
    let warned: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("WARN"))
        .collect();
    assert_eq!(warned.len(), 1, "{lines:?}");
    assert!(warned[0].contains(watch) && warned[0].contains("keeping the last good set"));
    listed.apply([]).await;
    let removed = "endpoints changed: removed b c endpoints=0";
    assert_eq!(
        log_lines(&log),
        [
            // What a registry lost while it was away is kept for a moment.
            format!("INFO {watch} the registry answers again"),
            format!("INFO {watch} no instance of the service may serve"),
            format!("INFO {balancer} {removed}"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_discovery_that_goes_on_failing_is_warned_of_once_for_each_reason() {
    let (log, _guard) = Log::start(Level::INFO);
    let rig = Rig::new();
    rig.list(["a"]).await;
    log.take();
    for _ in 0..500 {
        rig.feed.say(Word::Error("refused"));
        rig.feed.say(Word::Error("silent"));
    }
    sleep(3_600 * SECOND).await;
    let lines = log_lines(&log);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, reason) in lines.iter().zip(["refused", "silent"]) {
        let told = format!("discovery failed, the last endpoints stay: {reason}");
        assert!(line.starts_with("WARN") && line.contains(&told), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_discovery_that_works_again_says_so_and_its_next_failure_is_warned_of() {
    let (log, _guard) = Log::start(Level::INFO);
    let rig = Rig::new();
    rig.list(["a"]).await;
    log.take();
    rig.feed.say(Word::Error("refused"));
    rig.feed.insert("b");
    sleep(SECOND).await;
    rig.feed.say(Word::Error("refused"));
    sleep(SECOND).await;
    let lines = log_lines(&log);
    let levels = lines.iter().map(|line| &line[..4]);
    assert_eq!(levels.collect::<Vec<_>>(), ["WARN", "INFO", "INFO", "WARN"]);
    assert!(lines[1].contains("discovery works again"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_endpoints_are_one_line() {
    let (log, _guard) = Log::start(Level::INFO);
    let listed = Listed::new((0..10_000).map(|n| at(&format!("{n:05}"), 80, 1)));
    let balance = layer().build().unwrap().balance(listed.discover());
    let all = |status: &tower_roster::balance::BalanceStatus| status.endpoints == 10_000;
    balance.handle().wait_for(all).await.unwrap();
    settle().await;
    let lines = log_lines(&log);
    assert!(lines.len() < 40, "{}: {:?}", lines.len(), &lines[..5]);
    assert!(lines.iter().all(|line| line.len() < 200), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_is_told_as_one_and_an_endpoint_that_awaits_one_shows_it() {
    let rig = Rig::with(layer().ejection(Ejection::new()));
    let [a, ..] = rig.list(["a", "b", "c"]).await;
    let mut events = rig.handle.subscribe().await.unwrap();
    let mut cause = || loop {
        if let BalanceEvent::Ejected { cause, .. } = events.try_recv().unwrap() {
            break cause;
        }
    };
    a.answer(Answer::Fails);
    rig.call_until_ejected("a").await;
    let first = cause();
    assert!(
        matches!(first, EjectCause::ConsecutiveFailures { .. }),
        "{first}"
    );

    // Without traffic it is never probed, so it says that it is due.
    sleep(3_600 * SECOND).await;
    let info = rig.info("a").await;
    assert_eq!(
        (info.state, info.cause),
        (EndpointState::Probing, Some(first))
    );
    rig.call_until_ejected("a").await;
    assert_eq!(cause(), EjectCause::ProbeFailed);
    assert_eq!(EjectCause::ProbeFailed.to_string(), "its probe failed");
    assert_eq!(rig.info("a").await.cause, Some(first), "the reason stays");
    a.answer(Answer::Name);
    sleep(3_600 * SECOND).await;
    assert_eq!(rig.info("a").await.state, EndpointState::Probing);
    for _ in 0..20 {
        rig.call().await.unwrap();
    }
    settle().await;
    assert_eq!(rig.info("a").await.state, EndpointState::Warming);
}

#[tokio::test(start_paused = true)]
async fn the_events_of_another_service_name_that_service() {
    let (log, _guard) = Log::start(Level::INFO);
    let listed = Listed::new([at("a", 80, 1)]);
    let (switch, switched) = tokio::sync::oneshot::channel::<()>();
    let discover = |service: &str| {
        let make = |_: &tower_roster::Instance| {
            Ok::<_, std::convert::Infallible>(crate::kit::Control::new("a").service())
        };
        listed.watch_service(service).discover(make)
    };
    let first = discover("web").take_until(switched);
    let balance = layer()
        .build()
        .unwrap()
        .balance(Box::pin(first.chain(discover("api"))));
    settle().await;
    assert!(
        log_lines(&log)
            .iter()
            .any(|line| line.contains("balancer{service=web}:"))
    );

    switch.send(()).unwrap();
    settle().await;
    let _ = log_lines(&log);
    listed.apply([at("a", 80, 1), at("b", 81, 1)]).await;
    let lines = log_lines(&log);
    let changed = "INFO balancer{service=api}: endpoints changed: added b";
    assert!(
        lines.iter().any(|line| line.starts_with(changed)),
        "{lines:#?}"
    );
    assert!(
        !lines
            .iter()
            .any(|line| line.contains("balancer{service=web}")),
        "{lines:#?}"
    );
    drop(balance);
}
