//! The span that gives the service to every event of the driver.

use tracing::Span;

use crate::{balance::registry::RegistryStatus, text::Escaped};

/// The span of the driver. A field that is recorded again is printed again, so another service needs another
/// span.
pub(super) struct DriverSpan {
    /// The span in which the balancer was made.
    parent: Span,
    /// The services of `span`, with commas between them.
    services: String,
    span: Span,
}

impl DriverSpan {
    pub(super) fn new() -> Self {
        Self {
            parent: Span::current(),
            services: String::new(),
            span: tracing::error_span!("balancer"),
        }
    }

    /// The span for events from now on.
    pub(super) fn current(&self) -> Span {
        self.span.clone()
    }

    /// Names the services that are watched now. If there are none, the last ones stay. Returns whether the
    /// span is another one.
    pub(super) fn name(&mut self, registries: &[RegistryStatus]) -> bool {
        let services: Vec<_> = registries.iter().map(|one| &*one.service).collect();
        let services = services.join(",");
        if services.is_empty() || services == self.services {
            return false;
        }
        // It has the level of errors, so that a filter by level does not remove it from the events that
        // pass.
        self.span =
            tracing::error_span!(parent: &self.parent, "balancer", service = %Escaped(&services));
        self.services = services;
        true
    }
}
