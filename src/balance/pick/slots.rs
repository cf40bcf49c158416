//! The snapshot that requests read, in one slot for each thread.
//!
//! A reader must get the latest snapshot without waiting, without writing to a counter that all threads
//! share, and without keeping an old snapshot alive. An old snapshot holds removed endpoints, and so keeps
//! their connections open. The usual solutions fail one of these requirements. An `Arc` behind a `RwLock`
//! writes to the same cache line from every thread. An `Arc` cached in each clone of the balancer lives as
//! long as the clone, which may never be called again, as the clone that a server clones for each request.
//!
//! So there are more slots than threads that can run, each in its own cache line, and each thread starts at
//! its own slot. A slot is a lock that no reader waits for:
//!
//! ```text
//! reader:  try slot t ──free──▶ pick ──▶ leave         some 10 ns, in a cache line of this thread
//!             └─taken──▶ try slot t + 1 ──▶ …
//! driver:  slot 0 ← new, slot 1 ← new, …               waits for readers, they do not wait for it
//! ```
//!
//! When [`publish`](Slots::publish) returns, no reader can get the old snapshot any more. A reader waits
//! for another reader only when more threads read at the same time than there are slots. This needs that
//! many threads preempted within those nanoseconds.

use std::{hint::spin_loop, sync::Arc, thread};

use rand::rngs::SmallRng;

use crate::{
    rng::small_rng,
    sync::{Locked, TryLock, thread_number, yield_now},
};

/// A snapshot for each reading thread, and an `H` that belongs to it.
pub(crate) struct Slots<T, H> {
    /// Its length is a power of two, so that a mask finds the next slot.
    slots: Box<[ReaderSlot<T, H>]>,
}

/// Aligned so that it shares neither its cache line nor the one that the processor prefetches with it.
#[repr(align(128))]
struct ReaderSlot<T, H>(TryLock<Seat<T, H>>);

struct Seat<T, H> {
    snapshot: Arc<T>,
    hand: Hand<H>,
}

/// The data that a reader may change. It belongs to the slot, so threads do not share it.
pub(crate) struct Hand<H> {
    /// A generator for each slot: no thread shares it, and no request pays for seeding.
    pub(crate) rng: SmallRng,
    /// Number of picks of each endpoint since the last collection, by its index in the snapshot. 32 bits,
    /// half the size of the totals, because there is one count for each thread and endpoint.
    pub(crate) picks: Vec<u32>,
    /// Other data that a reader keeps for the next one.
    pub(crate) kept: H,
}

impl<T, H: Default> Slots<T, H> {
    /// With a seed there is only one slot, so that the picks are the same on any thread.
    pub(crate) fn new(snapshot: Arc<T>, seed: Option<u64>) -> Self {
        let slots = match seed {
            Some(_) => 1,
            None => {
                let threads = thread::available_parallelism().map_or(4, |threads| threads.get());
                (2 * threads).next_power_of_two().clamp(8, 64)
            }
        };
        Self::with(slots, &snapshot, seed)
    }

    /// `slots` is a power of two.
    fn with(slots: usize, snapshot: &Arc<T>, seed: Option<u64>) -> Self {
        let slot = |_| {
            ReaderSlot(TryLock::new(Seat {
                snapshot: Arc::clone(snapshot),
                hand: Hand {
                    rng: small_rng(seed),
                    picks: Vec::new(),
                    kept: H::default(),
                },
            }))
        };
        Self {
            slots: (0..slots).map(slot).collect(),
        }
    }

    /// Lends the latest snapshot to `reader`.
    #[inline]
    pub(crate) fn read<R>(&self, reader: impl FnOnce(&T, &mut Hand<H>) -> R) -> R {
        self.read_from(thread_number(), reader)
    }

    #[inline]
    fn read_from<R>(&self, first: usize, reader: impl FnOnce(&T, &mut Hand<H>) -> R) -> R {
        let mut seat = self.seat(first);
        let seat = &mut *seat;
        reader(&seat.snapshot, &mut seat.hand)
    }

