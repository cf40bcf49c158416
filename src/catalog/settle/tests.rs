use super::*;
use crate::instance::Status;

const SECOND: Duration = Duration::from_secs(1);

fn instance(id: u8) -> Instance {
    let address = format!("10.0.0.{id}:80").parse().unwrap();
    Instance::new("web", format!("web-{id}"), address)
}

fn listing(ids: &[u8]) -> Listing {
    Listing {
        instances: ids.iter().map(|id| Arc::new(instance(*id))).collect(),
        exists: true,
        ..Listing::default()
    }
}

#[test]
fn the_longest_times_hold_instead_of_being_none() {
    let (start, day) = (Instant::now(), SECOND * 86_400);
    let mut guarded = Settle::new(EmptyGuard::Hold(Duration::MAX), Duration::ZERO, false);
    guarded.offer(listing(&[1]), start);
    assert!(!guarded.offer(listing(&[]), start + SECOND));
    assert!(!guarded.offer(listing(&[]), start + day));
    assert_eq!(guarded.set().len(), 1, "an empty reply must be held back");

    let mut graced = Settle::new(EmptyGuard::ApplyAtOnce, Duration::MAX, false);
    graced.offer(listing(&[1, 2]), start);
    graced.offer(listing(&[1]), start + SECOND);
    graced.tick(start + day);
    assert_eq!(graced.set().len(), 2, "the grace must not end at once");
}

#[test]
fn notes_on_unusable_records_are_bounded() {
    let mut settle = Settle::new(EmptyGuard::default(), Duration::ZERO, false);
    let twice = (0..2_000).map(|_| Arc::new(instance(1)));
    let notes = (0..2_000).map(|n| Rejected::new(format!("#{n}"), "no address"));
    let listing = Listing {
        instances: twice.collect(),
        rejected: notes.collect(),
        ..listing(&[])
    };
    settle.offer(listing, Instant::now());
    assert_eq!(settle.set().len(), 1);
    assert_eq!(settle.rejected().len(), MOST_REJECTED);
}

#[test]
fn a_grace_that_ends_with_a_reply_is_not_given_again() {
    let start = Instant::now();
    let mut settle = Settle::new(EmptyGuard::default(), SECOND, false);
    settle.offer(listing(&[1, 2]), start);
    settle.offer(listing(&[1]), start);
    // No tick comes between the two replies.
    settle.offer(listing(&[1]), start + SECOND);
    assert_eq!(settle.set().len(), 1);
    assert_eq!(settle.deadline(), None);
}

#[test]
fn what_a_list_in_doubt_lacks_is_kept_for_a_moment() {
    let start = Instant::now();
    let partial = |ids: &[u8]| Listing {
        doubt: Some("the index went backwards".to_owned()),
        ..listing(ids)
    };
    for emptied in [false, true] {
        let mut settle = Settle::new(EmptyGuard::default(), Duration::ZERO, false);
        settle.offer(listing(&[1, 2, 3]), start);
        if emptied {
            assert!(!settle.offer(in_doubt(), start), "held");
            settle.offer(listing(&[1]), start);
        } else {
            settle.offer(partial(&[1]), start);
        }
        assert_eq!(ids(&settle), ["web-1", "web-2", "web-3"]);
        settle.offer(listing(&[1, 2]), start + SECOND / 2);
        assert_eq!(ids(&settle), ["web-1", "web-2", "web-3"]);
        assert_eq!(settle.deadline(), Some(start + RETURN_WITHIN));
        assert!(settle.tick(start + RETURN_WITHIN));
        assert_eq!(ids(&settle), ["web-1", "web-2"], "it did not come back");
        settle.offer(listing(&[1]), start + 2 * SECOND);
        assert_eq!(ids(&settle), ["web-1"], "without doubt at once");
    }
    let mut settle = Settle::new(EmptyGuard::ApplyAtOnce, Duration::ZERO, false);
    settle.offer(listing(&[1, 2]), start);
    settle.offer(partial(&[1]), start);
    assert_eq!(ids(&settle), ["web-1"], "no guard, no doubt");
}

