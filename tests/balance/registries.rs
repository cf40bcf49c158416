//! What the balancer knows of the registry behind its discovery, which has no word for it.

use std::{convert::Infallible, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::time::{Instant, sleep};
use tower::{ServiceExt, discover::Change};
use tower_roster::{
    Instance,
    balance::{Balance, BalanceHandle, NoEndpoint, RegistryStatus, policy::RoundRobin},
    endpoint::Endpoint,
    error::ErrorKind,
    instance::{Key, Status},
    registry::ViewState,
};

use crate::{
    kit::{Mock, events, layer, settle},
    reasons::reason,
    registry::{Listed, at},
};

const SECOND: Duration = Duration::from_secs(1);

async fn why<S>(balance: &Balance<S, RoundRobin>) -> NoEndpoint
where
    S: tower::Service<u32, Error: Into<tower_roster::BoxError>> + Clone + Send + Sync + 'static,
{
    let error = balance.clone().oneshot(0).await.err();
    reason(&error.expect("there is no endpoint"))
}

fn only(handle: &BalanceHandle) -> RegistryStatus {
    let status = handle.status();
    assert_eq!(status.registries.len(), 1, "{status:?}");
    status.registries[0].clone()
}

#[tokio::test(start_paused = true)]
async fn each_reason_is_told_as_the_registry_tells_it() {
    let listed = Listed::unreachable();
    let balance = layer().build().unwrap().balance(listed.discover());
    let handle = balance.handle();
    let began = Instant::now();

    for kind in [ErrorKind::Unreachable, ErrorKind::Denied] {
        listed.say(Err(kind));
        // A refused request is repeated slowly.
        sleep(10 * SECOND).await;
        match why(&balance).await {
            NoEndpoint::Unreachable { since, error } => {
                assert_eq!(since, began.elapsed(), "since it is asked");
                assert_eq!(error, format!("scripted: service \"web\": {kind:?}"));
            }
            other => panic!("the registry's error must be told, not {other:?}"),
        }
        assert_eq!(only(&handle).state, ViewState::Pending);
        assert_eq!(only(&handle).error.unwrap().kind(), kind);
        assert!(!handle.status().resolved);
    }

    listed.say(Ok((Vec::new(), false)));
    sleep(10 * SECOND).await;
    assert_eq!(why(&balance).await, NoEndpoint::Missing);
    assert!(handle.status().resolved, "that is an answer");

    listed.say(Ok((Vec::new(), true)));
    settle().await;
    assert_eq!(why(&balance).await, NoEndpoint::Empty);

    // Listed and critical is as good as none.
    let mut ill = at("a", 80, 1);
    ill.status = Status::Critical;
    listed.say(Ok((vec![ill], true)));
    settle().await;
    assert_eq!(why(&balance).await, NoEndpoint::Empty);

    listed.say(Ok((vec![at("a", 80, 1)], true)));
    settle().await;
    assert_eq!(balance.clone().oneshot(0).await.unwrap(), "a 10.0.0.1:80");
    assert_eq!(only(&handle).instances, 1);

    // It was empty when it was heard of last, and whether it still is nobody knows.
    listed.apply([]).await;
    listed.say(Err(ErrorKind::Timeout));
    sleep(SECOND).await;
    let lost = Instant::now();
    match why(&balance).await {
        NoEndpoint::Unreachable { since, .. } => {
            let waited = lost.elapsed();
            assert!(since >= waited && since < waited + 2 * SECOND, "{since:?}");
        }
        other => panic!("not {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_only_while_nothing_is_known() {
    const WAIT: Duration = Duration::from_secs(3);
    let listed = Listed::unreachable();
    let balance = layer().build().unwrap().balance(listed.discover());
    let failed = async || {
        let began = Instant::now();
        let error = balance.clone().oneshot(0).await.unwrap_err();
        assert_eq!(error.service().map(|name| &**name), Some("web"));
        let text = error.to_string();
        assert!(
            text.starts_with("no endpoint of service \"web\": "),
            "{text}"
        );
        (reason(&error), began.elapsed())
    };
    let (_, waited) = failed().await;
    assert!(waited >= WAIT, "the registry is unreachable: {waited:?}");

    // Confirmed while a request waits: it fails then.
    let waiting = tokio::spawn(balance.clone().oneshot(0));
    let began = Instant::now();
    listed.say(Ok((Vec::new(), false)));
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(reason(&error), NoEndpoint::Missing);
    assert!(began.elapsed() < WAIT / 2, "after {:?}", began.elapsed());
    assert_eq!(failed().await, (NoEndpoint::Missing, Duration::ZERO));

    listed.apply([]).await;
    assert_eq!(failed().await, (NoEndpoint::Empty, Duration::ZERO));
    listed.apply([at("a", 80, 1)]).await;
    balance.clone().oneshot(0).await.unwrap();
    listed.apply([]).await;
    assert_eq!(failed().await, (NoEndpoint::Empty, Duration::ZERO));

    // Whether it is still empty nobody knows.
    listed.say(Err(ErrorKind::Unreachable));
    sleep(SECOND).await;
    let (_, waited) = failed().await;
    assert!(waited >= WAIT, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn instances_of_which_no_endpoint_can_be_made_are_counted() {
    let listed = Listed::new([at("a", 80, 1), at("b", 80, 1)]);
    let watch = listed.watch();
    let balance = layer()
        .build()
        .unwrap()
        .balance(watch.discover(|_: &Instance| Err::<Mock, _>("no service for that address")));
    assert_eq!(why(&balance).await, NoEndpoint::NotMade(2));
}

#[tokio::test(start_paused = true)]
async fn events_tell_of_each_kind_of_trouble_once() {
    let listed = Listed::new([at("a", 80, 1)]);
    let balance = layer().build().unwrap().balance(listed.discover());
    let handle = balance.handle();
    let mut told = handle.subscribe().await.unwrap();
    settle().await;
    assert_eq!(
        events(&mut told),
        ["+a", "live"],
        "what it says comes first"
    );

    listed.say(Err(ErrorKind::Unreachable));
    sleep(30 * SECOND).await;
    listed.say(Err(ErrorKind::Denied));
    sleep(30 * SECOND).await;
    listed.apply([]).await;
    // It answers again, and what it lost while it was away is kept for a moment.
    let expected = ["stale Unreachable", "stale Denied", "live", "-a 0", "empty"];
    assert_eq!(events(&mut told), expected);
}

type Made = Change<Key, Endpoint<Mock>>;

/// What users do with a discovery: box it, filter it, merge it with another.
fn adapted(a: &Listed, b: &Listed) -> Pin<Box<dyn Stream<Item = Result<Made, Infallible>> + Send>> {
    let (a, b) = (a.discover(), b.discover());
    let b = b.filter(|change| {
        let keep = !matches!(change, Ok(Change::Insert(key, _)) if key.id() == "hidden");
        async move { keep }
    });
    Box::pin(stream::select(a, b.boxed()))
}

#[tokio::test(start_paused = true)]
async fn registries_are_found_through_adaptors_and_the_worst_off_explains() {
    let (a, b) = (Listed::unreachable(), Listed::unreachable());
    let balance = layer().build().unwrap().balance(adapted(&a, &b));
    let handle = balance.handle();
    settle().await;
    assert_eq!(handle.status().registries.len(), 2);

    a.say(Ok((Vec::new(), false)));
    sleep(SECOND).await;
    assert!(
        matches!(why(&balance).await, NoEndpoint::Unreachable { .. }),
        "b may know some"
    );
    b.say(Ok((Vec::new(), true)));
    sleep(SECOND).await;
    assert_eq!(
        why(&balance).await,
        NoEndpoint::Empty,
        "b knows the service"
    );
    b.say(Ok((vec![at("b", 80, 1)], true)));
    settle().await;
    assert_eq!(balance.clone().oneshot(0).await.unwrap(), "b 10.0.0.1:80");
}

#[tokio::test(start_paused = true)]
async fn watches_are_released_with_the_balancer_and_with_the_end_of_discovery() {
    let listed = Listed::new([at("a", 80, 1)]);
    let balance = layer().build().unwrap().balance(listed.discover());
    settle().await;
    assert_eq!(listed.watchers(), 1);
    let handle = balance.handle();
    drop(balance);
    settle().await;
    assert_eq!(listed.watchers(), 0, "a handle keeps none");
    drop(handle);

    let balance = layer().build().unwrap().balance(listed.discover().take(1));
    settle().await;
    assert_eq!(balance.clone().oneshot(0).await.unwrap(), "a 10.0.0.1:80");
    assert_eq!(listed.watchers(), 0, "nobody would use what it says");
    assert!(balance.handle().status().registries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_discovery_may_come_late_and_may_be_exchanged_for_another() {
    let (a, b) = (Listed::unreachable(), Listed::new([at("b", 80, 1)]));
    let late = stream::once({
        let a = a.discover();
        async move {
            sleep(SECOND).await;
            a
        }
    });
    let first = late.flatten().take_until(sleep(20 * SECOND));
    let balance = layer()
        .build()
        .unwrap()
        .balance(Box::pin(first.chain(b.discover())));
    let handle = balance.handle();
    sleep(2 * SECOND).await;
    assert_eq!(only(&handle).state, ViewState::Pending);
    assert!(matches!(
        why(&balance).await,
        NoEndpoint::Unreachable { .. }
    ));

    sleep(20 * SECOND).await;
    assert_eq!(only(&handle).state, ViewState::Live, "the other's");
    assert_eq!(a.watchers(), 0, "nobody follows it any more");
    assert_eq!(balance.clone().oneshot(0).await.unwrap(), "b 10.0.0.1:80");
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_given_where_discovery_runs_on_another_task() {
    let listed = Listed::unreachable();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut discover = listed.discover();
    tokio::spawn(async move {
        while let Some(change) = discover.next().await {
            let _ = sender.send(change).await;
        }
    });
    let relayed = || stream::pending::<Result<Made, Infallible>>();
    let without = layer().build().unwrap().balance(relayed());
    assert_eq!(why(&without).await, NoEndpoint::NeverResolved);

    let watch = listed.watch();
    let relayed = stream::unfold(receiver, |mut receiver| async {
        let change = receiver.recv().await?;
        Some((change, receiver))
    });
    let balance = layer()
        .watch(&watch)
        .build()
        .unwrap()
        .balance(relayed.boxed());
    assert!(matches!(
        why(&balance).await,
        NoEndpoint::Unreachable { .. }
    ));
    listed.say(Ok((Vec::new(), false)));
    sleep(SECOND).await;
    assert_eq!(why(&balance).await, NoEndpoint::Missing);

    // Given and found as well, it is one.
    let both = layer()
        .watch(&watch)
        .build()
        .unwrap()
        .balance(listed.discover());
    settle().await;
    assert_eq!(only(&both.handle()).state, ViewState::Missing);
}

#[test]
fn a_watch_that_ended_with_its_runtime_is_stale_for_ever() {
    let paused = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let other = paused();
    let listed = Listed::new([at("a", 80, 1)]);
    let discover = other.block_on(async {
        let mut watch = listed.watch();
        watch.resolved().await.unwrap();
        listed.discover()
    });
    paused().block_on(async {
        let balance = layer().build().unwrap().balance(discover);
        settle().await;
        let handle = balance.handle();
        assert_eq!(only(&handle).state, ViewState::Live);
        let mut told = handle.subscribe().await.unwrap();
        other.shutdown_background();
        settle().await;
        let status = only(&handle);
        assert_eq!((status.state, status.ended), (ViewState::Stale, true));
        sleep(60 * SECOND).await;
        assert_eq!(events(&mut told), ["stale"]);
        assert_eq!(balance.clone().oneshot(0).await.unwrap(), "a 10.0.0.1:80");
    });
}

/// With an embedded registry that answers nothing for a while.
#[cfg(feature = "memory")]
mod paused {
    use tower_roster::{
        balance::BalanceStatus,
        registry::{Registry, memory::Memory},
    };

    use super::*;
    use crate::kit::Control;

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_only_waits_has_never_resolved() {
        let memory = Memory::new();
        memory.pause();
        let watch = Registry::new(memory.clone()).watch("web").unwrap();
        let balance = layer().build().unwrap().balance(
            watch.discover(|_: &Instance| Ok::<_, Infallible>(Control::new("any").service())),
        );
        assert_eq!(why(&balance).await, NoEndpoint::NeverResolved);
        let status = only(&balance.handle());
        assert_eq!(status.state, ViewState::Pending);
        assert!(status.error.is_none(), "{status}");
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_serve_on_while_the_registry_is_away_and_the_age_is_told() {
        let memory = Memory::new();
        memory.register(at("a", 80, 1)).unwrap();
        let watch = Registry::new(memory.clone()).watch("web").unwrap();
        let mut seen = watch.clone();
        let balance = layer()
            .build()
            .unwrap()
            .balance(watch.discover(|instance: &Instance| {
                Ok::<_, Infallible>(Control::new(instance.id()).service())
            }));
        let handle = balance.handle();
        let call = || balance.clone().oneshot(0);
        assert_eq!(call().await.unwrap(), "a");
        let mut told = handle.subscribe().await.unwrap();
        let fresh = only(&handle);
        assert_eq!((fresh.state, fresh.silent_since), (ViewState::Live, None));
        assert_eq!(&*fresh.service, "web");

        memory.pause();
        let stale = |status: &BalanceStatus| status.registries[0].state == ViewState::Stale;
        let status = handle.wait_for(stale).await.unwrap();
        let silent = status.registries[0].silent_for().unwrap();
        assert!(silent >= 30 * SECOND && silent < 31 * SECOND, "{silent:?}");
        sleep(SECOND).await;
        assert_eq!(only(&handle).silent_for().unwrap(), silent + SECOND);
        assert_eq!(call().await.unwrap(), "a", "the last good set serves on");

        memory.resume();
        seen.wait_for(|view| view.state == ViewState::Live)
            .await
            .unwrap();
        settle().await;
        assert_eq!(only(&handle), fresh);
        assert_eq!(events(&mut told), ["stale", "live"]);
        assert_eq!(call().await.unwrap(), "a");
    }
}
