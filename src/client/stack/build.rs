//! How a stack is built: the order of the layers.

use std::{fmt, hash::Hash, time::Duration};

use tower::{Layer, discover::Discover};

use super::{LayerSettings, Layers, Outermost, Stack, outermost::CheckedOutermost};
use crate::{
    balance::{Balance, BalanceHandle, policy::Policy},
    endpoint::Endpoint,
    error::{BoxError, ConfigError, check_range},
    instance::Key,
    service::{
        breaker::BreakerHandle,
        hedge::Hedge,
        retry::{Retry, RetryBudget},
    },
    telemetry::{EndpointTag, Reporting},
};

/// The service that [`Stack::build`] makes, outermost layer first. A breaker is around it, if set, and around
/// that the reports of [`Stack::telemetry`]; `S` is then a
/// [`MonitoredEndpoint`](crate::telemetry::MonitoredEndpoint).
pub type Stacked<S, P, C, R, H, W = ()> = Retry<Hedge<Balance<S, P, C, W>, H, C>, R, C>;

/// Handles to the layers of a client. They do not keep the client alive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Handles {
    /// The balancer: endpoints, events, ejection and weights by hand.
    pub balance: BalanceHandle,
    /// The circuit breaker, if there is one.
    pub breaker: Option<BreakerHandle>,
    /// The budget that bounds retries and hedges together, and its counts, if there is one.
    pub budget: Option<RetryBudget>,
}

/// Handles to a balancer alone.
impl From<BalanceHandle> for Handles {
    fn from(balance: BalanceHandle) -> Self {
        Self {
            balance,
            breaker: None,
            budget: None,
        }
    }
}

/// A client, and handles to its layers.
#[derive(Debug)]
#[non_exhaustive]
pub struct Built<S> {
    /// The client: a tower service, cheap to clone. Clone it for each request.
    pub service: S,
    /// Handles to its layers.
    pub handles: Handles,
}

impl<P, C: Clone, R, H, W, K, T> Stack<P, C, R, H, W, K, T> {
    /// Checks all settings, without building anything.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn check(&self) -> Result<(), ConfigError>
    where
        K: CheckedOutermost,
        P: Clone,
        W: Clone,
    {
        self.balance.clone().build()?;
        self.layers.settings.check()?;
        self.breaker.check()
    }

    /// Builds the client over the endpoints of a discovery of this crate.
    ///
    /// # Errors
    /// When a setting is out of its range.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build<D, S>(self, discover: D) -> Result<Built<T::Client<K::Service>>, ConfigError>
    where
        D: Discover<Service = Endpoint<S>> + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        S: Send + Sync + 'static,
        P: Policy,
        C: Send + Sync + 'static,
        R: Clone,
        H: Clone,
        W: Send + Sync + 'static,
        T: Reporting<C>,
        T::Endpoint<S>: Send + Sync + 'static,
        K: Outermost<Stacked<T::Endpoint<S>, P, C, R, H, W>, C>,
    {
        let Self {
            balance,
            layers,
            breaker,
            telemetry,
        } = self;
        let classify = layers.classify.clone();
        let live = telemetry.start()?;
        let reports = live.clone();
        let balance = balance
            .build()?
            .balance_apart(discover, move |_, endpoint: Endpoint<S>| {
                let tag = EndpointTag::of(&endpoint);
                let (service, facts) = endpoint.into_parts();
                let service = T::endpoint(&reports, service, &classify, || tag);
                (service, Some(facts))
            });
        layers.around::<_, _, _, _, T>(balance, &breaker, &live)
    }

    /// Builds the balancer alone.
    ///
    /// # Errors
    /// When a setting is out of its range.
    #[cfg(feature = "config")]
    pub(in crate::client) fn build_balance<D, S>(
        self,
        discover: D,
    ) -> Result<Balance<S, P, C, W>, ConfigError>
    where
        D: Discover<Service = Endpoint<S>> + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        S: Send + Sync + 'static,
        P: Policy,
        C: Send + Sync + 'static,
        W: Send + Sync + 'static,
    {
        Ok(self.balance.build()?.balance(discover))
    }

