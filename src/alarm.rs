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

use std::{
    cell::Cell,
    fmt,
    future::Future,
    mem::{self, ManuallyDrop},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    task::{Context, Poll, Waker, ready},
    thread,
};

use tokio::{
    runtime::{Handle, Id},
    time::{Instant, Sleep, sleep_until},
};

use crate::sync::thread_number;

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

/// Entries whose memory an empty list keeps. Arbitrary: about 3 KB, and more requests than usually wait on
/// one thread.
const KEPT: usize = 64;

/// The alarms of one layer. Their tasks end when it is dropped.
pub(crate) struct Alarms {
    /// The length is a power of two, so that a thread finds its list by masking. A list is
    /// allocated for its first alarm, because few of many threads call most clients.
    lists: Box<[OnceLock<Box<List>>]>,
}

/// Aligned to two cache lines, because the processor fetches them in pairs. Three parties lock it,
/// each for a moment: the thread that it belongs to, the task, and a request that ends on another
/// thread than it began on.
#[repr(align(128))]
#[derive(Default)]
struct List(Mutex<Alarmed>);

#[derive(Default)]
struct Alarmed {
    entries: Vec<AlarmEntry>,
    /// Indices of the free entries.
    free: Vec<u32>,
    /// The task of this list, while it runs.
    watch: Option<ListTask>,
}

struct ListTask {
    runtime: Id,
    /// When the task reads the list next.
    next: Instant,
    /// `None` until the task has run for the first time.
    waker: Option<Waker>,
}

enum AlarmEntry {
    Free,
    Set {
        at: Instant,
        waker: Waker,
    },
    Rings,
    /// The task ended when its runtime shut down.
    Lost,
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

struct ListedAlarm {
    alarms: Arc<Alarms>,
    list: u32,
    entry: u32,
    at: Instant,
}

impl Alarms {
    pub(crate) fn new() -> Arc<Self> {
        let threads = thread::available_parallelism().map_or(4, |threads| threads.get());
        let lists = threads.next_power_of_two().min(64);
        Arc::new(Self {
            lists: (0..lists).map(|_| OnceLock::new()).collect(),
        })
    }

    fn lock(&self, list: usize) -> MutexGuard<'_, Alarmed> {
        // No code that holds the lock panics half-way, so a poisoned lock is used as it is.
        let list = self.lists[list].get_or_init(Box::default);
        list.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets an alarm in this thread's list. Returns `None` when a task of another runtime serves
    /// the list.
    #[inline]
    fn set(self: &Arc<Self>, at: Instant, waker: &Waker) -> Option<ListedAlarm> {
        let runtime = Handle::try_current().ok()?;
        let list = thread_number() & (self.lists.len() - 1);
        let mut alarmed = self.lock(list);
        let mut sleep = None;
        let ring = match &mut alarmed.watch {
            Some(watch) if watch.runtime != runtime.id() => return None,
            Some(watch) => watch.sooner(at),
            None => {
                // Before any change, because it panics in a runtime without a timer.
                sleep = Some(Box::pin(sleep_until(at)));
                alarmed.watch = Some(ListTask {
                    runtime: runtime.id(),
                    next: at,
                    waker: None,
                });
                None
            }
        };
        let entry = alarmed.enter(at, waker.clone());
        drop(alarmed);
        if let Some(sleep) = sleep {
            runtime.spawn(Watching {
                alarms: Arc::downgrade(self),
                list,
                sleep,
                done: false,
            });
        } else if let Some(task) = ring {
            task.wake();
        }
        Some(ListedAlarm {
            alarms: Arc::clone(self),
            list: list as u32,
            entry,
            at,
        })
    }
}

impl ListTask {
    /// Notes an alarm. Returns the waker of the task if this alarm is now the earliest.
    #[inline]
    fn sooner(&mut self, at: Instant) -> Option<Waker> {
        if at >= self.next {
            return None;
        }
        self.next = at;
        self.waker.clone()
    }
}

impl Alarmed {
    #[inline]
    fn enter(&mut self, at: Instant, waker: Waker) -> u32 {
        let set = AlarmEntry::Set { at, waker };
        if let Some(free) = self.free.pop() {
            self.entries[free as usize] = set;
            return free;
        }
        self.entries.push(set);
        (self.entries.len() - 1) as u32
    }

