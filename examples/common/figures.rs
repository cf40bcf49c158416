//! What came of the requests: counts, latencies, and shares by instance.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use tower_roster::{instance::Key, service::breaker};

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
            ejections: 0,
            restorations: 0,
            transitions: Vec::new(),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request as the caller saw it, with the instance that it went to, if to any.
    pub fn note(&self, latency: Duration, error: Option<&str>, instance: Option<&Key>) {
        let mut inner = self.inner();
        inner.requests += 1;
        let _ = inner.latency.record(micros(latency));
        match error {
            None => inner.ok += 1,
            Some(kind) => *inner.errors.entry(kind.to_owned()).or_default() += 1,
        }
        if let Some(key) = instance {
            inner.instance(key.id()).requests += 1;
        }
    }

    pub fn note_ejection(&self) {
        self.inner().ejections += 1;
    }

    pub fn note_restoration(&self) {
        self.inner().restorations += 1;
    }

    /// Notes a change of the breaker's state, with its cause in words.
    pub fn note_transition(&self, transition: breaker::BreakerTransition, cause: String) {
        let mut inner = self.inner();
        let at = transition.at.into_std().duration_since(inner.began);
        inner.transitions.push(Transition {
            at_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            from: transition.from.as_str(),
            to: transition.to.as_str(),
            cause,
        });
    }

    /// Notes that a request was sent to an instance.
    pub fn note_sent(&self, id: &str) {
        let mut inner = self.inner();
        let instance = inner.instance(id);
        instance.attempts += 1;
        instance.recent.attempts += 1;
    }

    /// Notes the answer of an instance, or its failure.
    pub fn note_answer(&self, id: &str, sent: Instant, ok: bool) {
        let now = Instant::now();
        let mut inner = self.inner();
        let instance = inner.instance(id);
        if !ok {
            instance.failed += 1;
            instance.failures.push((sent, now));
            return;
        }
        let latencies = inner.latencies.entry(id.to_owned());
        let _ = latencies
            .or_insert_with(histogram)
            .record(micros(now.duration_since(sent)));
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

    /// What came of it, without what only the stack knows.
    pub fn summary(&self) -> Summary {
        let inner = self.inner();
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
            retries: 0,
            hedges: 0,
            budget_refused: 0,
            ejections: inner.ejections,
            restorations: inner.restorations,
            breaker: Breaker {
                state: None,
                refused: 0,
                transitions: inner.transitions.clone(),
            },
        }
    }
}
