//! Whether a stack reports its requests.

use std::sync::Arc;

use super::{
    client::MonitoredClient, endpoint::MonitoredEndpoint, report::EndpointTag, settings::Telemetry,
};

/// Whether a stack reports its requests: [`NoTelemetry`], or [`Telemetry`].
///
/// It is a type parameter of the stack, so that a stack without telemetry has no check, no larger future and
/// no wrapped body.
pub trait Reporting<C>: sealed::Sealed + Clone + Send + 'static {
    /// The service of an endpoint that reports.
    type Endpoint<S>;
    /// The client that reports.
    type Client<S>;

    /// Names the service in reports, unless it is named already.
    #[must_use]
    fn for_service(self, service: &Arc<str>) -> Self;

    /// Makes an endpoint report.
    fn endpoint<S>(
        &self,
        service: S,
        classify: &C,
        tag: impl FnOnce() -> EndpointTag,
    ) -> Self::Endpoint<S>;

    /// Makes a client report.
    fn client<S>(&self, client: S, classify: C) -> Self::Client<S>;
}

/// Nothing is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NoTelemetry;

impl<C> Reporting<C> for NoTelemetry {
    type Endpoint<S> = S;
    type Client<S> = S;

    fn for_service(self, _: &Arc<str>) -> Self {
        self
    }

    fn endpoint<S>(&self, service: S, _: &C, _: impl FnOnce() -> EndpointTag) -> S {
        service
    }

    fn client<S>(&self, client: S, _: C) -> S {
        client
    }
}

impl<C: Clone> Reporting<C> for Telemetry {
    type Endpoint<S> = MonitoredEndpoint<S, C>;
    type Client<S> = MonitoredClient<S, C>;

    fn for_service(self, service: &Arc<str>) -> Self {
        if self.name().is_empty() {
            self.service(Arc::clone(service))
        } else {
            self
        }
    }

    fn endpoint<S>(
        &self,
        service: S,
        classify: &C,
        tag: impl FnOnce() -> EndpointTag,
    ) -> Self::Endpoint<S> {
        Telemetry::endpoint(self, service, classify.clone(), tag())
    }

    fn client<S>(&self, client: S, classify: C) -> Self::Client<S> {
        tower::Layer::layer(&self.layer().classify(classify), client)
    }
}

mod sealed {
    use super::{NoTelemetry, Telemetry};

    pub trait Sealed {}
    impl Sealed for NoTelemetry {}
    impl Sealed for Telemetry {}
}
