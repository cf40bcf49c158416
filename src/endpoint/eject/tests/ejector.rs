//! Tests of each way to eject and to restore.

use std::{sync::Arc, time::Duration};

use crate::{
    classify::Outcome::{Cancelled, Failure, Overloaded, Success},
    endpoint::eject::{
        EjectCause, Ejection, EndpointHealth, GateState, Recent, Restored, StepKind,
    },
};

use super::scene::{MS, SECOND, Scene};

fn scene(n: u32) -> Scene {
    Scene::new(n, Ejection::default(), 1)
}

fn assert_near(actual: u128, expected: u128) {
    // Allows for the jitter and for the steps of 10 ms of the scene.
    let range = expected * 8 / 10 - 20..=expected * 12 / 10 + 20;
    assert!(range.contains(&actual), "{actual} is not near {expected}");
}

#[test]
fn a_failing_endpoint_goes_is_probed_once_and_returns() {
    let mut scene = scene(3);
    scene.fail(0);
    assert_eq!(scene.open(), [1, 2]);
    assert_eq!(
        scene.ejector.cause(&0),
        Some(EjectCause::ConsecutiveFailures { n: 5 })
    );
    let before = scene.now;
    let probe = scene.probe(0);
    assert_near((scene.now - before).as_millis(), 500);
    assert_eq!(scene.admit(0), None, "one probe");
    scene.record(0, probe, Success, MS);
    assert!(scene.is_open(0));
    assert_eq!(scene.restored(0), [Restored::Probe]);
    assert_eq!((scene.ejector.cause(&0), scene.ejector.out()), (None, 0));
}

#[test]
fn each_failed_probe_doubles_the_time_up_to_its_cap() {
    let mut scene = scene(3);
    scene.fail(0);
    for _ in 0..9 {
        let probe = scene.probe(0);
        scene.record(0, probe, Failure, MS);
    }
    let times: Vec<_> = scene.ejections(0).iter().map(|(_, time)| *time).collect();
    let expected = [
        500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000, 30_000,
    ];
    assert_eq!(times.len(), expected.len());
    for (time, expected) in times.into_iter().zip(expected) {
        assert_near(time, expected);
    }
}

#[test]
fn health_forgives_one_ejection_in_ten_seconds() {
    let mut scene = scene(3);
    let times = |scene: &Scene| scene.ejections(0).last().unwrap().1;
    let eject = |scene: &mut Scene, health: Duration| {
        scene.pass(health);
        scene.fail(0);
        let time = times(scene);
        let probe = scene.probe(0);
        scene.record(0, probe, Success, MS);
        time
    };
    assert_near(eject(&mut scene, Duration::ZERO), 500);
    assert_near(eject(&mut scene, SECOND), 1_000);
    assert_near(eject(&mut scene, SECOND), 2_000);
    assert_near(eject(&mut scene, 11 * SECOND), 2_000);
    assert_near(eject(&mut scene, 21 * SECOND), 1_000);
    assert_near(eject(&mut scene, 3_600 * SECOND), 500);
}

#[test]
fn an_overloaded_answer_to_a_probe_is_no_recovery() {
    let mut scene = scene(3);
    scene.fail(0);
    let probe = scene.probe(0);
    scene.record(0, probe, Overloaded, MS);
    assert_eq!((scene.is_open(0), scene.ejections(0).len()), (false, 2));
}

#[test]
fn answers_from_before_the_ejection_count_for_nothing() {
    let mut scene = scene(3);
    let early: Vec<_> = (0..50).map(|_| scene.admit(0).unwrap()).collect();
    scene.fail(0);
    // Late successes do not restore it.
    for pass in &early[..10] {
        scene.record(0, *pass, Success, SECOND);
    }
    assert!(!scene.is_open(0));
    let probe = scene.probe(0);
    scene.record(0, early[10], Success, SECOND);
    assert!(!scene.is_open(0), "only the probe speaks");
    scene.record(0, probe, Success, MS);
    assert!(scene.is_open(0));
    // Late failures do not eject it again.
    for pass in &early[11..] {
        scene.record(0, *pass, Failure, SECOND);
    }
    assert!(scene.is_open(0));
    assert_eq!(scene.healths[&0].counts(), (0, 0));
}

