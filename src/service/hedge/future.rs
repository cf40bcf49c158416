//! The attempts that run beside each other.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::Service;

use super::{
    latency::Latencies,
    layer::{Delay, Settings},
};
use crate::{
    attempt::Tried,
    backoff::after,
    classify::{Classify, Outcome},
    service::retry::{Reissue, RetryBudget, is_retry},
};

/// A request and the attempts that run for it.
///
/// # Cancel safety
/// Dropping it drops all attempts.
#[pin_project]
pub struct ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    /// Gone when it has failed.
    #[pin]
    first: Option<S::Future>,
    /// Of the first.
    watch: Option<Watch>,
    /// The others. Boxed, since few requests have any.
    extras: Vec<Extra<S::Future>>,
    /// What a further attempt is made with; gone when there will be none.
    plan: Option<Plan<S, R::Spare>>,
    /// What an attempt failed with that others may make good.
    failure: Option<Result<S::Response, S::Error>>,
    tried: Tried,
    sleep: Option<Pin<Box<Sleep>>>,
    reissue: R,
    classify: C,
}

struct Extra<F> {
    future: Pin<Box<F>>,
    watch: Option<Watch>,
}

struct Plan<S, Spare> {
    service: S,
    spare: Spare,
    budget: RetryBudget,
    delay: Delay,
    every: Duration,
    next: Instant,
    left: u32,
}

/// Measures an attempt.
struct Watch {
    latencies: Arc<Latencies>,
    start: Instant,
    recorded: bool,
}

impl<S, Req, R, C> ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    pub(super) fn new(
        mut service: S,
        reissue: R,
        classify: C,
        settings: &Settings,
        request: Req,
    ) -> Self {
        let (request, spare) = reissue.prepare(request);
        let now = Instant::now();
        let again = is_retry();
        if settings.deposits && !again {
            settings.budget.deposit(now);
        }
        // Those that are never hedged may be slow in their own way.
        let spare = spare.filter(|spare| reissue.is_idempotent(spare));
        let watch = spare.as_ref().and_then(|_| settings.delay.watch(now));
        let mut tried = Tried::new();
        let first = within(&mut tried, || service.call(request));
        let hedge = spare.filter(|_| !again).zip(settings.delay.get(now));
        let plan = hedge.map(|(spare, every)| Plan {
            service,
            spare,
            budget: settings.budget.clone(),
            delay: settings.delay.clone(),
            every,
            next: after(now, every),
            left: settings.max_extra.get(),
        });
        Self {
            first: Some(first),
            watch,
            extras: Vec::new(),
            plan,
            failure: None,
            tried,
            sleep: None,
            reissue,
            classify,
        }
    }
}

impl<S, Req, R, C> Future for ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
    C: Classify<S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            if let Some(first) = this.first.as_mut().as_pin_mut() {
                if let Poll::Ready(result) = within(this.tried, || first.poll(cx)) {
                    if has_won(this.classify, &result) {
                        finish(this.watch.take());
                        // The others are given up at once, not when the caller gets to it.
                        this.first.set(None);
                        this.extras.clear();
                        return Poll::Ready(result);
                    }
                    forget(this.watch.take());
                    this.first.set(None);
                    keep(this.failure, result);
                }
            }
            let mut index = 0;
            while let Some(extra) = this.extras.get_mut(index) {
                let future = extra.future.as_mut();
                match within(this.tried, || future.poll(cx)) {
                    Poll::Pending => index += 1,
                    Poll::Ready(result) => {
                        let extra = this.extras.swap_remove(index);
                        if has_won(this.classify, &result) {
                            finish(extra.watch);
                            this.first.set(None);
                            *this.watch = None;
                            this.extras.clear();
                            return Poll::Ready(result);
                        }
                        forget(extra.watch);
                        keep(this.failure, result);
                    }
                }
            }
            if this.first.is_none() && this.extras.is_empty() {
                let failure = this.failure.take();
                return Poll::Ready(failure.expect("not polled after it was done"));
            }
            if this.failure.is_some() {
                // Trying on after a failure is for a retry.
                *this.plan = None;
            }
            ready!(self.as_mut().poll_next(cx));
        }
    }
}

