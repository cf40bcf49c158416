//! Many threads, while endpoints come and go. Real time, bounded.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tower::{Service, ServiceExt, discover::Change};
use tower_roster::balance::{BalanceLayer, policy::RoundRobin};

use crate::kit::{Word, key, poll, script};

/// Moves on when endpoints were removed. Requests carry it as of when they began.
static AGE: AtomicU64 = AtomicU64::new(0);

/// Counts its calls, and those of requests that began when it had been removed.
#[derive(Clone)]
struct Counted(Arc<Counts>);

struct Counts {
    calls: AtomicU64,
    removed_at: AtomicU64,
    late: AtomicU64,
}

impl Counted {
    fn new() -> Self {
        Self(Arc::new(Counts {
            calls: AtomicU64::new(0),
            removed_at: AtomicU64::new(u64::MAX),
            late: AtomicU64::new(0),
        }))
    }
}

impl Service<u64> for Counted {
    type Response = ();
    type Error = Infallible;
    type Future = Turns;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Turns {
        let calls = self.0.calls.fetch_add(1, SeqCst);
        if request >= self.0.removed_at.load(SeqCst) {
            self.0.late.fetch_add(1, SeqCst);
        }
        Turns(calls % 3)
    }
}

/// Answers after so many polls.
struct Turns(u64);

impl Future for Turns {
    type Output = Result<(), Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.0 == 0 {
            return Poll::Ready(Ok(()));
        }
        self.0 -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[test]
fn totals_add_up_while_endpoints_come_and_go() {
    const CALLERS: u64 = 4;
    const FOR: Duration = Duration::from_secs(2);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (feed, script) = script();
        let layer = BalanceLayer::builder().policy(RoundRobin::new());
        let balance = layer.grace(Duration::ZERO).build().unwrap();
        let balance = balance.balance_plain(script);
        let handle = balance.handle();
        let stays = Counted::new();
        feed.put("stays", stays.clone());
        handle.wait_for(|status| status.usable == 1).await.unwrap();

        let stop = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (balance, stop) = (balance.clone(), Arc::clone(&stop));
                tokio::spawn(async move {
                    let (mut sent, mut cancelled) = (0u64, 0u64);
                    while !stop.load(SeqCst) {
                        let mut request = Box::pin(balance.clone().oneshot(AGE.load(SeqCst)));
                        sent += 1;
                        if sent % 7 == 0 {
                            // Dropped where it is: in call, or after one poll.
                            if poll(&mut request).await.is_pending() {
                                cancelled += 1;
                            }
                        } else {
                            request.await.unwrap();
                        }
                        if sent % 64 == 0 {
                            tokio::task::yield_now().await;
                        }
                    }
                    (sent, cancelled)
                })
            })
            .collect();

        let began = Instant::now();
        let mut gone = Vec::new();
        let mut round = 0;
        while began.elapsed() < FOR {
            let ids: Vec<_> = (0..4).map(|n| format!("{round}-{n}")).collect();
            let come: Vec<_> = ids.iter().map(|_| Counted::new()).collect();
            for (id, service) in ids.iter().zip(&come) {
                feed.put(id, service.clone());
            }
            handle.wait_for(|status| status.usable == 5).await.unwrap();
            handle.eject(&key(&ids[0])).await.unwrap();
            for id in &ids {
                feed.say(Word::Change(Change::Remove(key(id))));
            }
            handle
                .wait_for(|status| status.endpoints == 1)
                .await
                .unwrap();
            // A request that begins from here on must not go to them. One that picked before may still
            // be on its way into `call`.
            let age = AGE.fetch_add(1, SeqCst) + 1;
            for service in &come {
                service.0.removed_at.store(age, SeqCst);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            gone.extend(come);
            round += 1;
        }
        stop.store(true, SeqCst);
        let (mut sent, mut cancelled) = (0, 0);
        for caller in callers {
            let (more, dropped) = caller.await.unwrap();
            (sent, cancelled) = (sent + more, cancelled + dropped);
        }

        assert!(
            round > 10 && sent > 1_000,
            "{round} rounds, {sent} requests"
        );
        let late: u64 = gone.iter().map(|service| service.0.late.load(SeqCst)).sum();
        assert_eq!(late, 0, "calls of endpoints that had been removed");
        let called: u64 = gone
            .iter()
            .map(|service| service.0.calls.load(SeqCst))
            .sum();
        let stays_called = stays.0.calls.load(SeqCst);
        assert_eq!(
            called + stays_called,
            sent,
            "each request went to one endpoint"
        );
        let list = handle.endpoints().await.unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].requests, stays_called);
        assert_eq!((list[0].in_flight, list[0].failures), (0, 0));
        assert!(cancelled > 0);
        // One that had requests in flight when it left is looked at every 100 ms.
        let released = || {
            gone.iter()
                .all(|service| Arc::strong_count(&service.0) == 1)
        };
        let until = Instant::now() + Duration::from_secs(10);
        while !released() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(released(), "the services of removed endpoints");
    });
}
