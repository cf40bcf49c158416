//! Our figures beside the baselines', from one run: `cargo bench --bench scoreboard [-- --json]`.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures_util::future::FutureExt;
use tower::{
    Service, ServiceExt,
    discover::ServiceList,
    load::{CompleteOnResponse, Constant, PendingRequests},
};
use tower_roster::balance::BalanceLayer;

#[derive(Clone, Copy)]
struct Noop;
impl Service<u64> for Noop {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, n: u64) -> Self::Future {
        ready(Ok(n))
    }
}

fn time(mut f: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let n = 200_000;
        let s = Instant::now();
        for _ in 0..n {
            f();
        }
        best = best.min(s.elapsed().as_nanos() as f64 / f64::from(n));
    }
    best
}

fn main() {
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    rt.block_on(async {
        if std::env::args().any(|a| a == "--profile") {
            let mut ours = BalanceLayer::new().balance_plain(ServiceList::new(vec![Noop; 10]));
            ours.ready().await.unwrap();
            let cx = &mut Context::from_waker(Waker::noop());
            for _ in 0..60_000_000 {
                let Poll::Ready(Ok(())) = Service::<u64>::poll_ready(&mut ours, cx) else {
                    panic!()
                };
                ours.call(1).now_or_never().unwrap().unwrap();
            }
            return;
        }
        for n in [2usize, 10, 100, 1000, 10_000] {
            let mut ours = BalanceLayer::new().balance_plain(ServiceList::new(vec![Noop; n]));
            ours.ready().await.unwrap();
            let cx = &mut Context::from_waker(Waker::noop());
            let t = time(|| {
                let Poll::Ready(Ok(())) = Service::<u64>::poll_ready(&mut ours, cx) else {
                    panic!()
                };
                ours.call(1).now_or_never().unwrap().unwrap();
            });
            let list: Vec<_> = (0..n)
                .map(|_| PendingRequests::new(Noop, CompleteOnResponse::default()))
                .collect();
            let mut theirs = tower::balance::p2c::Balance::new(ServiceList::new(list));
            theirs.ready().await.unwrap();
            let b = time(|| {
                let Poll::Ready(Ok(())) = Service::<u64>::poll_ready(&mut theirs, cx) else {
                    panic!()
                };
                theirs.call(1).now_or_never().unwrap().unwrap();
            });
            let list: Vec<_> = (0..n)
                .map(|_| {
                    tower::load::PeakEwma::new(
                        Noop,
                        Duration::from_millis(1),
                        1e10,
                        CompleteOnResponse::default(),
                    )
                })
                .collect();
            let mut theirs = tower::balance::p2c::Balance::new(ServiceList::new(list));
            theirs.ready().await.unwrap();
            let c = time(|| {
                let Poll::Ready(Ok(())) = Service::<u64>::poll_ready(&mut theirs, cx) else {
                    panic!()
                };
                theirs.call(1).now_or_never().unwrap().unwrap();
            });
            println!("{n}: {t:.1} ours; tower pending {b:.1}, ewma {c:.1}");
            let _ = Constant::new(1, 1);
        }
    });
}
