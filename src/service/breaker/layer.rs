//! The layer.

use std::sync::Arc;

use tower::Layer;

#[cfg(doc)]
use super::BreakerSettings;
use super::{Breaker, BreakerHandle, shared::BreakerShared};
use crate::classify::Answers;

/// Puts a circuit breaker around a service. See the [module](super).
///
/// One layer is one breaker: all services it makes, and its clones, share state and handle. Another
/// [`build`](BreakerSettings::build) makes another breaker.
#[derive(Clone, Debug)]
pub struct BreakerLayer<C = Answers> {
    classify: C,
    shared: Arc<BreakerShared>,
}

impl BreakerLayer {
    pub(super) fn new(shared: Arc<BreakerShared>) -> Self {
        Self {
            classify: Answers::default(),
            shared,
        }
    }
}

impl<C> BreakerLayer<C> {
    /// Sets the classifier of calls; by default [`Answers`], which counts only errors as failures.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> BreakerLayer<D> {
        BreakerLayer {
            classify,
            shared: self.shared,
        }
    }

    /// A handle to the breaker.
    pub fn handle(&self) -> BreakerHandle {
        BreakerHandle::new(Arc::clone(&self.shared))
    }
}

impl<S, C: Clone> Layer<S> for BreakerLayer<C> {
    type Service = Breaker<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Breaker::new(inner, self.classify.clone(), Arc::clone(&self.shared))
    }
}
