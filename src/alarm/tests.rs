use std::{
    future::poll_fn,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Wake, Waker},
    time::Duration,
};

use tokio::runtime::{Builder, Handle};

use super::{list::KEPT, *};
use crate::sync::thread_number;

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
