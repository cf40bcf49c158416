//! Services that may panic when they are dropped.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// A service of an endpoint. Several hold one, among them snapshots and the driver, and whichever is the
/// last to let go must not be taken down by a destructor.
pub(in crate::balance) struct Careful<S>(Option<S>);

/// A service as the driver and snapshots hold it.
pub(in crate::balance) type Shared<S> = Arc<Careful<S>>;

impl<S> Careful<S> {
    pub(super) fn new(service: S) -> Shared<S> {
        Arc::new(Self(Some(service)))
    }

    #[inline]
    pub(super) fn get(&self) -> &S {
        match &self.0 {
            Some(service) => service,
            None => unreachable!("it is taken by its own destructor only"),
        }
    }
}

impl<S> Drop for Careful<S> {
    fn drop(&mut self) {
        let service = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(service))).is_err() {
            tracing::error!("a service panicked while it was dropped");
        }
    }
}

impl<S> fmt::Debug for Careful<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Careful").finish_non_exhaustive()
    }
}
