use std::sync::{
    Barrier,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use super::*;

#[test]
fn nothing_old_is_read_or_kept_after_a_publish() {
    let old = Arc::new(0u64);
    let slots = Slots::<_, ()>::new(Arc::clone(&old), None);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut last = 0;
                while !stop.load(Relaxed) {
                    let seen = slots.read(|seen, _| *seen);
                    assert!(seen + 1 >= last, "a thread saw {seen} after {last}");
                    last = seen;
                }
            });
        }
        for next in 1..2_000 {
            let next = Arc::new(next);
            slots.publish(&next, 0, &mut PickCounts::default());
            assert_eq!(slots.read(|seen, _| *seen), *next);
        }
        stop.store(true, Relaxed);
    });
    assert_eq!(Arc::strong_count(&old), 1, "nobody holds the first one");
}

#[test]
fn a_taken_slot_keeps_nobody_waiting() {
    let slots = Slots::<_, ()>::new(Arc::new(7), None);
    let taken = Barrier::new(2);
    let read = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            slots.read(|_, _| {
                taken.wait();
                read.wait();
            });
        });
        taken.wait();
        // This ends only if no read waits for the thread above.
        for _ in 0..100 {
            assert_eq!(slots.read(|seen, _| *seen), 7);
        }
        read.wait();
    });
}

#[test]
fn a_panic_in_a_reader_costs_the_slot_nothing() {
    let slots = Slots::<_, ()>::new(Arc::new(7), Some(1));
    let reader = || slots.read(|_, _| panic!("a policy that panics"));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(reader)).is_err());
    slots.publish(&Arc::new(8), 0, &mut PickCounts::default());
    assert_eq!(slots.read(|seen, _| *seen), 8);
}
