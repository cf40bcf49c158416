//! The state of one service at one moment, and how it was in the last samples.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use super::{trend::Trend, watched::Watched};
use crate::{
    balance::{BalanceStatus, EndpointInfo, EndpointState},
    instance::Key,
    telemetry::{
        latencies::Latencies,
        latency_counts::{BUCKETS, LatencyCounts, quantile_ms},
    },
};

/// The states of endpoints: the name, and the character in the map.
pub(super) const STATES: [(EndpointState, &str, char); 5] = [
    (EndpointState::Active, "active", 'a'),
    (EndpointState::Warming, "warming", 'w'),
    (EndpointState::Weightless, "weightless", 'd'),
    (EndpointState::Ejected, "ejected", 'e'),
    (EndpointState::Probing, "probing", 'p'),
];

/// The name of a state, if it is one.
pub(super) fn state_name(name: &str) -> Option<&'static str> {
    let known = STATES.iter().find(|(_, known, _)| *known == name);
    known.map(|(_, name, _)| *name)
}

/// Quantiles of the latencies of the last seconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// The trends of the latency.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct LatencyTrend {
    p50: Trend,
    p99: Trend,
}

/// One endpoint.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) info: EndpointInfo,
    /// Requests per second since the last sample.
    pub(super) rate: f64,
    pub(super) latency: Option<Quantiles>,
    pub(super) ejections: u64,
}

/// One service.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) status: BalanceStatus,
    pub(super) gone: bool,
    pub(super) rows: Vec<Row>,
    pub(super) latency: Option<Quantiles>,
    pub(super) rate: Trend,
    pub(super) failures: Trend,
    pub(super) trend: LatencyTrend,
    pub(super) past: HashMap<Key, Past>,
    taken: Option<Instant>,
}

/// The last sample of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Past {
    requests: u64,
    failures: u64,
    pub(super) trend: LatencyTrend,
    latency: Option<Box<Recent>>,
    seen: bool,
}

/// The latencies of the last samples.
#[derive(Debug)]
struct Recent {
    counted: [u32; BUCKETS],
    /// Multiples of [`ONE`]. Each sample takes a quarter away, so that the last four weigh two thirds.
    faded: [u64; BUCKETS],
}

/// One response in the faded counts.
const ONE: u64 = 64;

impl Recent {
    /// Begins with what comes from now on, or with everything.
    fn new(from: Option<&LatencyCounts>) -> Self {
        Self {
            counted: from.map_or([0; BUCKETS], LatencyCounts::read),
            faded: [0; BUCKETS],
        }
    }

    /// Takes in the responses since the last sample, and adds what is recent to `sum`.
    fn update(&mut self, counts: &LatencyCounts, sum: &mut [u64; BUCKETS]) -> Option<Quantiles> {
        let counted = counts.read();
        for at in 0..BUCKETS {
            let new = counted[at].wrapping_sub(self.counted[at]);
            self.faded[at] = self.faded[at] * 3 / 4 + u64::from(new) * ONE;
            sum[at] += self.faded[at];
        }
        self.counted = counted;
        Quantiles::of(&self.faded)
    }
}

impl Quantiles {
    /// `None` if nearly nothing is recent.
    fn of(counts: &[u64; BUCKETS]) -> Option<Self> {
        let total: u64 = counts.iter().sum();
        if total < ONE / 4 {
            return None;
        }
        Some(Self {
            p50_ms: quantile_ms(counts, total, 0.5)?,
            p99_ms: quantile_ms(counts, total, 0.99)?,
        })
    }
}

impl LatencyTrend {
    fn push(&mut self, latency: Option<Quantiles>) {
        self.p50.push(latency.map(|latency| latency.p50_ms));
        self.p99.push(latency.map(|latency| latency.p99_ms));
    }
}

