//! Each layer alone, around a service that does nothing.

use std::{
    future::{Ready, ready},
    sync::Arc,
    time::Duration,
};

use tower::{
    Layer, Service,
    retry::{
        Policy,
        budget::{Budget, TpsBudget},
    },
};
use tower_resilience_circuitbreaker::CircuitBreakerLayer;
use tower_roster::service::{
    breaker::{BreakerLayer, BreakerSettings},
    failfast::FailFastLayer,
    hedge::HedgeLayer,
    limit::AdaptiveLimitLayer,
    retry::{RetryLayer, RetrySettings},
    throttle::ThrottleLayer,
};

use super::{
    measure::{Contender, Effort, Noop, allocations, here, interleave, requests},
    report::{Bar, Row},
};

/// As its documentation has it: retries errors, within a budget where there is one.
#[derive(Clone)]
struct Again(Option<Arc<TpsBudget>>);

impl<E> Policy<u64, u64, E> for Again {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut u64, result: &mut Result<u64, E>) -> Option<Ready<()>> {
        let budget = self.0.as_ref();
        match result {
            Ok(_) => {
                if let Some(budget) = budget {
                    budget.deposit();
                }
                None
            }
            Err(_) => budget
                .is_none_or(|budget| budget.withdraw())
                .then(|| ready(())),
        }
    }

    fn clone_request(&mut self, request: &u64) -> Option<u64> {
        Some(*request)
    }
}

pub fn run(effort: Effort) -> Vec<Row> {
    fn timed<'a, S: Service<u64> + 'a>(mut service: S, effort: Effort) -> Contender<'a> {
        Box::new(move || requests(&mut service, effort.requests))
    }
    let runtime = here();
    let _entered = runtime.enter();
    let plain = RetrySettings::new().budget(None).build();
    let plain = plain.expect("defaults").layer(Noop);
    let budgeted = || RetryLayer::default().layer(Noop);
    let tower_retry = |budget| tower::retry::RetryLayer::new(Again(budget)).layer(Noop);
    let breaker = || BreakerLayer::default().layer(Noop);
    let counting = BreakerSettings::new().count_window(100).build();
    let counting = counting.expect("in range").layer(Noop);
    let resilience = CircuitBreakerLayer::builder().build();
    let resilience = resilience.expect("defaults").layer(Noop);
    let timed_resilience = CircuitBreakerLayer::builder()
        .sliding_window_type(tower_resilience_circuitbreaker::SlidingWindowType::TimeBased)
        .sliding_window_duration(Duration::from_secs(10))
        .build();
    let timed_resilience = timed_resilience.expect("in range").layer(Noop);
    let hedge = || HedgeLayer::default().layer(Noop);
    let throttle = || ThrottleLayer::default().layer(Noop);
    let limit = || AdaptiveLimitLayer::default().layer(Noop);
    let failfast = || FailFastLayer::default().layer(Noop);
    // It walks through all calls of its window for each call.
    let few = Effort {
        requests: (effort.requests / 1_000).max(10),
        ..effort
    };
    let samples = interleave(
        effort.rounds,
        vec![
            timed(Noop, effort),
            timed(plain, effort),
            timed(tower_retry(None), effort),
            timed(budgeted(), effort),
            timed(tower_retry(Some(Arc::default())), effort),
            timed(counting, effort),
            timed(resilience, effort),
            timed(breaker(), effort),
            timed(timed_resilience, few),
            timed(hedge(), effort),
            timed(throttle(), effort),
            timed(limit(), effort),
            timed(failfast(), effort),
            timed(tower::limit::ConcurrencyLimit::new(Noop, 1_000), effort),
        ],
    );
    let resilience = "tower-resilience";
    let fifth = Bar::BaselineTakes(5.0);
    let allocated = |name: &str, samples| {
        Row::new(format!("allocations, {name}"), "", &samples).bar(Bar::Limit(0.0))
    };
    vec![
        Row::new("no layer", "ns", &samples[0]),
        Row::new("retry", "ns", &samples[1])
            .against("tower::retry", &samples[2])
            .bar(Bar::AtMost(1.0)),
        Row::new("retry, by itself", "ns", &samples[1]).bar(Bar::Limit(8.0)),
        Row::new("retry with a budget", "ns", &samples[3])
            .against("tower::retry, TpsBudget", &samples[4])
            .bar(Bar::AtMost(1.0)),
        Row::new("breaker, closed, window of calls", "ns", &samples[5])
            .against(resilience, &samples[6])
            .bar(fifth),
        Row::new("breaker, closed, window of time", "ns", &samples[7])
            .against(format!("{resilience}, time"), &samples[8])
            .bar(fifth),
        Row::new("breaker, closed, both defaults", "ns", &samples[7])
            .against(resilience, &samples[6])
            .bar(fifth),
        Row::new("hedge", "ns", &samples[9]),
        Row::new("throttle", "ns", &samples[10]),
        Row::new("adaptive limit", "ns", &samples[11]).against("tower::limit, fixed", &samples[13]),
        Row::new("failfast", "ns", &samples[12]),
        allocated("breaker", allocations(&mut breaker())),
        allocated("retry with a budget", allocations(&mut budgeted())),
        allocated("hedge", allocations(&mut hedge())),
        allocated("throttle", allocations(&mut throttle())),
        allocated("adaptive limit", allocations(&mut limit())),
        allocated("failfast", allocations(&mut failfast())),
    ]
}
