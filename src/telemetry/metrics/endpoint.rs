//! The metrics of one endpoint, with handles that are made with it and dropped with it.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use ::metrics::{Counter, Gauge, Label};

use super::{
    client::{ClientMetrics, Touch},
    names,
};
use crate::{
    attempt::{Abandoned, AttemptKind},
    classify::Outcome,
    telemetry::report::{End, Ended, EndpointTag},
};

/// How an attempt ended, in few words: there is a series for each at each endpoint.
const OUTCOMES: [&str; 5] = ["success", "failure", "overloaded", "error", "abandoned"];
const KINDS: usize = AttemptKind::ALL.len();

/// The metrics of one endpoint.
pub(in crate::telemetry) struct EndpointMetrics {
    client: Arc<ClientMetrics>,
    labels: Vec<Label>,
    /// By kind and outcome. Made when first needed: most endpoints have no failures.
    attempts: [[OnceLock<Counter>; OUTCOMES.len()]; KINDS],
    in_flight: Gauge,
}

impl EndpointMetrics {
    fn new(client: &Arc<ClientMetrics>, tag: &EndpointTag) -> Arc<Self> {
        let settings = &client.settings;
        let labels = settings.labels(&client.service, tag);
        Arc::new(Self {
            in_flight: settings.gauge(names::ATTEMPTS_IN_FLIGHT, labels.clone()),
            client: Arc::clone(client),
            labels,
            attempts: Default::default(),
        })
    }

    pub(in crate::telemetry) fn attempt_began(&self) {
        self.in_flight.increment(1.0);
    }

    pub(in crate::telemetry) fn attempt_ended(&self, kind: AttemptKind, end: &End) {
        self.in_flight.decrement(1.0);
        let outcome = match end.ended {
            Ended::Answered(Outcome::Success) => 0,
            Ended::Answered(Outcome::Failure) => 1,
            Ended::Answered(Outcome::Overloaded) => 2,
            Ended::Failed(_) | Ended::Abandoned(Abandoned::Panicked) => 3,
            Ended::Answered(_) | Ended::Abandoned(_) => 4,
        };
        if outcome > 2 {
            self.client.attempt_failed(end.ended);
        }
        let counter = self.attempts[kind as usize][outcome].get_or_init(|| {
            let mut labels = self.labels.clone();
            labels.push(Label::from_static_parts("kind", kind.as_str()));
            labels.push(Label::from_static_parts("outcome", OUTCOMES[outcome]));
            self.client.settings.counter(names::ATTEMPTS, labels)
        });
        counter.increment(1);
        if let Some(head) = end.to_head {
            self.client.attempt_head.record(head);
        }
        self.client.attempt_duration.record(end.elapsed);
    }
}

// Here and not in the file of `ClientMetrics`, which must not depend on this one.
impl ClientMetrics {
    /// Makes the metrics of an endpoint.
    pub(in crate::telemetry) fn endpoint(
        self: &Arc<Self>,
        tag: &EndpointTag,
    ) -> Arc<EndpointMetrics> {
        let made = EndpointMetrics::new(self, tag);
        let weak = Arc::downgrade(&made);
        self.add(weak);
        made
    }
}

impl Touch for EndpointMetrics {
    fn touch(&self) {
        self.in_flight.increment(0.0);
        let counters = self.attempts.iter().flatten().filter_map(OnceLock::get);
        counters.for_each(|counter| counter.increment(0));
    }
}

impl fmt::Debug for EndpointMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointMetrics")
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}
