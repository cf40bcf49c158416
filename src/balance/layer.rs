//! The layer that makes balancers over discoveries.

use std::{fmt, hash::Hash, sync::Arc};

use tower::{Layer, discover::Discover};

use super::{
    builder::BalanceBuilder,
    driver::Driver,
    policy::{DefaultPolicy, Policy},
    service::Balance,
};
use crate::{
    classify::Answers,
    endpoint::{Endpoint, Facts},
    error::{BoxError, ConfigError},
};

/// Makes [`Balance`]s: a [`Layer`] over discovery. See [`builder`](Self::builder) for the settings.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_roster::BoxError> {
/// use std::convert::Infallible;
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_roster::{Instance, balance::BalanceLayer, registry};
///
/// let registry = registry::connect("fixed:10.0.0.1:80,10.0.0.2:80;weight=3")?;
/// let discover = registry.watch("user-service")?.discover(|instance: &Instance| {
///     let address = instance.address.to_string();
///     Ok::<_, Infallible>(tower::service_fn(move |_: ()| {
///         let address = address.clone();
///         async move { Ok::<_, Infallible>(address) }
///     }))
/// });
///
/// let balance = ServiceBuilder::new().layer(BalanceLayer::new()).service(discover);
/// let answer = balance.clone().oneshot(()).await?;
/// assert!(answer.starts_with("10.0.0."));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BalanceLayer<P = DefaultPolicy, C = Answers, W = ()>(BalanceBuilder<P, C, W>);

impl BalanceLayer {
    /// A layer with the defaults: power of two choices by peak EWMA, and every response is a success.
    pub fn new() -> Self {
        Self(BalanceBuilder::new())
    }

    /// Returns a builder with the default settings.
    pub fn builder() -> BalanceBuilder {
        BalanceBuilder::new()
    }
}

impl Default for BalanceLayer {
    fn default() -> Self {
        Self::new()
    }
}

// Here and not in the file of the builder, which must not depend on this one.
impl<P, C, W> BalanceBuilder<P, C, W> {
    /// Builds the layer.
    ///
    /// # Errors
    /// When a setting is out of range.
    pub fn build(self) -> Result<BalanceLayer<P, C, W>, ConfigError> {
        self.config.check()?;
        Ok(BalanceLayer(self))
    }
}

impl<P: Policy, C, W> BalanceLayer<P, C, W> {
    /// Balances over the endpoints of one of this crate's discoveries, with their weights.
    ///
    /// # Panics
    /// When called outside of a tokio runtime, because it starts the task that follows discovery.
    pub fn balance<D, S>(self, discover: D) -> Balance<S, P, C, W>
    where
        D: Discover<Service = Endpoint<S>> + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        S: Send + Sync + 'static,
        C: Send + Sync + 'static,
        W: Send + Sync + 'static,
    {
        self.balance_apart(discover, |_, endpoint: Endpoint<S>| {
            let (service, facts) = endpoint.into_parts();
            (service, Some(facts))
        })
    }

    /// The same over any discovery. `apart` takes an item of it, and its name, apart into the service to call
    /// and the registry's data.
    pub(crate) fn balance_apart<D, S>(
        self,
        discover: D,
        apart: impl Fn(&D::Key, D::Service) -> (S, Option<Arc<Facts>>) + Send + 'static,
    ) -> Balance<S, P, C, W>
    where
        D: Discover + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        D::Service: Send + 'static,
        S: Send + Sync + 'static,
        C: Send + Sync + 'static,
        W: Send + Sync + 'static,
    {
        Balance::new_with(Driver::start(discover, Box::new(apart), self.0))
    }

    /// Balances over any discovery, such as tower's `ServiceList`. The services have equal weights and
    /// belong to no zone. This is so even for this crate's own endpoints; use [`balance`](Self::balance)
    /// for these.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_roster::BoxError> {
    /// use std::{convert::Infallible, time::Duration};
    /// use tower::{ServiceBuilder, ServiceExt, discover::ServiceList};
    /// use tower_roster::balance::BalanceLayer;
    ///
    /// let service = tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) });
    /// let balance = ServiceBuilder::new()
    ///     .timeout(Duration::from_secs(2))
    ///     .service(BalanceLayer::new().balance_plain(ServiceList::new(vec![service, service])));
    /// assert_eq!(balance.oneshot(1).await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// When called outside of a tokio runtime, as for [`balance`](Self::balance).
    pub fn balance_plain<D>(self, discover: D) -> Balance<D::Service, P, C, W>
    where
        D: Discover + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        D::Service: Send + Sync + 'static,
        C: Send + Sync + 'static,
        W: Send + Sync + 'static,
    {
        self.balance_apart(discover, |_, service| (service, None))
    }
}

impl<D, S, P, C, W> Layer<D> for BalanceLayer<P, C, W>
where
    D: Discover<Service = Endpoint<S>> + Send + 'static,
    D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
    D::Error: Into<BoxError> + Send,
    S: Send + Sync + 'static,
    P: Policy + Clone,
    C: Clone + Send + Sync + 'static,
    W: Clone + Send + Sync + 'static,
{
    type Service = Balance<S, P, C, W>;

    fn layer(&self, discover: D) -> Self::Service {
        self.clone().balance(discover)
    }
}

impl_debug!([P: fmt::Debug, C, W] BalanceLayer<P, C, W>: |this| settings = this.0);

impl<S> Balance<S> {
    /// Balances over the endpoints of one of this crate's discoveries, with all defaults. Use
    /// [`BalanceLayer`] to change settings, and [`BalanceLayer::balance_plain`] for other discoveries.
    ///
    /// # Panics
    /// When called outside of a tokio runtime, because it starts the task that follows discovery.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_roster::BoxError> {
    /// use std::convert::Infallible;
    /// use tower::ServiceExt;
    /// use tower_roster::{Instance, balance::Balance, registry};
    ///
    /// let registry = registry::connect("fixed:10.0.0.1:80,10.0.0.2:80")?;
    /// let discover = registry.watch("user-service")?.discover(|_: &Instance| {
    ///     Ok::<_, Infallible>(tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) }))
    /// });
    /// let balance = Balance::new(discover);
    /// assert_eq!(balance.clone().oneshot(1).await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new<D>(discover: D) -> Self
    where
        D: Discover<Service = Endpoint<S>> + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        S: Send + Sync + 'static,
    {
        BalanceLayer::new().balance(discover)
    }
}
