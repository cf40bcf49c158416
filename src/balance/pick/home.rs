//! A reference from the state of an endpoint to its balancer.

use std::{
    any::Any,
    sync::{Arc, Weak},
};

/// Refers to a balancer without naming its type.
///
/// A request that could not be sent needs the balancer to get another endpoint. It holds the state of the
/// endpoint that failed. The type of the state cannot name the balancer's type: policies see states, and
/// would have to be generic over services, classifiers and routes. A reference in each request would be
/// counted for each request, in a cache line that threads share. So this type erases the balancer's type,
/// and the request, which is generic over all of it, restores it. The type must be the same in
/// [`of`](Self::of) and [`get`](Self::get).
///
/// The reference is weak, because the balancer holds the states.
#[derive(Clone)]
pub(crate) struct Home(Weak<dyn Any + Send + Sync>);

impl Home {
    pub(crate) fn of<T: Send + Sync + 'static>(balancer: &Weak<T>) -> Self {
        let balancer: Weak<T> = Weak::clone(balancer);
        Self(balancer)
    }

    /// Refers to no balancer.
    pub(crate) fn none() -> Self {
        Self::of(&Weak::<()>::new())
    }

    /// The balancer, while it is in use.
    pub(crate) fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.upgrade()?.downcast().ok()
    }
}
