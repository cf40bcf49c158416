//! What came of the requests: counts, latencies, and shares by instance.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use tower_roster::{
    attempt::AttemptKind,
    classify::ResponseStatus,
    client::Handles,
    service::{
        breaker::{BreakerHandle, BreakerTransition},
        retry::RetryBudget,
    },
    telemetry::{AttemptInfo, End, Ended, Monitor, RequestInfo},
};

use super::latency::{self, InstanceRow};

/// Counts requests. Shared by all callers of a program.
pub struct Figures(Mutex<Inner>);

struct Inner {
    began: Instant,
    requests: u64,
    ok: u64,
    errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    instances: BTreeMap<String, PerInstance>,
    /// Of the answers of each instance. Apart from the rest, which is copied for each frame of a table.
    latencies: BTreeMap<String, Histogram<u64>>,
    retries: u64,
    hedges: u64,
    ejections: u64,
    restorations: u64,
    transitions: Vec<Transition>,
}

/// What one instance did.
#[derive(Clone)]
pub struct PerInstance {
    /// Requests that it answered, or that were sent to it last and failed.
    pub requests: u64,
    /// All that was sent to it: first attempts, retries and hedges.
    pub attempts: u64,
    pub failed: u64,
    /// When the attempts that failed were sent, and when they failed.
    pub failures: Vec<(Instant, Instant)>,
    /// Since the last look.
    pub recent: Recent,
}

/// What happened since the last look.
#[derive(Clone, Default)]
pub struct Recent {
    pub attempts: u64,
}

/// The summary that `--json` prints.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub requests: u64,
    pub ok: u64,
    pub failed: u64,
    /// Requests that the rate asked for and that could not be sent in time.
    pub unsent: u64,
    pub errors: BTreeMap<String, u64>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub p9999_ms: f64,
    /// Each request once, with the instance that answered it or was the last to fail it.
    pub per_instance: BTreeMap<String, u64>,
    /// All that was sent to each instance: first attempts, retries and hedges.
    pub attempts: BTreeMap<String, u64>,
    /// Those of them that failed; an attempt that was given up did not.
    pub failed_attempts: BTreeMap<String, u64>,
    /// Attempts after one that failed.
    pub retries: u64,
    /// Attempts beside one that was slow.
    pub hedges: u64,
    /// Retries and hedges for which the budget had nothing left.
    pub budget_refused: u64,
    pub ejections: u64,
    pub restorations: u64,
    pub breaker: Breaker,
}

#[derive(Debug, Serialize)]
pub struct Breaker {
    /// `None` without a breaker.
    pub state: Option<&'static str>,
    /// Calls that it refused.
    pub refused: u64,
    pub transitions: Vec<Transition>,
}

/// A change of the breaker's state.
#[derive(Clone, Debug, Serialize)]
pub struct Transition {
    pub at_ms: u64,
    pub from: &'static str,
    pub to: &'static str,
    pub cause: String,
}

/// Microseconds up to a minute, to three digits.
fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new(3).unwrap_or_else(|_| unreachable!("3 digits are allowed"));
    histogram.auto(true);
    histogram
}

fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros())
        .unwrap_or(u64::MAX)
        .max(1)
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}

impl Inner {
    fn instance(&mut self, id: &str) -> &mut PerInstance {
        let new = || PerInstance {
            requests: 0,
            attempts: 0,
            failed: 0,
            failures: Vec::new(),
            recent: Recent::default(),
        };
        self.instances.entry(id.to_owned()).or_insert_with(new)
    }
}

