//! When the next attempt is due, and how it is started and measured.

use std::{pin::Pin, time::Duration};

use tokio::time::Instant;
use tower::Service;

use super::{
    latency::{Latencies, SHORTEST},
    shared::HedgeShared,
};
use crate::{
    attempt::{AttemptKind, Tried},
    backoff::after,
    classify::{self, Classify, Excuse, Outcome},
    service::retry::{Reissue, RetryBudget},
};

/// For how long a hedge is put off at most, unless its delay is longer: the shortest slot of a budget, a
/// tenth of a second. A budget that time refills gets its next attempt with a new slot.
const LONGEST_PUT_OFF: Duration = Duration::from_millis(100);

/// What further attempts of a request are made from, and when the next one is due.
pub(super) struct HedgePlan<S, Spare> {
    pub(super) service: S,
    pub(super) spare: Spare,
    pub(super) delay: Duration,
    pub(super) next: Instant,
    /// When the caller stops waiting.
    pub(super) end: Option<Instant>,
    /// How long the next attempt was put off last, because the budget was used up.
    pub(super) put_off: Option<Duration>,
    /// Whether a budget has counted the refusal.
    pub(super) refused: bool,
}

/// Measures the latency of an attempt.
#[derive(Clone, Copy)]
pub(super) struct AttemptTimer {
    pub(super) start: Instant,
    /// Whether the attempt is in flight and its latency counts.
    pub(super) runs: bool,
}

impl<S, Spare> HedgePlan<S, Spare> {
    /// Whether the caller no longer waits at a time.
    pub(super) fn is_over(&self, at: Instant) -> bool {
        self.end.is_some_and(|end| at >= end)
    }

    /// Puts the next attempt off, because a budget is used up: for the delay at first, then for twice
    /// as long each time. It does not wait beyond the time from which the request hangs
    /// (`hangs_at`), because another rule holds from then on.
    pub(super) fn put_off(&mut self, empty: &RetryBudget, now: Instant, hangs_at: Option<Instant>) {
        if !self.refused {
            self.refused = true;
            empty.count_refusal();
        }
        let first = self.delay.max(SHORTEST);
        let wait = self.put_off.map_or(first, |last| {
            last.saturating_mul(2).min(LONGEST_PUT_OFF).max(first)
        });
        self.put_off = Some(wait);
        let next = after(now, wait);
        self.next = hangs_at.map_or(next, |hangs_at| next.min(hangs_at));
    }

    /// Starts another attempt, which is paid for. The service is ready.
    pub(super) fn start<Req, R, C>(
        &mut self,
        shared: &HedgeShared<R, C>,
        tried: &mut Tried,
        now: Instant,
    ) -> Option<(Pin<Box<S::Future>>, AttemptTimer)>
    where
        R: Reissue<Req, Spare = Spare>,
        S: Service<R::Request>,
    {
        let request = shared.reissue.reissue(&self.spare)?;
        tracing::debug!(after = ?self.delay, "request is sent a second time");
        let service = &mut self.service;
        let call = || within(tried, || service.call(request));
        let future = Box::pin(AttemptKind::Hedge.enter(call));
        let watch = AttemptTimer {
            start: now,
            runs: true,
        };
        Some((future, watch))
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The endpoint has answered; the caller gets its answer.
    Answered,
    /// The deadline of the request passed, or no endpoint can take it: another attempt is no use.
    Over,
    /// Another attempt may do better.
    Failed,
}

impl End {
    /// Judges the result of an attempt right after its poll.
    #[inline]
    pub(super) fn of<T, E>(classify: &impl Classify<T, E>, result: &Result<T, E>) -> Self {
        let verdict = classify.judge(result.as_ref());
        let excuse = result.as_ref().err().and_then(|_| classify::noted());
        match (excuse, verdict.map(|verdict| verdict.outcome)) {
            (Some(Excuse::OverLimit), _) => Self::Answered,
            (Some(Excuse::Invalid | Excuse::Deadline(_)), _) => Self::Over,
            (None, Some(Outcome::Failure | Outcome::Overloaded)) => Self::Failed,
            (None, _) => Self::Answered,
        }
    }
}

impl AttemptTimer {
    /// Records the latency of an attempt whose result the caller gets.
    pub(super) fn ended(&mut self, end: End, latencies: Option<&Latencies>) {
        match end {
            End::Answered => self.won(latencies),
            // How long a caller waits says nothing about the latency.
            End::Over | End::Failed => self.dropped(latencies),
        }
    }

    fn won(&mut self, latencies: Option<&Latencies>) {
        if let (true, Some(latencies)) = (self.runs, latencies) {
            let now = Instant::now();
            latencies.record(now.saturating_duration_since(self.start), now);
        }
        self.runs = false;
    }

    pub(super) fn dropped(&mut self, latencies: Option<&Latencies>) {
        if let (true, Some(latencies)) = (self.runs, latencies) {
            let now = Instant::now();
            let latency = now.saturating_duration_since(self.start);
            if latencies.is_slow(latency, now) {
                latencies.record(latency, now);
            }
        }
        self.runs = false;
    }
}

/// Runs a part of an attempt. Below a retry, all attempts share the `Tried` of the retry, so that
/// later retries avoid these endpoints too.
pub(super) fn within<T>(tried: &mut Tried, attempt: impl FnOnce() -> T) -> T {
    if Tried::current().is_none() {
        return tried.enter(attempt);
    }
    let result = attempt();
    *tried = Tried::current().unwrap_or_default();
    result
}
