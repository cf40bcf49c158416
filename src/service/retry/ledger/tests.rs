use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

/// Ten slots of 100 make a window of 1000.
fn ledger(reserve: i64) -> Ledger {
    Ledger::new(reserve * WITHDRAWAL, Refill::Time, 10, 100)
}

#[test]
fn a_deposit_counts_for_the_whole_window_and_one_slot_at_most() {
    for at in [0, 1, 50, 99, 100, 101, 950, 12_345] {
        let ledger = ledger(0);
        ledger.deposit(WITHDRAWAL, at);
        assert_eq!(
            ledger.balance(at + 1_000),
            WITHDRAWAL,
            "from {at}, a window later"
        );
        assert_eq!(
            ledger.balance(at + 1_100),
            0,
            "from {at}, a slot after that"
        );
    }
}

#[test]
fn a_withdrawal_counts_as_long_as_a_deposit() {
    let ledger = ledger(1);
    assert!(ledger.withdraw(150));
    assert!(!ledger.withdraw(1_150), "the reserve is for a whole window");
    assert!(ledger.withdraw(1_200));
}

#[test]
fn a_deposit_that_was_used_leaves_a_debt_until_its_withdrawal_expires() {
    let ledger = ledger(0);
    ledger.deposit(WITHDRAWAL, 0);
    assert!(ledger.withdraw(500));
    assert_eq!(ledger.balance(1_100), -WITHDRAWAL);
    ledger.deposit(WITHDRAWAL, 1_100);
    assert!(
        !ledger.withdraw(1_100),
        "two withdrawals for one deposit in the window"
    );
    assert_eq!(ledger.balance(1_600), WITHDRAWAL);
}

#[test]
fn after_a_long_idle_time_the_reserve_is_whole_and_nothing_else() {
    let ledger = ledger(3);
    for now in 0..500 {
        ledger.deposit(WITHDRAWAL, now);
    }
    // 600 years in nanoseconds: this returns only because the number of steps is bounded.
    assert_eq!(ledger.balance(u64::MAX - 1), 3 * WITHDRAWAL);
    assert_eq!(ledger.balance(u64::MAX), 3 * WITHDRAWAL);
}

#[test]
fn a_clock_that_goes_back_changes_nothing() {
    let ledger = ledger(0);
    ledger.deposit(WITHDRAWAL, 5_000);
    assert_eq!(ledger.balance(0), WITHDRAWAL);
    assert_eq!(ledger.balance(6_000), WITHDRAWAL);
}

#[test]
fn sums_wrap_around_without_harm() {
    let ledger = ledger(0);
    let most = i64::MAX / 20;
    for now in (0..100_000).step_by(100) {
        ledger.deposit(most, now);
    }
    assert_eq!(ledger.balance(99_900), most * 11);
    assert_eq!(ledger.balance(200_000), 0);
}

#[test]
fn an_earned_reserve_grows_back_with_deposits_and_not_with_time() {
    let ledger = Ledger::new(2 * WITHDRAWAL, Refill::Deposits, 10, 100);
    assert!(ledger.withdraw(0) && ledger.withdraw(0) && !ledger.withdraw(0));
    assert!(!ledger.withdraw(1_000_000), "time alone gives nothing back");
    for at in 0..4 {
        ledger.deposit(WITHDRAWAL / 4, 1_000_000 + at * 5_000);
    }
    assert!(ledger.withdraw(1_020_000) && !ledger.withdraw(1_020_000));
    for at in 0..100 {
        ledger.deposit(WITHDRAWAL, 2_000_000 + at * 100);
    }
    assert_eq!(
        ledger.balance(3_000_000),
        2 * WITHDRAWAL,
        "and no more than it was"
    );
}

#[test]
fn many_threads_never_overdraw() {
    const THREADS: usize = 64;
    let ledger = ledger(10);
    let (asked, got) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (ledger, asked, got) = (&ledger, &asked, &got);
            scope.spawn(move || {
                for step in 0..1_000u64 {
                    // All times are within the first window; its slots pass meanwhile.
                    let now = (step + thread as u64).min(999);
                    ledger.deposit(WITHDRAWAL / 5, now);
                    for _ in 0..2 {
                        asked.fetch_add(1, Relaxed);
                        got.fetch_add(ledger.withdraw(now).into(), Relaxed);
                    }
                }
            });
        }
    });
    let (asked, got) = (asked.into_inner(), got.into_inner());
    assert_eq!(asked, THREADS * 2_000);
    // Each thread tries to withdraw ten times its deposits, so exactly all of them are withdrawn.
    assert_eq!(got, 10 + THREADS * 1_000 / 5);
}

/// The naive model: all bookings, each with its time.
struct Naive {
    reserve: i64,
    booked: Vec<(u64, i64)>,
}

impl Naive {
    fn balance(&self, now: u64) -> i64 {
        let counts = |at: u64| at / 100 + 10 >= now / 100;
        let booked = self.booked.iter().filter(|(at, _)| counts(*at));
        self.reserve + booked.map(|(_, amount)| amount).sum::<i64>()
    }
}

proptest! {
    #[test]
    fn agrees_with_a_list_of_all_bookings(
        reserve in 0i64..4,
        steps in prop::collection::vec((any::<bool>(), 1i64..3_000_000, 0u64..400, 0u32..40), 1..200),
    ) {
        let ledger = ledger(reserve);
        let mut naive = Naive { reserve: reserve * WITHDRAWAL, booked: Vec::new() };
        let mut now = 0;
        for (withdraw, amount, pause, long) in steps {
            now += if long == 0 { pause * 50 } else { pause };
            if withdraw {
                let expected = naive.balance(now) >= WITHDRAWAL;
                prop_assert_eq!(ledger.withdraw(now), expected, "at {}", now);
                naive.booked.extend(expected.then_some((now, -WITHDRAWAL)));
            } else {
                ledger.deposit(amount, now);
                naive.booked.push((now, amount));
            }
            prop_assert_eq!(ledger.balance(now), naive.balance(now), "at {}", now);
        }
    }

    #[test]
    fn an_earned_reserve_is_the_only_thing_ever_withdrawn_that_was_not_deposited(
        reserve in 0i64..4,
        steps in prop::collection::vec((any::<bool>(), 1i64..600_000, 0u64..400, 0u32..40), 1..400),
    ) {
        let reserve = reserve * WITHDRAWAL;
        let ledger = Ledger::new(reserve, Refill::Deposits, 10, 100);
        let mut naive = Naive { reserve, booked: Vec::new() };
        let (mut now, mut sum) = (0, 0);
        for (withdraw, amount, pause, long) in steps {
            now += if long == 0 { pause * 50 } else { pause };
            // At most what time refills.
            prop_assert!(ledger.balance(now) <= naive.balance(now), "at {}", now);
            let booked = if !withdraw {
                ledger.deposit(amount, now);
                amount
            } else if ledger.withdraw(now) {
                -WITHDRAWAL
            } else {
                0
            };
            naive.booked.push((now, booked));
            sum += booked;
            prop_assert!(sum >= -reserve, "at {}", now);
        }
    }
}