impl<S, Req, R, C> ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    /// Starts another attempt when it is time. Ready when one was started.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let Some(plan) = this.plan else {
            return Poll::Pending;
        };
        let next = plan.next;
        let sleep = this
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(next)));
        if sleep.deadline() != next {
            sleep.as_mut().reset(next);
        }
        ready!(sleep.as_mut().poll(cx));
        let service = &mut plan.service;
        let started = match ready!(within(this.tried, || service.poll_ready(cx))) {
            Ok(()) => plan.start(this.reissue, this.tried),
            Err(_) => None, // the attempts that run have nothing to do with it
        };
        match started {
            Some(extra) => {
                this.extras.push(extra);
                plan.left -= 1;
                plan.next = after(plan.next, plan.every);
                if plan.left == 0 {
                    *this.plan = None;
                }
                Poll::Ready(())
            }
            None => {
                *this.plan = None;
                Poll::Pending
            }
        }
    }
}

impl<S, Spare> Plan<S, Spare> {
    /// Starts another attempt. The service is ready.
    fn start<Req, R>(&mut self, reissue: &R, tried: &mut Tried) -> Option<Extra<S::Future>>
    where
        R: Reissue<Req, Spare = Spare>,
        S: Service<R::Request>,
    {
        let now = Instant::now();
        if !reissue.is_whole(&self.spare) || !self.budget.withdraw(now) {
            return None;
        }
        let request = reissue.reissue(&self.spare)?;
        tracing::debug!(after = ?self.every, "request is sent a second time");
        let service = &mut self.service;
        Some(Extra {
            future: Box::pin(within(tried, || service.call(request))),
            watch: self.delay.watch(now),
        })
    }
}

impl Delay {
    fn watch(&self, start: Instant) -> Option<Watch> {
        match self {
            Self::Fixed(_) => None,
            Self::Measured(latencies) => Some(Watch {
                latencies: latencies.clone(),
                start,
                recorded: false,
            }),
        }
    }
}

/// Runs a part of an attempt. Below a retry all attempts share what that has tried: it should learn of
/// the endpoints, too.
fn within<T>(tried: &mut Tried, attempt: impl FnOnce() -> T) -> T {
    if Tried::current().is_none() {
        return tried.enter(attempt);
    }
    let result = attempt();
    *tried = Tried::current().unwrap_or_default();
    result
}

fn has_won<T, E>(classify: &impl Classify<T, E>, result: &Result<T, E>) -> bool {
    match classify.judge(result.as_ref()) {
        Some(verdict) => !matches!(verdict.outcome, Outcome::Failure | Outcome::Overloaded),
        None => true,
    }
}

/// Keeps the better of two failures.
fn keep<T, E>(kept: &mut Option<Result<T, E>>, result: Result<T, E>) {
    let better = result.is_ok() && matches!(kept, Some(Err(_)));
    if kept.is_none() || better {
        *kept = Some(result);
    }
}

/// Records an attempt that succeeded.
fn finish(watch: Option<Watch>) {
    if let Some(watch) = watch {
        let now = Instant::now();
        let latency = now.saturating_duration_since(watch.start);
        watch.latencies.record(latency, now);
        forget(Some(watch));
    }
}

/// Lets go of an attempt without recording it.
fn forget(watch: Option<Watch>) {
    if let Some(mut watch) = watch {
        watch.recorded = true;
    }
}

impl Drop for Watch {
    /// An attempt that is dropped would have taken longer. If it took long already, that counts; else
    /// nothing is known.
    fn drop(&mut self) {
        if self.recorded {
            return;
        }
        let now = Instant::now();
        let latency = now.saturating_duration_since(self.start);
        if self.latencies.is_slow(latency, now) {
            self.latencies.record(latency, now);
        }
    }
}

impl<S, Req, R, C> fmt::Debug for ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("extras", &self.extras.len())
            .finish_non_exhaustive()
    }
}
