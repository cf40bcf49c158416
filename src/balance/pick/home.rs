//! The way from the state of an endpoint back to the balancer that it is in.

use std::{
    any::Any,
    sync::{Arc, Weak},
};

/// Refers to a balancer without its type.
///
/// A request that could not be sent needs the balancer again, to be given to another endpoint. What it has at
/// hand is the state of the endpoint that failed. The type of that cannot name the balancer's: policies see
/// states, and would be generic over services, classifiers and routes. A reference in each request instead
/// would be counted for each request, in a cache line that threads share. So the type is left out here and
/// put back by the request, which is generic over all of it; [`of`](Self::of) and [`get`](Self::get) are
/// the only places where it may differ.
///
/// Weak, as the balancer holds the states.
#[derive(Clone)]
pub(crate) struct Home(Weak<dyn Any + Send + Sync>);

impl Home {
    pub(crate) fn of<T: Send + Sync + 'static>(balancer: &Weak<T>) -> Self {
        let balancer: Weak<T> = Weak::clone(balancer);
        Self(balancer)
    }

    /// Of no balancer.
    pub(crate) fn none() -> Self {
        Self::of(&Weak::<()>::new())
    }

    /// The balancer, as long as it is in use.
    pub(crate) fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.upgrade()?.downcast().ok()
    }
}
