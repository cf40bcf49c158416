//! The lists of alarms, one for each thread, and the task that wakes what is due in a list.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    task::{Context, Poll, Waker, ready},
    thread,
};

use tokio::{
    runtime::{Handle, Id},
    time::{Instant, Sleep, sleep_until},
};

use crate::sync::{lock, thread_number};

/// Entries whose memory an empty list keeps. Arbitrary: about 3 KB, and more requests than usually wait on
/// one thread.
pub(super) const KEPT: usize = 64;

/// The alarms of one layer. Their tasks end when it is dropped.
pub(crate) struct Alarms {
    /// The length is a power of two, so that a thread finds its list by masking. A list is
    /// allocated for its first alarm, because few of many threads call most clients.
    pub(super) lists: Box<[OnceLock<Box<List>>]>,
}

/// Aligned to two cache lines, because the processor fetches them in pairs. Three parties lock it,
/// each for a moment: the thread that it belongs to, the task, and a request that ends on another
/// thread than it began on.
#[repr(align(128))]
#[derive(Default)]
pub(super) struct List(Mutex<Alarmed>);

#[derive(Default)]
pub(super) struct Alarmed {
    pub(super) entries: Vec<AlarmEntry>,
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

pub(super) enum AlarmEntry {
    Free,
    Set {
        at: Instant,
        waker: Waker,
    },
    Rings,
    /// The task ended when its runtime shut down.
    Lost,
}

/// An alarm in a list. Dropping it removes it.
pub(super) struct ListedAlarm {
    alarms: Arc<Alarms>,
    list: u32,
    entry: u32,
    pub(super) at: Instant,
}

impl Alarms {
    pub(crate) fn new() -> Arc<Self> {
        let threads = thread::available_parallelism().map_or(4, |threads| threads.get());
        let lists = threads.next_power_of_two().min(64);
        Arc::new(Self {
            lists: (0..lists).map(|_| OnceLock::new()).collect(),
        })
    }

    pub(super) fn lock(&self, list: usize) -> MutexGuard<'_, Alarmed> {
        // No code that holds the lock panics half-way, so a poisoned lock is used as it is.
        let list = self.lists[list].get_or_init(Box::default);
        lock(&list.0)
    }

    /// Sets an alarm in this thread's list. Returns `None` when a task of another runtime serves
    /// the list.
    #[inline]
    pub(super) fn set(self: &Arc<Self>, at: Instant, waker: &Waker) -> Option<ListedAlarm> {
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
            if matches!(entry, AlarmEntry::Set { .. })
                && let AlarmEntry::Set { waker, .. } = mem::replace(entry, AlarmEntry::Lost)
            {
                lost.push(waker);
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

impl ListedAlarm {
    /// Returns `None` when the alarm must be set again.
    #[cold]
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Option<Poll<()>> {
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

impl_debug!(Alarms);
