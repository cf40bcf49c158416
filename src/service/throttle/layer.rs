//! The layer.

use std::sync::Arc;

use tower::Layer;

use super::{handle::ThrottleHandle, service::Throttle, shared::ThrottleShared};
use crate::classify::Answers;

/// Throttles calls by the share that the service accepts. See the [module](super).
///
/// One layer is one throttle: all services it makes, and its clones, share counts and handle.
#[derive(Clone, Debug)]
pub struct ThrottleLayer<C = Answers> {
    classify: C,
    shared: Arc<ThrottleShared>,
}

impl ThrottleLayer {
    pub(super) fn new(shared: ThrottleShared) -> Self {
        Self {
            classify: Answers::default(),
            shared: Arc::new(shared),
        }
    }
}

impl<C> ThrottleLayer<C> {
    /// Sets the classifier, which judges which calls were accepted; by default [`Answers`], for
    /// which only errors were not.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> ThrottleLayer<D> {
        ThrottleLayer {
            classify,
            shared: self.shared,
        }
    }

    /// A handle to the throttle.
    pub fn handle(&self) -> ThrottleHandle {
        ThrottleHandle::new(Arc::clone(&self.shared))
    }
}

impl<S, C: Clone> Layer<S> for ThrottleLayer<C> {
    type Service = Throttle<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Throttle::new(inner, self.classify.clone(), Arc::clone(&self.shared))
    }
}
