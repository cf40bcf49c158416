//! The cases. Each has a registry of its own.

use std::{sync::Arc, time::Duration};

use tower_roster::{
    Instance,
    error::ErrorKind,
    instance::Address,
    registry::{Announcement, Health, Query, View, ViewState, Watch},
};

use super::{
    place::{Place, connect},
    support::eventually,
};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(40);

fn instance(place: &Place, id: &str) -> Instance {
    let port = 8_000 + u16::from(*id.as_bytes().last().unwrap_or(&0));
    Instance::new(
        place.service(),
        id,
        format!("127.0.0.1:{port}").parse().unwrap(),
    )
}

fn ids(view: &View) -> Vec<&str> {
    view.instances.iter().map(|i| i.id()).collect()
}

async fn until(watch: &mut Watch, what: &str, condition: impl FnMut(&View) -> bool) -> View {
    match tokio::time::timeout(LONG, watch.wait_for(condition)).await {
        Ok(view) => view.unwrap(),
        Err(_) => panic!("not in time: {what}; last seen: {:?}", watch.view()),
    }
}

/// All but the scope of the key and the generation, which are the registry's.
fn told(instance: &Instance) -> Instance {
    let mut told = Instance::new(
        instance.service.clone(),
        instance.id(),
        instance.address.clone(),
    );
    told.weight = instance.weight;
    told.zone.clone_from(&instance.zone);
    told.status = instance.status;
    told.tags.clone_from(&instance.tags);
    told.metadata.clone_from(&instance.metadata);
    told
}

fn only(view: &View) -> Instance {
    let mut instances = view.instances.iter();
    let first = told(instances.next().expect("an instance"));
    assert!(instances.next().is_none(), "{view:?}");
    first
}

pub(crate) async fn a_service_is_missing_until_it_has_an_instance_and_after_its_last(
    place: &mut Place,
) {
    let registry = place.registry();
    let mut watch = registry.watch(place.service()).unwrap();
    let view = until(&mut watch, "an answer", |v| v.state != ViewState::Pending).await;
    assert_eq!(view.state, ViewState::Missing);
    assert!(view.error.is_none() && view.confirmed.is_some());
    let registration = registry.register(instance(place, "a")).unwrap();
    let view = until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    assert_eq!(view.state, ViewState::Live);
    registration.deregister().await.unwrap();
    let view = until(&mut watch, "its end", |v| v.instances.is_empty()).await;
    assert!(
        matches!(view.state, ViewState::Missing | ViewState::Empty),
        "{view:?}"
    );
}

fn rich(place: &Place) -> Instance {
    instance(place, "a")
        .weight(3)
        .zone("eu-1a")
        .tag("v2")
        .tag("ä b")
        .meta("model", "large")
        .meta("empty", "")
}

pub(crate) async fn an_instance_arrives_as_it_was_registered(place: &mut Place) {
    let registry = place.registry();
    let mut watch = registry.watch(place.service()).unwrap();
    let registration = registry.register(rich(place)).unwrap();
    let view = until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    assert_eq!(only(&view).address, rich(place).address);
    assert_eq!(only(&view).weight, rich(place).weight);
    assert_eq!(only(&view).zone, rich(place).zone);
    assert_eq!(only(&view).tags, rich(place).tags);
    for (name, value) in &rich(place).metadata {
        assert_eq!(only(&view).metadata.get(name), Some(value), "{name}");
    }
    registration.registered().await;
    assert!(registration.is_registered());
    registration.deregister().await.unwrap();
}

pub(crate) async fn an_update_of_each_field_is_seen_and_keeps_the_identity(place: &mut Place) {
    let registry = place.registry();
    let mut watch = registry.watch(place.service()).unwrap();
    let mut current = instance(place, "a");
    let mut registration = registry.register(current.clone()).unwrap();
    let view = until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let key = view.instances.iter().next().unwrap().key.clone();
    type Change = fn(Instance) -> Instance;
    let changes: [(&str, Change); 5] = [
        ("weight", |i| i.weight(7)),
        ("zone", |i| i.zone("eu-1b")),
        ("tag", |i| i.tag("v3")),
        ("metadata", |i| i.meta("k", "v")),
        ("address", |mut i| {
            i.address = "127.0.0.1:9999".parse().unwrap();
            i
        }),
    ];
    for (what, change) in changes {
        current = change(current);
        registration.update(current.clone()).await.unwrap();
        let view = until(&mut watch, what, |v| {
            v.instances.iter().any(|seen| {
                (seen.weight, &seen.zone, &seen.tags, &seen.address)
                    == (
                        current.weight,
                        &current.zone,
                        &current.tags,
                        &current.address,
                    )
                    && current
                        .metadata
                        .iter()
                        .all(|(k, v)| seen.metadata.get(k) == Some(v))
            })
        })
        .await;
        assert_eq!(view.instances.len(), 1);
        assert_eq!(view.instances.iter().next().unwrap().key, key, "{what}");
    }
    registration.deregister().await.unwrap();
}