#[test]
fn a_trip_that_was_decided_late_does_not_hit_the_restored_endpoint() {
    let mut scene = scene(3);
    let cause = EjectCause::ConsecutiveFailures { n: 5 };
    let round = scene.admit(0).unwrap().round();
    scene.fail(0);
    let probe = scene.probe(0);
    scene.record(0, probe, Success, MS);
    scene.ejector.trip(&0, round, cause, scene.now);
    assert_eq!(scene.ejector.next_step(), None);
}

#[test]
fn a_cancelled_probe_gives_its_permit_back_at_once() {
    let mut scene = scene(3);
    scene.fail(0);
    let probe = scene.probe(0);
    scene.record(0, probe, Cancelled, MS);
    let second = scene.admit(0).unwrap();
    assert!(second.is_probe() && second != probe);
    scene.record(0, second, Success, MS);
    assert!(scene.is_open(0));
}

#[test]
fn three_probes_whose_callers_left_are_a_failed_one() {
    let mut scene = scene(3);
    scene.fail(0);
    let first = scene.probe(0);
    scene.record(0, first, Cancelled, SECOND);
    for _ in 0..2 {
        let probe = scene.admit(0).unwrap();
        scene.record(0, probe, Cancelled, SECOND);
    }
    assert_eq!(scene.healths[&0].gate(), GateState::Shut);
    let ejections = scene.ejections(0);
    assert_eq!(ejections.len(), 2);
    assert_near(ejections[1].1, 1_000);
}

#[test]
fn a_probe_that_hangs_is_lost_at_its_deadline() {
    let mut scene = scene(3);
    scene.fail(0);
    let lost = scene.probe(0);
    let taken = scene.now;
    while scene.ejections(0).len() < 2 {
        scene.pass(10 * MS);
        let waited = scene.now - taken;
        assert!(waited <= 2 * SECOND + 20 * MS, "still on trial");
    }
    assert!(scene.now - taken >= SECOND - 20 * MS, "it had its time");
    // A late report changes nothing, even during the next probe.
    scene.record(0, lost, Success, 9 * SECOND);
    assert!(!scene.is_open(0));
    let next = scene.probe(0);
    scene.record(0, lost, Failure, 9 * SECOND);
    assert_eq!(scene.ejections(0).len(), 2);
    scene.record(0, next, Success, MS);
    assert!(scene.is_open(0));
}

#[test]
fn without_traffic_the_permit_waits_and_the_time_does_not_grow() {
    let mut scene = scene(3);
    scene.fail(0);
    scene.pass(600 * SECOND);
    assert_eq!(scene.healths[&0].gate(), GateState::ProbeReady);
    assert_eq!(scene.ejections(0).len(), 1);
    let probe = scene.admit(0).unwrap();
    scene.record(0, probe, Success, MS);
    assert!(scene.is_open(0));
}

