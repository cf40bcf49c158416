//! What came of the requests: counts, latencies, and shares by instance.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Counts requests. Shared by all callers of a program.
pub struct Figures(Mutex<Inner>);

struct Inner {
    requests: u64,
    ok: u64,
    errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    instances: BTreeMap<String, PerInstance>,
}

/// What one instance did.
#[derive(Clone)]
pub struct PerInstance {
    pub requests: u64,
    pub failed: u64,
    /// When the requests that failed were sent, and when they failed.
    pub failures: Vec<(Instant, Instant)>,
    /// Since the last look.
    pub recent: Recent,
}

/// What happened since the last look.
#[derive(Clone)]
pub struct Recent {
    pub requests: u64,
    latency: Histogram<u64>,
}

impl Recent {
    fn new() -> Self {
        Self {
            requests: 0,
            latency: histogram(),
        }
    }

    pub fn answers(&self) -> u64 {
        self.latency.len()
    }

    /// A quantile of the latency in ms; `None` without answers.
    pub fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        (!self.latency.is_empty()).then(|| ms(self.latency.value_at_quantile(quantile)))
    }
}

/// The summary that `--json` prints.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub requests: u64,
    pub ok: u64,
    pub failed: u64,
    pub errors: BTreeMap<String, u64>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub per_instance: BTreeMap<String, u64>,
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
            failed: 0,
            failures: Vec::new(),
            recent: Recent::new(),
        };
        self.instances.entry(id.to_owned()).or_insert_with(new)
    }
}

impl Figures {
    pub fn new() -> Self {
        Self(Mutex::new(Inner {
            requests: 0,
            ok: 0,
            errors: BTreeMap::new(),
            latency: histogram(),
            instances: BTreeMap::new(),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request as the caller saw it.
    pub fn note(&self, latency: Duration, error: Option<&str>) {
        let mut inner = self.inner();
        inner.requests += 1;
        let _ = inner.latency.record(micros(latency));
        match error {
            None => inner.ok += 1,
            Some(kind) => *inner.errors.entry(kind.to_owned()).or_default() += 1,
        }
    }

    /// Notes that a request was sent to an instance.
    pub fn note_sent(&self, id: &str) {
        let mut inner = self.inner();
        let instance = inner.instance(id);
        instance.requests += 1;
        instance.recent.requests += 1;
    }

    /// Notes the answer of an instance, or its failure.
    pub fn note_answer(&self, id: &str, sent: Instant, ok: bool) {
        let now = Instant::now();
        let mut inner = self.inner();
        let instance = inner.instance(id);
        let _ = instance.recent.latency.record(micros(now - sent));
        if !ok {
            instance.failed += 1;
            instance.failures.push((sent, now));
        }
    }

    /// Each instance, with what happened since the last call of this.
    pub fn look(&self) -> BTreeMap<String, PerInstance> {
        let mut inner = self.inner();
        let seen = inner.instances.clone();
        for instance in inner.instances.values_mut() {
            instance.recent = Recent::new();
        }
        seen
    }

    pub fn summary(&self) -> Summary {
        let inner = self.inner();
        let quantile = |q| ms(inner.latency.value_at_quantile(q));
        let counts = inner.instances.iter();
        Summary {
            requests: inner.requests,
            ok: inner.ok,
            failed: inner.requests - inner.ok,
            errors: inner.errors.clone(),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            p999_ms: quantile(0.999),
            per_instance: counts.map(|(id, of)| (id.clone(), of.requests)).collect(),
        }
    }
}
