//! Reads what the parts of a client know, once per interval, and counts the events of its balancer.

use std::sync::Arc;

use ::metrics::Label;
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{Cardinality, client::ClientMetrics, label, names};
use crate::{
    balance::{BalanceEvent, BalanceHandle, EndpointState, topology::Notice},
    registry::ViewState,
    service::{
        breaker::{BreakerHandle, BreakerState},
        retry::RetryBudget,
    },
};

/// What is followed. It keeps none of these parts alive.
struct Followed {
    metrics: Arc<ClientMetrics>,
    balance: BalanceHandle,
    breaker: Option<BreakerHandle>,
    budget: Option<RetryBudget>,
    /// Whether every endpoint is ejected and all are used anyway.
    panic: bool,
}

/// Follows the parts of a client until its balancer has ended. Must be called within a tokio runtime.
pub(in crate::telemetry) fn follow(
    metrics: &Arc<ClientMetrics>,
    balance: &BalanceHandle,
    breaker: Option<&BreakerHandle>,
    budget: Option<&RetryBudget>,
) {
    let followed = Followed {
        metrics: Arc::clone(metrics),
        balance: balance.clone(),
        breaker: breaker.cloned(),
        budget: budget.cloned(),
        panic: false,
    };
    tokio::spawn(followed.run());
}

impl Followed {
    async fn run(mut self) {
        let Ok(mut events) = self.balance.subscribe().await else {
            return;
        };
        let mut ticks = interval(self.metrics.settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => self.count(&event),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                _ = ticks.tick() => if self.read().await.is_none() {
                    return;
                },
            }
        }
    }

    fn labels<const N: usize>(&self, more: [(&'static str, &'static str); N]) -> Vec<Label> {
        let more = more.map(|(name, value)| Label::from_static_parts(name, value));
        let service = label("service", &self.metrics.service);
        std::iter::once(service).chain(more).collect()
    }

    fn increment<const N: usize>(
        &self,
        name: &'static str,
        more: [(&'static str, &'static str); N],
    ) {
        let labels = self.labels(more);
        self.metrics.settings.counter(name, labels).increment(1);
    }

    fn set<const N: usize>(
        &self,
        name: &'static str,
        more: [(&'static str, &'static str); N],
        value: f64,
    ) {
        let labels = self.labels(more);
        self.metrics.settings.gauge(name, labels).set(value);
    }

    fn absolute(&self, name: &'static str, value: u64) {
        let labels = self.labels([]);
        self.metrics.settings.counter(name, labels).absolute(value);
    }

    fn count(&mut self, event: &BalanceEvent) {
        match event {
            BalanceEvent::Added { .. } => {
                self.increment(names::ENDPOINT_CHANGES, [("change", "added")]);
            }
            BalanceEvent::Removed { .. } => {
                self.increment(names::ENDPOINT_CHANGES, [("change", "removed")]);
            }
            BalanceEvent::Replaced { .. } => {
                self.increment(names::ENDPOINT_CHANGES, [("change", "replaced")]);
            }
            BalanceEvent::Ejected { cause, .. } => {
                self.increment(names::EJECTIONS, [("cause", cause.as_str())]);
            }
            BalanceEvent::Restored { by, .. } => {
                self.panic = false;
                self.increment(names::RESTORATIONS, [("by", by.as_str())]);
            }
            BalanceEvent::SplitTripped { .. } => self.increment(names::SPLIT_TRIPS, []),
            BalanceEvent::Notice {
                notice: Notice::Panic,
            } => self.panic = true,
            BalanceEvent::Registry { status } => {
                if let Some(error) = &status.error {
                    self.increment(names::REGISTRY_ERRORS, [("error", error.kind().as_str())]);
                }
            }
            _ => {}
        }
    }

    /// Reads the parts. `None` when the balancer has ended.
    async fn read(&mut self) -> Option<()> {
        self.metrics.touch();
        let endpoints = self.balance.endpoints().await.ok()?;
        let count = |state: EndpointState| {
            let in_state = endpoints.iter().filter(|it| it.state == state);
            in_state.count() as f64
        };
        for state in EndpointState::ALL {
            self.set(names::ENDPOINTS, [("state", state.as_str())], count(*state));
        }
        let out = |state| matches!(state, EndpointState::Ejected | EndpointState::Probing);
        self.panic &= endpoints.iter().all(|it| out(it.state));
        self.set(names::PANIC, [], f64::from(u8::from(self.panic)));
        if self.metrics.settings.by == Cardinality::Endpoint {
            for endpoint in &endpoints {
                let mut labels = self.labels([]);
                labels.push(Label::new("endpoint", endpoint.key.to_string()));
                let gauge = self.metrics.settings.gauge(names::ENDPOINT_WEIGHT, labels);
                gauge.set(endpoint.effective_weight);
            }
        }
        if let Some(budget) = &self.budget {
            let available = budget.available(Instant::now());
            self.set(names::BUDGET_AVAILABLE, [], available as f64);
            self.absolute(names::BUDGET_WITHDRAWN, budget.withdrawn());
            self.absolute(names::BUDGET_REFUSED, budget.refused());
        }
        if let Some(breaker) = &self.breaker {
            let now = breaker.state();
            for state in BreakerState::ALL {
                let value = f64::from(u8::from(now == *state));
                self.set(names::BREAKER_STATE, [("state", state.as_str())], value);
            }
            self.absolute(names::BREAKER_REFUSED, breaker.refused());
        }
        if let Some(split) = self.balance.split() {
            let shares = split.shares();
            let named = shares.iter();
            for (version, share) in named.chain([("", shares.share_of_rest())]) {
                let mut labels = self.labels([]);
                labels.push(Label::new("version", version.to_owned()));
                let gauge = self.metrics.settings.gauge(names::SPLIT_SHARE, labels);
                gauge.set(share);
            }
        }
        self.read_registry();
        Some(())
    }

    /// Of several registries, the one that has been silent for longest.
    fn read_registry(&self) {
        let status = self.balance.status();
        self.set(names::ENDPOINTS_USABLE, [], status.usable as f64);
        let silent = |it: &&crate::balance::RegistryStatus| it.silent_for().unwrap_or_default();
        let Some(registry) = status.registries.iter().max_by_key(silent) else {
            return;
        };
        for state in ViewState::ALL {
            let value = f64::from(u8::from(registry.state == *state));
            self.set(names::REGISTRY_STATE, [("state", state.as_str())], value);
        }
        let silent = registry.silent_for().unwrap_or_default();
        self.set(names::REGISTRY_SILENT, [], silent.as_secs_f64());
        self.set(names::REGISTRY_INSTANCES, [], registry.instances as f64);
    }
}