impl Figures {
    pub fn new() -> Self {
        Self(Mutex::new(Inner {
            began: Instant::now(),
            requests: 0,
            ok: 0,
            errors: BTreeMap::new(),
            latency: histogram(),
            instances: BTreeMap::new(),
            latencies: BTreeMap::new(),
            retries: 0,
            hedges: 0,
            ejections: 0,
            restorations: 0,
            transitions: Vec::new(),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note_ejection(&self) {
        self.inner().ejections += 1;
    }

    pub fn note_restoration(&self) {
        self.inner().restorations += 1;
    }

    /// Notes a change of the breaker's state, with its cause in words.
    pub fn note_transition(&self, transition: BreakerTransition, cause: String) {
        let mut inner = self.inner();
        let at = transition.at.into_std().duration_since(inner.began);
        inner.transitions.push(Transition {
            at_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            from: transition.from.as_str(),
            to: transition.to.as_str(),
            cause,
        });
    }

    /// Each instance, with what happened since the last call of this.
    pub fn look(&self) -> BTreeMap<String, PerInstance> {
        let mut inner = self.inner();
        let seen = inner.instances.clone();
        for instance in inner.instances.values_mut() {
            instance.recent = Recent::default();
        }
        seen
    }

    /// The quantiles of the latency, in one line.
    pub fn quantiles(&self) -> String {
        latency::quantiles(&self.inner().latency)
    }

    /// A histogram of the latency, and a row for each instance.
    pub fn latencies(&self) -> (Vec<String>, Vec<String>) {
        let inner = self.inner();
        let rows = inner.instances.iter().map(|(id, instance)| {
            let latency = inner.latencies.get(id);
            let row = InstanceRow {
                requests: instance.requests,
                sent: instance.attempts,
                failed: instance.failed,
                latency: latency.map(|it| [0.5, 0.99, 0.999].map(|q| it.value_at_quantile(q))),
            };
            (id.clone(), row)
        });
        (
            latency::histogram(&inner.latency),
            latency::rows(&rows.collect()),
        )
    }

    /// What came of it, with what the parts of the stack have counted.
    pub fn summary(&self, handles: &Handles) -> Summary {
        let inner = self.inner();
        let breaker = handles.breaker.as_ref();
        let quantile = |q| ms(inner.latency.value_at_quantile(q));
        let counts = |of: fn(&PerInstance) -> u64| {
            let counts = inner.instances.iter().map(|(id, it)| (id.clone(), of(it)));
            counts.filter(|(_, count)| *count > 0).collect()
        };
        Summary {
            requests: inner.requests,
            ok: inner.ok,
            failed: inner.requests - inner.ok,
            unsent: 0,
            errors: inner.errors.clone(),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            p999_ms: quantile(0.999),
            p9999_ms: quantile(0.9999),
            per_instance: counts(|of| of.requests),
            attempts: counts(|of| of.attempts),
            failed_attempts: counts(|of| of.failed),
            retries: inner.retries,
            hedges: inner.hedges,
            budget_refused: handles.budget.as_ref().map_or(0, RetryBudget::refused),
            ejections: inner.ejections,
            restorations: inner.restorations,
            breaker: Breaker {
                state: breaker.map(|breaker| breaker.state().as_str()),
                refused: breaker.map_or(0, BreakerHandle::refused),
                transitions: inner.transitions.clone(),
            },
        }
    }
}

/// The kind of failure of a request or an attempt; `None` if it did not fail.
fn failure(end: &End) -> Option<String> {
    match (end.ended, end.status) {
        (Ended::Answered(_), Some(ResponseStatus::Http(status @ 500..))) => {
            Some(format!("http_{status}"))
        }
        // The caller stopped to read the body at its timeout.
        (Ended::Answered(_), _) => end.to_end.is_none().then(|| "timeout".to_owned()),
        (Ended::Failed(_), _) if end.to_head.is_some() => Some("body".to_owned()),
        (ended, _) => Some(ended.to_string()),
    }
}

impl Monitor for Figures {
    fn attempt_began(&self, attempt: &AttemptInfo<'_>) {
        let mut inner = self.inner();
        match attempt.kind {
            AttemptKind::Retry => inner.retries += 1,
            AttemptKind::Hedge => inner.hedges += 1,
            _ => {}
        }
        let instance = inner.instance(attempt.endpoint.key().id());
        instance.attempts += 1;
        instance.recent.attempts += 1;
    }

    fn attempt_ended(&self, attempt: &AttemptInfo<'_>, end: &End) {
        // An attempt that was given up proves nothing.
        let abandoned = matches!(end.ended, Ended::Abandoned(_));
        // A failed response is dropped before its end, when its request is sent again.
        if abandoned {
            return;
        }
        let (id, now) = (attempt.endpoint.key().id(), Instant::now());
        let mut inner = self.inner();
        if end.is_failure() {
            let instance = inner.instance(id);
            instance.failed += 1;
            instance.failures.push((now - end.elapsed, now));
        } else if let Some(head) = end.to_head {
            let latencies = inner.latencies.entry(id.to_owned());
            let latencies = latencies.or_insert_with(histogram);
            let _ = latencies.record(micros(head));
        }
    }

    fn request_ended(&self, request: &RequestInfo<'_>, end: &End) {
        let mut inner = self.inner();
        inner.requests += 1;
        let _ = inner.latency.record(micros(end.elapsed));
        match failure(end) {
            None => inner.ok += 1,
            Some(kind) => *inner.errors.entry(kind).or_default() += 1,
        }
        if let Some(endpoint) = request.endpoint {
            inner.instance(endpoint.key().id()).requests += 1;
        }
    }
}
