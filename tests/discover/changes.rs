//! What a `Discover` yields, and what it does not.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tower_roster::{BoxError, Instance, discover::Discover, endpoint::load::InFlight};

use crate::scripted::{Script, drain, inserted, is_pending, key, mock, names, until};

/// A maker of services that nobody calls.
fn address(instance: &Instance) -> Result<String, Infallible> {
    Ok(instance.address.to_string())
}

/// Everything that tower asks of a `Discover` for its balancer.
fn is_discover<D>(_: &D)
where
    D: tower::discover::Discover<Error = Infallible> + Unpin + Send,
    D::Key: std::hash::Hash + Clone,
    D::Service: tower::load::Load,
{
}

#[tokio::test(start_paused = true)]
async fn inserts_come_before_removes() {
    let script = Script::new(["a", "b"].map(mock));
    let mut discover = script.watch().discover(address);
    is_discover(&script.watch().discover(address).measured(InFlight::new()));
    script.apply(["a", "b"].map(mock)).await;
    assert_eq!(names(&drain(&mut discover)), ["+a", "+b"]);
    script.apply(["c", "d"].map(mock)).await;
    assert_eq!(names(&drain(&mut discover)), ["+c", "+d", "-a", "-b"]);
    script.apply([]).await;
    assert_eq!(names(&drain(&mut discover)), ["-c", "-d"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_was_read_before_yields_its_whole_set() {
    let script = Script::new([mock("a")]);
    let mut watch = script.watch();
    script.apply([mock("a")]).await;
    watch.resolved().await.unwrap();
    let mut discover = watch.discover(address);
    assert_eq!(names(&drain(&mut discover)), ["+a"]);
}

#[tokio::test(start_paused = true)]
async fn updates_reach_the_live_endpoint_without_a_change() {
    let script = Script::new([mock("a")]);
    let mut discover = script.watch().discover(address);
    script.apply([mock("a")]).await;
    let endpoint = inserted(drain(&mut discover)).remove(0);
    for n in 1..=100u16 {
        let next = mock("a")
            .weight(n)
            .zone(format!("z{n}"))
            .tag("t")
            .meta("n", n.to_string());
        script.apply([next.clone()]).await;
        assert!(
            drain(&mut discover).is_empty(),
            "update {n} must not be a change"
        );
        assert_eq!(endpoint.weight().get(), u32::from(n));
        assert_eq!(*endpoint.instance(), next);
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_net_change_is_seen_after_a_long_pause() {
    let script = Script::new(["a", "b"].map(mock));
    let mut discover = script.watch().discover(address);
    script.apply(["a", "b"].map(mock)).await;
    drain(&mut discover);
    for n in 0..200u32 {
        script
            .apply([mock("a"), mock(&format!("passing-{n}"))])
            .await;
    }
    script.apply([mock("a"), mock("c")]).await;
    assert_eq!(names(&drain(&mut discover)), ["+c", "-b"]);
}

#[tokio::test(start_paused = true)]
async fn a_set_that_is_overtaken_while_it_is_applied_is_given_up() {
    use futures_util::StreamExt;
    let script = Script::new(["a", "b", "c"].map(mock));
    let mut discover = script.watch().discover(address);
    script.apply(["a", "b", "c"].map(mock)).await;
    let first = discover.next().await.unwrap();
    assert_eq!(names(&[first.unwrap()]), ["+a"]);
    script.apply([mock("c")]).await;
    // `b` was never inserted, so it is not removed either.
    assert_eq!(names(&drain(&mut discover)), ["+c", "-a"]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_address_is_an_insert_that_carries_the_weight_and_fresh_load() {
    let script = Script::new([mock("a").weight(7)]);
    let mut discover = script.watch().discover(address).measured(InFlight::new());
    script.apply([mock("a").weight(7)]).await;
    let old = inserted(drain(&mut discover)).remove(0);
    let mut moved = mock("a").weight(7);
    moved.address = "10.0.0.2:80".parse().unwrap();
    script.apply([moved.clone()]).await;
    let changes = drain(&mut discover);
    assert_eq!(
        names(&changes),
        ["+a"],
        "and no remove: the old serves until this is ready"
    );
    let new = inserted(changes).remove(0);
    assert_eq!(
        (
            new.endpoint().service().as_str(),
            new.endpoint().weight().get()
        ),
        ("10.0.0.2:80", 7)
    );
    // Both hear of what follows, because the old one may still serve.
    script.apply([moved.weight(0)]).await;
    assert!(drain(&mut discover).is_empty());
    assert_eq!(
        (old.endpoint().weight().get(), new.endpoint().weight().get()),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_predicate_chooses_what_rebuilds() {
    let script = Script::new([mock("a")]);
    let mut discover =
        Discover::new(script.watch(), address).rebuild_when(|old, new| old.tags != new.tags);
    script.apply([mock("a")]).await;
    drain(&mut discover);
    script.apply([mock("a").tag("v2")]).await;
    assert_eq!(names(&drain(&mut discover)), ["+a"]);
    script.apply([mock("a").tag("v2").weight(3)]).await;
    assert!(drain(&mut discover).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_maker_that_fails_or_panics_costs_one_instance_and_is_tried_again() {
    for panics in [false, true] {
        let attempts = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&attempts);
        let make = move |instance: &Instance| {
            if instance.id() == "bad" && counter.fetch_add(1, Relaxed) < 3 {
                assert!(!panics, "a defect in the maker");
                return Err(BoxError::from("not today"));
            }
            Ok(instance.address.to_string())
        };
        let script = Script::new(["bad", "good"].map(mock));
        let mut discover = script.watch().discover(make);
        script.apply(["bad", "good"].map(mock)).await;
        assert_eq!(names(&drain(&mut discover)), ["+good"]);
        // It wakes by itself.
        let retried = async {
            use futures_util::StreamExt;
            discover.next().await.unwrap().unwrap()
        };
        let change = tokio::time::timeout(Duration::from_secs(60), retried).await;
        assert_eq!(names(&[change.expect("a retry")]), ["+bad"]);
        assert_eq!(attempts.load(Relaxed), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_was_never_made_is_not_removed() {
    let script = Script::new(["bad", "good"].map(mock));
    let make = |instance: &Instance| match instance.id() {
        "bad" => Err(BoxError::from("never")),
        _ => Ok(()),
    };
    let mut discover = script.watch().discover(make);
    script.apply(["bad", "good"].map(mock)).await;
    assert_eq!(names(&drain(&mut discover)), ["+good"]);
    script.apply([]).await;
    assert_eq!(names(&drain(&mut discover)), ["-good"]);
    tokio::time::advance(Duration::from_secs(300)).await;
    assert!(drain(&mut discover).is_empty(), "no retry of what is gone");
}

#[tokio::test(start_paused = true)]
async fn a_failed_rebuild_keeps_the_old_endpoint() {
    let moved = |weight| {
        let mut moved = mock("a").weight(weight);
        moved.address = "10.0.0.66:80".parse().unwrap();
        moved
    };
    let script = Script::new([mock("a")]);
    let make = |instance: &Instance| match instance.address.to_string().as_str() {
        "10.0.0.66:80" => Err(BoxError::from("unlucky")),
        address => Ok(address.to_owned()),
    };
    let mut discover = script.watch().discover(make);
    script.apply([mock("a")]).await;
    let endpoint = inserted(drain(&mut discover)).remove(0);
    script.apply([moved(5)]).await;
    assert!(drain(&mut discover).is_empty());
    assert_eq!(
        endpoint.weight().get(),
        5,
        "updates go on reaching the old one"
    );
    // Back where it was: nothing to rebuild and nothing to retry.
    script.apply([mock("a").weight(6)]).await;
    tokio::time::advance(Duration::from_secs(300)).await;
    assert!(drain(&mut discover).is_empty());
    script.apply([]).await;
    assert_eq!(names(&drain(&mut discover)), ["-a"]);
}

#[tokio::test(start_paused = true)]
async fn many_instances_do_not_hold_the_task() {
    use futures_util::{FutureExt, StreamExt};
    let all: Vec<_> = (0..1_000).map(|n| mock(&format!("i{n:04}"))).collect();
    let script = Script::new(all.clone());
    let mut discover = script.watch().discover(address);
    script.apply(all).await;
    let mut burst = 0;
    while discover.next().now_or_never().is_some() {
        burst += 1;
    }
    assert_eq!(burst, 128);
    assert_eq!(burst + drain(&mut discover).len(), 1_000);
}

#[test]
fn a_watch_that_ended_leaves_the_stream_pending() {
    let script = Script::new([mock("a")]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut discover = runtime.block_on(async {
        let discover = script.watch().discover(address);
        script.apply([mock("a")]).await;
        discover
    });
    assert_eq!(names(&drain(&mut discover)), ["+a"]);
    drop(runtime);
    let mut stream = tokio_test::task::spawn(discover);
    for _ in 0..3 {
        assert!(is_pending(&stream.poll_next()));
    }
}

#[tokio::test]
async fn dropping_it_releases_the_watch() {
    let script = Script::new([mock("a")]);
    let mut discover = script.watch().discover(address);
    script.apply([mock("a")]).await;
    drain(&mut discover);
    assert_eq!(script.watchers(), 1);
    drop(discover);
    until("the watch ends", || async { script.watchers() == 0 }).await;
    let _ = key("a");
}
