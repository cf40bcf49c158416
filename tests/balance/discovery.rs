//! What discovery may do to a balancer: fail, end, panic, flood, come from anywhere.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use tower::{
    Layer, ServiceExt,
    discover::{Change, ServiceList},
};
use tower_roster::{balance::policy::RoundRobin, instance::Weight};

use crate::{
    kit::{Answer, Control, Mock, Rig, Word, events, key, layer, poll, settle},
    registry::{Listed, at},
};

#[tokio::test(start_paused = true)]
async fn an_error_leaves_the_last_good_set_and_is_told_until_it_is_over() {
    let rig = Rig::new();
    let mut said = rig.handle.subscribe().await.unwrap();
    rig.list(["a", "b"]).await;
    rig.feed.say(Word::Error("trouble"));
    settle().await;
    assert_eq!(rig.spread(4, ["a", "b"]).await, [2, 2]);
    let status = rig.handle.status();
    assert_eq!(status.discovery_error.as_deref(), Some("trouble"));
    assert_eq!((status.endpoints, status.usable), (2, 2));

    rig.feed.insert("c");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(rig.handle.status().discovery_error, None);
    assert_eq!(rig.spread(6, ["a", "b", "c"]).await, [2, 2, 2]);
    assert_eq!(events(&mut said), ["+a", "+b", "failed: trouble", "+c"]);
}