    #[inline]
    fn seat(&self, first: usize) -> Locked<'_, Seat<T, H>> {
        let mask = self.slots.len() - 1;
        match self.slots[first & mask].0.try_lock() {
            Some(seat) => seat,
            None => self.other_seat(first),
        }
    }

    /// The first free slot after `first`.
    #[cold]
    fn other_seat(&self, first: usize) -> Locked<'_, Seat<T, H>> {
        let mask = self.slots.len() - 1;
        let mut others = (1..self.slots.len()).map(|step| first.wrapping_add(step) & mask);
        others
            .find_map(|other| self.slots[other].0.try_lock())
            .unwrap_or_else(|| take(&self.slots[first & mask]))
    }

    /// Replaces the snapshot by one of `endpoints` endpoints. When this returns, no reader uses the old
    /// one. `counts` gets the number of picks of each endpoint of the old snapshot, in its order.
    pub(crate) fn publish(&self, snapshot: &Arc<T>, endpoints: usize, counts: &mut PickCounts) {
        counts.picked.clear();
        for slot in &self.slots {
            let mut picks = counts.zeros(endpoints);
            let mut seat = take(slot);
            let old = std::mem::replace(&mut seat.snapshot, Arc::clone(snapshot));
            std::mem::swap(&mut seat.hand.picks, &mut picks);
            // Drop the old snapshot after the slot is free again: the last reference closes connections,
            // and no reader must wait for that.
            drop(seat);
            drop(old);
            counts.add(&mut picks);
            counts.spare = picks;
        }
    }

    /// Collects the number of picks of each endpoint since the last call of this or of `publish`.
    pub(crate) fn collect(&self, counts: &mut PickCounts) {
        counts.picked.clear();
        for slot in &self.slots {
            counts.add(&mut take(slot).hand.picks);
        }
    }
}

/// The pick counts of readers.
#[derive(Default)]
pub(crate) struct PickCounts {
    /// Number of picks of each endpoint, by its index in the snapshot.
    pub(crate) picked: Vec<u64>,
    /// The array that the next slot gets in exchange for its own.
    spare: Vec<u32>,
}

impl PickCounts {
    fn zeros(&mut self, len: usize) -> Vec<u32> {
        let mut zeros = std::mem::take(&mut self.spare);
        // All elements are zero already.
        zeros.truncate(len);
        // Room for more elements than endpoints: the memory behind may belong to another thread, and must
        // not share a cache line with these counts.
        make_room(&mut zeros, len + 32);
        zeros.resize(len, 0);
        zeros
    }

    /// Adds the counts in `picks`, and resets them to zero.
    fn add(&mut self, picks: &mut [u32]) {
        let len = picks.len().max(self.picked.len());
        make_room(&mut self.picked, len);
        self.picked.resize(len, 0);
        for (sum, picks) in self.picked.iter_mut().zip(picks) {
            *sum += u64::from(std::mem::take(picks));
        }
    }
}

/// Makes room for `len` elements in a list that grows and shrinks with the set. It reserves a little more
/// than `len`, not twice as much as `push` does, and frees memory that is far too large.
pub(crate) fn make_room<T>(list: &mut Vec<T>, len: usize) {
    if list.capacity() < len {
        list.reserve_exact(len + len / 8 - list.len());
    } else if list.capacity() > 4 * len + 64 {
        list.shrink_to(len);
    }
}

/// Waits until a slot is free. This takes some nanoseconds, or as long as the thread that holds it is
/// preempted; then this thread yields, so that the other can run.
fn take<T, H>(slot: &ReaderSlot<T, H>) -> Locked<'_, Seat<T, H>> {
    // A loom model switches threads only at a yield.
    const SPINS: u32 = if cfg!(all(test, roster_loom)) { 0 } else { 100 };
    let mut spins = 0;
    loop {
        if let Some(seat) = slot.0.try_lock() {
            return seat;
        }
        if spins < SPINS {
            spins += 1;
            spin_loop();
        } else {
            yield_now();
        }
    }
}

#[cfg(all(test, not(roster_loom)))]
mod tests;