pub(crate) async fn an_instance_of_weight_zero_is_listed_or_refused(place: &mut Place) {
    let registry = place.registry();
    let mut watch = registry.watch(place.service()).unwrap();
    let registration = match registry.register(instance(place, "a").weight(0)) {
        Ok(registration) => registration,
        // Consul holds no such weight.
        Err(error) => return assert_eq!(error.kind(), ErrorKind::Invalid, "{error}"),
    };
    let view = until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    assert_eq!(only(&view).weight.get(), 0);
    assert_eq!(view.state, ViewState::Live);
    registration.deregister().await.unwrap();
}

pub(crate) async fn instances_come_and_go_one_by_one(place: &mut Place) {
    let registry = place.registry();
    let mut watch = registry.watch(place.service()).unwrap();
    let mut registrations = Vec::new();
    let mut expected: Vec<&str> = Vec::new();
    for id in ["a", "b", "c", "d", "e"] {
        registrations.push(registry.register(instance(place, id)).unwrap());
        expected.push(id);
        until(&mut watch, id, |v| ids(v) == expected).await;
    }
    for registration in registrations {
        let id = registration.instance().id().to_owned();
        expected.retain(|known| *known != id);
        registration.deregister().await.unwrap();
        until(&mut watch, &id, |v| ids(v) == expected).await;
    }
}

pub(crate) async fn a_tag_selects(place: &mut Place) {
    let registry = place.registry();
    let one = registry.register(instance(place, "a").tag("v1")).unwrap();
    let two = registry
        .register(instance(place, "b").tag("v1").tag("v2"))
        .unwrap();
    for (tags, expected) in [
        (vec!["v1"], vec!["a", "b"]),
        (vec!["v2"], vec!["b"]),
        (vec!["v1", "v2"], vec!["b"]),
    ] {
        let query = tags
            .iter()
            .fold(Query::new(place.service()), |query, tag| query.tag(*tag));
        let mut watch = registry.watch(query).unwrap();
        until(&mut watch, "the selection", |v| ids(v) == expected).await;
    }
    let mut none = registry
        .watch(Query::new(place.service()).tag("v3"))
        .unwrap();
    let view = until(&mut none, "an answer", |v| v.state != ViewState::Pending).await;
    assert_eq!(view.state, ViewState::Empty, "the service exists");
    one.deregister().await.unwrap();
    two.deregister().await.unwrap();
}

pub(crate) async fn names_are_held_as_they_are_or_refused_with_the_reason(place: &mut Place) {
    let registry = place.registry();
    let long = "x".repeat(300);
    for name in [
        "a b",
        "a/b",
        "a?b#c",
        "100%",
        "%2F",
        "服务-ä",
        "A",
        "..",
        "\u{1}",
        &long,
    ] {
        let service = format!("{}{name}", place.service());
        let address = "127.0.0.1:80".parse().unwrap();
        let registered = registry.register(Instance::new(service.as_str(), name, address));
        let watched = registry.watch(service.as_str());
        match (registered, watched) {
            (Ok(registration), Ok(mut watch)) => {
                until(&mut watch, name, |v| ids(v) == [name]).await;
                registration.deregister().await.unwrap();
            }
            (registered, watched) => {
                let errors = [registered.err(), watched.err()];
                for error in errors.into_iter().flatten() {
                    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                    assert!(error.to_string().contains(&*registry.name()), "{error}");
                }
            }
        }
    }
}

