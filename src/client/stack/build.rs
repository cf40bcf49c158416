//! What a stack builds: the order of the layers.

use std::{fmt, hash::Hash};

use tower::{Layer, discover::Discover};

use super::{Budget, Layers, Outermost, Stack};
use crate::{
    balance::{Balance, BalanceHandle, policy::Policy},
    endpoint::Endpoint,
    error::{BoxError, ConfigError},
    service::{
        breaker::BreakerHandle,
        hedge::{Hedge, HedgeLayer},
        retry::{Retry, RetryBudget, RetryLayer},
    },
};

/// What [`Stack::build`] makes, from the outside in. A breaker goes around it.
pub type Stacked<S, P, C, R, H, W = ()> = Retry<Hedge<Balance<S, P, C, W>, H, C>, R, C>;

/// Handles to what was built. None keeps the client alive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Handles {
    /// The balancer: endpoints, events, ejection and weights by hand.
    pub balance: BalanceHandle,
    /// The circuit breaker, if there is one.
    pub breaker: Option<BreakerHandle>,
    /// The budget that bounds retries and hedges together, and what was drawn on it.
    pub budget: RetryBudget,
}

/// A client that was built, and handles to its parts.
#[derive(Debug)]
#[non_exhaustive]
pub struct Built<S> {
    /// The client: a tower service, cheap to clone, at best once for each request.
    pub service: S,
    /// Handles to its parts.
    pub handles: Handles,
}

impl<P, C: Clone, R, H, W, K> Stack<P, C, R, H, W, K> {
    /// Builds the client over the endpoints of one of our discoveries.
    ///
    /// # Errors
    /// When a setting is out of its range.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build<D, S>(self, discover: D) -> Result<Built<K::Service>, ConfigError>
    where
        D: Discover<Service = Endpoint<S>> + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        D::Service: Send,
        S: Send + Sync + 'static,
        P: Policy,
        C: Send + Sync + 'static,
        R: Clone,
        H: Clone,
        W: Send + Sync + 'static,
        K: Outermost<Stacked<S, P, C, R, H, W>, C>,
    {
        let balance = self.balance.build()?.balance(discover);
        self.layers.around(balance, &self.breaker)
    }

    /// The same over any discovery of services; see [`BalanceLayer::balance_plain`](crate::balance::BalanceLayer::balance_plain).
    ///
    /// # Errors
    /// When a setting is out of its range.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build_plain<D, S>(self, discover: D) -> Result<Built<K::Service>, ConfigError>
    where
        D: Discover<Service = S> + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        S: Send + Sync + 'static,
        P: Policy,
        C: Send + Sync + 'static,
        R: Clone,
        H: Clone,
        W: Send + Sync + 'static,
        K: Outermost<Stacked<S, P, C, R, H, W>, C>,
    {
        let balance = self.balance.build()?.balance_plain(discover);
        self.layers.around(balance, &self.breaker)
    }
}

impl<C: Clone, R: Clone, H: Clone> Layers<C, R, H> {
    /// The order of the layers, from the inside out, and why.
    fn around<S, P: Policy, W, K: Outermost<Stacked<S, P, C, R, H, W>, C>>(
        self,
        balance: Balance<S, P, C, W>,
        breaker: &K,
    ) -> Result<Built<K::Service>, ConfigError> {
        let settings = self.settings;
        let budget = match settings.budget {
            Budget::Own(settings) => settings.build()?,
            Budget::Shared(budget) => budget,
        };
        // The balancer is innermost, because only there it is known which endpoint a request goes to, so
        // the failures of a single endpoint are handled there.
        let handle = balance.handle();

        // Next to it, so that it times single attempts: above a retry it would take a backoff for
        // slowness. It hedges retries, too, for they may meet an endpoint that hangs. It has a share of
        // its own, and the budget of the retries bounds the sum of both.
        let mut hedge = HedgeLayer::reissue(self.hedge)
            .classify(self.classify.clone())
            .enabled(settings.hedges)
            .shared_budget(budget.clone());
        if let Some(delay) = settings.hedge_delay {
            hedge = hedge.delay(delay);
        }
        let service = hedge.build()?.layer(balance);

        // A retry is for what failed although the balancer and the hedge did what they could. Each
        // attempt comes through both of them again, and goes to another endpoint. It has the deadline of
        // all attempts, too: how long the caller waits. Attempts under way end with it.
        let mut retry = RetryLayer::reissue(self.retry)
            .classify(self.classify.clone())
            .max_attempts(settings.attempts)
            .budget(budget.clone());
        if let Some(timeout) = settings.try_timeout {
            retry = retry.try_timeout(timeout);
        }
        if let Some(timeout) = settings.timeout {
            retry = retry.deadline(timeout);
        }
        if let Some(seed) = settings.seed {
            retry = retry.seed(seed);
        }
        let service = retry.build()?.layer(service);

        // Outermost: it sees what callers see, so it opens when not even retries help, and then
        // spares the service those, too.
        let (service, breaker) = breaker.wrap(service, self.classify)?;
        let handles = Handles {
            balance: handle,
            breaker,
            budget,
        };
        Ok(Built { service, handles })
    }
}
