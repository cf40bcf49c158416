//! Tests of the tracker alone. Times are built from a base; nothing reads a clock.

use proptest::prelude::*;

use super::*;
use crate::endpoint::load::Outcome;

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

/// A tracker, and the zero point of its times.
fn tracker() -> (PeakEwma, Instant) {
    let base = Instant::now();
    (PeakEwma::new().fresh(base), base)
}

/// Records one request from `now - rtt` to `now`.
fn request(tracker: &PeakEwma, outcome: Outcome, rtt: Duration, now: Instant) {
    tracker.start(now - rtt);
    tracker.record(outcome, rtt, now);
}

#[track_caller]
fn assert_close(actual: f64, expected: f64) {
    let off = (actual - expected).abs();
    assert!(
        off <= expected.abs() * 1e-6,
        "{actual} should be {expected}"
    );
}

#[test]
fn a_higher_sample_replaces_the_estimate_at_once() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Success, 10 * MS, base + SEC);
    assert_close(ewma.load(0, base + SEC), 0.010);
    request(&ewma, Outcome::Success, 300 * MS, base + SEC + MS);
    assert_close(ewma.load(0, base + SEC + MS), 0.300);
}

#[test]
fn a_lower_sample_is_averaged_by_the_time_that_passed() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Success, SEC, base + SEC);
    request(&ewma, Outcome::Success, 100 * MS, base + 11 * SEC);
    let w = (-1.0f64).exp();
    assert_close(ewma.load(0, base + 11 * SEC), w + 0.1 * (1.0 - w));
}

#[test]
fn reading_sinks_with_time_and_changes_nothing() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Success, SEC, base + SEC);
    for _ in 0..3 {
        assert_close(ewma.load(0, base + 6 * SEC), (-0.5f64).exp());
        assert_close(ewma.load(0, base + 31 * SEC), (-3.0f64).exp());
    }
    assert_close(ewma.load(0, base + SEC), 1.0);
}

#[test]
fn requests_in_flight_multiply() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Success, 20 * MS, base + SEC);
    assert_close(ewma.load(4, base + SEC), 0.100);
}

#[test]
fn an_unmeasured_endpoint_gets_one_probe_and_waits_for_its_answer() {
    let (ewma, base) = tracker();
    assert_eq!(ewma.load(0, base), 0.0, "the probe must be attractive");
    ewma.start(base);
    let probing = ewma.load(1, base);
    assert!(probing > 1e9, "nothing more before the answer");
    assert!(
        ewma.load(2, base) > probing,
        "fewer in flight must be better"
    );
    ewma.record(Outcome::Success, 5 * MS, base + 5 * MS);
    assert_close(ewma.load(0, base + 5 * MS), 0.005);
}

#[test]
fn a_failure_is_never_a_fast_answer() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Success, 50 * MS, base + SEC);
    request(&ewma, Outcome::Failure, MS, base + SEC + MS);
    assert_close(ewma.load(0, base + SEC + MS), 5.0);
    // A slow failure counts as the time that it took.
    request(&ewma, Outcome::Failure, 8 * SEC, base + 10 * SEC);
    assert_close(ewma.load(0, base + 10 * SEC), 8.0);
}

#[test]
fn who_failed_gets_one_request_a_second_later_and_is_judged_by_it() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Success, 50 * MS, base + SEC);
    request(&ewma, Outcome::Failure, MS, base + 2 * SEC);
    assert!(ewma.load(0, base + 2 * SEC + 999 * MS) > 4.0, "not yet");
    assert_eq!(ewma.load(0, base + 3 * SEC), 0.0);
    ewma.start(base + 3 * SEC);
    assert!(ewma.load(1, base + 3 * SEC) > 4.0, "one at a time");
    ewma.record(Outcome::Success, 60 * MS, base + 3 * SEC + 60 * MS);
    assert_close(ewma.load(0, base + 3 * SEC + 60 * MS), 0.060);
}

#[test]
fn what_is_forgotten_is_measured_anew() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Failure, MS, base + SEC);
    ewma.forget(base + SEC);
    assert_eq!(ewma.load(0, base + SEC), 0.0);
    ewma.start(base + SEC);
    assert!(ewma.load(1, base + SEC) > 1e9);
}

