//! How all figures are taken: in rounds that alternate, so that what else the machine does hits both.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use tower::Service;

/// How much to measure.
#[derive(Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    /// Requests in one round of what takes tens of nanoseconds.
    pub requests: u32,
    /// One round of what is measured by time.
    pub time: Duration,
}

impl Effort {
    pub const FULL: Self = Self {
        rounds: 11,
        requests: 50_000,
        time: Duration::from_millis(200),
    };
    /// Shows that everything runs; its figures say nothing.
    pub const TEST: Self = Self {
        rounds: 1,
        requests: 100,
        time: Duration::from_millis(10),
    };
}

/// One figure for each round.
#[derive(Clone, Debug)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share).round() as usize]
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The middle half of the rounds.
    pub fn spread(&self) -> [f64; 2] {
        [self.quantile(0.25), self.quantile(0.75)]
    }

    /// The ratio of each round: what disturbed one of the two mostly disturbed the other.
    pub fn per(&self, other: &Self) -> Self {
        let ratios = self.0.iter().zip(&other.0).map(|(a, b)| a / b);
        Self(ratios.collect())
    }
}

/// Measures one round.
pub type Contender<'a> = Box<dyn FnMut() -> f64 + 'a>;

/// Lets all take their turn in each round, every other round backwards.
pub fn interleave(rounds: usize, mut contenders: Vec<Contender<'_>>) -> Vec<Samples> {
    let mut samples = vec![Samples(Vec::new()); contenders.len()];
    // Not counted: it fills caches.
    for contender in &mut contenders {
        contender();
    }
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let sample = contenders[index]();
            samples[index].0.push(sample);
        }
    }
    samples
}

/// Nanoseconds for one request, from `poll_ready` to its answer, one after the other. The future is
/// polled where it was made, as in an `async` block: moving it would cost the larger one more.
///
/// As many go before and are not timed: who measured between two rounds has filled the caches.
#[inline(never)]
pub fn requests<S: Service<u64>>(service: &mut S, count: u32) -> f64 {
    let cx = &mut Context::from_waker(Waker::noop());
    let mut started = Instant::now();
    // One loop for both, so that it is the only caller of what it calls, as a user's code mostly is.
    for _ in ["before", "timed"] {
        started = Instant::now();
        for n in 0..count {
            one(service, n.into(), cx);
        }
    }
    started.elapsed().as_nanos() as f64 / f64::from(count)
}

#[inline]
pub fn one<S: Service<u64>>(service: &mut S, n: u64, cx: &mut Context<'_>) {
    let Poll::Ready(Ok(())) = service.poll_ready(cx) else {
        panic!("a service of no-ops is ready");
    };
    let future = pin!(service.call(n));
    let Poll::Ready(Ok(answer)) = future.poll(cx) else {
        panic!("a no-op answers at once");
    };
    black_box(answer);
}

/// Heap allocations of one request.
pub fn allocations<S: Service<u64>>(service: &mut S) -> Samples {
    requests(service, 1_000);
    let counted = allocation_counter::measure(|| {
        requests(service, 1_000);
    });
    Samples(vec![counted.count_total as f64 / 2e3])
}

/// Answers at once.
#[derive(Clone, Copy, Debug)]
pub struct Noop;

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

/// A runtime in this thread.
pub fn here() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// A runtime of so many threads.
pub fn threads(threads: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all();
    builder.build().expect("a runtime")
}

/// The time that this thread has run for.
pub fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("a clock")
        .into()
}
