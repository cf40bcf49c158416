//! Timers that every request sets and that seldom expire: deadlines, and delays before a hedge.
//!
//! tokio's own timer locks state of the whole runtime when it is set, and again when it is dropped.
//! Two of them took about 4 % of a client's time for small HTTP requests, measured with perf; two
//! alarms take about 1 %. Each thread has its own list here. Adding an alarm to the list or
//! removing it takes a few nanoseconds. One task for each list sleeps until the earliest alarm in
//! it:
//!
//! ```text
//! request ──set──▶ list of this thread ◀── reads, then sleeps ── task, while alarms are set
//!    │  ◀────────────────────── wakes what is due ──────────────────┘
//!    └──dropped──▶ (removed from the list; the task notices when it wakes)
//! ```
//! An alarm expires in the same millisecond as tokio's timer would, because the task sleeps by
//! tokio's clock.
//!
//! The task wakes at each time that was the earliest alarm while it slept, even if that alarm was
//! dropped. Each time it reads all alarms that are set.
//!
//! A layer needs no alarm of its own while a layer below it has set an earlier one in the same
//! poll: both layers are polled when that one expires. See [`earliest`].
//!
//! The task runs in the runtime of the request that set the first alarm of the list. While the task
//! runs, an alarm set from another runtime is a timer of tokio's, because that runtime may run
//! while the first one does not.

mod list;
#[cfg(all(test, not(roster_loom)))]
mod tests;

pub(crate) use self::list::Alarms;

use std::{
    cell::Cell,
    future::Future,
    mem::ManuallyDrop,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep, sleep_until};

use self::list::ListedAlarm;

thread_local! {
    /// The earliest alarm that was set in the current poll.
    static EARLIEST: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Starts a poll of an inner future. [`earliest`] is read after it.
#[inline]
pub(crate) fn begin() {
    EARLIEST.set(None);
}

/// The earliest alarm that was set since [`begin`]; it causes another poll.
#[inline]
pub(crate) fn earliest() -> Option<Instant> {
    EARLIEST.get()
}

#[inline]
fn note(at: Instant) {
    let earliest = EARLIEST.get();
    EARLIEST.set(Some(earliest.map_or(at, |earliest| earliest.min(at))));
}

/// One alarm. Its first poll sets it.
///
/// `ManuallyDrop`, because `drop` takes the content out. Otherwise the compiler drops the empty field
/// after that, in a call that took 5 ns of each request without an alarm.
#[derive(Default)]
pub(crate) struct Alarm(ManuallyDrop<Option<SetAlarm>>);

enum SetAlarm {
    Listed(ListedAlarm),
    /// A timer of tokio's.
    Own(Pin<Box<Sleep>>),
}

impl Alarm {
    /// Waits until a time. Later polls may pass another time.
    #[inline]
    pub(crate) fn poll(
        &mut self,
        alarms: &Arc<Alarms>,
        at: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let poll = self.poll_set(alarms, at, cx);
        if poll.is_pending() {
            note(at);
        }
        poll
    }

    /// The same, for a layer that has polled a layer below: no alarm is set while [`earliest`] is
    /// early enough.
    #[inline]
    pub(crate) fn poll_above(
        &mut self,
        alarms: &Arc<Alarms>,
        at: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if self.0.is_none() && earliest().is_some_and(|below| below <= at) {
            return Poll::Pending;
        }
        self.poll(alarms, at, cx)
    }

    #[inline]
    fn poll_set(&mut self, alarms: &Arc<Alarms>, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let set = &mut *self.0;
        if let Some(SetAlarm::Listed(listed)) = set {
            let mut lost = false;
            if listed.at == at {
                match listed.poll(cx) {
                    Some(poll) => return poll,
                    None => lost = true,
                }
            }
            // Outside of the `match`, because dropping a listed alarm locks the list.
            *set = None;
            if lost {
                // Not set in a list again: if this runtime shuts down, that task would end at once, too.
                *set = Some(SetAlarm::Own(Box::pin(sleep_until(at))));
            }
        }
        if set.is_none() {
            if let Some(listed) = alarms.set(at, cx.waker()) {
                *set = Some(SetAlarm::Listed(listed));
                return Poll::Pending;
            }
            *set = Some(SetAlarm::Own(Box::pin(sleep_until(at))));
        }
        let Some(SetAlarm::Own(sleep)) = set else {
            return Poll::Pending;
        };
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
    }
}

impl Drop for Alarm {
    #[inline]
    fn drop(&mut self) {
        // Not inlined, so that a request that set no alarm only tests for one.
        #[inline(never)]
        fn end(set: SetAlarm) {
            // A layer above may rely on this alarm.
            EARLIEST.set(None);
            drop(set);
        }
        if let Some(set) = self.0.take() {
            end(set);
        }
    }
}