#[test]
fn an_answer_that_breaks_off_is_penalized() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Success, 50 * MS, base + SEC);
    ewma.penalize(base + SEC);
    assert_close(ewma.load(0, base + SEC), 5.0);
}

#[test]
fn a_cancelled_request_only_ever_raises() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Success, 100 * MS, base + SEC);
    request(&ewma, Outcome::Cancelled, MS, base + SEC + MS);
    assert_close(ewma.load(0, base + SEC), 0.100);
    request(&ewma, Outcome::Cancelled, 2 * SEC, base + 4 * SEC);
    assert_close(ewma.load(0, base + 4 * SEC), 2.0);
}

#[test]
fn an_endpoint_that_let_a_request_wait_in_vain_gets_one_a_second() {
    let (ewma, now) = steady();
    let at = |ms: u32| now + ms * MS;
    request(&ewma, Outcome::Cancelled, 30 * MS, at(30));
    assert_close(ewma.load(0, at(30)), 0.030);
    request(&ewma, Outcome::Cancelled, 40 * MS, at(80));
    assert!(ewma.load(0, at(81)) > 4.9, "as if it had failed");
    assert_eq!(ewma.load(0, at(1_080)), 0.0, "it may be back");
    request(&ewma, Outcome::Cancelled, 30 * MS, at(1_110));
    assert!(ewma.load(0, at(1_111)) > 4.0, "it is not");
    request(&ewma, Outcome::Success, 10 * MS, at(2_150));
    assert_close(ewma.load(0, at(2_150)), 0.010);
    // When another response arrived meanwhile, only that one request was slow.
    ewma.start(at(2_200));
    request(&ewma, Outcome::Success, 10 * MS, at(2_220));
    ewma.record(Outcome::Cancelled, 50 * MS, at(2_250));
    assert_close(ewma.load(0, at(2_250)), 0.050);
}

#[test]
fn a_cancelled_probe_is_not_a_measurement() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Cancelled, MS, base + SEC);
    assert_close(ewma.load(0, base + SEC), 0.001);
    ewma.start(base + SEC);
    assert!(ewma.load(1, base + SEC) > 1e9, "still one probe at a time");
}

#[test]
fn silence_counts_while_requests_wait() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Success, 10 * MS, base + SEC);
    ewma.start(base + 2 * SEC);
    let silent = |secs: u32| ewma.load(1, base + (2 + secs) * SEC);
    assert_close(silent(1), 2.0);
    assert_close(silent(60), 120.0);
}

#[test]
fn an_endpoint_that_hangs_under_timeouts_does_not_become_the_cheapest() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Success, MS, base + SEC);
    for at in 2..200 {
        request(&ewma, Outcome::Cancelled, SEC, base + at * SEC);
        assert!(
            ewma.load(0, base + at * SEC) > 0.9,
            "after {at} s of silence"
        );
    }
}

#[test]
fn times_out_of_order_and_zero_latencies_do_no_harm() {
    let (ewma, base) = tracker();
    let late = base + SEC;
    for now in [late, base, late, base] {
        ewma.start(now);
        ewma.record(Outcome::Success, Duration::ZERO, now);
        assert!(ewma.load(0, now).is_finite());
    }
    // The endpoint is idle for a year, then used again.
    request(&ewma, Outcome::Success, MS, base + SEC * 31_536_000);
    assert_close(ewma.load(0, base + SEC * 31_536_000), 0.001);
}

