//! The books of a budget: what came in and went out over a window that slides.
//!
//! One atomic holds the balance, so a withdrawal is one compare-and-swap and can never overdraw. Time
//! takes away from the same atomic: at the start of each slot someone moves the window on, and
//! subtracts what was booked in the slots that left it. For that it keeps, for the start of each slot,
//! the sum of all that was ever booked:
//!
//! ```text
//! booked in all    marks[oldest] ──────────────────── marks[tick] ──── now
//!                        │◀───────────── the window ────────────────────▶│
//! balance = reserve + (booked in all - marks[oldest])
//! ```
//!
//! Where a reserve is to be earned back, what the bookings before the window took from it stays taken:
//!
//! ```text
//! balance = reserve - owed + (booked in all - marks[oldest])
//! ```
//!
//! Deposits and withdrawals only ever touch the balance. Whoever comes first after the start of a slot
//! claims the move by a compare-and-swap on `due`; everyone else goes on with the balance as it is,
//! as if their clock were that little behind. Nobody waits. However long nothing happened, moving
//! writes each mark once at most.

use crate::sync::atomic::{
    AtomicI64, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

/// What one withdrawal costs, in the unit of the books: a share is exact to a millionth.
pub(super) const WITHDRAWAL: i64 = 1_000_000;

/// In `due`, while someone moves the window. Later than any time.
const MOVING: u64 = u64::MAX;

/// The books. Times are nanoseconds since it was opened.
#[derive(Debug)]
pub(super) struct Ledger {
    /// What may be withdrawn, the reserve included. Its own modification order is all that
    /// withdrawals rely on, so it is relaxed, but for what `due` orders.
    balance: AtomicI64,
    /// When the next slot starts. Acquire and release hand the fields below from one mover to the
    /// next, show what a mover subtracted to all who find the window moved, and keep the bookings of
    /// those who find it moving behind what the mover has read.
    due: AtomicU64,
    /// What was booked before the window, so that `balance + gone` is the reserve and all that was
    /// ever booked. It wraps around, and only differences are used.
    gone: AtomicI64,
    /// What is missing of an earned reserve because of what was booked before the window. Part of
    /// `gone`, and known to movers only.
    owed: AtomicI64,
    /// `balance + gone` at the start of each slot in the window, and of the one after it.
    marks: Box<[AtomicI64]>,
    reserve: i64,
    refill: Refill,
    slot_ns: u64,
}

/// What fills a reserve again that was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refill {
    /// Time: what was withdrawn is forgotten with the window, like a deposit.
    Time,
    /// Deposits that leave the window unused, and nothing else. So of all that was ever withdrawn only
    /// the reserve was not deposited.
    Deposits,
}

impl Ledger {
    /// Opens books over `slots` slots of `slot_ns` each; neither may be zero.
    pub(super) fn new(reserve: i64, refill: Refill, slots: u32, slot_ns: u64) -> Self {
        Self {
            balance: AtomicI64::new(reserve),
            due: AtomicU64::new(slot_ns),
            gone: AtomicI64::new(0),
            owed: AtomicI64::new(0),
            marks: (0..=slots).map(|_| AtomicI64::new(reserve)).collect(),
            reserve,
            refill,
            slot_ns,
        }
    }

    /// Adds to the balance. The amount counts until the slot that it came in lies a whole window back.
    #[inline]
    pub(super) fn deposit(&self, amount: i64, now: u64) {
        self.advance(now);
        self.balance.fetch_add(amount, Relaxed);
    }

    /// The same for who knows that the slot lasts to which the window was moved.
    #[inline]
    pub(super) fn deposit_in_slot(&self, amount: i64) {
        self.balance.fetch_add(amount, Relaxed);
    }

    /// How long the slot still lasts to which the window was moved; nothing while someone moves it.
    /// The end only ever gets later, so it is no harm to know an old one.
    pub(super) fn left_of_slot(&self, now: u64) -> u64 {
        // Relaxed: nothing is read on the strength of it.
        match self.due.load(Relaxed) {
            MOVING => 0,
            due => due.saturating_sub(now),
        }
    }

    /// Takes the price of one withdrawal, if there is that much.
    pub(super) fn withdraw(&self, now: u64) -> bool {
        self.advance(now);
        // It goes round again only when someone else's booking went through.
        self.balance
            .fetch_update(Relaxed, Relaxed, |balance| {
                (balance >= WITHDRAWAL).then(|| balance - WITHDRAWAL)
            })
            .is_ok()
    }

    /// What may be withdrawn; below zero when the deposits behind past withdrawals have expired.
    pub(super) fn balance(&self, now: u64) -> i64 {
        self.advance(now);
        self.balance.load(Relaxed)
    }

    /// Moves the window on, if a slot began since that was done last.
    #[inline]
    fn advance(&self, now: u64) {
        let due = self.due.load(Acquire);
        if now >= due {
            self.turn(due, now);
        }
    }