fn in_doubt() -> Listing {
    Listing {
        doubt: Some("the index went backwards".to_owned()),
        ..Listing::default()
    }
}

fn ids(settle: &Settle) -> Vec<&str> {
    settle.set().iter().map(|i| i.id()).collect()
}

#[test]
fn the_same_reply_keeps_the_same_set() {
    let now = Instant::now();
    let mut settle = Settle::new(EmptyGuard::default(), Duration::ZERO, false);
    settle.offer(listing(&[1, 2, 3]), now);
    let first = settle.set().clone();
    settle.offer(listing(&[3, 1, 2]), now);
    assert!(settle.set().is_same(&first));
    settle.offer(listing(&[1, 2]), now);
    assert_eq!(ids(&settle), ["web-1", "web-2"]);
    let kept = settle
        .set()
        .iter()
        .zip(&first)
        .all(|(a, b)| Arc::ptr_eq(a, b));
    assert!(kept, "what did not change keeps its Arc");
}

#[test]
fn an_empty_reply_without_doubt_is_applied_at_once() {
    let now = Instant::now();
    let mut settle = Settle::new(EmptyGuard::default(), Duration::ZERO, false);
    settle.offer(listing(&[1]), now);
    assert!(settle.offer(listing(&[]), now));
    assert!(settle.set().is_empty());
}

#[test]
fn an_empty_reply_in_doubt_is_held_for_its_time_only() {
    let now = Instant::now();
    let mut settle = Settle::new(EmptyGuard::HoldDoubtful(SECOND), Duration::ZERO, false);
    settle.offer(listing(&[1]), now);
    assert!(!settle.offer(in_doubt(), now));
    // The registry's index is now the new one, so later empty replies carry no sign of doubt. They
    // are still held.
    assert!(!settle.offer(listing(&[]), now + SECOND / 2));
    assert_eq!((ids(&settle), settle.is_holding()), (vec!["web-1"], true));
    assert!(
        !settle.tick(now + SECOND * 2) && settle.is_holding(),
        "time alone confirms nothing"
    );
    assert!(settle.offer(listing(&[]), now + SECOND));
    assert!(settle.set().is_empty() && !settle.is_holding());
}

#[test]
fn instances_that_come_back_end_the_hold() {
    let now = Instant::now();
    let mut settle = Settle::new(EmptyGuard::Hold(SECOND), Duration::ZERO, false);
    settle.offer(listing(&[1]), now);
    assert!(
        !settle.offer(listing(&[]), now),
        "this guard holds without doubt too"
    );
    assert!(settle.offer(listing(&[2]), now));
    assert_eq!((ids(&settle), settle.deadline()), (vec!["web-2"], None));
    assert!(!settle.tick(now + SECOND * 2));
}

#[test]
fn an_absent_instance_stays_for_the_grace_and_may_come_back() {
    let now = Instant::now();
    let mut settle = Settle::new(EmptyGuard::default(), SECOND, false);
    settle.offer(listing(&[1, 2, 3]), now);
    settle.offer(listing(&[2]), now);
    assert_eq!(ids(&settle), ["web-1", "web-2", "web-3"]);
    settle.offer(listing(&[2, 3]), now + SECOND / 2);
    assert!(settle.tick(now + SECOND));
    assert_eq!(ids(&settle), ["web-2", "web-3"]);
    assert_eq!(settle.deadline(), None);
}

#[test]
fn an_instance_listed_as_critical_leaves_without_grace() {
    let now = Instant::now();
    let mut settle = Settle::new(EmptyGuard::default(), SECOND, false);
    settle.offer(listing(&[1, 2]), now);
    let mut sick = listing(&[1, 2]);
    Arc::make_mut(&mut sick.instances[0]).status = Status::Critical;
    settle.offer(sick, now);
    assert_eq!(ids(&settle), ["web-2"]);
    assert_eq!(settle.withheld().len(), 1);
}