#[cfg(all(test, roster_loom))]
mod model {
    use loom::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        thread,
    };

    use super::*;
    use crate::{
        balance::pick::state::{Common, Held},
        endpoint::{eject::Round, load::InFlight},
        instance::Key,
        sync,
    };

    /// Slots whose snapshot is its number of endpoints.
    fn slots(slots: usize, endpoints: usize) -> (sync::Arc<Slots<usize, ()>>, Arc<usize>) {
        let snapshot = Arc::new(endpoints);
        let slots = Slots::with(slots, &snapshot, Some(1));
        slots.publish(&snapshot, endpoints, &mut PickCounts::default());
        (sync::Arc::new(slots), snapshot)
    }

    /// Picks the last endpoint, and counts the pick.
    fn pick(slots: &Slots<usize, ()>, first: usize) -> usize {
        slots.read_from(first, |snapshot, hand| {
            assert_eq!(hand.picks.len(), *snapshot, "counts of another snapshot");
            hand.picks[*snapshot - 1] += 1;
            *snapshot
        })
    }

    #[test]
    fn after_a_publish_nobody_reads_or_keeps_the_old_one() {
        loom::model(|| {
            let (slots, old) = slots(2, 1);
            let published = sync::Arc::new(AtomicUsize::new(1));
            let readers: Vec<_> = (0..2)
                .map(|first| {
                    let (slots, published) = (slots.clone(), published.clone());
                    thread::spawn(move || {
                        let before = published.load(SeqCst);
                        assert!(pick(&slots, first) >= before);
                    })
                })
                .collect();
            slots.publish(&Arc::new(2), 2, &mut PickCounts::default());
            assert_eq!(
                Arc::strong_count(&old),
                1,
                "the driver alone has the old one"
            );
            published.store(2, SeqCst);
            for reader in readers {
                reader.join().unwrap();
            }
        });
    }

    #[test]
    fn every_pick_is_counted_once_and_for_its_snapshot() {
        loom::model(|| {
            let (slots, _) = slots(2, 1);
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let slots = slots.clone();
                    // Both threads start at the same slot.
                    thread::spawn(move || pick(&slots, 0))
                })
                .collect();
            let mut counts = PickCounts::default();
            slots.collect(&mut counts);
            let collected = counts.picked.iter().sum::<u64>();
            slots.publish(&Arc::new(2), 2, &mut counts);
            let old = collected + counts.picked.iter().sum::<u64>();
            let picked: Vec<_> = readers.into_iter().map(|r| r.join().unwrap()).collect();
            let of = |snapshot| picked.iter().filter(|seen| **seen == snapshot).count() as u64;
            assert_eq!(old, of(1));
            slots.collect(&mut counts);
            assert_eq!(counts.picked, [0, of(2)]);
        });
    }

    #[test]
    fn more_threads_than_slots_take_turns() {
        loom::model(|| {
            let (slots, _) = slots(1, 1);
            let other = slots.clone();
            let reader = thread::spawn(move || pick(&other, 7));
            slots.publish(&Arc::new(2), 2, &mut PickCounts::default());
            assert_eq!(pick(&slots, 3), 2);
            reader.join().unwrap();
        });
    }

    #[test]
    fn when_an_endpoint_has_left_the_snapshot_all_its_requests_are_known() {
        loom::model(|| {
            let common = Arc::new(Common::lonely());
            let state = Held::new(Key::new("a", ""), InFlight::new(), Round::default(), common);
            let old = Arc::new(vec![state.clone()]);
            let slots = sync::Arc::new(Slots::<_, ()>::new(old, Some(1)));
            let other = slots.clone();
            let request =
                thread::spawn(move || other.read(|snapshot, _| snapshot.first().map(Held::begin)));
            slots.publish(&Arc::default(), 0, &mut PickCounts::default());
            let known = state.in_flight();
            let request = request.join().unwrap();
            assert_eq!(
                known,
                usize::from(request.is_some()),
                "it drains or it does not"
            );
            drop(request);
            assert_eq!(state.in_flight(), 0);
        });
    }
}
