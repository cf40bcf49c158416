//! The layer.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tower::Layer;

use super::{service::FailFast, shared::FailFastShared};

/// Bounds the wait for a service to be ready. See the [module](super).
///
/// Services made by one layer, and its clones, share the failing state.
#[derive(Clone, Debug)]
pub struct FailFastLayer {
    shared: Arc<FailFastShared>,
}

impl FailFastLayer {
    pub(super) fn new(shared: FailFastShared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Whether calls fail at once now.
    pub fn is_failing(&self) -> bool {
        self.shared.failing.load(Relaxed)
    }
}

impl<S> Layer<S> for FailFastLayer {
    type Service = FailFast<S>;

    fn layer(&self, inner: S) -> FailFast<S> {
        FailFast::new(inner, Arc::clone(&self.shared))
    }
}
