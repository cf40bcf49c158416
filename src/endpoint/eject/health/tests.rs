//! Tests of the records of requests.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn health() -> (EndpointHealth, Ejection) {
    (EndpointHealth::with(Round(0), ()), Ejection::default())
}

fn send(health: &EndpointHealth, rules: &Ejection, outcome: Outcome) -> Option<EjectCause> {
    let pass = health.admit().unwrap();
    match health.record(pass, outcome, Some(MS), rules) {
        Some(Signal::Tripped { cause, .. }) => Some(cause),
        None => None,
        signal => panic!("{signal:?} without a probe"),
    }
}

#[test]
fn five_failures_in_a_row_trip_once() {
    let (health, rules) = health();
    let causes: Vec<_> = (0..9)
        .map(|_| send(&health, &rules, Outcome::Failure))
        .collect();
    let mut expected = [None; 9];
    expected[4] = Some(EjectCause::ConsecutiveFailures { n: 5 });
    assert_eq!(causes, expected);
    health.rearm();
    let again = send(&health, &rules, Outcome::Failure);
    assert_eq!(again, Some(EjectCause::ConsecutiveFailures { n: 10 }));
}

#[test]
fn a_success_ends_the_row_and_cancelled_requests_do_not() {
    let (health, rules) = health();
    for _ in 0..4 {
        assert_eq!(send(&health, &rules, Outcome::Failure), None);
    }
    assert_eq!(send(&health, &rules, Outcome::Success), None);
    for _ in 0..4 {
        assert_eq!(send(&health, &rules, Outcome::Failure), None);
        assert_eq!(send(&health, &rules, Outcome::Cancelled), None);
    }
    assert!(send(&health, &rules, Outcome::Failure).is_some());
}

#[test]
fn cancelled_requests_count_nowhere() {
    let (health, rules) = health();
    for _ in 0..1_000 {
        assert_eq!(send(&health, &rules, Outcome::Cancelled), None);
    }
    assert_eq!(health.counts(), (0, 0));
}

#[test]
fn half_of_twenty_trip_and_half_of_eighteen_do_not() {
    let (health, rules) = health();
    for _ in 0..9 {
        assert_eq!(send(&health, &rules, Outcome::Success), None);
        assert_eq!(send(&health, &rules, Outcome::Failure), None);
    }
    assert_eq!(send(&health, &rules, Outcome::Success), None);
    let cause = send(&health, &rules, Outcome::Failure);
    let (failed, total) = (10, 20);
    assert_eq!(cause, Some(EjectCause::FailureRatio { failed, total }));
}

#[test]
fn overload_counts_for_the_ratio_and_not_for_the_row() {
    let (health, rules) = health();
    for _ in 0..19 {
        assert_eq!(send(&health, &rules, Outcome::Overloaded), None);
    }
    let (failed, total) = (20, 20);
    let cause = send(&health, &rules, Outcome::Overloaded);
    assert_eq!(cause, Some(EjectCause::FailureRatio { failed, total }));
}

#[test]
fn what_left_the_window_does_not_count() {
    let (health, _) = health();
    let rules = Ejection::new().consecutive_failures(None);
    for _ in 0..10_000 {
        send(&health, &rules, Outcome::Success);
    }
    health.rebase(health.sums());
    for _ in 0..19 {
        assert_eq!(send(&health, &rules, Outcome::Failure), None);
    }
    let cause = send(&health, &rules, Outcome::Failure);
    let (failed, total) = (20, 20);
    assert_eq!(cause, Some(EjectCause::FailureRatio { failed, total }));
}

#[test]
fn an_answer_that_broke_off_is_one_failure_and_no_success() {
    let (health, rules) = health();
    let pass = health.admit().unwrap();
    let latency = Some(37 * MS);
    assert_eq!(health.record(pass, Outcome::Success, latency, &rules), None);
    assert_eq!(health.counts(), (0, 1));
    assert_eq!(health.revise(pass, latency, &rules), None);
    assert_eq!(health.counts(), (1, 1));
    assert_eq!(health.sums().answers, LogSum::default());
}

#[test]
fn requests_without_an_answer_prove_slowness_only_beyond_the_limit() {
    let (health, rules) = health();
    let end = |outcome, latency| {
        let pass = health.admit().unwrap();
        health.record(pass, outcome, Some(latency), &rules);
    };
    end(Outcome::Cancelled, 10_000 * MS);
    health.set_slow_after(Some(100 * MS));
    end(Outcome::Cancelled, 99 * MS);
    end(Outcome::Failure, 99 * MS);
    assert_eq!(health.sums().stalls.count(), 0, "nothing is known of these");
    end(Outcome::Cancelled, 1_000 * MS);
    end(Outcome::Failure, 1_000 * MS);
    assert_eq!(health.sums().stalls.count(), 2);
    let typical = health.sums().latency_since(HealthSums::default()).typical();
    assert!(typical > Some(990 * MS), "{typical:?}");
}

#[test]
fn counts_are_exact_while_threads_record() {
    let (health, _) = health();
    let rules = Ejection::new().consecutive_failures(None);
    let trips: usize = std::thread::scope(|scope| {
        let work = || {
            let outcomes = [Outcome::Success, Outcome::Failure, Outcome::Success];
            let outcomes = outcomes.iter().cycle().take(30_000);
            outcomes
                .filter(|outcome| send(&health, &rules, **outcome).is_some())
                .count()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(health.counts(), (40_000, 120_000));
    assert!(trips <= 1);
}
