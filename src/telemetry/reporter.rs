//! Those who are told, with what they are told about.

use std::sync::Arc;

use super::{
    monitor::Monitor,
    report::{AttemptInfo, End, EndpointTag, RequestInfo},
};
use crate::task::caught;

/// Reports the requests of one client.
#[derive(Clone)]
pub(super) struct Reporter {
    pub(super) service: Arc<str>,
    pub(super) monitors: Vec<Arc<dyn Monitor>>,
}

impl Reporter {
    pub(super) fn request_ended(&self, request: &RequestInfo<'_>, end: &End) {
        self.tell(|monitor| monitor.request_ended(request, end));
    }

    #[inline]
    fn tell(&self, tell: impl Fn(&dyn Monitor)) {
        for monitor in &self.monitors {
            // A guard may report while a panic unwinds; a second one would end the process.
            if caught(|| tell(&**monitor)).is_none() {
                tracing::error!(service = &*self.service, "a monitor panicked");
            }
        }
    }
}

/// Reports the attempts at one endpoint.
pub(super) struct EndpointReporter {
    client: Arc<Reporter>,
    tag: EndpointTag,
}

impl EndpointReporter {
    pub(super) fn new(client: Arc<Reporter>, tag: EndpointTag) -> Self {
        Self { client, tag }
    }

    pub(super) fn tag(&self) -> &EndpointTag {
        &self.tag
    }

    pub(super) fn service(&self) -> &str {
        &self.client.service
    }

    pub(super) fn attempt_began(&self, attempt: &AttemptInfo<'_>) {
        self.client.tell(|monitor| monitor.attempt_began(attempt));
    }

    pub(super) fn attempt_ended(&self, attempt: &AttemptInfo<'_>, end: &End) {
        let tell = |monitor: &dyn Monitor| monitor.attempt_ended(attempt, end);
        self.client.tell(tell);
    }
}

impl_debug!(Reporter: |this| service = this.service, monitors = this.monitors.len());
impl_debug!(EndpointReporter: |this| endpoint = this.tag);