proptest! {
    /// The stored logarithm gives the same estimate as a value and a time that are stored separately. No
    /// two samples are close enough for one to be left out.
    #[test]
    fn agrees_with_the_plain_formula(
        samples in prop::collection::vec((1_000u64..5_000_000, 1u64..2_000_000), 1..60),
    ) {
        let (ewma, base) = tracker();
        let (mut cost, mut at) = (0.0f64, Duration::ZERO);
        for (pause, rtt) in samples {
            let (pause, rtt) = (Duration::from_micros(pause), Duration::from_micros(rtt));
            at += pause;
            let (w, s) = ((-pause.as_secs_f64() / 10.0).exp(), rtt.as_secs_f64());
            cost = if s > cost { s } else { cost * w + s * (1.0 - w) };
            ewma.start(base + at);
            ewma.record(Outcome::Success, rtt, base + at);
            let load = ewma.load(0, base + at);
            prop_assert!((load - cost).abs() < cost * 1e-6, "{} for {}", load, cost);
        }
    }

    /// Leaving out samples that follow closely changes the estimate by less than 0.03 %. The samples are
    /// of about the same length, thousands in a second.
    #[test]
    fn a_busy_endpoint_is_estimated_as_if_each_sample_were_taken_in(
        samples in prop::collection::vec((1u64..200, 10_000u64..10_500), 1_000..3_000),
    ) {
        let (ewma, base) = tracker();
        let (mut cost, mut at) = (0.0f64, Duration::ZERO);
        for (pause, rtt) in samples {
            let (pause, rtt) = (Duration::from_micros(pause), Duration::from_micros(rtt));
            at += pause;
            let (w, s) = ((-pause.as_secs_f64() / 10.0).exp(), rtt.as_secs_f64());
            cost = if s > cost { s } else { cost * w + s * (1.0 - w) };
            ewma.start(base + at);
            ewma.record(Outcome::Success, rtt, base + at);
            let load = ewma.load(0, base + at);
            prop_assert!((load - cost).abs() < cost * 3e-4, "{} for {}", load, cost);
        }
    }
}

/// The usual latency at `now`.
fn usual(tracker: &PeakEwma, now: Instant) -> Option<Usual> {
    tracker.usual(&mut || now)
}

/// A tracker after 100 responses of 10 ms each. Returns the time of the last, `base` + 1 s.
fn steady() -> (PeakEwma, Instant) {
    let (ewma, base) = tracker();
    for at in 1..=100 {
        request(&ewma, Outcome::Success, 10 * MS, base + 10 * at * MS);
    }
    (ewma, base + SEC)
}

#[test]
fn what_is_usual_is_the_mean_of_answers() {
    let (ewma, now) = steady();
    let mean = usual(&ewma, now).expect("nothing speaks against it").mean();
    assert!((mean - 0.010).abs() < 1e-6, "{mean}");
    // Reading changes nothing, and the mean does not decay.
    assert_eq!(usual(&ewma, now + 60 * SEC), usual(&ewma, now));
}

#[test]
fn what_begins_before_the_first_answer_is_not_usual() {
    let (ewma, base) = tracker();
    assert_eq!(usual(&ewma, base), None, "nothing is known");
    (0..3).for_each(|_| ewma.start(base));
    for ms in [30, 31, 32] {
        ewma.record(Outcome::Success, ms * MS, base + ms * MS);
    }
    let cold = usual(&ewma, base + SEC).expect("it has answered");
    assert!(!cold.is_known(), "it may have been the connections");
    assert!(cold.is_like(Usual::new(1e-3, 0.0), 0.0), "one more probe");
    assert_close(ewma.load(0, base + 32 * MS), 0.032);
    ewma.start(base + SEC);
    assert_eq!(usual(&ewma, base + SEC), None, "one at a time");
    ewma.record(Outcome::Success, MS, base + SEC + MS);
    let warm = usual(&ewma, base + SEC + MS).expect("it has answered again");
    assert!((warm.mean() - 0.001).abs() < 1e-6, "{warm:?}");
    ewma.start(base + 2 * SEC);
    assert_eq!(usual(&ewma, base + 2 * SEC), None, "one sample is little");
    ewma.record(Outcome::Success, MS, base + 2 * SEC + MS);
    ewma.start(base + 3 * SEC);
    assert!(usual(&ewma, base + 3 * SEC).is_some());
}

#[test]
fn nothing_is_usual_while_a_request_waits_for_longer() {
    let (ewma, now) = steady();
    ewma.start(now);
    assert!(usual(&ewma, now + 10 * MS).is_some());
    assert_eq!(usual(&ewma, now + 12 * MS), None, "it is late");
    ewma.record(Outcome::Success, 10 * MS, now + 12 * MS);
    assert!(usual(&ewma, now + 12 * MS).is_some());
}

#[test]
fn after_a_late_answer_nothing_is_usual_for_twice_its_time() {
    let (ewma, now) = steady();
    request(&ewma, Outcome::Success, 100 * MS, now + 100 * MS);
    let late = |ms: u32| usual(&ewma, now + ms * MS);
    assert_eq!(late(100), None);
    assert_eq!(late(290), None);
    assert!(late(301).is_some());
    // A response that is not late also ends the time.
    request(&ewma, Outcome::Success, 10 * MS, now + 150 * MS);
    assert!(late(150).is_some());
}

