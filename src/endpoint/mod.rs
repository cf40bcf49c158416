//! Endpoints: instances that requests can be sent to.
//!
//! An [`Endpoint`] is a service (usually a connection, or a client that makes connections) with the data
//! that a choice needs: the [`Key`] and the current [`Instance`] from the registry.
//!
//! # Where load is measured
//! Load is measured once, by the balancer. The [`Balance`](crate::balance::Balance) of this crate measures
//! what its policy needs, and takes an [`Endpoint`] as it is. tower's own `balance::p2c::Balance` reads the
//! load from each service. It takes a [`MeasuredEndpoint`], which
//! [`Discover::measured`](crate::discover::Discover::measured) makes of each endpoint.

#[cfg(feature = "_hyper")]
pub mod check;
pub mod eject;
mod facts;
mod future;
pub mod load;
mod measured;
mod schedule;
mod slow_start;

pub(crate) use self::{facts::Facts, slow_start::Age};
pub use self::{future::ResponseFuture, measured::MeasuredEndpoint, slow_start::SlowStart};

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tower::Service;

use crate::instance::{Instance, Key, Weight};

/// An instance that requests can be sent to: a service with its identity and its weight.
///
/// As a [`tower::Service`] it behaves like its service. Clones share the registry's data.
///
/// # Examples
/// ```
/// use std::{convert::Infallible, sync::Arc};
/// use tower_roster::{Instance, endpoint::Endpoint};
///
/// let instance = Instance::new("user-service", "user-1", "127.0.0.1:8080".parse()?).weight(3);
/// let service = tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) });
///
/// let endpoint = Endpoint::new(service, Arc::new(instance));
/// assert_eq!((endpoint.key().id(), endpoint.weight().get()), ("user-1", 3));
/// # Ok::<_, tower_roster::instance::AddressError>(())
/// ```
#[derive(Clone)]
pub struct Endpoint<S> {
    service: S,
    key: Key,
    facts: Arc<Facts>,
}

impl<S> Endpoint<S> {
    /// Combines `instance` with the service that reaches it.
    pub fn new(service: S, instance: Arc<Instance>) -> Self {
        let key = instance.key.clone();
        Self::with_facts(service, key, Arc::new(Facts::new(instance, None)))
    }

    pub(crate) fn with_facts(service: S, key: Key, facts: Arc<Facts>) -> Self {
        Self {
            service,
            key,
            facts,
        }
    }

    pub(crate) fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// Replaces the service by one that is made of it.
    pub fn map<T>(self, map: impl FnOnce(S) -> T) -> Endpoint<T> {
        Endpoint {
            service: map(self.service),
            key: self.key,
            facts: self.facts,
        }
    }

    pub(crate) fn into_parts(self) -> (S, Arc<Facts>) {
        (self.service, self.facts)
    }

    /// Its identity, which never changes.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Its present instance in the registry.
    pub fn instance(&self) -> Arc<Instance> {
        self.facts.instance()
    }

    /// Its present weight; cheaper than reading it from [`instance`](Self::instance).
    pub fn weight(&self) -> Weight {
        self.facts.weight()
    }

    /// The service.
    pub fn service(&self) -> &S {
        &self.service
    }
}

impl<S: Service<Request>, Request> Service<Request> for Endpoint<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.service.call(request)
    }
}

impl_debug!([S] Endpoint<S>: |this| key = this.key, weight = this.weight());