#[test]
fn records_of_one_key_are_folded_into_the_healthiest() {
    let now = Instant::now();
    let mut settle = Settle::new(EmptyGuard::default(), Duration::ZERO, false);
    let mut twice = listing(&[1, 1]);
    Arc::make_mut(&mut twice.instances[0]).status = Status::Critical;
    settle.offer(twice, now);
    assert_eq!(ids(&settle), ["web-1"]);
    assert!(settle.withheld().is_empty());
    assert_eq!(settle.rejected().len(), 1, "the fold is told");
}

#[test]
fn passing_only_withholds_warning_instances() {
    let now = Instant::now();
    for (passing_only, serving) in [(false, 2), (true, 1)] {
        let mut settle = Settle::new(EmptyGuard::default(), Duration::ZERO, passing_only);
        let mut some = listing(&[1, 2]);
        Arc::make_mut(&mut some.instances[1]).status = Status::Warning;
        settle.offer(some, now);
        assert_eq!(settle.set().len(), serving);
    }
}

fn critical(ids: &[u8]) -> Vec<Arc<Instance>> {
    let critical = |id: &u8| {
        let mut instance = instance(*id);
        instance.status = Status::Critical;
        Arc::new(instance)
    };
    ids.iter().map(critical).collect()
}

#[test]
fn instances_that_expire_with_an_outage_are_kept_until_they_can_be_back() {
    let now = Instant::now();
    let mut settle = Settle::new(EmptyGuard::default(), Duration::ZERO, false);
    settle.offer(listing(&[1]), now);
    settle.returned(now);
    assert!(settle.offer(listing(&[]), now));
    assert_eq!(ids(&settle), ["web-1"], "absent, and kept");
    let mut failing = listing(&[]);
    failing.instances = critical(&[1]);
    settle.offer(failing.clone(), now + SECOND / 2);
    assert_eq!(ids(&settle), ["web-1"], "critical, and kept");
    assert!(settle.tick(now + RETURN_WITHIN));
    assert!(settle.set().is_empty(), "not for longer");
    // Without an outage, the registry is right.
    settle.offer(listing(&[1]), now + SECOND * 5);
    settle.offer(failing, now + SECOND * 5);
    assert!(settle.set().is_empty());
}

#[test]
fn the_loss_of_half_of_the_instances_is_taken_for_an_outage() {
    let now = Instant::now();
    let soon = now + SECOND / 2;
    let settled = || {
        let mut settle = Settle::new(EmptyGuard::default(), Duration::ZERO, false);
        settle.offer(listing(&[1, 2, 3, 4]), now);
        settle
    };
    // At once.
    let mut settle = settled();
    settle.offer(listing(&[]), now);
    assert_eq!(settle.set().len(), 4);
    settle.offer(listing(&[2, 3]), soon);
    assert_eq!(settle.set().len(), 4, "some are back");
    assert!(settle.tick(now + RETURN_WITHIN));
    assert_eq!(ids(&settle), ["web-2", "web-3"]);
    // One after the other: the first goes, and the others are kept.
    let mut settle = settled();
    for left in [&[1, 2, 3][..], &[1, 2], &[1], &[]] {
        settle.offer(listing(left), soon);
    }
    assert_eq!(ids(&settle), ["web-1", "web-2", "web-3"]);
    // Slowly, or replaced by others: then they are gone.
    let mut settle = settled();
    settle.offer(listing(&[1, 2, 3]), now);
    settle.offer(listing(&[1, 2]), now + SECOND * 2);
    assert_eq!(settle.set().len(), 2);
    let mut settle = settled();
    settle.offer(listing(&[5, 6, 7]), now);
    assert_eq!(ids(&settle), ["web-5", "web-6", "web-7"]);
    // Where nothing expires.
    let mut settle = settled().expires(false);
    settle.offer(listing(&[1]), now);
    assert_eq!(ids(&settle), ["web-1"]);
}