#[test]
fn after_a_failure_nothing_is_usual_until_the_next_success() {
    let (ewma, now) = steady();
    let before = usual(&ewma, now);
    request(&ewma, Outcome::Failure, MS, now + MS);
    assert_eq!(usual(&ewma, now + 60 * SEC), None);
    request(&ewma, Outcome::Success, 10 * MS, now + SEC);
    assert!(usual(&ewma, now + SEC).is_some());
    ewma.penalize(now + SEC);
    assert_eq!(usual(&ewma, now + SEC), None);
    assert!(before.is_some());
}

#[test]
fn a_cancelled_request_raises_what_is_usual_and_never_lowers_it() {
    let (ewma, now) = steady();
    let mean = |now| usual(&ewma, now).map(|usual| usual.mean());
    let before = mean(now);
    request(&ewma, Outcome::Cancelled, MS, now + 2 * MS);
    assert_eq!(mean(now + 2 * MS), before);
    request(&ewma, Outcome::Cancelled, SEC, now + 2 * SEC);
    assert_eq!(mean(now + 2 * SEC), None, "it was late");
    assert!(mean(now + 9 * SEC) > before);
}

#[test]
fn an_endpoint_that_hangs_under_timeouts_is_not_like_its_equals_again() {
    let (ewma, mut now) = steady();
    let equal = usual(&ewma, now).expect("it answered");
    for _ in 0..100 {
        let began = now;
        now += SEC;
        ewma.start(began);
        ewma.record(Outcome::Cancelled, SEC, now);
    }
    let alike = |now| usual(&ewma, now).is_some_and(|usual| usual.is_like(equal, 0.000_5));
    assert!(!alike(now) && !alike(now + 60 * SEC));
}

#[test]
fn what_is_usual_is_forgotten_with_the_rest() {
    let (ewma, now) = steady();
    ewma.forget(now);
    assert_eq!(usual(&ewma, now), None);
    request(&ewma, Outcome::Success, SEC, now + SEC);
    assert!(!usual(&ewma, now + SEC).expect("it answered").is_known());
}

#[test]
fn most_requests_to_a_swift_endpoint_are_not_timed() {
    let us = MS / 1_000;
    let (ewma, base) = tracker();
    assert!((1..=16).all(|nth| ewma.times(nth)), "nothing is known yet");
    request(&ewma, Outcome::Success, us, base + SEC);
    assert_eq!((1..=32).filter(|nth| ewma.times(*nth)).count(), 2);
    assert!(ewma.timeless(0).is_some_and(|load| load < 100e-6));
    ewma.start(base + SEC);
    assert_eq!(ewma.timeless(1), None, "it may be silent by now");
    ewma.record(Outcome::Success, MS, base + SEC + MS);
    assert!((1..=16).all(|nth| ewma.times(nth)), "it is not swift");
    assert_eq!(ewma.timeless(0), None);
}

#[test]
fn a_failure_that_was_not_timed_has_all_timed() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Success, MS / 1_000, base + SEC);
    ewma.penalize(base + SEC);
    assert!((1..=16).all(|nth| ewma.times(nth)));
    assert_eq!(ewma.timeless(0), None);
    // The next response is swift and removes the penalty.
    request(&ewma, Outcome::Success, MS / 1_000, base + SEC + MS);
    assert!(!ewma.times(1));
    assert!(ewma.timeless(0).is_some());
}

#[test]
fn one_slow_answer_has_not_all_timed_for_long() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Success, MS, base + SEC);
    request(&ewma, Outcome::Success, MS / 1_000, base + SEC + MS);
    assert!(!ewma.times(1), "it is swift again");
    assert_eq!(ewma.timeless(0), None, "and the slow one still counts");
}

#[test]
fn a_peak_counts_however_close_it_comes() {
    let (ewma, base) = tracker();
    request(&ewma, Outcome::Success, MS, base + SEC);
    request(&ewma, Outcome::Success, 2 * MS, base + SEC + MS / 1_000);
    assert_close(ewma.load(0, base + SEC), 0.002);
}
