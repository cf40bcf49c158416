//! Stands in for `metrics` without that feature: there are no metrics.

use std::sync::Arc;

use super::report::{End, EndpointTag, RequestInfo};
use crate::{
    attempt::AttemptKind,
    balance::BalanceHandle,
    error::ConfigError,
    service::{breaker::BreakerHandle, retry::RetryBudget},
};

/// There is no value of it.
#[derive(Clone, Debug)]
pub(super) enum Metrics {}

#[derive(Debug)]
pub(super) enum ClientMetrics {}

#[derive(Debug)]
pub(super) enum EndpointMetrics {}

impl Metrics {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match *self {}
    }
}

impl ClientMetrics {
    pub(super) fn new(settings: &Metrics, _: &Arc<str>) -> Arc<Self> {
        match *settings {}
    }

    pub(super) fn endpoint(&self, _: &EndpointTag) -> Arc<EndpointMetrics> {
        match *self {}
    }

    pub(super) fn request_began(&self) {
        match *self {}
    }

    pub(super) fn request_ended(&self, _: &RequestInfo<'_>, _: &End) {
        match *self {}
    }
}

impl EndpointMetrics {
    pub(super) fn attempt_began(&self) {
        match *self {}
    }

    pub(super) fn attempt_ended(&self, _: AttemptKind, _: &End) {
        match *self {}
    }
}

pub(super) fn follow(
    metrics: &Arc<ClientMetrics>,
    _: &BalanceHandle,
    _: Option<&BreakerHandle>,
    _: Option<&RetryBudget>,
) {
    match **metrics {}
}
