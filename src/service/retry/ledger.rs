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
