//! Tests of the ranges of settings, and of how many endpoints may be out.

use super::*;

#[test]
fn what_is_out_of_range_is_refused_by_name() {
    let sec = Duration::from_secs(1);
    let new = Ejection::new;
    for (settings, field) in [
        (
            new().consecutive_failures(0),
            "ejection.consecutive_failures",
        ),
        (new().failure_ratio(0.0), "ejection.failure_ratio"),
        (new().failure_ratio(1.01), "ejection.failure_ratio"),
        (new().failure_ratio(f64::NAN), "ejection.failure_ratio"),
        (new().failure_ratio(f64::INFINITY), "ejection.failure_ratio"),
        (new().min_requests(0), "ejection.min_requests"),
        (new().window(Duration::ZERO), "ejection.window"),
        (new().window(Duration::MAX), "ejection.window"),
        (new().slow_factor(1.0), "ejection.slow_factor"),
        (new().slow_factor(f64::NAN), "ejection.slow_factor"),
        (new().slow_factor(f64::INFINITY), "ejection.slow_factor"),
        (new().min_peers(2), "ejection.min_peers"),
        (new().time(Duration::ZERO, sec), "ejection.time"),
        (new().time(sec * 2, sec), "ejection.time"),
        (
            new().probe_timeout(Duration::ZERO),
            "ejection.probe_timeout",
        ),
        (new().max_ejected(-0.1), "ejection.max_ejected"),
        (new().max_ejected(1.1), "ejection.max_ejected"),
        (new().max_ejected(f64::NAN), "ejection.max_ejected"),
    ] {
        let error = settings.check().unwrap_err();
        assert_eq!(error.field(), field, "{error}");
    }
}

#[test]
fn rules_can_be_switched_off_and_times_may_be_for_ever() {
    let never = Ejection::new()
        .consecutive_failures(None)
        .failure_ratio(None)
        .slow_factor(None)
        .time(Duration::MAX, Duration::MAX)
        .probe_timeout(Duration::MAX);
    assert!(never.check().is_ok());
}

#[test]
fn one_may_go_from_a_small_set_and_the_last_stays() {
    let allowed = |share: f64, last| {
        let settings = Ejection::new().max_ejected(share).eject_last(last);
        [0, 1, 2, 3, 4, 5, 10].map(|n| settings.allowed(n))
    };
    assert_eq!(allowed(0.5, false), [0, 0, 1, 1, 2, 2, 5]);
    assert_eq!(allowed(0.1, false), [0, 0, 1, 1, 1, 1, 1]);
    assert_eq!(allowed(0.3, false), [0, 0, 1, 1, 1, 1, 3]);
    assert_eq!(allowed(1.0, false), [0, 0, 1, 2, 3, 4, 9]);
    assert_eq!(allowed(1.0, true), [0, 1, 2, 3, 4, 5, 10]);
    assert_eq!(allowed(0.5, true), [0, 1, 1, 1, 2, 2, 5]);
    assert_eq!(allowed(0.0, true), [0; 7]);
}
