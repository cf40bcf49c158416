use super::*;
use crate::rng::small_rng;

#[test]
fn grows_to_its_cap_and_never_overflows() {
    let backoff = Backoff::known(100, 30_000);
    let bounds: Vec<_> = [0, 1, 2, 3, 10, u32::MAX]
        .map(|n| backoff.bound(n).as_millis())
        .into();
    assert_eq!(bounds, [100, 100, 200, 400, 30_000, 30_000]);
    let longest = Backoff::new(Duration::MAX, Duration::MAX).unwrap();
    assert_eq!(longest.bound(40), Duration::MAX);
}

#[test]
fn draws_from_the_whole_range_and_repeats_with_its_seed() {
    let backoff = Backoff::known(1_000, 1_000);
    let draw = |seed| -> Vec<Duration> {
        let mut rng = small_rng(Some(seed));
        (0..1_000).map(|_| backoff.delay(9, &mut rng)).collect()
    };
    let delays = draw(1);
    assert_eq!(delays, draw(1));
    assert_ne!(delays, draw(2));
    let mean = delays.iter().sum::<Duration>() / 1_000;
    // Uniform on 0..1 s: the mean is 500 ms, its standard error 9.1 ms. The tolerance is four
    // standard errors.
    assert!(
        (463..537).contains(&mean.as_millis()),
        "mean delay {mean:?}"
    );
    assert!(delays.iter().min() < Some(&Duration::from_millis(20)));
    assert!(delays.iter().max() > Some(&Duration::from_millis(980)));
    assert!(delays.iter().all(|d| *d <= Duration::from_secs(1)));
}

#[test]
fn the_longest_delays_neither_overflow_nor_come_soon() {
    let now = Instant::now();
    let year = Duration::from_secs(365 * 86_400);
    assert!(after(now, Duration::MAX) > now + year);
    assert!(jittered(Duration::MAX, 0.1, &mut small_rng(Some(1))) > year);
    let backoff = Backoff::new(Duration::MAX, Duration::MAX).unwrap();
    let delay = backoff.slower(10).delay(40, &mut small_rng(Some(1)));
    assert!(after(now, delay) > now + year);
}

#[test]
fn a_hint_never_shortens_the_backoff_and_is_spread_upwards() {
    let mut rng = small_rng(Some(5));
    let (second, ms) = (Duration::from_secs(1), Duration::from_millis(1));
    assert_eq!(hinted(Duration::ZERO, 25 * ms, &mut rng), 25 * ms);
    let drawn: Vec<_> = (0..100)
        .map(|_| hinted(second, 25 * ms, &mut rng))
        .collect();
    assert!(
        drawn
            .iter()
            .all(|delay| (second..second * 3 / 2).contains(delay))
    );
    assert!(drawn.iter().max() > Some(&(second + 400 * ms)));
    assert!(drawn.iter().min() < Some(&(second + 100 * ms)));
    assert!(
        hinted(Duration::MAX, ms, &mut rng) < NEVER * 2,
        "no overflow"
    );
}

#[test]
fn each_jitter_keeps_its_bounds_and_uses_them() {
    let backoff = Backoff::known(100, 1_000);
    let mut rng = small_rng(Some(7));
    for failures in 1..8 {
        let bound = backoff.bound(failures);
        let mut extremes = |jitter: Jitter| {
            let backoff = backoff.jitter(jitter);
            let drawn = (0..2_000).map(|_| backoff.delay(failures, &mut rng));
            let (low, high) = drawn.fold((Duration::MAX, Duration::ZERO), |(low, high), d| {
                (low.min(d), high.max(d))
            });
            (low.as_secs_f64(), high.as_secs_f64())
        };
        let b = bound.as_secs_f64();
        let (low, high) = extremes(Jitter::Full);
        assert!(low < 0.01 * b && 0.99 * b < high && high <= b);
        let (low, high) = extremes(Jitter::Equal);
        assert!(0.5 * b <= low && low < 0.51 * b && 0.99 * b < high && high <= b);
        let (low, high) = extremes(Jitter::Decorrelated);
        assert!((0.1..0.2).contains(&low), "from the base on: {low}");
        let most = (0.1 * 3f64.powi(failures as i32)).min(1.0);
        assert!(high <= most && high > 0.7 * most, "{high} of {most}");
        assert_eq!(extremes(Jitter::None), (b, b));
    }
}

#[test]
fn decorrelated_delays_stay_between_the_base_and_three_times_the_one_before() {
    let backoff = Backoff::known(100, 60_000).jitter(Jitter::Decorrelated);
    let mut rng = small_rng(Some(3));
    for _ in 0..1_000 {
        let (mut delays, mut previous) = (backoff.delays(), Duration::from_millis(100));
        for _ in 0..12 {
            let delay = delays.next(&mut rng);
            assert!(delay >= Duration::from_millis(100));
            assert!(delay <= previous * 3 && delay <= Duration::from_secs(60));
            previous = delay;
        }
    }
}

#[test]
fn a_fixed_interval_never_changes() {
    for interval in [Duration::ZERO, Duration::from_millis(20), Duration::MAX] {
        let mut delays = Backoff::fixed(interval).delays();
        let mut rng = small_rng(Some(1));
        assert!((0..40).all(|_| delays.next(&mut rng) == interval));
    }
}

#[test]
fn the_cap_is_a_minute_unless_told() {
    let backoff = Backoff::exponential(Duration::from_millis(25)).unwrap();
    assert_eq!(backoff.bound(u32::MAX), Duration::from_secs(60));
    assert!(Backoff::exponential(Duration::from_secs(61)).is_err());
}

#[test]
fn the_longest_settings_draw_without_overflow() {
    let longest = Backoff::new(Duration::from_nanos(1), Duration::MAX).unwrap();
    let mut rng = small_rng(Some(1));
    for jitter in [
        Jitter::Full,
        Jitter::Equal,
        Jitter::Decorrelated,
        Jitter::None,
    ] {
        for backoff in [longest, Backoff::known(1, 1).slower(u32::MAX)] {
            let mut delays = backoff.jitter(jitter).delays();
            assert!((0..100).all(|_| delays.next(&mut rng) <= backoff.cap()));
        }
    }
}

#[test]
fn refuses_a_base_that_is_zero_or_above_the_cap() {
    let second = Duration::from_secs(1);
    assert!(Backoff::new(Duration::ZERO, second).is_err());
    assert!(Backoff::new(second * 2, second).is_err());
}