#[test]
fn half_of_the_set_may_go_and_no_more() {
    let mut scene = scene(5);
    (0..5).for_each(|key| scene.fail(key));
    assert_eq!(scene.open(), [2, 3, 4]);
    let spared = |scene: &Scene| {
        let told = scene.log.iter().filter_map(|(_, key, kind)| match kind {
            StepKind::Spared { .. } => Some(*key),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(spared(&scene), [2, 3, 4]);
    // When there is room, an endpoint that still fails is ejected.
    let probe = scene.probe(0);
    scene.record(0, probe, Success, MS);
    scene.pass(SECOND);
    scene.send(4, 1, Failure, MS);
    assert!(!scene.is_open(4) && scene.is_open(0));
}

#[test]
fn the_last_endpoint_stays_unless_asked() {
    for (n, open) in [(1, 1), (2, 1), (3, 2)] {
        let mut scene = scene(n);
        (0..n).for_each(|key| scene.fail(key));
        assert_eq!(scene.open().len(), open, "of {n}");
    }
    let rules = Ejection::new().max_ejected(1.0);
    let mut all = Scene::new(4, rules, 1);
    (0..4).for_each(|key| all.fail(key));
    assert_eq!(all.open(), [3]);
    let rules = Ejection::new().max_ejected(1.0).eject_last(true);
    let mut all = Scene::new(4, rules, 1);
    (0..4).for_each(|key| all.fail(key));
    assert_eq!(all.open(), [0; 0]);
}

#[test]
fn when_the_set_shrinks_those_out_longest_return() {
    let mut scene = scene(6);
    for key in [0, 1, 2] {
        scene.fail(key);
        scene.pass(10 * MS);
    }
    assert_eq!(scene.open(), [3, 4, 5]);
    scene.remove(5);
    assert_eq!(scene.open(), [0, 3, 4]);
    assert_eq!(scene.restored(0), [Restored::Guard]);
    // The removal of an endpoint that is out makes no room for another.
    scene.remove(1);
    assert_eq!(scene.open(), [0, 3, 4]);
    scene.remove(3);
    scene.remove(4);
    assert_eq!(scene.open(), [0]);
    scene.remove(0);
    assert_eq!(scene.open(), [2], "the last one left");
}

#[test]
fn a_fleet_that_is_drained_and_shut_down_takes_no_room_from_the_other() {
    let mut scene = scene(8);
    scene.weigh(|key| key >= 4);
    for key in 0..4 {
        scene.ejector.check_failed(&key, 3, scene.now);
    }
    scene.pass(Duration::ZERO);
    assert_eq!(scene.open(), [4, 5, 6, 7], "they are no loss");
    (4..8).for_each(|key| scene.fail(key));
    assert_eq!(scene.open(), [6, 7], "half of those with a weight");
    // The endpoints with and without a weight change places.
    scene.weigh(|key| key < 4);
    assert_eq!(scene.open(), [0, 1, 6, 7]);
    assert_eq!(scene.restored(0), [Restored::Guard]);
    // No endpoint has a weight, so all count.
    scene.weigh(|_| false);
    assert_eq!((scene.open(), scene.ejector.out()), (vec![0, 1, 6, 7], 4));
    scene.fail(6);
    assert!(scene.is_open(6), "half of all are out");
    scene.remove(7);
    assert_eq!(scene.open(), [0, 1, 2, 6], "of seven, three");
}

#[test]
fn one_without_a_weight_makes_no_other_return_by_going_or_by_hand() {
    let mut scene = scene(6);
    scene.weigh(|key| key > 0);
    scene.fail(1);
    scene.fail(2);
    assert!(scene.ejector.eject(&0, scene.now));
    scene.pass(Duration::ZERO);
    assert_eq!(scene.open(), [3, 4, 5]);
    scene.weigh(|_| true);
    assert_eq!(scene.open(), [3, 4, 5], "half of all");
    scene.weigh(|key| key != 5);
    assert_eq!(scene.open(), [1, 3, 4, 5], "of five, two");
    assert_eq!(scene.ejector.cause(&0), Some(EjectCause::ByHand));
    scene.remove(0);
    assert_eq!((scene.open(), scene.ejector.out()), (vec![1, 3, 4, 5], 1));
}

#[test]
fn another_process_in_the_place_of_a_drained_one_is_drained() {
    let mut scene = scene(3);
    scene.weigh(|key| key > 0);
    scene.ejector.renew(&0, scene.now);
    scene.fail(1);
    scene.ejector.check_failed(&0, 3, scene.now);
    scene.pass(Duration::ZERO);
    assert_eq!(scene.ejector.out(), 2, "no loss to the others");
}

#[test]
fn where_none_may_be_ejected_a_drained_one_is_not() {
    let rules = Ejection::new().max_ejected(0.0);
    let mut scene = Scene::new(2, rules, 1);
    scene.weigh(|key| key > 0);
    scene.fail(0);
    assert_eq!(scene.open(), [0, 1]);
}

#[test]
fn what_half_of_the_requests_fail_on_goes_by_ratio() {
    let mut scene = scene(3);
    let mut sent = 0;
    while scene.is_open(0) {
        let outcome = if sent % 2 == 0 { Success } else { Failure };
        scene.send(0, 1, outcome, MS);
        sent += 1;
    }
    let (failed, total) = (10, 20);
    assert_eq!(
        scene.ejector.cause(&0),
        Some(EjectCause::FailureRatio { failed, total })
    );
}

#[test]
fn the_window_slides() {
    let rules = Ejection::new().consecutive_failures(None);
    let mut scene = Scene::new(3, rules, 1);
    for _ in 0..100 {
        scene.send(0, 100, Success, MS);
        scene.pass(100 * MS);
    }
    // 10,000 successes; then failures only, at the same rate. The ratio reaches a half after half of the
    // window of 10 s, and not after as many failures as there were successes.
    let began = scene.now;
    while scene.is_open(0) {
        scene.send(0, 100, Failure, MS);
        scene.pass(100 * MS);
    }
    let after = (scene.now - began).as_millis();
    assert!((4_000..=5_200).contains(&after), "after {after} ms");
}

#[test]
fn failures_that_left_the_window_are_forgotten() {
    let mut scene = scene(3);
    for _ in 0..20 {
        scene.send(0, 4, Failure, MS);
        scene.send(0, 1, Success, MS);
        scene.pass(11 * SECOND);
    }
    assert!(scene.is_open(0), "never more than five in ten seconds");
    assert_eq!(scene.healths[&0].counts(), (0, 0));
}

#[test]
fn a_driver_that_was_suspended_does_not_count_twice() {
    let rules = Ejection::new().consecutive_failures(None);
    let mut scene = Scene::new(3, rules, 1);
    scene.send(0, 19, Failure, MS);
    scene.now += 3_600 * SECOND;
    scene.pass(Duration::ZERO);
    assert_eq!(scene.healths[&0].counts(), (0, 0));
    scene.send(0, 19, Failure, MS);
    assert!(scene.is_open(0));
    scene.send(0, 1, Failure, MS);
    assert!(!scene.is_open(0));
}

/// One second of traffic in which endpoint 0 takes `slow` and the others 167 ms.
fn second(scene: &mut Scene, slow: Duration) {
    for key in scene.open() {
        let latency = if key == 0 { slow } else { 167 * MS };
        scene.send(key, 25, Success, latency);
    }
    scene.pass(SECOND);
}

#[test]
fn one_slow_of_eleven_goes_and_returns_when_it_is_fast_again() {
    let mut scene = scene(11);
    for _ in 0..12 {
        second(&mut scene, 167 * MS);
    }
    assert_eq!(scene.open().len(), 11);
    let began = scene.now;
    while scene.is_open(0) {
        second(&mut scene, 2 * SECOND);
        assert!(scene.now - began <= 6 * SECOND, "it is still in");
    }
    assert!(matches!(
        scene.ejector.cause(&0),
        Some(EjectCause::Slow { .. })
    ));
    // A slow response does not restore the endpoint.
    let probe = scene.probe(0);
    scene.record(0, probe, Success, 2 * SECOND);
    assert!(!scene.is_open(0));
    let probe = scene.probe(0);
    scene.record(0, probe, Success, 167 * MS);
    assert!(scene.is_open(0));
    for _ in 0..20 {
        second(&mut scene, 167 * MS);
    }
    assert!(scene.is_open(0), "its slow past is forgotten");
}

#[test]
fn an_endpoint_that_swallows_requests_is_slow() {
    let mut scene = scene(4);
    second(&mut scene, 167 * MS);
    second(&mut scene, 167 * MS);
    for _ in 0..12 {
        for key in 1..4 {
            scene.send(key, 25, Success, 167 * MS);
        }
        scene.send(0, 3, Cancelled, SECOND);
        scene.pass(SECOND);
    }
    assert!(matches!(
        scene.ejector.cause(&0),
        Some(EjectCause::Slow { .. })
    ));
}

#[test]
fn callers_that_leave_early_do_not_make_an_endpoint_slow() {
    let mut scene = scene(4);
    for _ in 0..12 {
        second(&mut scene, 167 * MS);
        scene.send(0, 1_000, Cancelled, 400 * MS);
    }
    assert!(scene.is_open(0));
}

#[test]
fn when_all_are_slow_none_is() {
    let mut scene = scene(5);
    for _ in 0..30 {
        for key in 0..5 {
            scene.send(key, 50, Success, 9 * SECOND);
        }
        scene.pass(SECOND);
    }
    assert_eq!(scene.open().len(), 5);
}

#[test]
fn checks_eject_and_only_what_they_ejected_comes_back_by_them() {
    let mut scene = scene(5);
    scene.ejector.check_failed(&0, 3, scene.now);
    scene.pass(600 * SECOND);
    assert!(!scene.is_open(0) && scene.admit(0).is_none(), "no probe");
    assert_eq!(
        scene.ejector.cause(&0),
        Some(EjectCause::HealthCheck { failures: 3 })
    );
    scene.ejector.check_passed(&0, scene.now);
    scene.pass(Duration::ZERO);
    assert_eq!(scene.restored(0), [Restored::HealthCheck]);
    // Its requests ejected it, so a passed check does not restore it.
    scene.fail(1);
    scene.ejector.check_passed(&1, scene.now);
    scene.pass(Duration::ZERO);
    assert!(!scene.is_open(1));
    // Both causes apply: first the check must pass, then a probe.
    scene.ejector.check_failed(&1, 3, scene.now);
    scene.pass(600 * SECOND);
    assert_eq!(scene.admit(1), None);
    scene.ejector.check_passed(&1, scene.now);
    scene.pass(Duration::ZERO);
    let probe = scene.admit(1).unwrap();
    scene.record(1, probe, Success, MS);
    assert_eq!(scene.restored(1), [Restored::Probe]);
}

#[test]
fn checks_that_fail_everywhere_leave_half_of_the_set() {
    let mut scene = scene(4);
    for failures in 3..9 {
        for key in 0..4 {
            scene.ejector.check_failed(&key, failures, scene.now);
        }
        scene.pass(SECOND);
        assert_eq!(scene.open(), [2, 3]);
    }
}

#[test]
fn by_hand_goes_anybody_even_the_last_until_restored_by_hand() {
    let mut scene = scene(2);
    scene.fail(0);
    assert!(scene.ejector.eject(&1, scene.now));
    scene.pass(Duration::ZERO);
    assert_eq!(scene.open(), [0], "who is out by itself makes room");
    assert!(scene.ejector.eject(&0, scene.now));
    scene.pass(600 * SECOND);
    assert_eq!(scene.open(), [0; 0]);
    assert_eq!(scene.ejector.cause(&0), Some(EjectCause::ByHand));
    scene.ejector.check_passed(&0, scene.now);
    assert!(scene.ejector.restore_by_hand(&0, scene.now));
    assert!(!scene.ejector.restore_by_hand(&0, scene.now), "it is in");
    scene.pass(Duration::ZERO);
    assert_eq!(scene.open(), [0]);
    assert!(!scene.ejector.eject(&7, scene.now), "nobody knows it");
}

#[test]
fn state_is_kept_while_an_endpoint_is_known_and_gone_with_it() {
    let mut scene = scene(3);
    scene.fail(0);
    scene.insert(0);
    assert!(!scene.is_open(0), "announced again, it is the same");
    scene.remove(0);
    scene.insert(0);
    assert!(scene.is_open(0));
    scene.pass(60 * SECOND);
    assert!(scene.is_open(0), "no deadline of the old one is left");
    assert_eq!(scene.ejector.out(), 0);
}

#[test]
fn one_that_was_away_is_out_for_the_rest_of_its_time_and_then_for_longer() {
    let mut scene = scene(3);
    scene.fail(0);
    for _ in 0..4 {
        let probe = scene.probe(0);
        scene.record(0, probe, Failure, MS);
    }
    let time = scene.ejections(0).last().unwrap().1;
    assert_near(time, 8_000);
    scene.pass(SECOND);
    scene.flap(0, SECOND);
    let cause = Some(EjectCause::ConsecutiveFailures { n: 5 });
    assert_eq!((scene.ejector.cause(&0), scene.ejector.out()), (cause, 1));
    let rest = scene.ejections(0).last().unwrap().1;
    assert_eq!(rest, time - 2_000);
    let back = scene.now;
    let probe = scene.probe(0);
    let waited = (scene.now - back).as_millis();
    assert!((rest..=rest + 10).contains(&waited), "{waited}");
    scene.record(0, probe, Failure, MS);
    assert_near(scene.ejections(0).last().unwrap().1, 16_000);
    // Its time ends during the absence, or it was being probed: it is probed at once.
    for _ in 0..2 {
        scene.flap(0, 30 * SECOND);
        assert!(scene.admit(0).is_some_and(|pass| pass.is_probe()));
    }
    scene.flap(0, MS);
    let probe = scene.admit(0).unwrap();
    scene.record(0, probe, Success, MS);
    assert!(scene.is_open(0));
    // The number of its ejections is kept, too.
    scene.flap(0, MS);
    assert!(scene.is_open(0));
    scene.fail(0);
    assert_near(scene.ejections(0).last().unwrap().1, 30_000);
}

#[test]
fn one_that_was_away_is_spared_when_others_have_taken_its_room() {
    let mut scene = scene(4);
    scene.fail(0);
    scene.fail(1);
    // Time under probe is not healthy time.
    scene.pass(60 * SECOND);
    let history = scene.remove(0).unwrap();
    // Of three endpoints, one is out already.
    scene.insert(0);
    scene.remove(3);
    scene.ejector.recall(&0, history, scene.now);
    scene.pass(Duration::ZERO);
    assert_eq!(scene.open(), [0, 2]);
    assert!(matches!(
        scene.log.last(),
        Some((_, 0, StepKind::Spared { .. }))
    ));
    let probe = scene.probe(1);
    scene.record(1, probe, Success, MS);
    scene.fail(0);
    assert_near(scene.ejections(0).last().unwrap().1, 1_000);
}

#[test]
fn whose_checks_failed_is_out_until_they_pass_and_by_hand_is_no_history() {
    let mut scene = scene(5);
    scene.ejector.check_failed(&0, 3, scene.now);
    scene.flap(0, SECOND);
    scene.pass(60 * SECOND);
    assert_eq!((scene.is_open(0), scene.admit(0)), (false, None));
    scene.ejector.check_passed(&0, scene.now);
    scene.pass(Duration::ZERO);
    assert!(scene.is_open(0));

    scene.fail(1);
    scene.ejector.eject(&1, scene.now);
    scene.flap(1, SECOND);
    assert_eq!((scene.is_open(1), scene.ejector.out()), (true, 0));
    scene.fail(1);
    assert_near(scene.ejections(1).last().unwrap().1, 1_000);
    assert!(scene.remove(2).is_none(), "nothing has happened to it");
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = |seed| {
        let mut scene = Scene::new(20, Ejection::default(), seed);
        for _ in 0..30 {
            (0..9).for_each(|key| scene.fail(key));
            scene.pass(SECOND);
        }
        scene.log
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn clocks_that_stand_still_or_jump_do_no_harm() {
    let rules = Ejection::new().time(Duration::MAX, Duration::MAX);
    let mut scene = Scene::new(3, rules, 1);
    scene.fail(0);
    scene.pass(Duration::ZERO);
    scene.now += 10 * 365 * 86_400 * SECOND;
    scene.pass(Duration::ZERO);
    assert_eq!(scene.healths[&0].gate(), GateState::Shut);
}

/// Whether an endpoint fails no more than its peers.
fn shares_its_failures(scene: &Scene, key: u32) -> bool {
    let recent = |(key, health): (&u32, &Arc<EndpointHealth>)| scene.ejector.recent(key, health);
    let all = Recent::sum(scene.healths.iter().map(recent));
    let own = scene.ejector.recent(&key, &scene.healths[&key]);
    own.is_shared_by(all.without(own))
}

#[test]
fn what_all_endpoints_fail_alike_is_not_held_against_one() {
    let mut scene = scene(4);
    let send = |scene: &mut Scene, key, outcome, n| {
        for _ in 0..n {
            let pass = scene.admit(key).unwrap();
            scene.healths[&key].record(pass, outcome, Some(MS), &Ejection::default());
        }
    };
    for key in 0..4 {
        send(&mut scene, key, Success, 20);
        send(&mut scene, key, Failure, 5);
    }
    let shares = |scene: &Scene, key| shares_its_failures(scene, key);
    assert!((0..4).all(|key| shares(&scene, key)), "a fifth at each");
    send(&mut scene, 0, Failure, 40);
    assert!(
        !shares(&scene, 0),
        "most of what others would have answered"
    );
    assert!(shares(&scene, 1));
}

#[test]
fn an_idle_endpoint_does_not_make_busy_ones_look_bad_and_a_dead_one_is_its_own_fault() {
    let mut scene = scene(5);
    let send = |scene: &mut Scene, key, outcome, n| {
        for _ in 0..n {
            let pass = scene.admit(key).unwrap();
            scene.healths[&key].record(pass, outcome, Some(MS), &Ejection::default());
        }
    };
    for key in 0..3 {
        send(&mut scene, key, Success, 20);
        send(&mut scene, key, Failure, 20);
    }
    send(&mut scene, 3, Success, 2);
    send(&mut scene, 4, Failure, 20);
    let shares = |key| shares_its_failures(&scene, key);
    assert!((0..3).all(shares), "half at each that is busy");
    assert!(!shares(4), "all of its own");
}
