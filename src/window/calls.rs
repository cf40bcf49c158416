//! Counts over the last `n` calls: a ring of outcomes in a lock.
//!
//! The lock is held for about ten nanoseconds, and a call of the inner service takes longer, so threads
//! rarely contend. In exchange the counts are exact at every moment.

use std::sync::{Mutex, MutexGuard};

use super::CallCounts;
use crate::sync::lock;

/// Counts over the last `n` calls.
pub(crate) struct CountWindow(Mutex<Ring>);

struct Ring {
    /// The outcome of the call at each place; `None` where no call was recorded yet.
    calls: Box<[Option<CallRecord>]>,
    /// How many calls were recorded in all.
    number: u64,
    counts: CallCounts,
}

#[derive(Clone, Copy)]
struct CallRecord {
    failed: bool,
    slow: bool,
}

impl CountWindow {
    /// Creates an empty window over the last `n` calls; `n` of 0 is taken as 1.
    pub(crate) fn new(n: usize) -> Self {
        Self(Mutex::new(Ring {
            calls: vec![None; n.max(1)].into(),
            number: 0,
            counts: CallCounts::default(),
        }))
    }

    /// Records a call in the place of the oldest. Returns the number of the call, and the counts
    /// including it.
    #[inline]
    pub(crate) fn record(&self, failed: bool, slow: bool) -> (u64, CallCounts) {
        let mut ring = self.ring();
        let number = ring.number;
        ring.number += 1;
        let place = ring.place(number);
        ring.replace(place, Some(CallRecord { failed, slow }));
        (number, ring.counts)
    }

    /// Turns a call that was recorded as a success into a failure, unless it has left the window.
    pub(crate) fn amend(&self, number: u64) -> CallCounts {
        let mut ring = self.ring();
        let behind = ring.number.saturating_sub(number);
        if (1..=ring.calls.len() as u64).contains(&behind) {
            let place = ring.place(number);
            // A reset may have cleared the place.
            if let Some(outcome) = ring.calls[place] {
                let failed = true;
                ring.replace(place, Some(CallRecord { failed, ..outcome }));
            }
        }
        ring.counts
    }

    /// Returns the counts over the last `n` calls.
    pub(crate) fn counts(&self) -> CallCounts {
        self.ring().counts
    }

    /// Clears the window. O(n).
    pub(crate) fn reset(&self) {
        let mut ring = self.ring();
        ring.calls.fill(None);
        ring.counts = CallCounts::default();
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // No code panics while it holds the lock.
        lock(&self.0)
    }
}

impl Ring {
    fn place(&self, number: u64) -> usize {
        (number % self.calls.len() as u64) as usize
    }

    fn replace(&mut self, place: usize, outcome: Option<CallRecord>) {
        let old = std::mem::replace(&mut self.calls[place], outcome);
        for (outcome, is_new) in [(old, false), (outcome, true)] {
            let Some(CallRecord { failed, slow }) = outcome else {
                continue;
            };
            let CallCounts {
                total,
                failed: failures,
                slow: slows,
            } = &mut self.counts;
            for (sum, counts) in [(total, true), (failures, failed), (slows, slow)] {
                match is_new {
                    true => *sum += u64::from(counts),
                    false => *sum -= u64::from(counts),
                }
            }
        }
    }
}

impl_debug!(CountWindow: |this| counts = this.ring().counts);

#[cfg(all(test, not(roster_loom)))]
mod tests {
    use std::{collections::VecDeque, thread};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_calls_slide() {
        let window = CountWindow::new(100);
        (0..10_000).for_each(|_| {
            window.record(false, false);
        });
        for failures in 1..=150 {
            let (_, seen) = window.record(true, false);
            assert_eq!((seen.total, seen.failed), (100, failures.min(100)));
        }
    }

    #[test]
    fn threads_lose_no_call() {
        let window = CountWindow::new(100_000);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope
                    .spawn(|| (0..10_000).for_each(|i| _ = window.record(i % 4 == 0, i % 10 == 0)));
            }
        });
        let CallCounts {
            total,
            failed,
            slow,
        } = window.counts();
        assert_eq!((total, failed, slow), (80_000, 20_000, 8_000));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Record(bool, bool),
        /// Amends the call that was recorded so many calls before the last.
        Amend(usize),
        Reset,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => any::<(bool, bool)>().prop_map(|(failed, slow)| Step::Record(failed, slow)),
            3 => (0..60_usize).prop_map(Step::Amend),
            1 => Just(Step::Reset),
        ]
    }

    proptest! {
        #[test]
        fn counts_as_a_list_does(
            n in 1..40_usize,
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let window = CountWindow::new(n);
            // The number and outcome of each call.
            let mut calls: VecDeque<(u64, bool, bool)> = VecDeque::new();
            let mut numbers = Vec::new();
            for step in steps {
                match step {
                    Step::Record(failed, slow) => {
                        let (number, _) = window.record(failed, slow);
                        numbers.push(number);
                        calls.push_back((number, failed, slow));
                        if calls.len() > n {
                            calls.pop_front();
                        }
                    }
                    Step::Amend(back) => {
                        if let Some(at) = numbers.len().checked_sub(1 + back) {
                            window.amend(numbers[at]);
                            let named = calls.iter_mut().find(|(number, ..)| *number == numbers[at]);
                            if let Some((_, failed, _)) = named {
                                *failed = true;
                            }
                        }
                    }
                    Step::Reset => {
                        window.reset();
                        calls.clear();
                    }
                }
                let expected = CallCounts {
                    total: calls.len() as u64,
                    failed: calls.iter().filter(|(_, failed, _)| *failed).count() as u64,
                    slow: calls.iter().filter(|(_, _, slow)| *slow).count() as u64,
                };
                prop_assert_eq!(window.counts(), expected);
            }
        }
    }
}