pub(crate) async fn two_services_of_one_registry_are_apart(place: &mut Place) {
    let registry = place.registry();
    let other = format!("{}-other", place.service());
    let mut first = registry.watch(place.service()).unwrap();
    let mut second = registry.watch(other.as_str()).unwrap();
    let address = "127.0.0.1:81".parse().unwrap();
    let one = registry.register(instance(place, "a")).unwrap();
    let two = registry
        .register(Instance::new(other.as_str(), "b", address))
        .unwrap();
    until(&mut first, "the first", |v| ids(v) == ["a"]).await;
    until(&mut second, "the second", |v| ids(v) == ["b"]).await;
    one.deregister().await.unwrap();
    until(&mut first, "the end of the first", |v| {
        v.instances.is_empty()
    })
    .await;
    assert!(two.is_registered());
    // Its heartbeats go on.
    tokio::time::sleep(SECOND * 2).await;
    assert_eq!(ids(&second.view()), ["b"]);
    two.deregister().await.unwrap();
}

pub(crate) async fn a_dropped_registration_leaves_nothing_behind(place: &mut Place) {
    let registry = place.registry();
    let mut watch = registry.watch(place.service()).unwrap();
    let registration = registry.register(instance(place, "a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    drop(registration);
    until(&mut watch, "its end", |v| v.instances.is_empty()).await;
    // And it does not come back.
    tokio::time::sleep(SECOND * 2).await;
    assert!(watch.view().instances.is_empty());
}

pub(crate) async fn a_watch_that_begins_later_sees_the_same(place: &mut Place) {
    let registry = place.registry();
    let registration = registry.register(rich(place)).unwrap();
    registration.registered().await;
    let mut first = registry.watch(place.service()).unwrap();
    let view = until(&mut first, "the instance", |v| ids(v) == ["a"]).await;
    let mut later = place.registry().watch(place.service()).unwrap();
    let same = until(&mut later, "the instance", |v| ids(v) == ["a"]).await;
    assert_eq!(only(&view), only(&same));
    registration.deregister().await.unwrap();
}

pub(crate) async fn two_hundred_watches_see_their_changes(place: &mut Place) {
    let registry = place.registry();
    let names: Vec<_> = (0..200)
        .map(|n| format!("{}-{n}", place.service()))
        .collect();
    let mut watches: Vec<_> = names
        .iter()
        .map(|name| registry.watch(name.as_str()).unwrap())
        .collect();
    for watch in &mut watches {
        until(watch, "an answer", |v| v.state != ViewState::Pending).await;
    }
    let registrations: Vec<_> = names
        .iter()
        .step_by(20)
        .map(|name| {
            let address = "127.0.0.1:82".parse().unwrap();
            registry
                .register(Instance::new(name.as_str(), format!("{name}-a"), address))
                .unwrap()
        })
        .collect();
    for watch in watches.iter_mut().step_by(20) {
        until(watch, "the instance", |v| v.instances.len() == 1).await;
    }
    for registration in registrations {
        registration.deregister().await.unwrap();
    }
}

/// The set is not empty at any time, and right again soon after.
async fn survives(place: &mut Place, loses_state: bool) {
    let registry = place.registry();
    let mut watch = registry.watch(place.service()).unwrap();
    let registrations: Vec<_> = ["a", "b"]
        .into_iter()
        .map(|id| registry.register(instance(place, id)).unwrap())
        .collect();
    until(&mut watch, "both", |v| ids(v) == ["a", "b"]).await;
    for registration in &registrations {
        registration.registered().await;
    }
    let mut all = watch.clone();
    let never_empty = tokio::spawn(async move {
        while let Ok(view) = all.changed().await {
            assert!(!view.instances.is_empty(), "{view:?}");
        }
    });
    match loses_state {
        true => place.lose_state().await,
        false => place.restart().await,
    }
    let lost = tokio::time::Instant::now();
    // Registered again, and seen: a watch that begins now has nothing to keep.
    let mut fresh = place.registry().watch(place.service()).unwrap();
    until(&mut fresh, "both again", |v| ids(v) == ["a", "b"]).await;
    // The first watch has noticed the loss, too: else the end of the service would be in doubt.
    eventually(LONG, "both, confirmed since", || {
        let view = watch.view();
        async move {
            let right = ids(&view) == ["a", "b"] && view.state == ViewState::Live;
            match right && view.confirmed > Some(lost) {
                true => Ok(()),
                false => Err(view),
            }
        }
    })
    .await;
    assert!(!never_empty.is_finished());
    never_empty.abort();
    for registration in registrations {
        registration.deregister().await.unwrap();
    }
    until(&mut watch, "the end", |v| v.instances.is_empty()).await;
}

pub(crate) async fn a_registration_survives_a_restart(place: &mut Place) {
    survives(place, false).await;
}

pub(crate) async fn a_registration_survives_the_loss_of_all_state(place: &mut Place) {
    survives(place, true).await;
}

pub(crate) async fn a_successor_replaces_a_predecessor_that_was_killed(place: &mut Place) {
    let mut watch = place.registry().watch(place.service()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (url, predecessor) = (place.url().to_owned(), instance(place, "a"));
    let predecessor = runtime.spawn(async move {
        let registration = connect(&url).register(predecessor).unwrap();
        registration.registered().await;
        registration
    });
    let predecessor = predecessor.await.unwrap();
    until(&mut watch, "the predecessor", |v| ids(v) == ["a"]).await;
    // Its task ends without a word, as that of a killed process.
    runtime.shutdown_background();
    let registry = place.registry();
    let successor = registry.register(instance(place, "a").weight(9)).unwrap();
    tokio::time::timeout(SECOND * 3, successor.registered())
        .await
        .expect("not after the TTL of the predecessor");
    until(&mut watch, "the successor", |v| {
        v.instances.iter().any(|i| i.weight.get() == 9)
    })
    .await;
    drop(predecessor);
    successor.deregister().await.unwrap();
    until(&mut watch, "the end", |v| v.instances.is_empty()).await;
}

pub(crate) async fn what_no_registry_can_hold_is_refused(place: &mut Place) {
    let registry = place.registry();
    // No address of a host, so no instance can have it.
    assert!("0.0.0.0:80".parse::<Address>().is_err());
    let brief = Announcement::new(instance(place, "a")).health(Health::Ttl(Duration::ZERO));
    for error in [
        registry.watch("").unwrap_err(),
        registry.watch(" ").unwrap_err(),
        registry
            .register(Instance::new("", "a", "127.0.0.1:1".parse().unwrap()))
            .unwrap_err(),
        registry.register(instance(place, " ")).unwrap_err(),
        registry.register(brief).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

pub(crate) async fn ten_thousand_instances_arrive_in_one_set(place: &mut Place) {
    const COUNT: usize = 10_000;
    place.fill(COUNT).await;
    let start = std::time::Instant::now();
    let mut watch = place.registry().watch(place.service()).unwrap();
    let view = until(&mut watch, "a set", |v| !v.instances.is_empty()).await;
    println!("the first set after {:?}", start.elapsed());
    assert_eq!(view.instances.len(), COUNT, "no part of a set is shown");
    assert!(view.rejected.is_empty(), "{:?}", view.rejected);
    // One more is one more, and not a new set.
    let first = view.instances.iter().next().unwrap().clone();
    let one = place
        .registry()
        .register(instance(place, "one-more"))
        .unwrap();
    let view = until(&mut watch, "one more", |v| v.instances.len() == COUNT + 1).await;
    let same = view.instances.iter().next().unwrap();
    assert!(
        Arc::ptr_eq(&first, same),
        "an instance that did not change is kept"
    );
    one.deregister().await.unwrap();
    until(&mut watch, "one less", |v| v.instances.len() == COUNT).await;
}

/// Two processes were given one id, or a process was replaced and still runs. No registry but etcd and
/// ZooKeeper knows owners, so the promise is the same on all: one instance, the one that came last, and
/// no quarrel about it.
pub(crate) async fn the_latest_of_two_owners_of_an_id_is_listed_and_the_first_returns_after_it(
    place: &mut Place,
) {
    let ttl = Health::Ttl(SECOND * 3);
    let owner = |weight| {
        let instance = instance(place, "a").weight(weight);
        let announcement = Announcement::new(instance).health(ttl.clone());
        place.registry().register(announcement).unwrap()
    };
    let weights = |view: &View| -> Vec<u32> {
        let weights = view.instances.iter().map(|instance| instance.weight.get());
        weights.collect()
    };
    let mut watch = place.registry().watch(place.service()).unwrap();
    let first = owner(1);
    first.registered().await;
    until(&mut watch, "the first", |v| weights(v) == [1]).await;
    let second = owner(2);
    until(&mut watch, "the second", |v| weights(v) == [2]).await;
    // For longer than two heartbeats of both.
    let turned = tokio::time::timeout(SECOND * 4, watch.wait_for(|v| weights(v) != [2])).await;
    assert!(turned.is_err(), "a quarrel: {:?}", watch.view());
    second.deregister().await.unwrap();
    until(&mut watch, "the first again", |v| weights(v) == [1]).await;
    first.deregister().await.unwrap();
    until(&mut watch, "the end", |v| v.instances.is_empty()).await;
}
