//! The names of all metrics. `docs/metrics.md` has the same table, with labels.

/// One metric.
pub(super) struct Named {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

macro_rules! metrics {
    ($($constant:ident $kind:ident $name:literal $help:literal;)*) => {
        $(pub(super) const $constant: &str = $name;)*
        /// All of them.
        pub(super) const ALL: &[Named] = &[
            $(Named { name: $name, kind: Kind::$kind, help: $help }),*
        ];
    };
}

metrics! {
    REQUESTS Counter "roster_requests_total" "Requests that ended, by how they ended.";
    REQUEST_HEAD Histogram "roster_request_head_seconds" "Time of requests to the head of their response.";
    REQUEST_DURATION Histogram "roster_request_duration_seconds" "Time of requests to their end.";
    REQUESTS_IN_FLIGHT Gauge "roster_requests_in_flight" "Requests that have not ended.";
    ATTEMPTS Counter "roster_attempts_total" "Attempts that ended, by endpoint, kind and outcome.";
    ATTEMPT_ERRORS Counter "roster_attempt_errors_total" "Attempts that ended without a response, by the reason.";
    ATTEMPT_HEAD Histogram "roster_attempt_head_seconds" "Time of attempts to the head of their response.";
    ATTEMPT_DURATION Histogram "roster_attempt_duration_seconds" "Time of attempts to their end.";
    ATTEMPTS_IN_FLIGHT Gauge "roster_attempts_in_flight" "Attempts that have not ended, by endpoint.";
    HEDGES_WON Counter "roster_hedges_won_total" "Requests that a hedge answered.";
    ENDPOINTS Gauge "roster_endpoints" "Endpoints, by their state.";
    ENDPOINTS_USABLE Gauge "roster_endpoints_usable" "Endpoints that may get requests.";
    ENDPOINT_WEIGHT Gauge "roster_endpoint_weight" "Weight of an endpoint in picks, slow start included.";
    ENDPOINT_CHANGES Counter "roster_endpoint_changes_total" "Endpoints that were added, removed, or replaced.";
    EJECTIONS Counter "roster_ejections_total" "Endpoints that were ejected, by the cause.";
    RESTORATIONS Counter "roster_restorations_total" "Endpoints that were restored, by what restored them.";
    PANIC Gauge "roster_panic" "1 while every endpoint is ejected and all are used anyway.";
    BUDGET_AVAILABLE Gauge "roster_retry_budget_available" "Retries and hedges that the budget allows now.";
    BUDGET_WITHDRAWN Counter "roster_retry_budget_withdrawn_total" "Retries and hedges that the budget paid for.";
    BUDGET_REFUSED Counter "roster_retry_budget_refused_total" "Retries and hedges that the budget refused.";
    BREAKER_STATE Gauge "roster_breaker_state" "1 for the state of the circuit breaker, 0 for the others.";
    BREAKER_REFUSED Counter "roster_breaker_refused_total" "Requests that the circuit breaker refused.";
    SPLIT_SHARE Gauge "roster_split_share" "Share of the traffic of a version.";
    SPLIT_TRIPS Counter "roster_split_trips_total" "Times that the guard of a split took a share back.";
    REGISTRY_STATE Gauge "roster_registry_state" "1 for the state of the registry's list, 0 for the others.";
    REGISTRY_SILENT Gauge "roster_registry_silent_seconds" "Time since the registry confirmed its list, 0 while it does.";
    REGISTRY_INSTANCES Gauge "roster_registry_instances" "Instances that the registry lists.";
    REGISTRY_ERRORS Counter "roster_registry_errors_total" "Times that the registry began to fail, by the kind of the error.";
}
