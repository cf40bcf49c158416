//! Registering in two registries.

use std::sync::Arc;

use tokio::time::Instant;
use tower_roster::{
    error::ErrorKind,
    registry::{Merge, Registration, RegistrationEvent},
};

use super::{
    scripted::{Asked, Scripted, Step},
    *,
};

fn named(name: &str) -> Memory {
    // The registries of a process are found by their names.
    Memory::named(&format!("{name}-{}", rand::random::<u64>()))
}

fn both(first: Registry, second: Registry) -> Registry {
    Merge::new(first, second).build().unwrap()
}

async fn event(registration: &mut Registration) -> (Arc<str>, RegistrationEvent) {
    let event = timeout(SECOND * 60, registration.event_of()).await;
    event.expect("an event").expect("the tasks run")
}

#[tokio::test(start_paused = true)]
async fn one_guard_registers_in_both_and_its_events_name_the_registry() {
    let (first, second) = (named("first"), named("second"));
    let registry = both(of(&first), of(&second));
    let mut registration = registry.register(instance("a", "a")).unwrap();
    registration.registered().await;
    let mut names = Vec::new();
    for _ in 0..2 {
        let (name, event) = event(&mut registration).await;
        assert!(matches!(event, RegistrationEvent::Registered), "{event:?}");
        names.push(name);
    }
    names.sort();
    assert!(
        names[0].contains("first") && names[1].contains("second"),
        "{names:?}"
    );
    let holds: Vec<_> = registration.registries().map(|(_, holds)| holds).collect();
    assert_eq!(holds, [true, true]);

    second.wipe();
    let (name, event) = event(&mut registration).await;
    assert!(name.contains("second"), "{name}");
    assert!(
        matches!(event, RegistrationEvent::Reregistered),
        "{event:?}"
    );

    registration
        .update(instance("a", "a").weight(7))
        .await
        .unwrap();
    for memory in [&first, &second] {
        assert_eq!(memory.instances("web")[0].weight.get(), 7);
    }
    registration.deregister().await.unwrap();
    for memory in [&first, &second] {
        assert!(memory.instances("web").is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_guard_leaves_nothing_in_either() {
    let (first, second) = (named("first"), named("second"));
    let registration = both(of(&first), of(&second))
        .register(instance("a", "a"))
        .unwrap();
    registration.registered().await;
    drop(registration);
    tokio::time::sleep(SECOND).await;
    for memory in [&first, &second] {
        assert!(memory.instances("web").is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_in_one_costs_nothing_in_the_other() {
    let memory = Memory::new();
    let conflict = Scripted::new([Step::Hang]).lease([Step::Fail(ErrorKind::Refused)]);
    let registry = both(Registry::new(conflict), of(&memory));
    let mut registration = registry.register(instance("a", "a")).unwrap();
    let refused = loop {
        if let (name, RegistrationEvent::RegisterFailed { error, .. }) =
            event(&mut registration).await
        {
            assert_eq!(&*name, "scripted");
            break error;
        }
    };
    assert_eq!(
        (refused.kind(), refused.backend()),
        (ErrorKind::Refused, "scripted")
    );
    tokio::time::sleep(SECOND * 60).await;
    assert_eq!(memory.instances("web").len(), 1, "the other holds it");
    let holds: Vec<_> = registration.registries().map(|(_, holds)| holds).collect();
    assert_eq!(holds, [false, true]);
    assert!(!registration.is_registered(), "only if both hold it");
    assert!(timeout(SECOND, registration.registered()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_delays_the_deregistration_by_5_s_and_that_in_the_other_by_nothing() {
    for hangs_first in [true, false] {
        let memory = Memory::new();
        let hanging = Scripted::new([Step::Hang]).lease([Step::Unchanged, Step::Hang]);
        let asked = hanging.clone();
        let hanging = Registry::new(hanging);
        let registry = match hangs_first {
            true => both(hanging, of(&memory)),
            false => both(of(&memory), hanging),
        };
        let registration = registry.register(instance("a", "a")).unwrap();
        registration.registered().await;
        let start = Instant::now();
        let left = tokio::spawn(registration.deregister());
        tokio::time::sleep(SECOND / 10).await;
        assert!(memory.instances("web").is_empty(), "at once");
        let error = left.await.unwrap().unwrap_err();
        assert_eq!(
            (error.kind(), error.backend()),
            (ErrorKind::Timeout, "scripted")
        );
        assert!(start.elapsed() <= SECOND * 5, "{:?}", start.elapsed());
        let last = asked.asked().last().unwrap().0;
        assert_eq!(last, Asked::Deregister);
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_reaches_the_other_also_if_one_fails() {
    let memory = Memory::new();
    let failing = Scripted::new([Step::Hang]).lease([
        Step::Unchanged,
        Step::Unchanged,
        Step::Fail(ErrorKind::Refused),
        Step::Unchanged,
    ]);
    let registry = both(Registry::new(failing), of(&memory));
    let mut registration = registry.register(instance("a", "a")).unwrap();
    registration.registered().await;
    tokio::time::sleep(SECOND / 10).await;
    let error = registration
        .update(instance("a", "a").weight(7))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.backend()),
        (ErrorKind::Refused, "scripted")
    );
    assert_eq!(memory.instances("web")[0].weight.get(), 7);
    assert_eq!(registration.instance().weight.get(), 1, "not in both");
}