impl Row {
    pub(super) fn state(&self) -> &'static str {
        letter_and_name(self.info.state).1
    }

    /// The character of its state in the map.
    pub(super) fn letter(&self) -> char {
        letter_and_name(self.info.state).0
    }

    /// Whether its id, scope, address, zone, state, tags or metadata contain a text in lower case.
    pub(super) fn contains(&self, text: &str) -> bool {
        if text.is_empty() {
            return true;
        }
        let has = |field: &str| field.to_lowercase().contains(text);
        let key = &self.info.key;
        let of_instance = || {
            let instance = self.info.instance.as_deref()?;
            let metadata = instance.metadata.iter();
            let found = has(&instance.address.to_string())
                || instance.zone.as_deref().is_some_and(has)
                || instance.tags.iter().any(|tag| has(tag))
                || metadata.flat_map(|(k, v)| [k, v]).any(|text| has(text));
            Some(found)
        };
        has(key.id()) || has(key.scope()) || has(self.state()) || of_instance().unwrap_or(false)
    }
}

fn letter_and_name(state: EndpointState) -> (char, &'static str) {
    let known = STATES.iter().find(|(known, ..)| *known == state);
    known.map_or(('a', "active"), |(_, name, letter)| (*letter, *name))
}

impl Sample {
    /// Takes in the endpoints as they are now; `None` when the balancer has gone, or does not reply. Samples
    /// before a pause of more than `stale` do not count.
    pub(super) fn take(
        &mut self,
        watched: &Watched,
        endpoints: Option<Vec<EndpointInfo>>,
        gone: bool,
        stale: Duration,
        now: Instant,
    ) {
        self.status = watched.handles.balance.status();
        self.gone = gone;
        let before = self.taken.map(|at| now.saturating_duration_since(at));
        let before = before.filter(|passed| *passed <= stale && !passed.is_zero());
        if before.is_none() {
            self.past.clear();
            (self.rate, self.failures) = Default::default();
            self.trend = LatencyTrend::default();
        }
        self.taken = Some(now);
        let Some(endpoints) = endpoints else {
            return;
        };
        let mut ejections = watched.record.ejections();
        let per_sec = |n: u64| before.map_or(0.0, |passed| n as f64 / passed.as_secs_f64());
        let (mut requests, mut failures) = (0, 0);
        let latencies = watched.latencies.as_ref().map(Latencies::all);
        let mut all_latencies = [0; BUCKETS];
        let rows = endpoints.into_iter().map(|info| {
            let past = match self.past.entry(info.key.clone()) {
                Entry::Occupied(past) => past.into_mut(),
                // One that was listed since the last sample: all its requests are new.
                Entry::Vacant(new) if before.is_some_and(|passed| info.age <= passed) => {
                    new.insert(Past::default())
                }
                Entry::Vacant(new) => new.insert(Past {
                    requests: info.requests,
                    failures: info.failures,
                    ..Past::default()
                }),
            };
            // A counter may begin anew under the same key.
            let sent = info.requests.saturating_sub(past.requests);
            requests += sent;
            failures += info.failures.saturating_sub(past.failures);
            (past.requests, past.failures) = (info.requests, info.failures);
            past.seen = true;
            let counts = latencies.as_ref().and_then(|all| all.get(&info.key));
            let latency = counts.and_then(|counts| {
                let recent = past.latency.get_or_insert_with(|| {
                    // What was measured before anybody looked is not recent. Counts that were not there
                    // in the sample before are.
                    let from = before.is_none().then_some(&**counts);
                    Box::new(Recent::new(from))
                });
                recent.update(counts, &mut all_latencies)
            });
            past.trend.push(latency);
            Row {
                rate: per_sec(sent),
                latency,
                ejections: ejections.remove(&info.key).unwrap_or(0),
                info,
            }
        });
        self.rows = rows.collect();
        self.past.retain(|_, past| std::mem::take(&mut past.seen));
        self.latency = Quantiles::of(&all_latencies);
        self.trend.push(self.latency);
        if before.is_some() {
            self.rate.push(Some(per_sec(requests)));
            self.failures.push(Some(per_sec(failures)));
        }
    }

    /// Whether there are two samples, so that rates are known.
    pub(super) fn has_rates(&self) -> bool {
        !self.rate.is_empty()
    }
}
