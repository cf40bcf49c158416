//! The attempts of one request, which run side by side.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project::{pin_project, pinned_drop};
use tokio::time::Instant;
use tower::Service;

use super::{
    plan::{AttemptTimer, End, HedgePlan, within},
    shared::{HedgeShared, hangs_after},
};
use crate::{
    alarm::Alarm,
    attempt::{self, Abandoned, AttemptKind, Tried},
    backoff::after,
    classify::{self, Classify},
    deadline::Deadline,
    service::retry::Reissue,
};

/// A request and its attempts.
///
/// # Cancel safety
/// Dropping it drops all attempts.
#[pin_project(PinnedDrop)]
pub struct ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    /// `None` after it has failed.
    #[pin]
    first: Option<S::Future>,
    /// `None` for a request that cannot be hedged.
    hedged: Option<Hedged<R, C>>,
    tried: Tried,
    /// What further attempts are made from; `None` when there will be none.
    plan: Option<HedgePlan<S, R::Spare>>,
    /// Waits for the start of the next attempt. Set only when the response is not ready at once.
    alarm: Alarm,
    /// State that few requests need. It is boxed, so that other requests do not carry it.
    rare: Rare<S::Future, Result<S::Response, S::Error>>,
}

/// State of a request that can be hedged.
struct Hedged<R, C> {
    shared: Arc<HedgeShared<R, C>>,
    /// Measures the first attempt.
    watch: AttemptTimer,
}

struct Rare<F, T>(Option<Box<Beside<F, T>>>);

/// The state of a request after its first hedge or failed attempt.
struct Beside<F, T> {
    extras: Vec<(Pin<Box<F>>, AttemptTimer)>,
    /// How many attempts were started beside the first.
    started: u32,
    /// How many attempts failed while others ran.
    failures: u32,
    /// The result of a failed attempt, while other attempts may still succeed.
    failure: Option<T>,
}

