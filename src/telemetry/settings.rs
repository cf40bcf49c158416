//! Who is told of requests.

use std::sync::Arc;

use tower::Layer;

use super::{
    client::MonitoredClient,
    endpoint::MonitoredEndpoint,
    monitor::Monitor,
    report::EndpointTag,
    reporter::{Audience, EndpointReporter, Reporter},
};
#[cfg(feature = "metrics")]
use crate::telemetry::metrics::Metrics;
use crate::{
    balance::BalanceHandle,
    classify::Answers,
    error::ConfigError,
    service::{breaker::BreakerHandle, retry::RetryBudget},
};

/// Who is told of the requests of a client, and of their attempts.
///
/// [`Stack::telemetry`](crate::client::Stack::telemetry) takes it; for a client that is assembled by hand there
/// is [`build`](Self::build).
///
/// # Examples
/// ```
/// # #[cfg(all(feature = "http", feature = "memory"))]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// use tower_roster::{
///     client::{HttpEndpoints, Stack},
///     registry,
///     telemetry::{Telemetry, on_request},
/// };
/// # type Body = tower_roster::service::retry::ReplayBody<http_body_util::Empty<bytes::Bytes>>;
///
/// let telemetry = Telemetry::new().service("user-service").monitor(on_request(|request, end| {
///     println!("request {}: {} after {} attempts", request.number, end.ended, request.attempts);
/// }));
/// let registry = registry::connect("memory:")?;
/// let discover = registry.watch("user-service")?.discover(HttpEndpoints::<Body>::new());
/// let client = Stack::http().telemetry(telemetry).build(discover)?.service;
/// # drop(client);
/// # Ok(())
/// # }
/// # #[cfg(not(all(feature = "http", feature = "memory")))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug)]
pub struct Telemetry {
    audience: Audience,
}

impl Telemetry {
    /// Tells nobody yet.
    pub fn new() -> Self {
        Self {
            audience: Audience {
                service: Arc::from(""),
                monitors: Vec::new(),
                metrics: None,
            },
        }
    }

    /// Tells a monitor, beside those that are told already.
    #[must_use]
    pub fn monitor(mut self, monitor: impl Monitor) -> Self {
        self.audience.monitors.push(Arc::new(monitor));
        self
    }

    /// Keeps metrics; none unless set.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn metrics(mut self, metrics: impl Into<Option<Metrics>>) -> Self {
        self.audience.metrics = metrics.into();
        self
    }

    /// Sets the name of the service in reports. Unless it is set, clients that are made with the name of a
    /// service use that name, and those of a [`Stack`](crate::client::Stack) that is built over a discovery
    /// have none.
    #[must_use]
    pub fn service(mut self, service: impl Into<Arc<str>>) -> Self {
        self.audience.service = service.into();
        self
    }

    /// The name of the service; empty unless it was set.
    pub fn name(&self) -> &str {
        &self.audience.service
    }

    /// Makes the parts that report, for one client that is assembled by hand.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn build(&self) -> Result<Reports, ConfigError> {
        if let Some(metrics) = &self.audience.metrics {
            metrics.check()?;
        }
        Ok(Reports {
            reporter: Arc::new(Reporter::new(self.audience.clone())),
        })
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

/// The parts that report what one client does; made by [`Telemetry::build`].
/// [`MonitoredDiscover`](super::MonitoredDiscover) reports the attempts, and the [`layer`](Self::layer) around
/// all other layers the requests.
#[derive(Clone, Debug)]
pub struct Reports {
    reporter: Arc<Reporter>,
}

impl Reports {
    /// Makes the layer that reports the requests. It goes around all other layers.
    pub fn layer(&self) -> MonitorLayer {
        MonitorLayer {
            reporter: Arc::clone(&self.reporter),
            classify: Answers,
        }
    }

    /// Follows the parts of the client, for their metrics, until the balancer has ended. Without metrics it
    /// does nothing.
    ///
    /// # Panics
    /// With metrics, outside of a tokio runtime.
    pub fn follow(
        &self,
        balance: &BalanceHandle,
        breaker: Option<&BreakerHandle>,
        budget: Option<&RetryBudget>,
    ) {
        if let Some(metrics) = self.reporter.metrics() {
            super::metrics::follow(metrics, balance, breaker, budget);
        }
    }

    pub(super) fn endpoint<S, C>(
        &self,
        service: S,
        classify: C,
        tag: EndpointTag,
    ) -> MonitoredEndpoint<S, C> {
        let reporter = EndpointReporter::new(Arc::clone(&self.reporter), tag);
        MonitoredEndpoint::new(service, classify, reporter)
    }
}

/// Reports the requests of a client; made by [`Reports::layer`].
#[derive(Clone, Debug)]
pub struct MonitorLayer<C = Answers> {
    reporter: Arc<Reporter>,
    classify: C,
}

impl<C> MonitorLayer<C> {
    /// Sets the classifier that judges responses, and decides when a request is complete: with its response
    /// ([`Answers`], the default, for which every response is a success), or with the body of the response
    /// (`Http` and `Grpc`).
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> MonitorLayer<C2> {
        MonitorLayer {
            reporter: self.reporter,
            classify,
        }
    }
}

impl<S, C: Clone> Layer<S> for MonitorLayer<C> {
    type Service = MonitoredClient<S, C>;

    fn layer(&self, service: S) -> Self::Service {
        MonitoredClient::new(service, self.classify.clone(), Arc::clone(&self.reporter))
    }
}
