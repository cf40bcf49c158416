//! The state as JSON. The documentation of the [module](super) has its rules.

use std::fmt::Write as _;

use serde::{Serialize, Serializer, ser::SerializeMap};
use tokio::time::Instant;

use super::{
    answer::to_json,
    record::{Noted, unix_ms},
    registrations::{Announced, ShownRegistration},
    sample::{LatencyTrend, Quantiles, Row, STATES, Sample},
    select::Wanted,
    settings::StatusSettings,
    trend::Trend,
    watched::Watched,
};

const VERSION: u32 = 1;

/// How many endpoints the map shows.
const MAPPED: usize = 2_000;

/// How many events the page shows.
const EVENTS: usize = 60;

/// How many tags or metadata of an instance are shown, and how much of a text. A registry may hold any
/// amount.
const PAIRS: usize = 30;
const TEXT: usize = 200;

/// How much of an error is shown.
const ERROR: usize = 600;

/// The number of samples over which the ratio of failures is taken.
const RATIO_OVER: usize = 10;

#[derive(Serialize)]
struct ShownStatus<'a> {
    version: u32,
    title: &'a str,
    /// In milliseconds since 1970.
    at: u64,
    interval_ms: u64,
    writable: bool,
    services: Vec<ShownService<'a>>,
    registrations: Vec<ShownRegistration<'a>>,
    view: ShownView<'a>,
    endpoints: Vec<ShownEndpoint<'a>>,
    events: Vec<Noted>,
}

#[derive(Serialize)]
struct ShownView<'a> {
    service: &'a str,
    total: usize,
    matching: usize,
    offset: usize,
    limit: usize,
    sort: &'a str,
    order: &'a str,
    filter: &'a str,
    state: &'a str,
}

#[derive(Serialize)]
struct ShownService<'a> {
    name: &'a str,
    gone: bool,
    resolved: bool,
    endpoints: usize,
    usable: usize,
    states: StateCounts,
    /// Only that of the viewed service has its map and its trends, so that the size does not grow with the
    /// number of services.
    #[serde(skip_serializing_if = "Option::is_none")]
    map: Option<ShownMap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trend: Option<ShownTrend<'a>>,
    in_flight: usize,
    requests: u64,
    failures: u64,
    rate: f64,
    failure_ratio: f64,
    latency: Option<Quantiles>,
    registries: Vec<ShownRegistry<'a>>,
    discovery_error: Option<String>,
    discovery_ended: bool,
    breaker: Option<ShownBreaker>,
    budget: Option<ShownBudget>,
    split: Option<ShownSplit>,
}

/// The number of endpoints in each state.
struct StateCounts([usize; STATES.len()]);

impl Serialize for StateCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(STATES.len()))?;
        for ((_, name, _), count) in STATES.iter().zip(self.0) {
            map.serialize_entry(name, &count)?;
        }
        map.end()
    }
}

/// A character for each endpoint in the order of their keys: its state, and five times its requests
/// relative to the mean, at most 9.
#[derive(Serialize)]
struct ShownMap {
    states: String,
    shares: String,
}

#[derive(Serialize)]
struct ShownTrend<'a> {
    rate: &'a Trend,
    failures: &'a Trend,
    #[serde(flatten)]
    latency: &'a LatencyTrend,
}

#[derive(Serialize)]
struct ShownRegistry<'a> {
    service: &'a str,
    state: String,
    instances: usize,
    error: Option<String>,
    silent_s: Option<f64>,
    ended: bool,
}

#[derive(Serialize)]
struct ShownBreaker {
    state: &'static str,
    remaining_s: Option<f64>,
    calls: u64,
    failed: u64,
    slow: u64,
    refused: u64,
}

#[derive(Serialize)]
struct ShownBudget {
    available: u64,
    withdrawn: u64,
    refused: u64,
}

#[derive(Serialize)]
struct ShownSplit {
    shares: Vec<ShownShare>,
    rest: f64,
    trip: Option<String>,
}

#[derive(Serialize)]
struct ShownShare {
    version: String,
    share: f64,
}

