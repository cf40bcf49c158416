//! The task of a watch of two registries.

use std::time::Duration;

use tokio::{
    sync::{Notify, watch as cell},
    time::{Instant, sleep_until},
};

use super::combine::Combine;
use crate::{
    error::{ErrorKind, RegistryError},
    registry::{View, ViewState, Watch},
    task::first_of,
};

/// The time between two looks at the ages of the views. A confirmation without a change is not announced,
/// and moves the age only. Arbitrary: well below any age that makes a set stale, and it costs microseconds.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Combines two watches for ever.
pub(super) async fn follow(
    mut watches: [Watch; 2],
    mut combine: Combine,
    cell: &cell::Sender<View>,
    again: &Notify,
) {
    loop {
        let now = Instant::now();
        let (view, due) = combine.views(watches.each_ref().map(view_of), now);
        view.publish(cell, false);
        let look = now + LOOK_EVERY;
        let lasting = watches.iter_mut().filter(|watch| !watch.is_ended());
        tokio::select! {
            () = first_of(lasting.map(Watch::stirs)) => {}
            () = again.notified() => watches.iter().for_each(Watch::look_again),
            () = sleep_until(due.map_or(look, |due| due.min(look))) => {}
        }
    }
}

/// The view of a watch. One that has ended does not notice that its set grows old.
fn view_of(watch: &Watch) -> View {
    let mut view = watch.view();
    if watch.is_ended() {
        let what = "the watch has ended with its runtime";
        let ended = RegistryError::new(ErrorKind::Internal, what);
        let ended = ended.about(watch.registry(), watch.query().service());
        view.error.get_or_insert(ended);
        if view.is_fresh() {
            view.state = ViewState::Stale;
        }
    }
    view
}