    /// Returns the wakers of the alarms that are due, and the time of the next alarm.
    fn look(&mut self, now: Instant) -> (Vec<Waker>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None);
        for entry in &mut self.entries {
            match entry {
                AlarmEntry::Set { at, .. } if *at <= now => {
                    if let AlarmEntry::Set { waker, .. } = mem::replace(entry, AlarmEntry::Rings) {
                        due.push(waker);
                    }
                }
                AlarmEntry::Set { at, .. } => {
                    next = Some(next.map_or(*at, |next: Instant| next.min(*at)));
                }
                _ => {}
            }
        }
        if self.free.len() == self.entries.len() {
            // A burst of requests must not cost memory and time for ever.
            self.free.clear();
            self.free.shrink_to(KEPT);
            self.entries.clear();
            self.entries.shrink_to(KEPT);
        }
        (due, next)
    }

    /// Marks every alarm as lost, because the task ended. Returns their wakers.
    fn lose(&mut self) -> Vec<Waker> {
        self.watch = None;
        let mut lost = Vec::new();
        for entry in &mut self.entries {
            if matches!(entry, AlarmEntry::Set { .. }) {
                if let AlarmEntry::Set { waker, .. } = mem::replace(entry, AlarmEntry::Lost) {
                    lost.push(waker);
                }
            }
        }
        lost
    }
}

impl Drop for Alarms {
    fn drop(&mut self) {
        for list in self.lists.iter_mut().filter_map(OnceLock::get_mut) {
            let alarmed = list.0.get_mut().unwrap_or_else(PoisonError::into_inner);
            // The task finds that the alarms are dropped, and ends.
            let waker = alarmed.watch.take().and_then(|watch| watch.waker);
            waker.into_iter().for_each(Waker::wake);
        }
    }
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

impl ListedAlarm {
    /// Returns `None` when the alarm must be set again.
    #[cold]
    fn poll(&self, cx: &mut Context<'_>) -> Option<Poll<()>> {
        let mut alarmed = self.alarms.lock(self.list as usize);
        match &mut alarmed.entries[self.entry as usize] {
            AlarmEntry::Rings => Some(Poll::Ready(())),
            AlarmEntry::Set { waker, .. } => {
                let mut old = None;
                if !waker.will_wake(cx.waker()) {
                    old = Some(mem::replace(waker, cx.waker().clone()));
                }
                drop(alarmed);
                drop(old);
                Some(Poll::Pending)
            }
            AlarmEntry::Lost | AlarmEntry::Free => None,
        }
    }
}

impl Drop for ListedAlarm {
    #[inline]
    fn drop(&mut self) {
        let mut alarmed = self.alarms.lock(self.list as usize);
        let entry = mem::replace(&mut alarmed.entries[self.entry as usize], AlarmEntry::Free);
        alarmed.free.push(self.entry);
        drop(alarmed);
        // The waker may hold the last reference to a task, and that task may own other alarms of
        // this list. So it is dropped after the lock is released.
        drop(entry);
    }
}

/// The task of a list. It wakes what is due and sleeps until the next alarm. It ends when none is
/// set.
struct Watching {
    alarms: Weak<Alarms>,
    list: usize,
    sleep: Pin<Box<Sleep>>,
    done: bool,
}

impl Future for Watching {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let next = self.look(cx.waker());
            let Some(next) = next else {
                self.done = true;
                return Poll::Ready(());
            };
            if self.sleep.deadline() != next {
                self.sleep.as_mut().reset(next);
            }
            ready!(self.sleep.as_mut().poll(cx));
        }
    }
}

impl Watching {
    /// Wakes the alarms that are due. Returns the time of the next one.
    fn look(&self, task: &Waker) -> Option<Instant> {
        let alarms = self.alarms.upgrade()?;
        let mut alarmed = alarms.lock(self.list);
        let (due, next) = alarmed.look(Instant::now());
        let watch = alarmed.watch.take();
        alarmed.watch = watch.zip(next).map(|(watch, next)| ListTask {
            next,
            waker: Some(task.clone()),
            ..watch
        });
        drop(alarmed);
        due.into_iter().for_each(Waker::wake);
        next
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // The runtime of this task is shutting down. Requests that wait may run in another one by
        // now.
        if let Some(alarms) = self.alarms.upgrade() {
            let lost = alarms.lock(self.list).lose();
            lost.into_iter().for_each(Waker::wake);
        }
    }
}