#[derive(Serialize)]
struct ShownEndpoint<'a> {
    id: &'a str,
    scope: &'a str,
    address: String,
    zone: Option<String>,
    status: Option<String>,
    state: &'static str,
    cause: Option<String>,
    weight: u32,
    effective_weight: f64,
    share: f64,
    rate: f64,
    /// `null` if it is not known.
    load: f64,
    in_flight: usize,
    requests: u64,
    failures: u64,
    ejections: u64,
    age_s: f64,
    latency: Option<Quantiles>,
    trend: &'a LatencyTrend,
    tags: Vec<String>,
    metadata: Vec<(String, String)>,
}

/// What a page shows, with the last sample of each service.
pub(super) struct Page<'a> {
    pub(super) settings: &'a StatusSettings,
    pub(super) services: &'a [Watched],
    pub(super) samples: &'a [Sample],
    pub(super) registrations: &'a [Announced],
}

impl Page<'_> {
    /// The state that a viewer wants, as JSON.
    pub(super) fn status(&self, wanted: &Wanted) -> Vec<u8> {
        let all = self.services.iter().zip(self.samples);
        let is_viewed = |watched: &Watched| match &*wanted.service {
            "" => std::ptr::eq(watched, &self.services[0]),
            name => *watched.name == *name,
        };
        let viewed = all.clone().find(|(watched, _)| is_viewed(watched));
        let rows = viewed.map_or(&[][..], |(_, sample)| &sample.rows);
        let (matching, offset, page) = wanted.select(rows);
        let endpoints = viewed.iter().flat_map(|(_, sample)| {
            let page = page.iter();
            page.filter_map(|row| Some(endpoint(row, &sample.past.get(&row.info.key)?.trend)))
        });
        let status = ShownStatus {
            version: VERSION,
            title: &self.settings.title,
            at: unix_ms(),
            interval_ms: u64::try_from(self.settings.interval.as_millis()).unwrap_or(u64::MAX),
            writable: self.settings.token.is_some(),
            services: all
                .map(|(watched, sample)| service(watched, sample, is_viewed(watched)))
                .collect(),
            registrations: self.registrations.iter().map(|it| it.shown()).collect(),
            view: ShownView {
                service: viewed.map_or(&wanted.service, |(watched, _)| &watched.name),
                total: rows.len(),
                matching,
                offset,
                limit: wanted.limit,
                sort: wanted.sort.name(),
                order: if wanted.descending { "desc" } else { "asc" },
                filter: &wanted.filter,
                state: wanted.state.unwrap_or_default(),
            },
            endpoints: endpoints.collect(),
            events: self.events(viewed.map(|(watched, _)| watched)),
        };
        to_json(&status)
    }

    /// The newest events of a service and of the registrations.
    fn events(&self, viewed: Option<&Watched>) -> Vec<Noted> {
        let mut events = viewed.map_or_else(Vec::new, |watched| watched.record.last(EVENTS));
        events.extend(self.registrations.iter().flat_map(|it| it.events()));
        events.sort_unstable_by_key(|noted| std::cmp::Reverse(noted.number));
        events.truncate(EVENTS);
        for noted in &mut events {
            noted.key = shortened(&noted.key, TEXT);
            noted.text = shortened(&noted.text, ERROR);
        }
        events
    }
}

