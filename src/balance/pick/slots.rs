//! The snapshot that requests read, one slot for each thread.
//!
//! A reader must get at the latest snapshot without waiting, without a counter that all threads write
//! to, and without keeping an old snapshot alive: an old one holds removed endpoints, and so their
//! connections, open. The usual ways fail one of these: an `Arc` behind a `RwLock` writes the same
//! cache line from every thread, and an `Arc` cached in each clone of the balancer lives as long as
//! the clone, which may never call again (the one that a server clones for each request never does).
//!
//! So there are more slots than threads that can run, each in a cache line of its own, and each thread
//! begins at a slot of its own. A slot is a lock that no reader waits for:
//!
//! ```text
//! reader:  try slot t ──free──▶ pick ──▶ leave         some 10 ns, in a cache line of this thread
//!             └─taken──▶ try slot t + 1 ──▶ …
//! driver:  slot 0 ← new, slot 1 ← new, …               waits for readers, they do not wait for it
//! ```
//!
//! When [`publish`](Slots::publish) returns, no reader can get at the old snapshot any more. Only when
//! more threads are in here at the same time than there are slots (which takes threads that were
//! preempted within those nanoseconds, all of them) a reader takes its turn behind another.

use std::{hint::spin_loop, sync::Arc, thread};

use rand::rngs::SmallRng;

use crate::{
    rng::small_rng,
    sync::{Locked, TryLock, thread_number, yield_now},
};

/// A snapshot for each thread that reads, and an `H` that belongs to it.
pub(crate) struct Slots<T, H> {
    /// A power of two, so that the next is found by masking.
    slots: Box<[Slot<T, H>]>,
}

/// Alone in its cache line and in the one that is fetched along with it.
#[repr(align(128))]
struct Slot<T, H>(TryLock<Seat<T, H>>);

struct Seat<T, H> {
    snapshot: Arc<T>,
    hand: Hand<H>,
}

/// What a reader may change: belongs to its slot, so that threads share none of it.
pub(crate) struct Hand<H> {
    /// Neither shared nor seeded for each request.
    pub(crate) rng: SmallRng,
    /// Picks of each endpoint, by its number in the snapshot, since they were collected. Half as large
    /// as what they add up to: there is one for each thread and endpoint.
    pub(crate) picks: Vec<u32>,
    /// What else a reader keeps for the next one.
    pub(crate) kept: H,
}

impl<T, H: Default> Slots<T, H> {
    /// With a seed there is one slot only, so that the same picks follow whatever thread makes them.
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
            Slot(TryLock::new(Seat {
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

    /// Lends the latest snapshot.
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

    /// The first that is free from the next on.
    #[cold]
    fn other_seat(&self, first: usize) -> Locked<'_, Seat<T, H>> {
        let mask = self.slots.len() - 1;
        let mut others = (1..self.slots.len()).map(|step| first.wrapping_add(step) & mask);
        others
            .find_map(|other| self.slots[other].0.try_lock())
            .unwrap_or_else(|| take(&self.slots[first & mask]))
    }

    /// Replaces the snapshot by one of `endpoints` endpoints. When this returns, the old one is out of
    /// use. `counts` gets the number of picks of each endpoint of the old one, in their order.
    pub(crate) fn publish(&self, snapshot: &Arc<T>, endpoints: usize, counts: &mut PickCounts) {
        counts.picked.clear();
        for slot in &self.slots {
            let mut picks = counts.zeros(endpoints);
            let mut seat = take(slot);
            let old = std::mem::replace(&mut seat.snapshot, Arc::clone(snapshot));
            std::mem::swap(&mut seat.hand.picks, &mut picks);
            // The last of them closes connections: not while a reader may want the slot.
            drop(seat);
            drop(old);
            counts.add(&mut picks);
            counts.spare = picks;
        }
    }

    /// Takes the numbers of picks of each endpoint since this or `publish` was called last.
    pub(crate) fn collect(&self, counts: &mut PickCounts) {
        counts.picked.clear();
        for slot in &self.slots {
            counts.add(&mut take(slot).hand.picks);
        }
    }
}

/// What readers have counted.
#[derive(Default)]
pub(crate) struct PickCounts {
    /// Picks of each endpoint, by its number in the snapshot.
    pub(crate) picked: Vec<u64>,
    /// What the next slot gets for what it has.
    spare: Vec<u32>,
}

impl PickCounts {
    fn zeros(&mut self, len: usize) -> Vec<u32> {
        let mut zeros = std::mem::take(&mut self.spare);
        // They are zeros already.
        zeros.truncate(len);
        // Some more than there are endpoints: what lies behind is another thread's, and must not share
        // a cache line with what is counted here.
        make_room(&mut zeros, len + 32);
        zeros.resize(len, 0);
        zeros
    }

    /// Adds what is in `picks`, and leaves zeros there.
    fn add(&mut self, picks: &mut [u32]) {
        let len = picks.len().max(self.picked.len());
        make_room(&mut self.picked, len);
        self.picked.resize(len, 0);
        for (sum, picks) in self.picked.iter_mut().zip(picks) {
            *sum += u64::from(std::mem::take(picks));
        }
    }
}

/// Makes room for `len` elements in a list that grows and shrinks with the set: for some more than
/// that, and not for twice as many, as pushing does; and gives back what is far too much.
pub(crate) fn make_room<T>(list: &mut Vec<T>, len: usize) {
    if list.capacity() < len {
        list.reserve_exact(len + len / 8 - list.len());
    } else if list.capacity() > 4 * len + 64 {
        list.shrink_to(len);
    }
}

/// Waits until a slot is free: some nanoseconds, or as long as the thread in it is preempted, and then
/// this one has nothing better to do than to let it run.
fn take<T, H>(slot: &Slot<T, H>) -> Locked<'_, Seat<T, H>> {
    // A model only sees what happens at a yield.
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
        balance::state::{Common, Held},
        endpoint::{eject::Round, load::InFlight},
        instance::Key,
        sync,
    };

    /// Slots whose snapshot is the number of its endpoints.
    fn slots(slots: usize, endpoints: usize) -> (sync::Arc<Slots<usize, ()>>, Arc<usize>) {
        let snapshot = Arc::new(endpoints);
        let slots = Slots::with(slots, &snapshot, Some(1));
        slots.publish(&snapshot, endpoints, &mut PickCounts::default());
        (sync::Arc::new(slots), snapshot)
    }

    /// Picks the last endpoint, and counts that.
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
                    // Both begin at the same slot.
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
