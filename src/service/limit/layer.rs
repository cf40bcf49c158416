//! The layer.

use std::sync::Arc;

use tower::Layer;

use super::{handle::LimitHandle, service::AdaptiveLimit, shared::LimitShared};
use crate::classify::Answers;

/// Limits concurrent calls by latency and overload. See the [module](super).
///
/// One layer is one limit: all services it makes, and its clones, share it.
#[derive(Clone, Debug)]
pub struct AdaptiveLimitLayer<C = Answers> {
    classify: C,
    shared: Arc<LimitShared>,
}

impl AdaptiveLimitLayer {
    pub(super) fn new(shared: LimitShared) -> Self {
        Self {
            classify: Answers::default(),
            shared: Arc::new(shared),
        }
    }
}

impl<C> AdaptiveLimitLayer<C> {
    /// Sets the classifier, which judges which calls succeeded and which found the service
    /// overloaded; by default [`Answers`], which detects no overload, so that only latency decides.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> AdaptiveLimitLayer<D> {
        AdaptiveLimitLayer {
            classify,
            shared: self.shared,
        }
    }

    /// A handle to the limit.
    pub fn handle(&self) -> LimitHandle {
        LimitHandle::new(Arc::clone(&self.shared))
    }
}

impl<S, C: Clone> Layer<S> for AdaptiveLimitLayer<C> {
    type Service = AdaptiveLimit<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        AdaptiveLimit::new(inner, self.classify.clone(), Arc::clone(&self.shared))
    }
}