#[tokio::test(start_paused = true)]
async fn errors_without_end_are_asked_for_ever_more_slowly() {
    let rig = Rig::new();
    rig.list(["a"]).await;
    for _ in 0..10_000 {
        rig.feed.say(Word::Error("trouble"));
    }
    let before = rig.feed.asked();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    // From 100 ms to 30 s, half of it on average: some 240 an hour.
    let asked = rig.feed.asked() - before;
    assert!(
        (100..1_000).contains(&asked),
        "asked {asked} times in an hour"
    );
    assert_eq!(rig.call().await.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn the_end_leaves_the_last_good_set_and_is_told() {
    let rig = Rig::new();
    let mut said = rig.handle.subscribe().await.unwrap();
    rig.list(["a"]).await;
    rig.feed.say(Word::End);
    let status = rig
        .handle
        .wait_for(|status| status.discovery_ended)
        .await
        .unwrap();
    assert_eq!((status.resolved, status.usable), (true, 1));
    settle().await;
    assert_eq!(events(&mut said), ["+a", "ended"]);
    assert!(!rig.feed.lives(), "an ended discovery is of no use");
    assert_eq!(rig.call().await.unwrap(), "a");
    // The handle works as before.
    assert!(rig.handle.eject(&key("a")).await.unwrap());
    assert_eq!(rig.balance.usable(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_discovery_that_panics_has_ended() {
    let rig = Rig::new();
    rig.list(["a"]).await;
    rig.feed.say(Word::Panic);
    settle().await;
    assert!(rig.handle.status().discovery_ended);
    assert_eq!(rig.call().await.unwrap(), "a");
    assert!(
        rig.handle.eject(&key("a")).await.unwrap(),
        "the driver lives"
    );
    assert!(!rig.feed.lives());
}

/// Always has something to say, up to so many words: 99 endpoints come and go.
struct Flood {
    said: Arc<AtomicUsize>,
    most: usize,
    control: Arc<Control>,
}

impl Stream for Flood {
    type Item = Result<Change<usize, Mock>, Infallible>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let word = self.said.fetch_add(1, SeqCst);
        if word >= self.most {
            return Poll::Pending;
        }
        let number = word / 2 % 99 + 1;
        Poll::Ready(Some(Ok(match word {
            0 => Change::Insert(0, self.control.service()),
            _ if word.is_multiple_of(2) => Change::Insert(number, self.control.service()),
            _ => Change::Remove(number),
        })))
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_starves_neither_requests_nor_the_runtime() {
    const MOST: usize = 5_000_000;
    let said = Arc::new(AtomicUsize::new(0));
    let flood = Flood {
        said: Arc::clone(&said),
        most: MOST,
        control: Control::new("a"),
    };
    // One thread: whoever does not yield stops everybody.
    let balance = layer().build().unwrap().balance_plain(flood);
    for _ in 0..100 {
        assert_eq!(balance.clone().oneshot(0).await.unwrap(), "a");
        tokio::task::yield_now().await;
    }
    let list = balance.handle().endpoints().await.unwrap();
    assert!(list.iter().any(|info| info.key == key("0")));
    let said = said.load(SeqCst);
    assert!(said < MOST, "requests had to wait for the end of the flood");
}

#[tokio::test(start_paused = true)]
async fn a_flood_ends_with_the_last_balancer() {
    let said = Arc::new(AtomicUsize::new(0));
    let control = Control::new("a");
    let flood = Flood {
        said: Arc::clone(&said),
        most: 20_000_000,
        control: Arc::clone(&control),
    };
    let balance = layer().build().unwrap().balance_plain(flood);
    assert_eq!(balance.clone().oneshot(0).await.unwrap(), "a");
    drop(balance);
    settle().await;
    let ended = said.load(SeqCst);
    assert!(ended < 20_000_000);
    settle().await;
    assert_eq!(said.load(SeqCst), ended, "nobody asks any more");
    assert!(!control.lives());
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_one_change_to_requests() {
    use crate::policy::Counting;
    let prepared = Arc::new(AtomicUsize::new(0));
    let rig = Rig::with(layer().policy(Counting(Arc::clone(&prepared))));
    for number in 0..1_000 {
        rig.feed.insert(&number.to_string());
    }
    settle().await;
    assert_eq!(rig.balance.usable(), 1_000);
    let prepared = prepared.load(SeqCst);
    assert!(prepared <= 3, "1,000 changes made {prepared} snapshots");
}

#[tokio::test(start_paused = true)]
async fn discovery_is_followed_while_no_request_flows() {
    let rig = Rig::new();
    for number in 0..100 {
        rig.feed.insert(&format!("{number:02}"));
        settle().await;
        assert_eq!(rig.balance.usable(), number + 1);
        assert_eq!(rig.handle.status().endpoints, number + 1);
    }
    for number in 0..100 {
        rig.feed.remove(&format!("{number:02}"));
        settle().await;
        assert_eq!(rig.handle.endpoints().await.unwrap().len(), 99 - number);
    }
}

#[tokio::test(start_paused = true)]
async fn towers_service_list_is_a_discovery() {
    let controls = ["x", "y", "z"].map(Control::new);
    let services: Vec<Mock> = controls.iter().map(Control::service).collect();
    let list = ServiceList::new::<u32>(services);
    let balance = layer().build().unwrap().balance_plain(list);
    for _ in 0..9 {
        balance.clone().oneshot(0).await.unwrap();
    }
    assert_eq!(
        controls.each_ref().map(|control| control.calls()),
        [3, 3, 3]
    );
    let keys = balance.handle().endpoints().await.unwrap();
    let keys: Vec<_> = keys.iter().map(|info| info.key.to_string()).collect();
    assert_eq!(keys, ["0", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn names_of_endpoints_are_their_keys_as_they_are() {
    let control = Control::new("x");
    let named = [String::from("web-1")]
        .map(|name| Ok::<_, Infallible>(Change::Insert(name, control.service())));
    let balance = layer().build().unwrap().balance_plain(stream::iter(named));
    settle().await;
    assert!(balance.handle().eject(&key("web-1")).await.unwrap());

    let named = ["web-2"].map(|name| Ok::<_, Infallible>(Change::Insert(name, control.service())));
    let balance = layer().build().unwrap().balance_plain(stream::iter(named));
    settle().await;
    assert!(balance.handle().eject(&key("web-2")).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn our_own_discovery_brings_weights_and_a_new_one_needs_no_new_service() {
    let listed = Listed::new([at("a", 1, 1), at("b", 2, 3)]);
    let balance = layer().build().unwrap().balance(listed.discover());
    let handle = balance.handle();
    handle.wait_for(|status| status.usable == 2).await.unwrap();
    let mut said = handle.subscribe().await.unwrap();
    let weights = async || {
        let list = handle.endpoints().await.unwrap();
        let weight = |info: &tower_roster::balance::EndpointInfo| info.weight.get();
        list.iter().map(weight).collect::<Vec<_>>()
    };
    assert_eq!(weights().await, [1, 3]);
    assert_eq!(listed.made(), 2);

    // Nothing but the weight: discovery has nothing to say of it.
    listed.apply([at("a", 1, 1), at("b", 2, 7)]).await;
    assert_eq!(
        events(&mut said),
        ["b weighs 7"],
        "without a request or a command"
    );
    assert_eq!(weights().await, [1, 7]);
    listed.apply([at("a", 1, 1), at("b", 2, 0)]).await;
    assert_eq!(balance.usable(), 1, "weight 0 drains");
    for _ in 0..4 {
        assert_eq!(balance.clone().oneshot(0).await.unwrap(), "a 10.0.0.1:1");
    }
    assert_eq!(listed.made(), 2, "a weight is no reason for a connection");
    let instance = handle
        .endpoints()
        .await
        .unwrap()
        .remove(1)
        .instance
        .unwrap();
    assert_eq!(
        instance.weight,
        Weight::ZERO,
        "the handle tells what the registry says"
    );
}

#[tokio::test(start_paused = true)]
async fn weights_of_two_registries_in_one_discovery_are_followed() {
    let (one, two) = (Listed::new([at("a", 1, 1)]), Listed::new([at("b", 2, 1)]));
    let both = stream::select(one.discover(), two.discover());
    let balance = layer().build().unwrap().balance(both);
    let handle = balance.handle();
    handle.wait_for(|status| status.usable == 2).await.unwrap();
    two.apply([at("b", 2, 0)]).await;
    assert_eq!(balance.usable(), 1, "the second one's weight must apply");
    one.apply([at("a", 1, 0)]).await;
    two.apply([at("b", 2, 5)]).await;
    for _ in 0..4 {
        assert_eq!(balance.clone().oneshot(0).await.unwrap(), "b 10.0.0.1:2");
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_address_is_a_new_service_with_the_old_state() {
    let listed = Listed::new([at("a", 1, 1)]);
    let balance = layer().build().unwrap().balance(listed.discover());
    for _ in 0..5 {
        assert_eq!(balance.clone().oneshot(0).await.unwrap(), "a 10.0.0.1:1");
    }
    let mut said = balance.handle().subscribe().await.unwrap();
    listed.apply([at("a", 9, 1)]).await;
    assert_eq!(events(&mut said), ["~a"]);
    assert_eq!(balance.clone().oneshot(0).await.unwrap(), "a 10.0.0.1:9");
    let info = balance.handle().endpoints().await.unwrap().remove(0);
    assert_eq!((info.requests, listed.made()), (6, 2));
}

#[tokio::test(start_paused = true)]
async fn a_layer_makes_balancers_that_share_nothing() {
    let listed = Listed::new([at("a", 1, 1)]);
    let layer = layer().build().unwrap();
    let (one, two) = (
        layer.layer(listed.discover()),
        layer.layer(listed.discover()),
    );
    one.clone().oneshot(0).await.unwrap();
    let requests = async |balance: &tower_roster::balance::Balance<Mock, RoundRobin>| {
        balance.handle().endpoints().await.unwrap()[0].requests
    };
    two.handle()
        .wait_for(|status| status.usable == 1)
        .await
        .unwrap();
    assert_eq!((requests(&one).await, requests(&two).await), (1, 0));
    one.handle().eject(&key("a")).await.unwrap();
    assert_eq!((one.usable(), two.usable()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_the_last_balancer_and_not_before() {
    let listed = Listed::new([at("a", 1, 1)]);
    let balance = layer().build().unwrap().balance(listed.discover());
    let clone = balance.clone();
    clone.clone().oneshot(0).await.unwrap();
    drop(balance);
    settle().await;
    assert_eq!(clone.clone().oneshot(0).await.unwrap(), "a 10.0.0.1:1");
    assert_eq!(listed.watchers(), 1);
    drop(clone);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(listed.watchers(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_clone_takes_driver_and_discovery_with_it() {
    let rig = Rig::new();
    let [a] = rig.list(["a"]).await;
    a.answer(Answer::Holds);
    let Rig {
        feed,
        balance,
        handle,
    } = rig;
    let clone = balance.clone();
    let request = clone.clone().oneshot(0);
    let mut request = Box::pin(request);
    assert!(poll(&mut request).await.is_pending());
    drop(balance);
    settle().await;
    assert!(feed.lives());
    assert!(handle.endpoints().await.is_ok());
    drop(clone);
    settle().await;
    // The request in flight ends as if nothing were; neither it nor the handle keeps the driver.
    a.release(1);
    assert_eq!(request.await.unwrap(), "a");
    settle().await;
    assert!(!feed.lives());
    assert!(!a.lives(), "all services are released");
    let gone = handle.endpoints().await.unwrap_err();
    assert_eq!(gone.to_string(), "the balancer is gone");
    assert!(handle.subscribe().await.is_err());
    assert!(handle.eject(&key("a")).await.is_err());
    assert!(handle.restore(&key("a")).await.is_err());
    assert!(handle.set_weight(&key("a"), None).await.is_err());
    assert!(handle.wait_for(|_| false).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_waits_to_ask_again_ends_too() {
    let rig = Rig::new();
    rig.list(["a"]).await;
    for _ in 0..20 {
        rig.feed.say(Word::Error("trouble"));
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    drop(rig.balance);
    settle().await;
    assert!(!rig.feed.lives());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_left_waiting_when_the_runtime_of_the_driver_ends() {
    let (feed, script) = crate::kit::script::<Mock>();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let balance = {
        let _inside = runtime.enter();
        layer().build().unwrap().balance_plain(script)
    };
    // Dropping a runtime within another is allowed only like this.
    runtime.shutdown_background();
    let error = balance.clone().oneshot(0).await.unwrap_err();
    assert!(error.is_no_endpoint());
    assert!(balance.handle().endpoints().await.is_err());
    assert!(!feed.lives());
}
