//! The layer that makes balancers over discoveries.

use std::{fmt, hash::Hash};

use tower::{Layer, discover::Discover};

use super::{
    policy::{DefaultPolicy, Policy},
    service::Balance,
    settings::{BalanceSettings, Checked},
    start::start,
    topology::Topology,
};
use crate::{classify::Answers, endpoint::Endpoint, error::BoxError};

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
pub struct BalanceLayer<P = DefaultPolicy, C = Answers, W = ()> {
    policy: P,
    classify: C,
    route: W,
    checked: Checked,
}

impl BalanceLayer {
    /// A layer with the defaults: power of two choices by peak EWMA, and every response is a success.
    pub fn new() -> Self {
        let checked = Checked::new(BalanceSettings::new(), Topology::new(), None);
        Self {
            policy: DefaultPolicy::default(),
            classify: Answers::default(),
            route: (),
            checked: checked.expect("the defaults are in range"),
        }
    }
}

impl Default for BalanceLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<P, C, W> BalanceLayer<P, C, W> {
    pub(super) fn new_with(policy: P, classify: C, route: W, checked: Checked) -> Self {
        Self {
            policy,
            classify,
            route,
            checked,
        }
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
        D::Service: Send,
        S: Send + Sync + 'static,
        C: Send + Sync + 'static,
        W: Send + Sync + 'static,
    {
        let apart = |endpoint: Endpoint<S>| {
            let (service, facts) = endpoint.into_parts();
            (service, Some(facts))
        };
        let (policy, checked) = (self.policy, self.checked);
        let core = start(discover, apart, policy, self.classify, self.route, checked);
        Balance::new_with(core)
    }

    /// Balances over any discovery, such as tower's `ServiceList`. The services have equal weights and
    /// belong to no zone. This is so even for this crate's own endpoints; use [`balance`](Self::balance)
    /// for these.
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
        let apart = |service| (service, None);
        let (policy, checked) = (self.policy, self.checked);
        let core = start(discover, apart, policy, self.classify, self.route, checked);
        Balance::new_with(core)
    }

    /// Returns the same settings as a [`Layer`] over any discovery; see
    /// [`balance_plain`](Self::balance_plain).
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
    ///     .layer(BalanceLayer::new().plain())
    ///     .service(ServiceList::new(vec![service, service]));
    /// assert_eq!(balance.oneshot(1).await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn plain(self) -> PlainBalanceLayer<P, C, W> {
        PlainBalanceLayer { settings: self }
    }
}

impl<D, S, P, C, W> Layer<D> for BalanceLayer<P, C, W>
where
    D: Discover<Service = Endpoint<S>> + Send + 'static,
    D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
    D::Error: Into<BoxError> + Send,
    D::Service: Send,
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

/// A [`Layer`] over any discovery; see [`BalanceLayer::plain`].
#[derive(Clone)]
pub struct PlainBalanceLayer<P = DefaultPolicy, C = Answers, W = ()> {
    settings: BalanceLayer<P, C, W>,
}

impl<D, P, C, W> Layer<D> for PlainBalanceLayer<P, C, W>
where
    D: Discover + Send + 'static,
    D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
    D::Error: Into<BoxError> + Send,
    D::Service: Send + Sync + 'static,
    P: Policy + Clone,
    C: Clone + Send + Sync + 'static,
    W: Clone + Send + Sync + 'static,
{
    type Service = Balance<D::Service, P, C, W>;

    fn layer(&self, discover: D) -> Self::Service {
        self.settings.clone().balance_plain(discover)
    }
}

impl<P: fmt::Debug, C, W> fmt::Debug for PlainBalanceLayer<P, C, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PlainBalanceLayer")
            .field(&self.settings)
            .finish()
    }
}

impl<P: fmt::Debug, C, W> fmt::Debug for BalanceLayer<P, C, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalanceLayer")
            .field("policy", &self.policy)
            .field("checked", &self.checked)
            .finish_non_exhaustive()
    }
}

impl<S> Balance<S> {
    /// Balances over the endpoints of one of this crate's discoveries, with all defaults. Use
    /// [`BalanceLayer`] to change settings, and [`plain`](Self::plain) for other discoveries.
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
        D::Service: Send,
        S: Send + Sync + 'static,
    {
        BalanceLayer::new().balance(discover)
    }

    /// Balances over any discovery, with all defaults; see [`BalanceLayer::balance_plain`].
    ///
    /// # Panics
    /// When called outside of a tokio runtime.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_roster::BoxError> {
    /// use std::convert::Infallible;
    /// use tower::{ServiceExt, discover::ServiceList};
    /// use tower_roster::balance::Balance;
    ///
    /// let service = tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) });
    /// let balance = Balance::plain(ServiceList::new(vec![service, service]));
    /// assert_eq!(balance.clone().oneshot(1).await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn plain<D>(discover: D) -> Self
    where
        D: Discover<Service = S> + Send + 'static,
        D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
        D::Error: Into<BoxError> + Send,
        S: Send + Sync + 'static,
    {
        BalanceLayer::new().balance_plain(discover)
    }
}
