//! Counts that slide.

use std::thread;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn counts(total: u64, failed: u64, slow: u64) -> CallCounts {
    CallCounts {
        total,
        failed,
        slow,
    }
}

#[test]
fn a_call_leaves_after_the_span() {
    let base = Instant::now();
    let window = TimeWindow::new(10 * SECOND, 10, base);
    window.record(base, true, false);
    window.record(base + 5 * SECOND, false, true);
    let at = |seconds: f64| window.counts(base + SECOND.mul_f64(seconds));
    assert_eq!(at(9.9), counts(2, 1, 1));
    assert_eq!(at(10.0), counts(1, 0, 1));
    assert_eq!(at(14.9), counts(1, 0, 1));
    assert_eq!(at(15.0), counts(0, 0, 0));
}

#[test]
fn a_week_or_a_century_without_calls_is_one_step() {
    let base = Instant::now();
    let window = TimeWindow::new(Duration::from_millis(10), 10, base);
    let mut now = base;
    for idle in [7 * 86_400, 1, 100 * 365 * 86_400_u64] {
        window.record(now, true, true);
        now += Duration::from_secs(idle);
        assert_eq!(window.counts(now), CallCounts::default());
        window.record(now, false, false);
        assert_eq!(window.counts(now), counts(1, 0, 0));
    }
}

#[test]
fn a_late_time_counts_as_the_latest() {
    let base = Instant::now();
    let window = TimeWindow::new(10 * SECOND, 10, base);
    window.record(base + 100 * SECOND, false, false);
    window.record(base + 98 * SECOND, true, false);
    window.record(base - SECOND, true, false);
    assert_eq!(window.counts(base + 109 * SECOND), counts(3, 2, 0));
}

#[test]
fn sums_may_wrap() {
    let base = Instant::now();
    let window = TimeWindow::new(10 * SECOND, 10, base);
    window
        .calls
        .store((1 << 32) * 0xFFFF_FFFE + 0xFFFF_FFFE, Relaxed);
    let now = base + 60 * SECOND;
    (0..5).for_each(|_| window.record(now, true, false));
    assert_eq!(window.counts(now), counts(5, 5, 0));
}

#[test]
fn each_fourth_good_call_looks_at_the_clock() {
    let base = Instant::now();
    let window = TimeWindow::new(10 * SECOND, 10, base);
    let mut looks = 0;
    for i in 0..40 {
        window.record_good(|| {
            looks += 1;
            base + SECOND.mul_f64(0.5) * i
        });
    }
    assert_eq!(looks, 10);
    // The last 10 s contain 20 calls, plus or minus one bucket and three calls.
    let seen = window.counts(base + 20 * SECOND).total;
    assert!((15..=23).contains(&seen), "{seen}");
}

#[test]
fn a_net_sum_may_be_below_zero() {
    let base = Instant::now();
    let window = TimeWindow::new(10 * SECOND, 10, base);
    window.add(base, 1, 1);
    let later = base + 60 * SECOND;
    window.add(later, 0, -1);
    assert_eq!(window.net(later), (0, -1));
    window.add(later, -1, -1);
    assert_eq!(window.net(later), (-1, -2));
    window.add(later, 3, 4);
    assert_eq!(window.net(later), (2, 2));
}

#[test]
fn bad_sizes_do_no_harm() {
    let base = Instant::now();
    for (span, buckets) in [
        (Duration::ZERO, 0),
        (Duration::MAX, 1),
        (SECOND, usize::MAX >> 54),
    ] {
        let window = TimeWindow::new(span, buckets, base);
        window.record(base, true, false);
        assert_eq!(window.counts(base), counts(1, 1, 0));
    }
}

#[test]
fn threads_lose_no_call() {
    let base = Instant::now();
    let window = TimeWindow::new(10 * SECOND, 10, base);
    // 8 threads, 10 000 calls each, times within the first 5 s: all stay in the window.
    thread::scope(|scope| {
        for thread in 0..8_u64 {
            let window = &window;
            scope.spawn(move || {
                for i in 0..10_000 {
                    let now = base + Duration::from_micros(i * 500 + thread);
                    window.record(now, i % 4 == 0, i % 10 == 0);
                    if i % 100 == 0 {
                        let seen = window.counts(now);
                        assert!(seen.failed <= seen.total && seen.slow <= seen.total);
                    }
                }
            });
        }
    });
    let end = base + 5 * SECOND;
    assert_eq!(window.counts(end), counts(80_000, 20_000, 8_000));
    assert_eq!(window.counts(end + 10 * SECOND), CallCounts::default());
}

#[derive(Clone, Debug)]
enum Step {
    Amend,
    Record { wait: i64, failed: bool, slow: bool },
    Counts { wait: i64 },
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    // Mostly small steps forward, some back, and some over several spans.
    let wait = || prop_oneof![8 => 0..300_i64, 2 => -200..0_i64, 1 => 0..20_000_i64];
    prop_oneof![
        8 => (wait(), any::<bool>(), any::<bool>())
            .prop_map(|(wait, failed, slow)| Step::Record { wait, failed, slow }),
        2 => Just(Step::Amend),
        4 => wait().prop_map(|wait| Step::Counts { wait }),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #[test]
    fn time_window_counts_as_a_list_does(
        buckets in 1..12_usize,
        steps in prop::collection::vec(step(), 0..200),
    ) {
        const WIDTH: i64 = 100;
        let base = Instant::now();
        let span = Duration::from_millis(WIDTH as u64) * buckets as u32;
        let window = TimeWindow::new(span, buckets, base);
        let at = |ms: i64| base + Duration::from_millis(ms as u64);
        let mut calls: Vec<(i64, bool, bool)> = Vec::new();
        let mut amended: Vec<i64> = Vec::new();
        let (mut now, mut latest) = (0_i64, 0_i64);
        for step in steps {
            let mut move_by = |wait: i64| {
                now = (now + wait).max(0);
                latest = latest.max(now);
            };
            match step {
                Step::Record { wait, failed, slow } => {
                    move_by(wait);
                    window.record(at(now), failed, slow);
                    calls.push((latest / WIDTH, failed, slow));
                }
                Step::Counts { wait } => move_by(wait),
                Step::Amend => {
                    window.amend(at(now));
                    amended.push(latest / WIDTH);
                }
                Step::Reset => {
                    window.reset(at(now));
                    calls.clear();
                    amended.clear();
                }
            }
            let first = latest / WIDTH - (buckets as i64 - 1);
            let kept = calls.iter().filter(|(bucket, ..)| *bucket >= first);
            let expected = kept.fold(CallCounts::default(), |sum, (_, failed, slow)| counts(
                sum.total + 1,
                sum.failed + u64::from(*failed),
                sum.slow + u64::from(*slow),
            ));
            let late = amended.iter().filter(|bucket| **bucket >= first).count() as u64;
            let expected = CallCounts {
                failed: (expected.failed + late).min(expected.total),
                ..expected
            };
            prop_assert_eq!(window.counts(at(now)), expected);
        }
    }
}
