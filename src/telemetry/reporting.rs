//! Whether a stack reports its requests.

use std::sync::Arc;

use super::{
    client::MonitoredClient,
    endpoint::MonitoredEndpoint,
    report::EndpointTag,
    settings::{Reports, Telemetry},
};
use crate::{
    balance::BalanceHandle,
    error::ConfigError,
    service::{breaker::BreakerHandle, retry::RetryBudget},
};

/// Whether a stack reports its requests: [`NoTelemetry`], or [`Telemetry`].
///
/// It is a type parameter of the stack, so that a stack without telemetry has no check, no larger future and
/// no wrapped body.
pub trait Reporting<C>: sealed::Sealed + Clone + Send + 'static {
    /// The parts that report for one client.
    type Live: Clone + Send + 'static;
    /// The service of an endpoint that reports.
    type Endpoint<S>;
    /// The client that reports.
    type Client<S>;

    /// Names the service in reports, unless it is named already.
    #[must_use]
    fn for_service(self, service: &Arc<str>) -> Self;

    /// Makes the parts for one client.
    ///
    /// # Errors
    /// When a setting is out of its range.
    fn start(&self) -> Result<Self::Live, ConfigError>;

    /// Makes an endpoint report.
    fn endpoint<S>(
        live: &Self::Live,
        service: S,
        classify: &C,
        tag: impl FnOnce() -> EndpointTag,
    ) -> Self::Endpoint<S>;

    /// Makes a client report.
    fn client<S>(live: &Self::Live, client: S, classify: C) -> Self::Client<S>;

    /// Follows the parts of a client, for their metrics.
    fn follow(
        live: &Self::Live,
        balance: &BalanceHandle,
        breaker: Option<&BreakerHandle>,
        budget: Option<&RetryBudget>,
    );
}

/// Nothing is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NoTelemetry;

impl<C> Reporting<C> for NoTelemetry {
    type Live = ();
    type Endpoint<S> = S;
    type Client<S> = S;

    fn for_service(self, _: &Arc<str>) -> Self {
        self
    }

    fn start(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn endpoint<S>((): &(), service: S, _: &C, _: impl FnOnce() -> EndpointTag) -> S {
        service
    }

    fn client<S>((): &(), client: S, _: C) -> S {
        client
    }

    fn follow((): &(), _: &BalanceHandle, _: Option<&BreakerHandle>, _: Option<&RetryBudget>) {}
}

impl<C: Clone> Reporting<C> for Telemetry {
    type Live = Reports;
    type Endpoint<S> = MonitoredEndpoint<S, C>;
    type Client<S> = MonitoredClient<S, C>;

    fn for_service(self, service: &Arc<str>) -> Self {
        if self.name().is_empty() {
            self.service(Arc::clone(service))
        } else {
            self
        }
    }

    fn start(&self) -> Result<Reports, ConfigError> {
        self.build()
    }

    fn endpoint<S>(
        live: &Reports,
        service: S,
        classify: &C,
        tag: impl FnOnce() -> EndpointTag,
    ) -> Self::Endpoint<S> {
        live.endpoint(service, classify.clone(), tag())
    }

    fn client<S>(live: &Reports, client: S, classify: C) -> Self::Client<S> {
        tower::Layer::layer(&live.layer().classify(classify), client)
    }

    fn follow(
        live: &Reports,
        balance: &BalanceHandle,
        breaker: Option<&BreakerHandle>,
        budget: Option<&RetryBudget>,
    ) {
        live.follow(balance, breaker, budget);
    }
}

mod sealed {
    use super::{NoTelemetry, Telemetry};

    pub trait Sealed {}
    impl Sealed for NoTelemetry {}
    impl Sealed for Telemetry {}
}