impl fmt::Debug for Alarms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarms").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(roster_loom)))]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        task::Wake,
        time::Duration,
    };

    use tokio::runtime::Builder;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn rings(alarms: &Arc<Alarms>, at: Instant) {
        let mut alarm = Alarm::default();
        poll_fn(|cx| alarm.poll(alarms, at, cx)).await;
    }

    /// Lets all other tasks run that are ready.
    async fn settle() {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    fn tasks() -> usize {
        Handle::current().metrics().num_alive_tasks()
    }

    #[tokio::test(start_paused = true)]
    async fn each_rings_at_its_time_in_whatever_order_they_were_set() {
        let (alarms, start) = (Alarms::new(), Instant::now());
        let order = [5u32, 1, 3, 3, 2];
        let each = order.map(|seconds| {
            let alarms = Arc::clone(&alarms);
            tokio::spawn(async move {
                rings(&alarms, start + seconds * SECOND).await;
                Instant::now().duration_since(start)
            })
        });
        for (seconds, alarm) in order.into_iter().zip(each) {
            assert_eq!(alarm.await.expect("no panic"), seconds * SECOND);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_task_for_all_and_none_when_all_have_gone() {
        let (alarms, start) = (Alarms::new(), Instant::now());
        for _ in 0..100 {
            let mut alarm = Alarm::default();
            let at = start + 10 * SECOND;
            poll_fn(|cx| Poll::Ready(alarm.poll(&alarms, at, cx).is_ready())).await;
            settle().await;
        }
        assert_eq!(tasks(), 1, "it sleeps until the first would have rung");
        tokio::time::sleep(11 * SECOND).await;
        assert_eq!(tasks(), 0);
        // A new task starts for later alarms.
        rings(&alarms, Instant::now() + SECOND).await;
        assert_eq!(Instant::now().duration_since(start), 12 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_with_the_layer() {
        let alarms = Alarms::new();
        let mut alarm = Alarm::default();
        let at = Instant::now() + 1_000 * SECOND;
        poll_fn(|cx| Poll::Ready(alarm.poll(&alarms, at, cx).is_ready())).await;
        settle().await;
        assert_eq!(tasks(), 1);
        drop((alarm, alarms));
        settle().await;
        assert_eq!(tasks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_may_be_put_off_or_brought_forward() {
        let (alarms, start) = (Alarms::new(), Instant::now());
        let mut alarm = Alarm::default();
        for seconds in [9, 5, 7] {
            let at = start + seconds * SECOND;
            let rings = poll_fn(|cx| Poll::Ready(alarm.poll(&alarms, at, cx).is_ready())).await;
            assert!(!rings);
        }
        poll_fn(|cx| alarm.poll(&alarms, start + 3 * SECOND, cx)).await;
        assert_eq!(Instant::now().duration_since(start), 3 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_above_relies_on_an_earlier_alarm_only_while_that_is_set() {
        let (alarms, start) = (Alarms::new(), Instant::now());
        let mut below = Some(Alarm::default());
        let mut above = Alarm::default();
        let at = start + 2 * SECOND;
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            begin();
            let poll = below
                .as_mut()
                .map(|it| it.poll(&alarms, start + SECOND, cx));
            if poll == Some(Poll::Ready(())) {
                below = None;
            }
            assert_eq!(earliest().is_some(), below.is_some());
            above.poll_above(&alarms, at, cx)
        })
        .await;
        assert_eq!((polls, Instant::now()), (3, at));
    }

    #[test]
    fn a_runtime_that_stands_or_is_gone_holds_up_no_other() {
        let runtime = || {
            let mut builder = Builder::new_current_thread();
            let builder = builder.enable_time().start_paused(true);
            builder.build().expect("a runtime")
        };
        let (alarms, first, second) = (Alarms::new(), runtime(), runtime());
        let (mut alarm, woken) = (Alarm::default(), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let at = first.block_on(async {
            let at = Instant::now() + 1_000 * SECOND;
            let poll = alarm.poll(&alarms, at, &mut Context::from_waker(&waker));
            assert!(poll.is_pending());
            at
        });
        let waits = || second.block_on(async { rings(&alarms, Instant::now() + SECOND).await });
        // The first runtime does not run.
        waits();
        assert_eq!(woken.0.load(Relaxed), 0);
        drop(first);
        assert_eq!(
            woken.0.load(Relaxed),
            1,
            "its task ended, so it is set anew"
        );
        waits();
        second.block_on(async {
            poll_fn(|cx| alarm.poll(&alarms, at, cx)).await;
            assert!(Instant::now() >= at);
        });
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_leaves_no_memory_behind() {
        let (alarms, at) = (Alarms::new(), Instant::now() + SECOND);
        let mut burst: Vec<_> = (0..10_000).map(|_| Alarm::default()).collect();
        poll_fn(|cx| {
            burst
                .iter_mut()
                .for_each(|alarm| assert!(alarm.poll(&alarms, at, cx).is_pending()));
            Poll::Ready(())
        })
        .await;
        drop(burst);
        tokio::time::sleep(2 * SECOND).await;
        let list = thread_number() & (alarms.lists.len() - 1);
        assert!(alarms.lock(list).entries.capacity() <= KEPT);
    }
}