fn service<'a>(watched: &'a Watched, sample: &'a Sample, viewed: bool) -> ShownService<'a> {
    let (handles, status) = (&watched.handles, &sample.status);
    let (rate, failures) = (&sample.rate, &sample.failures);
    let recent = rate.recent(RATIO_OVER);
    let failure_ratio = if recent > 0.0 {
        (failures.recent(RATIO_OVER) / recent).min(1.0)
    } else {
        0.0
    };
    let breaker = handles.breaker.as_ref().map(|breaker| {
        let counts = breaker.counts();
        ShownBreaker {
            state: breaker.state().as_str(),
            remaining_s: breaker.remaining().map(|left| left.as_secs_f64()),
            calls: counts.total,
            failed: counts.failed,
            slow: counts.slow,
            refused: breaker.refused(),
        }
    });
    let budget = handles.budget.as_ref().map(|budget| ShownBudget {
        available: budget.available(Instant::now()),
        withdrawn: budget.withdrawn(),
        refused: budget.refused(),
    });
    let sum = |of: fn(&Row) -> u64| sample.rows.iter().map(of).sum();
    ShownService {
        name: &watched.name,
        gone: sample.gone,
        resolved: status.resolved,
        endpoints: status.endpoints,
        usable: status.usable,
        states: StateCounts(STATES.map(|(state, ..)| {
            let of_state = sample.rows.iter().filter(|row| row.info.state == state);
            of_state.count()
        })),
        map: viewed.then(|| map(&sample.rows)),
        trend: viewed.then_some(ShownTrend {
            rate,
            failures,
            latency: &sample.trend,
        }),
        in_flight: sample.rows.iter().map(|row| row.info.in_flight).sum(),
        requests: sum(|row| row.info.requests),
        failures: sum(|row| row.info.failures),
        rate: rate.recent(1),
        failure_ratio,
        latency: sample.latency,
        registries: status.registries.iter().map(registry).collect(),
        discovery_error: status
            .discovery_error
            .as_deref()
            .map(|error| shortened(error, ERROR)),
        discovery_ended: status.discovery_ended,
        breaker,
        budget,
        split: handles.balance.split().map(|split| {
            let shares = split.shares();
            ShownSplit {
                rest: shares.share_of_rest(),
                shares: shares
                    .iter()
                    .take(PAIRS)
                    .map(|(version, share)| ShownShare {
                        version: shortened(version, TEXT),
                        share,
                    })
                    .collect(),
                trip: split.trip().map(|trip| shortened(&trip.to_string(), ERROR)),
            }
        }),
    }
}

fn registry(status: &crate::balance::RegistryStatus) -> ShownRegistry<'_> {
    ShownRegistry {
        service: &status.service,
        state: status.state.to_string(),
        instances: status.instances,
        error: status
            .error
            .as_ref()
            .map(|error| shortened(&error.to_chain(), ERROR)),
        silent_s: status.silent_for().map(|silent| silent.as_secs_f64()),
        ended: status.ended,
    }
}

fn map(rows: &[Row]) -> ShownMap {
    let rows = &rows[..rows.len().min(MAPPED)];
    let mean = rows.iter().map(|row| row.rate).sum::<f64>() / rows.len().max(1) as f64;
    let mut shares = String::with_capacity(rows.len());
    for row in rows {
        // Without requests all are alike.
        let share = if mean > 0.0 { row.rate / mean } else { 1.0 };
        let _ = write!(shares, "{}", (5.0 * share).min(9.0).round());
    }
    ShownMap {
        states: rows.iter().map(Row::letter).collect(),
        shares,
    }
}

fn endpoint<'a>(row: &'a Row, trend: &'a LatencyTrend) -> ShownEndpoint<'a> {
    let info = &row.info;
    let instance = info.instance.as_deref();
    let texts = |texts: &[String]| {
        let texts = texts.iter().take(PAIRS);
        texts.map(|text| shortened(text, TEXT)).collect()
    };
    ShownEndpoint {
        // Not shortened: an order names it by both.
        id: info.key.id(),
        scope: info.key.scope(),
        address: instance.map_or_else(String::new, |it| shortened(&it.address.to_string(), TEXT)),
        zone: instance
            .and_then(|it| it.zone.as_deref())
            .map(|zone| shortened(zone, TEXT)),
        status: instance.map(|it| it.status.to_string()),
        state: row.state(),
        cause: info.cause.map(|cause| cause.to_string()),
        weight: info.weight.get(),
        effective_weight: info.effective_weight,
        share: info.share,
        rate: row.rate,
        load: info.load,
        in_flight: info.in_flight,
        requests: info.requests,
        failures: info.failures,
        ejections: row.ejections,
        age_s: info.age.as_secs_f64(),
        latency: row.latency,
        trend,
        tags: instance.map_or_else(Vec::new, |it| texts(&it.tags)),
        metadata: instance.map_or_else(Vec::new, |it| {
            let pairs = it.metadata.iter().take(PAIRS);
            pairs
                .map(|(name, value)| (shortened(name, TEXT), shortened(value, TEXT)))
                .collect()
        }),
    }
}

/// The beginning of a text.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
