//! A value for each thread that reads, which no reader waits for; as the slots of the balancer, where
//! `balance/pick/slots.rs` has the reasons.

use std::{hint::spin_loop, thread};

use crate::sync::{Locked, TryLock, thread_number, yield_now};

/// More values than threads that can run, each in its own cache line.
pub(super) struct Seats<T>(Box<[Seat<T>]>);

#[repr(align(128))]
struct Seat<T>(TryLock<T>);

impl<T: Default> Seats<T> {
    pub(super) fn new() -> Self {
        let threads = thread::available_parallelism().map_or(4, |threads| threads.get());
        let seats = (2 * threads).next_power_of_two().clamp(8, 64);
        let seat = |_| Seat(TryLock::new(T::default()));
        Self((0..seats).map(seat).collect())
    }
}

impl<T> Seats<T> {
    /// Takes the seat of this thread, or the next free one. `None` if all are taken, which needs as many threads
    /// that were preempted within some nanoseconds.
    #[inline]
    pub(super) fn take(&self) -> Option<Locked<'_, T>> {
        let (first, mask) = (thread_number(), self.0.len() - 1);
        match self.0[first & mask].0.try_lock() {
            Some(seat) => Some(seat),
            None => self.take_other(first, mask),
        }
    }

    #[cold]
    fn take_other(&self, first: usize, mask: usize) -> Option<Locked<'_, T>> {
        let mut others = (1..self.0.len()).map(|step| first.wrapping_add(step) & mask);
        others.find_map(|other| self.0[other].0.try_lock())
    }

    /// Changes the values of all seats. Waits for each for as long as its reader takes.
    pub(super) fn change(&self, mut change: impl FnMut(&mut T)) {
        for seat in &self.0 {
            let mut spins = 0;
            let mut taken = loop {
                match seat.0.try_lock() {
                    Some(taken) => break taken,
                    None if spins < 100 => {
                        spins += 1;
                        spin_loop();
                    }
                    None => yield_now(),
                }
            };
            change(&mut taken);
        }
    }
}
