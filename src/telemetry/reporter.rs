//! Those who are told, with what they are told about.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use super::{
    metrics::{ClientMetrics, EndpointMetrics, Metrics},
    monitor::Monitor,
    report::{AttemptInfo, End, EndpointTag, RequestInfo},
};
use crate::task::caught;

/// Who is told, and how the service is named.
#[derive(Clone)]
pub(super) struct Audience {
    pub(super) service: Arc<str>,
    pub(super) monitors: Vec<Arc<dyn Monitor>>,
    pub(super) metrics: Option<Metrics>,
}

/// Reports the requests of one client.
pub(super) struct Reporter {
    audience: Audience,
    metrics: Option<Arc<ClientMetrics>>,
    /// Whether the panic of a monitor was logged. It may panic for each request.
    warned: AtomicBool,
}

impl Reporter {
    pub(super) fn new(audience: Audience) -> Self {
        let metrics = audience.metrics.as_ref();
        Self {
            metrics: metrics.map(|metrics| ClientMetrics::new(metrics, &audience.service)),
            audience,
            warned: AtomicBool::new(false),
        }
    }

    pub(super) fn service(&self) -> &str {
        &self.audience.service
    }

    pub(super) fn metrics(&self) -> Option<&Arc<ClientMetrics>> {
        self.metrics.as_ref()
    }

    #[inline]
    pub(super) fn request_began(&self) {
        if let Some(metrics) = &self.metrics {
            metrics.request_began();
        }
    }

    #[inline]
    pub(super) fn request_ended(&self, request: &RequestInfo<'_>, end: &End) {
        if let Some(metrics) = &self.metrics {
            metrics.request_ended(request, end);
        }
        self.tell(|monitor| monitor.request_ended(request, end));
    }

    #[inline]
    fn tell(&self, tell: impl Fn(&dyn Monitor)) {
        for monitor in &self.audience.monitors {
            // A guard may report while a panic unwinds; a second one would end the process.
            if caught(|| tell(&**monitor)).is_none() && !self.warned.swap(true, Relaxed) {
                tracing::error!(
                    service = self.service(),
                    "a monitor panicked; further panics are not logged"
                );
            }
        }
    }
}

/// Reports the attempts at one endpoint.
pub(super) struct EndpointReporter {
    client: Arc<Reporter>,
    tag: EndpointTag,
    metrics: Option<Arc<EndpointMetrics>>,
}

impl EndpointReporter {
    pub(super) fn new(client: Arc<Reporter>, tag: EndpointTag) -> Self {
        let metrics = client.metrics();
        Self {
            metrics: metrics.map(|metrics| metrics.endpoint(&tag)),
            client,
            tag,
        }
    }

    pub(super) fn tag(&self) -> &EndpointTag {
        &self.tag
    }

    pub(super) fn service(&self) -> &str {
        self.client.service()
    }

    #[inline]
    pub(super) fn attempt_began(&self, attempt: &AttemptInfo<'_>) {
        if let Some(metrics) = &self.metrics {
            metrics.attempt_began();
        }
        self.client.tell(|monitor| monitor.attempt_began(attempt));
    }

    #[inline]
    pub(super) fn attempt_ended(&self, attempt: &AttemptInfo<'_>, end: &End) {
        if let Some(metrics) = &self.metrics {
            metrics.attempt_ended(attempt.kind, end);
        }
        let tell = |monitor: &dyn Monitor| monitor.attempt_ended(attempt, end);
        self.client.tell(tell);
    }
}

impl_debug!(Audience: |this|
    service = this.service,
    monitors = this.monitors.len(),
    metrics = this.metrics,
);
impl_debug!(Reporter: |this| audience = this.audience);
impl_debug!(EndpointReporter: |this| endpoint = this.tag);