    #[cold]
    fn turn(&self, due: u64, now: u64) {
        // Read before the claim: who finds it claimed books after this, and so into the new slot.
        // Where the claim succeeds nobody moved the window since `due` was read, which only grows.
        let gone = self.gone.load(Relaxed);
        let booked = self.balance.load(Relaxed).wrapping_add(gone);
        let claim = self.due.compare_exchange(due, MOVING, AcqRel, Acquire);
        if claim.is_err() {
            return; // someone else does it
        }
        let slots = self.marks.len() as u64 - 1;
        let tick = now / self.slot_ns;
        let oldest = tick.saturating_sub(slots);
        for slot in (due / self.slot_ns).max(oldest)..=tick {
            self.mark(slot).store(booked, Relaxed);
        }
        let mut leaves = self.mark(oldest).load(Relaxed).wrapping_sub(self.reserve);
        if self.refill == Refill::Deposits {
            // What left before, and now: more withdrawals than deposits are owed, and the contrary pays
            // what is owed.
            let owed = self.owed.load(Relaxed);
            let net = leaves.wrapping_sub(gone.wrapping_sub(owed));
            let owed = owed.saturating_sub(net).max(0);
            self.owed.store(owed, Relaxed);
            leaves = leaves.wrapping_add(owed);
        }
        self.balance.fetch_sub(leaves.wrapping_sub(gone), Relaxed);
        self.gone.store(leaves, Relaxed);
        let next = (tick + 1).saturating_mul(self.slot_ns).min(MOVING - 1);
        self.due.store(next, Release);
    }

    fn mark(&self, slot: u64) -> &AtomicI64 {
        &self.marks[(slot % self.marks.len() as u64) as usize]
    }
}

#[cfg(test)]
#[cfg(not(roster_loom))]
mod tests {
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
        // Nothing but a bounded number of steps makes this return: it is 600 years in nanoseconds.
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
                        // All within the first window, whose slots pass while they work.
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
        // Everyone asks for ten times of what is paid in, so all of it is taken, and no more.
        assert_eq!(got, 10 + THREADS * 1_000 / 5);
    }

    /// What was booked, each with its time, as anyone would do it first.
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
                // No more than what time gives back, ever.
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
}

#[cfg(all(test, roster_loom))]
mod model {
    use loom::{sync::Arc, thread};

    use super::*;

    #[test]
    fn two_never_get_what_is_there_for_one() {
        loom::model(|| {
            let ledger = Arc::new(Ledger::new(WITHDRAWAL, Refill::Time, 1, 100));
            let other = ledger.clone();
            let thread = thread::spawn(move || other.withdraw(10));
            let mine = ledger.withdraw(10);
            let theirs = thread.join().unwrap();
            assert!(mine ^ theirs, "one of them must get it");
            assert_eq!(ledger.balance(10), 0);
        });
    }

    #[test]
    fn moving_the_window_loses_and_invents_nothing() {
        loom::model(|| {
            let ledger = Arc::new(Ledger::new(WITHDRAWAL, Refill::Time, 1, 100));
            ledger.deposit(WITHDRAWAL, 0);
            // Both find the window to be moved past that deposit.
            let other = ledger.clone();
            let thread = thread::spawn(move || other.withdraw(200));
            ledger.deposit(WITHDRAWAL, 200);
            let theirs = thread.join().unwrap();
            let booked = WITHDRAWAL - if theirs { WITHDRAWAL } else { 0 };
            // What was booked during the move counts in the new slot.
            assert_eq!(ledger.balance(200), WITHDRAWAL + booked);
            assert_eq!(ledger.balance(300), WITHDRAWAL + booked);
            assert_eq!(ledger.balance(400), WITHDRAWAL);
        });
    }

    #[test]
    fn what_is_owed_is_reckoned_once() {
        loom::model(|| {
            let ledger = Arc::new(Ledger::new(WITHDRAWAL, Refill::Deposits, 1, 100));
            assert!(ledger.withdraw(0));
            // Both find the window to be moved past that withdrawal, which does not come back.
            let other = ledger.clone();
            let thread = thread::spawn(move || other.withdraw(200));
            let mine = ledger.withdraw(200);
            let theirs = thread.join().unwrap();
            assert!(!mine && !theirs, "nothing was deposited");
            ledger.deposit(WITHDRAWAL, 200);
            assert_eq!(ledger.balance(400), WITHDRAWAL, "it is earned back");
        });
    }

    #[test]
    fn a_deposit_that_does_not_look_counts_in_one_of_the_two_slots() {
        loom::model(|| {
            let ledger = Arc::new(Ledger::new(0, Refill::Time, 1, 100));
            // Its clock is behind that of the one that moves the window.
            let other = ledger.clone();
            let thread = thread::spawn(move || other.deposit_in_slot(WITHDRAWAL));
            assert!(ledger.balance(100) >= 0);
            thread.join().unwrap();
            assert_eq!(ledger.balance(199), WITHDRAWAL);
            assert_eq!(ledger.balance(300), 0);
        });
    }

    #[test]
    fn one_that_finds_the_window_moved_sees_what_left_it() {
        loom::model(|| {
            let ledger = Arc::new(Ledger::new(0, Refill::Time, 1, 100));
            ledger.deposit(WITHDRAWAL, 0);
            let other = ledger.clone();
            let thread = thread::spawn(move || other.withdraw(200));
            let mine = ledger.withdraw(200);
            let theirs = thread.join().unwrap();
            // The move may be under way for one of them; then it took what was about to expire.
            assert!(!(mine && theirs), "never twice");
            assert!(ledger.balance(200) <= 0);
        });
    }
}
