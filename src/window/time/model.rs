//! Calls and readers in every interleaving.

use loom::{sync::Arc, thread};

use super::*;

const WIDTH: Duration = Duration::from_secs(1);

#[test]
fn calls_that_turn_the_window_together_are_not_lost() {
    let base = Instant::now();
    loom::model(move || {
        let window = Arc::new(TimeWindow::new(2 * WIDTH, 2, base));
        window.record(base, true, false);
        // After an idle time both threads move the window on, to different buckets.
        let other = {
            let window = Arc::clone(&window);
            thread::spawn(move || window.record(base + 9 * WIDTH, false, false))
        };
        window.record(base + 10 * WIDTH, true, false);
        let seen = window.counts(base + 10 * WIDTH);
        assert!(
            seen.total <= 2 && seen.failed <= 1,
            "the old call is back: {seen:?}"
        );
        other.join().expect("no panic");
        let seen = window.counts(base + 10 * WIDTH);
        assert_eq!((seen.total, seen.failed), (2, 1));
        assert!(window.counts(base + 11 * WIDTH).failed == 1, "left early");
        assert_eq!(window.counts(base + 12 * WIDTH), CallCounts::default());
    });
}

#[test]
fn a_reader_sees_whole_buckets_while_the_window_turns() {
    let base = Instant::now();
    loom::model(move || {
        let window = Arc::new(TimeWindow::new(2 * WIDTH, 2, base));
        window.record(base, true, false);
        window.record(base + WIDTH, false, false);
        let other = {
            let window = Arc::clone(&window);
            thread::spawn(move || window.record(base + 2 * WIDTH, false, false))
        };
        let seen = window.counts(base + WIDTH);
        let allowed = [(2, 1), (1, 0), (2, 0)];
        assert!(allowed.contains(&(seen.total, seen.failed)), "{seen:?}");
        other.join().expect("no panic");
    });
}
