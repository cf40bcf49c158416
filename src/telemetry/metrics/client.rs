//! The metrics of one service, with handles that are made once.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use ::metrics::{Counter, Gauge, Histogram, Label};

use super::{Metrics, label, names};
use crate::{
    attempt::Abandoned,
    classify::Outcome,
    error::RequestErrorKind,
    sync::lock,
    telemetry::report::{End, Ended, RequestInfo},
};

/// Series that a recorder must not take for idle.
pub(super) trait Touch: Send + Sync {
    fn touch(&self);
}

/// A counter for each way to end. Made when it is first needed, because most never are.
struct ByEnd {
    name: &'static str,
    outcomes: [OnceLock<Counter>; Outcome::ALL.len()],
    errors: [OnceLock<Counter>; RequestErrorKind::ALL.len()],
    abandoned: [OnceLock<Counter>; Abandoned::ALL.len()],
}

/// The metrics of one service.
pub(in crate::telemetry) struct ClientMetrics {
    pub(super) settings: Metrics,
    pub(super) service: Arc<str>,
    requests: ByEnd,
    attempts: ByEnd,
    request_head: Histogram,
    request_duration: Histogram,
    requests_in_flight: Gauge,
    pub(super) attempt_head: Histogram,
    pub(super) attempt_duration: Histogram,
    hedges_won: Counter,
    /// The metrics of the present endpoints.
    endpoints: Mutex<Vec<Weak<dyn Touch>>>,
}

impl ByEnd {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            outcomes: Default::default(),
            errors: Default::default(),
            abandoned: Default::default(),
        }
    }

    fn count(&self, ended: Ended, of: &ClientMetrics) {
        let counter = match ended {
            Ended::Answered(outcome) => self.outcomes.get(outcome as usize),
            Ended::Failed(kind) => self.errors.get(kind as usize),
            Ended::Abandoned(reason) => self.abandoned.get(reason as usize),
        };
        let Some(counter) = counter else { return };
        let make = || {
            let outcome = Label::from_static_parts("outcome", ended.as_str());
            of.settings
                .counter(self.name, vec![label("service", &of.service), outcome])
        };
        counter.get_or_init(make).increment(1);
    }
}

impl ClientMetrics {
    pub(in crate::telemetry) fn new(settings: &Metrics, service: &Arc<str>) -> Arc<Self> {
        settings.describe();
        let service = Arc::clone(service);
        let labels = || vec![label("service", &service)];
        Arc::new(Self {
            requests: ByEnd::new(names::REQUESTS),
            attempts: ByEnd::new(names::ATTEMPT_ERRORS),
            request_head: settings.histogram(names::REQUEST_HEAD, labels()),
            request_duration: settings.histogram(names::REQUEST_DURATION, labels()),
            requests_in_flight: settings.gauge(names::REQUESTS_IN_FLIGHT, labels()),
            attempt_head: settings.histogram(names::ATTEMPT_HEAD, labels()),
            attempt_duration: settings.histogram(names::ATTEMPT_DURATION, labels()),
            hedges_won: settings.counter(names::HEDGES_WON, labels()),
            endpoints: Mutex::default(),
            settings: settings.clone(),
            service,
        })
    }

    /// Touches the series of an endpoint too, as long as it exists.
    pub(super) fn add(&self, endpoint: Weak<dyn Touch>) {
        let mut endpoints = lock(&self.endpoints);
        if endpoints.len() == endpoints.capacity() {
            // So it is at most twice as long as there are endpoints.
            endpoints.retain(|endpoint| endpoint.strong_count() > 0);
        }
        endpoints.push(endpoint);
    }

    /// Touches the series of all present endpoints, so that a recorder does not take them for idle.
    pub(super) fn touch(&self) {
        let mut present = Vec::new();
        lock(&self.endpoints).retain(|endpoint| match endpoint.upgrade() {
            Some(endpoint) => {
                present.push(endpoint);
                true
            }
            None => false,
        });
        present.iter().for_each(|endpoint| endpoint.touch());
        self.requests_in_flight.increment(0.0);
        self.hedges_won.increment(0);
        for by in [&self.requests, &self.attempts] {
            let all = by.outcomes.iter().chain(&by.errors).chain(&by.abandoned);
            all.filter_map(OnceLock::get)
                .for_each(|counter| counter.increment(0));
        }
    }

    pub(in crate::telemetry) fn request_began(&self) {
        self.requests_in_flight.increment(1.0);
    }

    pub(in crate::telemetry) fn request_ended(&self, request: &RequestInfo<'_>, end: &End) {
        self.requests_in_flight.decrement(1.0);
        self.requests.count(end.ended, self);
        if let Some(head) = end.to_head {
            self.request_head.record(head);
        }
        self.request_duration.record(end.elapsed);
        if request.hedged {
            self.hedges_won.increment(1);
        }
    }

    /// Counts an attempt that got no response.
    pub(super) fn attempt_failed(&self, ended: Ended) {
        self.attempts.count(ended, self);
    }
}

impl_debug!(ClientMetrics: |this| service = this.service);