    /// Builds the layers around a balancer that exists already.
    ///
    /// # Errors
    /// When a setting is out of its range.
    #[cfg(feature = "config")]
    pub(in crate::client) fn build_around<S>(
        self,
        balance: Balance<S, P, C, W>,
    ) -> Result<Built<T::Client<K::Service>>, ConfigError>
    where
        P: Policy,
        R: Clone,
        H: Clone,
        T: Reporting<C>,
        K: Outermost<Stacked<S, P, C, R, H, W>, C>,
    {
        let live = self.telemetry.start()?;
        self.layers
            .around::<_, _, _, _, T>(balance, &self.breaker, &live)
    }

    /// The same over any tower discovery; see
    /// [`BalanceLayer::balance_plain`](crate::balance::BalanceLayer::balance_plain).
    ///
    /// # Errors
    /// When a setting is out of its range.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build_plain<D, S>(self, discover: D) -> Result<Built<T::Client<K::Service>>, ConfigError>
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
        T: Reporting<C>,
        T::Endpoint<S>: Send + Sync + 'static,
        K: Outermost<Stacked<T::Endpoint<S>, P, C, R, H, W>, C>,
    {
        let Self {
            balance,
            layers,
            breaker,
            telemetry,
        } = self;
        let classify = layers.classify.clone();
        let live = telemetry.start()?;
        let reports = live.clone();
        let balance = balance
            .build()?
            .balance_apart(discover, move |name, service| {
                let tag = || EndpointTag::new(Key::of_name(name));
                (T::endpoint(&reports, service, &classify, tag), None)
            });
        layers.around::<_, _, _, _, T>(balance, &breaker, &live)
    }
}

impl LayerSettings {
    fn check(&self) -> Result<(), ConfigError> {
        if let Some(error) = &self.refused {
            return Err(error.clone());
        }
        if let Some(timeout) = self.timeout {
            let above_zero = Duration::from_nanos(1)..;
            check_range("stack.timeout", timeout, above_zero)?;
        }
        self.retry.build()?;
        self.hedge.build()?;
        Ok(())
    }
}

impl<C: Clone, R: Clone, H: Clone> Layers<C, R, H> {
    /// Adds the layers from the inside out, with the reason for each position.
    fn around<S, P: Policy, W, K: Outermost<Stacked<S, P, C, R, H, W>, C>, T: Reporting<C>>(
        self,
        balance: Balance<S, P, C, W>,
        breaker: &K,
        live: &T::Live,
    ) -> Result<Built<T::Client<K::Service>>, ConfigError> {
        let mut settings = self.settings;
        settings.check()?;
        settings.retry = settings.retry.within(settings.timeout);
        if let Some(seed) = settings.seed {
            settings.retry = settings.retry.seed(seed);
        }
        let mut retry = settings.retry.build()?;
        if let Some(budget) = settings.shared_budget {
            retry = retry.shared_budget(budget);
        }
        let budget = retry.budget().cloned();

        // The balancer is innermost: only there is the endpoint of a request known, so failures of
        // a single endpoint are handled there.
        let handle = balance.handle();

        // The hedge is next, so that it times single attempts: above a retry it would take a
        // backoff for slowness. It also hedges retries, because they may reach an endpoint that
        // hangs. It has a share of its own, and the budget of the retries bounds the sum of both.
        let mut hedge = settings.hedge.build()?;
        if let Some(budget) = &budget {
            hedge = hedge.shared_budget(budget.clone());
        }
        let hedge = hedge.reissue(self.hedge_reissue);
        let service = hedge.classify(self.classify.clone()).layer(balance);

        // A retry handles what failed despite the balancer and the hedge. Each attempt passes
        // through both of them again, and goes to another endpoint. The retry also applies the
        // deadline of all attempts, and drops attempts in flight when it ends.
        let retry = retry.reissue(self.reissue);
        let service = retry.classify(self.classify.clone()).layer(service);

        // The breaker is outermost: it judges the results that callers get. So it opens when
        // retries do not help, and then also stops the load of retries.
        let (service, breaker) = breaker.wrap(service, self.classify.clone())?;

        // What callers get is what is reported, refusals of the breaker too.
        let service = T::client(live, service, self.classify);
        T::follow(live, &handle, breaker.as_ref(), budget.as_ref());
        let handles = Handles {
            balance: handle,
            breaker,
            budget,
        };
        Ok(Built { service, handles })
    }
}