impl<S, Req, R, C> ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    #[inline]
    pub(super) fn new(mut service: S, shared: &Arc<HedgeShared<R, C>>, request: Req) -> Self {
        let deadline = shared.reissue.deadline(&request);
        let (request, spare) = shared.reissue.prepare(request);
        // Requests that are never hedged are not measured, because their latencies may differ.
        let Some(spare) =
            spare.filter(|spare| shared.enabled && shared.reissue.is_idempotent(spare))
        else {
            return Self::alone(service.call(request));
        };
        let now = attempt::now();
        shared.budget.deposit(now);
        let mut tried = Tried::new();
        let first = within(&mut tried, || attempt::at(now, || service.call(request)));
        // A retry is hedged too: it may hang, and no layer above would replace it. The budget
        // bounds the sum.
        let delay = shared.delay.get(now);
        let plan = delay.map(|delay| HedgePlan {
            service,
            spare,
            delay,
            next: after(now, delay),
            end: deadline.map(Deadline::instant),
            put_off: None,
            refused: false,
        });
        let plan = plan.filter(|plan| !plan.is_over(plan.next));
        let watch = AttemptTimer {
            start: now,
            runs: true,
        };
        Self {
            first: Some(first),
            hedged: Some(Hedged {
                shared: Arc::clone(shared),
                watch,
            }),
            tried,
            plan,
            alarm: Alarm::default(),
            rare: Rare(None),
        }
    }

    /// A request that cannot be hedged.
    #[inline]
    fn alone(first: S::Future) -> Self {
        Self {
            first: Some(first),
            hedged: None,
            tried: Tried::new(),
            plan: None,
            alarm: Alarm::default(),
            rare: Rare(None),
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

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            let first = this.first.as_mut().as_pin_mut();
            let Some(hedged) = this.hedged else {
                return first.expect("not polled after it was done").poll(cx);
            };
            if let Some(first) = first
                && let Poll::Ready(result) = polled(this.tried, || first.poll(cx))
            {
                this.first.set(None);
                let end = End::of(&hedged.shared.classify, &result);
                if end != End::Failed {
                    hedged.watch.ended(end, hedged.shared.delay.latencies());
                    // Drops the other attempts now, not when the caller drops this future.
                    self.drop_others();
                    return Poll::Ready(result);
                }
                hedged.watch.runs = false;
                this.rare.keep(result);
            }
            if this.rare.0.is_some()
                && let Poll::Ready(result) = self.as_mut().poll_extras(cx)
            {
                self.drop_others();
                return Poll::Ready(result);
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
    /// Polls the attempts beside the first. Ready when one has won, or when all have failed.
    #[cold]
    fn poll_extras(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>>
    where
        C: Classify<S::Response, S::Error>,
    {
        let this = self.project();
        let (Some(beside), Some(hedged)) = (&mut this.rare.0, &*this.hedged) else {
            return Poll::Pending;
        };
        let shared = &*hedged.shared;
        let mut index = 0;
        while let Some((extra, watch)) = beside.extras.get_mut(index) {
            let poll = || polled(this.tried, || extra.as_mut().poll(cx));
            let Poll::Ready(result) = AttemptKind::Hedge.enter(poll) else {
                index += 1;
                continue;
            };
            let end = End::of(&shared.classify, &result);
            if end != End::Failed {
                watch.ended(end, shared.delay.latencies());
                return Poll::Ready(result);
            }
            drop(beside.extras.swap_remove(index));
            beside.keep(result);
        }
        if this.first.is_none() && beside.extras.is_empty() {
            let failure = beside.failure.take();
            return Poll::Ready(failure.expect("not polled after it was done"));
        }
        Poll::Pending
    }

    /// Starts another attempt when it is due. Ready when one was started, or put off.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let (Some(plan), Some(hedged)) = (&mut *this.plan, &*this.hedged) else {
            return Poll::Pending;
        };
        let (shared, start) = (&*hedged.shared, hedged.watch.start);
        if let Some(beside) = &this.rare.0 {
            // A failed attempt may be replaced, because the attempt that is left may hang.
            let most = shared.max_extra.get();
            let failed = beside.failures.min(most);
            if beside.started >= most.saturating_add(failed) {
                return Poll::Pending;
            }
        }
        let next = plan.next;
        if plan.is_over(next) {
            *this.plan = None;
            return Poll::Pending;
        }
        // A delay of zero needs no alarm.
        if next > start {
            ready!(this.alarm.poll(&shared.alarms, next, cx));
        }
        // Checked before `poll_ready`, which may reserve something. A request that hangs later gets
        // its hedge then.
        let now = Instant::now();
        let waited = now.saturating_duration_since(start);
        let hangs_after = hangs_after(plan.delay);
        let rescues = waited >= hangs_after;
        let hangs_at = (!rescues).then(|| after(start, hangs_after));
        if let Err(empty) = shared.can_pay(now, rescues) {
            plan.put_off(empty, now, hangs_at);
            return Poll::Ready(());
        }
        let service = &mut plan.service;
        let ready = ready!(within(this.tried, || service.poll_ready(cx)));
        // The attempts in flight are not affected by an error, or by a body that cannot be repeated.
        if ready.is_err() || !shared.reissue.is_whole(&plan.spare) {
            *this.plan = None;
            return Poll::Pending;
        }
        // Another request may have used up the budget since the check.
        let now = Instant::now();
        if plan.is_over(now) {
            *this.plan = None;
            return Poll::Pending;
        }
        if let Err(empty) = shared.pay(now, rescues) {
            plan.put_off(empty, now, hangs_at);
            return Poll::Ready(());
        }
        let Some(extra) = plan.start(shared, this.tried, now) else {
            *this.plan = None;
            return Poll::Pending;
        };
        let beside = this.rare.0.get_or_insert_default();
        beside.extras.push(extra);
        beside.started += 1;
        plan.next = after(plan.next, plan.delay);
        plan.put_off = None;
        Poll::Ready(())
    }

    /// Drops the attempts that another one of this request has beaten.
    #[inline]
    fn drop_others(self: Pin<&mut Self>) {
        if self.rare.0.is_some() {
            Abandoned::HedgeLost.during(|| self.give_up());
        } else {
            self.give_up();
        }
    }

    /// Drops all attempts. The latency of an attempt that was already slow is recorded; the
    /// latencies of the others are unknown.
    fn give_up(self: Pin<&mut Self>) {
        let mut this = self.project();
        let Some(hedged) = this.hedged else {
            return;
        };
        this.first.set(None);
        *this.plan = None;
        *this.alarm = Alarm::default();
        let latencies = hedged.shared.delay.latencies();
        hedged.watch.dropped(latencies);
        if let Some(beside) = &mut this.rare.0 {
            for (extra, mut watch) in beside.extras.drain(..) {
                drop(extra);
                watch.dropped(latencies);
            }
        }
    }
}

#[pinned_drop]
impl<S, Req, R, C> PinnedDrop for ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    fn drop(self: Pin<&mut Self>) {
        self.give_up();
    }
}

impl<F, T, E> Rare<F, Result<T, E>> {
    fn keep(&mut self, result: Result<T, E>) {
        self.0.get_or_insert_default().keep(result);
    }
}

impl<F, T, E> Beside<F, Result<T, E>> {
    /// Keeps the more useful of two failures: a response, else the first error.
    fn keep(&mut self, result: Result<T, E>) {
        self.failures = self.failures.saturating_add(1);
        let better = result.is_ok() && matches!(self.failure, Some(Err(_)));
        if self.failure.is_none() || better {
            self.failure = Some(result);
        }
    }
}

impl<F, T> Default for Beside<F, T> {
    fn default() -> Self {
        Self {
            extras: Vec::new(),
            started: 0,
            failures: 0,
            failure: None,
        }
    }
}

/// Polls an attempt. [`End::of`] has to follow if it is done.
#[inline]
fn polled<T>(tried: &mut Tried, attempt: impl FnOnce() -> T) -> T {
    classify::forget();
    within(tried, attempt)
}

impl<S, Req, R, C> fmt::Debug for ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extras = self.rare.0.as_ref().map_or(0, |beside| beside.extras.len());
        f.debug_struct("ResponseFuture")
            .field("extras", &extras)
            .finish_non_exhaustive()
    }
}
