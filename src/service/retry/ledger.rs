//! The accounts of a budget: deposits and withdrawals over a sliding window.
//!
//! One atomic holds the balance, so a withdrawal is one compare-and-swap and can never overdraw.
//! Expiry changes the same atomic: at the start of each slot one caller moves the window, and
//! subtracts what was booked in the slots that left it. For that the ledger keeps, for the start of
//! each slot, the sum of all bookings until then:
//!
//! ```text
//! booked in all    marks[oldest] ──────────────────── marks[tick] ──── now
//!                        │◀───────────── the window ────────────────────▶│
//! balance = reserve + (booked in all - marks[oldest])
//! ```
//!
//! When deposits refill the reserve, what earlier bookings took from it stays missing:
//!
//! ```text
//! balance = reserve - owed + (booked in all - marks[oldest])
//! ```
//!
//! Deposits and withdrawals only change the balance. The first caller after the start of a slot
//! claims the move by a compare-and-swap on `due`. Other callers use the balance as it is, as if
//! their clock were slightly behind. No caller waits. After an idle period of any length, moving
//! writes each mark at most once.

use crate::sync::atomic::{
    AtomicI64, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

/// The price of one withdrawal, in the unit of the accounts: a share is exact to a millionth.
pub(super) const WITHDRAWAL: i64 = 1_000_000;

/// The value of `due` while a caller moves the window. It is later than any time.
const MOVING: u64 = u64::MAX;

/// The accounts. Times are nanoseconds since the budget was made.
#[derive(Debug)]
pub(super) struct Ledger {
    /// What may be withdrawn, the reserve included. Relaxed: withdrawals rely only on the
    /// modification order of this atomic, and `due` orders the rest.
    balance: AtomicI64,
    /// When the next slot starts. Acquire and release pass the fields below from one mover to the
    /// next, and show what a mover subtracted to each caller that finds the window moved. They also
    /// order the bookings of a caller that finds the window moving after the reads of the mover.
    due: AtomicU64,
    /// What was booked before the window, so that `balance + gone` is the reserve and all bookings
    /// ever. It wraps around; only differences are used.
    gone: AtomicI64,
    /// What is missing from a reserve that deposits refill, because of bookings before the window.
    /// It is part of `gone`. Only movers use it.
    owed: AtomicI64,
    /// `balance + gone` at the start of each slot in the window, and of the slot after it.
    marks: Box<[AtomicI64]>,
    reserve: i64,
    refill: Refill,
    slot_ns: u64,
}

/// What refills a used reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refill {
    /// Time: a withdrawal expires with the window, like a deposit.
    Time,
    /// Deposits that leave the window unused, and nothing else. So in total,
    /// withdrawals exceed deposits by at most the reserve.
    Deposits,
}

impl Ledger {
    /// Opens accounts over `slots` slots of `slot_ns` nanoseconds; neither may be zero.
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

    /// Adds to the balance. The amount counts until its slot leaves the window.
    #[inline]
    pub(super) fn deposit(&self, amount: i64, now: u64) {
        self.advance(now);
        self.balance.fetch_add(amount, Relaxed);
    }

    /// The same, for a caller that knows that the current slot has not ended.
    #[inline]
    pub(super) fn deposit_in_slot(&self, amount: i64) {
        self.balance.fetch_add(amount, Relaxed);
    }

    /// Nanoseconds until the current slot ends; zero while a caller moves the window. The end only
    /// becomes later, so an old value does no harm.
    pub(super) fn left_of_slot(&self, now: u64) -> u64 {
        // Relaxed: no other memory is read because of it.
        match self.due.load(Relaxed) {
            MOVING => 0,
            due => due.saturating_sub(now),
        }
    }

    /// Withdraws the price of one attempt, if the balance allows it.
    pub(super) fn withdraw(&self, now: u64) -> bool {
        self.advance(now);
        // Repeats only when another thread's booking succeeded meanwhile.
        self.balance
            .fetch_update(Relaxed, Relaxed, |balance| {
                (balance >= WITHDRAWAL).then(|| balance - WITHDRAWAL)
            })
            .is_ok()
    }

    /// What may be withdrawn. Below zero when deposits expired that paid for withdrawals still in
    /// the window.
    pub(super) fn balance(&self, now: u64) -> i64 {
        self.advance(now);
        self.balance.load(Relaxed)
    }

    /// Moves the window, if a slot began since the last move.
    #[inline]
    fn advance(&self, now: u64) {
        let due = self.due.load(Acquire);
        if now >= due {
            self.turn(due, now);
        }
    }

    #[cold]
    fn turn(&self, due: u64, now: u64) {
        // Read before the claim: a caller that finds the window claimed books after these reads,
        // and so into the new slot. If the claim succeeds, no caller moved the window since `due`
        // was read, because `due` only grows.
        let gone = self.gone.load(Relaxed);
        let booked = self.balance.load(Relaxed).wrapping_add(gone);
        let claim = self.due.compare_exchange(due, MOVING, AcqRel, Acquire);
        if claim.is_err() {
            return; // another caller does it
        }
        let slots = self.marks.len() as u64 - 1;
        let tick = now / self.slot_ns;
        let oldest = tick.saturating_sub(slots);
        for slot in (due / self.slot_ns).max(oldest)..=tick {
            self.mark(slot).store(booked, Relaxed);
        }
        let mut leaves = self.mark(oldest).load(Relaxed).wrapping_sub(self.reserve);
        if self.refill == Refill::Deposits {
            // The net of the slots that leave the window now. More withdrawals than deposits add to
            // what is owed; more deposits than withdrawals reduce it.
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
mod tests;

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
            // Both threads find that the window must move past that deposit.
            let other = ledger.clone();
            let thread = thread::spawn(move || other.withdraw(200));
            ledger.deposit(WITHDRAWAL, 200);
            let theirs = thread.join().unwrap();
            let booked = WITHDRAWAL - if theirs { WITHDRAWAL } else { 0 };
            // Bookings during the move count in the new slot.
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
            // Both threads find that the window must move past that withdrawal, which is not
            // refilled.
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
            // The clock of this thread is behind that of the thread that moves the window.
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
            // The move may be under way for one of them; then it has taken what was about to
            // expire.
            assert!(!(mine && theirs), "never twice");
            assert!(ledger.balance(200) <= 0);
        });
    }
}
